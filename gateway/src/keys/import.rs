//! Keys from elsewhere: JSON lines of hashes, and the TOML file that was a key store once.
//!
//! Comes in: text. Goes out: keys, one after the other, and what their hashes were made with. Of JSON lines only one is
//! in memory at a time. A key's secret stands in neither.

use std::{
    collections::BTreeMap,
    io::{BufRead, Read},
};

use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD as BASE64};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use super::{Hash, HashKey, Key, date, decode};

/// The longest line.
const LINE_BYTES_MAX: u64 = 64 << 10;
/// The largest file of the old kind.
const TOML_BYTES_MAX: u64 = 256 << 20;

/// What is imported.
pub struct Import<'r> {
    /// What the hashes are made with; none: with the store's own.
    pub hash_key: Option<HashKey>,
    /// The keys. An error names its line.
    pub keys: Box<dyn Iterator<Item = Result<Key, String>> + 'r>,
}

/// The line before the keys.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    hash_key: String,
}

/// What stands before the lines of keys whose hashes were made with this.
pub fn write_header(hash_key: &HashKey) -> Zeroizing<String> {
    let header = Header { hash_key: BASE64.encode(**hash_key) };
    let line = Zeroizing::new(serde_json::to_string(&header).unwrap_or_default());
    Zeroizing::new(header.hash_key).zeroize();
    line
}

/// Reads JSON lines, or the TOML of old. Times that the latter does not tell are `unix_s`.
///
/// # Errors
/// A sentence: it is neither, or its first line is bad. What is bad behind that, the keys tell.
pub fn read_import<'r>(mut from: Box<dyn BufRead + 'r>, unix_s: u64) -> Result<Import<'r>, String> {
    let begins = from.fill_buf().map_err(|error| error.to_string())?;
    let first = begins.iter().find(|byte| !byte.is_ascii_whitespace());
    match first {
        Some(b'{') => json_lines(from),
        Some(_) => old_store(from, unix_s),
        None => Err("it is empty".to_owned()),
    }
}

fn json_lines<'r>(from: Box<dyn BufRead + 'r>) -> Result<Import<'r>, String> {
    let mut lines = Lines { from, number: 0 };
    let Some(first) = lines.next() else { return Err("it is empty".to_owned()) };
    let (number, line) = first?;
    let hash_key = match serde_json::from_slice::<Header>(&line) {
        Ok(Header { hash_key }) => {
            let hash_key = Zeroizing::new(hash_key);
            let bad = || format!("line {number}: `hash_key` is not 32 bytes in base64 without padding");
            Some(Zeroizing::new(decode(&hash_key).ok_or_else(bad)?))
        }
        Err(_) => None,
    };
    let again = hash_key.is_none().then_some(Ok((number, line)));
    let keys = again.into_iter().chain(lines).map(|line| {
        let (number, line) = line?;
        let key: Key = serde_json::from_slice(&line).map_err(|error| format!("line {number}: {error}"))?;
        key.check().map_err(|problem| format!("line {number}: {problem}"))?;
        Ok(key)
    });
    Ok(Import { hash_key, keys: Box::new(keys) })
}

/// Lines with something in them, and their numbers.
struct Lines<'r> {
    from: Box<dyn BufRead + 'r>,
    number: u64,
}

impl Iterator for Lines<'_> {
    type Item = Result<(u64, Zeroizing<Vec<u8>>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            self.number += 1;
            let mut line = Zeroizing::new(Vec::new());
            match self.from.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
                Ok(0) => return None,
                Ok(length) if length as u64 == LINE_BYTES_MAX => {
                    return Some(Err(format!(
                        "line {}: longer than {} KiB",
                        self.number,
                        LINE_BYTES_MAX >> 10
                    )));
                }
                Ok(_) if line.trim_ascii().is_empty() => {}
                Ok(_) => return Some(Ok((self.number, line))),
                Err(error) => return Some(Err(format!("line {}: {error}", self.number))),
            }
        }
    }
}

/// The store of old.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OldStore {
    version: u64,
    hash_key: String,
    #[serde(default)]
    keys: BTreeMap<String, OldKey>,
}

/// `[keys.ID]` in it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OldKey {
    consumer: String,
    #[serde(default)]
    roles: Vec<String>,
    hash: String,
    expires: Option<OldTime>,
    note: Option<String>,
}

/// A time of TOML, or a text that says one.
#[derive(Deserialize)]
#[serde(untagged)]
enum OldTime {
    Time(toml::value::Datetime),
    Text(String),
}

fn old_store<'r>(from: Box<dyn BufRead + 'r>, unix_s: u64) -> Result<Import<'r>, String> {
    let mut text = Zeroizing::new(String::new());
    from.take(TOML_BYTES_MAX).read_to_string(&mut text).map_err(|error| error.to_string())?;
    let neither = |problem: String| {
        format!("it is neither JSON lines of keys nor a key store of the old kind, in TOML: {problem}")
    };
    let old: OldStore = toml::from_str(&text).map_err(|error| neither(error.message().to_owned()))?;
    if old.version != 1 {
        return Err(format!("version {} of a key store in TOML is unknown, not 1", old.version));
    }
    let hash_key = Zeroizing::new(old.hash_key);
    let hash_key = decode(&hash_key).ok_or("`hash_key` is not 32 bytes in base64 without padding")?;
    let keys = old.keys.into_iter().map(move |(id, old)| {
        let of = |problem: String| format!("key {id:?}: {problem}");
        let key = old_key(id.clone(), old, unix_s).map_err(of)?;
        key.check().map_err(of)?;
        Ok(key)
    });
    Ok(Import { hash_key: Some(Zeroizing::new(hash_key)), keys: Box::new(keys) })
}

fn old_key(id: String, old: OldKey, unix_s: u64) -> Result<Key, String> {
    let hash = decode(&old.hash).ok_or("`hash` is not 32 bytes in base64 without padding")?;
    // A key must not outlive its expiry because that cannot be read.
    let expires = old.expires.map(|time| {
        let text = match time {
            OldTime::Time(time) => time.to_string(),
            OldTime::Text(text) => text,
        };
        date::parse_date(&text).ok_or("`expires` is not a date such as 2027-01-01T00:00:00Z")
    });
    Ok(Key {
        id,
        consumer: old.consumer,
        roles: old.roles,
        scopes: Vec::new(),
        hash: Hash(hash),
        created: unix_s,
        expires: expires.transpose()?,
        revoked: None,
        quota: None,
        note: old.note,
        replaces: None,
        replaced_by: None,
    })
}
