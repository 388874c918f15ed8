//! Sessions that are over before their time: one table of fixed size over all workers, in which nobody waits.
//!
//! Comes in, from one writer: a mark that sessions carry (their own id, the issuer's `sid`, a user's `sub`) and when it
//! was revoked. Goes out, to every worker at once: whether one of a session's marks was revoked since it began. The
//! table never forgets: where a mark finds no place, every session that began before is over, and their browsers log in
//! again.
//!
//! A slot is two words. The writer clears the first while it changes the second, so that a reader never takes the time of
//! one mark for another's.

use std::{
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicU64, Ordering::SeqCst},
};

/// Marks that are revoked at once, 16 bytes each.
pub const MARKS_MAX: usize = 65_536;
/// Slots that one mark may be in: two cache lines.
const SLOTS_PER_SET: usize = 8;

/// What sessions are revoked by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mark<'m> {
    /// One session of ours.
    Session(&'m str),
    /// A session of the issuer's (`iss`, `sid`).
    Sid(&'m str, &'m str),
    /// All sessions of a user (`iss`, `sub`).
    User(&'m str, &'m str),
}

/// Marks, and since when they count.
pub struct Revoked {
    sets: Box<[Set]>,
    keyed: RandomState,
    /// Sessions that began until then are over, whatever their marks.
    all_ms: AtomicU64,
    generation: AtomicU64,
}

#[repr(align(64))]
#[derive(Default)]
struct Set {
    /// 0: a free slot.
    marks: [AtomicU64; SLOTS_PER_SET],
    at_ms: [AtomicU64; SLOTS_PER_SET],
}

impl std::fmt::Debug for Revoked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Revoked").field("sets", &self.sets.len()).finish_non_exhaustive()
    }
}

impl Revoked {
    /// A table for about so many marks, all of it taken now. `keyed` keeps outsiders from choosing who shares a set.
    pub fn new(marks: usize, keyed: RandomState) -> Self {
        let sets = marks.div_ceil(SLOTS_PER_SET).max(1).next_power_of_two();
        Self {
            sets: std::iter::repeat_with(Set::default).take(sets).collect(),
            keyed,
            all_ms: AtomicU64::new(0),
            generation: AtomicU64::new(0),
        }
    }

    /// Sessions with this mark that began until `now_ms` are over. Marks older than `session_ms`, which no session
    /// survives, make room. True: everybody has to log in again, since there was none.
    ///
    /// Only one thread may write.
    pub fn revoke(&self, mark: Mark<'_>, now_ms: u64, session_ms: u64) -> bool {
        let word = self.word(mark);
        let slots = || {
            let set = self.set(word);
            set.marks.iter().zip(&set.at_ms)
        };
        let is_over = |at_ms: &AtomicU64| at_ms.load(SeqCst).saturating_add(session_ms) < now_ms;
        let same = slots().find(|(held, _)| held.load(SeqCst) == word);
        let free = || slots().find(|(held, at_ms)| held.load(SeqCst) == 0 || is_over(at_ms));
        let is_full = if let Some((_, at_ms)) = same {
            at_ms.store(now_ms, SeqCst);
            false
        } else if let Some((held, at_ms)) = free() {
            held.store(0, SeqCst);
            at_ms.store(now_ms, SeqCst);
            held.store(word, SeqCst);
            false
        } else {
            self.all_ms.store(now_ms, SeqCst);
            // Everything in the table is said by that.
            self.sets.iter().flat_map(|set| &set.marks).for_each(|held| held.store(0, SeqCst));
            true
        };
        self.generation.fetch_add(1, SeqCst);
        is_full
    }

    /// Whether a session that began at `begun_ms` is over by one of its marks.
    pub fn is_over(&self, begun_ms: u64, marks: &[Mark<'_>]) -> bool {
        let is_revoked = |mark: &Mark<'_>| {
            let word = self.word(*mark);
            let set = self.set(word);
            set.marks.iter().zip(&set.at_ms).any(|(held, at_ms)| {
                held.load(SeqCst) == word && at_ms.load(SeqCst) >= begun_ms && held.load(SeqCst) == word
            })
        };
        begun_ms <= self.all_ms.load(SeqCst) || marks.iter().any(is_revoked)
    }

