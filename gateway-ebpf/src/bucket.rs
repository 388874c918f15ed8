//! The limiter: GCRA over two hashed cells of a plain array, both in one cache line.
//!
//! Comes in: the arrival times of a source's two cells, the clock, a [`Pace`]. Goes out: admitted or refused. A source
//! shares each of its cells with strangers, so the cell that has been used less is the better estimate and alone
//! decides; both are raised. The state can't be flooded out as a table of sources could, and it errs one way only: a
//! source never gets more than rate × time + burst, but may get less when both cells are shared.
//!
//! Source of the rule: ITU-T I.371, the virtual scheduling form of GCRA.

use crate::layout::{BYTES_PER_INTERVAL, Cell, Pace};

/// An arrival time further ahead than the pace can have put it, give or take this, was stored under a slower pace.
const STALE_AFTER_NS: u64 = 1_000_000_000;

/// Admits or refuses one packet; what is admitted is charged to both cells, what is refused to neither.
#[inline(always)]
pub fn admit(first_ns: &mut u64, second_ns: &mut u64, now_ns: u64, pace: Pace) -> bool {
    charge(first_ns, second_ns, now_ns, pace.interval_ns, pace.interval_ns + pace.tolerance_ns)
}

/// As [`admit`], for something that uses up `cost_ns`; its source may then be at most `ahead_ns` ahead of the clock.
#[inline(always)]
pub fn charge(first_ns: &mut u64, second_ns: &mut u64, now_ns: u64, cost_ns: u64, ahead_ns: u64) -> bool {
    let latest = now_ns + ahead_ns + STALE_AFTER_NS;
    let first = believed(*first_ns, latest);
    let second = believed(*second_ns, latest);
    let less_used = if first < second { first } else { second };
    let start = if less_used > now_ns { less_used } else { now_ns };
    let next = start + cost_ns;
    if next > now_ns + ahead_ns {
        return false;
    }
    if first < next {
        *first_ns = next;
    }
    if second < next {
        *second_ns = next;
    }
    true
}

/// A live change from a slow pace to a fast one must not lock out for a day those who used up the slow one: what the
/// pace at hand cannot have stored counts as unused.
#[inline(always)]
fn believed(arrival_ns: u64, latest_ns: u64) -> u64 {
    if arrival_ns > latest_ns { 0 } else { arrival_ns }
}

/// Whose buckets lie in the cells. All kinds share one array; each has a seed of its own, so that nobody can forge a
/// source that fills another kind's bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Bucket {
    /// Packets and SYNs of a source.
    Source = 0,
    /// Bytes of a source.
    SourceBytes = 1,
    /// Packets and SYNs of a network.
    Network = 2,
    /// Bytes of a network.
    NetworkBytes = 3,
}

/// What a packet of so many bytes uses up under a pace of bytes, whose interval is for [`BYTES_PER_INTERVAL`].
#[inline(always)]
pub const fn bytes_cost_ns(bytes: u64, pace: Pace) -> u64 {
    (bytes * pace.interval_ns) >> BYTES_PER_INTERVAL.ilog2()
}

/// The bucket's cells: two different ones out of one line of one array.
#[inline(always)]
pub fn cells_of(bucket: Bucket, key: u64, seed: u64, cell_mask: u32) -> (u32, u32) {
    let seed = if bucket as u64 == 0 { seed } else { mix(bucket as u64, seed) };
    let hash = mix(key, seed);
    let line = (hash >> 32) as u32 & cell_mask & !LINE_CELL_MASK;
    let first = hash as u32 & LINE_CELL_MASK;
    // Each of the others with the same probability.
    let differing = 1 + (((hash as u32 >> 8 & 0xff) * LINE_CELL_MASK) >> 8);
    (line | first, line | first ^ differing)
}

/// Cells of a cache line. Both cells of a bucket lie in one: a flood of random sources costs what it costs to fetch
/// their cells from memory. In turn a heavy source is met in both cells more often: see `ARCHITECTURE.md`, "The filter's
/// maps".
pub const LINE_CELLS: u32 = 4;

const LINE_CELL_MASK: u32 = LINE_CELLS - 1;

const _: () = assert!(LINE_CELLS as usize * size_of::<Cell>() == 64);

/// A seeded 64-bit mix (the finalizer of `MurmurHash3`): every bit of the key moves every bit of the result.
#[inline(always)]
pub(crate) const fn mix(key: u64, seed: u64) -> u64 {
    let mut hash = key ^ seed;
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}
