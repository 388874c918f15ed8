//! Key stores: opened for a configuration, and followed from then on by the [`Keeper`].
//!
//! Comes in: the stores of the auths, as files. Goes out: tables that workers look in. A table stays over reloads for as
//! long as its store is named.

mod keeper;

use std::{
    collections::{BTreeSet, HashSet},
    fs, io,
    os::unix::fs::MetadataExt as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::policy::SnapshotError;
use crate::{
    config::{AuthKind, Config},
    decide::{
        KeyTable, Snapshot,
        key_table::{ApiKey, Change, Grants},
    },
    keys::{HashKey, Key, Reader, StoreError, Told},
};
pub(super) use keeper::Keeper;

/// How long a start or a reload waits for a store that another process has open.
const START_WAIT: Duration = Duration::from_secs(10);

/// A store that has been opened for a configuration.
pub(super) struct Opened {
    path: PathBuf,
    table: Arc<KeyTable>,
    /// None: it is followed already.
    read: Option<(Mark, BTreeSet<Arc<str>>)>,
}

/// Up to where a store has been read.
struct Mark {
    hash_key: HashKey,
    sequence: u64,
    stamp: Stamp,
}

/// Device, inode, size, and when it was last written.
type Stamp = (u64, u64, u64, i64, i64);

/// Opens the stores of a configuration, one per auth; those that `before` has stay as they are.
pub(super) fn open(config: &Config, before: Option<&Snapshot>) -> Result<Vec<Option<Opened>>, SnapshotError> {
    let mut opened: Vec<Option<Opened>> = Vec::new();
    for auth in &config.auths {
        let AuthKind::ApiKey(api_key) = &auth.kind else {
            opened.push(None);
            continue;
        };
        let path = &api_key.store;
        let known = opened.iter().flatten().find(|other| other.path == *path).map(|other| &other.table);
        let known = known.or_else(|| followed(before?, path)).cloned();
        let (table, read) = if let Some(table) = known {
            (table, None)
        } else {
            let of = |error| SnapshotError::from(format!("auth.{}: {error}", auth.name));
            let (table, mark, roles) = load(path).map_err(of)?;
            (Arc::new(table), Some((mark, roles)))
        };
        opened.push(Some(Opened { path: path.clone(), table, read }));
    }
    Ok(opened)
}

/// The table of a store that an earlier configuration has named.
fn followed<'s>(before: &'s Snapshot, path: &Path) -> Option<&'s Arc<KeyTable>> {
    let is_it = |kind: &AuthKind| matches!(kind, AuthKind::ApiKey(api_key) if api_key.store == *path);
    let at = before.config.auths.iter().position(|auth| is_it(&auth.kind))?;
    before.keys.of(u16::try_from(at).ok()?)
}

/// Roles that keys carry and the configuration does not know: most likely a slip.
pub(super) fn odd_roles(config: &Config, opened: &[Option<Opened>]) -> Vec<String> {
    let is_known = |name: &str| config.roles.iter().any(|role| &*role.name == name);
    let read = config.auths.iter().zip(opened).filter_map(|(auth, opened)| {
        let (_, roles) = opened.as_ref()?.read.as_ref()?;
        Some((auth, roles))
    });
    read.flat_map(|(auth, roles)| roles.iter().map(move |role| (auth, role)))
        .filter(|(_, role)| !is_known(role))
        .map(|(auth, role)| {
            format!(
                "auth.{}: keys in the store carry the role `{role}`, but there is no `[roles.{role}]`",
                auth.name
            )
        })
        .collect()
}

impl Opened {
    /// Where workers look.
    pub(super) fn table(&self) -> &Arc<KeyTable> {
        &self.table
    }
}

fn load(path: &Path) -> Result<(KeyTable, Mark, BTreeSet<Arc<str>>), StoreError> {
    let stamp = stamp_of(path)?;
    let (mut entries, mut keys) = (Entries::default(), Vec::new());
    let told = unharmed(path, || {
        Reader::open(path, START_WAIT)?.changes(0, |key| {
            keys.extend(entries.of(&key));
            Ok(())
        })
    })?;
    let table = KeyTable::new(&*told.hash_key);
    table.apply(keys.into_iter().map(Change::Put).collect());
    let roles = entries.grants.iter().flat_map(|grants| grants.roles.iter().cloned()).collect();
    Ok((table, Mark::new(told, stamp), roles))
}

/// A key, and what a gateway that runs makes of it; none: it was taken back.
pub type KeptKey = (Key, Option<Arc<ApiKey>>);

/// The keys of a consumer in a store.
pub fn keys_of(store: &Path, consumer: &str) -> Result<Vec<KeptKey>, StoreError> {
    let (mut entries, mut keys) = (Entries::default(), Vec::new());
    unharmed(store, || {
        Reader::open(store, START_WAIT)?.changes(0, |key| {
            if key.consumer == consumer {
                let entry = entries.of(&key).map(Arc::new);
                keys.push((key, entry));
            }
            Ok(())
        })
    })?;
    Ok(keys)
}

/// What `read` says; a file that was changed by others than redb may make that panic.
pub(super) fn unharmed<T>(
    path: &Path,
    read: impl FnOnce() -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err(StoreError::Refused(format!("{} is damaged", path.display()))))
}

/// Missing, where it is: the sentence that says how to make one.
fn stamp_of(path: &Path) -> Result<Stamp, StoreError> {
    let metadata = fs::metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => StoreError::Missing(path.to_owned()),
        _ => StoreError::Io(path.to_owned(), error),
    })?;
    Ok((metadata.dev(), metadata.ino(), metadata.size(), metadata.mtime(), metadata.mtime_nsec()))
}

impl Mark {
    fn new(told: Told, stamp: Stamp) -> Self {
        Self { hash_key: told.hash_key, sequence: told.sequence, stamp }
    }
}

/// Keys become entries of a table; what many carry is there once.
#[derive(Default)]
struct Entries {
    grants: HashSet<Arc<Grants>>,
}

impl Entries {
    /// None: it was taken back.
    fn of(&mut self, key: &Key) -> Option<ApiKey> {
        if key.revoked.is_some() {
            return None;
        }
        let grants = Arc::new(Grants {
            roles: key.roles.iter().map(|role| Arc::from(role.as_str())).collect(),
            scopes: key.scopes.iter().map(|scope| Box::from(scope.as_str())).collect(),
        });
        let grants = if let Some(known) = self.grants.get(&grants) {
            Arc::clone(known)
        } else {
            self.grants.insert(Arc::clone(&grants));
            grants
        };
        ApiKey::new(&key.id, key.hash.0, key.expires, key.consumer.as_str().into(), grants)
    }
}
