//! Host against kernel: mutated packets go through the verdict on either side, and every reason has to be the same.

use gateway_ebpf::{
    classify,
    layout::{BYTES_PER_INTERVAL, Seen},
};
use portcullis::{
    config::{Prefilter, Rate},
    nic::{self, Reason},
};

use super::{
    Lab, prefilter, skipped,
    table::{
        mutate::Mutations,
        world::{Host, NOW_NS, Standing},
    },
    verdicts::{slow, world},
};

/// Packets of the test; `FUZZ_PACKETS` asks for more, `FUZZ_SEED` for a row seen before.
const FUZZ_PACKETS: u64 = 50_000;

fn seed_and_packets() -> (u64, u64) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("FUZZ_SEED").unwrap_or_else(nic::monotonic_ns);
    let packets = number("FUZZ_PACKETS").unwrap_or(FUZZ_PACKETS);
    println!("FUZZ_SEED={seed} FUZZ_PACKETS={packets} replays this row");
    (seed, packets)
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
    seen: [u64; Reason::ALL.len()],
}

impl Sides {
    fn new(config: Prefilter) -> Self {
        let lab = world(config);
        let host = Host::new(&lab.filter.settings().expect("settings"));
        Self { lab, host, seen: [0; Reason::ALL.len()] }
    }

    /// What the kernel and the host say about a packet.
    fn judge(&mut self, packet: &[u8]) -> (Reason, Reason) {
        let settings = self.lab.filter.settings().expect("settings");
        let seen = &mut Seen::default();
        let expected = classify(&packet, &settings, &mut self.host, &Standing(NOW_NS), seen);
        self.seen[expected as usize] += 1;
        (self.lab.run(packet).0, expected)
    }
}

#[test]
fn host_and_kernel_agree_on_mutated_packets() {
    if skipped("kernel::agreement::host_and_kernel_agree_on_mutated_packets") {
        return;
    }
    stay();
    let (seed, packets) = seed_and_packets();
    let mut sides = Sides::new(Prefilter {
        packets: Some(slow(8)),
        syns: Some(slow(3)),
        network_packets: Some(slow(12)),
        network_syns: Some(slow(5)),
        ..prefilter()
    });
    let mut mutations = Mutations::new(seed);
    for number in 0..packets {
        // Test runs are quick, but a slow machine must not let the limits go off.
        if number % 1_000 == 0 {
            sides.lab.filter.heartbeat(nic::monotonic_ns()).expect("heartbeat");
        }
        let packet = mutations.next();
        let (found, expected) = sides.judge(&packet);
        assert_eq!(found, expected, "seed {seed}, packet {number}: {packet:02x?}");
    }
    let Sides { mut lab, host, seen } = sides;
    let records = lab.filter.bans().list(nic::monotonic_ns()).expect("list");
    assert_eq!(records.iter().map(|record| record.drops).sum::<u64>(), host.drops());
    assert!(host.dropped_whole() > 0);
    for reason in Reason::ALL {
        // Without cookies there are none to answer with: they have tests of their own.
        let with_cookies = matches!(
            reason,
            Reason::SynCookie | Reason::CookieAccepted | Reason::CookieRefused | Reason::ListenerFull
        );
        if !with_cookies && !matches!(reason, Reason::Off | Reason::ByteRate) {
            assert!(seen[reason as usize] > 0, "{reason:?} never came up: {seen:?}");
        }
    }
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
    let packets = packets.min(FUZZ_PACKETS);
    let mut mutations = Mutations::new(seed);
    let (mut number, mut seen) = (0, [0; 2]);
    // A row is long enough for some sources to run out of bytes.
    while number < packets {
        let bytes = |burst| Some(Rate { per_s: 0.25, burst });
        let config = Prefilter { bytes: bytes(128 << 10), network_bytes: bytes(140 << 10), ..prefilter() };
        let mut sides = Sides::new(config);
        let settings = sides.lab.filter.settings().expect("settings");
        let until_ns = nic::monotonic_ns() + settings.bytes.interval_ns / BYTES_PER_INTERVAL;
        loop {
            let mut packet = mutations.next();
            // Padding costs bytes and says nothing.
            packet.resize(packet.len() + PADDING, 0);
            let (found, expected) = sides.judge(&packet);
            if number >= packets || nic::monotonic_ns() >= until_ns {
                break;
            }
            assert_eq!(found, expected, "seed {seed}, packet {number}: {packet:02x?}");
            number += 1;
        }
        for (seen, reason) in seen.iter_mut().zip([Reason::ByteRate, Reason::NetworkRate]) {
            *seen += sides.seen[reason as usize];
        }
    }
    assert!(!seen.contains(&0), "buckets that ran out of bytes: {seen:?}");
}
