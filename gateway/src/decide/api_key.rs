//! API keys: their text, how one is minted, how one is checked.
//!
//! ```text
//!   ptc_ 8 base62 _ 32 base62  6 base62
//!        id         secret     CRC-32 of all that stands before
//! ```
//! The prefix lets secret scanners find a leaked key and the checksum refuses a mistyped one without a look-up. The
//! id is public and only finds the entry. The secret holds 190 bits; the store knows its HMAC-SHA-256 alone, so a
//! stolen store is of no use without the hash key, and a fast hash is enough since nobody can guess the input.
//!
//! Checking compares in constant time, and takes one HMAC whether the id is known or not.

use std::sync::Arc;

use aws_lc_rs::{constant_time::verify_slices_are_equal, hmac};
use zeroize::Zeroizing;

use super::{Identity, authz::RoleId};
use crate::config;

const PREFIX: &str = "ptc_";
const ID_LEN: usize = 8;
const SECRET_LEN: usize = 32;
const CHECKSUM_LEN: usize = 6;
/// Characters of a key.
pub const TEXT_LEN: usize = PREFIX.len() + ID_LEN + 1 + SECRET_LEN + CHECKSUM_LEN;

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A key that was just made. Its text is shown once and kept nowhere.
pub struct Minted {
    /// What the caller presents.
    pub text: Zeroizing<String>,
    /// What the store finds it by.
    pub id: String,
    /// What the store keeps the [`hash_of`].
    pub secret: Zeroizing<String>,
}

/// Makes a key out of randomness; `random` fills a slice with it.
pub fn mint(random: &mut dyn FnMut(&mut [u8])) -> Minted {
    let mut word = |len: usize| -> String {
        let mut digit = || {
            let mut bytes = [0; 4];
            random(&mut bytes);
            // Scaling 32 bits down favours a digit by less than one in sixty million.
            base62_digit((u64::from(u32::from_le_bytes(bytes)) * 62) >> 32)
        };
        (0..len).map(|_| digit()).collect()
    };
    let (id, secret) = (word(ID_LEN), Zeroizing::new(word(SECRET_LEN)));
    let mut text = Zeroizing::new(String::with_capacity(TEXT_LEN));
    for part in [PREFIX, &id, "_", &secret] {
        text.push_str(part);
    }
    let checksum = checksum_of(text.as_bytes());
    text.extend(checksum.map(char::from));
    Minted { text, id, secret }
}

/// What the store keeps of a secret.
pub fn hash_of(hash_key: &config::Secret, secret: &str) -> [u8; 32] {
    tag(&hmac::Key::new(hmac::HMAC_SHA256, &hash_key.0), secret)
}

/// Why a key that was presented is not accepted. The caller learns none of this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyFault {
    /// Not the text of a key, or mistyped.
    Malformed,
    /// No such id.
    Unknown,
    /// The secret is wrong.
    WrongSecret,
    /// It was good once.
    Expired,
}

/// A key store, compiled.
pub struct ApiKeys {
    hash_key: hmac::Key,
    /// In order of their ids.
    keys: Box<[ApiKey]>,
}

/// One key of a store.
#[derive(Debug, PartialEq, Eq)]
pub struct ApiKey {
    id: Arc<str>,
    hash: [u8; 32],
    expires_at_s: Option<u64>,
    /// Who holds it.
    pub consumer: Arc<str>,
    /// Its own roles, those that exist.
    pub roles: Box<[RoleId]>,
}

