//! The same verdicts in the kernel as on the host, and what only living maps can show: settings that change under
//! the program, heartbeats that stop, samples that come back.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicUsize, Ordering},
};

use gateway_ebpf::layout::{EVENTS_BYTES, HEARTBEAT_TIMEOUT_NS};
use portcullis::{
    config::{FilterPorts, Prefilter, Rate},
    nic::{self, BanAction, BanEntry, Feeds, Ranges, Reason, Verdict},
};

use super::{
    Lab, ban,
    feeds::{list, of},
    prefilter, skipped,
    table::{
        cases::{CLIENT4, cases},
        frames::{ACK, SYN, cut, ipv4, tcp, tcp4, tcp6, udp4},
        world::{ALLOW, BANS, BLOCK, EXPIRED_NS, FEED, LIVE_NS, THROTTLE_NS, THROTTLES},
    },
};

/// One packet a day after the burst: no clock of this test changes a verdict.
pub(super) fn slow(burst: u64) -> Rate {
    Rate { per_s: 1.0 / 86_400.0, burst }
}

/// A filter under the table's policy.
pub(super) fn world(config: Prefilter) -> Lab {
    let parse = |text: &str| text.parse().expect("a prefix");
    let config = Prefilter { allow: ALLOW.map(parse).to_vec(), block: BLOCK.map(parse).to_vec(), ..config };
    let mut lab = Lab::open(config);
    for (prefix, live) in BANS {
        let entry = ban(if live { LIVE_NS } else { EXPIRED_NS });
        lab.filter.bans().add(parse(prefix), &entry).expect("room for a block");
    }
    for (prefix, burst) in THROTTLES {
        let action = BanAction::Throttle { interval_ns: THROTTLE_NS, burst };
        lab.filter.bans().add(parse(prefix), &BanEntry { action, ..ban(LIVE_NS) }).expect("room");
    }
    lab.filter.bans().settle().expect("claims");
    let mut feeds = Feeds::open_pinned(&lab.config.pin_dir).expect("pinned");
    feeds.publish(&[list("feed", 1, of(&FEED))], &Ranges::default()).expect("room for a list");
    lab
}

#[test]
fn the_verifier_is_far_from_its_limit() {
    if skipped("kernel::verdicts::the_verifier_is_far_from_its_limit") {
        return;
    }
    let mut lab = Lab::open(prefilter());
    let info = lab.filter.program().expect("program").info().expect("info");
    let walked = info.verified_instruction_count().expect("this kernel tells");
    // Of a million; other kernels and compilers count otherwise.
    assert!(walked < 500_000, "{walked} instructions walked");
}

#[test]
fn every_packet_of_the_table_has_its_reason() {
    if skipped("kernel::verdicts::every_packet_of_the_table_has_its_reason") {
        return;
    }
    let mut lab = world(prefilter());
    for (name, packet, expected) in cases() {
        let verdict = if expected.refuses() { Verdict::Drop } else { Verdict::Pass };
        assert_eq!(lab.run(&packet), (expected, verdict), "{name}");
    }
}

#[test]
fn settings_change_under_the_running_program() {
    if skipped("kernel::verdicts::settings_change_under_the_running_program") {
        return;
    }
    let mut lab = Lab::open(prefilter());
    let (client, flags) = (tcp4(CLIENT4, 443, SYN), tcp4(CLIENT4, 443, 0));
    lab.check(&client, Reason::NotLimited);
    lab.apply(|config| config.syns = Some(slow(2)));
    for expected in [Reason::WithinLimits, Reason::WithinLimits, Reason::SynRate] {
        lab.check(&client, expected);
    }
    lab.apply(|config| config.packets = Some(slow(1)));
    lab.check(&tcp4(CLIENT4, 443, ACK), Reason::WithinLimits);
    lab.check(&tcp4(CLIENT4, 443, ACK), Reason::PacketRate);
    lab.check(&udp4(CLIENT4, 53), Reason::PacketRate);
    lab.apply(|config| config.ports = FilterPorts::Ports(vec![80]));
    lab.check(&client, Reason::NotLimited);
    lab.check(&tcp4(CLIENT4, 80, SYN), Reason::SynRate);
    lab.check(&flags, Reason::BadFlags);
    lab.apply(|config| config.drop_malformed = false);
    lab.check(&flags, Reason::NotLimited);
    lab.apply(|config| (config.packets, config.syns) = (None, None));
    lab.check(&tcp4(CLIENT4, 80, SYN), Reason::NotLimited);
}

