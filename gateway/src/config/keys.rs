//! The key store: the file of `auth.NAME.store`.
//!
//! Comes in: TOML that `portcullis keys` wrote. Goes out: a [`KeyStore`]. The other way, [`KeyStore::create`] and
//! [`KeyStore::append`] make the text; they keep what stands there already, comments too. A key's secret is never in
//! the file: only HMAC-SHA-256 of it under the store's own hash key, so that a copy of the file is no list of keys.
//! Nothing here reads a clock: an expired key is read like any other and refused when it is used.

use std::{fmt::Write as _, path::Path, sync::Arc};

use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD as BASE64};
use toml::{
    Spanned,
    value::{Datetime, Offset},
};
use zeroize::Zeroizing;

use super::{
    auth::{KeyStore, StoredKey},
    files::{self, Holds},
    raw::{RawExpires, RawKeyStore, RawStoredKey},
    read,
    report::{ConfigError, Place, Report, Scope, did_you_mean},
    types::Secret,
};

/// The only version of the file so far.
const VERSION: u64 = 1;

/// Length of an HMAC-SHA-256 and of the key it is made with.
const HASH_BYTES: usize = 32;

/// A key that goes into a store.
#[derive(Debug, Clone, Copy)]
pub struct NewKey<'a> {
    /// Public id: letters and digits.
    pub id: &'a str,
    /// Who holds it.
    pub consumer: &'a str,
    /// Names of roles that it carries.
    pub roles: &'a [&'a str],
    /// HMAC-SHA-256 of its secret under the store's hash key.
    pub hash: [u8; HASH_BYTES],
    /// Seconds since the epoch after which it is refused.
    pub expires_at_s: Option<u64>,
    /// For people.
    pub note: Option<&'a str>,
}

impl KeyStore {
    /// Reads a store. A file that everybody may read is refused.
    pub fn read(path: &Path) -> Result<Self, Vec<ConfigError>> {
        let mut report = Report::default();
        let at_path = report.add_source(path.to_path_buf(), path.to_path_buf(), String::new());
        let start = report.place(at_path, 0..0);
        let store = Self::read_into(&mut report, path, &start, &[]);
        let (errors, _) = report.into_parts();
        store.filter(|_| errors.is_empty()).ok_or(errors)
    }

    /// The text of a store without keys.
    pub fn create(hash_key: &[u8; HASH_BYTES]) -> Zeroizing<String> {
        let encoded = Zeroizing::new(BASE64.encode(hash_key));
        Zeroizing::new(format!(
            "# API keys of Portcullis, written by `portcullis keys`. Keep it secret: chmod 600.\n\
             version = {VERSION}\nhash_key = \"{}\"\n",
            *encoded
        ))
    }

    /// The text of a store with one more key at its end.
    pub fn append(text: &str, key: &NewKey<'_>) -> Zeroizing<String> {
        let mut out = Zeroizing::new(String::with_capacity(text.len() + 512));
        out.push_str(text);
        if !text.ends_with('\n') {
            out.push('\n');
        }
        let roles: Vec<String> = key.roles.iter().map(|role| quoted(role)).collect();
        // Writing to a String cannot fail.
        let _ = write!(
            out,
            "\n[keys.{}]\nconsumer = {}\nroles = [{}]\nhash = \"{}\"\n",
            quoted(key.id),
            quoted(key.consumer),
            roles.join(", "),
            BASE64.encode(key.hash)
        );
        if let Some(seconds) = key.expires_at_s {
            let _ = writeln!(out, "expires = {}", rfc3339(seconds));
        }
        if let Some(note) = key.note {
            let _ = writeln!(out, "note = {}", quoted(note));
        }
        out
    }

    /// Reads a store into a report. `named_at` gets the blame for a file that cannot be read. A role that is not
    /// among `roles` is odd, unless `roles` is empty.
    pub(super) fn read_into(
        report: &mut Report,
        path: &Path,
        named_at: &Place,
        roles: &[String],
    ) -> Option<Self> {
        let bytes = match files::read(path, Holds::Secret) {
            Ok(bytes) => bytes,
            Err(problem) => {
                report.error(named_at.clone(), format!("{} {problem}", path.display()));
                return None;
            }
        };
        let Ok(text) = std::str::from_utf8(&bytes) else {
            report.error(named_at.clone(), format!("{} is not UTF-8", path.display()));
            return None;
        };
        let source = report.add_source(path.to_path_buf(), path.to_path_buf(), text.to_owned());
        // Variables are not expanded: the file is written by a program.
        let raw: RawKeyStore = read::tables(report, source, None)?;
        let at = Scope { source, span: 0..0, path: "key store".to_owned() };
        match &raw.version {
            Some(version) if *version.get_ref() != VERSION => {
                report.error(
                    at.at(version),
                    format!("version {version} of a key store is unknown, not {VERSION}"),
                );
            }
            Some(_) => {}
            None => report.missing(&at, "version", "1"),
        }
        if raw.hash_key.is_none() {
            report.missing(&at, "hash_key", "what `portcullis keys` writes");
        }
        let hash_key = raw.hash_key.and_then(|text| decode(report, &at, "hash_key", &text));
        let keys = raw.keys.into_iter().filter_map(|(id, raw)| {
            let at = Scope { source, span: id.span(), path: format!("keys.{id}") };
            stored_key(report, &at, id.get_ref(), raw, roles)
        });
        let keys = keys.collect();
        Some(Self { path: path.to_path_buf(), hash_key: Secret(Zeroizing::new(hash_key?.to_vec())), keys })
    }
}