impl ApiKeys {
    /// From a store; `role` finds a role by its name.
    ///
    /// # Errors
    /// A key's id is no id or not the only one of its kind.
    pub fn compile(
        store: &config::KeyStore,
        role: &dyn Fn(&str) -> Option<RoleId>,
    ) -> Result<ApiKeys, &'static str> {
        let compile = |key: &config::StoredKey| ApiKey {
            id: key.id.clone(),
            hash: key.hash,
            expires_at_s: key.expires_at_s,
            consumer: key.consumer.clone(),
            roles: key.roles.iter().filter_map(|name| role(name)).collect(),
        };
        let mut keys: Vec<ApiKey> = store.keys.iter().map(compile).collect();
        keys.sort_by(|a, b| a.id.cmp(&b.id));
        if keys.iter().any(|key| !is_word(key.id.as_bytes(), ID_LEN)) {
            return Err("an id in the store is not eight letters and digits");
        }
        if keys.windows(2).any(|pair| matches!(pair, [a, b] if a.id == b.id)) {
            return Err("two keys in the store have one id");
        }
        Ok(ApiKeys { hash_key: hmac::Key::new(hmac::HMAC_SHA256, &store.hash_key.0), keys: keys.into() })
    }

    /// Whose key `text` is, at `unix_s`.
    ///
    /// # Errors
    /// It is none that may be used.
    pub fn check(&self, text: &[u8], unix_s: u64) -> Result<Identity, KeyFault> {
        let key = self.find(text, unix_s)?;
        Ok(Identity {
            consumer: key.consumer.clone(),
            credential: Some(key.id.clone()),
            roles: key.roles.clone(),
            good_until_s: key.expires_at_s.map_or(u64::MAX, |expires_at_s| expires_at_s.saturating_add(1)),
            ..Identity::default()
        })
    }

    fn find(&self, text: &[u8], unix_s: u64) -> Result<&ApiKey, KeyFault> {
        let (id, secret) = parse(text).ok_or(KeyFault::Malformed)?;
        let presented = tag(&self.hash_key, secret);
        let found = self.keys.binary_search_by(|key| (*key.id).cmp(id)).ok().and_then(|at| self.keys.get(at));
        let key = found.ok_or(KeyFault::Unknown)?;
        verify_slices_are_equal(&presented, &key.hash).map_err(|_| KeyFault::WrongSecret)?;
        match key.expires_at_s {
            Some(expires_at_s) if unix_s > expires_at_s => Err(KeyFault::Expired),
            _ => Ok(key),
        }
    }
}

/// Id and secret of a key's text; none if it is not the text of one.
fn parse(text: &[u8]) -> Option<(&str, &str)> {
    let (body, checksum) = text.split_last_chunk::<CHECKSUM_LEN>()?;
    let (id, secret) = body.strip_prefix(PREFIX.as_bytes())?.split_at_checked(ID_LEN)?;
    let secret = secret.strip_prefix(b"_")?;
    let well_formed = is_word(id, ID_LEN) && is_word(secret, SECRET_LEN) && checksum_of(body) == *checksum;
    if well_formed { str::from_utf8(id).ok().zip(str::from_utf8(secret).ok()) } else { None }
}

fn is_word(bytes: &[u8], len: usize) -> bool {
    bytes.len() == len && bytes.iter().all(u8::is_ascii_alphanumeric)
}

fn tag(key: &hmac::Key, secret: &str) -> [u8; 32] {
    let tag = hmac::sign(key, secret.as_bytes());
    // HMAC-SHA-256 has 32 bytes; a tag that had not would match no key.
    tag.as_ref().try_into().unwrap_or_default()
}

fn base62_digit(value: u64) -> char {
    let digit = usize::try_from(value % 62).ok().and_then(|at| BASE62.get(at));
    char::from(digit.copied().unwrap_or(b'0'))
}

fn checksum_of(bytes: &[u8]) -> [u8; CHECKSUM_LEN] {
    let mut rest = u64::from(crc32(bytes));
    let mut digits = [b'0'; CHECKSUM_LEN];
    for digit in digits.iter_mut().rev() {
        *digit = u8::try_from(base62_digit(rest)).unwrap_or(b'0');
        rest /= 62;
    }
    digits
}

