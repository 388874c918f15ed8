//! Sources of which something good is known, and how hard the NIC is pressed, which is when that matters: tables of
//! fixed size, over all workers, in which nobody waits.
//!
//! Comes in: a source and when a request of it was authenticated, or answered well on a connection that has lived for
//! long. Goes out: when that was last, for one source or for the latest of them. The two kinds have a table each, since
//! a credential takes more than patience. A source lives in the set of eight slots that its keyed hash names; where all
//! are taken, it takes that of the one that was quiet for longest. So no table can be full, and to be pushed out takes
//! eight other sources of the same kind in the same set. During an attack no connection makes its source known anew.
//!
//! A slot is two words. Two workers that write one at once may lose a source, or date it by the other's request, which
//! is as recent; the next request of it sets that right.

use std::{
    hash::{BuildHasher, RandomState},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::atomic::{AtomicU64, Ordering::SeqCst},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::pressure::{Gauge, Pressure};

/// Sources of each kind that are known at once, 16 bytes each.
pub const SOURCES_MAX: usize = 65_536;
/// Slots that one source may be in: two cache lines.
const SLOTS_PER_SET: usize = 8;
/// A source that was noted within so long is not noted again, so that a busy one costs no store.
const FRESH_NS: u64 = 1_000_000_000;
/// What no source's address begins with (RFC 4291 §2.7: multicast): an IPv4 address follows.
const V4: u64 = 0xffff_0000_0000_0000;

/// Sources that pass before strangers under attack.
#[derive(Debug)]
pub struct Known {
    /// Consumers have proved who they are in requests from there.
    proven: Table,
    /// Connections from there have been good for long.
    steady: Table,
    pressure: Gauge,
}

struct Table {
    sets: Box<[Set]>,
    keyed: RandomState,
}

#[repr(align(64))]
#[derive(Default)]
struct Set {
    /// 0: a free slot.
    sources: [AtomicU64; SLOTS_PER_SET],
    seen_ns: [AtomicU64; SLOTS_PER_SET],
}

/// A source in one word: the upper half of an IPv6 address, or an IPv4 address in disguise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source(u64);

impl Source {
    /// The source of an address, by the lengths in bits that make one. `None`: nobody else has such an address.
    pub fn of(address: IpAddr, (bits_v4, bits_v6): (u8, u8)) -> Option<Self> {
        let word = match address.to_canonical() {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(bits_v4.min(32))).unwrap_or(0);
                V4 | u64::from(address.to_bits() & mask)
            }
            IpAddr::V6(address) => {
                let mask = u64::MAX.checked_shl(64 - u32::from(bits_v6.min(64))).unwrap_or(0);
                (address.to_bits() >> 64) as u64 & mask
            }
        };
        (word != 0).then_some(Self(word))
    }

    /// The prefix that it stands for.
    #[expect(clippy::cast_possible_truncation, reason = "the low half is the address")]
    pub fn prefix(self, (bits_v4, bits_v6): (u8, u8)) -> Option<IpNet> {
        if self.0 & V4 == V4 {
            let address = Ipv4Addr::from_bits(self.0 as u32);
            return Ipv4Net::new(address, bits_v4.min(32)).ok().map(|net| net.trunc().into());
        }
        let address = Ipv6Addr::from_bits(u128::from(self.0) << 64);
        Ipv6Net::new(address, bits_v6.min(64)).ok().map(|net| net.trunc().into())
    }
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").field("sets", &self.sets.len()).finish_non_exhaustive()
    }
}

impl Known {
    /// Tables for about so many sources of each kind, all of it taken now. `keyed` keeps outsiders from choosing who
    /// shares a set with them.
    pub fn new(sources: usize, keyed: RandomState) -> Self {
        let (proven, steady) = (Table::new(sources, keyed.clone()), Table::new(sources, keyed));
        Self { proven, steady, pressure: Gauge::default() }
    }

    /// How hard the NIC is pressed from now on. In an attack those who are known pass before strangers.
    pub fn set_pressure(&self, pressure: Pressure) {
        self.pressure.tell(pressure);
    }

    /// How hard it is pressed.
    pub fn pressure(&self) -> Pressure {
        self.pressure.read()
    }

    /// A request of this source was authenticated at `now_ns`.
    pub fn note_proven(&self, source: Source, now_ns: u64) {
        self.proven.note(source, now_ns);
    }

