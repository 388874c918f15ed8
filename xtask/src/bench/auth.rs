//! `bench auth`: what it costs to know who is asking, next to asking nobody, and next to peers that know it as well.
//!
//! All requests are alike (HTTP/1.1, 128 B, 64 clients) but for what they show. Our side runs once for each way, so that
//! each has a worker and a memory of its own. Where every request shows another token there are more of them than the
//! memory holds, so that none is remembered.

mod mint;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, ensure};

use super::{
    Options,
    cpu::Cores,
    gateway_binary,
    lanes::{Lane, Track},
    load::{Generator, Load, Pace},
    own,
    peers::Peer,
    report::{self, ALL, CPU, Goal, Report, print_json},
    subject::{Ground, Protocol, Stage, Subject},
};
use crate::{interrupt, process, project::Project};
use xtask::lab::scratch::Scratch;

const BENCH: &str = "auth";
/// Our side, where nobody has to be known.
const NOBODY: &str = "no-auth";

/// What the gateway includes.
const SECTIONS: &str = include_str!("../../../benches/auth.toml");
const ENVOY: &str = include_str!("../../../benches/peers/envoy-jwt.yaml");
const NGINX: &str = include_str!("../../../benches/peers/nginx-auth.conf");

/// More than a worker's memory holds (`decide::memory`): 32 MiB at a kilobyte and the token each.
const TOKENS: u32 = 60_000;
const KEYS_FEW: u64 = 10;
const KEYS_MANY: u64 = 1_000_000;
/// Of the many, each of so many is shown.
const EVERY: u64 = 100;

/// One comparison.
struct Case {
    name: &'static str,
    /// The subject that the others are compared with.
    baseline: Way,
    own: Way,
    /// What our side may cost.
    ratio_max: Option<f64>,
    peers: &'static [Way],
}

/// Who is asked, and how requests say who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Open,
    FewKeys,
    ManyKeys,
    Token,
    FreshToken,
    Introspection,
    Condition,
    EnvoyToken,
    EnvoyFreshToken,
    NginxAuthRequest,
}

const CASES: [Case; 6] = [
    Case { name: "api-key", baseline: Way::Open, own: Way::FewKeys, ratio_max: Some(1.05), peers: &[] },
    Case {
        name: "api-key-1000000",
        baseline: Way::FewKeys,
        own: Way::ManyKeys,
        ratio_max: Some(1.10),
        peers: &[],
    },
    Case {
        name: "jwt-remembered",
        baseline: Way::Open,
        own: Way::Token,
        ratio_max: Some(1.05),
        peers: &[Way::EnvoyToken, Way::NginxAuthRequest],
    },
    Case {
        name: "jwt-fresh",
        baseline: Way::Open,
        own: Way::FreshToken,
        ratio_max: None,
        peers: &[Way::EnvoyFreshToken],
    },
    Case {
        name: "introspection-cached",
        baseline: Way::Open,
        own: Way::Introspection,
        ratio_max: Some(1.05),
        peers: &[Way::NginxAuthRequest],
    },
    Case { name: "condition", baseline: Way::Token, own: Way::Condition, ratio_max: None, peers: &[] },
];

impl Way {
    /// What reports call it.
    fn name(self) -> &'static str {
        match self {
            Self::Open => NOBODY,
            Self::FewKeys => "10-keys",
            Self::ManyKeys => "1000000-keys",
            Self::Token | Self::FreshToken => "jwt",
            Self::Introspection => "introspection",
            Self::Condition => "when",
            Self::EnvoyToken | Self::EnvoyFreshToken => "envoy-jwt_authn",
            Self::NginxAuthRequest => "nginx-auth_request",
        }
    }

    /// Which route of ours it is.
    fn host(self) -> &'static str {
        match self {
            Self::Open | Self::NginxAuthRequest => "open.example.com",
            Self::FewKeys | Self::ManyKeys => "key.example.com",
            Self::Token | Self::FreshToken | Self::EnvoyToken | Self::EnvoyFreshToken => "jwt.example.com",
            Self::Introspection => "introspection.example.com",
            Self::Condition => "when.example.com",
        }
    }
}

