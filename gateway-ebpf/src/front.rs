//! Which blocks certainly hold: a short cut past the tables of blocks, in one cache line.
//!
//! Comes in: a source, and for IPv6 each of a few lengths of its prefix. Goes out: the slot that claims it, or none,
//! which says nothing: then the tables are asked, which are the truth. A slot is claimed for a block that drops, and all
//! claims hold until one time, which no block that is claimed ends before: so slots need no end of their own, a million
//! sources fit into the cache, and the drops of most floods cost one line. What a slot has dropped is counted in it, a
//! byte of it, and charged to the block when the byte is full. Pure: the program looks up, user space claims.
//!
//! A key is mixed by a bijection, of which the upper bits are the line and all others stand in the slot: so a slot is
//! exact, though it does not hold the key. Some of those bits also say in which word of its line a claim is at home;
//! where that is full, it lies in any other.

use crate::bucket::mix;

/// A cache line: 16 slots of IPv4, of 32 bits each, or 8 of IPv6, of 64.
pub type Line = [u64; 8];

/// Lines of a table, of either family, at most: 16 MiB.
pub const LINES_MAX: u32 = 1 << 18;
/// Bits of a hash that number them.
const LINE_BITS: u32 = LINES_MAX.ilog2();

/// Lines of a table of IPv4 that has to do for so many blocks.
pub const fn lines4_for(entries_max: u32) -> u32 {
    lines_for(entries_max, OF_LINE4, SHIFT4_MAX)
}

/// As [`lines4_for`], of IPv6.
pub const fn lines6_for(entries_max: u32) -> u32 {
    lines_for(entries_max, OF_LINE6, SHIFT6_MAX)
}

const fn lines_for(entries_max: u32, of_line: u32, shift_max: u32) -> u32 {
    let (least, lines) = (LINES_MAX >> shift_max, entries_max / of_line);
    if lines >= LINES_MAX {
        LINES_MAX
    } else if lines <= least {
        least
    } else {
        lines.next_power_of_two()
    }
}

/// Claims that a line of IPv4 is to take, of its 16 slots.
const OF_LINE4: u32 = 8;
/// As [`OF_LINE4`], of the eight of IPv6.
const OF_LINE6: u32 = 4;

/// Lengths of IPv6 prefixes that are claimed: a look-up is made for each.
pub const LENGTHS6_MAX: u32 = 4;

/// The lowest byte of a slot: drops that are not yet charged.
pub const DROPS: u64 = 0xff;
/// The slot claims something.
pub const CLAIMED: u64 = 1 << 8;
/// Of IPv6: it is the block of a source, not of a prefix.
pub const OF_SOURCE: u64 = 1 << 9;
/// Of IPv6: the prefix's length less one.
const LENGTH_SHIFT: u32 = 10;
const TAG_SHIFT: u32 = 16;

/// A claim: where it lies, and what its slot is without drops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    /// Index of the line.
    pub line: u32,
    /// The slot.
    pub slot: u64,
}

/// As few claims as are made lie in `LINES_MAX >> shift` lines: so they take less of the cache. A slot has no room for
/// what a larger shift would leave to it.
pub const SHIFT4_MAX: u32 = 8;
/// As [`SHIFT4_MAX`].
pub const SHIFT6_MAX: u32 = 2;

/// The claim of an IPv4 source.
#[inline(always)]
pub const fn claim4(source: u32, seed: u64, shift: u32) -> Claim {
    const TAG_BITS: u32 = 32 - LINE_BITS + SHIFT4_MAX;
    let hash = mix32(source ^ seed as u32);
    // All that the line does not tell of the hash, and that for every shift.
    let tag = hash & ((1 << TAG_BITS) - 1);
    Claim { line: hash >> (32 - LINE_BITS + (shift & 15)), slot: (tag << (32 - TAG_BITS)) as u64 | CLAIMED }
}

/// How far to shift for so many claims of IPv4 in a table of so many lines, so that a line has room for those that are
/// meant for it, where that can be.
pub const fn shift4(claims: usize, lines: u32) -> u32 {
    fitting(claims, OF_LINE4, lines, SHIFT4_MAX)
}

/// As [`shift4`], of IPv6.
pub const fn shift6(claims: usize, lines: u32) -> u32 {
    fitting(claims, OF_LINE6, lines, SHIFT6_MAX)
}

