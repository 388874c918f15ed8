//! The thread that follows key stores: what `portcullis keys` changes reaches the workers, and what they use is written
//! down.
//!
//! It looks at a file's stamp five times a second, reads what has changed since, and writes uses back every ten seconds.
//! A store that cannot be read changes nothing: the keys that were read last stay in force, and an error and a metric
//! say so.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use metrics::{counter, gauge};

use super::{super::float, Entries, Mark, Opened, stamp_of, unharmed};
use crate::{
    config::AuthKind,
    decide::{
        KeyTable, Snapshot,
        key_table::{Change, Used},
    },
    keys::{Key, Reader, StoreError, Use, Writer},
};

/// How often a store's stamp is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// Looks between two writings of uses: ten seconds.
const LOOKS_PER_WRITING: u64 = 50;
/// How long a look waits for a store that another process has open: longer than anybody should hold it.
const LOOK_WAIT: Duration = Duration::from_millis(400);
/// How long the last writing of uses does.
const END_WAIT: Duration = Duration::from_secs(1);
/// Uses of keys that were taken back meanwhile, which wait to be written. Of more, the last uses are not known.
const LEFT_MAX: usize = 65_536;

/// Holds the thread. Dropped, it waits until what is left has been written down.
pub(in crate::control) struct Keeper {
    /// None at the end.
    orders: Option<Sender<Vec<Order>>>,
    thread: Option<JoinHandle<()>>,
    tallies: Vec<(PathBuf, Arc<Tally>)>,
}

/// A store to follow.
struct Order {
    store: Opened,
    tally: Arc<Tally>,
}

/// What is counted of a store.
#[derive(Debug, Default)]
struct Tally {
    read: AtomicU64,
    unreadable: AtomicU64,
    written: AtomicU64,
    unwritable: AtomicU64,
}

impl Keeper {
    /// Follows nothing yet.
    pub(in crate::control) fn start() -> io::Result<Self> {
        let (orders, ordered) = mpsc::channel();
        let thread = thread::Builder::new().name("keys".to_owned()).spawn(move || keep(&ordered))?;
        Ok(Self { orders: Some(orders), thread: Some(thread), tallies: Vec::new() })
    }

    /// From now on it follows these stores and no others.
    pub(in crate::control) fn follow(&mut self, stores: Vec<Option<Opened>>) {
        let before = std::mem::take(&mut self.tallies);
        let mut orders = Vec::new();
        for store in stores.into_iter().flatten() {
            if self.tallies.iter().any(|(path, _)| *path == store.path) {
                continue;
            }
            let known = before.iter().find(|(path, _)| *path == store.path);
            let tally = known.map(|(_, tally)| Arc::clone(tally)).unwrap_or_default();
            self.tallies.push((store.path.clone(), Arc::clone(&tally)));
            orders.push(Order { store, tally });
        }
        // The thread ends only behind this sender.
        if self.orders.as_ref().is_none_or(|to| to.send(orders).is_err()) {
            log::error!("key stores are no longer followed: a restart is needed");
        }
    }

    /// Tells the metrics.
    pub(in crate::control) fn fold(&self, snapshot: &Snapshot) {
        for (id, auth) in (0..).zip(&snapshot.config.auths) {
            let (AuthKind::ApiKey(api_key), Some(table)) = (&auth.kind, snapshot.keys.of(id)) else {
                continue;
            };
            let name = || auth.name.to_string();
            gauge!("portcullis_keys", "auth" => name()).set(float(table.len() as u64));
            let Some((_, tally)) = self.tallies.iter().find(|(path, _)| *path == api_key.store) else {
                continue;
            };
            let events = [
                ("read", &tally.read),
                ("unreadable", &tally.unreadable),
                ("written", &tally.written),
                ("unwritable", &tally.unwritable),
            ];
            for (event, count) in events {
                counter!("portcullis_key_store_events_total", "auth" => name(), "event" => event)
                    .absolute(count.load(Relaxed));
            }
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // It has told its own panic.
            let _ = thread.join();
        }
    }
}

fn keep(orders: &Receiver<Vec<Order>>) {
    let mut stores: Vec<Followed> = Vec::new();
    let mut looks = 0;
    loop {
        let order = if stores.is_empty() {
            orders.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            orders.recv_timeout(LOOK)
        };
        match order {
            Ok(wanted) => stores = follow(stores, wanted),
            Err(RecvTimeoutError::Timeout) => looks += 1,
            Err(RecvTimeoutError::Disconnected) => break,
        }
        for store in &mut stores {
            store.look();
            if looks % LOOKS_PER_WRITING == LOOKS_PER_WRITING - 1 {
                store.write(LOOK_WAIT);
            }
        }
    }
    for store in &mut stores {
        store.write(END_WAIT);
    }
}

