#![expect(clippy::disallowed_types, reason = "a backend of redb is shared between threads")]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use proptest::prelude::*;
use redb::{DatabaseError, StorageBackend};
use xtask::lab::scratch::Scratch;

use super::*;
use crate::keys::tests::{any_key, key};

const AT_ONCE: Duration = Duration::ZERO;

fn hash_key() -> HashKey {
    Zeroizing::new([9; HASH_BYTES])
}

fn new_store() -> (Scratch, PathBuf) {
    let scratch = Scratch::new().unwrap();
    let path = scratch.path().join("keys.db");
    assert!(create(&path, &hash_key()).unwrap());
    (scratch, path)
}

fn put(path: &Path, keys: &[Key]) {
    let store = Writer::open(path, AT_ONCE).unwrap();
    store.edit(|edit| keys.iter().try_for_each(|key| edit.put(key))).unwrap();
    store.close().unwrap();
}

fn read(path: &Path, since: u64) -> (Vec<Key>, Told) {
    let mut keys = Vec::new();
    let mut each = |key| {
        keys.push(key);
        Ok(())
    };
    let told = Reader::open(path, AT_ONCE).unwrap().changes(since, &mut each).unwrap();
    (keys, told)
}

#[track_caller]
fn check_refused(path: &Path, part: &str) {
    for error in [Writer::open(path, AT_ONCE).err().unwrap(), Reader::open(path, AT_ONCE).err().unwrap()] {
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn what_is_no_store_says_what_it_is() {
    let scratch = Scratch::new().unwrap();
    let at = |name: &str| scratch.path().join(name);
    let write = |name: &str, text: &str, mode| {
        let path = scratch.write(name, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    check_refused(&at("none"), "portcullis keys create");
    check_refused(&write("old", "version = 1\nhash_key = \"AAAA\"\n", 0o600), "portcullis keys import");
    check_refused(&write("page", "<html>", 0o600), "is not a key store");
    check_refused(&write("empty", "", 0o600), "is not a key store");
    create(&at("open"), &hash_key()).unwrap();
    fs::set_permissions(at("open"), fs::Permissions::from_mode(0o604)).unwrap();
    check_refused(&at("open"), "everybody may read (mode 0604)");
}

#[test]
fn a_store_is_made_once_and_for_its_owner() {
    let (scratch, path) = new_store();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    put(&path, &[key("aaaaaaaa", "acme")]);
    assert!(!create(&path, &Zeroizing::new([1; HASH_BYTES])).unwrap(), "it is there already");
    let (keys, told) = read(&path, 0);
    assert_eq!((keys.len(), told.keys, *told.hash_key), (1, 1, [9; HASH_BYTES]));
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn many_make_one_store_at_once_and_all_their_keys_are_in_it() {
    let scratch = Scratch::new().unwrap();
    let path = &scratch.path().join("keys.db");
    std::thread::scope(|scope| {
        for n in 0..8_u8 {
            scope.spawn(move || {
                create(path, &Zeroizing::new([n; HASH_BYTES])).unwrap();
                let store = Writer::open(path, Duration::from_mins(1)).unwrap();
                store.edit(|edit| edit.put(&key(&format!("aaaaaaa{n}"), "acme"))).unwrap();
                store.close().unwrap();
            });
        }
    });
    assert_eq!(read(path, 0).0.len(), 8);
}

#[test]
fn who_comes_while_it_is_open_is_told_so() {
    let (_scratch, path) = new_store();
    let writer = Writer::open(&path, AT_ONCE).unwrap();
    check_refused(&path, "in use by another process");
    drop(writer);
    let readers = [0; 3].map(|_| Reader::open(&path, AT_ONCE).unwrap());
    assert!(matches!(Writer::open(&path, AT_ONCE), Err(StoreError::Busy(..))));
    drop(readers);
    Writer::open(&path, AT_ONCE).unwrap();
}

#[test]
fn an_edit_that_fails_changes_nothing() {
    let (_scratch, path) = new_store();
    put(&path, &[key("aaaaaaaa", "acme")]);
    let store = Writer::open(&path, AT_ONCE).unwrap();
    let bad = [key("bbbbbbbb", "acme"), key("aaaaaaaa", "other"), key("cccccccc", "")];
    store.edit(|edit| bad.iter().try_for_each(|key| edit.put(key))).unwrap_err();
    store.close().unwrap();
    let (keys, told) = read(&path, 0);
    assert_eq!((keys, told.sequence), (vec![key("aaaaaaaa", "acme")], 1));
}

#[test]
fn uses_are_kept_beside_the_keys_and_change_none() {
    let (_scratch, path) = new_store();
    put(&path, &[key("aaaaaaaa", "acme"), key("bbbbbbbb", "acme")]);
    let used = |last_s, source: &str, count| Use { last_s, source: source.parse().unwrap(), count };
    for uses in [
        [("aaaaaaaa", used(5, "192.0.2.1", 2)), ("gonegone", used(5, "192.0.2.1", 1))],
        [("aaaaaaaa", used(9, "2001:db8::1", 3)), ("gonegone", used(9, "192.0.2.1", 1))],
    ] {
        Writer::open(&path, AT_ONCE).unwrap().add_uses(uses.into_iter()).unwrap();
    }
    let reader = Reader::open(&path, AT_ONCE).unwrap();
    let uses = |id: &str| reader.get(id).unwrap().and_then(|(_, used)| used);
    assert_eq!(uses("aaaaaaaa"), Some(used(9, "2001:db8::1", 5)));
    assert_eq!(uses("bbbbbbbb"), None);
    assert!(reader.get("gonegone").unwrap().is_none());
    drop(reader);
    let (changed, told) = read(&path, 2);
    assert_eq!((changed.len(), told.sequence, told.keys), (0, 2, 2));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Who reads only what has changed, at any moments, knows what who reads all knows.
    #[test]
    fn changes_lead_to_the_same_keys(batches in prop::collection::vec(
        prop::collection::vec((any_key(), prop::sample::select(vec!["aaaaaaaa", "bbbbbbbb", "cccccccc", ""])), 0..5),
        1..6,
    )) {
        let (_scratch, path) = new_store();
        let (mut known, mut sequence) = (BTreeMap::new(), 0);
        for batch in batches {
            let named = |(key, id): (Key, &str)| if id.is_empty() { key } else { Key { id: id.to_owned(), ..key } };
            let batch: Vec<Key> = batch.into_iter().map(named).collect();
            put(&path, &batch);
            let (changed, told) = read(&path, sequence);
            prop_assert!(sequence == 0 || changed.len() <= batch.len(), "no more than has changed");
            known.extend(changed.into_iter().map(|key| (key.id.clone(), key)));
            sequence = told.sequence;
            let (all, told) = read(&path, 0);
            prop_assert_eq!(told.keys, all.len() as u64);
            prop_assert_eq!(known.values().cloned().collect::<Vec<_>>(), all);
        }
    }
}

/// A disk whose power can be cut: what was synced is there afterwards, and of the rest a part, in no order.
#[derive(Debug, Default)]
struct Disk(Mutex<Platters>);

#[derive(Debug, Default)]
struct Platters {
    synced: Vec<u8>,
    seen: Vec<u8>,
    pending: Vec<(usize, Vec<u8>)>,
    /// Writes until the power is cut.
    writes_left: Option<usize>,
}

impl Disk {
    fn cut_after(writes: usize, image: Vec<u8>) -> Arc<Self> {
        let platters =
            Platters { synced: image.clone(), seen: image, writes_left: Some(writes), ..Platters::default() };
        Arc::new(Self(Mutex::new(platters)))
    }

    /// What is found when the power is back; each bit of `kept` is the fate of a write that was not synced.
    fn image(&self, kept: u64) -> Vec<u8> {
        let platters = self.0.lock().unwrap();
        let mut image = platters.synced.clone();
        image.resize(platters.seen.len().max(image.len()), 0);
        for (n, (at, bytes)) in platters.pending.iter().enumerate() {
            if kept >> (n % 64) & 1 == 1 {
                image[*at..at + bytes.len()].copy_from_slice(bytes);
            }
        }
        image
    }
}

#[derive(Debug)]
struct Plug(Arc<Disk>);

impl StorageBackend for Plug {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.0.0.lock().unwrap().seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let platters = self.0.0.lock().unwrap();
        let at = usize::try_from(offset).unwrap();
        out.copy_from_slice(&platters.seen[at..at + out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.0.0.lock().unwrap().seen.resize(usize::try_from(len).unwrap(), 0);
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        let mut platters = self.0.0.lock().unwrap();
        if platters.writes_left == Some(0) {
            return Err(io::Error::other("no power"));
        }
        platters.synced = platters.seen.clone();
        platters.pending.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        let mut platters = self.0.0.lock().unwrap();
        match &mut platters.writes_left {
            Some(0) => return Err(io::Error::other("no power")),
            Some(left) => *left -= 1,
            None => {}
        }
        let at = usize::try_from(offset).unwrap();
        platters.seen[at..at + data.len()].copy_from_slice(data);
        platters.pending.push((at, data.to_vec()));
        Ok(())
    }
}

/// A writer on a disk, as [`Writer::open`] makes one.
fn writer_on(disk: &Arc<Disk>) -> Result<Writer, DatabaseError> {
    let database = builder().create_with_backend(Plug(Arc::clone(disk)))?;
    Ok(Writer { database, path: "disk".into() })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    /// Whenever the power is cut, in mid-write too, a change was made whole or not at all, and what was there stays.
    #[test]
    fn a_crash_loses_nothing_that_was_committed(kept: u64, count in 1_usize..40) {
        let (_scratch, path) = new_store();
        let before: Vec<Key> = (10..30).map(|n| key(&format!("before{n}"), "acme")).collect();
        put(&path, &before);
        let image = fs::read(&path).unwrap();
        let change: Vec<Key> = (0..count).map(|n| key(&format!("change{n:02}"), "acme")).collect();
        let mut writes = 0;
        loop {
            let disk = Disk::cut_after(writes, image.clone());
            let committed = writer_on(&disk).is_ok_and(|store| {
                store.edit(|edit| change.iter().try_for_each(|key| edit.put(key))).is_ok()
            });
            let found = writer_on(&Disk::cut_after(usize::MAX, disk.image(kept))).unwrap();
            let there = found.edit(|edit| {
                let count = |keys: &[Key]| keys.iter().filter(|key| edit.has(&key.id).unwrap()).count();
                Ok((count(&before), count(&change)))
            });
            let there = there.unwrap();
            let expected = if committed { count } else { there.1.min(1) * count };
            prop_assert_eq!(there, (before.len(), expected), "after {} writes", writes);
            let spare = disk.0.lock().unwrap().writes_left;
            if committed && spare != Some(0) {
                break;
            }
            writes += 1;
        }
        prop_assert!(writes > 5, "it takes more than {} writes", writes);
    }
}
