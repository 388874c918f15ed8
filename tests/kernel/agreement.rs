//! Host against kernel: mutated packets go through the verdict on either side, and every reason has to be the same, with
//! limits on, and while SYN cookies are.

use std::net::{Ipv6Addr, TcpListener};

use gateway_ebpf::{
    classify,
    layout::{BYTES_PER_INTERVAL, SYN_COOKIES, Seen, Settings},
};
use portcullis::{
    config::{Prefilter, Rate},
    nic::{self, Reason, SynAnswers},
};
use xtask::lab::{self, netns::Lab as Network};

use super::{
    Lab, prefilter, skipped,
    table::{
        mutate::{Mutations, Random},
        world::{Host, NOW_NS, Standing},
    },
    verdicts::{slow, world},
};

mod handshakes;

use handshakes::Handshake;

/// Packets of the test; `FUZZ_PACKETS` asks for others, `FUZZ_SEED` for a row seen before.
const FUZZ_PACKETS: u64 = 1_000_000;
/// The port with a listener; another one has limits and none.
const LISTENING: u16 = 443;
/// Packets of a row. Each begins with fresh buckets, since those that are full have nothing more to say.
const ROW_PACKETS: u64 = 100_000;
/// Packets between two looks at the clock: test runs are quick, but a slow machine must not let the limits go off.
const PACKETS_PER_BEAT: u64 = 1_000;

fn seed_and_packets() -> (u64, u64) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("FUZZ_SEED").unwrap_or_else(nic::monotonic_ns);
    (seed, number("FUZZ_PACKETS").unwrap_or(FUZZ_PACKETS))
}

/// Keeps this thread on one CPU: what the program counts for itself is counted per CPU.
fn stay() {
    // SAFETY: a set of CPUs is plain memory, and the kernel reads it before the call returns.
    unsafe {
        let cpu = usize::try_from(libc::sched_getcpu()).unwrap_or(0);
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        assert_eq!(libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set), 0);
    }
}

/// The two sides, under one policy.
struct Sides {
    lab: Lab,
    host: Host,
    /// As the program has them.
    settings: Settings,
    seen: [u64; Reason::ALL.len()],
}

impl Sides {
    fn new(config: Prefilter) -> Self {
        let lab = world(config);
        let settings = lab.filter.settings().expect("settings");
        let mut host = Host::new(&settings);
        host.sockets.listening.insert(LISTENING);
        Self { lab, host, settings, seen: [0; Reason::ALL.len()] }
    }

    /// What the host says about a packet.
    fn expect(&mut self, packet: &[u8]) -> Reason {
        let seen = &mut Seen::default();
        let expected = classify(&packet, &self.settings, &mut self.host, &Standing(NOW_NS), seen);
        self.seen[expected as usize] += 1;
        expected
    }

    /// What the kernel and the host say about a packet.
    fn judge(&mut self, packet: &[u8]) -> (Reason, Reason) {
        (self.lab.run(packet).0, self.expect(packet))
    }

    fn set_cookies(&mut self, on: bool) {
        let answers = if on { SynAnswers::Filter } else { SynAnswers::Off };
        assert_eq!(self.lab.filter.set_syn_cookies(on).expect("cookies"), answers);
        self.settings = self.lab.filter.settings().expect("settings");
        assert_eq!(self.settings.flags & SYN_COOKIES != 0, on);
    }

    /// Nobody has dropped anything that the other has not.
    fn check_drops(&mut self) {
        let records = self.lab.filter.bans().list(nic::monotonic_ns()).expect("list");
        assert_eq!(records.iter().map(|record| record.drops).sum::<u64>(), self.host.drops());
        assert!(self.host.dropped_whole() > 0);
    }
}

