//! Which proofs were seen lately, so that none counts twice. One table for all workers.
//!
//! A slot holds 44 bits of a keyed hash and when the proof was made. Two proofs look alike with a chance of one in
//! 2^41 or less: then an honest one is refused once. A set that is full of proofs which could still be replayed takes
//! no more: nobody can push out what was seen.

use std::{
    hash::{BuildHasher, Hash, RandomState},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

/// Seconds for which a proof is remembered; none that is older passes.
pub const WINDOW_S: u64 = 120;
/// Proofs that are remembered at most: 8 MiB, taken when the first one comes.
const SLOTS: usize = 1 << 20;
const SLOTS_PER_SET: usize = 8;
/// Low bits of a slot: seconds, which go around after twelve days.
const TIME_BITS: u32 = 20;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;

const _: () = assert!(WINDOW_S < TIME_MASK / 2 && SLOTS.is_multiple_of(SLOTS_PER_SET));

/// Proofs that were seen.
pub struct Replays {
    keyed: RandomState,
    slots: OnceLock<Box<[[AtomicU64; SLOTS_PER_SET]]>>,
}

/// What is known of a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// It was not seen before, and is from now on.
    Never,
    /// It was.
    Before,
    /// There is no room to remember it.
    Full,
}

impl Replays {
    /// Nothing was seen.
    pub fn new(keyed: RandomState) -> Self {
        Self { keyed, slots: OnceLock::new() }
    }

    /// Whether `proof` was seen before; it is at `unix_s`.
    pub(super) fn see(&self, proof: impl Hash, unix_s: u64) -> Seen {
        let sets = self
            .slots
            .get_or_init(|| std::iter::repeat_with(Default::default).take(SLOTS / SLOTS_PER_SET).collect());
        let hash = self.keyed.hash_one(proof);
        let at = usize::try_from(hash % sets.len() as u64).unwrap_or(0);
        // 0 is a free slot.
        let tag = (hash >> TIME_BITS).max(1);
        sets.get(at).map_or(Seen::Full, |set| see(set, tag, unix_s))
    }
}

fn see(set: &[AtomicU64; SLOTS_PER_SET], tag: u64, unix_s: u64) -> Seen {
    let is_over = |slot: u64| {
        let age_s = unix_s.wrapping_sub(slot & TIME_MASK) & TIME_MASK;
        // What seems to come from the future was written by a clock that is a little ahead.
        slot == 0 || (WINDOW_S < age_s && age_s < TIME_MASK - WINDOW_S)
    };
    let is_it = |slot: u64| slot >> TIME_BITS == tag && !is_over(slot);
    loop {
        let read = set.each_ref().map(|slot| slot.load(SeqCst));
        if read.iter().any(|slot| is_it(*slot)) {
            return Seen::Before;
        }
        let free = set.iter().zip(read).find(|(_, read)| is_over(*read));
        let Some((slot, before)) = free else { return Seen::Full };
        let now = tag << TIME_BITS | (unix_s & TIME_MASK);
        if slot.compare_exchange(before, now, SeqCst, SeqCst).is_err() {
            continue;
        }
        // Another worker may have put the same one elsewhere meanwhile: then neither counts.
        let copies = set.iter().filter(|slot| is_it(slot.load(SeqCst))).count();
        return if copies == 1 { Seen::Never } else { Seen::Before };
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, thread};

    use proptest::prelude::*;

    use super::*;

    const NOW_S: u64 = 1_800_000_000;

    #[test]
    fn a_proof_counts_once_until_it_could_not_be_shown_again() {
        let replays = Replays::new(RandomState::new());
        assert_eq!(replays.see("a", NOW_S), Seen::Never);
        assert_eq!(replays.see("b", NOW_S), Seen::Never);
        assert_eq!(replays.see("a", NOW_S), Seen::Before);
        assert_eq!(replays.see("a", NOW_S + WINDOW_S), Seen::Before);
        assert_eq!(replays.see("a", NOW_S - 1), Seen::Before);
        assert_eq!(replays.see("a", NOW_S + WINDOW_S + 1), Seen::Never);
    }

    #[test]
    fn a_full_set_forgets_nobody() {
        let set = Default::default();
        for tag in 1..=SLOTS_PER_SET as u64 {
            assert_eq!(see(&set, tag, NOW_S), Seen::Never);
        }
        assert_eq!(see(&set, 99, NOW_S + WINDOW_S), Seen::Full);
        assert_eq!(see(&set, 1, NOW_S + WINDOW_S), Seen::Before);
        assert_eq!(see(&set, 99, NOW_S + WINDOW_S + 1), Seen::Never);
    }

    #[test]
    fn of_many_who_show_one_proof_at_once_at_most_one_passes() {
        let replays = Replays::new(RandomState::new());
        let passed: usize = thread::scope(|scope| {
            let show = || (0..10_000u32).filter(|proof| replays.see(proof, NOW_S) == Seen::Never).count();
            let all: Vec<_> = (0..4).map(|_| scope.spawn(show)).collect();
            all.into_iter().map(|one| one.join().unwrap()).sum()
        });
        assert!(passed <= 10_000, "{passed}");
        assert!((0..10_000u32).all(|proof| replays.see(proof, NOW_S) == Seen::Before));
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_list(shown in prop::collection::vec((0u64..12, 0u64..60), 1..100)) {
            let set = Default::default();
            let (mut seen, mut now_s) = (HashSet::new(), NOW_S);
            for (tag, later_s) in shown {
                now_s += later_s;
                seen.retain(|(_, at_s)| now_s - at_s <= WINDOW_S);
                let expected = if seen.iter().any(|(other, _)| *other == tag) {
                    Seen::Before
                } else if seen.len() == SLOTS_PER_SET {
                    Seen::Full
                } else {
                    seen.insert((tag, now_s));
                    Seen::Never
                };
                prop_assert_eq!(see(&set, tag + 1, now_s), expected);
            }
        }
    }
}
