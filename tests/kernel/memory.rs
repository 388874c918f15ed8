//! What is remembered of sources beyond their blocks, and how a prefix meets the allow prefixes.

use ipnet::IpNet;
use portcullis::{
    config::Prefilter,
    nic::{self, Allowed, Bans, Filter, NicError, Strikes},
};

use super::{Lab, prefilter, skipped};

const S: u64 = 1_000_000_000;

fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

fn strikes(until_ns: u64) -> Strikes {
    Strikes { until_ns, strikes: 3, throttles: 1, reserved: 0 }
}

#[test]
fn strikes_outlive_the_process_that_counted_them() {
    if skipped("kernel::memory::strikes_outlive_the_process_that_counted_them") {
        return;
    }
    let mut lab = Lab::open(prefilter());
    let sources = ["192.0.2.66/32", "198.51.100.0/24", "2001:db8:66::/64"];
    for source in sources {
        lab.filter.bans().remember(net(source), strikes(7 * S)).expect("room");
    }
    lab.filter = Filter::open(&lab.config, &[]).expect("taken over");
    let mut memory = lab.filter.bans().memory().expect("memory");
    memory.sort_by_key(|(source, _)| *source);
    assert_eq!(memory, sources.map(|source| (net(source), strikes(7 * S))));
    assert_eq!(lab.filter.bans().strikes(net("192.0.2.66/32")).expect("strikes"), Some(strikes(7 * S)));
    assert_eq!(lab.filter.bans().strikes(net("192.0.2.67/32")).expect("strikes"), None);
    let mut others = Bans::open_pinned(&lab.config.pin_dir).expect("pinned");
    assert!(others.forget(net("192.0.2.66/32")).expect("forget"));
    assert!(!others.forget(net("192.0.2.66/32")).expect("forget"));
    nic::detach(&lab.config.pin_dir).expect("detached");
    lab.filter = Filter::open(&lab.config, &[]).expect("opened");
    assert_eq!(lab.filter.bans().memory().expect("memory"), [], "who opens the host forgives everybody");
}

#[test]
fn what_is_long_over_is_forgotten() {
    if skipped("kernel::memory::what_is_long_over_is_forgotten") {
        return;
    }
    let mut lab = Lab::open(prefilter());
    let bans = lab.filter.bans();
    for (source, until_ns) in [("192.0.2.1/32", S), ("192.0.2.2/32", 2 * S), ("192.0.2.3/32", 3 * S)] {
        bans.remember(net(source), strikes(until_ns)).expect("room");
    }
    assert_eq!(bans.sweep_memory(2 * S).expect("sweep"), 2);
    assert_eq!(bans.memory().expect("memory"), [(net("192.0.2.3/32"), strikes(3 * S))]);
}

#[test]
fn how_a_prefix_meets_the_allow_prefixes_is_told() {
    #[track_caller]
    fn check(lab: &mut Lab, prefix: &str, expected: &Allowed) {
        assert_eq!(lab.filter.bans().allowed(net(prefix)).expect("told"), *expected);
    }
    if skipped("kernel::memory::how_a_prefix_meets_the_allow_prefixes_is_told") {
        return;
    }
    let allow = ["192.0.2.0/28", "192.0.2.77/32", "2001:db8:1::/48"].map(net).to_vec();
    let mut lab = Lab::open(Prefilter { allow, ..prefilter() });
    let lab = &mut lab;
    check(lab, "192.0.2.7/32", &Allowed::Whole(net("192.0.2.0/28")));
    check(lab, "::ffff:192.0.2.7/128", &Allowed::Whole(net("192.0.2.0/28")));
    check(lab, "192.0.2.0/28", &Allowed::Whole(net("192.0.2.0/28")));
    check(lab, "192.0.2.0/24", &Allowed::Parts(vec![net("192.0.2.0/28"), net("192.0.2.77/32")]));
    check(lab, "192.0.2.64/26", &Allowed::Parts(vec![net("192.0.2.77/32")]));
    check(lab, "192.0.2.16/32", &Allowed::Nothing);
    check(lab, "2001:db8:1:2::/64", &Allowed::Whole(net("2001:db8:1::/48")));
    check(lab, "2001:db8::/32", &Allowed::Parts(vec![net("2001:db8:1::/48")]));
    check(lab, "2001:db8:2::/48", &Allowed::Nothing);
}

#[test]
fn a_block_that_lasts_longer_is_not_shortened() {
    if skipped("kernel::memory::a_block_that_lasts_longer_is_not_shortened") {
        return;
    }
    let mut lab = Lab::open(Prefilter { block: vec![net("203.0.113.0/24")], ..prefilter() });
    let bans = lab.filter.bans();
    let now_ns = nic::monotonic_ns();
    let until = |s: u64| super::ban(now_ns + s * S);
    assert!(bans.add_unless_longer(net("192.0.2.1/32"), &until(600)).expect("room"));
    assert!(!bans.add_unless_longer(net("192.0.2.1/32"), &until(60)).expect("room"));
    assert!(bans.add_unless_longer(net("192.0.2.1/32"), &until(900)).expect("room"));
    let lasts_s =
        bans.list(now_ns).expect("list").iter().find_map(|record| record.expires_in).map(|d| d.as_secs());
    assert_eq!(lasts_s, Some(900));
    let refused = bans.add_unless_longer(net("203.0.113.0/24"), &until(60));
    assert!(matches!(refused, Err(NicError::ByConfiguration(_))), "{refused:?}");
}