const fn fitting(claims: usize, of_line: u32, lines: u32, shift_max: u32) -> u32 {
    let mut shift = shift_max;
    while LINES_MAX >> shift < lines && (LINES_MAX >> shift) as usize * (of_line as usize) < claims {
        shift -= 1;
    }
    shift
}

/// The claim of an IPv6 prefix of 1 to 64 bits, by its upper half: the block of a prefix, without [`OF_SOURCE`].
#[inline(always)]
pub const fn claim6(upper: u64, prefix_bits: u8, seed: u64, shift: u32) -> Claim {
    const _: () =
        assert!(LINE_BITS - SHIFT6_MAX >= TAG_SHIFT, "what the line does not tell fits into the slot");
    let hash = mix(upper, seed);
    let length = (prefix_bits as u64).wrapping_sub(1) & 63;
    let line = hash >> (64 - LINE_BITS + (shift & 3));
    Claim { line: line as u32, slot: hash << TAG_SHIFT | length << LENGTH_SHIFT | CLAIMED }
}

impl Claim {
    /// The word of its line in which it lies when there is room, so that most look-ups read no other.
    #[inline(always)]
    pub const fn home(self) -> u32 {
        (self.slot >> TAG_SHIFT) as u32 & 7
    }
}

/// Where the lower and the upper slot of a word of IPv4 begin.
const EACH: u64 = 1 << 32 | 1;

/// For each of a word's two slots of IPv4 that makes the claim its bit of [`EACH`].
#[inline(always)]
const fn found_in(word: u64, claim: Claim) -> u64 {
    // What differs, apart from the drops, as two numbers of 24 bits: subtracted from 2^24, only zero leaves that bit.
    let differing = ((word ^ (claim.slot * EACH)) >> 8) & (0xff_ffff * EACH);
    (((EACH << 24) - differing) >> 24) & EACH
}

/// The number of the slot in a line of IPv4 that makes this claim.
#[inline(always)]
pub fn find4(line: &Line, claim: Claim) -> Option<u32> {
    let home = claim.home();
    let at_home = found_in(*line.get(home as usize & 7)?, claim);
    if at_home != 0 {
        return Some(home * 2 + (at_home >> 32) as u32);
    }
    let mut found = 0;
    for (place, word) in line.iter().enumerate() {
        found |= found_in(*word, claim) << place;
    }
    // The upper half of a word is the second of its slots; half of all branches on that would be guessed wrong.
    let (lower, upper) = (found & 0xff, found >> 32);
    let is_upper = (upper + 0xff) >> 8 & 1;
    if found == 0 { None } else { Some(number_of_bit(lower | upper) * 2 + is_upper as u32) }
}

/// 1 if a slot of IPv6 makes the claim, else 0.
#[inline(always)]
const fn is_in(slot: u64, claim: Claim) -> u64 {
    let differing = (slot ^ claim.slot) & !(DROPS | OF_SOURCE);
    // Only less than nothing, and nothing that was it before, is zero.
    (differing.wrapping_sub(1) & !differing) >> 63
}

/// As [`find4`], of IPv6.
#[inline(always)]
pub fn find6(line: &Line, claim: Claim) -> Option<u32> {
    let home = claim.home();
    if is_in(*line.get(home as usize & 7)?, claim) != 0 {
        return Some(home);
    }
    let mut found = 0;
    for (place, slot) in line.iter().enumerate() {
        found |= is_in(*slot, claim) << place;
    }
    if found == 0 { None } else { Some(number_of_bit(found & 0xff)) }
}

/// The number of the only bit of eight that is set, without a branch: BPF has no instruction for it.
#[inline(always)]
const fn number_of_bit(bit: u64) -> u32 {
    /// Every three bits in a row of it are different.
    const SEQUENCE: u64 = 0b0001_0111;
    /// What they are for each number.
    const NUMBERS: u32 = 0x5637_4210;
    NUMBERS >> (((bit * SEQUENCE) >> 5 & 7) * 4) & 7
}