#[test]
fn limits_of_bytes_and_networks_change_under_the_running_program() {
    if skipped("kernel::verdicts::limits_of_bytes_and_networks_change_under_the_running_program") {
        return;
    }
    let mut lab = Lab::open(prefilter());
    let from = |host: u8| tcp4(&format!("198.51.100.{host}"), 443, SYN);
    lab.check(&from(1), Reason::NotLimited);
    lab.apply(|config| config.network_syns = Some(slow(2)));
    for (host, expected) in [(1, Reason::WithinLimits), (2, Reason::WithinLimits), (3, Reason::NetworkRate)] {
        lab.check(&from(host), expected);
    }
    lab.check(&tcp4("198.51.101.1", 443, SYN), Reason::WithinLimits);
    lab.apply(|config| (config.network_syns, config.network_packets) = (None, Some(slow(1))));
    lab.check(&tcp6("2001:db8:1:1::1", 443, ACK), Reason::WithinLimits);
    lab.check(&tcp6("2001:db8:1:2::1", 443, ACK), Reason::NetworkRate);
    // A byte a second, and a burst that a jumbo frame uses up by and by.
    let bytes = Some(Rate { per_s: 1.0, burst: 128 << 10 });
    let jumbo =
        |host: u8| ipv4(&format!("203.0.113.{host}"), 6, &[], &[tcp(443, ACK), vec![0; 8_900]].concat());
    lab.apply(|config| (config.network_packets, config.bytes) = (None, bytes));
    let fitting = (128 << 10) / jumbo(1).len();
    for _ in 0..fitting {
        lab.check(&jumbo(1), Reason::WithinLimits);
    }
    lab.check(&jumbo(1), Reason::ByteRate);
    lab.check(&jumbo(2), Reason::WithinLimits);
    lab.apply(|config| (config.bytes, config.network_bytes) = (None, bytes));
    for host in 1..=u8::try_from(fitting).expect("few") {
        lab.check(&jumbo(host), Reason::WithinLimits);
    }
    lab.check(&jumbo(100), Reason::NetworkRate);
    lab.apply(|config| config.network_bytes = None);
    lab.check(&jumbo(100), Reason::NotLimited);
}

#[test]
fn a_frame_in_several_buffers_is_read_whole() {
    if skipped("kernel::verdicts::a_frame_in_several_buffers_is_read_whole") {
        return;
    }
    let mut lab = world(prefilter());
    let jumbo = |source: &str| ipv4(source, 6, &[], &[tcp(443, ACK), vec![0; 8_900]].concat());
    lab.check(&jumbo(CLIENT4), Reason::NotLimited);
    lab.check(&jumbo("198.51.100.66"), Reason::BlockedSource);
    let frame = jumbo(CLIENT4);
    lab.check(&cut(frame.clone(), frame.len() - 1), Reason::BadLength);
}

#[test]
fn prefixes_come_and_go_with_the_configuration() {
    if skipped("kernel::verdicts::prefixes_come_and_go_with_the_configuration") {
        return;
    }
    let parse = |text: &str| text.parse().expect("a prefix");
    let mut lab = Lab::open(prefilter());
    let (inside, inside6) = (tcp4("203.0.113.9", 443, ACK), tcp6("2001:db8:bad::9", 443, ACK));
    lab.check(&inside, Reason::NotLimited);
    lab.apply(|config| config.block = vec![parse("203.0.113.0/24"), parse("2001:db8:bad::/48")]);
    lab.check(&inside, Reason::BlockedPrefix);
    lab.check(&inside6, Reason::BlockedPrefix);
    lab.apply(|config| config.allow = vec![parse("203.0.113.8/30"), parse("2001:db8:bad::/64")]);
    lab.check(&inside, Reason::Allowed);
    lab.check(&inside6, Reason::Allowed);
    lab.apply(|config| config.allow = vec![parse("203.0.113.8/31")]);
    lab.check(&inside, Reason::Allowed);
    lab.check(&inside6, Reason::BlockedPrefix);
    lab.apply(|config| config.block.clear());
    lab.apply(|config| config.allow.clear());
    lab.check(&inside, Reason::NotLimited);
    lab.check(&inside6, Reason::NotLimited);
}

