//! Block lists that others keep, as the program looks an address up in them.
//!
//! Comes in: a source address and the lines of a table, which user space has filled ([`fill`]) before the program sees
//! any of it. Goes out: listed or not. A table is one array of cache lines, so that a list is swapped as one pointer:
//! a packet that has taken the pointer is judged by one list from beginning to end. Who listed an address and how
//! often it was dropped is not in here; what is here is what fits into a few cache lines per look-up.
//!
//! IPv4, after `DIR-24-8` (Gupta, Lin and others: Routing Lookups in Hardware at Memory Access Speeds, 1998):
//!
//! ```text
//! source ──► a line: two bits for each of 192 /24s (clean · whole · deeper), ──► its leaf
//!            and how many are deeper before them                               4 bytes: at most two ranges,
//!            5.3 MiB                                                           or which set of 256 bits
//! ```
//!
//! IPv6: ranges of /64s in order, four to a line; a root of 65 536 slots over their span (a line, and how many more may
//! be meant) narrows the search to a few lines. A /64 of which only a part is listed points to ranges of its lower halves.

pub mod fill;

/// A cache line.
pub type Line = [u64; 8];

/// A table's lines.
pub trait Lines {
    /// The line of this number; `None`: past the end.
    fn line(&self, index: u32) -> Option<&Line>;
}

impl Lines for &[Line] {
    fn line(&self, index: u32) -> Option<&Line> {
        self.get(index as usize)
    }
}

/// /24s of which only a part is listed, at most.
pub const LEAVES4_MAX: u32 = 1 << 21;
/// Those among them that take more than two ranges, at most.
pub const SETS4_MAX: u32 = 1 << 18;
/// Words of a line that hold classes, of 32 /24s each. The next holds how many leaves there are before the line, the last
/// how many there are in it before each of its words, in a byte each.
const CLASS_WORDS: u32 = 6;
const CLASSES_AT: u32 = 0;
const LEAVES_AT: u32 = CLASSES_AT + ((1 << 24) / 32_u32).div_ceil(CLASS_WORDS);
const SETS_AT: u32 = LEAVES_AT + LEAVES4_MAX / 16;
/// Lines of a table of IPv4: 21.3 MiB.
pub const LINES4: usize = (SETS_AT + SETS4_MAX / 2) as usize;

/// Nothing of the /24 is listed.
#[cfg(test)]
const CLEAN: u64 = 0;
/// All of it is.
const WHOLE: u64 = 1;
/// A part of it is.
const DEEPER: u64 = 2;
/// Where [`DEEPER`] shows in a word of classes.
const DEEPER_BITS: u64 = 0xaaaa_aaaa_aaaa_aaaa;

/// A leaf's range that holds no address: from 255 to 0.
const LEAF_EMPTY: u32 = 0x00ff;
/// Ranges that a leaf holds itself.
const LEAF_RANGES: u32 = 2;

/// A leaf's first range that ends at 0, and does not begin there, says instead which set it is: its beginning less one
/// is the upper part of the number, the other range is the lower.
#[inline(always)]
const fn set_of(leaf: u32) -> Option<u32> {
    if leaf & 0xff00 == 0 && leaf & 0xff != 0 { Some(((leaf & 0xff) - 1) << 16 | leaf >> 16) } else { None }
}

/// Where the classes of the 32 /24s around this one lie: the line, and the word in it.
#[inline(always)]
const fn classes_at(source: u32) -> (u32, u32) {
    /// Rounded up; exact for words of less than 31 bits, and no division.
    const RECIPROCAL: u64 = (1 << 32) / CLASS_WORDS as u64 + 1;
    let word = source >> 13;
    let line = ((word as u64 * RECIPROCAL) >> 32) as u32;
    (CLASSES_AT + line, word - line * CLASS_WORDS)
}

/// Whether an IPv4 address, as a number, is listed.
#[inline(always)]
pub fn listed4(lines: &impl Lines, source: u32) -> bool {
    find4(lines, source).unwrap_or(false)
}

/// `None`: the table ends before it should.
#[inline(always)]
fn find4(lines: &impl Lines, source: u32) -> Option<bool> {
    let (at, word) = classes_at(source);
    let line = lines.line(at)?;
    let classes = *line.get((word & 7) as usize)?;
    let shift = (source >> 8 & 31) * 2;
    let class = classes >> shift & 3;
    if class < DEEPER {
        return Some(class == WHOLE);
    }
    let [.., before_line, before_word] = *line;
    let within = (classes & DEEPER_BITS & ((1 << shift) - 1)).count_ones();
    let leaf = before_line as u32 + (before_word >> (word * 8) & 255) as u32 + within;
    let leaf = (word_at(lines, LEAVES_AT, leaf >> 1)? >> ((leaf & 1) * 32)) as u32;
    let host = source & 255;
    if let Some(set) = set_of(leaf) {
        let set = word_at(lines, SETS_AT, set * 4 + (host >> 6))?;
        return Some(set >> (host & 63) & 1 == 1);
    }
    Some(in_leaf(leaf, host) || in_leaf(leaf >> 16, host))
}

