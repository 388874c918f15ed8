//! `portcullis keys`: makes API keys, shows each once, and keeps who holds them, until when and what became of them;
//! hashes passwords.
//!
//! It works on the store's file alone, so it needs no running gateway; one that runs goes by a change within a second.

mod show;

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use argon2::{Argon2, PasswordHasher as _};
use aws_lc_rs::rand;
use clap::{Args, Subcommand};
use portcullis::{
    config::{self, AuthKind},
    decide::{api_key, basic},
    keys::{self, Edit, Hash, HashKey, Key, Quota, Reader, StoreError, Writer, rfc3339},
};
use zeroize::Zeroizing;

use super::{CONFIG_DEFAULT, Told, audit::told_before, load};
use show::{print_key, print_list, print_minted};

/// How long a command waits while other processes have the store open.
const WAIT: Duration = Duration::from_mins(1);
/// Keys that an import puts in before it lets others in, who may want to revoke one, and a gateway, which has to hear of
/// it within a second: a hundred milliseconds.
const KEYS_AT_ONCE: usize = 10_000;
/// Longer than others pause between two tries.
const PAUSE: Duration = Duration::from_millis(20);

#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// Make a key, print it (this once) and put its hash into the store; a store that is not there is made
    Create {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        holder: Holder,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Every key: who holds it, whether it is good, when it was used last and from where
    List {
        #[command(flatten)]
        place: Place,
        /// Of this consumer only
        #[arg(long, value_name = "NAME")]
        consumer: Option<String>,
        /// One JSON array
        #[arg(long)]
        json: bool,
    },
    /// All that is known about a key
    Show {
        #[command(flatten)]
        place: Place,
        /// Its id, or the key itself
        #[arg(value_parser = id)]
        id: String,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Make a new key for whoever holds this one, which stays good for a while
    Rotate {
        #[command(flatten)]
        place: Place,
        /// Id of the old key, or the key itself
        #[arg(value_parser = id)]
        id: String,
        /// How long the old key stays good, such as 24h; 0s: no longer
        #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = config::duration)]
        overlap: Duration,
        /// Until when the new key is good: a duration or a date; absent: for as long as the old one was made for
        #[arg(long, value_name = "WHEN")]
        expires: Option<String>,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Take keys back: they stop working within a second
    Revoke {
        #[command(flatten)]
        place: Place,
        /// Ids, or the keys themselves
        #[arg(required = true, value_parser = id)]
        ids: Vec<String>,
    },
    /// Take keys over: JSON lines of hashes, as `export` writes them, or a key store of the old kind, in TOML
    Import {
        #[command(flatten)]
        place: Place,
        /// Where from; "-": standard input
        file: PathBuf,
    },
    /// Write every key as a JSON line with its hash, behind a line with what the hashes are made with: keep it secret
    Export {
        #[command(flatten)]
        place: Place,
        /// Where to; standard output when absent
        file: Option<PathBuf>,
    },
    /// Read a password from standard input and print the line for the file of a `kind = "basic"`
    Password {
        /// Whose it is
        #[arg(value_name = "NAME")]
        user: String,
    },
}

/// Which store.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// The store, instead of what a configuration says
    #[arg(long, value_name = "FILE", conflicts_with_all = ["config", "auth"])]
    store: Option<PathBuf>,
    /// The configuration, which says where the store is
    #[arg(long, value_name = "FILE", default_value = CONFIG_DEFAULT)]
    config: PathBuf,
    /// Which `[auth.NAME]` of kind `api_key`, where there are several
    #[arg(long, value_name = "NAME")]
    auth: Option<String>,
}

/// Who will hold a key, and what it is good for.
#[derive(Debug, Args)]
pub(crate) struct Holder {
    /// Who will hold it
    #[arg(long, value_name = "NAME")]
    consumer: String,
    /// A role that it carries; may be given several times
    #[arg(long = "role", value_name = "NAME")]
    roles: Vec<String>,
    /// An OAuth scope that it carries; may be given several times
    #[arg(long = "scope", value_name = "NAME")]
    scopes: Vec<String>,
    /// Until when it is good: a duration such as 90d, or a date such as 2027-01-01; absent: until it is revoked
    #[arg(long, value_name = "WHEN")]
    expires: Option<String>,
    /// Requests that may be made with it, such as `10000/day` or `1_000_000/month`: kept and shown, NOT ENFORCED yet
    #[arg(long, value_name = "QUOTA")]
    quota: Option<Quota>,
    /// For people
    #[arg(long)]
    note: Option<String>,
}

impl Place {
    fn path(&self) -> Told<PathBuf> {
        if let Some(store) = &self.store {
            return Ok(store.clone());
        }
        let config = load(&self.config)?.config;
        let stores = config.auths.iter().filter_map(|auth| match &auth.kind {
            AuthKind::ApiKey(api_key) => Some((&*auth.name, &*api_key.store)),
            _ => None,
        });
        let stores: Vec<(&str, &Path)> =
            stores.filter(|(name, _)| self.auth.as_deref().is_none_or(|auth| auth == *name)).collect();
        let at = self.config.display();
        match (&*stores, &self.auth) {
            ([(_, store)], _) => Ok(store.to_path_buf()),
            ([], Some(auth)) => Err(format!("{at} has no [auth.{auth}] of kind \"api_key\"")),
            ([], None) => Err(format!("{at} has no [auth.NAME] of kind \"api_key\"")),
            (several, _) => {
                let names: Vec<&str> = several.iter().map(|(name, _)| *name).collect();
                Err(format!("{at} has several stores of keys: choose one by --auth, of {}", names.join(", ")))
            }
        }
    }

    fn write(&self) -> Told<Writer> {
        Writer::open(&self.path()?, WAIT).map_err(told)
    }

    fn read(&self) -> Told<Reader> {
        Reader::open(&self.path()?, WAIT).map_err(told)
    }

    /// The same; a store that is not there is made, with this hash key or one of its own.
    fn write_or_make(&self, hash_key: Option<&HashKey>) -> Told<Writer> {
        let path = self.path()?;
        let own = hash_key.cloned().unwrap_or_else(|| {
            let mut own = Zeroizing::new([0; keys::HASH_BYTES]);
            fill(&mut *own);
            own
        });
        keys::create(&path, &own).map_err(told)?;
        Writer::open(&path, WAIT).map_err(told)
    }
}

impl Keys {
    pub(crate) fn run(self) -> Told<()> {
        let now_s = unix_s();
        match self {
            Self::Create { place, holder, json } => create(&place, holder, json, now_s),
            Self::List { place, consumer, json } => {
                print_list(place.read()?, consumer.as_deref(), json, now_s)
            }
            Self::Show { place, id, json } => {
                let (key, used) = place.read()?.get(&id).map_err(told)?.ok_or_else(|| unknown(&id))?;
                print_key(&key, used, json, now_s);
                Ok(())
            }
            Self::Rotate { place, id, overlap, expires, json } => {
                let until = Until { overlap, expires: expires_at(expires.as_deref(), now_s)?, now_s };
                rotate(&place, &id, until, json)
            }
            Self::Revoke { place, ids } => revoke(&place, &ids, now_s),
            Self::Import { place, file } => import(&place, &file, now_s),
            Self::Export { place, file } => {
                let target = file.as_deref().unwrap_or(Path::new("-")).display().to_string();
                told_before(&place.config, "keys export", &target, || export(place.read()?, file.as_deref()))
            }
            Self::Password { user } => password(&user),
        }
    }
}

fn create(place: &Place, holder: Holder, json: bool, now_s: u64) -> Told<()> {
    let Holder { consumer, roles, scopes, expires, quota, note } = holder;
    let expires = expires_at(expires.as_deref(), now_s)?;
    let key = Key {
        id: String::new(),
        consumer,
        roles,
        scopes,
        hash: Hash([0; keys::HASH_BYTES]),
        created: now_s,
        expires,
        revoked: None,
        quota,
        note,
        replaces: None,
        replaced_by: None,
    };
    let minted = api_key::mint(&mut |bytes| fill(bytes));
    // Before a store is made for a key that it would refuse.
    let key = Key { id: minted.id.clone(), ..key };
    key.check()?;
    let store = place.write_or_make(None)?;
    let key = Key { hash: hash_of(&store, &minted)?, ..key };
    told_before(&place.config, "keys create", &format!("{} of {}", key.id, key.consumer), || {
        let put = |keys: &mut Edit<'_>| {
            if keys.has(&key.id)? { Err(taken(&key.id)) } else { keys.put(&key) }
        };
        store.edit(put).and_then(|()| store.close()).map_err(told)
    })?;
    print_minted(&minted, &key, json, now_s);
    Ok(())
}

