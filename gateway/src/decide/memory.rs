//! Credentials that were found good a moment ago, so that a client which shows the same one again costs a look-up.
//!
//! Each worker has one per snapshot: a reload forgets everything. An entry counts for one auth and one generation of
//! its keys, and until the credential itself ends. There are two halves: what is new goes into the young one; when that
//! is full it becomes the old one, whose entries are forgotten unless they were asked for meanwhile. So the memory is
//! bounded by [`BYTES_MAX`], and whoever shows credentials that nobody will show again pushes out only what nobody
//! shows.
//!
//! The whole credential is compared, behind a hash that is keyed at random: nobody can find out by the time it takes
//! how much of a guess was right, since a guess does not find the entry.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hasher, RandomState},
    rc::Rc,
};

use zeroize::Zeroizing;

use super::Identity;

/// What both halves may take, in bytes.
pub const BYTES_MAX: usize = 32 << 20;
/// What an entry takes beside its credential, roughly: identity, claims, headers.
const ENTRY_BYTES: usize = 1024;

/// Credentials and whose they are.
pub struct Memory {
    keyed: RandomState,
    young: Half,
    old: Half,
    bytes_max: usize,
}

#[derive(Default)]
struct Half {
    /// By hash. Of two credentials with one hash, the later one stays.
    entries: HashMap<u64, Entry, Hashed>,
    bytes: usize,
}

struct Entry {
    credential: Zeroizing<Box<[u8]>>,
    auth: u16,
    generation: u64,
    identity: Rc<Identity>,
}

impl Memory {
    /// Nothing is remembered yet.
    pub fn new(bytes_max: usize) -> Self {
        Self { keyed: RandomState::new(), young: Half::default(), old: Half::default(), bytes_max }
    }

    /// Whose `credential` is, if it was kept for this auth and generation and is still good at `unix_s`.
    pub fn find(
        &mut self,
        auth: u16,
        generation: u64,
        credential: &[u8],
        unix_s: u64,
    ) -> Option<&Rc<Identity>> {
        let hash = self.hash(auth, credential);
        let is_it = |entry: &Entry| {
            entry.auth == auth
                && entry.generation == generation
                && **entry.credential == *credential
                && unix_s < entry.identity.good_until_s
        };
        if !self.young.entries.get(&hash).is_some_and(is_it) {
            let entry = self.old.take(hash).filter(is_it)?;
            self.put(hash, entry);
        }
        self.young.entries.get(&hash).map(|entry| &entry.identity)
    }

    /// Remembers it.
    pub fn keep(&mut self, generation: u64, credential: &[u8], identity: &Rc<Identity>) {
        let auth = identity.auth;
        let hash = self.hash(auth, credential);
        let credential = Zeroizing::new(credential.into());
        self.put(hash, Entry { credential, auth, generation, identity: Rc::clone(identity) });
    }

    fn put(&mut self, hash: u64, entry: Entry) {
        if self.young.bytes + entry.bytes() > self.bytes_max / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        // It stands in one half only, so that an earlier one never comes back.
        self.young.take(hash);
        self.old.take(hash);
        self.young.bytes += entry.bytes();
        self.young.entries.insert(hash, entry);
    }

    fn hash(&self, auth: u16, credential: &[u8]) -> u64 {
        self.keyed.hash_one((auth, credential))
    }
}

impl Half {
    fn take(&mut self, hash: u64) -> Option<Entry> {
        let entry = self.entries.remove(&hash)?;
        self.bytes -= entry.bytes();
        Some(entry)
    }
}

impl Entry {
    fn bytes(&self) -> usize {
        ENTRY_BYTES + self.credential.len()
    }
}

/// What is hashed already is not hashed again.
#[derive(Default, Clone, Copy)]
struct Hashed(u64);

impl BuildHasher for Hashed {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        *self
    }
}

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Only `write_u64` is called for a key of that type.
        self.0 = bytes.iter().fold(self.0, |sum, byte| sum.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn identity(consumer: &str, good_until_s: u64) -> Rc<Identity> {
        Rc::new(Identity { consumer: consumer.into(), auth: 1, good_until_s, ..Identity::default() })
    }

    #[track_caller]
    fn check(memory: &mut Memory, (auth, generation, credential): (u16, u64, &str), expected: Option<&str>) {
        let found = memory.find(auth, generation, credential.as_bytes(), 100);
        assert_eq!(found.map(|identity| &*identity.consumer), expected, "{auth} {generation} {credential}");
    }

    #[test]
    fn it_counts_for_one_auth_one_generation_and_until_it_ends() {
        let mut memory = Memory::new(BYTES_MAX);
        memory.keep(7, b"token", &identity("acme", 101));
        memory.keep(7, b"late", &identity("acme", 100));
        check(&mut memory, (1, 7, "token"), Some("acme"));
        check(&mut memory, (1, 7, "toke"), None);
        check(&mut memory, (1, 8, "token"), None);
        check(&mut memory, (2, 7, "token"), None);
        check(&mut memory, (1, 7, "late"), None);
        check(&mut memory, (1, 7, "token"), Some("acme"));
    }

    #[test]
    fn what_is_kept_again_counts_from_then_on() {
        let mut memory = Memory::new(BYTES_MAX);
        memory.keep(7, b"token", &identity("acme", 101));
        memory.keep(8, b"token", &identity("acme2", 101));
        check(&mut memory, (1, 7, "token"), None);
        check(&mut memory, (1, 8, "token"), Some("acme2"));
    }

    #[test]
    fn what_is_asked_for_stays_while_others_go() {
        let mut memory = Memory::new(16 * ENTRY_BYTES);
        memory.keep(0, b"busy", &identity("busy", 101));
        for count in 0..1000 {
            memory.keep(0, format!("once{count}").as_bytes(), &identity("once", 101));
            check(&mut memory, (1, 0, "busy"), Some("busy"));
        }
        check(&mut memory, (1, 0, "once0"), None);
    }

    proptest! {
        #[test]
        fn it_is_bounded_and_says_what_was_kept_last(
            kept in prop::collection::vec((0u8..32, 0u64..3), 0..200),
        ) {
            const BYTES_MAX: usize = 12 * ENTRY_BYTES;
            let mut memory = Memory::new(BYTES_MAX);
            let mut last = HashMap::new();
            for (credential, generation) in kept {
                let name = format!("{credential} {generation}");
                memory.keep(generation, &[credential], &identity(&name, 101));
                last.insert(credential, (generation, name));
                for half in [&memory.young, &memory.old] {
                    prop_assert!(half.bytes <= BYTES_MAX / 2);
                    prop_assert_eq!(half.bytes, half.entries.values().map(Entry::bytes).sum::<usize>());
                }
                for (credential, (generation, name)) in &last {
                    if let Some(found) = memory.find(1, *generation, &[*credential], 100) {
                        prop_assert_eq!(&*found.consumer, &**name);
                    }
                    prop_assert!(memory.find(1, generation + 1, &[*credential], 100).is_none());
                }
            }
        }
    }
}
