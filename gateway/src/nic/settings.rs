//! `[prefilter]` → what the program reads. Pure.

use gateway_ebpf::layout::{
    BYTES_PER_INTERVAL, DROP_MALFORMED, DRY_RUN, HAS_ALLOW4, HAS_ALLOW6, MODE_ON, PORT_WORDS, Pace, Settings,
    port_bit,
};
use ipnet::IpNet;

use super::prefix::canonical;
use crate::config::{FilterPorts, Prefilter, Rate};

/// No pace is slower than this, so that sums of clock, interval and tolerance stay far from overflow.
const NS_MAX: u64 = 1 << 60;
/// No pace of bytes is slower, so that an interval times the bytes of a frame stays far from overflow.
const BYTES_NS_MAX: u64 = 1 << 42;
/// No frame is longer, also of those that the kernel has merged.
const FRAME_BYTES_MAX: u64 = 128 << 10;
/// Samples may come in bursts of what the rate gives in a fiftieth of a second: more than a tick of the coarse clock.
const SAMPLE_BURSTS_PER_S: u32 = 50;

/// `seed` is kept while the maps live; `cells` is the limiter's real size, a power of two.
pub(super) fn settings(prefilter: &Prefilter, seed: u64, cells: u32) -> Settings {
    let mut flags = 0;
    if prefilter.dry_run {
        flags |= DRY_RUN;
    }
    if prefilter.drop_malformed {
        flags |= DROP_MALFORMED;
    }
    if prefilter.allow.iter().any(|prefix| matches!(canonical(*prefix), IpNet::V4(_))) {
        flags |= HAS_ALLOW4;
    }
    if prefilter.allow.iter().any(|prefix| matches!(canonical(*prefix), IpNet::V6(_))) {
        flags |= HAS_ALLOW6;
    }
    let samples = Rate {
        per_s: f64::from(prefilter.samples_per_s),
        burst: u64::from(prefilter.samples_per_s / SAMPLE_BURSTS_PER_S).max(1),
    };
    Settings {
        mode: MODE_ON,
        flags,
        cell_mask: cells.saturating_sub(1),
        source_mask_v4: mask_v4(prefilter.source_prefix_v4),
        source_mask_v6: mask_v6(prefilter.source_prefix_v6),
        seed,
        packets: pace(prefilter.packets),
        syns: pace(prefilter.syns),
        bytes: pace_of_bytes(prefilter.bytes),
        network_packets: pace(prefilter.network_packets),
        network_syns: pace(prefilter.network_syns),
        network_bytes: pace_of_bytes(prefilter.network_bytes),
        samples: pace((prefilter.samples_per_s > 0).then_some(samples)),
    }
}

/// How many cells the limiter is made with: a power of two.
pub(super) fn cells(sources_max: u32) -> u32 {
    const CELLS_MIN: u32 = 16;
    const CELLS_MAX: u32 = 1 << 26;
    sources_max.clamp(CELLS_MIN, CELLS_MAX).next_power_of_two()
}

/// One bit per limited port.
pub(super) fn port_words(ports: &FilterPorts, listener_ports: &[u16]) -> Box<[u64; PORT_WORDS]> {
    let listed = match ports {
        FilterPorts::Listeners => listener_ports,
        FilterPorts::Ports(ports) => ports,
    };
    let mut words = Box::new([0; PORT_WORDS]);
    for port in listed {
        let (word, bit) = port_bit(*port);
        if let Some(word) = words.get_mut(word as usize) {
            *word |= 1 << bit;
        }
    }
    words
}

/// The bits of an IPv4 address that make a source.
pub(super) fn mask_v4(prefix_bits: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix_bits.min(32))).unwrap_or(0)
}

/// The bits of an IPv6 address's upper half that make a source.
pub(super) fn mask_v6(prefix_bits: u8) -> u64 {
    u64::MAX.checked_shl(64 - u32::from(prefix_bits.min(64))).unwrap_or(0)
}

