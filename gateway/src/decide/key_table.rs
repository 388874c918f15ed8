//! The keys of a store, in memory that all workers share.
//!
//! Comes in: keys from the control side, which is the only one to change them, and the text of a key that a client
//! presents. Goes out: whose it is. A look-up takes no lock: ids are spread over many small sorted arrays, each behind
//! a pointer that is swapped, so that a change copies a few entries and a million keys cost a look-up as much as ten.
//! A change of a key that was there raises the [`KeyTable::generation`], which makes workers forget whom they remember;
//! that is how one that was revoked stops working at once.
//!
//! How a key is used is counted in its entry; whoever writes that down looks only where something was marked.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use arc_swap::ArcSwap;
use aws_lc_rs::{constant_time::verify_slices_are_equal, hmac};

use super::{
    Identity,
    api_key::{self, ID_LEN, KeyFault},
    authz::RoleId,
};

/// Arrays that ids are spread over: eight entries in each where there are a million keys.
const SHARDS: usize = 1 << 17;
/// Bits of a word of marks.
const MARKS: usize = 64;

/// The keys of one store.
pub struct KeyTable {
    hash_key: ArcSwap<hmac::Key>,
    shards: Box<[ArcSwap<Shard>]>,
    /// A bit per shard: a key in it was used.
    used: Box<[AtomicU64]>,
    generation: AtomicU64,
    len: AtomicUsize,
}

/// In order of the ids.
type Shard = Box<[(Id, Arc<ApiKey>)]>;

/// Eight letters and digits, the first one on top.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Id(u64);

/// One key.
pub struct ApiKey {
    id: Id,
    hash: [u8; 32],
    /// Seconds since the epoch; from then on it is refused.
    good_until_s: u64,
    consumer: Arc<str>,
    grants: Arc<Grants>,
    last_s: AtomicU64,
    /// An address of IPv6, or one of IPv4 as IPv6 maps it: both halves.
    source: [AtomicU64; 2],
    count: AtomicU64,
}

/// What a key carries beside its holder: the same for many keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Grants {
    /// Names of roles.
    pub roles: Box<[Arc<str>]>,
    /// OAuth scopes.
    pub scopes: Box<[Box<str>]>,
}

/// What has changed.
pub enum Change {
    /// There is this key, or it is another now.
    Put(ApiKey),
    /// The key of this id lets nobody in any more.
    Remove([u8; ID_LEN]),
}

/// How a key was used since that was last asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Used {
    /// Its id.
    pub id: String,
    /// When last, in seconds since the epoch.
    pub last_s: u64,
    /// From where: one of that second's.
    pub source: IpAddr,
    /// How often.
    pub count: u64,
}

impl KeyTable {
    /// Without keys.
    pub fn new(hash_key: &[u8]) -> Self {
        let none = Arc::new(Shard::default());
        Self {
            hash_key: ArcSwap::from_pointee(hmac::Key::new(hmac::HMAC_SHA256, hash_key)),
            shards: std::iter::repeat_with(|| ArcSwap::from(Arc::clone(&none))).take(SHARDS).collect(),
            used: std::iter::repeat_with(AtomicU64::default).take(SHARDS / MARKS).collect(),
            generation: AtomicU64::new(0),
            len: AtomicUsize::new(0),
        }
    }

    /// Which keys are in force: raised behind every change after which somebody may be known who should not be.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whose key `text` is, at `unix_s`; `role` finds a role by its name, and those that do not exist are left out.
    ///
    /// # Errors
    /// It is none that may be used.
    pub fn check(
        &self,
        text: &[u8],
        role: &dyn Fn(&str) -> Option<RoleId>,
        unix_s: u64,
    ) -> Result<Identity, KeyFault> {
        let (id, secret) = api_key::parse(text).ok_or(KeyFault::Malformed)?;
        // Whether the id is known or not.
        let presented = api_key::tag(&self.hash_key.load(), secret);
        let key = Id::of(id).and_then(|id| self.find(id)).ok_or(KeyFault::Unknown)?;
        verify_slices_are_equal(&presented, &key.hash).map_err(|_| KeyFault::WrongSecret)?;
        key.identity(role, unix_s)
    }

    fn find(&self, id: Id) -> Option<Arc<ApiKey>> {
        let shard = self.shards.get(id.shard())?.load();
        let at = shard.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        shard.get(at).map(|(_, key)| Arc::clone(key))
    }

