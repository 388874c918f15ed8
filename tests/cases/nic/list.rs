//! The block list by hand: the configuration's part and the operator's.

use std::net::IpAddr;

use xtask::lab::{
    self,
    gateway::names,
    netns::{GUESSER_V4, HONEST_V4, HONEST_V6, ipv6},
};

use super::stage::{Sections, Stage};

#[test]
fn the_configuration_blocks_prefixes() {
    let test = "nic::the_configuration_blocks_prefixes";
    let prefilter = "block = [\"192.0.2.12/31\", \"2001:db8:0:12::/64\"]";
    let Some(mut stage) = Stage::set(test, Sections { prefilter, ..Sections::default() }) else { return };
    let [below, first, last, above] = HONEST_V4;
    for blocked in [first, last] {
        stage.check_dropped(blocked.into());
    }
    for served in [below, above] {
        stage.check_served(served.into());
    }
    if ipv6() {
        stage.check_served(HONEST_V6[0].into());
        stage.check_dropped(HONEST_V6[1].into());
    }
    let refusal = stage.run(&["bans", "del", "192.0.2.12/31"]);
    let message = String::from_utf8_lossy(&refusal.stderr).into_owned();
    assert!(!refusal.status.success() && message.contains("prefilter.block"), "{message}");

    stage.reload(Sections::default());
    stage.await_served(first.into());
    assert_eq!(stage.blocked(), [""; 0]);
}

#[track_caller]
fn check_by_hand(stage: &Stage, source: IpAddr, neighbour: IpAddr) {
    let name = source.to_string();
    stage.told(&["bans", "add", &name, "--for", "10m"]);
    stage.check_dropped(source);
    stage.check_served(neighbour);
    let why = stage.told(&["bans", "why", &name]);
    assert!(why.contains("manual (operator)") && why.contains("are dropped"), "{why}");
    let whole = if source.is_ipv4() { 32 } else { 128 };
    assert_eq!(stage.blocked(), [format!("{source}/{whole}")]);

    stage.told(&["bans", "del", &name]);
    stage.check_served(source);
    let why = stage.told(&["bans", "why", &name]);
    assert!(why.contains("pass"), "{why}");
    assert!(!stage.run(&["bans", "del", &name]).status.success(), "there is nothing left to remove");
}

#[test]
fn an_operator_adds_and_removes_blocks() {
    let test = "nic::an_operator_adds_and_removes_blocks";
    let Some(stage) = Stage::set(test, Sections::default()) else { return };
    check_by_hand(&stage, GUESSER_V4.into(), HONEST_V4[0].into());
    stage.told(&["bans", "add", &GUESSER_V4.to_string(), "--for", "1s"]);
    stage.await_served(GUESSER_V4.into());
}

#[test]
fn an_operator_adds_and_removes_ipv6_blocks() {
    let test = "nic::an_operator_adds_and_removes_ipv6_blocks";
    if !ipv6() {
        return lab::skip(test, "this kernel has no IPv6");
    }
    let Some(stage) = Stage::set(test, Sections::default()) else { return };
    check_by_hand(&stage, HONEST_V6[0].into(), HONEST_V6[1].into());
}

#[test]
fn a_dry_run_of_the_filter_counts_and_drops_nothing() {
    let test = "nic::a_dry_run_of_the_filter_counts_and_drops_nothing";
    let blocked = HONEST_V4[1];
    let prefilter = format!("dry_run = true\nblock = [\"{blocked}\"]");
    let sections = Sections { prefilter: &prefilter, ..Sections::default() };
    let Some(mut stage) = Stage::set(test, sections) else { return };
    stage.check_served(blocked.into());
    let metrics = stage.gateway().metrics().unwrap();
    let passed = metrics.sum(names::NIC_PACKETS, &[("reason", "blocked_prefix"), ("verdict", "pass")]);
    assert!(passed > 0.0);
    let dropped = metrics.sum_by(names::NIC_PACKETS, "reason", &[("verdict", names::VERDICT_DROP)]);
    assert!(dropped.is_empty(), "{dropped:?}");
}