/// CRC-32 as in IEEE 802.3 (reflected, 0xEDB88320).
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut at = 0u32;
        while at < 256 {
            let (mut crc, mut bit) = (at, 0);
            while bit < 8 {
                crc = (crc >> 1) ^ if crc & 1 == 1 { 0xEDB8_8320 } else { 0 };
                bit += 1;
            }
            #[expect(clippy::indexing_slicing, reason = "evaluated by the compiler, which would refuse")]
            {
                table[at as usize] = crc;
            }
            at += 1;
        }
        table
    };
    let step = |crc: u32, byte: &u8| {
        let [low, ..] = crc.to_le_bytes();
        (crc >> 8) ^ TABLE.get(usize::from(low ^ byte)).copied().unwrap_or_default()
    };
    !bytes.iter().fold(!0, step)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::decide::testing::{NOW_S, hash_key, key_store, minted, stored};

    fn keys(stored: Vec<config::StoredKey>) -> ApiKeys {
        ApiKeys::compile(&key_store(stored), &|name| (name == "reader").then_some(3)).ok().unwrap()
    }

    #[track_caller]
    fn check(text: impl AsRef<[u8]>, expected: Result<&str, KeyFault>) {
        let expired = config::StoredKey { expires_at_s: Some(NOW_S - 1), ..stored(&minted(2), "old") };
        let ends_now = config::StoredKey { expires_at_s: Some(NOW_S), ..stored(&minted(3), "last") };
        let keys = keys(vec![stored(&minted(1), "acme"), expired, ends_now]);
        assert_eq!(keys.find(text.as_ref(), NOW_S).map(|key| &*key.consumer), expected);
    }

    /// `text` with one character replaced and the checksum made right again.
    fn altered(text: &str, at: usize) -> String {
        let mut bytes = text.as_bytes().to_vec();
        bytes[at] = if bytes[at] == b'x' { b'y' } else { b'x' };
        bytes.truncate(TEXT_LEN - CHECKSUM_LEN);
        let checksum = checksum_of(&bytes);
        String::from_utf8([&bytes[..], &checksum].concat()).unwrap()
    }

    #[test]
    fn a_key_is_known_by_id_and_secret_until_it_expires() {
        check(&*minted(1).text, Ok("acme"));
        check(&*minted(3).text, Ok("last"));
        check(&*minted(2).text, Err(KeyFault::Expired));
        check(&*minted(9).text, Err(KeyFault::Unknown));
        check(altered(&minted(1).text, 4), Err(KeyFault::Unknown));
        check(altered(&minted(1).text, 13), Err(KeyFault::WrongSecret));
        check(altered(&minted(1).text, 44), Err(KeyFault::WrongSecret));
    }

    #[test]
    fn what_is_not_the_text_of_a_key_is_refused_without_a_look_up() {
        let text = minted(1).text;
        check("", Err(KeyFault::Malformed));
        check("ptc_", Err(KeyFault::Malformed));
        check(&text[1..], Err(KeyFault::Malformed));
        check(&text[..TEXT_LEN - 1], Err(KeyFault::Malformed));
        check(format!("{}0", *text), Err(KeyFault::Malformed));
        check(format!(" {}", *text), Err(KeyFault::Malformed));
        check(text.to_ascii_uppercase(), Err(KeyFault::Malformed));
        check(altered(&text, 12), Err(KeyFault::Malformed));
        check([0xff; TEXT_LEN], Err(KeyFault::Malformed));
    }

    #[test]
    fn the_text_has_the_form_that_scanners_look_for() {
        let Minted { text, id, secret } = minted(1);
        assert_eq!(text.len(), TEXT_LEN);
        assert!(text.starts_with(&format!("ptc_{id}_{}", *secret)));
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }

    #[test]
    fn roles_that_do_not_exist_are_left_out() {
        let key =
            config::StoredKey { roles: vec!["gone".into(), "reader".into()], ..stored(&minted(1), "acme") };
        assert_eq!(*keys(vec![key]).keys[0].roles, [3]);
    }

    #[test]
    fn a_store_with_a_broken_or_doubled_id_is_refused() {
        let compile = |keys| ApiKeys::compile(&key_store(keys), &|_| None).err();
        assert!(compile(vec![stored(&minted(1), "a"), stored(&minted(1), "b")]).unwrap().contains("one id"));
        let short = config::StoredKey { id: "short".into(), ..stored(&minted(1), "a") };
        assert!(compile(vec![short]).unwrap().contains("eight"));
    }

    #[test]
    fn a_hash_needs_the_hash_key() {
        let other = config::Secret(Zeroizing::new(vec![9; 32]));
        assert_ne!(hash_of(&hash_key(), "s"), hash_of(&other, "s"));
    }

    proptest! {
        #[test]
        fn one_wrong_character_is_always_noticed(seed in 0u8..8, at in 0..TEXT_LEN, by in "[0-9A-Za-z_ ]") {
            let text = minted(seed).text;
            let mut typo = text.as_bytes().to_vec();
            typo[at] = by.as_bytes()[0];
            prop_assert_eq!(parse(&typo).is_some(), typo == text.as_bytes());
        }

        #[test]
        fn no_bytes_panic(text in prop::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(parse(&text).is_none());
        }
    }
}
