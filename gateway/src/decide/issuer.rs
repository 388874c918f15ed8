//! What an issuer has said last: its keys, and where it is asked for what (RFC 7517, RFC 8414, OpenID Connect Discovery).
//!
//! Comes in, from the one writer that asks it (`control::auth`): documents as they came. Goes out, to every worker and
//! without waiting: keys made ready. What is of no use changes nothing, so that the last good keys stay while an issuer
//! sends garbage. It never asks anybody, and outlives reloads: a snapshot takes over the issuers of the one before.

use std::sync::{
    Arc,
    atomic::{
        AtomicBool, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
};

use arc_swap::ArcSwapOption;

pub(crate) use super::claims::Claims;
use super::{
    claims::{self, Json},
    jwt::keys::{self, Key},
};
use crate::config::{KeySource, Url};

/// After an answer, or none, an issuer is not asked about unknown keys for so long, in seconds.
const ASKED_EVERY_S: u64 = 5;

/// An issuer and what it has said.
pub struct Issuer {
    source: KeySource,
    said: ArcSwapOption<Said>,
    generation: AtomicU64,
    /// When it was asked last, whatever came of it, in seconds since the epoch; 0: never.
    asked_at_s: AtomicU64,
    is_silent: AtomicBool,
    /// What is counted of it.
    pub tally: Tally,
}

/// What an issuer has said at one time.
pub struct Said {
    keys: Box<[Key]>,
    jwks: Box<[u8]>,
    /// Its discovery document, where it was asked for one.
    document: Claims,
}

/// What may come of asking an issuer about a key that it has not published so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outlook {
    /// It may have others by now.
    MayHaveOthers,
    /// It was asked a moment ago, and had no others.
    HasNoOthers,
    /// It was asked a moment ago, and said nothing of use.
    Silent,
}

/// How often an issuer was asked, by result, and when it last said something of use.
#[derive(Debug, Default)]
pub struct Tally {
    /// It had other keys than before.
    pub changed: AtomicU64,
    /// It had the same.
    pub unchanged: AtomicU64,
    /// It said nothing of use.
    pub failed: AtomicU64,
    /// Seconds since the epoch; 0: never.
    pub heard_at_s: AtomicU64,
}

impl Issuer {
    /// Nothing is known of it yet.
    pub fn new(source: KeySource) -> Self {
        Self {
            source,
            said: ArcSwapOption::empty(),
            generation: AtomicU64::new(0),
            asked_at_s: AtomicU64::new(0),
            is_silent: AtomicBool::new(true),
            tally: Tally::default(),
        }
    }

    /// Where it is asked.
    pub fn source(&self) -> &KeySource {
        &self.source
    }

    /// What counts at the moment.
    pub fn said(&self) -> Option<Arc<Said>> {
        self.said.load_full()
    }

    /// Another one whenever something else counts.
    pub fn generation(&self) -> u64 {
        self.generation.load(Acquire)
    }

    /// Whether it is worth asking about a key that is not known.
    pub fn outlook(&self, unix_s: u64) -> Outlook {
        // A clock that has stepped back makes nobody wait for the time that it has lost.
        if unix_s.abs_diff(self.asked_at_s.load(Acquire)) >= ASKED_EVERY_S {
            Outlook::MayHaveOthers
        } else if self.is_silent.load(Relaxed) {
            Outlook::Silent
        } else {
            Outlook::HasNoOthers
        }
    }

    /// What it has answered. `document` is what [`discovered`] has read, or empty.
    ///
    /// # Errors
    /// There is no use in it, and what counted before still counts.
    pub(crate) fn take(&self, document: Claims, jwks: &[u8], unix_s: u64) -> Result<(), &'static str> {
        let before = self.said.load_full();
        if before.is_some_and(|before| *before.jwks == *jwks && before.document == document) {
            self.tally.unchanged.fetch_add(1, Relaxed);
        } else {
            let said = Said { keys: keys::of_issuer(jwks)?, jwks: jwks.into(), document };
            self.put(Some(said));
            self.tally.changed.fetch_add(1, Relaxed);
        }
        self.tally.heard_at_s.store(unix_s, Relaxed);
        self.was_asked(false, unix_s);
        Ok(())
    }

    /// It has said nothing of use.
    pub fn failed(&self, unix_s: u64) {
        self.tally.failed.fetch_add(1, Relaxed);
        self.was_asked(true, unix_s);
    }

    /// What it said is too old to count.
    pub fn forget(&self) {
        if self.said.load().is_some() {
            self.put(None);
        }
    }

    /// The generation comes last: whatever was remembered under an older one is looked at again, with the new keys.
    fn put(&self, said: Option<Said>) {
        self.said.store(said.map(Arc::new));
        self.generation.fetch_add(1, Release);
    }

    /// After what was said, so that who sees this sees that too.
    fn was_asked(&self, is_silent: bool, unix_s: u64) {
        self.is_silent.store(is_silent, Relaxed);
        self.asked_at_s.store(unix_s, Release);
    }
}

impl Said {
    pub(super) fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// How many keys there are.
    pub fn keys_len(&self) -> usize {
        self.keys.len()
    }

    /// A member of the discovery document that is a list of strings.
    pub fn texts_of(&self, member: &str) -> Option<Vec<&str>> {
        self.document.get(member).and_then(Json::texts)
    }

    /// A member of the discovery document that is a string, such as `token_endpoint`.
    pub fn text_of(&self, member: &str) -> Option<&str> {
        self.document.get(member).and_then(Json::text)
    }
}

/// Reads the discovery document of the issuer called `name`, asked for at `at`: the document, and where its keys are.
///
/// # Errors
/// It is not this issuer's, or names no place where keys may be fetched.
pub(crate) fn discovered(document: &[u8], name: &str, at: &Url) -> Result<(Claims, Url), &'static str> {
    let document = claims::parse(document).ok_or("its discovery document is no JSON object")?;
    // OpenID Connect Discovery §4.3, RFC 8414 §3.3
    if document.get("issuer").and_then(Json::text) != Some(name) {
        return Err("its discovery document is another issuer's");
    }
    let jwks_uri = document.get("jwks_uri").and_then(Json::text);
    let url = Url::parse(jwks_uri.ok_or("its discovery document has no `jwks_uri`")?)
        .map_err(|_| "its `jwks_uri` is no URL that can be asked")?;
    // What is asked in private does not lead to what anybody can change on the way.
    if url.is_secure == at.is_secure && url.is_private() {
        Ok((document, url))
    } else {
        Err("its `jwks_uri` leads elsewhere than to https")
    }
}

#[cfg(test)]
mod tests;
