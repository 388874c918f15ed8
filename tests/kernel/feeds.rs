//! Feeds in the kernel: a million of everything, swapped while packets flow.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use aya::{TestRunOptions, programs::TestRun};
use ipnet::IpNet;
use portcullis::nic::{Feeds, Filter, List, Ranges, Reason};

use super::{
    Lab, XDP_DROP, prefilter, skipped,
    table::frames::{ACK, tcp4, tcp6},
};

/// A list of prefixes.
pub(super) fn list(name: &str, number: u8, ranges: Ranges) -> List {
    List { name: name.into(), number, taken_at_unix_s: 1_795_000_000, ranges: Arc::new(ranges) }
}

pub(super) fn of(prefixes: &[&str]) -> Ranges {
    Ranges::of_prefixes(prefixes.iter().map(|text| text.parse::<IpNet>().expect("a prefix")))
}

fn feeds(lab: &Lab) -> Feeds {
    Feeds::open_pinned(&lab.config.pin_dir).expect("pinned")
}

#[test]
fn a_list_is_obeyed_explained_and_replaced() {
    if skipped("kernel::feeds::a_list_is_obeyed_explained_and_replaced") {
        return;
    }
    let mut lab = Lab::open(prefilter());
    let mut feeds = feeds(&lab);
    let (inside, outside) = (tcp4("203.0.113.9", 443, ACK), tcp4("203.0.114.9", 443, ACK));
    let (inside6, outside6) = (tcp6("2001:db8:66::9", 443, ACK), tcp6("2001:db8:67::9", 443, ACK));
    assert_eq!(feeds.lists().expect("nothing yet"), []);
    lab.check(&inside, Reason::NotLimited);

    let lists = [
        list("first", 1, of(&["203.0.113.0/24", "198.51.100.7/32"])),
        list("second", 2, of(&["203.0.113.8/30", "2001:db8:66::/48"])),
    ];
    feeds.publish(&lists, &of(&["203.0.113.11/32"])).expect("room");
    lab.check(&inside, Reason::BlockedFeed);
    lab.check(&inside6, Reason::BlockedFeed);
    lab.check(&outside, Reason::NotLimited);
    lab.check(&outside6, Reason::NotLimited);
    lab.check(&tcp4("203.0.113.11", 443, ACK), Reason::NotLimited);
    lab.check(&tcp4("198.51.100.7", 443, ACK), Reason::BlockedFeed);
    // Whoever opens the pins sees the same.
    let others = Feeds::open_pinned(&lab.config.pin_dir).expect("pinned");
    assert_eq!(others.lists().expect("a catalogue"), lists);
    let is_listed = |text: &str| others.is_listed(text.parse().expect("an address")).expect("a table");
    assert!(is_listed("203.0.113.9") && is_listed("2001:db8:66::9") && is_listed("::ffff:203.0.113.9"));
    assert!(!is_listed("203.0.113.11") && !is_listed("2001:db8:67::9"));

    feeds.publish(&[list("second", 2, of(&["203.0.114.0/24"]))], &Ranges::default()).expect("room");
    lab.check(&inside, Reason::NotLimited);
    lab.check(&inside6, Reason::NotLimited);
    lab.check(&outside, Reason::BlockedFeed);
    feeds.publish(&[], &Ranges::default()).expect("nothing");
    lab.check(&outside, Reason::NotLimited);
    assert_eq!(others.lists().expect("an empty catalogue"), []);
}

#[test]
fn lists_outlive_the_gateway_and_allow_wins_over_them() {
    if skipped("kernel::feeds::lists_outlive_the_gateway_and_allow_wins_over_them") {
        return;
    }
    let mut lab = Lab::open(prefilter());
    feeds(&lab).publish(&[list("a", 1, of(&["203.0.113.0/24"]))], &Ranges::default()).expect("room");
    lab.filter = Filter::open(&lab.config, &[443]).expect("taken over");
    lab.counters = lab.filter.counters().expect("counters");
    lab.check(&tcp4("203.0.113.9", 443, ACK), Reason::BlockedFeed);
    lab.apply(|config| config.allow = vec!["203.0.113.8/30".parse().expect("a prefix")]);
    lab.check(&tcp4("203.0.113.9", 443, ACK), Reason::Allowed);
    lab.check(&tcp4("203.0.113.7", 443, ACK), Reason::BlockedFeed);
}

/// Numbers that look random and are the same each time.
fn spread32(n: u64) -> u32 {
    (spread(n) >> 32).try_into().expect("32 bits")
}

/// As [`spread32`], with 64 bits.
fn spread(n: u64) -> u64 {
    let n = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ n >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (n ^ n >> 27).wrapping_mul(0x94d0_49bb_1331_11eb)
}