/// The finalizer of `MurmurHash3` for 32 bits: a bijection.
#[inline(always)]
const fn mix32(mut hash: u32) -> u32 {
    hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn few_claims_take_few_lines() {
        let of4 =
            |lines: u32| [0, 8_192, 8_193, 10_000, 1_000_000, 2_000_000].map(|claims| shift4(claims, lines));
        assert_eq!(of4(LINES_MAX), [8, 8, 7, 7, 1, 0]);
        assert_eq!(of4(LINES_MAX >> 3), [8, 8, 7, 7, 3, 3]);
        assert_eq!([0, 262_144, 262_145, 1_000_000].map(|claims| shift6(claims, LINES_MAX)), [2, 2, 1, 0]);
        assert_eq!([0, 1_000_000].map(|claims| shift6(claims, LINES_MAX >> 2)), [2, 2]);
    }

    #[test]
    fn a_table_has_room_for_all_that_may_be_blocked() {
        let kib = |lines: u32| lines / 16;
        assert_eq!([1, 65_536, 1_000_000, 16_777_216].map(lines4_for).map(kib), [64, 512, 8_192, 16_384]);
        assert_eq!(
            [1, 65_536, 1_000_000, 16_777_216].map(lines6_for).map(kib),
            [4_096, 4_096, 16_384, 16_384]
        );
    }

    #[test]
    fn bits_have_numbers() {
        assert_eq!(
            [0, 1, 2, 3, 4, 5, 6, 7].map(|number| number_of_bit(1 << number)),
            [0, 1, 2, 3, 4, 5, 6, 7]
        );
    }

    fn line4(slots: [u64; 16]) -> Line {
        std::array::from_fn(|word| slots[word * 2] | slots[word * 2 + 1] << 32)
    }

    proptest! {
        /// Whatever else a line holds and has counted, a claim is found where it is.
        #[test]
        fn a_claim_is_found_in_its_slot(
            sources in prop::collection::hash_set(any::<u32>(), 16),
            drops in any::<[u8; 16]>(),
            seed in any::<u64>(),
        ) {
            let claims: Vec<Claim> = sources.into_iter().map(|source| claim4(source, seed, 0)).collect();
            let slots: [u64; 16] = std::array::from_fn(|slot| claims[slot].slot | u64::from(drops[slot]));
            for (slot, claim) in claims.iter().enumerate() {
                // Sources of different lines may look alike.
                if claims.iter().filter(|other| other.slot == claim.slot).count() > 1 {
                    continue;
                }
                prop_assert_eq!(find4(&line4(slots), *claim), Some(slot as u32));
                let mut without = slots;
                without[slot] &= DROPS;
                prop_assert_eq!(find4(&line4(without), *claim), None);
            }
        }

        /// As above, of IPv6.
        #[test]
        fn a_claim_of_a_prefix_is_found_in_its_slot(
            uppers in prop::collection::hash_set(any::<u64>(), 8),
            drops in any::<[u8; 8]>(),
            seed in any::<u64>(),
        ) {
            let claims: Vec<Claim> = uppers.into_iter().map(|upper| claim6(upper, 48, seed, 2)).collect();
            let mut line: Line =
                std::array::from_fn(|slot| claims[slot].slot | u64::from(drops[slot]) | (slot as u64 & 1) << 9);
            for (slot, claim) in claims.iter().enumerate() {
                prop_assert_eq!(find6(&line, *claim), Some(slot as u32));
                let of_other_length = Claim { slot: claim.slot ^ 1 << LENGTH_SHIFT, ..*claim };
                prop_assert_eq!(find6(&line, of_other_length), None);
                line[slot] = u64::from(drops[slot]);
                prop_assert_eq!(find6(&line, *claim), None);
            }
        }

        /// No two keys share both a line and what a slot holds of them.
        #[test]
        fn a_claim_is_one_key_s(one in any::<u32>(), other in any::<u32>(), bit in 0_u32..64, seed in any::<u64>()) {
            prop_assume!(one != other);
            for shift in 0..=SHIFT4_MAX {
                let claim = claim4(one, seed, shift);
                prop_assert!(claim.line < LINES_MAX >> shift);
                prop_assert_ne!(claim, claim4(other, seed, shift));
                prop_assert_ne!(claim, claim4(one ^ 1 << (bit & 31), seed, shift));
            }
            let upper = u64::from(one) << 32 | u64::from(other);
            for shift in 0..=SHIFT6_MAX {
                let claim = claim6(upper, 64, seed, shift);
                prop_assert!(claim.line < LINES_MAX >> shift);
                prop_assert_ne!(claim6(upper ^ 1 << bit, 64, seed, shift), claim);
                prop_assert_ne!(claim6(upper, 63, seed, shift), claim);
            }
        }
    }
}
