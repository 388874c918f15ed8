//! How often: token buckets that are exact across all workers, in one table of fixed size.
//!
//! Comes in: who is asking for what, the bucket's rate and the time. Goes out: admitted, or how long to wait.
//! A bucket is one time, the generic cell rate algorithm's theoretical arrival time (ITU-T I.371): each admission
//! moves it by one interval, and a request conforms while it lies at most `burst - 1` intervals ahead of now. A
//! bucket whose time has passed is full, which is the same as absent: nothing is ever swept.
//!
//! The table is sets of eight slots; a subject lives in the set that its keyed hash names. A slot changes only by
//! compare-and-swap of its `arrival`, which is also its version:
//!
//! ```text
//!                 reserve              publish the key, look for a twin, commit
//!   FREE ───────────────────► RESERVED ────────────────────────────────────────► arrival of K
//!   arrival ≤ now of K' ────►    │                                                   │   ▲
//!   (else the smallest: evicted) └──────► FREE (a twin was there first)              └───┘ admit
//! ```
//!
//! Readers load `arrival` before the key, so a slot that changes hands between the two makes their swap fail. Of
//! two that reserve slots for one key at once, each publishes its key before it looks for the other: at least one
//! sees the other and gives way, so a key never has two buckets and the limit is exact. What is reserved and not
//! published still shows the key of the slot's last owner: nobody takes that for a twin, or frees it, so that a key
//! is only ever written by whoever has reserved the slot.
//!
//! It never locks, allocates after construction, reads a clock, or forgets a bucket that still holds back someone
//! without counting it ([`Table::evictions`]).

use std::{
    hash::{BuildHasher, RandomState},
    net::{IpAddr, Ipv6Addr},
    sync::atomic::{AtomicU64, Ordering::SeqCst},
};

use crate::config;

/// Slots of a table unless told otherwise: as many sources as the NIC's table holds, in 16 MiB.
pub const SLOTS_DEFAULT: usize = 1 << 20;
/// Slots that one key may be in; 128 bytes, two cache lines.
const SLOTS_PER_SET: usize = 8;
/// Times that a reservation may be lost to others before a request passes uncounted ([`Table::overruns`]).
const RESERVATIONS_MAX: u32 = 1024;
/// Reservations given up for a twin's sake; past it the twin's owner is taken to be off its CPU and is pushed aside.
const PATIENCE_MAX: u32 = 64;

/// A slot that nobody owns, whatever its key says.
const FREE: u64 = 0;
/// Marks an `arrival` that is no time but the number of a reservation.
const RESERVED: u64 = 1 << 63;
/// Of a reservation: the slot's key is that of who has reserved it.
const PUBLISHED: u64 = 1 << 62;
/// Times, intervals and tolerances stay below, so that no sum of two reaches [`RESERVED`]: 73 years.
const TIME_NS_MAX: u64 = (1 << 61) - 1;
const _: () = assert!(2 * TIME_NS_MAX + TIME_NS_MAX < RESERVED);
const _: () = assert!(PATIENCE_MAX < RESERVATIONS_MAX);
const _: () = assert!(size_of::<Set>() == SLOTS_PER_SET * 16);

/// A rate as the table wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    interval_ns: u64,
    tolerance_ns: u64,
}

impl Bucket {
    /// From tokens per second and burst. Rates above one per nanosecond count as that.
    pub fn new(rate: config::Rate) -> Bucket {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "rates are above zero, and a float that is too large saturates"
        )]
        let interval_ns = ((1e9 / rate.per_s).round() as u64).clamp(1, TIME_NS_MAX);
        let ahead = rate.burst.max(1) - 1;
        Bucket { interval_ns, tolerance_ns: interval_ns.saturating_mul(ahead).min(TIME_NS_MAX) }
    }

    /// The arrival time after an admission at `now_ns`, or how many nanoseconds are missing.
    fn next(self, arrival_ns: u64, now_ns: u64) -> Result<u64, u64> {
        let ahead_ns = arrival_ns.saturating_sub(now_ns);
        match ahead_ns.checked_sub(self.tolerance_ns) {
            None | Some(0) => Ok(arrival_ns.max(now_ns) + self.interval_ns),
            Some(missing_ns) => Err(missing_ns),
        }
    }
}

