//! Classes and guard follow the rules: what is claimed holds after every change, also while others change them.

use std::thread;

use portcullis::{
    config::{Prefilter, Rate},
    nic::{self, BanAction, BanEntry, Bans, Reason},
};

use super::{Lab, ban, from, net, prefilter, skipped, table::world::LIVE_NS};

#[test]
fn a_24_is_dropped_whole_only_while_nothing_in_it_is_allowed() {
    if skipped("kernel::classes::a_24_is_dropped_whole_only_while_nothing_in_it_is_allowed") {
        return;
    }
    let mut lab = Lab::open(Prefilter { block: vec![net("100.64.0.0/10")], ..prefilter() });
    // Not charged one by one: it was the class that dropped it.
    for _ in 0..200 {
        lab.check(&from("100.127.255.1"), Reason::BlockedPrefix);
    }
    assert!(lab.filter.bans().list(0).expect("list")[0].drops < 200);
    lab.check(&from("100.128.0.0"), Reason::NotLimited);
    lab.apply(|config| config.allow = vec![net("100.64.7.9/32"), net("100.65.0.0/16")]);
    for (address, expected) in [
        ("100.64.7.9", Reason::Allowed),
        ("100.64.7.8", Reason::BlockedPrefix),
        ("100.64.8.9", Reason::BlockedPrefix),
        ("100.65.255.255", Reason::Allowed),
        ("100.66.0.0", Reason::BlockedPrefix),
    ] {
        lab.check(&from(address), expected);
    }
    // A block within what is allowed stays without effect, and is there again when the allowance goes.
    lab.filter.bans().add(net("100.65.1.1/32"), &ban(LIVE_NS)).expect("room");
    lab.check(&from("100.65.1.1"), Reason::Allowed);
    lab.apply(|config| config.allow.clear());
    lab.check(&from("100.64.7.9"), Reason::BlockedPrefix);
    lab.apply(|config| config.block = vec![net("100.64.0.0/16")]);
    lab.check(&from("100.65.1.1"), Reason::BlockedSource);
    lab.check(&from("100.65.1.2"), Reason::NotLimited);
    lab.check(&from("100.64.1.2"), Reason::BlockedPrefix);
    lab.apply(|config| config.block.clear());
    lab.check(&from("100.64.1.2"), Reason::NotLimited);
}

#[test]
fn rules_of_every_length_are_found() {
    if skipped("kernel::classes::rules_of_every_length_are_found") {
        return;
    }
    let mut lab = Lab::open(prefilter());
    let prefixes = (4..=32)
        .map(|bits| format!("100.64.0.0/{bits}"))
        .chain((3..=128).map(|bits| format!("2001:db8:aaaa:aaaa:aaaa:aaaa:aaaa:aaaa/{bits}")));
    for prefix in prefixes.map(|text| net(&text).trunc()) {
        let inside = from(&prefix.broadcast().to_string());
        for settled in [false, true] {
            lab.filter.bans().add(prefix, &ban(LIVE_NS)).expect("room");
            if settled {
                lab.filter.bans().settle().expect("claims");
            }
            assert!(lab.run(&inside).0.refuses(), "{prefix}, settled: {settled}");
            assert!(lab.filter.bans().remove(prefix).expect("removed"));
            lab.check(&inside, Reason::NotLimited);
            if settled {
                lab.filter.bans().settle().expect("claims");
                lab.check(&inside, Reason::NotLimited);
            }
        }
    }
}

