//! Attaching, taking over and letting go, on interfaces in a network namespace of the test's own thread.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use aya::{Ebpf, programs::Xdp};
use portcullis::{
    config::{Prefilter, XdpMode},
    nic::{self, Bans, Filter, NicError, Reason},
};
use xtask::lab::{
    flood::{Flood, Running},
    place::Place,
    wait,
};

use super::{
    Lab, ban, prefilter, remove_pins, skipped,
    table::{
        frames::{ACK, tcp4, with},
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
    let NicError::Busy { interface, id, name, .. } = &error else { panic!("{error}") };
    assert_eq!((interface.as_str(), Some(*id), name.as_str()), ("pc0", program_on("pc0"), "portcullis"));
    assert!(error.to_string().contains("another gateway's"), "{error}");
}

/// What libxdp's tools come with, where they are.
fn of_libxdp(object: &str) -> Option<PathBuf> {
    let path = |entry: fs::DirEntry| entry.path().join("bpf").join(object);
    let found = fs::read_dir("/usr/lib").ok()?.flatten().map(path).find(|path| path.exists());
    found.filter(|_| Command::new("xdp-loader").arg("--help").output().is_ok())
}

#[test]
fn what_libxdp_has_loaded_is_named_and_stays() {
    let name = "kernel::links::what_libxdp_has_loaded_is_named_and_stays";
    if skipped(name) {
        return;
    }
    let Some(object) = of_libxdp("xsk_def_xdp_prog.o") else {
        return xtask::lab::skip(name, "there is no xdp-loader: run `cargo xtask setup`");
    };
    namespace();
    let loader = |arguments: &[&str]| {
        let output = Command::new("xdp-loader").args(arguments).output().expect("xdp-loader");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    loader(&["load", "-m", "native", "pc0", &object.display().to_string()]);
    let before = program_on("pc0");
    let config = on(&["pc0"], XdpMode::Auto);
    let error = Filter::open(&config, &[]).err().expect("refused");
    remove_pins(&config.pin_dir);
    let after = program_on("pc0");
    loader(&["unload", "pc0", "--all"]);
    assert_eq!(before, after, "nobody's program is taken off");
    let NicError::Busy { id, name, runs, .. } = &error else { panic!("{error}") };
    assert_eq!(Some(*id), before);
    let told = error.to_string();
    // Where the kernel refuses programs that extend others, libxdp loads a single one without its dispatcher.
    if name == "xdp_dispatcher" {
        assert!(matches!(&runs[..], [(name, _)] if name.starts_with("xsk_def")), "{runs:?}");
        assert!(told.contains("`xdp-loader unload pc0 --all`"), "{told}");
    } else {
        assert_eq!((name.starts_with("xsk_def"), runs.len()), (true, 0), "{error:?}");
        assert!(told.contains("`ip link set dev pc0 xdp off`"), "{told}");
    }
    // With it gone, the interface is free.
    drop(Lab::open(config));
}

/// Removed with the test, whatever becomes of it.
struct Pinned(PathBuf);

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// libxdp's own dispatcher with pins as libxdp makes them, on every kernel.
#[test]
fn what_runs_behind_libxdp_s_dispatcher_is_named() {
    let name = "kernel::links::what_runs_behind_libxdp_s_dispatcher_is_named";
    if skipped(name) {
        return;
    }
    let Some(object) = of_libxdp("xdp-dispatcher.o") else {
        return xtask::lab::skip(name, "there is no xdp-loader: run `cargo xtask setup`");
    };
    namespace();
    let mut object = Ebpf::load_file(object).expect("an object");
    let program = |object: &mut Ebpf, name: &str| -> u32 {
        let program: &mut Xdp = object.program_mut(name).expect(name).try_into().expect("XDP");
        program.load().expect("loaded");
        program.info().expect("about it").id()
    };
    let (dispatcher, behind) = (program(&mut object, "xdp_dispatcher"), program(&mut object, "xdp_pass"));
    // SAFETY: the string ends with a NUL.
    let ifindex = unsafe { libc::if_nametoindex(c"pc0".as_ptr()) };
    let pins = Pinned(format!("/sys/fs/bpf/xdp/dispatch-{ifindex}-{dispatcher}").into());
    fs::create_dir_all(&pins.0).expect("a directory");
    object.program_mut("xdp_pass").expect("it").pin(pins.0.join("prog0-prog")).expect("pinned");
    let first: &mut Xdp = object.program_mut("xdp_dispatcher").expect("it").try_into().expect("XDP");
    first.attach("pc0", aya::programs::XdpMode::Driver).expect("attached");
    let config = on(&["pc0"], XdpMode::Auto);
    let error = Filter::open(&config, &[]).err().expect("refused");
    remove_pins(&config.pin_dir);
    let NicError::Busy { id, name, runs, .. } = &error else { panic!("{error}") };
    assert_eq!(
        (*id, name.as_str(), &runs[..]),
        (dispatcher, "xdp_dispatcher", &[("xdp_pass".into(), behind)][..])
    );
    let told = error.to_string();
    assert!(told.contains(&format!(", which runs \"xdp_pass\" (id {behind})")), "{told}");
    assert!(told.contains("`xdp-loader unload pc0 --all`"), "{told}");
}

/// Frames of a blocked source that come in by an interface of this thread's namespace.
fn send_blocked(interface: &str) {
    let flood = Flood {
        interface: interface.to_owned(),
        frames: vec![with(tcp4("198.51.100.66", 443, ACK), 0, &[0xff; 6])],
        count_max: 5,
        rate_per_s: 1_000,
        time_max: Duration::from_secs(5),
    };
    flood.start(&Place::here()).and_then(Running::wait).expect("sent");
}

#[test]
fn on_a_bond_the_filter_covers_all_its_ports() {
    let name = "kernel::links::on_a_bond_the_filter_covers_all_its_ports";
    if skipped(name) {
        return;
    }
    namespace();
    let made = Command::new("ip").args("link add bond0 type bond mode balance-rr".split(' ')).output();
    let made = made.expect("iproute2");
    if !made.status.success() {
        return xtask::lab::skip(
            name,
            &format!("no bonds: {}", String::from_utf8_lossy(&made.stderr).trim()),
        );
    }
    ip("link add pc2 type veth peer name pc3");
    for port in ["pc0", "pc2"] {
        ip(&format!("link set {port} down"));
        ip(&format!("link set {port} master bond0"));
    }
    for interface in ["pc0", "pc1", "pc2", "pc3", "bond0"] {
        ip(&format!("link set {interface} up"));
    }
    let mut lab = Lab::open(on(&["bond0"], XdpMode::Auto));
    lab.filter.bans().add("198.51.100.66/32".parse().expect("a prefix"), &ban(LIVE_NS)).expect("room");
    let dropped = |lab: &Lab| {
        let counters = lab.filter.counters().expect("counters");
        counters
            .iter()
            .filter(|counter| counter.reason == Reason::BlockedSource)
            .map(|c| c.packets)
            .sum::<u64>()
    };
    for (peer, expected) in [("pc1", 5), ("pc3", 10)] {
        send_blocked(peer);
        let reached = wait::until(Duration::from_secs(5), || (dropped(&lab) >= expected).then_some(()));
        assert!(reached.is_some(), "{peer}: {}", dropped(&lab));
    }
    // The kernel runs one or the other.
    let config = on(&["pc0"], XdpMode::Auto);
    let error = Filter::open(&config, &[]).err().expect("refused");
    remove_pins(&config.pin_dir);
    assert!(error.to_string().contains("bond0"), "{error}");
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