pub(super) fn pace(rate: Option<Rate>) -> Pace {
    let Some(rate) = rate else {
        return Pace::default();
    };
    let interval_ns = whole_ns(1e9 / rate.per_s, NS_MAX);
    let tolerance_ns = interval_ns.saturating_mul(rate.burst.saturating_sub(1)).min(NS_MAX);
    Pace { interval_ns, tolerance_ns }
}

/// Of bytes: the interval is for [`BYTES_PER_INTERVAL`] of them, the tolerance is that of a whole burst.
fn pace_of_bytes(rate: Option<Rate>) -> Pace {
    let Some(rate) = rate else {
        return Pace::default();
    };
    #[expect(clippy::cast_precision_loss, reason = "a burst of 2^53 bytes is none")]
    let (of_interval, of_burst) = (BYTES_PER_INTERVAL as f64, rate.burst as f64);
    let interval_ns = whole_ns(1e9 * of_interval / rate.per_s, BYTES_NS_MAX);
    // Rounding must not leave less than the largest frames cost.
    let largest_ns = interval_ns * (FRAME_BYTES_MAX / BYTES_PER_INTERVAL);
    let tolerance_ns = whole_ns(1e9 * of_burst / rate.per_s, NS_MAX).max(largest_ns);
    Pace { interval_ns, tolerance_ns }
}

/// Never 0, which would stand for no limit.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float cast saturates, and the clamp follows"
)]
fn whole_ns(ns: f64, most: u64) -> u64 {
    (ns as u64).clamp(1, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_becomes_an_interval_and_a_tolerance() {
        #[track_caller]
        fn check(per_s: f64, burst: u64, interval_ns: u64, tolerance_ns: u64) {
            assert_eq!(pace(Some(Rate { per_s, burst })), Pace { interval_ns, tolerance_ns });
        }
        check(1.0, 1, 1_000_000_000, 0);
        check(200.0, 400, 5_000_000, 399 * 5_000_000);
        check(20_000.0, 40_000, 50_000, 39_999 * 50_000);
        check(1e12, 1, 1, 0);
        check(1e-12, u64::MAX, NS_MAX, NS_MAX);
        assert_eq!(pace(None), Pace { interval_ns: 0, tolerance_ns: 0 });
    }

    #[test]
    fn a_rate_of_bytes_becomes_an_interval_of_a_kibibyte() {
        #[track_caller]
        fn check(per_s: f64, burst: u64, interval_ns: u64, tolerance_ns: u64) {
            assert_eq!(pace_of_bytes(Some(Rate { per_s, burst })), Pace { interval_ns, tolerance_ns });
        }
        check(1024.0, 131_072, 1_000_000_000, 128_000_000_000);
        check(100.0 * 1_048_576.0, 200 << 20, 9_765, 2_000_000_000);
        check(12.5e9, 1 << 30, 81, 85_899_345);
        check(1.0, 131_072, 1_024_000_000_000, 131_072_000_000_000);
        check(1e15, 131_072, 1, 128);
        assert_eq!(pace_of_bytes(None), Pace::default());
    }

    #[test]
    fn prefix_lengths_become_masks() {
        assert_eq!([0, 8, 24, 32].map(mask_v4), [0, 0xff00_0000, 0xffff_ff00, u32::MAX]);
        assert_eq!([0, 16, 48, 64].map(mask_v6), [0, 0xffff << 48, u64::MAX << 16, u64::MAX]);
    }

    #[test]
    fn the_limiter_has_a_power_of_two_of_cells() {
        assert_eq!([0, 16, 17, 1_000_000, u32::MAX].map(cells), [16, 16, 32, 1 << 20, 1 << 26]);
    }

    #[test]
    fn ports_become_bits() {
        let words = port_words(&FilterPorts::Listeners, &[0, 63, 64, 65_535]);
        assert_eq!((words[0], words[1], words[1023]), (1 | 1 << 63, 1, 1 << 63));
        assert_eq!(words.iter().map(|word| word.count_ones()).sum::<u32>(), 4);
        let words = port_words(&FilterPorts::Ports(vec![443]), &[80]);
        assert_eq!(words.iter().map(|word| word.count_ones()).sum::<u32>(), 1);
    }
}
