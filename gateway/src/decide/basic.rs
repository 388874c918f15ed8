//! User and password, as HTTP's Basic scheme carries them (RFC 7617).
//!
//! Comes in: what follows `Basic` in `Authorization`. Goes out: user and password. Whether they belong together is
//! asked of `control::auth`: a hash that is slow on purpose has no place on a worker.

use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

/// Longest user and password together, in bytes.
pub const BYTES_MAX: usize = 1024;

/// User and password.
#[derive(PartialEq, Eq)]
pub struct UserPass {
    text: Zeroizing<String>,
    colon: usize,
}

/// Reads `credentials`; none: they are not base64 of UTF-8 with a colon in it, or too long. Control characters are
/// refused (RFC 7617 §2).
pub fn parse(credentials: &[u8]) -> Option<UserPass> {
    if credentials.len() > BYTES_MAX.div_ceil(3) * 4 {
        return None;
    }
    let bytes = Zeroizing::new(STANDARD.decode(credentials).ok()?);
    if bytes.len() > BYTES_MAX {
        return None;
    }
    let text = Zeroizing::new(str::from_utf8(&bytes).ok()?.to_owned());
    let colon = text.find(':').filter(|colon| *colon > 0)?;
    if text.chars().any(char::is_control) { None } else { Some(UserPass { text, colon }) }
}

impl UserPass {
    /// Who it claims to be; never empty.
    pub fn user(&self) -> &str {
        self.text.get(..self.colon).unwrap_or_default()
    }

    /// May hold colons.
    pub fn password(&self) -> &str {
        self.text.get(self.colon + 1..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(credentials: &str, expected: Option<(&str, &str)>) {
        let parsed = parse(credentials.as_bytes());
        assert_eq!(parsed.as_ref().map(|both| (both.user(), both.password())), expected, "{credentials}");
    }

    #[test]
    fn the_first_colon_ends_the_user() {
        check("QWxhZGRpbjpvcGVuIHNlc2FtZQ==", Some(("Aladdin", "open sesame")));
        check(&STANDARD.encode("a:b:c"), Some(("a", "b:c")));
        check(&STANDARD.encode("a:"), Some(("a", "")));
        check(&STANDARD.encode("tést:pässword"), Some(("tést", "pässword")));
    }

    #[test]
    fn what_is_not_a_pair_is_refused() {
        check("", None);
        check(&STANDARD.encode("no colon"), None);
        check(&STANDARD.encode(":password"), None);
        check(&STANDARD.encode("a:b\n"), None);
        check(&STANDARD.encode(b"a:\xff"), None);
        check("QWxhZGRpbjpvcGVuIHNlc2FtZQ", None);
        check("QWxhZGRpbjpvcGVuIHNlc2FtZQ== ", None);
        check(
            &STANDARD.encode("a:".to_owned() + &"p".repeat(BYTES_MAX - 2)),
            Some(("a", &"p".repeat(BYTES_MAX - 2))),
        );
        check(&STANDARD.encode("a:".to_owned() + &"p".repeat(BYTES_MAX)), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse(&bytes);
        }
    }
}