/// Those that were followed go on; what is no longer wanted is written down.
fn follow(mut stores: Vec<Followed>, wanted: Vec<Order>) -> Vec<Followed> {
    let mut next = Vec::new();
    for Order { store, tally } in wanted {
        let known = stores.iter().position(|followed| followed.path == store.path);
        match (known, store.read) {
            (Some(at), _) => next.push(stores.swap_remove(at)),
            (None, Some((mark, _))) => next.push(Followed {
                path: store.path,
                table: store.table,
                mark,
                again: true,
                left: Vec::new(),
                problems: [None, None],
                tally,
            }),
            (None, None) => log::error!("{} is not followed", store.path.display()),
        }
    }
    for store in &mut stores {
        store.write(LOOK_WAIT);
    }
    next
}

/// A store, and how far it is known.
struct Followed {
    path: PathBuf,
    table: Arc<KeyTable>,
    mark: Mark,
    /// A change may have left the stamp as it was: two of one moment have the same.
    again: bool,
    /// Uses of keys that are no longer in the table.
    left: Vec<Used>,
    /// What was told of the last reading and writing that went wrong.
    problems: [Option<String>; 2],
    tally: Arc<Tally>,
}

impl Followed {
    /// Takes what has changed.
    fn look(&mut self) {
        match self.read() {
            Ok(changed) => {
                if let [problem @ Some(_), _] = &mut self.problems {
                    log::info!("{} can be read again", self.path.display());
                    *problem = None;
                }
                self.tally.read.fetch_add(u64::from(changed), Relaxed);
            }
            // It is about to change.
            Err(StoreError::Busy(..)) => {}
            Err(error) => {
                self.tally.unreadable.fetch_add(1, Relaxed);
                let [problem, _] = &mut self.problems;
                tell(problem, format!("{error}; the keys that were read last stay in force"));
            }
        }
    }

    /// Whether there may have been something new.
    fn read(&mut self) -> Result<bool, StoreError> {
        let stamp = stamp_of(&self.path)?;
        let is_same = stamp == self.mark.stamp;
        if is_same && !self.again {
            return Ok(false);
        }
        let is_same_file = (stamp.0, stamp.1) == (self.mark.stamp.0, self.mark.stamp.1);
        let path = &self.path;
        let reader = unharmed(path, || Reader::open(path, LOOK_WAIT))?;
        let read_since = |since| {
            let mut keys: Vec<Key> = Vec::new();
            let told = unharmed(path, || {
                reader.changes(since, |key| {
                    keys.push(key);
                    Ok(())
                })
            })?;
            Ok::<_, StoreError>((keys, told))
        };
        let (mut keys, mut told) = read_since(if is_same_file { self.mark.sequence } else { 0 })?;
        // Another store in the file, or an earlier state of this one.
        let is_other = told.hash_key != self.mark.hash_key || told.sequence < self.mark.sequence;
        if is_same_file && is_other && self.mark.sequence != 0 {
            (keys, told) = read_since(0)?;
        }
        let mut entries = Entries::default();
        let left = if !is_same_file || is_other {
            log::info!("{} is another store: it has {} keys", path.display(), told.keys);
            self.table.replace(&*told.hash_key, keys.iter().filter_map(|key| entries.of(key)).collect())
        } else {
            let change = |key: &Key| {
                let put = entries.of(key).map(Change::Put);
                put.or_else(|| Some(Change::Remove(key.id.as_bytes().try_into().ok()?)))
            };
            self.table.apply(keys.iter().filter_map(change).collect())
        };
        self.left.extend(left);
        self.left.truncate(LEFT_MAX);
        self.mark = Mark::new(told, stamp);
        self.again = !is_same;
        Ok(true)
    }

    /// Writes down how keys were used.
    fn write(&mut self, wait: Duration) {
        if !self.table.has_uses() && self.left.is_empty() {
            return;
        }
        let path = &self.path;
        // First of all: while it cannot be opened, what was used stays counted where it is.
        let written = unharmed(path, || Writer::open(path, wait)).and_then(|store| {
            let mut uses = self.table.take_uses();
            uses.append(&mut self.left);
            let rows = uses.iter().map(|used| {
                let Used { id, last_s, source, count } = used;
                (id.as_str(), Use { last_s: *last_s, source: *source, count: *count })
            });
            let added = unharmed(path, || store.add_uses(rows));
            if added.is_err() {
                self.left = self.table.put_back(uses);
            }
            added
        });
        let [_, problem] = &mut self.problems;
        match written {
            Ok(()) => {
                *problem = None;
                self.tally.written.fetch_add(1, Relaxed);
            }
            Err(StoreError::Busy(..)) => {}
            Err(error) => {
                self.tally.unwritable.fetch_add(1, Relaxed);
                tell(problem, format!("{error}; when keys were used last is not written down"));
            }
        }
    }
}

/// Once, until it is another.
fn tell(told: &mut Option<String>, problem: String) {
    if told.as_ref() != Some(&problem) {
        log::error!("{problem}");
        *told = Some(problem);
    }
}
