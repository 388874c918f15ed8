//! The block list through its handle, with the program as the judge of what it says.

use std::net::IpAddr;

use ipnet::IpNet;
use portcullis::{
    config::Prefilter,
    nic::{self, BanEntry, BanKind, BanNote, BanOrigin, BanRecord, Bans, NicError, Reason},
};

use super::{
    Lab, ban, prefilter, skipped,
    table::{
        frames::{ACK, tcp4, tcp6},
        world::{EXPIRED_NS, LIVE_NS},
    },
};

fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

fn prefixes(records: &[BanRecord]) -> Vec<String> {
    let mut prefixes: Vec<String> = records.iter().map(|record| record.prefix.to_string()).collect();
    prefixes.sort();
    prefixes
}

#[test]
fn a_block_is_obeyed_listed_and_ended() {
    if skipped("kernel::bans::a_block_is_obeyed_listed_and_ended") {
        return;
    }
    let mut lab = Lab::open(prefilter());
    let cases = [
        ("198.51.100.66/32", tcp4("198.51.100.66", 443, ACK), Reason::BlockedSource),
        ("203.0.113.0/24", tcp4("203.0.113.9", 443, ACK), Reason::BlockedPrefix),
        ("2001:db8:66::/64", tcp6("2001:db8:66::9", 443, ACK), Reason::BlockedSource),
        ("2001:db8:67::1/128", tcp6("2001:db8:67::1", 443, ACK), Reason::BlockedPrefix),
    ];
    for (prefix, packet, reason) in cases {
        lab.check(&packet, Reason::NotLimited);
        lab.filter.bans().add(net(prefix), &ban(LIVE_NS)).expect("room");
        lab.check(&packet, reason);
        lab.check(&packet, reason);
        let records = lab.filter.bans().list(nic::monotonic_ns()).expect("list");
        let [record] = &records[..] else { panic!("{records:?}") };
        assert_eq!((record.prefix, record.drops, record.strikes), (net(prefix), 2, 1));
        assert_eq!((record.kind, record.origin), (BanKind::Unauthorized, BanOrigin::Escalation));
        assert!(record.expires_in.is_some() && record.offence_to_first_drop.is_some(), "{record:?}");
        assert!(lab.filter.bans().remove(net(prefix)).expect("remove"));
        assert!(!lab.filter.bans().remove(net(prefix)).expect("remove"));
        lab.check(&packet, Reason::NotLimited);
    }
}

#[test]
fn a_mapped_address_is_the_ipv4_address() {
    if skipped("kernel::bans::a_mapped_address_is_the_ipv4_address") {
        return;
    }
    let mut lab = Lab::open(prefilter());
    lab.filter.bans().add(net("::ffff:198.51.100.66/128"), &ban(LIVE_NS)).expect("room");
    lab.check(&tcp4("198.51.100.66", 443, ACK), Reason::BlockedSource);
}

#[test]
fn the_list_outlives_its_writer_with_its_notes() {
    if skipped("kernel::bans::the_list_outlives_its_writer_with_its_notes") {
        return;
    }
    let mut lab = Lab::open(prefilter());
    let note = BanNote {
        route: "orders".into(),
        request_id: "0198f3a2-5e1c".into(),
        offences: 20,
        at_unix_s: 1_795_000_000,
    };
    let entry = BanEntry { note: Some(note.clone()), strikes: 3, ..ban(LIVE_NS) };
    lab.filter.bans().add(net("198.51.100.66/32"), &entry).expect("room");
    let mut others = Bans::open_pinned(&lab.config.pin_dir).expect("pinned");
    let records = others.list(nic::monotonic_ns()).expect("list");
    assert_eq!((records[0].strikes, records[0].note.as_ref()), (3, Some(&note)));
    assert!(others.remove(net("198.51.100.66/32")).expect("remove"));
    lab.check(&tcp4("198.51.100.66", 443, ACK), Reason::NotLimited);
}

#[test]
fn a_sweep_frees_what_has_ended_and_nothing_else() {
    if skipped("kernel::bans::a_sweep_frees_what_has_ended_and_nothing_else") {
        return;
    }
    let mut lab = Lab::open(Prefilter { block: vec![net("192.0.2.128/25")], ..prefilter() });
    let bans = lab.filter.bans();
    for (prefix, expires_at_ns) in [
        ("198.51.100.1/32", EXPIRED_NS),
        ("198.51.100.2/32", LIVE_NS),
        ("203.0.113.0/25", EXPIRED_NS),
        ("203.0.113.0/24", LIVE_NS),
        ("2001:db8:1::/64", EXPIRED_NS),
        ("2001:db8:2::/56", EXPIRED_NS),
    ] {
        bans.add(net(prefix), &ban(expires_at_ns)).expect("room");
    }
    let now_ns = nic::monotonic_ns();
    let live = ["192.0.2.128/25", "198.51.100.2/32", "203.0.113.0/24"];
    assert_eq!(prefixes(&bans.list(now_ns).expect("list")), live);
    assert_eq!(bans.sweep(now_ns, 0).expect("sweep"), 4);
    assert_eq!(bans.sweep(now_ns, 0).expect("sweep"), 0);
    assert_eq!(prefixes(&bans.list(now_ns).expect("list")), live);
}

