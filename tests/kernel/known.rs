//! Known sources in the kernel: what user space writes is what the program goes by.

use ipnet::IpNet;
use portcullis::{
    config::{Prefilter, Rate},
    nic::{Filter, Reason},
};

use super::{
    Lab, prefilter, skipped,
    table::frames::{SYN, tcp4, tcp6},
};

fn nets(list: &[&str]) -> Vec<IpNet> {
    list.iter().map(|text| text.parse().expect("a prefix")).collect()
}

/// Two SYNs at once and then next to none.
fn limited() -> Prefilter {
    Prefilter { syns: Some(Rate { per_s: 0.001, burst: 2 }), sources_max: 16, ..prefilter() }
}

#[test]
fn known_sources_have_buckets_of_their_own() {
    if skipped("kernel::known::known_sources_have_buckets_of_their_own") {
        return;
    }
    let mut lab = Lab::open(limited());
    for stranger in 0..64 {
        lab.run(&tcp4(&format!("10.0.0.{stranger}"), 443, SYN));
    }
    let packets = [tcp4("198.51.100.7", 443, SYN), tcp6("2001:db8:c::7", 443, SYN)];
    for packet in &packets {
        lab.check(packet, Reason::SynRate);
    }
    let known = nets(&["198.51.100.7/32", "2001:db8:c::/64"]);
    assert_eq!(lab.filter.set_known(known.iter().copied()).expect("room"), 2);
    for packet in &packets {
        lab.check(packet, Reason::SynRate);
    }
    lab.filter.use_known(true).expect("used");
    for packet in &packets {
        for reason in [Reason::WithinLimits, Reason::WithinLimits, Reason::SynRate] {
            lab.check(packet, reason);
        }
    }
    // A reload changes nothing about it, nor does it empty their buckets.
    lab.apply(|config| config.samples_per_s = 7);
    lab.filter.set_known(known.iter().copied()).expect("room");
    lab.check(&packets[0], Reason::SynRate);
    assert_eq!(lab.filter.set_known(known.into_iter().take(1)).expect("room"), 1);
    lab.check(&packets[1], Reason::SynRate);
    lab.filter.use_known(false).expect("used");
    lab.check(&tcp4("10.0.0.1", 443, SYN), Reason::SynRate);
}

#[test]
fn what_an_earlier_process_knew_is_forgotten() {
    if skipped("kernel::known::what_an_earlier_process_knew_is_forgotten") {
        return;
    }
    let mut lab = Lab::open(limited());
    lab.filter.set_known(nets(&["198.51.100.7/32", "198.51.100.8/32"]).into_iter()).expect("room");
    lab.filter.use_known(true).expect("used");
    lab.filter = Filter::open(&lab.config, &super::table::world::PORTS).expect("taken over");
    assert_eq!(lab.filter.settings().expect("settings").flags & gateway_ebpf::layout::USE_KNOWN, 0);
    assert_eq!(lab.filter.set_known(nets(&["198.51.100.8/32"]).into_iter()).expect("room"), 1);
}