/// Runs all cases that were asked for. A case that fails is told, and the others go on.
pub(super) fn run(project: &Project, options: &Options) -> anyhow::Result<ExitCode> {
    let known = || CASES.map(|case| case.name).join(", ");
    ensure!(CASES.iter().any(|case| options.wants(case.name)), "no such case; there are {}", known());
    let binary = gateway_binary(project, options)?;
    let signer = own::tokens(project)?;
    interrupt::catch()?;
    let cores = Cores::divide()?;
    let generator = Generator::new(cores.load.clone(), None)?;
    let stage = Stage::new(cores.clone(), Ground::loopback())?;
    let wallet = Wallet::new(&binary, &signer)?;
    let mut report = Report { bench: BENCH, ..Report::default() };
    for case in CASES.iter().filter(|case| options.wants(case.name)) {
        let ways: Vec<Way> =
            [case.baseline, case.own].into_iter().chain(case.peers.iter().copied()).collect();
        let mut subjects = Vec::new();
        for way in ways {
            match subject(project, (&stage, &binary, &wallet), way) {
                Ok(subject) => subjects.push((subject.with_own(way == case.own), way)),
                Err(why) => report.skips.extend(report::skips(BENCH, case.name, vec![(way.name(), why)])),
            }
        }
        let lanes = subjects.iter().map(|(subject, way)| Lane::new(subject, wallet.load(subject, *way)));
        let track = Track {
            case: case.name,
            cores: &cores,
            generator: &generator,
            burst_s: options.burst_s(),
            warm_up_s: options.warm_up_s(),
        };
        let (series, failed) = track.measure(options.rounds(), lanes.collect())?;
        report.skips.extend(report::skips(BENCH, case.name, failed));
        let goal = case.ratio_max.map(|ratio_max| Goal { metric: CPU, ratio_max, to: case.baseline.name() });
        report.rows.extend(report::rows(BENCH, case.name, &series, case.baseline.name(), goal.as_slice()));
    }
    if options.json {
        print_json(&report.rows)?;
        print_json(&report.skips)?;
    } else {
        print!("{}", report.table());
    }
    let is_ours =
        |name: &str| CASES.iter().any(|case| name == case.own.name() || name == case.baseline.name());
    let lacks_own = report.skips.iter().any(|skip| skip.subject == ALL || is_ours(skip.subject));
    let is_complete = !report.any_failed() && !lacks_own;
    Ok(if is_complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn subject(
    project: &Project,
    (stage, binary, wallet): (&Stage, &Path, &Wallet),
    way: Way,
) -> anyhow::Result<Subject> {
    let jwks = ("jwks", wallet.jwks.display().to_string());
    match way {
        Way::EnvoyToken | Way::EnvoyFreshToken => {
            let program = Peer::Envoy.program(project)?;
            stage.peer_as(Peer::Envoy, &program, way.name(), Some(("envoy.yaml", ENVOY)), &[jwks])
        }
        Way::NginxAuthRequest => {
            let program = Peer::Nginx.program(project)?;
            stage.peer_as(Peer::Nginx, &program, way.name(), Some(("nginx.conf", NGINX)), &[])
        }
        _ => {
            let keys = if way == Way::ManyKeys { &wallet.many_keys } else { &wallet.few_keys };
            let own = [
                jwks,
                ("keys", keys.store.display().to_string()),
                ("secret", wallet.secret.display().to_string()),
                ("upstream", stage.upstream().to_string()),
            ];
            let own = own.map(|(name, value)| (name.to_owned(), value));
            stage.gateway(way.name(), binary, &[super::subject::fill(SECTIONS, &own)?])
        }
    }
}

/// All that requests show.
struct Wallet {
    few_keys: Keys,
    many_keys: Keys,
    jwks: PathBuf,
    /// One token, and many.
    token: PathBuf,
    tokens: PathBuf,
    opaque: PathBuf,
    secret: PathBuf,
    _scratch: Scratch,
}

struct Keys {
    store: PathBuf,
    /// A header line each.
    shown: PathBuf,
}

impl Wallet {
    fn new(binary: &Path, signer: &Path) -> anyhow::Result<Self> {
        let scratch = Scratch::new()?;
        let at = |name: &str| scratch.path().join(name);
        let keys = |name: &str, count, every| {
            let keys = Keys { store: at(&format!("{name}.db")), shown: at(&format!("{name}.keys")) };
            eprintln!("making {count} API keys");
            mint::store(binary, &keys.store, &keys.shown, (count, every)).map(|()| keys)
        };
        let (few_keys, many_keys) = (keys("few", KEYS_FEW, 1)?, keys("many", KEYS_MANY, EVERY)?);
        let (jwks, tokens) = (at("jwks.json"), at("tokens"));
        eprintln!("signing {TOKENS} tokens");
        let mut command = Command::new(signer);
        command.arg(TOKENS.to_string()).arg(&jwks).arg(&tokens);
        process::quiet(&mut command)?;
        let all = fs::read_to_string(&tokens)?;
        let first = all.lines().next().context("no token was signed")?;
        let token = scratch.write("token", format!("{first}\n"))?;
        let opaque = scratch.write("opaque", "Authorization: Bearer 2YotnFZFEjr1zCsicMWpAA\n")?;
        let secret = scratch.write("introspection.secret", "a secret that nobody checks here")?;
        set_private(&secret)?;
        Ok(Self { few_keys, many_keys, jwks, token, tokens, opaque, secret, _scratch: scratch })
    }

    /// What a subject is asked.
    fn load(&self, subject: &Subject, way: Way) -> Load {
        let shown = match way {
            Way::Open | Way::NginxAuthRequest => None,
            Way::FewKeys => Some(&self.few_keys.shown),
            Way::ManyKeys => Some(&self.many_keys.shown),
            Way::Token | Way::Condition | Way::EnvoyToken => Some(&self.token),
            Way::FreshToken | Way::EnvoyFreshToken => Some(&self.tokens),
            Way::Introspection => Some(&self.opaque),
        };
        Load {
            protocol: Protocol::Http1,
            address: subject.address(Protocol::Http1),
            target: "/files/128".to_owned(),
            headers: vec![format!("Host: {}", way.host())],
            shown: shown.cloned(),
            connections: 64,
            body_bytes: 128,
            pace: Pace::Closed,
        }
    }
}

fn set_private(file: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::set_permissions(file, fs::Permissions::from_mode(0o600))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_of_ours_has_a_route() {
        for case in CASES {
            for way in [case.baseline, case.own] {
                assert!(SECTIONS.contains(&format!("hosts = [\"{}\"]", way.host())), "{way:?}");
            }
        }
    }

    #[test]
    fn who_is_compared_in_a_case_can_be_told_apart() {
        for case in CASES {
            let mut names: Vec<_> =
                [case.baseline, case.own].iter().chain(case.peers).map(|way| way.name()).collect();
            names.sort_unstable();
            let all = names.len();
            names.dedup();
            assert_eq!(names.len(), all, "{}", case.name);
        }
    }
}