#[test]
fn a_full_list_is_an_error_and_evicts_nobody() {
    #[track_caller]
    fn check(bans: &mut Bans, prefix: impl Fn(u32) -> String) {
        for number in 0..4 {
            bans.add(net(&prefix(number)), &ban(LIVE_NS)).expect("room");
        }
        assert!(matches!(bans.add(net(&prefix(4)), &ban(LIVE_NS)), Err(NicError::Full)));
        bans.add(net(&prefix(0)), &ban(LIVE_NS)).expect("replacing needs no room");
        let listed = bans.list(nic::monotonic_ns()).expect("list");
        assert!((0..4).all(|number| listed.iter().any(|record| record.prefix == net(&prefix(number)))));
    }
    if skipped("kernel::bans::a_full_list_is_an_error_and_evicts_nobody") {
        return;
    }
    let mut lab = Lab::open(Prefilter { entries_max: 4, ..prefilter() });
    let bans = lab.filter.bans();
    check(bans, |number| format!("198.51.100.{number}/32"));
    check(bans, |number| format!("203.0.113.{}/30", number * 4));
    check(bans, |number| format!("2001:db8:{number}::/64"));
    check(bans, |number| format!("2001:db8:{number}::/48"));
}

#[test]
fn the_configuration_s_blocks_are_its_own() {
    if skipped("kernel::bans::the_configuration_s_blocks_are_its_own") {
        return;
    }
    let mut lab = Lab::open(Prefilter { block: vec![net("203.0.113.0/24")], ..prefilter() });
    let bans = lab.filter.bans();
    for result in [bans.add(net("203.0.113.0/24"), &ban(1)), bans.remove(net("203.0.113.0/24")).map(drop)] {
        assert!(matches!(result, Err(NicError::ByConfiguration(_))), "{result:?}");
    }
    let record = &bans.list(nic::monotonic_ns()).expect("list")[0];
    assert_eq!((record.origin, record.expires_in), (BanOrigin::Configuration, None));
    lab.check(&tcp4("203.0.113.9", 443, ACK), Reason::BlockedPrefix);
}

#[test]
fn why_names_every_rule_and_the_winner() {
    #[track_caller]
    fn check(lab: &mut Lab, address: &str, allowed_by: &[&str], blocked_by: &[&str], blocked: bool) {
        let address: IpAddr = address.parse().expect("an address");
        let explanation = lab.filter.bans().why(address, nic::monotonic_ns()).expect("why");
        assert_eq!(explanation.allowed_by, allowed_by.iter().map(|text| net(text)).collect::<Vec<_>>());
        let by: Vec<IpNet> = explanation.blocked_by.iter().map(|record| record.prefix).collect();
        assert_eq!(by, blocked_by.iter().map(|text| net(text)).collect::<Vec<_>>());
        assert_eq!(explanation.blocked(), blocked);
        let packet = if address.is_ipv4() { tcp4 } else { tcp6 }(&address.to_string(), 443, ACK);
        assert_eq!(lab.run(&packet).0.refuses(), blocked, "the program agrees");
    }
    if skipped("kernel::bans::why_names_every_rule_and_the_winner") {
        return;
    }
    let mut lab = Lab::open(Prefilter {
        allow: vec![net("203.0.113.128/25"), net("203.0.113.192/26")],
        block: vec![net("203.0.113.0/24"), net("198.51.100.7/32")],
        ..prefilter()
    });
    for (prefix, expires_at_ns) in [
        ("203.0.113.200/32", LIVE_NS),
        ("203.0.112.0/23", LIVE_NS),
        ("203.0.113.0/25", EXPIRED_NS),
        ("2001:db8:66::/64", LIVE_NS),
        ("2001:db8::/32", LIVE_NS),
    ] {
        lab.filter.bans().add(net(prefix), &ban(expires_at_ns)).expect("room");
    }
    check(&mut lab, "198.51.100.1", &[], &[], false);
    check(&mut lab, "203.0.113.9", &[], &["203.0.113.0/24", "203.0.112.0/23"], true);
    check(&mut lab, "198.51.100.7", &[], &["198.51.100.7/32"], true);
    check(&mut lab, "203.0.112.9", &[], &["203.0.112.0/23"], true);
    check(
        &mut lab,
        "203.0.113.200",
        &["203.0.113.192/26", "203.0.113.128/25"],
        &["203.0.113.200/32", "203.0.113.0/24", "203.0.112.0/23"],
        false,
    );
    check(&mut lab, "2001:db8:66::5", &[], &["2001:db8:66::/64", "2001:db8::/32"], true);
}

