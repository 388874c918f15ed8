//! A key store: one file of redb, which survives a crash in mid-write with what was committed.
//!
//! redb lets one process write a file, or several read it, so everybody opens it for a moment only, and waits for a
//! bounded time while another has it. Each change of a key gets the next number of a sequence and an entry in
//! `changes`, which replaces the key's earlier one: who knows up to which number it has read finds out what has changed
//! since, for as much as that is. When and where keys were used stands apart, since it changes no key.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _},
    net::{IpAddr, Ipv6Addr},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use aws_lc_rs::rand;
use redb::{
    Builder, Database, ReadOnlyDatabase, ReadableDatabase as _, ReadableTable as _,
    ReadableTableMetadata as _, Table, TableDefinition, backends::FileBackend,
};
use thiserror::Error;
use zeroize::Zeroizing;

use super::{HASH_BYTES, HashKey, Key, Use};

/// The only version of what stands in the tables so far.
const VERSION: &[u8] = &[1];

/// [`VERSION`] and [`HASH_KEY`] by name.
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const NAME_VERSION: &str = "version";
const NAME_HASH_KEY: &str = "hash_key";
/// Keys by id: the number of their last change, and the [`Key`] in JSON.
const KEYS: TableDefinition<&str, (u64, &[u8])> = TableDefinition::new("keys");
/// Ids by the number of their last change.
const CHANGES: TableDefinition<u64, &str> = TableDefinition::new("changes");
/// By id: the second of the last use, from where, how often in all.
const USES: TableDefinition<&str, (u64, u128, u64)> = TableDefinition::new("uses");

/// Pages of the file that are kept in memory while it is open.
const CACHE_BYTES: usize = 32 << 20;
/// Pause between two tries at a store that another process has open.
const RETRY_PAUSE: Duration = Duration::from_millis(5);
/// Permission bits of "others".
const MODE_OTHERS: u32 = 0o007;
/// How a file of redb begins.
const MAGIC: &[u8] = b"redb\x1A\x0A";

/// Why a store cannot be used.
#[derive(Debug, Error)]
pub enum StoreError {
    /// There is none.
    #[error(
        "{0} is not there: `portcullis keys create --store {0} --consumer NAME` makes it, with a first key"
    )]
    Missing(PathBuf),
    /// Everybody may read it.
    #[error("{0} holds a secret that everybody may read (mode {1:04o}): chmod o= it")]
    Open(PathBuf, u32),
    /// It is a store of the old kind.
    #[error(
        "{0} is a key store of the old kind, in TOML: `portcullis keys import --store NEW {0}` takes its keys over, which \
         stay good"
    )]
    OldKind(PathBuf),
    /// It is something else.
    #[error("{0} is not a key store")]
    NoStore(PathBuf),
    /// A later version made it.
    #[error("{0} is a key store of another version, which this one cannot read")]
    Version(PathBuf),
    /// Another process has had it open for so long.
    #[error("{0} is in use by another process, also after {1:?}")]
    Busy(PathBuf, Duration),
    /// A file operation.
    #[error("{0}: {1}")]
    Io(PathBuf, #[source] io::Error),
    /// A broken file, or no room for more.
    #[error("{0}: {1}")]
    Database(PathBuf, #[source] redb::Error),
    /// A row that is none.
    #[error("the key {0:?} in the store cannot be read: {1}")]
    Row(String, #[source] serde_json::Error),
    /// What is to be done to a key cannot be done.
    #[error("{0}")]
    Refused(String),
}

/// A store that nobody else can open meanwhile.
pub struct Writer {
    database: Database,
    path: PathBuf,
}

/// A store that others may read, too.
pub struct Reader {
    database: ReadOnlyDatabase,
    path: PathBuf,
}

/// What a reading has told beside the keys.
pub struct Told {
    /// What their hashes are made with.
    pub hash_key: HashKey,
    /// The number of the last change.
    pub sequence: u64,
    /// How many keys there are.
    pub keys: u64,
}

/// Makes a store without keys, unless there is one; `false`: there is.
pub fn create(path: &Path, hash_key: &HashKey) -> Result<bool, StoreError> {
    make(path, |file| initialize(path, file, hash_key))
}

/// Makes a file as `initialize` does it, unless there is one; `false`: there is. Whoever looks meanwhile sees none or all
/// of it.
pub(crate) fn make(
    path: &Path,
    initialize: impl FnOnce(File) -> Result<(), StoreError>,
) -> Result<bool, StoreError> {
    if path.exists() {
        return Ok(false);
    }
    let io = |error| StoreError::Io(path.to_owned(), error);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut random = [0; 8];
    rand::fill(&mut random).map_err(|error| io(io::Error::other(error)))?;
    let beside = path.with_file_name(format!(".{name}.{:016x}.new", u64::from_ne_bytes(random)));
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&beside);
    let made = file.map_err(io).and_then(initialize).and_then(|()| {
        match fs::hard_link(&beside, path) {
            // Somebody else was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            linked => linked.map(|()| true).map_err(io),
        }
    });
    let removed = fs::remove_file(&beside);
    let made = made?;
    removed.map_err(io)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new("."))).and_then(|directory| directory.sync_all()).map_err(io)?;
    Ok(made)
}

