//! API keys: their text, how one is minted, what is known of its secret. Which keys there are stands in `key_table`.
//!
//! ```text
//!   ptc_ 8 base62 _ 32 base62  6 base62
//!        id         secret     CRC-32 of all that stands before
//! ```
//! The prefix lets secret scanners find a leaked key and the checksum refuses a mistyped one without a look-up. The
//! id is public and only finds the entry. The secret holds 190 bits; the store knows its HMAC-SHA-256 alone, so a
//! stolen store is of no use without the hash key, and a fast hash is enough since nobody can guess the input.
//!
//! A check compares in constant time, and takes one HMAC whether the id is known or not.

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

const PREFIX: &str = "ptc_";
/// Characters of an id.
pub const ID_LEN: usize = 8;
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
pub fn hash_of(hash_key: &[u8], secret: &str) -> [u8; 32] {
    tag(&hmac::Key::new(hmac::HMAC_SHA256, hash_key), secret)
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

/// The id in a key's text; none if it is not the text of one.
pub fn id_of(text: &[u8]) -> Option<&str> {
    parse(text).map(|(id, _)| id)
}

/// Id and secret of a key's text; none if it is not the text of one.
pub(super) fn parse(text: &[u8]) -> Option<(&str, &str)> {
    let (body, checksum) = text.split_last_chunk::<CHECKSUM_LEN>()?;
    let (id, secret) = body.strip_prefix(PREFIX.as_bytes())?.split_at_checked(ID_LEN)?;
    let secret = secret.strip_prefix(b"_")?;
    let well_formed = is_word(id, ID_LEN) && is_word(secret, SECRET_LEN) && checksum_of(body) == *checksum;
    if well_formed { str::from_utf8(id).ok().zip(str::from_utf8(secret).ok()) } else { None }
}

fn is_word(bytes: &[u8], len: usize) -> bool {
    bytes.len() == len && bytes.iter().all(u8::is_ascii_alphanumeric)
}

pub(super) fn tag(key: &hmac::Key, secret: &str) -> [u8; 32] {
    let tag = hmac::sign(key, secret.as_bytes());
    // HMAC-SHA-256 has 32 bytes; a tag that had not would match no key.
    tag.as_ref().try_into().unwrap_or_default()
}

fn base62_digit(value: u64) -> char {
    let digit = usize::try_from(value % 62).ok().and_then(|at| BASE62.get(at));
    char::from(digit.copied().unwrap_or(b'0'))
}

pub(super) fn checksum_of(bytes: &[u8]) -> [u8; CHECKSUM_LEN] {
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
    use crate::decide::testing::minted;

    #[test]
    fn the_text_has_the_form_that_scanners_look_for() {
        let Minted { text, id, secret } = minted(1);
        assert_eq!(text.len(), TEXT_LEN);
        assert!(text.starts_with(&format!("ptc_{id}_{}", *secret)));
        assert_eq!(parse(text.as_bytes()), Some((&*id, &**secret)));
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }

    #[test]
    fn a_hash_needs_the_hash_key() {
        assert_ne!(hash_of(&[1; 32], "s"), hash_of(&[2; 32], "s"));
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
