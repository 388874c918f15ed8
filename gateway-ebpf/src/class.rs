//! What is known of many addresses at once, in front of the exact tables: two bits per IPv4 /24, and per IPv6 /48.
//!
//! Comes in: allow prefixes and blocks as [`Rule4`]s, IPv6 prefixes as they are. Goes out: where their bits lie and
//! what they must be. Most packets come from a /24 that no rule touches, and then nothing else is looked up. Pure: the
//! program reads the bits, user space writes them, host tests check both.
//!
//! The exact tables are the truth. [`Class::Any`] is always right, since it claims nothing; every other class claims
//! something about the tables that has to hold for as long as it can be read. So who changes the tables first takes
//! back what would no longer hold, and only who has seen all of the tables claims anything. The guard of IPv6 claims
//! by clear bits that no rule, or no allow prefix, touches the /48; a bit that is set claims nothing. In front of both
//! stands a bit for each IPv4 /16 and each hashed IPv6 /32, few enough to stay in the fastest cache: where it is clear,
//! no rule touches it, and classes and guard need not be read.

use crate::bucket::mix;

/// Words of `CLASS24`, each with the classes of 32 neighbouring /24s.
pub const CLASS_WORDS: usize = (1 << 24) / 32;

/// Entries of `GUARD6`, of two bits each; a power of two.
pub const GUARD_ENTRIES: u32 = 1 << 24;
/// Index of the last word of `GUARD6`: the entry of rules that are too wide for others.
pub const GUARD_WIDE: u32 = GUARD_ENTRIES / 32;
/// Words of `GUARD6`.
pub const GUARD_WORDS: usize = GUARD_WIDE as usize + 1;
/// A rule touches the prefix.
pub const GUARD_RULE: u64 = 1;
/// An allow prefix does.
pub const GUARD_ALLOW: u64 = 2;

/// Words of [`crate::layout::Orders::touched`]: those of IPv4, then as many of IPv6.
pub const TOUCHED_WORDS: usize = 2 * TOUCHED6_AT as usize;
const TOUCHED6_AT: u32 = (1 << 16) / 64;

/// Which bit of which word says that a rule touches the /16 of an IPv4 address.
#[inline(always)]
pub const fn touched4(address: u32) -> (u32, u32) {
    (address >> 22, address >> 16 & 63)
}

/// The same of the /32 of an IPv6 address, by its upper half. Others may share the bit.
#[inline(always)]
pub const fn touched6(upper: u64) -> (u32, u32) {
    let slot = (mix(upper >> 32, SALT_32) >> 48) as u32;
    (TOUCHED6_AT + (slot >> 6), slot & 63)
}

/// Calls `set` with the word and the bits of all that an IPv4 prefix touches.
pub fn touch4(address: u32, prefix_bits: u8, mut set: impl FnMut(usize, u64)) {
    let count = 1_u32 << 16_u32.saturating_sub(u32::from(prefix_bits));
    let first = (address >> 16) & !(count - 1);
    let mask = if count >= 64 { u64::MAX } else { ((1 << count) - 1) << (first & 63) };
    (0..count.div_ceil(64)).for_each(|word| set(((first >> 6) + word) as usize, mask));
}

/// The same of an IPv6 prefix.
pub fn touch6(upper: u64, prefix_bits: u8, mut set: impl FnMut(usize, u64)) {
    if prefix_bits < GUARD_WIDEST {
        (TOUCHED6_AT as usize..TOUCHED_WORDS).for_each(|word| set(word, u64::MAX));
        return;
    }
    for key in keys_of_32(upper, prefix_bits) {
        let (word, bit) = touched6(key << 32);
        set(word as usize, 1 << bit);
    }
}

/// What the tables hold about a /24.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Class {
    /// No rule touches it.
    Clean = 0,
    /// A block without an end holds all of it, and no allow prefix any of it.
    Drop = 1,
    /// No allow prefix touches it: only blocks and throttles have to be asked for.
    Deeper = 2,
    /// Anything may be: also an allow prefix.
    Any = 3,
}

impl Class {
    /// The class of an address, out of the word at [`class_index`].
    #[inline(always)]
    pub const fn of(word: u64, address: u32) -> Self {
        match word >> (address >> 8 << 1 & 63) & 3 {
            0 => Self::Clean,
            1 => Self::Drop,
            2 => Self::Deeper,
            _ => Self::Any,
        }
    }

    /// A word of nothing else.
    pub const fn pattern(self) -> u64 {
        self as u64 * 0x5555_5555_5555_5555
    }
}

