//! Sessions that were logged out, kept where a restart finds them: one small file of redb.
//!
//! Comes in: what has ended, from the table that workers go by (`decide::oidc::revoked`). Goes out, at a start: all of it
//! that still matters. What has ended has ended, whether it can be written down or not; what could not be is tried again
//! every second. As a key store, the file is opened for a moment only, so that a gateway that ends and the next one share
//! it. It is bounded as the table is: past that, everybody who has a session logs in again after a restart.

use std::{
    cell::{Cell, RefCell},
    fs::{DirBuilder, OpenOptions},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use redb::{
    Builder, Database, ReadableTable as _, ReadableTableMetadata as _, Table, TableDefinition,
    backends::FileBackend,
};
use tokio::{
    sync::Semaphore,
    task::{spawn_blocking, spawn_local},
    time::timeout,
};

use super::unix_ms;
use crate::{
    control::keys::unharmed,
    decide::oidc::revoked::{MARKS_MAX, MarkId, Revocation, Revoked},
    keys::{self, StoreError},
};

/// In `runtime.state_dir`.
const FILE: &str = "sessions.db";
/// By mark: until when its sessions have begun, and when none of them is left, in ms since the epoch.
const ENDED: TableDefinition<u128, (u64, u64)> = TableDefinition::new("ended");
/// How long the file is waited for while another process has it open.
const LOCK_WAIT: Duration = Duration::from_secs(1);
/// How long whoever logs out waits for the disk.
const WAIT: Duration = Duration::from_secs(2);
/// Those who wait at once; others are told that it is not written down yet.
const WAITING_MAX: usize = 64;
/// Revocations that could not be written so far. Of more than these, all that began before ends.
const LEFT_MAX: usize = 4096;
/// Pages of the file that are kept in memory while it is open.
const CACHE_BYTES: usize = 1 << 20;

/// Everybody's sessions, as long as none has begun.
const NOTHING: Revocation = Revocation { id: MarkId::ALL, at_ms: 0, until_ms: 0 };

type Ended<'t> = Table<'t, u128, (u64, u64)>;

/// What was revoked before, in the order of time. The directory and the file are made where there are none, and written
/// to: where that cannot be done, nobody should rely on it.
pub(in crate::control) fn read(directory: &Path, now_ms: u64) -> Result<Vec<Revocation>, StoreError> {
    let mut all = Vec::new();
    change(directory, |ended| {
        ended.retain(|_, (_, until_ms)| until_ms >= now_ms)?;
        for row in ended.iter()? {
            let (id, times) = row?;
            let (at_ms, until_ms) = times.value();
            all.push(Revocation { id: MarkId(id.value()), at_ms, until_ms });
        }
        Ok(())
    })?;
    all.sort_unstable_by_key(|revocation| revocation.at_ms);
    Ok(all)
}

fn write(directory: &Path, batch: &[Revocation], now_ms: u64) -> Result<(), StoreError> {
    change(directory, |ended| {
        for revocation in batch {
            put(ended, *revocation)?;
        }
        bound(ended, MARKS_MAX as u64, now_ms)
    })
}

/// What no session has survived goes first, and then everything with everybody's sessions.
fn bound(ended: &mut Ended<'_>, marks_max: u64, now_ms: u64) -> Result<(), redb::Error> {
    if ended.len()? > marks_max {
        ended.retain(|_, (_, until_ms)| until_ms >= now_ms)?;
    }
    if ended.len()? > marks_max {
        let mut all = NOTHING;
        for row in ended.iter()? {
            all = all.and(row?.1.value());
        }
        put(ended, all)?;
    }
    Ok(())
}

fn put(ended: &mut Ended<'_>, revocation: Revocation) -> Result<(), redb::Error> {
    let before = ended.get(revocation.id.0)?.map(|times| times.value());
    let Revocation { id, at_ms, until_ms } = before.map_or(revocation, |before| revocation.and(before));
    if id == MarkId::ALL {
        // What ended earlier is said by that.
        ended.retain(|_, (other_ms, _)| other_ms > at_ms)?;
    }
    ended.insert(id.0, (at_ms, until_ms))?;
    Ok(())
}

/// Changes the file, all of it or nothing.
fn change(
    directory: &Path,
    change: impl FnOnce(&mut Ended<'_>) -> Result<(), redb::Error>,
) -> Result<(), StoreError> {
    let path = directory.join(FILE);
    let of = |error: redb::Error| StoreError::Database(path.clone(), error);
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|error| StoreError::Io(directory.to_owned(), error))?;
    unharmed(&path, || {
        keys::make(&path, |file| database(file).and_then(|made| Ok(made.close()?)).map_err(of))?;
        let open = || {
            let file = OpenOptions::new().read(true).write(true).open(&path);
            file.map_err(|error| StoreError::Io(path.clone(), error))
                .and_then(|file| database(file).map_err(of))
        };
        let database = keys::patiently(&path, LOCK_WAIT, open)?;
        let done = || -> Result<(), redb::Error> {
            let mut transaction = database.begin_write()?;
            // What comes after a crash is over at once then.
            transaction.set_quick_repair(true);
            change(&mut transaction.open_table(ENDED)?)?;
            transaction.commit()?;
            Ok(database.close()?)
        };
        done().map_err(of)
    })
}

fn database(file: std::fs::File) -> Result<Database, redb::Error> {
    Ok(Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(FileBackend::new(file)?)?)
}

/// Writes down what has ended, one batch after the other.
pub(super) struct Revocations {
    /// What is not written down yet.
    left: RefCell<Vec<Revocation>>,
    turn: Semaphore,
    places: Semaphore,
    /// The last try has failed, and that was told.
    is_failing: Cell<bool>,
}

impl Default for Revocations {
    fn default() -> Self {
        let (left, is_failing) = Default::default();
        Self { left, turn: Semaphore::new(1), places: Semaphore::new(WAITING_MAX), is_failing }
    }
}

impl Revocations {
    /// Whether this and all that ended before is written down. Who waits no longer changes nothing about that.
    pub(super) async fn keep(
        self: &Rc<Self>,
        directory: &Path,
        revoked: &Arc<Revoked>,
        revocation: Option<Revocation>,
    ) -> bool {
        self.leave(revocation);
        let settled = spawn_local(Rc::clone(self).settle(directory.to_owned(), Arc::clone(revoked)));
        matches!(timeout(WAIT, settled).await, Ok(Ok(true)))
    }

    /// Whether something could not be written.
    pub(super) fn has_left(&self) -> bool {
        !self.left.borrow().is_empty()
    }

    fn leave(&self, more: impl IntoIterator<Item = Revocation>) {
        let mut left = self.left.borrow_mut();
        left.extend(more);
        if left.len() > LEFT_MAX {
            let all = left.drain(..).fold(NOTHING, |all, each| all.and((each.at_ms, each.until_ms)));
            left.push(all);
        }
    }

    /// Writes down what is left, when whoever writes has come to an end. True: nothing is left.
    pub(super) async fn settle(self: Rc<Self>, directory: PathBuf, revoked: Arc<Revoked>) -> bool {
        let Ok(_place) = self.places.try_acquire() else { return false };
        let Ok(_turn) = self.turn.acquire().await else { return false };
        let batch = self.left.take();
        if batch.is_empty() {
            return true;
        }
        let (again, count) = (batch.clone(), batch.len() as u64);
        let written = spawn_blocking(move || write(&directory, &batch, unix_ms())).await;
        match written {
            Ok(Ok(())) => {
                revoked.tally.kept.fetch_add(count, Relaxed);
                if self.is_failing.replace(false) {
                    log::info!("sessions that are logged out are written down again");
                }
                true
            }
            failed => {
                let later = self.left.take();
                self.leave(again.into_iter().chain(later));
                revoked.tally.failed.fetch_add(1, Relaxed);
                if !self.is_failing.replace(true) {
                    let why = match failed {
                        Ok(Err(error)) => error.to_string(),
                        _ => "the thread that writes has ended".to_owned(),
                    };
                    log::error!(
                        "{why}: a restart would not know which sessions were logged out; it is tried again"
                    );
                }
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use xtask::lab::scratch::Scratch;

    use super::*;

    /// A directory that is not there yet.
    struct State(PathBuf, #[expect(dead_code, reason = "dropped, it is removed")] Scratch);

    impl State {
        fn new() -> Self {
            let scratch = Scratch::new().unwrap();
            Self(scratch.path().join("var/state"), scratch)
        }

        /// Marks with their times, as a start at `now_ms` would find them.
        fn read(&self, now_ms: u64) -> Vec<(u128, u64)> {
            let all = read(&self.0, now_ms).unwrap();
            all.iter().map(|revocation| (revocation.id.0, revocation.at_ms)).collect()
        }
    }

    fn ended(id: u128, at_ms: u64) -> Revocation {
        Revocation { id: MarkId(id), at_ms, until_ms: at_ms + 100 }
    }

    #[test]
    fn what_has_ended_is_known_until_no_session_is_left() {
        let state = State::new();
        assert_eq!(state.read(0), [], "there is nothing yet, not even the directory");
        write(&state.0, &[ended(1, 20), ended(2, 10)], 20).unwrap();
        write(&state.0, &[ended(3, 15), ended(1, 12)], 20).unwrap();
        assert_eq!(
            state.read(20),
            [(2, 10), (3, 15), (1, 20)],
            "in the order of time, and the later word counts"
        );
        assert_eq!(state.read(111), [(3, 15), (1, 20)]);
        assert_eq!(state.read(20), [(3, 15), (1, 20)], "what nobody needs is gone");
    }

    #[test]
    fn who_ends_everybody_ends_what_began_before() {
        let state = State::new();
        write(&state.0, &[ended(1, 10), ended(2, 30), ended(MarkId::ALL.0, 20)], 30).unwrap();
        assert_eq!(state.read(30), [(MarkId::ALL.0, 20), (2, 30)]);
    }

    #[test]
    fn the_file_and_what_waits_for_it_are_bounded() {
        let state = State::new();
        write(&state.0, &[ended(1, 10), ended(2, 150), ended(3, 151), ended(4, 149)], 151).unwrap();
        change(&state.0, |ended| bound(ended, 3, 151)).unwrap();
        assert_eq!(state.read(0), [(4, 149), (2, 150), (3, 151)], "the oldest counted no more");
        change(&state.0, |ended| bound(ended, 2, 151)).unwrap();
        assert_eq!(state.read(0), [(MarkId::ALL.0, 151)], "everybody who began until then");
        let revocations = Revocations::default();
        revocations.leave((0..=LEFT_MAX as u128).map(|id| ended(id + 1, u64::try_from(id).unwrap())));
        assert_eq!(*revocations.left.borrow(), [ended(MarkId::ALL.0, LEFT_MAX as u64)]);
    }

    #[test]
    fn what_is_no_such_file_is_told_and_left_alone() {
        let state = State::new();
        fs::create_dir_all(&state.0).unwrap();
        let file = state.0.join(FILE);
        fs::write(&file, "somebody else's").unwrap();
        let refused = read(&state.0, 0).unwrap_err();
        assert!(refused.to_string().contains(FILE), "{refused}");
        assert_eq!(fs::read(&file).unwrap(), b"somebody else's");
    }
}
