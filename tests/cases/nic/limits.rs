//! Limits per source at the NIC: changed while the filter runs, and off when nobody watches over them.

use xtask::lab::{
    client::{ClientError, Request},
    gateway::names,
    netns::{GUESSER_V4, HONEST_V4},
    wait,
};

use super::stage::{SILENCE, Sections, Stage};
use crate::support::TIME_MAX;

/// Connections in a row that a low limit would not let through.
const MANY: usize = 10;

/// Whether so many fresh connections from one source all hear something.
fn many_come_through(stage: &Stage) -> bool {
    (0..MANY).all(|_| !matches!(stage.ask(GUESSER_V4.into(), SILENCE), Err(ClientError::TimedOut)))
}

#[track_caller]
fn check_live(test: &str, limit: &str, reason: &str) {
    let off = "syns = \"off\"\npackets = \"off\"";
    let sections = Sections { prefilter: off, ..Sections::default() };
    let Some(mut stage) = Stage::set(test, sections) else { return };
    let mut before = stage.connect(HONEST_V4[0].into(), TIME_MAX).unwrap();
    assert!(many_come_through(&stage));

    let low = format!("{limit} = {{ rate = \"1/s\", burst = 3 }}\n{}", off.replace(limit, "# "));
    stage.reload(Sections { prefilter: &low, ..sections });
    let limited = wait::until(TIME_MAX, || (!many_come_through(&stage)).then_some(()));
    assert!(limited.is_some(), "the new limit has no effect");
    let metrics = stage.gateway().metrics().unwrap();
    let dropped = metrics.sum(names::NIC_PACKETS, &[("reason", reason), ("verdict", "drop")]);
    assert!(dropped > 0.0);

    stage.reload(sections);
    let free = wait::until(TIME_MAX, || many_come_through(&stage).then_some(()));
    assert!(free.is_some(), "the limit is still on");
    assert_eq!(before.request(&Request::get("/open")).unwrap().status, 200, "no connection was lost");
}

#[test]
fn a_reload_changes_the_limit_of_syns() {
    check_live("nic::a_reload_changes_the_limit_of_syns", "syns", "syn_rate");
}

#[test]
fn a_reload_changes_the_limit_of_packets() {
    check_live("nic::a_reload_changes_the_limit_of_packets", "packets", "packet_rate");
}

#[test]
fn without_user_space_limits_go_off_and_blocks_stay() {
    let test = "nic::without_user_space_limits_go_off_and_blocks_stay";
    let sections = Sections { prefilter: "syns = { rate = \"1/s\", burst = 3 }", ..Sections::default() };
    let Some(mut stage) = Stage::set(test, sections) else { return };
    let blocked = HONEST_V4[0].into();
    stage.told(&["bans", "add", &HONEST_V4[0].to_string(), "--for", "10m"]);
    stage.take_gateway().kill().unwrap();
    assert!(!many_come_through(&stage), "the limits hold for a restart's time");
    let free = wait::until(TIME_MAX, || many_come_through(&stage).then_some(()));
    assert!(free.is_some(), "limits that nobody can change must not hold for ever");
    stage.check_dropped(blocked);
}
