//! Sealed text: what a browser keeps for us and can neither read nor change.
//!
//! Comes in: text, what it is for, and a nonce that was drawn for it alone. Goes out: base64url of nonce, ciphertext
//! and tag (AES-256-GCM). What it is for is authenticated with it, so that nothing sealed for one cookie, auth or client
//! opens as another's. The first key seals and every key opens, so that keys can be changed under living sessions.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;
/// Keys that may open, so that a forgery costs a bounded number of tries.
pub const KEYS_MAX: usize = 8;
/// Random bytes for one seal. A key may seal some billion times before two of them are likely to be the same, and a
/// login or a refresh seals once.
pub const NONCE_BYTES: usize = NONCE_LEN;

/// The keys of one auth.
pub struct Seals {
    keys: Box<[LessSafeKey]>,
}

impl Seals {
    /// From keys of [`KEY_BYTES`] each, the one that seals first.
    ///
    /// # Errors
    /// There is none, too many, or one of another length.
    pub fn compile<'k>(keys: impl Iterator<Item = &'k [u8]>) -> Result<Self, &'static str> {
        let key = |bytes: &[u8]| UnboundKey::new(&AES_256_GCM, bytes).map(LessSafeKey::new);
        let keys: Box<[LessSafeKey]> =
            keys.map(key).collect::<Result<_, _>>().map_err(|_| "a cookie key has not 32 bytes")?;
        match keys.len() {
            1..=KEYS_MAX => Ok(Self { keys }),
            _ => Err("between one and eight cookie keys are needed"),
        }
    }

    /// Seals `text` for `purpose`; `nonce` is random. None: it is longer than any cookie.
    pub fn seal(&self, purpose: &[u8], text: &[u8], nonce: [u8; NONCE_BYTES]) -> Option<String> {
        let mut sealed = Zeroizing::new(text.to_vec());
        let key = self.keys.first()?;
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(purpose), &mut *sealed)
            .ok()?;
        Some(URL_SAFE_NO_PAD.encode([&nonce[..], &sealed].concat()))
    }

    /// The text, if one of the keys has sealed it for this purpose.
    pub fn open(&self, purpose: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let bytes = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE_BYTES>()?;
        self.keys.iter().find_map(|key| {
            let mut text = Zeroizing::new(sealed.to_vec());
            let nonce = Nonce::assume_unique_for_key(*nonce);
            let length = key.open_in_place(nonce, Aad::from(purpose), &mut text).ok()?.len();
            text.truncate(length);
            Some(text)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seals(keys: &[u8]) -> Seals {
        let keys: Vec<[u8; KEY_BYTES]> = keys.iter().map(|byte| [*byte; KEY_BYTES]).collect();
        Seals::compile(keys.iter().map(|key| &key[..])).unwrap()
    }

    #[test]
    fn a_new_key_seals_and_the_old_ones_still_open() {
        let old = seals(&[1]).seal(b"session", b"text", [0; 12]).unwrap();
        let both = seals(&[2, 1]);
        assert_eq!(both.open(b"session", old.as_bytes()).as_deref(), Some(&b"text".to_vec()));
        let new = both.seal(b"session", b"text", [0; 12]).unwrap();
        assert_eq!(seals(&[1]).open(b"session", new.as_bytes()), None);
        assert_eq!(seals(&[2]).open(b"session", new.as_bytes()).as_deref(), Some(&b"text".to_vec()));
    }

    #[test]
    fn keys_are_counted_and_measured() {
        let compile = |keys: &[&[u8]]| Seals::compile(keys.iter().copied()).is_ok();
        let key = &[7; KEY_BYTES][..];
        assert!(!compile(&[]) && compile(&[key]) && compile(&[key; KEYS_MAX]));
        assert!(!compile(&[key; KEYS_MAX + 1]) && !compile(&[&[7; 31]]) && !compile(&[&[7; 33]]));
    }

    proptest! {
        #[test]
        fn what_was_sealed_opens_for_its_purpose_alone(
            text in prop::collection::vec(any::<u8>(), 0..300),
            purpose in prop::collection::vec(any::<u8>(), 0..20),
            other in prop::collection::vec(any::<u8>(), 0..20),
            nonce: [u8; NONCE_BYTES],
        ) {
            let sealed = seals(&[1]).seal(&purpose, &text, nonce).unwrap();
            prop_assert!(sealed.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'));
            let opened = seals(&[1]).open(&purpose, sealed.as_bytes());
            prop_assert_eq!(opened.as_deref(), Some(&text));
            prop_assert_eq!(seals(&[1]).open(&other, sealed.as_bytes()).is_some(), other == purpose);
            prop_assert!(seals(&[3]).open(&purpose, sealed.as_bytes()).is_none());
        }

        #[test]
        fn no_change_of_it_opens(
            text in prop::collection::vec(any::<u8>(), 0..60),
            at: prop::sample::Index,
            to in "[A-Za-z0-9_=-]",
            cut: prop::sample::Index,
        ) {
            let sealed = seals(&[1]).seal(b"p", &text, [9; NONCE_BYTES]).unwrap();
            let at = at.index(sealed.len());
            let mut changed = sealed.clone();
            changed.replace_range(at..=at, &to);
            prop_assert_eq!(seals(&[1]).open(b"p", changed.as_bytes()).is_some(), changed == sealed);
            prop_assert!(seals(&[1]).open(b"p", &sealed.as_bytes()[..cut.index(sealed.len())]).is_none());
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(seals(&[1]).open(b"p", &bytes).is_none());
        }
    }
}
