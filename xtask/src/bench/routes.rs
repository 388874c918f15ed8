//! The gateway with ten and with a hundred thousand routes: what finding one among many costs.
//!
//! Both get the same requests, spread over their routes in no order, so that nothing is found because it was found
//! just before. Every route has a path, methods, authentication and a permission, as in service.

use std::{fmt::Write, ops::Range, path::Path};

use super::{
    cases::{ROUTES_FEW, ROUTES_MANY, ROUTES_RATIO_MAX},
    load::{Load, Pace},
    report::{CPU, Goal},
    subject::{Protocol, Stage, Subject},
};

/// The subject to compare with.
pub(super) const FEW: &str = "10-routes";
const MANY: &str = "100000-routes";

/// In several files, as generated configurations come.
const ROUTES_PER_FILE: u32 = 50_000;

pub(super) const GOALS: [Goal; 1] = [Goal { metric: CPU, ratio_max: ROUTES_RATIO_MAX, to: FEW }];

/// The two gateways and what each is asked.
pub(super) fn subjects(stage: &Stage, binary: &Path) -> anyhow::Result<Vec<(Subject, Load)>> {
    let one = |name, routes| {
        let subject = stage.gateway(name, binary, &files(routes))?;
        let load = Load {
            protocol: Protocol::Http1,
            address: subject.address(Protocol::Http1),
            target: "/many/0/x".to_owned(),
            headers: subject.headers.clone(),
            shown: None,
            connections: 64,
            body_bytes: 128,
            pace: Pace::Spread(routes),
        };
        Ok((subject.with_own(name == MANY), load))
    };
    [one(FEW, ROUTES_FEW), one(MANY, ROUTES_MANY)].into_iter().collect()
}

/// So many routes as TOML files.
fn files(routes: u32) -> Vec<String> {
    let starts = (0..routes).step_by(ROUTES_PER_FILE as usize);
    starts.map(|start| sections(start..routes.min(start + ROUTES_PER_FILE))).collect()
}

fn sections(routes: Range<u32>) -> String {
    let mut text = String::new();
    for i in routes {
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "\n[routes.many-{i}]\nhosts = [\"api.example.com\"]\npath = \"/many/{i}/{{id}}\"\nmethods = [\"GET\"]\n\
             upstream = \"files\"\nauth = [\"keys\"]\npermission = \"files:read\"\nlimits = [\"counted\"]\n"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_route_has_a_path_of_its_own() {
        let files = files(ROUTES_PER_FILE + 2);
        assert_eq!(files.len(), 2);
        assert_eq!(files[1].matches("[routes.").count(), 2);
        for i in [ROUTES_PER_FILE, ROUTES_PER_FILE + 1] {
            assert!(files[1].contains(&format!("path = \"/many/{i}/{{id}}\"")), "{}", files[1]);
        }
    }
}
