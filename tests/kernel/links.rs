//! Attaching, taking over and letting go, on interfaces in a network namespace of the test's own thread.

use std::{fs, path::Path, process::Command};

use portcullis::{
    config::{Prefilter, XdpMode},
    nic::{self, Bans, Filter, NicError, Reason},
};

use super::{
    Lab, ban, prefilter, remove_pins, skipped,
    table::{
        frames::{ACK, tcp4},
        world::LIVE_NS,
    },
};

/// Moves this thread into a network namespace that ends with it, and makes a veth pair there.
fn namespace() {
    // SAFETY: only this thread's view of the network changes.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "a network namespace");
    ip("link add pc0 type veth peer name pc1");
    for interface in ["lo", "pc0", "pc1"] {
        ip(&format!("link set {interface} up"));
    }
}

#[track_caller]
fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("iproute2");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The id of the XDP program that `ip` shows on an interface.
fn program_on(interface: &str) -> Option<u32> {
    let shown = ip(&format!("link show dev {interface}"));
    shown.split("prog/xdp id ").nth(1)?.split(' ').next()?.parse().ok()
}

fn on(interfaces: &[&str], mode: XdpMode) -> Prefilter {
    Prefilter { interfaces: interfaces.iter().map(ToString::to_string).collect(), mode, ..prefilter() }
}

#[test]
fn native_where_the_driver_can_and_generic_elsewhere() {
    if skipped("kernel::links::native_where_the_driver_can_and_generic_elsewhere") {
        return;
    }
    namespace();
    let lab = Lab::open(on(&["pc0", "lo"], XdpMode::Auto));
    let expected = [("pc0".to_owned(), XdpMode::Native), ("lo".to_owned(), XdpMode::Generic)];
    assert_eq!(lab.filter.attached(), expected);
    let generic = Lab::open(on(&["pc1"], XdpMode::Generic));
    assert_eq!(generic.filter.attached(), [("pc1".to_owned(), XdpMode::Generic)]);
    let config = on(&["lo"], XdpMode::Native);
    ip("link set lo down");
    drop(lab);
    assert!(Filter::open(&config, &[]).is_err(), "loopback has no native mode");
    remove_pins(&config.pin_dir);
}

#[test]
fn the_filter_outlives_its_process_and_is_taken_over() {
    if skipped("kernel::links::the_filter_outlives_its_process_and_is_taken_over") {
        return;
    }
    namespace();
    let mut lab = Lab::open(on(&["pc0"], XdpMode::Auto));
    let config = lab.config.clone();
    lab.filter.bans().add("198.51.100.66/32".parse().expect("a prefix"), &ban(LIVE_NS)).expect("room");
    lab.check(&tcp4("198.51.100.66", 443, ACK), Reason::BlockedSource);
    let first = program_on("pc0").expect("attached");
    let seed = lab.filter.settings().expect("settings").seed;

    // What a SIGKILL leaves: the pins.
    let filter = std::mem::replace(&mut lab.filter, Filter::open(&config, &[]).expect("taken over"));
    drop(filter);
    let second = program_on("pc0").expect("still attached");
    assert_ne!(first, second, "the new program stands behind the old link");
    lab.counters = lab.filter.counters().expect("counters");
    lab.check(&tcp4("198.51.100.66", 443, ACK), Reason::BlockedSource);
    let records = lab.filter.bans().list(nic::monotonic_ns()).expect("list");
    assert_eq!(records[0].drops, 2, "counted on across the change");
    assert_eq!(lab.filter.settings().expect("settings").seed, seed, "the limiter's cells keep their meaning");
}

#[test]
fn letting_go_leaves_nothing_behind() {
    if skipped("kernel::links::letting_go_leaves_nothing_behind") {
        return;
    }
    namespace();
    let lab = Lab::open(on(&["pc0"], XdpMode::Auto));
    assert!(program_on("pc0").is_some());
    nic::detach(&lab.config.pin_dir).expect("detached");
    assert_eq!(program_on("pc0"), None, "while the process that attached it still runs");
    assert!(matches!(Bans::open_pinned(&lab.config.pin_dir), Err(NicError::NotPinned(_))));
    assert!(matches!(nic::detach(&lab.config.pin_dir), Err(NicError::NotPinned(_))));
}