/// The word once a block or a throttle touches the /24s of these bits: none of them is clean any more, and whatever
/// else was claimed still holds.
pub const fn with_block(word: u64, mask: u64) -> u64 {
    let clean = !(word | word >> 1) & Class::Drop.pattern() & mask;
    word | clean << 1
}

/// The word of `CLASS24` that holds the class of an address (host byte order).
#[inline(always)]
pub const fn class_index(address: u32) -> u32 {
    address >> 13
}

/// Where the classes of a prefix lie: words, and the bits of each. A prefix longer than 24 bits has the /24 it is in.
pub fn spans(address: u32, prefix_bits: u8) -> impl Iterator<Item = (usize, u64)> + Clone {
    let count = 1_u32 << 24_u32.saturating_sub(u32::from(prefix_bits));
    let first = (address >> 8) & !(count - 1);
    // A prefix of fewer than 32 /24s lies within one word, a wider one fills whole words.
    let mask = if count >= 32 { u64::MAX } else { ((1 << (count << 1)) - 1) << ((first & 31) << 1) };
    let word = first >> 5;
    (word..=word + (count - 1) / 32).map(move |index| (index as usize, mask))
}

/// An allow prefix or a block of IPv4, as far as classes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule4 {
    /// Host byte order.
    pub address: u32,
    /// At most 32.
    pub prefix_bits: u8,
    /// What it does.
    pub effect: Effect,
}

/// What a rule does to the packets that it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Lets them pass, whatever else is said of them.
    Allow,
    /// Drops them, and has no end.
    DropForGood,
    /// Something that the program has to look at each time: a block that ends, a throttle.
    Look,
}

/// Writes the classes that these rules make into words that are all zero. Where several touch a /24, allowing wins
/// over dropping as it does in the verdict, and a block that holds only a part of it makes it [`Class::Deeper`].
pub fn classify24(words: &mut [u64], rules: &[Rule4]) {
    let passes = [
        (Effect::Look, None, Class::Deeper),
        (Effect::DropForGood, Some(false), Class::Deeper),
        (Effect::DropForGood, Some(true), Class::Drop),
        (Effect::Allow, None, Class::Any),
    ];
    for (effect, whole, class) in passes {
        let fits = |rule: &Rule4| {
            rule.effect == effect && whole.is_none_or(|whole| whole == (rule.prefix_bits <= 24))
        };
        for rule in rules.iter().filter(|rule| fits(rule)) {
            for (index, mask) in spans(rule.address, rule.prefix_bits) {
                if let Some(word) = words.get_mut(index) {
                    *word = *word & !mask | class.pattern() & mask;
                }
            }
        }
    }
}

/// Rules narrower than this have the entry of a /48; wider ones those of their /32s.
const GUARD_NARROW: u8 = 48;
/// Rules wider than this would have too many entries.
const GUARD_WIDEST: u8 = 20;

/// Two kinds of key share the entries.
const SALT_48: u64 = 0x9e37_79b9_7f4a_7c15;
const SALT_32: u64 = 0xd1b5_4a32_d192_ed03;

/// The two entries that guard an IPv6 address: for its /48 and its /32. `upper` is the address's upper half.
#[inline(always)]
pub const fn guard_entries(upper: u64) -> [u32; 2] {
    let hash = [mix(upper >> 16, SALT_48), mix(upper >> 32, SALT_32)];
    [hash[0] as u32 & (GUARD_ENTRIES - 1), hash[1] as u32 & (GUARD_ENTRIES - 1)]
}

/// Where an entry lies in `GUARD6`: the word's index, and by how much it is shifted.
#[inline(always)]
pub const fn guard_at(entry: u32) -> (u32, u32) {
    (entry >> 5, (entry & 31) * 2)
}

/// Calls `set` with the word and the bits of every entry of a rule on this prefix.
pub fn guard(upper: u64, prefix_bits: u8, allows: bool, mut set: impl FnMut(usize, u64)) {
    let bits = if allows { GUARD_RULE | GUARD_ALLOW } else { GUARD_RULE };
    if prefix_bits < GUARD_WIDEST {
        set(GUARD_WIDE as usize, bits);
        return;
    }
    let narrow = prefix_bits >= GUARD_NARROW;
    for key in keys_of_32(upper, prefix_bits) {
        let [of_48, of_32] = guard_entries(if narrow { upper } else { key << 32 });
        let (word, shift) = guard_at(if narrow { of_48 } else { of_32 });
        set(word as usize, bits << shift);
    }
}

