//! Who is never blocked, whatever arrives in their name.

use std::net::IpAddr;

use xtask::lab::netns::{GUESSER_V4, HONEST_V4};

use super::stage::{Sections, Stage, get};

const COUNT: usize = 5;
const UNAUTHORIZED: &str = "unauthorized = { count = 5, within = \"1m\" }";

/// Far more offences than a block takes.
#[track_caller]
fn offend(stage: &Stage, source: IpAddr, headers: &[(&str, &str)]) {
    let headers = [&[("x-api-key", "wrong")], headers].concat();
    let mut connection = None;
    for _ in 0..3 * COUNT {
        stage.offend(&mut connection, source, &get("/keyed", &headers)).unwrap();
    }
}

/// One who is not protected is blocked; offences are counted in order, so those before had their turn.
#[track_caller]
fn check_only_the_guesser_is_blocked(stage: &Stage) {
    stage.offend_until_dropped(GUESSER_V4.into(), &get("/keyed", &[("x-api-key", "wrong")]));
    assert_eq!(stage.blocked(), [format!("{GUESSER_V4}/32")]);
}

#[test]
fn nobody_is_blocked_for_what_a_header_says() {
    let test = "nic::nobody_is_blocked_for_what_a_header_says";
    let [proxy, named, ..] = HONEST_V4;
    let listener = format!("trusted_proxies = [\"{proxy}\"]");
    let sections = Sections { escalation: UNAUTHORIZED, listener: &listener, ..Sections::default() };
    let Some(stage) = Stage::set(test, sections) else { return };
    let names = [("x-forwarded-for", &*named.to_string())];
    offend(&stage, proxy.into(), &names);
    check_only_the_guesser_is_blocked(&stage);
    stage.check_served(named.into());
    stage.check_served(proxy.into());
}

#[test]
fn one_who_is_no_proxy_cannot_put_it_on_another() {
    let test = "nic::one_who_is_no_proxy_cannot_put_it_on_another";
    let sections = Sections { escalation: UNAUTHORIZED, ..Sections::default() };
    let Some(stage) = Stage::set(test, sections) else { return };
    let victim = HONEST_V4[0];
    let headers = [("x-api-key", "wrong"), ("x-forwarded-for", &*victim.to_string())];
    stage.offend_until_dropped(GUESSER_V4.into(), &get("/keyed", &headers));
    assert_eq!(stage.blocked(), [format!("{GUESSER_V4}/32")]);
    stage.check_served(victim.into());
}

#[test]
fn proxies_servers_and_exempt_and_allowed_addresses_are_not_blocked() {
    let test = "nic::proxies_servers_and_exempt_and_allowed_addresses_are_not_blocked";
    let [proxy, server, exempt, allowed] = HONEST_V4;
    let sections = Sections {
        prefilter: &format!("allow = [\"{allowed}\"]"),
        escalation: &format!("exempt = [\"{exempt}/32\"]\n{UNAUTHORIZED}"),
        listener: &format!("trusted_proxies = [\"{proxy}\"]"),
        servers: &[server.into()],
    };
    let Some(stage) = Stage::set(test, sections) else { return };
    for source in HONEST_V4 {
        offend(&stage, source.into(), &[]);
    }
    check_only_the_guesser_is_blocked(&stage);
    for source in HONEST_V4 {
        stage.check_served(source.into());
    }
}

#[test]
fn allow_beats_every_block() {
    let test = "nic::allow_beats_every_block";
    let [allowed, other, third, ..] = HONEST_V4;
    let prefilter = format!("allow = [\"{allowed}\"]\nblock = [\"{allowed}\", \"{other}\"]");
    let sections = Sections { prefilter: &prefilter, ..Sections::default() };
    let Some(stage) = Stage::set(test, sections) else { return };
    stage.check_served(allowed.into());
    stage.check_dropped(other.into());

    let refusal = stage.run(&["bans", "add", &allowed.to_string(), "--for", "10s"]);
    let message = String::from_utf8_lossy(&refusal.stderr).into_owned();
    assert!(!refusal.status.success() && message.contains("prefilter.allow"), "{message}");

    stage.told(&["bans", "add", "192.0.2.0/24", "--for", "10m"]);
    stage.check_dropped(third.into());
    stage.check_served(allowed.into());
    let why = stage.told(&["bans", "why", &allowed.to_string()]);
    assert!(why.contains(&format!("allowed by {allowed}/32")), "{why}");
    assert!(why.contains(&format!("blocked: {allowed}/32 for")) && why.contains("192.0.2.0/24"), "{why}");
}