fn initialize(path: &Path, file: File, hash_key: &HashKey) -> Result<(), StoreError> {
    let of = |error| StoreError::Database(path.to_owned(), error);
    let made = || -> Result<(), redb::Error> {
        let database = builder().create_with_backend(FileBackend::new(file)?)?;
        let transaction = database.begin_write()?;
        {
            let mut meta = transaction.open_table(META)?;
            meta.insert(NAME_VERSION, VERSION)?;
            meta.insert(NAME_HASH_KEY, &hash_key[..])?;
            transaction.open_table(KEYS)?;
            transaction.open_table(CHANGES)?;
            transaction.open_table(USES)?;
        }
        transaction.commit()?;
        database.close()?;
        Ok(())
    };
    made().map_err(of)
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

/// Opens the file, if it is a store at all and a secret still.
fn open_file(path: &Path, options: &OpenOptions) -> Result<File, StoreError> {
    let io = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => StoreError::Missing(path.to_owned()),
        _ => StoreError::Io(path.to_owned(), error),
    };
    let mut file = options.open(path).map_err(io)?;
    let mode = file.metadata().map_err(io)?.permissions().mode();
    if mode & MODE_OTHERS != 0 {
        return Err(StoreError::Open(path.to_owned(), mode & 0o7777));
    }
    let mut begins = Zeroizing::new(Vec::new());
    file.by_ref().take(4096).read_to_end(&mut begins).map_err(io)?;
    if begins.starts_with(MAGIC) {
        return Ok(file);
    }
    let is_old = str::from_utf8(&begins).is_ok_and(|text| text.contains("hash_key"));
    Err(if is_old { StoreError::OldKind(path.to_owned()) } else { StoreError::NoStore(path.to_owned()) })
}

/// Tries until nobody else has it open; `wait` at the most.
#[expect(
    clippy::disallowed_methods,
    reason = "a lock of another process tells nobody when it ends; a worker never comes here"
)]
pub(crate) fn patiently<T>(
    path: &Path,
    wait: Duration,
    open: impl Fn() -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let begun = Instant::now();
    loop {
        match open() {
            Err(StoreError::Database(_, redb::Error::DatabaseAlreadyOpen)) => {}
            done => return done,
        }
        if begun.elapsed() >= wait {
            return Err(StoreError::Busy(path.to_owned(), wait));
        }
        std::thread::sleep(RETRY_PAUSE);
    }
}

impl Writer {
    /// Opens a store to change it. After a crash this brings it back to the last commit.
    pub fn open(path: &Path, wait: Duration) -> Result<Self, StoreError> {
        let database = patiently(path, wait, || {
            let file = open_file(path, OpenOptions::new().read(true).write(true))?;
            let opened = FileBackend::new(file).and_then(|backend| builder().create_with_backend(backend));
            opened.map_err(|error| StoreError::Database(path.to_owned(), error.into()))
        })?;
        Ok(Self { database, path: path.to_owned() })
    }

    /// Closes it for good; to drop it does the same and tells no error.
    pub fn close(self) -> Result<(), StoreError> {
        self.database.close().map_err(|error| StoreError::Database(self.path, error.into()))
    }

    /// What the hashes are made with.
    pub fn hash_key(&self) -> Result<HashKey, StoreError> {
        let read = || -> Result<_, redb::Error> {
            let transaction = self.database.begin_read()?;
            let meta = transaction.open_table(META)?;
            Ok(hash_key(&meta)?)
        };
        self.told(read())?.ok_or_else(|| StoreError::Version(self.path.clone()))
    }