/// Until when the old key and the new one are good.
#[derive(Debug, Clone, Copy)]
struct Until {
    overlap: Duration,
    expires: Option<u64>,
    now_s: u64,
}

fn rotate(place: &Place, id: &str, until: Until, json: bool) -> Told<()> {
    let Until { overlap, expires, now_s } = until;
    let store = place.write()?;
    let minted = api_key::mint(&mut |bytes| fill(bytes));
    let hash = hash_of(&store, &minted)?;
    let replace = |keys: &mut Edit<'_>| {
        let old = keys.get(id)?.ok_or_else(|| StoreError::Refused(unknown(id)))?;
        if let Some(by) = &old.replaced_by {
            return Err(StoreError::Refused(format!(
                "the key {id} was replaced by {by} already: rotate that one"
            )));
        }
        if !old.is_good(now_s) {
            return Err(StoreError::Refused(format!("the key {id} is not good any more: make a new one")));
        }
        if keys.has(&minted.id)? {
            return Err(taken(&minted.id));
        }
        let lifetime_s = old.expires.map(|expires_s| expires_s.saturating_sub(old.created));
        let new = Key {
            id: minted.id.clone(),
            hash,
            created: now_s,
            expires: expires.or(lifetime_s.map(|lifetime_s| now_s.saturating_add(lifetime_s))),
            replaces: Some(old.id.clone()),
            ..old.clone()
        };
        let ends_s = now_s.saturating_add(overlap.as_secs());
        let old = Key {
            expires: Some(old.expires.map_or(ends_s, |expires_s| expires_s.min(ends_s))),
            revoked: overlap.is_zero().then_some(now_s),
            replaced_by: Some(new.id.clone()),
            ..old
        };
        keys.put(&old)?;
        keys.put(&new)?;
        Ok((old, new))
    };
    let (old, new) =
        told_before(&place.config, "keys rotate", &format!("{id}, replaced by {}", minted.id), || {
            let both = store.edit(replace).map_err(told)?;
            store.close().map_err(told)?;
            Ok(both)
        })?;
    print_minted(&minted, &new, json, now_s);
    match old.revoked {
        Some(_) => eprintln!("the old key {id} is good no longer"),
        None => {
            eprintln!("the old key {id} stays good until {}", old.expires.map(rfc3339).unwrap_or_default());
        }
    }
    Ok(())
}