    /// A key was used. It costs a worker no lock and, but for the counting, one write a second.
    pub fn note_use(&self, key: &ApiKey, source: IpAddr, unix_s: u64) {
        key.count.fetch_add(1, Ordering::Relaxed);
        let last_s = key.last_s.load(Ordering::Relaxed);
        // Of all workers one writes the address in each second: no two mix their halves.
        let is_first = last_s < unix_s
            && key.last_s.compare_exchange(last_s, unix_s, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if is_first {
            for (half, bits) in key.source.iter().zip(halves_of(source)) {
                half.store(bits, Ordering::Relaxed);
            }
        }
        self.mark(key.id.shard());
    }

    /// Without this its uses are not lost, but found with the next one.
    fn mark(&self, shard: usize) {
        let bit = 1 << (shard % MARKS);
        if let Some(word) = self.used.get(shard / MARKS)
            && word.load(Ordering::Relaxed) & bit == 0
        {
            word.fetch_or(bit, Ordering::Release);
        }
    }

    /// Whether any key was used since [`KeyTable::take_uses`].
    pub fn has_uses(&self) -> bool {
        self.used.iter().any(|word| word.load(Ordering::Relaxed) != 0)
    }

    /// How keys were used since this was last called.
    pub fn take_uses(&self) -> Vec<Used> {
        let mut uses = Vec::new();
        for (at, word) in self.used.iter().enumerate() {
            let mut marks = word.swap(0, Ordering::Acquire);
            while marks != 0 {
                let shard = at * MARKS + marks.trailing_zeros() as usize;
                marks &= marks - 1;
                if let Some(shard) = self.shards.get(shard) {
                    uses.extend(shard.load().iter().filter_map(|(_, key)| key.take_use()));
                }
            }
        }
        uses
    }

    /// Takes uses back that could not be written down. Goes out: those of keys that are no longer there.
    pub fn put_back(&self, mut uses: Vec<Used>) -> Vec<Used> {
        uses.retain(|used| {
            let Some(key) = Id::of(&used.id).and_then(|id| self.find(id)) else { return true };
            key.add_use(used);
            self.mark(key.id.shard());
            false
        });
        uses
    }

    /// Changes keys. Goes out: how those were used that are no longer there.
    pub fn apply(&self, changes: Vec<Change>) -> Vec<Used> {
        self.change(changes, false)
    }

    /// Puts these keys in the place of all that were there. A key is checked against its own store's hash key or
    /// against neither.
    pub fn replace(&self, hash_key: &[u8], keys: Vec<ApiKey>) -> Vec<Used> {
        let left = self.change(Vec::new(), true);
        self.hash_key.store(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, hash_key)));
        self.change(keys.into_iter().map(Change::Put).collect(), false);
        left
    }

    /// One writer.
    fn change(&self, mut changes: Vec<Change>, clear: bool) -> Vec<Used> {
        let (mut left, mut harms) = (Vec::new(), clear);
        if clear {
            let none = Arc::new(Shard::default());
            for shard in &self.shards {
                let before = shard.swap(Arc::clone(&none));
                left.extend(before.iter().filter_map(|(_, key)| key.take_use()));
            }
            self.len.store(0, Ordering::Relaxed);
        }
        // Of two changes of one key the later one counts, so their order stays.
        changes.sort_by_key(|change| change.id().shard());
        let mut changes = changes.into_iter().peekable();
        while let Some(at) = changes.peek().map(|change| change.id().shard()) {
            let Some(shard) = self.shards.get(at) else { break };
            let before = shard.load_full();
            let mut entries = before.to_vec();
            while let Some(change) = changes.next_if(|change| change.id().shard() == at) {
                let place = entries.binary_search_by_key(&change.id(), |(id, _)| *id);
                harms |= place.is_ok();
                match (change, place) {
                    (Change::Put(key), Ok(place)) => {
                        if let Some((_, entry)) = entries.get_mut(place) {
                            if let Some(used) = entry.take_use() {
                                key.add_use(&used);
                            }
                            *entry = Arc::new(key);
                        }
                    }
                    (Change::Put(key), Err(place)) => entries.insert(place, (key.id, Arc::new(key))),
                    (Change::Remove(_), Ok(place)) => left.extend(entries.remove(place).1.take_use()),
                    (Change::Remove(_), Err(_)) => {}
                }
            }
            let grown = self.len().saturating_add(entries.len()).saturating_sub(before.len());
            self.len.store(grown, Ordering::Relaxed);
            shard.store(Arc::new(entries.into()));
        }
        if harms {
            // What a worker has found before is remembered for an earlier generation, and looked up again.
            self.generation.fetch_add(1, Ordering::AcqRel);
        }
        left
    }
}