#[test]
fn blocks_follow_when_a_source_becomes_a_prefix() {
    if skipped("kernel::bans::blocks_follow_when_a_source_becomes_a_prefix") {
        return;
    }
    let mut lab = Lab::open(prefilter());
    let packets = [tcp4("198.51.100.66", 443, ACK), tcp6("2001:db8:66::9", 443, ACK)];
    for prefix in ["198.51.100.66/32", "2001:db8:66::/64"] {
        lab.filter.bans().add(net(prefix), &ban(LIVE_NS)).expect("room");
    }
    lab.apply(|config| (config.source_prefix_v4, config.source_prefix_v6) = (24, 48));
    for packet in &packets {
        lab.check(packet, Reason::BlockedPrefix);
    }
    lab.check(&tcp4("198.51.100.67", 443, ACK), Reason::NotLimited);
    lab.filter.bans().add(net("198.51.100.0/24"), &ban(LIVE_NS)).expect("room");
    lab.check(&tcp4("198.51.100.67", 443, ACK), Reason::BlockedSource);
    for prefix in ["198.51.100.66/32", "2001:db8:66::/64", "198.51.100.0/24"] {
        assert!(lab.filter.bans().remove(net(prefix)).expect("remove"), "{prefix}");
    }
    for packet in &packets {
        lab.check(packet, Reason::NotLimited);
    }
}

#[test]
fn a_long_list_is_told_whole() {
    if skipped("kernel::bans::a_long_list_is_told_whole") {
        return;
    }
    let mut lab = Lab::open(Prefilter { entries_max: 20_000, ..prefilter() });
    let bans = lab.filter.bans();
    let mut expected = Vec::new();
    for number in 0..10_000_u32 {
        let [_, _, high, low] = number.to_be_bytes();
        expected.push(net(&format!("10.9.{high}.{low}/32")));
        expected.push(net(&format!("2001:db8:9:{number:x}::/64")));
        if number < 5_000 {
            expected.push(net(&format!("10.{}.{low}.0/28", 64 + high)));
            expected.push(net(&format!("2001:db8:a:{number:x}::/72")));
        }
    }
    for prefix in &expected {
        // Of the notes only the latest few thousand are kept.
        let note = prefix.to_string().starts_with("10.9.39.").then(|| BanNote {
            route: prefix.to_string(),
            request_id: String::new(),
            offences: 1,
            at_unix_s: 1,
        });
        bans.add(*prefix, &BanEntry { note, ..ban(LIVE_NS) }).expect("room");
    }
    let now_ns = nic::monotonic_ns();
    let records = bans.list(now_ns).expect("list");
    for record in &records {
        let told = record.note.as_ref().map(|note| note.route.clone());
        let prefix = record.prefix.to_string();
        assert_eq!(told, prefix.starts_with("10.9.39.").then_some(prefix));
    }
    let mut found: Vec<IpNet> = records.iter().map(|record| record.prefix).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    assert_eq!(bans.count(now_ns).expect("count"), expected.len());
}

/// What it costs is told, never judged: `--ignored --nocapture` shows it.
#[test]
#[ignore = "fills a million blocks to time a walk over them"]
#[expect(clippy::disallowed_methods, reason = "how long a walk takes is what this is about")]
fn what_a_walk_over_a_million_blocks_costs() {
    if skipped("kernel::bans::what_a_walk_over_a_million_blocks_costs") {
        return;
    }
    let mut lab = Lab::open(Prefilter { entries_max: 1 << 20, ..prefilter() });
    let bans = lab.filter.bans();
    for number in 0..1_000_000_u32 {
        let prefix = IpNet::from(IpAddr::from(std::net::Ipv4Addr::from_bits(0x0a00_0000 + number * 5)));
        bans.add(prefix, &ban(LIVE_NS)).expect("room");
    }
    let now_ns = nic::monotonic_ns();
    let begun = std::time::Instant::now();
    let listed = bans.list(now_ns).expect("list").len();
    let list = begun.elapsed();
    let begun = std::time::Instant::now();
    bans.sweep(now_ns + 120_000_000_000, 0).expect("sweep");
    let sweep = begun.elapsed();
    let begun = std::time::Instant::now();
    bans.settle().expect("settle");
    println!("{listed} blocks: list {list:?}, sweep {sweep:?}, settle {:?}", begun.elapsed());
}
