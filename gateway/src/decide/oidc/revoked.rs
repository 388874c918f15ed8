//! Sessions that are over before their time: one table of fixed size over all workers, in which nobody waits.
//!
//! Comes in, from one writer: a mark that sessions carry (their own id, the issuer's `sid`, a user's `sub`) and when it
//! was revoked. Goes out, to every worker at once: whether one of a session's marks was revoked since it began; and to the
//! writer, what of it has to outlive the process. The table never forgets: where a mark finds no place, every session that
//! began before is over, and their browsers log in again.
//!
//! A slot is two words. The writer clears the first while it changes the second, so that a reader never takes the time of
//! one mark for another's.

use std::{
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicU64, Ordering::SeqCst},
};

use aws_lc_rs::digest;

/// Marks that are revoked at once, 16 bytes each.
pub const MARKS_MAX: usize = 65_536;
/// Slots that one mark may be in: two cache lines.
const SLOTS_PER_SET: usize = 8;

/// What sessions are revoked by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark<'m> {
    /// One session of ours.
    Session(&'m str),
    /// A session of the issuer's (`iss`, `sid`).
    Sid(&'m str, &'m str),
    /// All sessions of a user (`iss`, `sub`).
    User(&'m str, &'m str),
}

/// A mark where it is kept: the beginning of its SHA-256, by which nobody finds out a `sid` that they could not guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MarkId(pub u128);

/// What has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revocation {
    /// Sessions with this mark,
    pub id: MarkId,
    /// that began until then, in ms since the epoch.
    pub at_ms: u64,
    /// None of them is left by then.
    pub until_ms: u64,
}

/// Marks, and since when they count.
pub struct Revoked {
    sets: Box<[Set]>,
    keyed: RandomState,
    /// Sessions that began until then are over, whatever their marks.
    all_ms: AtomicU64,
    generation: AtomicU64,
    /// What became of those that have to outlive the process.
    pub tally: Tally,
}

/// How many revocations were written down, and how often that has failed.
#[derive(Debug, Default)]
pub struct Tally {
    /// Written.
    pub kept: AtomicU64,
    /// Tries that came to nothing.
    pub failed: AtomicU64,
}

impl Revocation {
    /// Whichever of both times is later.
    #[must_use]
    pub fn and(self, (at_ms, until_ms): (u64, u64)) -> Self {
        Self { id: self.id, at_ms: self.at_ms.max(at_ms), until_ms: self.until_ms.max(until_ms) }
    }
}

impl MarkId {
    /// Every session, whatever its marks.
    pub const ALL: Self = Self(0);

