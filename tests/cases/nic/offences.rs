//! From an offence to the drop, and to the end of the block.

use std::net::IpAddr;

use xtask::lab::{
    self,
    netns::{GUESSER_V4, GUESSER_V6, HONEST_V4, HONEST_V6, WORLD_INTERFACE, ipv6},
    wait,
};

use super::stage::{Background, SILENCE, Sections, Stage, get};
use crate::support::TIME_MAX;

const COUNT: usize = 5;
const GARBAGE: &[u8] = b"\x00\x01garbage\r\n\r\n";
/// The goal between the request that crossed the line and the first packet that was dropped for it.
const FIRST_DROP_MS_MAX: f64 = 100.0;

fn guess() -> Vec<u8> {
    get("/keyed", &[("x-api-key", "wrong")])
}

/// An offender is dropped at the NIC while everybody else is served all the time.
#[track_caller]
fn check(test: &str, reason: &str, route: &str, offence: &[u8]) {
    let escalation = format!("block_for = \"10m\"\n{reason} = {{ count = {COUNT}, within = \"1m\" }}");
    let Some(mut stage) = Stage::set(test, Sections { escalation: &escalation, ..Sections::default() })
    else {
        return;
    };
    let mut sources: Vec<IpAddr> = HONEST_V4.map(IpAddr::from).to_vec();
    if ipv6() {
        sources.extend(HONEST_V6.map(IpAddr::from));
    }
    let honest = stage.honest(&sources);
    let answered = stage.offend_until_dropped(GUESSER_V4.into(), offence);
    assert!(answered >= COUNT, "blocked after {answered} answers");
    stage.check_dropped(GUESSER_V4.into());
    honest.into_iter().for_each(Background::check);

    let ban = stage.ban(&format!("{GUESSER_V4}/32"));
    assert_eq!((ban.reason.as_str(), ban.origin.as_deref()), (reason, Some("escalation")));
    assert_eq!((ban.route.as_deref(), ban.strikes), (Some(route), 1));
    assert!(ban.request_id.is_some_and(|id| !id.is_empty()));
    assert!(ban.drops > 0 && ban.expires_in_ms.is_some());
    let first_drop_ms = ban.offence_to_first_drop_ms.unwrap();
    assert!(first_drop_ms < FIRST_DROP_MS_MAX, "the first drop came after {first_drop_ms} ms");
}

#[test]
fn a_guesser_is_dropped_while_others_are_served() {
    let test = "nic::a_guesser_is_dropped_while_others_are_served";
    check(test, "unauthorized", "keyed", &guess());
}

#[test]
fn one_who_ignores_429_is_dropped_while_others_are_served() {
    let test = "nic::one_who_ignores_429_is_dropped_while_others_are_served";
    check(test, "limited", "limited", &get("/limited", &[]));
}

#[test]
fn one_who_sends_garbage_is_dropped_while_others_are_served() {
    let test = "nic::one_who_sends_garbage_is_dropped_while_others_are_served";
    check(test, "malformed", "", GARBAGE);
}

#[test]
fn an_ipv6_offender_is_blocked_with_its_64() {
    let test = "nic::an_ipv6_offender_is_blocked_with_its_64";
    if !ipv6() {
        return lab::skip(test, "this kernel has no IPv6");
    }
    let escalation = "unauthorized = { count = 5, within = \"1m\" }";
    let Some(mut stage) = Stage::set(test, Sections { escalation, ..Sections::default() }) else { return };
    let neighbour: IpAddr = "2001:db8:0:66:1:2:3:4".parse().unwrap();
    stage.lab.world.add_address(WORLD_INTERFACE, neighbour).unwrap();
    stage.check_served(neighbour);
    stage.offend_until_dropped(GUESSER_V6.into(), &guess());
    assert_eq!(stage.ban("2001:db8:0:66::/64").reason, "unauthorized");
    stage.check_dropped(neighbour);
    stage.check_served(HONEST_V6[0].into());
    stage.check_served(GUESSER_V4.into());
}