#[test]
fn a_sweep_claims_anew_what_was_taken_back() {
    if skipped("kernel::classes::a_sweep_claims_anew_what_was_taken_back") {
        return;
    }
    let mut lab = Lab::open(Prefilter { block: vec![net("203.0.112.0/22")], ..prefilter() });
    let drops = |lab: &mut Lab| {
        lab.check(&from("203.0.113.9"), Reason::BlockedPrefix);
        let records = lab.filter.bans().list(nic::monotonic_ns()).expect("list");
        records.iter().find(|record| record.prefix == net("203.0.112.0/22")).expect("the block").drops
    };
    // Whole drops are not charged one by one, which tells them from the others.
    assert_eq!(drops(&mut lab), 0);
    lab.filter.bans().add(net("203.0.113.0/25"), &ban(1)).expect("room");
    assert_eq!(drops(&mut lab), 0, "one block more makes no difference");
    assert!(lab.filter.bans().remove(net("203.0.113.0/25")).expect("removed"));
    assert_eq!(drops(&mut lab), 1);
    // Claims are made anew when the last time is long enough ago.
    let later_ns = nic::monotonic_ns() + 3_600_000_000_000;
    lab.filter.bans().sweep(later_ns, 0).expect("sweep");
    assert_eq!(drops(&mut lab), 1, "dropped whole again");
}

/// The command line adds and removes while the gateway claims: no claim may outlive what it was made of.
#[test]
fn no_claim_survives_what_another_process_changes() {
    if skipped("kernel::classes::no_claim_survives_what_another_process_changes") {
        return;
    }
    let mut lab = Lab::open(Prefilter { block: vec![net("203.0.112.0/22")], ..prefilter() });
    let mut others = Bans::open_pinned(&lab.config.pin_dir).expect("pinned");
    let source = |number: u32| match number % 3 {
        0 => format!("10.{}.{}.1/32", number / 50, number % 50),
        1 => format!("10.200.{}.0/24", number % 200),
        _ => format!("2001:db8:{number:x}::/64"),
    };
    let writer = thread::spawn(move || {
        for number in 0..300 {
            others.add(net(&source(number)), &ban(LIVE_NS)).expect("room");
            if number % 2 == 0 {
                others.remove(net(&source(number))).expect("removed");
            }
        }
    });
    let mut rounds = 0;
    while !writer.is_finished() {
        lab.filter.bans().settle().expect("claims");
        rounds += 1;
    }
    writer.join().expect("the other process has done its work");
    assert!(rounds > 0);
    for settled in [false, true] {
        if settled {
            lab.filter.bans().settle().expect("claims");
        }
        let records = lab.filter.bans().list(nic::monotonic_ns()).expect("list");
        for number in 0..300 {
            let prefix = net(&source(number));
            let listed = records.iter().any(|record| record.prefix.contains(&prefix));
            let found = lab.run(&from(&prefix.addr().to_string())).0;
            assert_eq!(found.refuses(), listed, "{prefix}: {found:?}");
        }
    }
}

#[test]
fn a_throttle_is_an_entry_of_the_list() {
    if skipped("kernel::classes::a_throttle_is_an_entry_of_the_list") {
        return;
    }
    let mut lab = Lab::open(prefilter());
    let action = BanAction::throttle(Rate { per_s: 1.0 / 86_400.0, burst: 2 });
    for (prefix, address) in [("198.51.100.7/32", "198.51.100.7"), ("2001:db8:7::/56", "2001:db8:7:1::1")] {
        let entry = BanEntry { action, ..ban(LIVE_NS) };
        lab.filter.bans().add(net(prefix), &entry).expect("room");
        for expected in [Reason::NotLimited, Reason::NotLimited, Reason::Throttled, Reason::Throttled] {
            lab.check(&from(address), expected);
        }
        let now_ns = nic::monotonic_ns();
        let records = lab.filter.bans().list(now_ns).expect("list");
        let record = records.iter().find(|record| record.prefix == net(prefix)).expect("listed");
        assert_eq!((record.action, record.drops), (action, 2));
        assert_eq!(record.to_json()["action"], "throttle");
        let explained = lab.filter.bans().why(address.parse().expect("an address"), now_ns).expect("why");
        assert_eq!((explained.verdict(), explained.blocked()), ("throttle", false));
        // The next step: the same entry, as a block.
        lab.filter.bans().add(net(prefix), &ban(LIVE_NS)).expect("room");
        assert!(lab.run(&from(address)).0.refuses());
        let explained = lab.filter.bans().why(address.parse().expect("an address"), now_ns).expect("why");
        assert_eq!(explained.verdict(), "drop");
    }
}