#[test]
fn interfaces_come_and_go_with_the_configuration() {
    if skipped("kernel::links::interfaces_come_and_go_with_the_configuration") {
        return;
    }
    namespace();
    let mut lab = Lab::open(on(&["pc0"], XdpMode::Auto));
    lab.apply(|config| config.interfaces = vec!["pc0".into(), "pc1".into()]);
    assert!(program_on("pc0").is_some() && program_on("pc1").is_some());
    lab.apply(|config| config.interfaces = vec!["pc1".into()]);
    assert_eq!((program_on("pc0"), program_on("pc1").is_some()), (None, true));
    assert_eq!(lab.filter.attached().len(), 1);
    lab.apply(|config| config.mode = XdpMode::Generic);
    assert_eq!(lab.filter.attached(), [("pc1".to_owned(), XdpMode::Generic)]);
}

#[test]
fn a_link_of_an_interface_that_is_gone_is_not_taken_for_its_namesake_s() {
    if skipped("kernel::links::a_link_of_an_interface_that_is_gone_is_not_taken_for_its_namesake_s") {
        return;
    }
    namespace();
    let mut lab = Lab::open(on(&["pc0"], XdpMode::Auto));
    ip("link del pc0");
    ip("link add pc0 type veth peer name pc1");
    lab.apply(|_| ());
    assert!(program_on("pc0").is_some());
    // Renamed: the pinned link still holds the interface, under another name.
    ip("link set pc0 name pc2");
    ip("link add pc0 type veth peer name pc3");
    lab.apply(|_| ());
    assert_eq!((program_on("pc0").is_some(), program_on("pc2")), (true, None));
}

#[test]
fn an_occupied_interface_is_an_error_that_names_the_occupant() {
    if skipped("kernel::links::an_occupied_interface_is_an_error_that_names_the_occupant") {
        return;
    }
    namespace();
    let _first = Lab::open(on(&["pc0"], XdpMode::Auto));
    let config = on(&["pc0"], XdpMode::Auto);
    let error = Filter::open(&config, &[]).err().expect("refused");
    remove_pins(&config.pin_dir);
    let NicError::Busy { interface, id, name } = &error else { panic!("{error}") };
    assert_eq!((interface.as_str(), Some(*id), name.as_str()), ("pc0", program_on("pc0"), "portcullis"));
    assert!(error.to_string().contains("another gateway's"), "{error}");
}

#[test]
fn an_interface_that_is_not_there_is_named() {
    if skipped("kernel::links::an_interface_that_is_not_there_is_named") {
        return;
    }
    let config = on(&["pc-none"], XdpMode::Auto);
    let error = Filter::open(&config, &[]).err().expect("refused");
    remove_pins(&config.pin_dir);
    assert!(matches!(&error, NicError::NoInterface(name) if name == "pc-none"), "{error}");
}

#[test]
fn pins_want_a_bpf_file_system() {
    if skipped("kernel::links::pins_want_a_bpf_file_system") {
        return;
    }
    let config = Prefilter { pin_dir: "/run/portcullis-test-pins".into(), ..prefilter() };
    let error = Filter::open(&config, &[]).err().expect("refused");
    assert!(matches!(&error, NicError::NotBpffs(_)), "{error}");
    assert!(!Path::new("/run/portcullis-test-pins").exists());
}

#[test]
fn pinned_maps_keep_their_size() {
    if skipped("kernel::links::pinned_maps_keep_their_size") {
        return;
    }
    let mut lab = Lab::open(Prefilter { entries_max: 4, sources_max: 16, ..prefilter() });
    let config = Prefilter { entries_max: 8, sources_max: 1_000, ..lab.config.clone() };
    lab.filter = Filter::open(&config, &[]).expect("opens with the old size");
    assert_eq!(lab.filter.settings().expect("settings").cell_mask, 15);
    for number in 0..4 {
        let prefix = format!("198.51.100.{number}/32").parse().expect("a prefix");
        lab.filter.bans().add(prefix, &ban(LIVE_NS)).expect("room");
    }
    let result = lab.filter.bans().add("198.51.100.4/32".parse().expect("a prefix"), &ban(LIVE_NS));
    assert!(matches!(result, Err(NicError::Full)), "{result:?}");
    assert_eq!(fs::read_dir(config.pin_dir).expect("pins").count(), 1);
}
