//! As many routes as a large site has: they load, and each is found.

use std::{fmt::Write as _, fs};

use xtask::lab::{gateway::names, wait};

use crate::support::{Edge, HELLO, TIME_MAX, answering};

const ROUTES: u32 = 100_000;

#[test]
fn among_a_hundred_thousand_routes_the_right_one_is_found() {
    let upstream = answering(HELLO);
    let mut sections = "[upstreams.app]\nservers = [\"{upstream}\"]\nhealth = \"off\"\n".to_owned();
    for i in 0..ROUTES {
        write!(
            sections,
            "[routes.many-{i}]\npath = \"/many/{i}/{{id}}\"\npublic = true\nupstream = \"app\"\n"
        )
        .unwrap();
    }
    let mut edge = Edge::start(upstream.address(), &sections);
    let checked = edge.gateway.command(&[names::CHECK]).unwrap();
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(said.contains("ok (1 listeners, 100000 routes, 1 upstreams)"), "{said}");

    for i in [0, 7, 50_000, ROUTES - 1] {
        assert_eq!(edge.get(&format!("/many/{i}/x"), &[]).status, 200, "{i}");
    }
    for target in [format!("/many/{ROUTES}/x"), "/many/7".to_owned(), "/many/7/x/y".to_owned()] {
        assert_eq!(edge.get(&target, &[]).status, 404, "{target}");
    }

    // An answer is counted when it has been sent, which may be after it was received.
    let metrics = wait::until(TIME_MAX, || {
        let metrics = edge.gateway.metrics().unwrap();
        (metrics.sum(names::RESPONSES, &[]) > 6.5).then_some(metrics)
    });
    let by_route =
        metrics.expect("all answers are counted").sum_by("portcullis_requests_total", "route", &[]);
    let told: Vec<&str> = by_route.keys().map(String::as_str).collect();
    assert_eq!(told, ["many-0", "many-50000", "many-7", "many-99999"], "nobody asked for the others");

    let config = fs::read_to_string(edge.gateway.config_file()).unwrap();
    edge.gateway.write_config(&config.replace("\"/many/7/", "\"/moved/7/")).unwrap();
    edge.gateway.process().signal(libc::SIGHUP).unwrap();
    let moved = wait::until(TIME_MAX, || (edge.get("/moved/7/x", &[]).status == 200).then_some(()));
    assert!(moved.is_some(), "{}", edge.gateway.output());
    assert_eq!(edge.get("/many/7/x", &[]).status, 404);
    assert_eq!(edge.get("/many/8/x", &[]).status, 200);
}
