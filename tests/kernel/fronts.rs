//! The short cut past the tables: whatever is claimed, verdicts and counts are those of the tables.

use ipnet::IpNet;
use portcullis::nic::{self, BanAction, BanEntry, Bans, Reason};

use super::{Lab, ban, from, net, prefilter, skipped, table::world::LIVE_NS};

/// A block of each sort that can be claimed, with an address in it and one beside it.
const BLOCKS: [(&str, &str, &str, Reason); 4] = [
    ("198.51.100.66/32", "198.51.100.66", "198.51.100.67", Reason::BlockedSource),
    ("2001:db8:66::/64", "2001:db8:66::9", "2001:db8:66:1::9", Reason::BlockedSource),
    ("2001:db8:67::/48", "2001:db8:67:8::9", "2001:db8:68:8::9", Reason::BlockedPrefix),
    ("2001:db8:4000::/34", "2001:db8:7000::9", "2001:db8:8000::9", Reason::BlockedPrefix),
];

fn drops(bans: &Bans, prefix: &str) -> u64 {
    let listed = bans.list(nic::monotonic_ns()).expect("list");
    listed.iter().find(|record| record.prefix == net(prefix)).expect("listed").drops
}

/// Blocks that have dropped once are claimed by the next settling.
fn claim(lab: &mut Lab) {
    for (prefix, inside, _, reason) in BLOCKS {
        lab.filter.bans().add(net(prefix), &ban(LIVE_NS)).expect("room");
        lab.check(&from(inside), reason);
    }
    lab.filter.bans().settle().expect("claims");
}

#[test]
fn drops_are_counted_one_by_one_also_past_a_slot_s_byte() {
    if skipped("kernel::fronts::drops_are_counted_one_by_one_also_past_a_slot_s_byte") {
        return;
    }
    let mut lab = Lab::open(prefilter());
    claim(&mut lab);
    for (prefix, inside, beside, reason) in BLOCKS {
        for expected in 2..600 {
            lab.check(&from(inside), reason);
            if expected % 60 == 0 || (250..260).contains(&expected) {
                assert_eq!(drops(lab.filter.bans(), prefix), expected, "{prefix}");
            }
        }
        lab.check(&from(beside), Reason::NotLimited);
    }
    // What is settled once more keeps its counts.
    lab.filter.bans().settle().expect("claims");
    for (prefix, ..) in BLOCKS {
        assert_eq!(drops(lab.filter.bans(), prefix), 599, "{prefix}");
    }
}

#[test]
fn what_is_claimed_follows_its_block() {
    if skipped("kernel::fronts::what_is_claimed_follows_its_block") {
        return;
    }
    let mut lab = Lab::open(prefilter());
    let mut others = Bans::open_pinned(&lab.config.pin_dir).expect("pinned");
    for (prefix, inside, _, reason) in BLOCKS {
        claim(&mut lab);
        // Another process ends it.
        assert!(others.remove(net(prefix)).expect("removed"));
        lab.check(&from(inside), Reason::NotLimited);
        lab.filter.bans().settle().expect("claims");
        lab.check(&from(inside), Reason::NotLimited);
        // It is turned into a throttle, which lets a packet pass.
        claim(&mut lab);
        let action = BanAction::Throttle { interval_ns: 86_400_000_000_000, burst: 1 };
        others.add(net(prefix), &BanEntry { action, ..ban(LIVE_NS) }).expect("room");
        lab.check(&from(inside), Reason::NotLimited);
        lab.check(&from(inside), Reason::Throttled);
        // Or into a block that is over.
        claim(&mut lab);
        others.add(net(prefix), &ban(1)).expect("room");
        lab.check(&from(inside), Reason::NotLimited);
        lab.filter.bans().settle().expect("claims");
        lab.check(&from(inside), Reason::NotLimited);
        claim(&mut lab);
        lab.check(&from(inside), reason);
    }
}

#[test]
fn allowing_wins_over_what_is_claimed() {
    if skipped("kernel::fronts::allowing_wins_over_what_is_claimed") {
        return;
    }
    let mut lab = Lab::open(prefilter());
    claim(&mut lab);
    for (prefix, inside, _, reason) in BLOCKS {
        let inner = IpNet::from(inside.parse::<std::net::IpAddr>().expect("an address"));
        lab.apply(|config| config.allow = vec![inner]);
        lab.check(&from(inside), Reason::Allowed);
        lab.apply(|config| config.allow.clear());
        lab.check(&from(inside), reason);
        assert!(drops(lab.filter.bans(), prefix) >= 2, "{prefix}");
    }
}

#[test]
fn claims_do_not_outlive_a_change_of_what_makes_a_source() {
    if skipped("kernel::fronts::claims_do_not_outlive_a_change_of_what_makes_a_source") {
        return;
    }
    let mut lab = Lab::open(prefilter());
    lab.filter.bans().add(net("198.51.100.0/32"), &ban(LIVE_NS)).expect("room");
    lab.filter.bans().add(net("2001:db8:66::/64"), &ban(LIVE_NS)).expect("room");
    for address in ["198.51.100.0", "2001:db8:66::9"] {
        lab.check(&from(address), Reason::BlockedSource);
    }
    lab.filter.bans().settle().expect("claims");
    lab.apply(|config| (config.source_prefix_v4, config.source_prefix_v6) = (24, 48));
    for (address, reason) in [
        ("198.51.100.0", Reason::BlockedPrefix),
        ("198.51.100.9", Reason::NotLimited),
        ("2001:db8:66::9", Reason::BlockedPrefix),
        ("2001:db8:66:1::9", Reason::NotLimited),
    ] {
        lab.check(&from(address), reason);
    }
}

#[test]
fn what_others_block_is_claimed_once_it_drops_much() {
    if skipped("kernel::fronts::what_others_block_is_claimed_once_it_drops_much") {
        return;
    }
    let mut lab = Lab::open(prefilter());
    let now_ns = nic::monotonic_ns();
    // The walk that is due in any case comes before all this, and the next one in a minute.
    lab.filter.bans().sweep(now_ns, 0).expect("sweep");
    let mut others = Bans::open_pinned(&lab.config.pin_dir).expect("pinned");
    let looked_up = |lab: &Lab| lab.filter.unclaimed_drops().expect("a count");
    for (count, (prefix, inside, _, reason)) in (1..).zip(BLOCKS) {
        others.add(net(prefix), &ban(LIVE_NS)).expect("room");
        let before = looked_up(&lab);
        (0..999).for_each(|_| lab.check(&from(inside), reason));
        let unclaimed = looked_up(&lab);
        assert_eq!(unclaimed - before, 999, "{prefix}");
        let later_ns = now_ns + count * 10_000_000_000;
        lab.filter.bans().sweep(later_ns, unclaimed).expect("sweep");
        lab.check(&from(inside), reason);
        assert_eq!(looked_up(&lab), unclaimed + 1, "{prefix}: it is not yet worth a look");
        lab.filter.bans().sweep(later_ns, unclaimed + 1).expect("sweep");
        (0..99).for_each(|_| lab.check(&from(inside), reason));
        assert_eq!(looked_up(&lab), unclaimed + 1, "{prefix}: it is claimed");
        assert_eq!(drops(lab.filter.bans(), prefix), 1_099, "{prefix}");
    }
}