#[test]
fn a_dry_run_counts_samples_and_passes() {
    if skipped("kernel::verdicts::a_dry_run_counts_samples_and_passes") {
        return;
    }
    let mut lab = world(Prefilter { dry_run: true, ..prefilter() });
    for (name, packet, expected) in cases() {
        assert_eq!(lab.run(&packet), (expected, Verdict::Pass), "{name}");
    }
    let mut samples = Vec::new();
    lab.filter.samples(|sample| samples.push(sample));
    assert!(!samples.is_empty());
    assert!(samples.iter().all(|sample| sample.verdict == Verdict::Pass && sample.reason.refuses()));
    lab.apply(|config| config.dry_run = false);
    lab.check(&tcp4("198.51.100.66", 443, ACK), Reason::BlockedSource);
}

#[test]
fn without_a_heartbeat_limits_go_off_and_blocks_stay() {
    if skipped("kernel::verdicts::without_a_heartbeat_limits_go_off_and_blocks_stay") {
        return;
    }
    let mut lab = world(Prefilter { packets: Some(slow(1)), ..prefilter() });
    let (client, banned) = (tcp4(CLIENT4, 443, ACK), tcp4("198.51.100.66", 443, ACK));
    lab.check(&client, Reason::WithinLimits);
    lab.check(&client, Reason::PacketRate);
    let stale_ns = nic::monotonic_ns() - 2 * HEARTBEAT_TIMEOUT_NS;
    lab.filter.heartbeat(stale_ns).expect("heartbeat");
    lab.check(&client, Reason::NotLimited);
    lab.check(&banned, Reason::BlockedSource);
    lab.filter.heartbeat(nic::monotonic_ns()).expect("heartbeat");
    lab.check(&client, Reason::PacketRate);
}

#[test]
fn samples_tell_who_was_dropped_and_are_bounded() {
    if skipped("kernel::verdicts::samples_tell_who_was_dropped_and_are_bounded") {
        return;
    }
    let mut lab = world(Prefilter { samples_per_s: 1, ..prefilter() });
    let drain = |lab: &mut Lab| {
        let mut samples = Vec::new();
        lab.filter.samples(|sample| samples.push(sample));
        samples
    };
    lab.check(&tcp4(CLIENT4, 443, ACK), Reason::NotLimited);
    assert_eq!(drain(&mut lab), []);
    // One a second on each CPU, however many are dropped.
    let packet = tcp6("2001:db8:66::9", 443, SYN);
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let from_ns = nic::monotonic_ns();
    for _ in 0..1_000 {
        lab.check(&packet, Reason::BlockedSource);
    }
    let seconds = usize::try_from((nic::monotonic_ns() - from_ns).div_ceil(1_000_000_000)).expect("not long");
    let samples = drain(&mut lab);
    assert!((1..=cpus * (1 + seconds)).contains(&samples.len()), "{samples:?}");
    let sample = samples[0];
    assert_eq!(sample.source, Some("2001:db8:66::9".parse::<IpAddr>().expect("an address")));
    assert_eq!((sample.reason, sample.verdict), (Reason::BlockedSource, Verdict::Drop));
    assert_eq!(sample.bytes as usize, packet.len());
    lab.apply(|config| config.samples_per_s = 0);
    lab.check(&packet, Reason::BlockedSource);
    assert_eq!(drain(&mut lab), []);
}

/// Keeps what the program says, for the one test that makes it speak.
struct Heard;

static HEARD: AtomicUsize = AtomicUsize::new(0);

impl log::Log for Heard {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if record.args().to_string().contains("ring buffer of samples is full") {
            HEARD.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&self) {}
}

#[test]
fn a_full_ring_of_samples_is_counted_and_said_once() {
    if skipped("kernel::verdicts::a_full_ring_of_samples_is_counted_and_said_once") {
        return;
    }
    log::set_logger(&Heard).expect("the only logger of these tests");
    log::set_max_level(log::LevelFilter::Warn);
    let mut lab = world(Prefilter { samples_per_s: 1_000_000, ..prefilter() });
    let mut diagnostics = lab.filter.take_log_source().expect("diagnostics");
    assert!(lab.filter.take_log_source().is_none());
    let packet = tcp4("198.51.100.66", 443, ACK);
    let mut drops = 0;
    while lab.filter.samples_lost().expect("counters") < 10 {
        lab.check(&packet, Reason::BlockedSource);
        drops += 1;
        assert!(drops <= EVENTS_BYTES, "the ring never fills");
    }
    diagnostics.flush();
    // Once on each CPU that the test has run on.
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    assert!((1..=cpus).contains(&HEARD.load(Ordering::Relaxed)));
    let mut samples = 0;
    lab.filter.samples(|_| samples += 1);
    assert_eq!(samples + 10, drops);
}