fn stored_key(
    report: &mut Report,
    at: &Scope,
    id: &str,
    raw: RawStoredKey,
    known_roles: &[String],
) -> Option<StoredKey> {
    if id.is_empty() || !id.bytes().all(|b| b.is_ascii_alphanumeric()) {
        report.error(at.here(), format!("{id:?} is not the id of a key: it has letters and digits only"));
    }
    let roles: Vec<Arc<str>> = raw
        .roles
        .map(Spanned::into_inner)
        .unwrap_or_default()
        .into_iter()
        .map(|role| {
            if !known_roles.is_empty() && !known_roles.contains(role.get_ref()) {
                let message =
                    format!("`{}` carries the role `{role}`, but there is no `[roles.{role}]`", at.path);
                report.warn(at.at(&role), message, did_you_mean(role.get_ref(), known_roles));
            }
            role.into_inner().into()
        })
        .collect();
    let hash = raw.hash.as_ref().and_then(|text| decode(report, at, "hash", text));
    if raw.hash.is_none() {
        report.missing(at, "hash", "what `portcullis keys` writes");
    }
    let expires_at_s = match raw.expires.map(|expires| expiry(report, at, &expires)) {
        None => None,
        Some(Some(seconds)) => Some(seconds),
        // A key must not outlive its expiry because that cannot be read.
        Some(None) => return None,
    };
    let Some(consumer) = raw.consumer.filter(|consumer| !consumer.get_ref().is_empty()) else {
        report.missing(at, "consumer", "\"acme\"");
        return None;
    };
    Some(StoredKey {
        id: id.into(),
        consumer: consumer.into_inner().into(),
        roles,
        hash: *hash?,
        expires_at_s,
    })
}

fn decode(
    report: &mut Report,
    at: &Scope,
    key: &str,
    text: &Spanned<String>,
) -> Option<Zeroizing<[u8; HASH_BYTES]>> {
    let bytes = BASE64.decode(text.get_ref()).map(Zeroizing::new);
    let array = bytes.ok().and_then(|bytes| <[u8; HASH_BYTES]>::try_from(bytes.as_slice()).ok());
    if array.is_none() {
        report.error(
            at.at(text),
            format!("`{}.{key}` is not {HASH_BYTES} bytes in base64 without padding", at.path),
        );
    }
    array.map(Zeroizing::new)
}

fn expiry(report: &mut Report, at: &Scope, raw: &Spanned<RawExpires>) -> Option<u64> {
    let time = match raw.get_ref() {
        RawExpires::Time(time) => Some(*time),
        RawExpires::Text(text) => text.parse().ok(),
    };
    let seconds = time.as_ref().and_then(seconds_since_epoch);
    if seconds.is_none() {
        let message = format!(
            "`{}.expires` is not a date and time with its zone, such as 2027-01-01T00:00:00Z",
            at.path
        );
        report.error(at.at(raw), message);
    }
    seconds
}

/// Seconds since 1970-01-01T00:00:00Z. None without a date, a time and a zone, and before that day.
fn seconds_since_epoch(time: &Datetime) -> Option<u64> {
    let (date, clock) = (time.date?, time.time?);
    let offset_minutes = match time.offset? {
        Offset::Z => 0,
        Offset::Custom { minutes } => i64::from(minutes),
    };
    let days = days_from_civil(i64::from(date.year), i64::from(date.month), i64::from(date.day));
    let minutes = i64::from(clock.hour) * 60 + i64::from(clock.minute) - offset_minutes;
    let second = i64::from(clock.second.unwrap_or(0));
    u64::try_from(days * 86_400 + minutes * 60 + second).ok()
}

/// Days since 1970-01-01 in the Gregorian calendar. A year is counted from March, so that a leap day is its last.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The other way round, as RFC 3339 in UTC.
fn rfc3339(seconds: u64) -> String {
    let (days, second_of_day) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second_of_day / 3_600, second_of_day / 60 % 60, second_of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// A TOML string or quoted key.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