    /// Changes keys, all or none: an error of `edit` leaves everything as it was.
    pub fn edit<T>(
        &self,
        edit: impl FnOnce(&mut Edit<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut transaction = self.told(self.database.begin_write().map_err(redb::Error::from))?;
        // What comes after a crash is over at once then, however many keys there are.
        transaction.set_quick_repair(true);
        let done = {
            let open = || -> Result<_, redb::Error> {
                let meta = transaction.open_table(META)?;
                let (keys, changes) = (transaction.open_table(KEYS)?, transaction.open_table(CHANGES)?);
                let sequence = changes.last()?.map_or(0, |(sequence, _)| sequence.value());
                Ok((hash_key(&meta)?, Edit { path: &self.path, keys, changes, sequence }))
            };
            let (known, mut tables) = self.told(open())?;
            known.ok_or_else(|| StoreError::Version(self.path.clone()))?;
            edit(&mut tables)?
        };
        self.told(transaction.commit().map_err(redb::Error::from))?;
        Ok(done)
    }

    /// Adds what keys were used for.
    pub fn add_uses<'u>(&self, uses: impl Iterator<Item = (&'u str, Use)>) -> Result<(), StoreError> {
        let add = || -> Result<(), redb::Error> {
            let mut transaction = self.database.begin_write()?;
            transaction.set_quick_repair(true);
            {
                let keys = transaction.open_table(KEYS)?;
                let mut table = transaction.open_table(USES)?;
                for (id, used) in uses {
                    // A key that is no longer there was in another file of this name.
                    if keys.get(id)?.is_none() {
                        continue;
                    }
                    let before = table.get(id)?.map(|row| use_of(row.value()));
                    let Use { last_s, source, count } = before.map_or(used, |before| before.and(used));
                    table.insert(id, (last_s, bits_of(source), count))?;
                }
            }
            transaction.commit()?;
            Ok(())
        };
        self.told(add())
    }

    fn told<T>(&self, result: Result<T, redb::Error>) -> Result<T, StoreError> {
        result.map_err(|error| StoreError::Database(self.path.clone(), error))
    }
}

/// Keys while they are changed.
pub struct Edit<'t> {
    path: &'t Path,
    keys: Table<'t, &'static str, (u64, &'static [u8])>,
    changes: Table<'t, u64, &'static str>,
    sequence: u64,
}

impl Edit<'_> {
    /// The key of this id.
    pub fn get(&self, id: &str) -> Result<Option<Key>, StoreError> {
        let row = self.keys.get(id).map_err(|error| self.failed(error))?;
        row.map(|row| key_of(id, row.value().1)).transpose()
    }

    /// Whether there is a key of this id.
    pub fn has(&self, id: &str) -> Result<bool, StoreError> {
        Ok(self.keys.get(id).map_err(|error| self.failed(error))?.is_some())
    }

    /// Puts a key in, or in the place of what it was before.
    pub fn put(&mut self, key: &Key) -> Result<(), StoreError> {
        key.check().map_err(StoreError::Refused)?;
        let row = serde_json::to_vec(key).map_err(|error| StoreError::Row(key.id.clone(), error))?;
        self.sequence += 1;
        let mut put = || -> Result<(), redb::StorageError> {
            let before = self.keys.insert(&*key.id, (self.sequence, &*row))?.map(|before| before.value().0);
            if let Some(before) = before {
                self.changes.remove(before)?;
            }
            self.changes.insert(self.sequence, &*key.id)?;
            Ok(())
        };
        let put = put();
        put.map_err(|error| self.failed(error))
    }

    fn failed(&self, error: redb::StorageError) -> StoreError {
        StoreError::Database(self.path.to_owned(), error.into())
    }
}

impl Reader {
    /// Opens a store to read it.
    pub fn open(path: &Path, wait: Duration) -> Result<Self, StoreError> {
        let database = patiently(path, wait, || {
            let open = || {
                let file = open_file(path, OpenOptions::new().read(true))?;
                let opened =
                    FileBackend::new(file).and_then(|backend| builder().open_read_only_with_backend(backend));
                opened.map_err(|error| StoreError::Database(path.to_owned(), error.into()))
            };
            match open() {
                // Who wrote it last did not come to its end. Only a writer may put that in order.
                Err(StoreError::Database(_, redb::Error::RepairAborted)) => {
                    Writer::open(path, Duration::ZERO)?.close()?;
                    open()
                }
                opened => opened,
            }
        })?;
        Ok(Self { database, path: path.to_owned() })
    }