impl Change {
    fn id(&self) -> Id {
        match self {
            Self::Put(key) => key.id,
            Self::Remove(id) => Id(u64::from_be_bytes(*id)),
        }
    }
}

impl Id {
    fn of(id: &str) -> Option<Self> {
        Some(Self(u64::from_be_bytes(id.as_bytes().try_into().ok()?)))
    }

    /// Ids are random, but half of their bits are the same in all: a multiplication mixes them (Knuth, TAOCP 6.4).
    fn shard(self) -> usize {
        let mixed = self.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (u64::BITS - SHARDS.trailing_zeros());
        usize::try_from(mixed).unwrap_or_default()
    }
}

impl ApiKey {
    /// None: `id` is not one.
    pub fn new(
        id: &str,
        hash: [u8; 32],
        expires_at_s: Option<u64>,
        consumer: Arc<str>,
        grants: Arc<Grants>,
    ) -> Option<Self> {
        let id = Id::of(id).filter(|_| id.bytes().all(|byte| byte.is_ascii_alphanumeric()))?;
        let good_until_s = expires_at_s.map_or(u64::MAX, |expires_at_s| expires_at_s.saturating_add(1));
        let (last_s, source, count) = Default::default();
        Some(Self { id, hash, good_until_s, consumer, grants, last_s, source, count })
    }

    /// Who holds it, at `unix_s`, whoever has shown that they do; see [`KeyTable::check`].
    ///
    /// # Errors
    /// It has expired.
    pub fn identity(
        self: &Arc<Self>,
        role: &dyn Fn(&str) -> Option<RoleId>,
        unix_s: u64,
    ) -> Result<Identity, KeyFault> {
        if unix_s >= self.good_until_s {
            return Err(KeyFault::Expired);
        }
        Ok(Identity {
            consumer: self.consumer.clone(),
            credential: str::from_utf8(&self.id.0.to_be_bytes()).ok().map(Arc::from),
            roles: self.grants.roles.iter().filter_map(|name| role(name)).collect(),
            scopes: self.grants.scopes.clone(),
            good_until_s: self.good_until_s,
            key: Some(Arc::clone(self)),
            ..Identity::default()
        })
    }

    fn take_use(&self) -> Option<Used> {
        let count = self.count.swap(0, Ordering::Relaxed);
        if count == 0 {
            return None;
        }
        let [high, low] = &self.source;
        let bits = u128::from(high.load(Ordering::Relaxed)) << 64 | u128::from(low.load(Ordering::Relaxed));
        Some(Used {
            id: self.id.0.to_be_bytes().map(char::from).iter().collect(),
            last_s: self.last_s.load(Ordering::Relaxed),
            source: Ipv6Addr::from_bits(bits).to_canonical(),
            count,
        })
    }

    fn add_use(&self, used: &Used) {
        self.count.fetch_add(used.count, Ordering::Relaxed);
        if self.last_s.fetch_max(used.last_s, Ordering::Relaxed) < used.last_s {
            for (half, bits) in self.source.iter().zip(halves_of(used.source)) {
                half.store(bits, Ordering::Relaxed);
            }
        }
    }
}

/// Of its hash nothing is told.
impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey")
            .field("id", &self.id)
            .field("consumer", &self.consumer)
            .finish_non_exhaustive()
    }
}

/// How it was used makes it no other key.
impl PartialEq for ApiKey {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
            && self.hash == other.hash
            && self.good_until_s == other.good_until_s
            && self.consumer == other.consumer
            && self.grants == other.grants
    }
}

/// RFC 4291 §2.5.5.2
fn halves_of(source: IpAddr) -> [u64; 2] {
    let bits = match source {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    let half = |bits: u128| u64::try_from(bits & u128::from(u64::MAX)).unwrap_or_default();
    [half(bits >> 64), half(bits)]
}

/// The key stores of a snapshot's auths.
#[derive(Default)]
pub struct KeyTables(Box<[Option<Arc<KeyTable>>]>);

impl KeyTables {
    /// By the auths' order; none for those of another kind.
    pub fn new(tables: impl Iterator<Item = Option<Arc<KeyTable>>>) -> Self {
        Self(tables.collect())
    }

    /// The keys that an auth goes by.
    pub fn of(&self, auth: u16) -> Option<&Arc<KeyTable>> {
        self.0.get(usize::from(auth))?.as_ref()
    }
}

#[cfg(test)]
mod tests;