fn revoke(place: &Place, ids: &[String], now_s: u64) -> Told<()> {
    let store = place.write()?;
    let revoke = |keys: &mut Edit<'_>| {
        let mut before = Vec::new();
        for id in ids {
            let key = keys.get(id)?.ok_or_else(|| StoreError::Refused(unknown(id)))?;
            before.push(key.revoked);
            if key.revoked.is_none() {
                keys.put(&Key { revoked: Some(now_s), ..key })?;
            }
        }
        Ok(before)
    };
    let before = told_before(&place.config, "keys revoke", &ids.join(" "), || {
        let before = store.edit(revoke).map_err(|error| {
            let nothing = if ids.len() > 1 { "; no key was revoked" } else { "" };
            format!("{}{nothing}", told(error))
        })?;
        store.close().map_err(told)?;
        Ok(before)
    })?;
    for (id, before) in ids.iter().zip(before) {
        match before {
            Some(revoked_s) => println!("{id} was revoked already, at {}", rfc3339(revoked_s)),
            None => println!("{id} is revoked"),
        }
    }
    Ok(())
}

/// A bad line is told, and then nothing has changed. What an import that is killed has taken stays, and the next one goes
/// on behind it.
fn import(place: &Place, file: &Path, now_s: u64) -> Told<()> {
    let describe =
        |problem: &dyn std::fmt::Display| format!("{}: {problem}; nothing changed", file.display());
    let from: Box<dyn BufRead> = if file == Path::new("-") {
        Box::new(BufReader::new(io::stdin()))
    } else {
        Box::new(BufReader::new(File::open(file).map_err(|error| describe(&error))?))
    };
    let import = keys::read_import(from, now_s).map_err(|problem| describe(&problem))?;
    let keys = import.keys.collect::<Result<Vec<Key>, _>>().map_err(|problem| describe(&problem))?;
    let store = place.write_or_make(import.hash_key.as_ref())?;
    if let Some(hash_key) = &import.hash_key
        && *store.hash_key().map_err(told)? != **hash_key
    {
        return Err(describe(
            &"its hashes are made with another hash key than those of this store, which could not check them: import it \
              into a store of its own",
        ));
    }
    store.close().map_err(told)?;
    let path = place.path()?;
    let taken = told_before(&place.config, "keys import", &file.display().to_string(), || {
        let mut taken = 0;
        for keys in keys.chunks(KEYS_AT_ONCE) {
            taken +=
                take_over(&path, keys).map_err(|error| format!("{}, after {taken} keys", told(error)))?;
            pause();
        }
        Ok(taken)
    })?;
    println!("{taken} keys taken, {} were there already and stay as they are", keys.len() - taken);
    Ok(())
}

/// How many there were not yet. What the store knows of a key may be newer: one that was revoked must not come back.
fn take_over(path: &Path, keys: &[Key]) -> Result<usize, StoreError> {
    let store = Writer::open(path, WAIT)?;
    let taken = store.edit(|edit| {
        let mut taken = 0;
        for key in keys {
            if !edit.has(&key.id)? {
                edit.put(key)?;
                taken += 1;
            }
        }
        Ok(taken)
    })?;
    store.close()?;
    Ok(taken)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the lock of a file is not handed on, but left to whoever tries"
)]
fn pause() {
    std::thread::sleep(PAUSE);
}