/// A million addresses and a million prefixes of each family, all in the upper half of their space.
fn millions() -> Ranges {
    const COUNT: u64 = 1_000_000;
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for n in 0..COUNT {
        let address = spread32(n) | 1 << 31;
        v4.push((address, address));
        let size = (1 << (spread(n + COUNT) % 12)) - 1;
        let first = (spread32(n + 2 * COUNT) | 1 << 31) & !size;
        v4.push((first, first | size));
        let host = u128::from(spread(n) | 1 << 63) << 64 | u128::from(spread(n + 3 * COUNT));
        v6.push((host, host));
        let size = (1_u128 << (64 + spread(n + 4 * COUNT) % 33)) - 1;
        let first = u128::from(spread(n + 5 * COUNT) | 1 << 63) << 64 & !size;
        v6.push((first, first | size));
    }
    Ranges::new(v4, v6)
}

#[test]
fn millions_are_listed_and_their_neighbours_are_not() {
    if skipped("kernel::feeds::millions_are_listed_and_their_neighbours_are_not") {
        return;
    }
    let mut lab = Lab::open(prefilter());
    let ranges = millions();
    let lists = [list("millions", 1, ranges.clone())];
    let published = feeds(&lab).publish(&lists, &Ranges::default()).expect("room");
    println!("{published:?}");
    assert_eq!(published.ranges, (ranges.v4().len(), ranges.v6().len()));
    let mut check = |address: IpAddr| {
        let packet = if address.is_ipv4() { tcp4 } else { tcp6 }(&address.to_string(), 443, ACK);
        let expected = ranges.prefix_of(address).map_or(Reason::NotLimited, |_| Reason::BlockedFeed);
        assert_eq!(lab.run(&packet).0, expected, "{address}");
        expected == Reason::BlockedFeed
    };
    let mut hits = 0;
    for n in 0..500 {
        let at = spread32(n) as usize;
        let (first, last) = ranges.v4()[at % ranges.v4().len()];
        for address in [first - 1, first, last, last.saturating_add(1), spread32(n)] {
            hits += usize::from(check(IpAddr::V4(address.into())));
        }
        let (first, last) = ranges.v6()[at % ranges.v6().len()];
        for address in [first - 1, first, last, last.saturating_add(1)] {
            hits += usize::from(check(IpAddr::V6(address.into())));
        }
    }
    assert!((2_000..4_500).contains(&hits), "{hits}");
}

/// How often the list changes under the packets.
const SWAPS: usize = 20;

#[test]
fn no_packet_is_judged_by_half_a_list() {
    if skipped("kernel::feeds::no_packet_is_judged_by_half_a_list") {
        return;
    }
    let mut lab = Lab::open(prefilter());
    let mut feeds = feeds(&lab);
    // What both lists hold lies in other leaves, ranks and lines of each.
    let both = ["203.0.113.9/32", "203.0.114.0/24", "2001:db8:66::1/128", "2001:db8:67::/48"];
    let one: Ranges = Ranges::union([&of(&both), &of(&["10.0.0.0/8"])]);
    let many = (0..100_000_u32).map(|n| (0x0101_0101 + n * 512, 0x0101_0101 + n * 512 + n % 2));
    let many6 =
        (0..100_000_u128).map(|n| ((0x2001_0db7 << 96) + (n << 70), (0x2001_0db7 << 96) + (n << 70) + n % 9));
    let other = Ranges::union([&of(&both), &Ranges::new(many.collect(), many6.collect())]);
    let lists = [one, other].map(|ranges| [list("a", 1, ranges)]);
    feeds.publish(&lists[0], &Ranges::default()).expect("room");
    let listed = [
        tcp4("203.0.113.9", 443, ACK),
        tcp4("203.0.114.77", 443, ACK),
        tcp6("2001:db8:66::1", 443, ACK),
        tcp6("2001:db8:67:8::1", 443, ACK),
    ];
    let (has_begun, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let packets = scope.spawn(|| {
            let mut runs = 0_u64;
            while !is_over.load(Ordering::Relaxed) {
                for packet in &listed {
                    // One packet a hundred times over: each is a look-up of its own.
                    let options =
                        TestRunOptions { data_in: Some(packet), repeat: 100, ..TestRunOptions::default() };
                    let result = lab.filter.program().expect("program").test_run(options).expect("test run");
                    assert_eq!(result.return_value, XDP_DROP);
                }
                runs += 1;
                has_begun.store(true, Ordering::Relaxed);
            }
            runs
        });
        while !has_begun.load(Ordering::Relaxed) && !packets.is_finished() {
            thread::yield_now();
        }
        for swap in 0..SWAPS {
            feeds.publish(&lists[1 - swap % 2], &Ranges::default()).expect("room");
        }
        is_over.store(true, Ordering::Relaxed);
        assert!(packets.join().expect("every packet was dropped") >= 1);
    });
    let counters = lab.filter.counters().expect("counters");
    assert!(counters.iter().all(|counter| counter.reason == Reason::BlockedFeed), "{counters:?}");
}
