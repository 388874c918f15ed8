//! How many connections a source has open, over all workers: one table of fixed size, in which nobody waits.
//!
//! Comes in: who connects, and how many it may have. Goes out: a place that counts until it is dropped, or none. A slot
//! is one word, a source's fingerprint and its count, so every change is one compare-and-swap; a source lives in the
//! set of eight slots that its keyed hash names, and a count of zero leaves its slot to others.
//!
//! Where two workers meet a new source at once, it may get a slot from each; counts of one fingerprint are added up,
//! so it may exceed its limit by at most one connection per further worker in that moment, and never for good. A source
//! whose set is full of others is let in uncounted ([`Place::is_counted`]): there are twice as many slots as connections.
//! Two sources of one fingerprint in one set share a count: one chance in 2⁴⁸ per pair.

use std::{
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    num::NonZeroU64,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use super::limit::Subject;
use crate::config::CONNECTIONS_PER_SOURCE_MAX;

/// Slots that one source may be in: a cache line.
const SLOTS_PER_SET: usize = 8;
/// 64 MiB of slots.
const SETS_MAX: usize = 1 << 20;
/// The count takes the low bits, the fingerprint the others.
const COUNT_BITS: u32 = 16;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;

const _: () = assert!((CONNECTIONS_PER_SOURCE_MAX as u64) < COUNT_MASK);

/// Connections by source.
pub struct Crowd {
    sets: Box<[Set]>,
    keyed: RandomState,
}

#[repr(align(64))]
#[derive(Default)]
struct Set([AtomicU64; SLOTS_PER_SET]);

/// One connection, counted until this is dropped.
pub struct Place {
    crowd: Arc<Crowd>,
    /// The hash of its source; none: it was let in uncounted.
    hash: Option<NonZeroU64>,
}

impl std::fmt::Debug for Crowd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Crowd").field("sets", &self.sets.len()).finish_non_exhaustive()
    }
}

impl Crowd {
    /// A table for so many connections, 16 bytes each, all taken now. `keyed` keeps outsiders from choosing who shares
    /// a set with them.
    pub fn new(connections: usize, keyed: RandomState) -> Self {
        let sets = (connections.div_ceil(SLOTS_PER_SET / 2)).max(1).next_power_of_two().min(SETS_MAX);
        Self { sets: std::iter::repeat_with(Set::default).take(sets).collect(), keyed }
    }

    /// Counts a connection of `source` (an IPv6 one counts as its /64) to the listener of this name; none: it has
    /// `max` already.
    pub fn enter(self: &Arc<Self>, listener: &str, source: IpAddr, max: u32) -> Option<Place> {
        // Zero stands for none; that two sources in 2^64 share a hash changes nothing.
        let hash = self.keyed.hash_one((listener, Subject::source(source))).max(1);
        let place = |hash| Some(Place { crowd: Arc::clone(self), hash });
        match self.set(hash).enter(fingerprint(hash), u64::from(max.min(CONNECTIONS_PER_SOURCE_MAX))) {
            Entry::Counted => place(NonZeroU64::new(hash)),
            Entry::Full => None,
            Entry::NoSlot => place(None),
        }
    }

    fn set(&self, hash: u64) -> &Set {
        // The number of sets is a power of two and at least one, so the mask stays inside.
        #[expect(clippy::cast_possible_truncation, reason = "only the low bits are wanted")]
        let at = hash as usize & (self.sets.len() - 1);
        #[expect(clippy::indexing_slicing, reason = "masked in the line above")]
        &self.sets[at]
    }
}