/// The /32s of a prefix, or the one that it is in.
fn keys_of_32(upper: u64, prefix_bits: u8) -> core::ops::Range<u64> {
    let count = 1_u64 << 32_u32.saturating_sub(u32::from(prefix_bits));
    let first = (upper >> 32) & !(count - 1);
    first..first + count
}

const _: () = {
    assert!(GUARD_ENTRIES.is_power_of_two());
    assert!(Class::Any.pattern() == u64::MAX);
    assert!(GUARD_WIDEST <= 32 && GUARD_NARROW > 32);
};

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn rule(prefix: &str, effect: Effect) -> Rule4 {
        let (address, bits) = prefix.split_once('/').unwrap();
        Rule4 {
            address: address.parse::<Ipv4Addr>().unwrap().to_bits(),
            prefix_bits: bits.parse().unwrap(),
            effect,
        }
    }

    fn class_in(words: &[u64], address: &str) -> Class {
        let address = address.parse::<Ipv4Addr>().unwrap().to_bits();
        Class::of(words[class_index(address) as usize], address)
    }

    #[test]
    fn a_prefix_has_the_bits_of_its_24s() {
        #[track_caller]
        fn check(prefix: &str, words: usize, bits: u32) {
            let rule = rule(prefix, Effect::Look);
            let spans: Vec<(usize, u64)> = spans(rule.address, rule.prefix_bits).collect();
            assert_eq!(spans.len(), words, "{prefix}");
            assert!(spans.iter().all(|(index, mask)| *index < CLASS_WORDS && mask.count_ones() == bits));
            assert_eq!(spans[0].0, class_index(rule.address) as usize, "{prefix}");
        }
        check("0.0.0.0/0", CLASS_WORDS, 64);
        check("10.0.0.0/8", 1 << 11, 64);
        check("192.0.0.0/18", 2, 64);
        check("192.0.0.0/19", 1, 64);
        check("192.0.16.0/20", 1, 32);
        check("192.0.2.0/23", 1, 4);
        check("192.0.2.0/24", 1, 2);
        check("192.0.2.128/25", 1, 2);
        check("255.255.255.255/32", 1, 2);
    }

    #[test]
    fn rules_make_classes() {
        use Effect::{Allow, DropForGood, Look};
        #[track_caller]
        fn check(rules: &[(&str, Effect)], address: &str, expected: Class) {
            // The order of the rules must not matter.
            for backwards in [false, true] {
                let mut rules: Vec<Rule4> =
                    rules.iter().map(|(prefix, effect)| rule(prefix, *effect)).collect();
                if backwards {
                    rules.reverse();
                }
                let mut words = vec![0; CLASS_WORDS];
                classify24(&mut words, &rules);
                assert_eq!(class_in(&words, address), expected, "{rules:?} {address}");
            }
        }
        check(&[], "192.0.2.1", Class::Clean);
        check(&[("192.0.2.0/24", DropForGood)], "192.0.2.255", Class::Drop);
        check(&[("192.0.2.0/24", DropForGood)], "192.0.3.0", Class::Clean);
        check(&[("192.0.2.0/24", DropForGood)], "192.0.1.255", Class::Clean);
        check(&[("192.0.0.0/16", DropForGood)], "192.0.255.1", Class::Drop);
        check(&[("192.0.2.0/25", DropForGood)], "192.0.2.200", Class::Deeper);
        check(&[("192.0.2.0/24", Look)], "192.0.2.1", Class::Deeper);
        check(&[("192.0.2.7/32", Look)], "192.0.2.1", Class::Deeper);
        check(&[("192.0.2.0/24", Allow)], "192.0.2.1", Class::Any);
        check(&[("192.0.2.7/32", Allow)], "192.0.2.1", Class::Any);
        // What is allowed in part is never dropped whole, and what is dropped anyway needs no look at its bans.
        check(&[("192.0.0.0/16", DropForGood), ("192.0.2.7/32", Allow)], "192.0.2.1", Class::Any);
        check(&[("192.0.0.0/16", DropForGood), ("192.0.2.7/32", Allow)], "192.0.3.1", Class::Drop);
        check(&[("192.0.0.0/16", DropForGood), ("192.0.2.7/32", Look)], "192.0.2.1", Class::Drop);
        check(&[("192.0.0.0/16", Look), ("192.0.2.0/24", DropForGood)], "192.0.2.1", Class::Drop);
        // Allowing wins over everything within it.
        check(&[("192.0.0.0/16", Allow), ("192.0.2.7/32", Look)], "192.0.2.7", Class::Any);
        check(&[("192.0.0.0/16", Allow), ("192.0.0.0/8", DropForGood)], "192.0.2.7", Class::Any);
        check(&[("192.0.0.0/16", Allow), ("192.0.2.7/32", Allow)], "192.0.2.1", Class::Any);
        check(&[("0.0.0.0/0", DropForGood)], "255.255.255.255", Class::Drop);
    }

    #[test]
    fn a_block_makes_clean_24s_ones_to_look_at_and_no_others() {
        let before = 0b11_10_01_00_11_10_01_00;
        assert_eq!(with_block(before, u64::MAX), before | 0b10_00_00_00_10 | Class::Deeper.pattern() << 16);
        assert_eq!(with_block(before, 0xff), before | 0b10);
        assert_eq!(with_block(0, 0b1100), 0b1000);
    }

    #[test]
    fn every_address_of_a_rule_is_guarded() {
        for (upper, prefix_bits) in [
            (0x2001_0db8_0000_0000, 20),
            (0x2001_0db8_0000_0000, 29),
            (0x2001_0db8_0000_0000, 32),
            (0x2001_0db8_aa00_0000, 40),
            (0x2001_0db8_aabb_0000, 48),
            (0x2001_0db8_aabb_cc00, 56),
            (0x2001_0db8_aabb_ccdd, 64),
            (0x2001_0db8_aabb_ccdd, 128),
        ] {
            let (mut set, mut count) = (std::collections::HashMap::new(), 0);
            guard(upper, prefix_bits, false, |word, bits| {
                *set.entry(word).or_insert(0) |= bits;
                count += 1;
            });
            assert!(count <= 1 << (32 - GUARD_WIDEST));
            let host_bits = u64::MAX.checked_shr(u32::from(prefix_bits)).unwrap_or(0);
            for inside in [upper & !host_bits, upper | host_bits, upper | host_bits & 0x0f0f_0f0f_0f0f_0f0f] {
                let is_set = |entry: u32| {
                    let (word, shift) = guard_at(entry);
                    set.get(&(word as usize)).is_some_and(|bits| bits >> shift & 3 == GUARD_RULE)
                };
                assert!(guard_entries(inside).into_iter().any(is_set), "{inside:x}/{prefix_bits}");
            }
        }
        let mut wide = Vec::new();
        guard(0x2000_0000_0000_0000, 3, true, |word, bits| wide.push((word, bits)));
        assert_eq!(wide, [(GUARD_WIDE as usize, GUARD_RULE | GUARD_ALLOW)]);
    }

    #[test]
    fn every_address_of_a_rule_is_touched_and_a_16_beside_it_is_not() {
        let is_in =
            |words: &[u64; TOUCHED_WORDS], (word, bit): (u32, u32)| words[word as usize] >> bit & 1 == 1;
        for (prefix, inside, beside) in [
            ("10.0.0.0/8", ["10.0.0.0", "10.255.255.255"], "11.0.0.1"),
            ("10.64.0.0/11", ["10.64.0.0", "10.95.255.255"], "10.96.0.1"),
            ("192.0.2.0/24", ["192.0.0.0", "192.0.255.255"], "192.1.2.1"),
            ("192.0.2.7/32", ["192.0.2.7", "192.0.2.8"], "191.255.255.255"),
        ] {
            let rule = rule(prefix, Effect::Look);
            let mut words = [0; TOUCHED_WORDS];
            touch4(rule.address, rule.prefix_bits, |word, bits| words[word] |= bits);
            let of = |address: &str| touched4(address.parse::<Ipv4Addr>().unwrap().to_bits());
            assert!(inside.into_iter().all(|address| is_in(&words, of(address))), "{prefix}");
            assert!(!is_in(&words, of(beside)), "{prefix}");
        }
        for (prefix_bits, inside) in [
            (3, 0x3fff_ffff_0000_0001),
            (20, 0x2001_0fff_0000_0000),
            (32, 0x2001_0db8_ffff_ffff),
            (64, 0x2001_0db8_aabb_ccdd),
        ] {
            let mut words = [0; TOUCHED_WORDS];
            touch6(0x2001_0db8_aabb_ccdd, prefix_bits, |word, bits| words[word] |= bits);
            assert!(is_in(&words, touched6(inside)), "/{prefix_bits}");
            assert_eq!(words[..TOUCHED_WORDS / 2], [0; TOUCHED_WORDS / 2], "/{prefix_bits}");
            assert!(prefix_bits < 20 || words.iter().any(|word| *word != u64::MAX), "/{prefix_bits}");
        }
    }
}