/// Who shares a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subject<'s> {
    /// An address; make it with [`Subject::source`].
    Source(IpAddr),
    /// The holder of a credential.
    Consumer(&'s str),
    /// Everybody on a route, by its name.
    Route(&'s str),
    /// A header's value.
    Header(&'s [u8]),
}

impl Subject<'_> {
    /// The source that an address counts as: itself, or its /64 for IPv6, since a host has that many to itself.
    pub fn source(address: IpAddr) -> Subject<'static> {
        const PREFIX_64: u128 = !0 << 64;
        Subject::Source(match address.to_canonical() {
            IpAddr::V4(v4) => IpAddr::V4(v4),
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & PREFIX_64)),
        })
    }
}

/// The name of one bucket in a table; never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key(u64);

/// Buckets of everyone, shared by all workers.
pub struct Table {
    sets: Box<[Set]>,
    keyed: RandomState,
    /// Reservations so far; also their numbers, which are never used twice.
    reservations: AtomicU64,
    evictions: AtomicU64,
    overruns: AtomicU64,
}

#[repr(align(128))]
#[derive(Default)]
struct Set {
    slots: [Slot; SLOTS_PER_SET],
}

#[derive(Default)]
struct Slot {
    key: AtomicU64,
    /// [`FREE`], [`RESERVED`] with a number, or the arrival time of the bucket of `key`, in nanoseconds.
    arrival: AtomicU64,
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").field("slots", &self.slots()).field("evictions", &self.evictions()).finish()
    }
}

impl Table {
    /// A table of at least `slots` buckets (rounded up to a power of two), 16 bytes each, all taken now.
    ///
    /// `keyed` keeps outsiders from choosing who shares a set with them.
    pub fn new(slots: usize, keyed: RandomState) -> Table {
        let sets = slots.div_ceil(SLOTS_PER_SET).max(1).next_power_of_two();
        Table {
            sets: std::iter::repeat_with(Set::default).take(sets).collect(),
            keyed,
            reservations: AtomicU64::new(0),
            evictions: AtomicU64::new(0),
            overruns: AtomicU64::new(0),
        }
    }

    /// How many buckets it has.
    pub fn slots(&self) -> usize {
        self.sets.len() * SLOTS_PER_SET
    }

    /// Buckets that were forgotten while they still held back someone: the table is too small for the sources seen.
    pub fn evictions(&self) -> u64 {
        self.evictions.load(SeqCst)
    }

    /// Requests that passed uncounted since others kept changing the set.
    pub fn overruns(&self) -> u64 {
        self.overruns.load(SeqCst)
    }

    /// The bucket of a subject under the limit of this name. Names, not indices: a reload keeps the buckets.
    pub fn key(&self, limit: &str, subject: Subject<'_>) -> Key {
        Key(self.keyed.hash_one((limit, subject)).max(1))
    }

    /// Takes one token at `now_ns` (any clock that never steps back, the same for all callers).
    ///
    /// # Errors
    /// The bucket is empty: nanoseconds until it holds a token.
    pub fn admit(&self, key: Key, bucket: Bucket, now_ns: u64) -> Result<(), u64> {
        let now_ns = now_ns.clamp(1, TIME_NS_MAX);
        let set = self.set(key);
        for attempt in 0..RESERVATIONS_MAX {
            if let Some(answer) = set.admit(key, bucket, now_ns) {
                return answer;
            }
            if self.insert(set, key, bucket, now_ns, attempt) {
                return Ok(());
            }
            std::hint::spin_loop();
        }
        self.overruns.fetch_add(1, SeqCst);
        Ok(())
    }

