//! API keys as they are kept: what stands in a store, and the store itself.
//!
//! Comes in: keys whose secret is known as a hash only, changes to them, where and when they were used. Goes out: the
//! same, in the order in which it changed. `portcullis keys` writes, the control thread reads what has changed and
//! writes back what was used; each opens the file for a moment only. Whether a key lets somebody in is not decided
//! here, but by `decide::api_key`.

mod date;
mod import;
mod store;

use std::net::IpAddr;

use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD as BASE64};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use zeroize::Zeroizing;

pub use date::{parse_date, rfc3339};
pub use import::{Import, read_import, write_header};
pub use store::{Edit, Reader, StoreError, Told, Writer, create};
pub(crate) use store::{make, patiently};

/// Length of an HMAC-SHA-256 and of the key it is made with.
pub const HASH_BYTES: usize = 32;
/// Characters of an id.
pub const ID_LEN: usize = 8;
/// The longest text that a key may carry: names, scopes, notes.
pub const TEXT_BYTES_MAX: usize = 256;
/// The most roles, and the most scopes, that a key may carry.
pub const NAMES_MAX: usize = 64;

/// What the hashes of a store are made with: a copy of the store without it is of no use.
pub type HashKey = Zeroizing<[u8; HASH_BYTES]>;

/// One key: a row of a store, and a line of what `import` reads and `export` writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// Public: letters and digits, part of the key's text.
    pub id: String,
    /// Who holds it.
    pub consumer: String,
    /// Names of roles that it carries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// OAuth scopes that it carries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// HMAC-SHA-256 of its secret under the store's hash key.
    pub hash: Hash,
    /// When it was made: seconds since the epoch, as all times here.
    #[serde(with = "date::seconds")]
    pub created: u64,
    /// The last second in which it is good.
    #[serde(default, with = "date::optional", skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    /// When somebody took it back.
    #[serde(default, with = "date::optional", skip_serializing_if = "Option::is_none")]
    pub revoked: Option<u64>,
    /// How much may be done with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<Quota>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The id of the key that this one was made to replace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<String>,
    /// The id of the key that replaces this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced_by: Option<String>,
}

impl Key {
    /// Whether it lets anybody in at this second.
    pub fn is_good(&self, unix_s: u64) -> bool {
        self.revoked.is_none() && self.expires.is_none_or(|expires_s| unix_s <= expires_s)
    }

    /// Whether it can be stored; the error is a sentence.
    pub fn check(&self) -> Result<(), String> {
        let ids = [Some(&self.id), self.replaces.as_ref(), self.replaced_by.as_ref()];
        if let Some(id) = ids.into_iter().flatten().find(|id| !is_id(id)) {
            return Err(format!("{id:?} is not the id of a key: {ID_LEN} letters and digits"));
        }
        for (what, names) in [("roles", &self.roles), ("scopes", &self.scopes)] {
            if names.len() > NAMES_MAX {
                return Err(format!("a key has at most {NAMES_MAX} {what}"));
            }
        }
        let names = self.roles.iter().chain(&self.scopes).chain([&self.consumer]);
        if let Some(name) = names.clone().find(|name| name.is_empty() || name.contains(char::is_whitespace)) {
            return Err(format!("{name:?} is no name: it is empty or has space in it"));
        }
        let mut texts = names.chain(&self.note);
        match texts.find(|text| text.len() > TEXT_BYTES_MAX || text.contains(char::is_control)) {
            Some(text) => {
                Err(format!("{text:?} is longer than {TEXT_BYTES_MAX} bytes or holds control characters"))
            }
            None => Ok(()),
        }
    }
}

/// Whether a text has the form of an id.
pub fn is_id(text: &str) -> bool {
    text.len() == ID_LEN && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// What is known of a secret: base64 without padding, where it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hash(pub [u8; HASH_BYTES]);

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = [0; HASH_BYTES.div_ceil(3) * 4];
        let length = BASE64.encode_slice(self.0, &mut text).unwrap_or_default();
        let text = text.get(..length).and_then(|text| str::from_utf8(text).ok());
        serializer.serialize_str(text.unwrap_or_default())
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        let expected = || D::Error::custom("a hash is 32 bytes in base64 without padding");
        decode(&text).map(Self).ok_or_else(expected)
    }
}

fn decode(text: &str) -> Option<[u8; HASH_BYTES]> {
    let mut bytes = [0; HASH_BYTES + 1];
    let length = BASE64.decode_slice(text, &mut bytes).ok()?;
    bytes.get(..length)?.try_into().ok()
}

/// So many requests in each day or month of the calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Requests.
    pub requests: u64,
    /// In what.
    pub per: Period,
}

/// A stretch of the calendar, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    /// From midnight to midnight.
    Day,
    /// From the first to the last.
    Month,
}

impl std::fmt::Display for Quota {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let per = match self.per {
            Period::Day => "day",
            Period::Month => "month",
        };
        write!(f, "{}/{per}", self.requests)
    }
}

impl std::str::FromStr for Quota {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let quota = || {
            let (requests, per) = text.split_once('/')?;
            let requests = requests.replace('_', "").parse().ok().filter(|requests| *requests != 0)?;
            let per = match per {
                "day" => Period::Day,
                "month" => Period::Month,
                _ => return None,
            };
            Some(Self { requests, per })
        };
        quota().ok_or("not a quota such as 10000/day or 1_000_000/month")
    }
}

impl Serialize for Quota {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Quota {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// How a key was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Use {
    /// When last, in seconds since the epoch.
    pub last_s: u64,
    /// From where.
    pub source: IpAddr,
    /// How often, in all.
    pub count: u64,
}

impl Use {
    /// Both together: `later` is what came on top.
    #[must_use]
    pub fn and(self, later: Self) -> Self {
        let last = if later.last_s >= self.last_s { later } else { self };
        Self { count: self.count.saturating_add(later.count), ..last }
    }
}

#[cfg(test)]
mod tests;