/// Whether the lowest range of a leaf, first and last host in a byte each, holds this one.
#[inline(always)]
fn in_leaf(leaf: u32, host: u32) -> bool {
    leaf & 255 <= host && host <= leaf >> 8 & 255
}

/// Ranges of /64s, at most.
pub const RANGES6_MAX: u32 = 1 << 21;
/// Ranges within /64s, at most.
pub const HOSTS6_MAX: u32 = 1 << 20;
const ROOT_SLOTS: u32 = 1 << 16;
/// Behind the header, a line.
const ROOT_AT: u32 = 1;
/// The first /64 of each line of ranges.
const STARTS_AT: u32 = ROOT_AT + ROOT_SLOTS / 8;
const RANGES_AT: u32 = STARTS_AT + RANGES6_MAX / 4 / 8;
const HOSTS_AT: u32 = RANGES_AT + RANGES6_MAX / 4;
/// Lines of a table of IPv6: 52.5 MiB.
pub const LINES6: usize = (HOSTS_AT + HOSTS6_MAX / 4) as usize;

/// Halvings that find one of [`RANGES6_MAX`] / 4 lines, or one of [`HOSTS6_MAX`] ranges.
const HALVINGS_MAX: u32 = 21;

/// A range of /64s is its first and its last. A /64 that is listed in part is itself and, always less than that,
/// where its ranges lie: how many follow the first in the upper bits, the first one's number in the lower.
const HOST_INDEX_BITS: u32 = 21;
/// So a /64 before this one can't be listed in part: `0000::/20`, which holds no address that a packet may come from.
const PARTIAL_MIN: u64 = 1 << 44;

/// Whether an IPv6 address, as two numbers, is listed.
#[inline(always)]
pub fn listed6(lines: &impl Lines, upper: u64, lower: u64) -> bool {
    find6(lines, upper, lower).unwrap_or(false)
}

/// As [`find4`].
#[inline(always)]
fn find6(lines: &impl Lines, upper: u64, lower: u64) -> Option<bool> {
    let [first, last, shift, ..] = *lines.line(0)?;
    if upper < first || upper > last {
        return Some(false);
    }
    let slot = (upper - first) >> (shift & 63);
    let between = word_at(lines, ROOT_AT, slot as u32)?;
    let (mut low, mut more) = (between as u32, (between >> 32) as u32);
    for _ in 0..HALVINGS_MAX {
        if more == 0 {
            break;
        }
        let half = more.div_ceil(2);
        low += half & at_or_before(word_at(lines, STARTS_AT, low + half)?, upper) as u32;
        more -= half;
    }
    let line = lines.line(RANGES_AT + low)?;
    let [_, _, second, _, third, _, fourth, _] = *line;
    let range = (at_or_before(second, upper) & 1)
        + (at_or_before(third, upper) & 1)
        + (at_or_before(fourth, upper) & 1);
    let start = *line.get(((range * 2) & 7) as usize)?;
    let end = *line.get(((range * 2 + 1) & 7) as usize)?;
    if start <= end {
        return Some(start <= upper && upper <= end);
    }
    if start != upper {
        return Some(false);
    }
    in_hosts(lines, end, lower)
}

/// Whether the ranges of one /64 hold this lower half.
#[inline(always)]
fn in_hosts(lines: &impl Lines, place: u64, lower: u64) -> Option<bool> {
    let mut low = place as u32 & ((1 << HOST_INDEX_BITS) - 1);
    let mut more = (place >> HOST_INDEX_BITS) as u32;
    for _ in 0..HALVINGS_MAX {
        if more == 0 {
            break;
        }
        let half = more.div_ceil(2);
        low += half & at_or_before(word_at(lines, HOSTS_AT, (low + half) * 2)?, lower) as u32;
        more -= half;
    }
    let (start, end) = (word_at(lines, HOSTS_AT, low * 2)?, word_at(lines, HOSTS_AT, low * 2 + 1)?);
    Some(start <= lower && lower <= end)
}

/// All ones where `start` is at or before `key`, else zero: the borrow of their difference. Half of all branches in a
/// search are guessed wrong, and the verifier walks each way of each of them.
#[inline(always)]
fn at_or_before(start: u64, key: u64) -> u64 {
    let borrow = !key & start | (!key | start) & key.wrapping_sub(start);
    (borrow >> 63).wrapping_sub(1)
}

/// A word of the section that begins at line `at`.
#[inline(always)]
fn word_at(lines: &impl Lines, at: u32, index: u32) -> Option<u64> {
    lines.line(at + (index >> 3))?.get((index & 7) as usize).copied()
}

const _: () = {
    assert!(HOSTS6_MAX <= 1 << HOST_INDEX_BITS, "a range's number fits");
    assert!((HOSTS6_MAX as u64) << HOST_INDEX_BITS < PARTIAL_MIN, "a place is less than the /64 it is of");
    assert!(1 << HALVINGS_MAX >= HOSTS6_MAX && 1 << HALVINGS_MAX >= RANGES6_MAX / 4);
    assert!(LINES4 * size_of::<Line>() <= 22 << 20 && SETS4_MAX <= 255 << 16);
};

#[cfg(test)]
mod tests;
