//! Under attack: it is seen, told, and known sources pass before strangers.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use portcullis::nic;
use xtask::lab::{
    self,
    client::{ClientError, Connection, Request},
    flood,
    frames::Segment,
    netns::{EDGE_V4, EDGE_V6, HONEST_V4, WORLD_INTERFACE, ipv6},
    wait,
};

use super::stage::{PORT, SILENCE, Sections, Stage};
use crate::support::TIME_MAX;

/// The limiter has so few cells that strangers fill all of them; a source may open ten connections a second.
const SYNS: &str = "syns = { rate = \"10/s\", burst = 20 }\npackets = \"off\"";
const SIGNS: &str = "[under_attack]\nelevated = { drops = \"100/s\" }\nattack = { drops = \"1000/s\" }\n\
                     calm_after = \"1s\"\n";

/// SYNs of so many forged sources.
fn syns(target: SocketAddr, sources: u32) -> Vec<Vec<u8>> {
    flood::from_spoofed(target, sources, sources, Segment::syn).unwrap()
}

/// Starts a flood of forged SYNs, IPv6 since that has sources enough for every cell of the limiter.
fn fill_every_cell(stage: &Stage) -> flood::Running {
    let flood = flood::Flood {
        interface: WORLD_INTERFACE.to_owned(),
        frames: syns((EDGE_V6, PORT).into(), 4096),
        count_max: u64::MAX,
        rate_per_s: 50_000,
        time_max: Duration::from_mins(1),
    };
    flood.start(&stage.lab.world.place()).unwrap()
}

#[track_caller]
fn await_shut_out(stage: &Stage, source: IpAddr) {
    let shut_out = wait::until(TIME_MAX, || {
        matches!(stage.ask(source, SILENCE), Err(ClientError::TimedOut)).then_some(())
    });
    assert!(shut_out.is_some(), "the flood uses up what strangers have");
}

#[track_caller]
fn await_pressure(stage: &mut Stage, expected: u8) {
    let reached = wait::until(TIME_MAX, || {
        let metrics = stage.gateway().metrics().unwrap();
        (metrics.sum("portcullis_under_attack", &[]).to_string() == expected.to_string()).then_some(())
    });
    assert!(reached.is_some(), "{expected}: {}", stage.gateway().output());
}

#[test]
fn a_known_source_is_served_through_a_flood_that_shuts_strangers_out() {
    let test = "nic::a_known_source_is_served_through_a_flood_that_shuts_strangers_out";
    if !ipv6() {
        return lab::skip(test, "this kernel has no IPv6");
    }
    let sections = Sections { prefilter: SYNS, escalation: SIGNS, ..Sections::default() };
    let Some(mut stage) = Stage::set(test, sections) else { return };
    let [known, stranger, ..] = HONEST_V4.map(IpAddr::from);
    stage.check_keyed(known);
    await_pressure(&mut stage, 0);
    let running = fill_every_cell(&stage);
    await_pressure(&mut stage, 2);
    let health = stage.gateway().admin_get("/health").unwrap().text();
    assert!(health.contains("\"pressure\":\"attack\""), "{health}");
    await_shut_out(&stage, stranger);
    let metrics = stage.gateway().metrics().unwrap();
    assert_eq!(metrics.sum("portcullis_known_sources", &[]).to_string(), "1");
    // Each on a connection of its own, so that each needs a SYN to pass.
    for _ in 0..5 {
        stage.check_served(known);
    }
    running.stop().unwrap();
    await_pressure(&mut stage, 0);
    let output = stage.gateway().output();
    assert!(output.contains("attack: ") && output.contains("calm: "), "{output}");
    stage.await_served(stranger);
}

#[test]
fn who_has_long_been_good_on_a_connection_is_no_stranger() {
    let test = "nic::who_has_long_been_good_on_a_connection_is_no_stranger";
    if !ipv6() {
        return lab::skip(test, "this kernel has no IPv6");
    }
    let signs = format!(
        "not_found = \"off\"\n{SIGNS}long_lived = \"1s\"\n[log]\naccess = {{ file = \"access.jsonl\" }}\n"
    );
    let sections = Sections { prefilter: SYNS, escalation: &signs, ..Sections::default() };
    let Some(mut stage) = Stage::set(test, sections) else { return };
    let [patient, offender, late, ..] = HONEST_V4.map(IpAddr::from);
    let [mut good, mut bad] = [patient, offender].map(|source| stage.connect(source, TIME_MAX).unwrap());
    let status =
        |connection: &mut Connection, target: &str| connection.request(&Request::get(target)).unwrap().status;
    let begun_ns = nic::monotonic_ns();
    let lived = wait::until(TIME_MAX, || {
        assert_eq!((status(&mut good, "/open"), status(&mut bad, "/nothing")), (200, 404));
        (nic::monotonic_ns() > begun_ns + 3_000_000_000).then_some(())
    });
    assert!(lived.is_some());
    assert_eq!(status(&mut bad, "/open"), 200);
    let running = fill_every_cell(&stage);
    await_pressure(&mut stage, 2);
    await_shut_out(&stage, offender);
    await_shut_out(&stage, late);
    for _ in 0..5 {
        stage.check_served(patient);
    }
    // Nor is any of the forged sources known, however many SYNs there are of it.
    let metrics = stage.gateway().metrics().unwrap();
    assert_eq!(metrics.sum("portcullis_known_sources", &[]).to_string(), "1");
    running.stop().unwrap();
    await_pressure(&mut stage, 0);
    stage.await_served(offender);
    for state in ["calm", "attack"] {
        let record = format!("\"tls\":false,\"pressure\":\"{state}\"");
        assert!(stage.await_in_file("access.jsonl", &record), "no record says {state}");
    }
}

#[test]
fn strangers_are_shed_first() {
    let test = "nic::strangers_are_shed_first";
    let signs = format!("{SIGNS}strangers = \"0%\"\n");
    let sections = Sections {
        prefilter: "syns = \"off\"\npackets = \"off\"\nblock = [\"198.51.100.0/24\", \"203.0.113.0/24\"]",
        escalation: &signs,
        ..Sections::default()
    };
    let Some(mut stage) = Stage::set(test, sections) else { return };
    let [known, stranger, ..] = HONEST_V4.map(IpAddr::from);
    stage.check_keyed(known);
    stage.check_served(stranger);
    let running = flood::Flood {
        interface: WORLD_INTERFACE.to_owned(),
        frames: syns((EDGE_V4, PORT).into(), 256),
        count_max: u64::MAX,
        rate_per_s: 10_000,
        time_max: Duration::from_mins(1),
    }
    .start(&stage.lab.world.place())
    .unwrap();
    await_pressure(&mut stage, 2);
    let answer = stage.ask(stranger, TIME_MAX);
    assert!(matches!(answer, Err(ref error) if !matches!(error, ClientError::TimedOut)), "{answer:?}");
    stage.check_served(known);
    let metrics = stage.gateway().metrics().unwrap();
    assert!(metrics.sum("portcullis_bounds_hit_total", &[("bound", "strangers")]) >= 1.0);
    running.stop().unwrap();
    await_pressure(&mut stage, 0);
    stage.check_served(stranger);
}