    /// Counts revocations: what was found good under another one has to be looked at again.
    pub fn generation(&self) -> u64 {
        self.generation.load(SeqCst)
    }

    fn word(&self, mark: Mark<'_>) -> u64 {
        self.keyed.hash_one(mark).max(1)
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "a power of two of sets, at least one, and the index is masked"
    )]
    fn set(&self, word: u64) -> &Set {
        let mask = self.sets.len() - 1;
        &self.sets[usize::try_from(word >> 32).unwrap_or(0) & mask]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SESSION_MS: u64 = 1000;

    fn table(marks: usize) -> Revoked {
        Revoked::new(marks, RandomState::new())
    }

    #[test]
    fn a_mark_ends_what_began_before_it_and_nothing_else() {
        let revoked = table(64);
        let (sid, user) = (Mark::Sid("i", "s"), Mark::User("i", "bob"));
        assert!(!revoked.is_over(5, &[sid, user]));
        assert!(!revoked.revoke(user, 10, SESSION_MS));
        assert!(revoked.is_over(10, &[sid, user]));
        assert!(!revoked.is_over(11, &[sid, user]));
        assert!(
            !revoked
                .is_over(10, &[sid, Mark::User("i", "alice"), Mark::User("j", "bob"), Mark::Sid("i", "bob")])
        );
        revoked.revoke(user, 20, SESSION_MS);
        assert!(revoked.is_over(20, &[user]));
    }

    #[test]
    fn every_revocation_is_another_generation() {
        let revoked = table(64);
        let before = revoked.generation();
        revoked.revoke(Mark::Session("a"), 1, SESSION_MS);
        revoked.revoke(Mark::Session("a"), 1, SESSION_MS);
        assert_eq!(revoked.generation(), before + 2);
    }

    #[test]
    fn a_full_table_ends_everybody_and_is_empty_then() {
        let revoked = table(SLOTS_PER_SET);
        let names: Vec<String> = (0..=SLOTS_PER_SET).map(|count| count.to_string()).collect();
        for name in &names[..SLOTS_PER_SET] {
            assert!(!revoked.revoke(Mark::Session(name), 10, SESSION_MS));
        }
        assert!(!revoked.is_over(10, &[Mark::Session("other")]));
        assert!(revoked.revoke(Mark::Session(&names[SLOTS_PER_SET]), 12, SESSION_MS));
        assert!(revoked.is_over(12, &[Mark::Session("other")]));
        assert!(!revoked.is_over(13, &[Mark::Session(&names[0])]));
        assert!(!revoked.revoke(Mark::Session(&names[0]), 14, SESSION_MS));
    }

    #[test]
    fn what_no_session_survives_makes_room() {
        let revoked = table(SLOTS_PER_SET);
        for name in 0..100u64 {
            let full = revoked.revoke(Mark::Session(&name.to_string()), name * SESSION_MS, SESSION_MS);
            assert!(!full, "{name}");
        }
    }

    proptest! {
        #[test]
        fn nothing_revoked_is_ever_good_again(
            marks in prop::collection::vec("[a-f]{1,2}", 1..60),
        ) {
            let revoked = table(SLOTS_PER_SET * 2);
            for (mark, at_ms) in marks.iter().zip(1..) {
                revoked.revoke(Mark::Session(mark), at_ms, SESSION_MS);
                for (earlier, at_ms) in marks.iter().zip(1..=at_ms) {
                    prop_assert!(revoked.is_over(at_ms, &[Mark::Session(earlier)]));
                }
                prop_assert!(!revoked.is_over(at_ms + 1, &[Mark::Session(mark)]));
            }
        }
    }
}