#[test]
fn a_block_ends_by_itself_and_the_next_one_lasts_twice_as_long() {
    let test = "nic::a_block_ends_by_itself_and_the_next_one_lasts_twice_as_long";
    let escalation = "block_for = \"3s\"\nunauthorized = { count = 5, within = \"1m\" }";
    let Some(mut stage) = Stage::set(test, Sections { escalation, ..Sections::default() }) else { return };
    let (source, name) = (GUESSER_V4.into(), format!("{GUESSER_V4}/32"));
    for (strikes, lasts_ms) in [(1, 3000.0), (2, 6000.0)] {
        stage.offend_until_dropped(source, &guess());
        let ban = stage.ban(&name);
        assert_eq!(ban.strikes, strikes);
        let left_ms = ban.expires_in_ms.unwrap();
        assert!(lasts_ms / 2.0 < left_ms && left_ms <= lasts_ms, "{left_ms} of {lasts_ms} ms are left");
        stage.await_served(source);
        assert_eq!(stage.blocked(), [""; 0]);
    }
}

#[test]
fn one_whom_the_operator_lets_go_is_blocked_again_when_it_goes_on() {
    let test = "nic::one_whom_the_operator_lets_go_is_blocked_again_when_it_goes_on";
    let escalation = "block_for = \"10m\"\nunauthorized = { count = 5, within = \"1m\" }";
    let Some(stage) = Stage::set(test, Sections { escalation, ..Sections::default() }) else { return };
    stage.offend_until_dropped(GUESSER_V4.into(), &guess());
    stage.told(&["bans", "del", &GUESSER_V4.to_string()]);
    stage.await_served(GUESSER_V4.into());
    stage.offend_until_dropped(GUESSER_V4.into(), &guess());
    stage.check_dropped(GUESSER_V4.into());
}

#[test]
fn a_shared_address_is_slowed_down_before_it_is_shut_out() {
    let test = "nic::a_shared_address_is_slowed_down_before_it_is_shut_out";
    // So fast that it is not felt: how the filter slows down has tests of its own.
    let escalation = "block_for = \"10m\"\nthrottle = { rate = \"100000/s\", burst = 60_000 }\n\
                      unauthorized = { count = 5, within = \"1m\" }";
    let Some(mut stage) = Stage::set(test, Sections { escalation, ..Sections::default() }) else { return };
    let (shared, name) = (GUESSER_V4.into(), format!("{GUESSER_V4}/32"));
    stage.check_keyed(shared);
    let mut connection = None;
    for _ in 0..COUNT {
        stage.offend(&mut connection, shared, &guess()).unwrap();
    }
    let slowed = wait::until(TIME_MAX, || {
        let metrics = stage.gateway().metrics().unwrap();
        (metrics.sum("portcullis_throttles_total", &[("reason", "unauthorized")]) > 0.0).then_some(())
    });
    assert!(slowed.is_some(), "{}", stage.gateway().output());
    let list = stage.told(&["bans", "list"]);
    assert!(list.contains(&name) && list.contains("throttle"), "{list}");
    stage.check_keyed(shared);
    // One who goes on is shut out, whoever else is there; what was under way does not count.
    stage.offend_until_dropped_within(shared, &guess(), 100_000);
    assert_eq!(stage.ban(&name).strikes, 2);
    stage.check_dropped(shared);
}

#[test]
fn a_dry_run_of_the_escalation_says_whom_it_would_block() {
    let test = "nic::a_dry_run_of_the_escalation_says_whom_it_would_block";
    let escalation = "dry_run = true\nunauthorized = { count = 5, within = \"1m\" }";
    let Some(mut stage) = Stage::set(test, Sections { escalation, ..Sections::default() }) else { return };
    let mut connection = None;
    for _ in 0..3 * COUNT {
        stage.offend(&mut connection, GUESSER_V4.into(), &guess()).unwrap();
    }
    let told = format!("would block {GUESSER_V4}/32");
    let said = wait::until(TIME_MAX, || stage.gateway().output().contains(&told).then_some(()));
    assert!(said.is_some(), "{}", stage.gateway().output());
    stage.offend(&mut connection, GUESSER_V4.into(), &guess()).unwrap();
    assert_eq!(stage.blocked(), [""; 0]);
    assert!(stage.ask(GUESSER_V4.into(), SILENCE).is_ok());
}
