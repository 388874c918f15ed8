//! The filter outlives its gateway: killed, ended, replaced, in the way of another.

use std::path::Path;

use aya::programs::links::{FdLink, PinnedLink};
use xtask::lab::{
    netns::{GUESSER_V4, HONEST_V4},
    scratch::PinDir,
    wait,
};

use super::stage::{Sections, Stage, get};
use crate::support::TIME_MAX;

const SECTIONS: Sections<'_> = Sections {
    prefilter: "",
    escalation: "block_for = \"10m\"\nunauthorized = { count = 5, within = \"1m\" }",
    listener: "",
    servers: &[],
};

fn guess() -> Vec<u8> {
    get("/keyed", &[("x-api-key", "wrong")])
}

/// The kernel's id of the only pinned link.
fn link_id(pin_dir: &Path) -> u32 {
    let versions = std::fs::read_dir(pin_dir).unwrap().flatten();
    let pins = versions.flat_map(|version| std::fs::read_dir(version.path()).unwrap().flatten());
    let links: Vec<_> = pins.filter(|pin| pin.file_name().to_string_lossy().starts_with("link")).collect();
    assert_eq!(links.len(), 1, "{links:?}");
    FdLink::from(PinnedLink::from_pin(links[0].path()).unwrap()).info().unwrap().id()
}

#[test]
fn a_killed_gateways_blocks_hold_until_the_next_one_takes_over() {
    let test = "nic::a_killed_gateways_blocks_hold_until_the_next_one_takes_over";
    let Some(mut stage) = Stage::set(test, SECTIONS) else { return };
    let (blocked, other) = (GUESSER_V4.into(), HONEST_V4[0].into());
    stage.offend_until_dropped(blocked, &guess());
    let before = stage.ban(&format!("{GUESSER_V4}/32"));
    let link = link_id(&stage.pin_dir());
    let silent = stage.never_answered(blocked);

    stage.take_gateway().kill().unwrap();
    stage.check_dropped(blocked);
    stage.check_refused(other);
    assert_eq!(stage.blocked(), [format!("{GUESSER_V4}/32")], "the list can be read without a gateway");

    stage.start(SECTIONS);
    stage.check_served(other);
    stage.check_dropped(blocked);
    silent.check();
    assert_eq!(link_id(&stage.pin_dir()), link, "attached all the time");
    let after = stage.ban(&format!("{GUESSER_V4}/32"));
    assert_eq!((after.route, after.request_id), (before.route, before.request_id));
    assert!(after.drops > before.drops);
}

#[test]
fn a_restart_wipes_nobodys_slate() {
    let test = "nic::a_restart_wipes_nobodys_slate";
    let escalation = "block_for = \"2s\"\nunauthorized = { count = 5, within = \"1m\" }";
    let sections = Sections { escalation, ..Sections::default() };
    let Some(mut stage) = Stage::set(test, sections) else { return };
    let (source, name) = (GUESSER_V4.into(), format!("{GUESSER_V4}/32"));
    for strikes in 1..=3 {
        stage.offend_until_dropped(source, &guess());
        let ban = stage.ban(&name);
        assert_eq!(ban.strikes, strikes, "the gateway before this one had counted the others");
        // It is over by the time that the next gateway looks, and the filter holds nothing about it.
        stage.await_served(source);
        let over = wait::until(TIME_MAX, || stage.blocked().is_empty().then_some(()));
        assert!(over.is_some());
        stage.take_gateway().kill().unwrap();
        stage.start(sections);
    }
    // Whom an operator forgives while no gateway runs begins afresh.
    stage.offend_until_dropped(source, &guess());
    stage.take_gateway().kill().unwrap();
    stage.told(&["bans", "del", &GUESSER_V4.to_string()]);
    stage.start(sections);
    stage.offend_until_dropped(source, &guess());
    assert_eq!(stage.ban(&name).strikes, 1);
}

#[test]
fn an_ended_gateway_leaves_its_filter_and_panic_open_removes_it() {
    let test = "nic::an_ended_gateway_leaves_its_filter_and_panic_open_removes_it";
    let Some(mut stage) = Stage::set(test, SECTIONS) else { return };
    let blocked = GUESSER_V4.into();
    stage.offend_until_dropped(blocked, &guess());
    let status = stage.take_gateway().terminate(TIME_MAX).unwrap();
    assert!(status.success(), "{status}");
    stage.check_dropped(blocked);
    stage.check_refused(HONEST_V4[0].into());

    let told = stage.told(&["panic-open"]);
    assert!(told.contains("detached"), "{told}");
    stage.check_refused(blocked);
    stage.start(SECTIONS);
    stage.check_served(blocked);
}

#[test]
fn panic_open_lets_everyone_in_while_the_gateway_runs() {
    let test = "nic::panic_open_lets_everyone_in_while_the_gateway_runs";
    let Some(stage) = Stage::set(test, SECTIONS) else { return };
    stage.offend_until_dropped(GUESSER_V4.into(), &guess());
    stage.told(&["panic-open"]);
    stage.check_served(GUESSER_V4.into());
}

#[test]
fn an_interface_with_another_program_is_not_taken() {
    let test = "nic::an_interface_with_another_program_is_not_taken";
    let Some(mut stage) = Stage::set(test, SECTIONS) else { return };
    // The filter stays attached from other pins: another program, as far as the next gateway can tell.
    stage.take_gateway().kill().unwrap();
    let pins = PinDir::new().unwrap();
    let own = stage.pin_dir().display().to_string();
    let config = stage.config(SECTIONS).replace(&own, &pins.path().display().to_string());
    let error = stage.try_start(&config).unwrap_err();
    assert!(error.contains("edge0 already carries the XDP program \"portcullis\""), "{error}");
    // Or else `bans add` would say that it blocks, and nothing would drop.
    let pinned = std::fs::read_dir(pins.path()).unwrap().count();
    assert_eq!(pinned, 0, "a start that failed leaves nothing pinned");

    let config = config.replace("[prefilter]", "[prefilter]\non_failure = \"continue\"");
    let gateway = stage.try_start(&config).unwrap();
    stage.check_served(HONEST_V4[0].into());
    let told = wait::until(TIME_MAX, || gateway.output().contains("NOT FILTERING").then_some(()));
    assert!(told.is_some(), "{}", gateway.output());
    gateway.terminate(TIME_MAX).unwrap();
}