    /// Hands over every key that has changed since number `since`, all of them since 0.
    pub fn changes(
        &self,
        since: u64,
        mut each: impl FnMut(Key) -> Result<(), StoreError>,
    ) -> Result<Told, StoreError> {
        self.look(since, |key, _| each(key), false)
    }

    /// Hands over every key with how it was used, in the order of ids.
    pub fn each(
        &self,
        each: impl FnMut(Key, Option<Use>) -> Result<(), StoreError>,
    ) -> Result<Told, StoreError> {
        self.look(0, each, true)
    }

    /// The key of this id, and how it was used.
    pub fn get(&self, id: &str) -> Result<Option<(Key, Option<Use>)>, StoreError> {
        let read = || -> Result<_, redb::Error> {
            let transaction = self.database.begin_read()?;
            let row = transaction.open_table(KEYS)?.get(id)?.map(|row| key_of(id, row.value().1));
            let used = transaction.open_table(USES)?.get(id)?.map(|row| use_of(row.value()));
            Ok(row.map(|row| row.map(|key| (key, used))))
        };
        self.told(read())?.transpose()
    }

    /// One look at one state of the store, whatever is read of it.
    fn look(
        &self,
        since: u64,
        mut each: impl FnMut(Key, Option<Use>) -> Result<(), StoreError>,
        with_uses: bool,
    ) -> Result<Told, StoreError> {
        let open = || -> Result<_, redb::Error> {
            let transaction = self.database.begin_read()?;
            let meta = transaction.open_table(META)?;
            let (keys, changes) = (transaction.open_table(KEYS)?, transaction.open_table(CHANGES)?);
            let uses = with_uses.then(|| transaction.open_table(USES)).transpose()?;
            let sequence = changes.last()?.map_or(0, |(sequence, _)| sequence.value());
            Ok((hash_key(&meta)?, keys, changes, uses, sequence))
        };
        let (hash_key, keys, changes, uses, sequence) = self.told(open())?;
        let hash_key = hash_key.ok_or_else(|| StoreError::Version(self.path.clone()))?;
        if since == 0 {
            for row in self.storage(keys.iter())? {
                let (id, row) = self.storage(row)?;
                let used = uses.as_ref().map(|uses| uses.get(id.value())).transpose();
                let used = self.storage(used)?.flatten().map(|row| use_of(row.value()));
                each(key_of(id.value(), row.value().1)?, used)?;
            }
        } else {
            for change in self.storage(changes.range(since.saturating_add(1)..))? {
                let (_, id) = self.storage(change)?;
                if let Some(row) = self.storage(keys.get(id.value()))? {
                    each(key_of(id.value(), row.value().1)?, None)?;
                }
            }
        }
        Ok(Told { hash_key, sequence, keys: self.storage(keys.len())? })
    }

    fn told<T>(&self, result: Result<T, redb::Error>) -> Result<T, StoreError> {
        result.map_err(|error| StoreError::Database(self.path.clone(), error))
    }

    fn storage<T>(&self, result: Result<T, redb::StorageError>) -> Result<T, StoreError> {
        self.told(result.map_err(redb::Error::from))
    }
}

/// None: the store is of another version.
fn hash_key(
    meta: &impl redb::ReadableTable<&'static str, &'static [u8]>,
) -> Result<Option<HashKey>, redb::StorageError> {
    if meta.get(NAME_VERSION)?.is_none_or(|version| version.value() != VERSION) {
        return Ok(None);
    }
    let hash_key = meta.get(NAME_HASH_KEY)?;
    Ok(hash_key.and_then(|bytes| <[u8; HASH_BYTES]>::try_from(bytes.value()).ok()).map(Zeroizing::new))
}

fn key_of(id: &str, row: &[u8]) -> Result<Key, StoreError> {
    serde_json::from_slice(row).map_err(|error| StoreError::Row(id.to_owned(), error))
}

fn use_of((last_s, source, count): (u64, u128, u64)) -> Use {
    Use { last_s, source: Ipv6Addr::from_bits(source).to_canonical(), count }
}

/// IPv4 as IPv6 maps it (RFC 4291 §2.5.5.2).
fn bits_of(source: IpAddr) -> u128 {
    match source {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

#[cfg(test)]
mod tests;