    /// At `now_ns` a connection of this source was good as it had been for long. Whoever has had none before an attack
    /// stays a stranger for as long as that lasts: patience costs an attacker little.
    pub fn note_steady(&self, source: Source, now_ns: u64) {
        if !self.steady.refresh(source, now_ns) && self.pressure() != Pressure::Attack {
            self.steady.insert(source, now_ns);
        }
    }

    /// When a request of this source was last authenticated, to the second.
    pub fn proven_ns(&self, source: Source) -> Option<u64> {
        self.proven.seen_ns(source)
    }

    /// Whether anything good was known of this source at `since_ns` or later.
    pub fn is_known(&self, source: Source, since_ns: u64) -> bool {
        [&self.proven, &self.steady].into_iter().any(|table| table.seen_ns(source) >= Some(since_ns.max(1)))
    }

    /// Every source of which something good was known at `since_ns` or later: first those who have proved it. One that
    /// has both may come twice.
    pub fn since(&self, since_ns: u64) -> impl Iterator<Item = Source> + '_ {
        let both = self.proven.since(since_ns).chain(self.steady.since(since_ns));
        both.map(|(source, _)| source)
    }
}

impl Table {
    fn new(sources: usize, keyed: RandomState) -> Self {
        let sets = sources.div_ceil(SLOTS_PER_SET).max(1).next_power_of_two();
        Self { sets: std::iter::repeat_with(Set::default).take(sets).collect(), keyed }
    }

    fn note(&self, source: Source, now_ns: u64) {
        if !self.refresh(source, now_ns) {
            self.insert(source, now_ns);
        }
    }

    /// Dates a source anew; false: it is not there.
    fn refresh(&self, source: Source, now_ns: u64) -> bool {
        let set = self.set(source);
        let Some(seen_ns) = set.position(source).and_then(|at| set.seen_ns.get(at)) else { return false };
        if seen_ns.load(SeqCst).saturating_add(FRESH_NS) <= now_ns {
            seen_ns.fetch_max(now_ns, SeqCst);
        }
        true
    }

    fn insert(&self, source: Source, now_ns: u64) {
        let set = self.set(source);
        let quiet =
            (0..SLOTS_PER_SET).min_by_key(|&at| set.seen_ns.get(at).map_or(u64::MAX, |ns| ns.load(SeqCst)));
        if let Some((slot, seen_ns)) = quiet.and_then(|at| Some((set.sources.get(at)?, set.seen_ns.get(at)?)))
        {
            slot.store(source.0, SeqCst);
            seen_ns.store(now_ns.max(1), SeqCst);
        }
    }

    /// When it was last noted, to the second.
    fn seen_ns(&self, source: Source) -> Option<u64> {
        let set = self.set(source);
        set.seen_ns.get(set.position(source)?).map(|seen_ns| seen_ns.load(SeqCst))
    }

    /// Every source that was noted at `since_ns` or later, with when that was, in no order.
    fn since(&self, since_ns: u64) -> impl Iterator<Item = (Source, u64)> + '_ {
        let slots = self.sets.iter().flat_map(|set| set.sources.iter().zip(&set.seen_ns));
        let read = slots.map(|(source, seen_ns)| (Source(source.load(SeqCst)), seen_ns.load(SeqCst)));
        read.filter(move |(source, seen_ns)| source.0 != 0 && *seen_ns >= since_ns.max(1))
    }

    fn set(&self, source: Source) -> &Set {
        let hash = self.keyed.hash_one(source.0);
        // The number of sets is a power of two and at least one, so the mask stays inside.
        #[expect(clippy::cast_possible_truncation, reason = "only the low bits are wanted")]
        let at = hash as usize & (self.sets.len() - 1);
        #[expect(clippy::indexing_slicing, reason = "masked in the line above")]
        &self.sets[at]
    }
}