    fn set(&self, key: Key) -> &Set {
        // The number of sets is a power of two and at least one, so the mask stays inside.
        #[expect(clippy::cast_possible_truncation, reason = "only the low bits are wanted")]
        let at = key.0 as usize & (self.sets.len() - 1);
        #[expect(clippy::indexing_slicing, reason = "masked in the line above")]
        &self.sets[at]
    }

    /// Gives `key` a slot with one token taken; false: the set changed meanwhile, look again.
    fn insert(&self, set: &Set, key: Key, bucket: Bucket, now_ns: u64, attempt: u32) -> bool {
        let Some((mine, arrival)) = set.victim(now_ns) else { return false };
        let number = self.reservations.fetch_add(1, SeqCst) & !(RESERVED | PUBLISHED);
        if !mine.swap(arrival, RESERVED | number) {
            return false;
        }
        mine.key.store(key.0, SeqCst);
        let reservation = RESERVED | PUBLISHED | number;
        mine.arrival.store(reservation, SeqCst);
        if set.has_twin(mine, key, attempt >= PATIENCE_MAX) {
            // Fails only if a twin has freed it already.
            mine.swap(reservation, FREE);
            return false;
        }
        let inserted = mine.swap(reservation, now_ns + bucket.interval_ns);
        if inserted && arrival > now_ns {
            self.evictions.fetch_add(1, SeqCst);
        }
        inserted
    }
}

impl Set {
    /// Takes a token from the bucket of `key`; none: it has no bucket here.
    fn admit(&self, key: Key, bucket: Bucket, now_ns: u64) -> Option<Result<(), u64>> {
        for slot in &self.slots {
            // Ends: whenever the swap fails, another took a token, of which there are `burst`, or took the slot.
            while let Some(arrival) = slot.owned_by(key) {
                match bucket.next(arrival, now_ns) {
                    Ok(next) if slot.swap(arrival, next) => return Some(Ok(())),
                    Ok(_) => {}
                    Err(missing_ns) => return Some(Err(missing_ns)),
                }
            }
        }
        None
    }

    /// The first slot that holds back nobody, else the one that soonest will; with the arrival it was seen with.
    fn victim(&self, now_ns: u64) -> Option<(&Slot, u64)> {
        let seen = self.slots.iter().map(|slot| (slot, slot.arrival.load(SeqCst)));
        let takeable = seen.filter(|(_, arrival)| !is_reserved(*arrival));
        takeable.min_by_key(|(_, arrival)| arrival.saturating_sub(now_ns))
    }

    /// Whether `key` has, or is about to have, another slot than `mine`, which is reserved and carries the key.
    ///
    /// Of two reservations the one in the lower slot stays: it frees the other. With `push` it frees both ways.
    fn has_twin(&self, mine: &Slot, key: Key, push: bool) -> bool {
        let mut below = true;
        for slot in &self.slots {
            if std::ptr::eq(slot, mine) {
                below = false;
                continue;
            }
            loop {
                let arrival = slot.arrival.load(SeqCst);
                let is_unpublished = is_reserved(arrival) && arrival & PUBLISHED == 0;
                if arrival == FREE || is_unpublished || slot.key.load(SeqCst) != key.0 {
                    break;
                }
                if !is_reserved(arrival) || (below && !push) {
                    return true;
                }
                if slot.swap(arrival, FREE) {
                    break;
                }
            }
        }
        false
    }
}

impl Slot {
    fn owned_by(&self, key: Key) -> Option<u64> {
        let arrival = self.arrival.load(SeqCst);
        let owned = arrival != FREE && !is_reserved(arrival) && self.key.load(SeqCst) == key.0;
        owned.then_some(arrival)
    }

    fn swap(&self, from: u64, to: u64) -> bool {
        self.arrival.compare_exchange(from, to, SeqCst, SeqCst).is_ok()
    }
}

fn is_reserved(arrival: u64) -> bool {
    arrival & RESERVED != 0
}

#[cfg(test)]
mod tests;