impl Place {
    /// Whether the table had room for it.
    pub fn is_counted(&self) -> bool {
        self.hash.is_some()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(hash) = self.hash {
            let hash = hash.get();
            self.crowd.set(hash).leave(fingerprint(hash));
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    Counted,
    Full,
    NoSlot,
}

impl Set {
    fn enter(&self, fingerprint: u64, max: u64) -> Entry {
        // Ends: a swap fails only where another connection came or went.
        loop {
            let seen = self.0.each_ref().map(|slot| slot.load(SeqCst));
            let own = |word: &u64| count(*word) > 0 && *word & !COUNT_MASK == fingerprint;
            let total: u64 = seen.iter().filter(|word| own(word)).map(|word| count(*word)).sum();
            if total >= max {
                return Entry::Full;
            }
            let at = seen.iter().position(own).or_else(|| seen.iter().position(|word| count(*word) == 0));
            let Some((slot, word)) = at.and_then(|at| Some((self.0.get(at)?, *seen.get(at)?))) else {
                return Entry::NoSlot;
            };
            let next = if own(&word) { word + 1 } else { fingerprint | 1 };
            if slot.compare_exchange(word, next, SeqCst, SeqCst).is_ok() {
                return Entry::Counted;
            }
        }
    }

    fn leave(&self, fingerprint: u64) {
        for slot in &self.0 {
            let leave = |word| (word & !COUNT_MASK == fingerprint && count(word) > 0).then(|| word - 1);
            if slot.fetch_update(SeqCst, SeqCst, leave).is_ok() {
                return;
            }
        }
    }
}

fn count(word: u64) -> u64 {
    word & COUNT_MASK
}

/// The high bits; the low ones choose the set.
fn fingerprint(hash: u64) -> u64 {
    hash & !COUNT_MASK
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    fn crowd(connections: usize) -> Arc<Crowd> {
        Arc::new(Crowd::new(connections, RandomState::new()))
    }

    fn open(crowd: &Arc<Crowd>) -> u64 {
        crowd.sets.iter().flat_map(|set| &set.0).map(|slot| count(slot.load(SeqCst))).sum()
    }

    #[track_caller]
    fn enter(crowd: &Arc<Crowd>, source: &str, max: u32) -> Option<Place> {
        crowd.enter("public", source.parse().unwrap(), max)
    }

    #[test]
    fn a_source_has_so_many_places_and_gets_them_back() {
        let crowd = crowd(64);
        let mut held: Vec<_> = (0..3).map(|_| enter(&crowd, "192.0.2.1", 3).unwrap()).collect();
        assert!(enter(&crowd, "192.0.2.1", 3).is_none());
        assert!(enter(&crowd, "192.0.2.2", 3).is_some(), "others are others");
        assert!(crowd.enter("other", "192.0.2.1".parse().unwrap(), 3).is_some(), "listeners count apart");
        held.pop();
        held.push(enter(&crowd, "192.0.2.1", 3).unwrap());
        assert!(enter(&crowd, "192.0.2.1", 3).is_none());
        drop(held);
        assert_eq!(open(&crowd), 0);
    }

    #[test]
    fn a_source_is_its_64_and_its_canonical_address() {
        let crowd = crowd(64);
        let _one = enter(&crowd, "2001:db8::1", 1).unwrap();
        assert!(enter(&crowd, "2001:db8::ffff:2", 1).is_none());
        assert!(enter(&crowd, "2001:db8:0:1::1", 1).is_some());
        let _four = enter(&crowd, "192.0.2.1", 1).unwrap();
        assert!(enter(&crowd, "::ffff:192.0.2.1", 1).is_none());
    }

    #[test]
    fn a_full_set_lets_in_uncounted() {
        let crowd = crowd(1);
        let sources: Vec<String> = (0..=SLOTS_PER_SET).map(|n| format!("192.0.2.{n}")).collect();
        let held: Vec<_> = sources.iter().map(|source| enter(&crowd, source, 1).unwrap()).collect();
        assert_eq!(held.iter().filter(|place| !place.is_counted()).count(), 1);
        assert_eq!(open(&crowd), SLOTS_PER_SET as u64);
        drop(held);
        assert_eq!(open(&crowd), 0, "who was not counted is not counted off");
    }

    #[test]
    fn workers_share_the_count() {
        const MAX: u32 = 100;
        const WORKERS: u64 = 4;
        let crowd = crowd(1024);
        let stop = AtomicBool::new(false);
        let over = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..WORKERS {
                scope.spawn(|| {
                    let mut held = Vec::new();
                    for turn in 0..20_000_u32 {
                        match enter(&crowd, "192.0.2.1", MAX) {
                            Some(place) if turn % 3 > 0 => held.push(place),
                            Some(_) => {}
                            None => held.truncate(held.len() / 2),
                        }
                    }
                    stop.store(true, SeqCst);
                });
            }
            scope.spawn(|| {
                while !stop.load(SeqCst) {
                    over.fetch_max(open(&crowd).saturating_sub(u64::from(MAX)), SeqCst);
                }
            });
        });
        assert!(over.load(SeqCst) < WORKERS, "{} too many", over.load(SeqCst));
        assert_eq!(open(&crowd), 0, "every place was given back");
    }
}