/// The store is closed before anything is written: who reads it may be slow, and nobody can change a store meanwhile.
fn export(store: Reader, file: Option<&Path>) -> Told<()> {
    let mut out = Zeroizing::new(Vec::new());
    // Of the hash key it takes no more than the head of a look at nothing.
    let head = store.changes(u64::MAX, |_| Ok(())).map_err(told)?;
    out.extend_from_slice(keys::write_header(&head.hash_key).as_bytes());
    let each = |key: Key, _| {
        out.push(b'\n');
        serde_json::to_writer(&mut *out, &key).map_err(|error| StoreError::Row(key.id, error))
    };
    let count = store.each(each).map_err(told)?.keys;
    drop(store);
    out.push(b'\n');
    let Some(file) = file else { return write_out(&out) };
    let describe = |error: io::Error| format!("{}: {error}", file.display());
    let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(file);
    let mut opened = opened.map_err(describe)?;
    opened.write_all(&out).and_then(|()| opened.sync_all()).map_err(describe)?;
    println!("{}: {count} keys", file.display());
    Ok(())
}

/// Whoever reads only the beginning closes the pipe.
fn write_out(text: &[u8]) -> Told<()> {
    match io::stdout().lock().write_all(text) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.to_string()),
        _ => Ok(()),
    }
}

fn hash_of(store: &Writer, minted: &api_key::Minted) -> Told<Hash> {
    let hash_key = store.hash_key().map_err(told)?;
    Ok(Hash(api_key::hash_of(&*hash_key, &minted.secret)))
}

/// One in 218 million million.
fn taken(id: &str) -> StoreError {
    StoreError::Refused(format!("there is a key {id} already: try again"))
}

fn unknown(id: &str) -> String {
    format!("there is no key {id} in this store")
}

/// A key's id, or a key, of which its id is part.
pub(super) fn id(text: &str) -> Result<String, String> {
    let id = api_key::id_of(text.trim().as_bytes()).unwrap_or(text.trim());
    if keys::is_id(id) { Ok(id.to_owned()) } else { Err("neither the id of a key nor a key".to_owned()) }
}

/// A duration from now, or a date; either lies ahead.
fn expires_at(text: Option<&str>, now_s: u64) -> Told<Option<u64>> {
    let Some(text) = text else { return Ok(None) };
    let at = config::duration(text).ok().map(|duration| now_s.saturating_add(duration.as_secs()));
    let at = at.or_else(|| keys::parse_date(text));
    let at = at.ok_or_else(|| {
        format!("--expires {text:?} is neither a duration such as 90d nor a date such as 2027-01-01")
    })?;
    if at <= now_s {
        return Err(format!("--expires {text:?} lies in the past: {}", rfc3339(at)));
    }
    Ok(Some(at))
}

/// The parameters are argon2's own defaults: 19 MiB, two passes, one lane (the least that OWASP recommends).
fn password(user: &str) -> Told<()> {
    let mut password = Zeroizing::new(String::new());
    io::stdin().read_line(&mut password).map_err(|error| format!("standard input: {error}"))?;
    let given = password.trim_end_matches(['\r', '\n']);
    if given.is_empty() {
        return Err("the password is empty: give it on standard input, in one line".to_owned());
    }
    if user.is_empty() || user.contains(':') || user.chars().any(char::is_control) {
        return Err(format!("{user:?} is no user: a name without colon and control characters"));
    }
    if user.len() + 1 + given.len() > basic::BYTES_MAX || given.chars().any(char::is_control) {
        return Err(format!(
            "a password has no control characters, and fits {} bytes with its user",
            basic::BYTES_MAX
        ));
    }
    let mut salt = [0; 16];
    fill(&mut salt);
    let hash = Argon2::default()
        .hash_password_with_salt(given.as_bytes(), &salt)
        .map_err(|error| format!("the password cannot be hashed: {error}"))?;
    println!("{user}:{hash}");
    Ok(())
}

#[expect(clippy::needless_pass_by_value, reason = "the shape of map_err")]
pub(super) fn told(error: StoreError) -> String {
    match &error {
        StoreError::Io(_, source) if source.kind() == io::ErrorKind::PermissionDenied => {
            format!("{error} (a store belongs to whoever runs the gateway: try sudo)")
        }
        _ => error.to_string(),
    }
}

#[expect(clippy::disallowed_methods, reason = "keys are dated for people and other hosts")]
fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[expect(clippy::expect_used, reason = "without randomness there must be no key")]
fn fill(bytes: &mut [u8]) {
    rand::fill(bytes).expect("the kernel has randomness");
}