impl Set {
    fn position(&self, source: Source) -> Option<usize> {
        self.sources.iter().position(|slot| slot.load(SeqCst) == source.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;
    const BITS: (u8, u8) = (32, 64);

    fn source(text: &str) -> Source {
        Source::of(text.parse().unwrap(), BITS).unwrap()
    }

    #[track_caller]
    fn check_source(address: &str, bits: (u8, u8), expected: Option<&str>) {
        let prefix = Source::of(address.parse().unwrap(), bits).map(|source| source.prefix(bits).unwrap());
        assert_eq!(prefix, expected.map(|text| text.parse().unwrap()), "{address}");
    }

    #[test]
    fn an_address_stands_for_its_source() {
        check_source("192.0.2.7", BITS, Some("192.0.2.7/32"));
        check_source("::ffff:192.0.2.7", BITS, Some("192.0.2.7/32"));
        check_source("192.0.2.7", (24, 64), Some("192.0.2.0/24"));
        check_source("2001:db8:1:2:3::4", BITS, Some("2001:db8:1:2::/64"));
        check_source("2001:db8:1:2:3::4", (32, 48), Some("2001:db8:1::/48"));
        check_source("::1", BITS, None);
        check_source("0.0.0.0", BITS, Some("0.0.0.0/32"));
    }

    #[test]
    fn a_source_is_known_from_its_latest_request_on() {
        let known = Table::new(64, RandomState::new());
        assert_eq!(known.seen_ns(source("192.0.2.1")), None);
        known.note(source("192.0.2.1"), 5 * S);
        known.note(source("192.0.2.1"), 6 * S - 1);
        assert_eq!(known.seen_ns(source("192.0.2.1")), Some(5 * S), "within a second nothing is written");
        known.note(source("192.0.2.1"), 6 * S);
        assert_eq!(known.seen_ns(source("192.0.2.1")), Some(6 * S));
        assert_eq!(known.seen_ns(source("192.0.2.2")), None);
        known.note(source("2001:db8::1"), 7 * S);
        assert_eq!(known.seen_ns(source("2001:db8::2")), Some(7 * S), "the same /64");
    }

    #[test]
    fn whoever_was_quiet_for_longest_makes_room() {
        let known = Table::new(SLOTS_PER_SET, RandomState::new());
        let sources: Vec<Source> = (0..=SLOTS_PER_SET).map(|n| source(&format!("192.0.2.{n}"))).collect();
        for (n, one) in sources.iter().take(SLOTS_PER_SET).enumerate() {
            known.note(*one, (n as u64 + 1) * S);
        }
        known.note(sources[0], 20 * S);
        known.note(sources[SLOTS_PER_SET], 21 * S);
        assert_eq!(known.seen_ns(sources[1]), None, "the second had become the oldest");
        let left = sources.iter().filter(|one| known.seen_ns(**one).is_some()).count();
        assert_eq!(left, SLOTS_PER_SET);
    }

    #[test]
    fn the_latest_can_be_listed() {
        let known = Table::new(1024, RandomState::new());
        for n in 0..100_u64 {
            known.note(source(&format!("192.0.2.{n}")), n * S);
        }
        let mut since: Vec<u64> = known.since(90 * S).map(|(_, seen_ns)| seen_ns / S).collect();
        since.sort_unstable();
        assert_eq!(since, (90..100).collect::<Vec<_>>());
    }

    #[test]
    fn patience_makes_nobody_known_during_an_attack_and_pushes_no_proof_out() {
        let known = Known::new(SLOTS_PER_SET, RandomState::new());
        let [proven, before, during] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(source);
        known.note_proven(proven, S);
        known.note_steady(before, S);
        known.set_pressure(Pressure::Attack);
        known.note_steady(during, 5 * S);
        known.note_steady(before, 5 * S);
        assert!(known.is_known(before, 5 * S) && !known.is_known(during, 0));
        assert_eq!(known.proven_ns(before), None);
        known.set_pressure(Pressure::Elevated);
        for n in 10..100 {
            known.note_steady(source(&format!("192.0.2.{n}")), 6 * S);
        }
        assert_eq!(known.proven_ns(proven), Some(S));
        assert!(known.is_known(proven, S) && !known.is_known(proven, S + 1));
        let since: Vec<Source> = known.since(0).collect();
        assert_eq!((since[0], since.len()), (proven, 1 + SLOTS_PER_SET));
    }

    #[test]
    fn workers_that_write_at_once_keep_every_source_whole() {
        let known = Table::new(8, RandomState::new());
        std::thread::scope(|scope| {
            for worker in 0..4_u8 {
                let known = &known;
                scope.spawn(move || {
                    for turn in 0..20_000_u64 {
                        let address = IpAddr::from([192, 0, worker, (turn % 16) as u8]);
                        known.note(Source::of(address, BITS).unwrap(), turn * S);
                    }
                });
            }
        });
        let valid = |source: Source| matches!(source.prefix(BITS), Some(IpNet::V4(net)) if net.addr().octets()[..2] == [192, 0]);
        assert!(known.since(0).all(|(source, _)| valid(source)));
    }
}