    fn of(mark: Mark<'_>) -> Self {
        let (kind, first, second) = match mark {
            Mark::Session(id) => (0, id, ""),
            Mark::Sid(issuer, sid) => (1, issuer, sid),
            Mark::User(issuer, sub) => (2, issuer, sub),
        };
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(&[kind]);
        // Its length says where the first ends.
        hash.update(&(first.len() as u64).to_be_bytes());
        hash.update(first.as_bytes());
        hash.update(second.as_bytes());
        let hash = hash.finish();
        let id = hash.as_ref().first_chunk().map_or(0, |bytes| u128::from_be_bytes(*bytes));
        Self(id.max(1))
    }
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
            tally: Tally::default(),
        }
    }

    /// Sessions with this mark that began until `at_ms` are over. Goes out: what has ended by that; all, where there was
    /// no room for one more; none, where they were over already. Marks older than `session_ms`, which no session
    /// survives, make room.
    ///
    /// Only one thread may write.
    pub fn revoke(&self, mark: Mark<'_>, at_ms: u64, session_ms: u64) -> Option<Revocation> {
        self.end(MarkId::of(mark), at_ms, session_ms)
    }

    /// The same by what was kept. In the order of their times, none that counts makes room for another.
    pub fn end(&self, id: MarkId, at_ms: u64, session_ms: u64) -> Option<Revocation> {
        let word = self.word(id);
        let slots = || {
            let set = self.set(word);
            set.marks.iter().zip(&set.at_ms)
        };
        let is_past = |held_ms: &AtomicU64| held_ms.load(SeqCst).saturating_add(session_ms) < at_ms;
        let same = slots().find(|(held, _)| held.load(SeqCst) == word);
        let free = || slots().find(|(held, held_ms)| held.load(SeqCst) == 0 || is_past(held_ms));
        let (id, at_ms) = if id == MarkId::ALL {
            (id, self.end_all(at_ms))
        } else if let Some((_, held_ms)) = same {
            // An earlier word that comes late takes nothing back.
            if held_ms.fetch_max(at_ms, SeqCst) >= at_ms {
                return None;
            }
            (id, at_ms)
        } else if let Some((held, held_ms)) = free() {
            held.store(0, SeqCst);
            held_ms.store(at_ms, SeqCst);
            held.store(word, SeqCst);
            (id, at_ms)
        } else {
            (MarkId::ALL, self.end_all(at_ms))
        };
        self.generation.fetch_add(1, SeqCst);
        Some(Revocation { id, at_ms, until_ms: at_ms.saturating_add(session_ms) })
    }

    /// Everything in the table is said by that, so that it is empty then. Until when it is that sessions have begun.
    fn end_all(&self, at_ms: u64) -> u64 {
        let slots = || self.sets.iter().flat_map(|set| set.marks.iter().zip(&set.at_ms));
        let held = slots().filter(|(held, _)| held.load(SeqCst) != 0);
        let latest_ms = held.map(|(_, held_ms)| held_ms.load(SeqCst)).fold(at_ms, u64::max);
        let latest_ms = self.all_ms.fetch_max(latest_ms, SeqCst).max(latest_ms);
        slots().for_each(|(held, _)| held.store(0, SeqCst));
        latest_ms
    }

    /// Whether a session that began at `begun_ms` is over by one of its marks.
    pub fn is_over(&self, begun_ms: u64, marks: &[Mark<'_>]) -> bool {
        let is_revoked = |mark: &Mark<'_>| {
            let word = self.word(MarkId::of(*mark));
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

    fn word(&self, id: MarkId) -> u64 {
        self.keyed.hash_one(id).max(1)
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
        let ended = revoked.revoke(user, 10, SESSION_MS).unwrap();
        assert_eq!((ended.at_ms, ended.until_ms), (10, 10 + SESSION_MS));
        assert!(revoked.is_over(10, &[sid, user]));
        assert!(!revoked.is_over(11, &[sid, user]));
        assert!(
            !revoked
                .is_over(10, &[sid, Mark::User("i", "alice"), Mark::User("j", "bob"), Mark::Sid("i", "bob")])
        );
        revoked.revoke(user, 20, SESSION_MS);
        assert!(revoked.is_over(20, &[user]));
        // Neither does a word that comes again, late.
        assert_eq!(revoked.revoke(user, 15, SESSION_MS), None);
        assert!(revoked.is_over(20, &[user]));
    }

    /// What is kept is read by the next process.
    #[test]
    fn a_mark_is_called_the_same_everywhere_and_no_two_alike() {
        let marks = [
            Mark::Session("ab"),
            Mark::Sid("a", "b"),
            Mark::Sid("ab", ""),
            Mark::User("a", "b"),
            Mark::Sid("", "ab"),
        ];
        let ids = marks.map(MarkId::of);
        for (at, id) in ids.iter().enumerate() {
            assert!(*id != MarkId::ALL && !ids[..at].contains(id), "{:?}", marks[at]);
        }
        // printf '\1\0\0\0\0\0\0\0\1ab' | sha256sum
        assert_eq!(ids[1], MarkId(0x2875_B081_880E_2D46_3189_CBC0_ADAF_5CC9), "{:x}", ids[1].0);
    }

    #[test]
    fn another_process_goes_on_with_what_was_kept() {
        let (before, after) = (table(64), table(64));
        let kept = [
            before.revoke(Mark::Sid("i", "s"), 12, SESSION_MS),
            before.revoke(Mark::User("i", "bob"), 10, SESSION_MS),
            Some(Revocation { id: MarkId::ALL, at_ms: 5, until_ms: 5 + SESSION_MS }),
        ];
        let kept = kept.map(Option::unwrap);
        for Revocation { id, at_ms, .. } in kept {
            after.end(id, at_ms, SESSION_MS);
        }
        // In another order than that of their times it ends more than it should, and never less.
        assert!(after.is_over(12, &[]) && !after.is_over(13, &[Mark::Sid("i", "s")]));
        let after = table(64);
        for Revocation { id, at_ms, .. } in kept.into_iter().rev() {
            after.end(id, at_ms, SESSION_MS);
        }
        assert!(after.is_over(5, &[]) && !after.is_over(6, &[]));
        assert!(after.is_over(12, &[Mark::Sid("i", "s")]) && !after.is_over(13, &[Mark::Sid("i", "s")]));
        assert!(
            after.is_over(10, &[Mark::User("i", "bob")]) && !after.is_over(11, &[Mark::User("i", "bob")])
        );
    }

    #[test]
    fn every_revocation_is_another_generation() {
        let revoked = table(64);
        let before = revoked.generation();
        revoked.revoke(Mark::Session("a"), 1, SESSION_MS);
        revoked.revoke(Mark::Session("a"), 2, SESSION_MS);
        assert_eq!(revoked.generation(), before + 2);
        // What is over already is not: whoever says it again and again makes nobody forget who is good.
        revoked.revoke(Mark::Session("a"), 2, SESSION_MS);
        assert_eq!(revoked.generation(), before + 2);
    }

    #[test]
    fn a_full_table_ends_everybody_and_is_empty_then() {
        let revoked = table(SLOTS_PER_SET);
        let names: Vec<String> = (0..=SLOTS_PER_SET).map(|count| count.to_string()).collect();
        for name in &names[..SLOTS_PER_SET] {
            assert_ne!(revoked.revoke(Mark::Session(name), 10, SESSION_MS).unwrap().id, MarkId::ALL);
        }
        assert!(!revoked.is_over(10, &[Mark::Session("other")]));
        let last = Mark::Session(&names[SLOTS_PER_SET]);
        assert_eq!(revoked.revoke(last, 12, SESSION_MS).unwrap().id, MarkId::ALL);
        assert!(revoked.is_over(12, &[Mark::Session("other")]));
        assert!(!revoked.is_over(13, &[Mark::Session(&names[0])]));
        assert_ne!(revoked.revoke(Mark::Session(&names[0]), 14, SESSION_MS).unwrap().id, MarkId::ALL);
    }

    /// A logout token may be older than what was revoked meanwhile.
    #[test]
    fn a_full_table_forgets_nothing_that_was_revoked_later() {
        let revoked = table(SLOTS_PER_SET);
        let names: Vec<String> = (0..=SLOTS_PER_SET).map(|count| count.to_string()).collect();
        for (at_ms, name) in (10..).zip(&names[..SLOTS_PER_SET]) {
            revoked.revoke(Mark::Session(name), at_ms, SESSION_MS);
        }
        let ended = revoked.revoke(Mark::Session(&names[SLOTS_PER_SET]), 3, SESSION_MS).unwrap();
        assert_eq!((ended.id, ended.at_ms), (MarkId::ALL, 17));
        assert!(revoked.is_over(17, &[Mark::Session(&names[SLOTS_PER_SET - 1])]));
    }

    #[test]
    fn what_no_session_survives_makes_room() {
        let revoked = table(SLOTS_PER_SET);
        for name in 0..100u64 {
            let ended = revoked.revoke(Mark::Session(&name.to_string()), name * SESSION_MS, SESSION_MS);
            assert_ne!(ended.unwrap().id, MarkId::ALL, "{name}");
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