#[test]
fn host_and_kernel_agree_on_mutated_packets() {
    let name = "kernel::agreement::host_and_kernel_agree_on_mutated_packets";
    if skipped(name) {
        return;
    }
    if let Err(why) = lab::privileges() {
        return lab::skip(name, &why);
    }
    let (seed, packets) = seed_and_packets();
    let network = Network::new().expect("namespaces");
    let seen = network.edge.enter(|| {
        stay();
        let _listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, LISTENING)).expect("a listener");
        let mut seen = [0; Reason::ALL.len()];
        for row in 0..packets.div_ceil(ROW_PACKETS) {
            let seed = seed.wrapping_add(row);
            let packets = (packets - row * ROW_PACKETS).min(ROW_PACKETS);
            for (sum, count) in seen.iter_mut().zip(play(seed, packets)) {
                *sum += count;
            }
        }
        seen
    });
    let seen = seen.expect("the namespace");
    println!("{seen:?}");
    for reason in Reason::ALL {
        // That one takes a listener without room, and bytes have a row of their own.
        if !matches!(reason, Reason::Off | Reason::ByteRate | Reason::ListenerFull) {
            assert!(seen[reason as usize] > 0, "{reason:?} never came up: {seen:?}");
        }
    }
}

/// A row, half of it with SYN cookies; how often each reason came up.
fn play(seed: u64, packets: u64) -> [u64; Reason::ALL.len()] {
    println!("FUZZ_SEED={seed} FUZZ_PACKETS={packets} replays this row");
    let mut sides = Sides::new(Prefilter {
        packets: Some(slow(8)),
        syns: Some(slow(3)),
        network_packets: Some(slow(12)),
        network_syns: Some(slow(5)),
        ..prefilter()
    });
    let (mut mutations, mut random) = (Mutations::new(seed), Random::new(seed));
    let mut under_way = None;
    for number in 0..packets {
        if number % PACKETS_PER_BEAT == 0 {
            sides.lab.filter.heartbeat(nic::monotonic_ns()).expect("heartbeat");
            sides.set_cookies(number / PACKETS_PER_BEAT % 2 == 1);
        }
        // One after the other: what comes of a SYN is known only when its cookie is.
        let packet = match &under_way {
            Some(handshake) => Handshake::next(handshake, &mut random),
            None if random.chance(16) => {
                let (syn, handshake) = Handshake::begin(&mut random);
                under_way = handshake.meet(&mut sides, &syn);
                continue;
            }
            None => mutations.next(),
        };
        let (found, expected) = sides.judge(&packet);
        assert_eq!(found, expected, "FUZZ_SEED={seed}, packet {number}: {packet:02x?}");
        // What comes behind an accepted one passes for a second, and a second may be over at any time.
        if found != Reason::CookieRefused || random.chance(3) {
            under_way = None;
        }
    }
    sides.check_drops();
    sides.seen
}

/// Bytes that are put behind each packet.
const PADDING: usize = 3_000;

/// Bytes can't be made so slow that no clock matters: a row ends before the time that one byte takes is over, and the
/// next one starts with fresh buckets.
#[test]
fn host_and_kernel_agree_on_bytes() {
    if skipped("kernel::agreement::host_and_kernel_agree_on_bytes") {
        return;
    }
    stay();
    let (seed, packets) = seed_and_packets();
    let packets = packets.min(ROW_PACKETS / 2);
    println!("FUZZ_SEED={seed} FUZZ_PACKETS={packets} replays this");
    let mut mutations = Mutations::new(seed);
    let (mut number, mut seen) = (0, [0; 2]);
    // A row is long enough for some sources to run out of bytes.
    while number < packets {
        let bytes = |burst| Some(Rate { per_s: 0.25, burst });
        let config = Prefilter { bytes: bytes(128 << 10), network_bytes: bytes(140 << 10), ..prefilter() };
        let mut sides = Sides::new(config);
        let until_ns = nic::monotonic_ns() + sides.settings.bytes.interval_ns / BYTES_PER_INTERVAL;
        loop {
            let mut packet = mutations.next();
            // Padding costs bytes and says nothing.
            packet.resize(packet.len() + PADDING, 0);
            let (found, expected) = sides.judge(&packet);
            if number >= packets || nic::monotonic_ns() >= until_ns {
                break;
            }
            assert_eq!(found, expected, "FUZZ_SEED={seed}, packet {number}: {packet:02x?}");
            number += 1;
        }
        for (seen, reason) in seen.iter_mut().zip([Reason::ByteRate, Reason::NetworkRate]) {
            *seen += sides.seen[reason as usize];
        }
    }
    assert!(!seen.contains(&0), "buckets that ran out of bytes: {seen:?}");
}
