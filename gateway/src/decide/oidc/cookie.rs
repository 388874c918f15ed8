//! Cookies of our own among a browser's (RFC 6265): reading them, writing them, and keeping them from upstreams.
//!
//! Their names begin with `__Host-`, so a browser takes them only over TLS, for one host and for all of its paths, and
//! nobody on a neighbouring host can set them. What is longer than a browser takes goes into several: the first one
//! begins with their number. It knows nothing of what is in them.

use std::fmt::Write as _;

/// What the names of all of our cookies begin with.
pub const PREFIX: &str = "__Host-portcullis-";
/// Bytes of one cookie's value: with its name and attributes it stays below the 4096 that browsers take (RFC 6265 §6.1).
const CHUNK_BYTES: usize = 3_900;
/// Cookies that one value may take.
pub const CHUNKS_MAX: usize = 4;
/// The longest value.
pub const VALUE_BYTES_MAX: usize = CHUNK_BYTES * CHUNKS_MAX - 1;
/// The longest name, without [`PREFIX`]: an auth's, of 48 bytes, and `.login0`.
pub const NAME_BYTES_MAX: usize = 64;

// Name with the chunk's number, `=`, value, and the attributes below.
const _: () = assert!(PREFIX.len() + NAME_BYTES_MAX + 2 + 1 + CHUNK_BYTES + 64 < 4096);

/// Name and value of every cookie in these `Cookie` fields; what has no `=` is none.
pub fn cookies<'h>(fields: impl Iterator<Item = &'h [u8]>) -> impl Iterator<Item = (&'h [u8], &'h [u8])> {
    fields.flat_map(pairs).filter_map(|pair| {
        let equals = pair.iter().position(|byte| *byte == b'=')?;
        Some((pair.get(..equals)?, pair.get(equals + 1..)?))
    })
}

fn pairs(field: &[u8]) -> impl Iterator<Item = &[u8]> {
    field.split(|byte| *byte == b';').map(<[u8]>::trim_ascii)
}

/// What these fields hold beside our cookies, as one value; none: they hold none of ours.
pub fn without_ours<'h>(fields: impl Iterator<Item = &'h [u8]>) -> Option<String> {
    let mut has_ours = false;
    let mut rest = String::new();
    for pair in fields.flat_map(pairs).filter(|pair| !pair.is_empty()) {
        if pair.starts_with(PREFIX.as_bytes()) {
            has_ours = true;
            continue;
        }
        rest.push_str(if rest.is_empty() { "" } else { "; " });
        // What is no text is replaced: it was no cookie (RFC 6265 §4.1.1).
        rest.push_str(&String::from_utf8_lossy(pair));
    }
    has_ours.then_some(rest)
}

/// The value that stands in the cookies of this name (without [`PREFIX`]). None: there is none, one of them stands
/// twice, or one is missing.
pub fn value_of<'h>(
    name: &str,
    fields: impl Iterator<Item = &'h [u8]>,
) -> Option<std::borrow::Cow<'h, [u8]>> {
    let mut own: [Option<&[u8]>; CHUNKS_MAX] = [None; CHUNKS_MAX];
    for (cookie, value) in cookies(fields) {
        let Some(chunk) = chunk_of(name, cookie) else { continue };
        if own.get_mut(chunk)?.replace(value).is_some() {
            return None;
        }
    }
    let (count, first) = own[0]?.split_first()?;
    let count = usize::from(count.checked_sub(b'0')?);
    match count {
        1 => Some(first.into()),
        2..=CHUNKS_MAX => {
            let rest: Vec<&[u8]> = own.get(1..count)?.iter().copied().collect::<Option<_>>()?;
            Some([&[first], &rest[..]].concat().concat().into())
        }
        _ => None,
    }
}

/// Which chunk of `name` a cookie is.
fn chunk_of(name: &str, cookie: &[u8]) -> Option<usize> {
    let rest = cookie.strip_prefix(PREFIX.as_bytes())?.strip_prefix(name.as_bytes())?;
    match rest {
        [] => Some(0),
        [b'.', digit @ b'1'..=b'9'] => Some(usize::from(digit - b'0')).filter(|chunk| *chunk < CHUNKS_MAX),
        _ => None,
    }
}

/// Appends fields that set `value`, for `max_age_s`, or for as long as the browser runs. False: it is too long.
#[must_use]
pub fn push_value(lines: &mut String, name: &str, value: &str, max_age_s: Option<u64>) -> bool {
    if value.len() > VALUE_BYTES_MAX || !value.is_ascii() {
        return false;
    }
    let count = (value.len() + 1).div_ceil(CHUNK_BYTES);
    let text = format!("{count}{value}");
    let (mut left, mut chunk) = (text.as_str(), 0);
    while !left.is_empty() {
        let (value, rest) = left.split_at(left.len().min(CHUNK_BYTES));
        push_cookie(lines, name, chunk, value, max_age_s);
        (left, chunk) = (rest, chunk + 1);
    }
    true
}

/// Appends fields that remove whatever the browser has of `name`.
pub fn push_removal<'h>(lines: &mut String, name: &str, fields: impl Iterator<Item = &'h [u8]>) {
    let mut gone = [false; CHUNKS_MAX];
    for (cookie, _) in cookies(fields) {
        if let Some(gone) = chunk_of(name, cookie).and_then(|chunk| gone.get_mut(chunk)) {
            *gone = true;
        }
    }
    for (chunk, _) in gone.iter().enumerate().filter(|(_, gone)| **gone) {
        push_cookie(lines, name, chunk, "", Some(0));
    }
}

fn push_cookie(lines: &mut String, name: &str, chunk: usize, value: &str, max_age_s: Option<u64>) {
    // Writing to a String does not fail.
    let _ = write!(lines, "Set-Cookie: {PREFIX}{name}");
    let _ = if chunk == 0 { Ok(()) } else { write!(lines, ".{chunk}") };
    let _ = write!(lines, "={value}; Path=/; Secure; HttpOnly; SameSite=Lax");
    let _ = max_age_s.map(|age_s| write!(lines, "; Max-Age={age_s}"));
    lines.push_str("\r\n");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(name: &str, cookies: &str) -> Option<String> {
        let value = value_of(name, [cookies.as_bytes()].into_iter())?;
        Some(String::from_utf8(value.into_owned()).unwrap())
    }

    /// What a browser sends back.
    fn kept(lines: &str) -> String {
        let cookie =
            |line: &str| line.strip_prefix("Set-Cookie: ").unwrap().split_once(';').unwrap().0.to_owned();
        lines.lines().map(cookie).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn a_value_is_found_among_others() {
        for (cookies, expected) in [
            ("__Host-portcullis-web=1abc", Some("abc")),
            ("a=b; __Host-portcullis-web=1abc ;c=d", Some("abc")),
            ("__Host-portcullis-web=2abc; __Host-portcullis-web.1=def", Some("abcdef")),
            (
                "__Host-portcullis-web.1=def; __Host-portcullis-web=2abc; __Host-portcullis-web.2=old",
                Some("abcdef"),
            ),
            ("__Host-portcullis-web=1", Some("")),
            ("__Host-portcullis-web=2abc", None),
            ("__Host-portcullis-web=", None),
            ("__Host-portcullis-web=0abc", None),
            ("__Host-portcullis-web=9abc", None),
            ("__Host-portcullis-web=5abc", None),
            ("__Host-portcullis-web=xabc", None),
            ("__Host-portcullis-web=1abc; __Host-portcullis-web=1abc", None),
            ("__Host-portcullis-web.1=1abc", None),
            ("__Host-portcullis-webs=1abc", None),
            ("__Secure-portcullis-web=1abc", None),
            ("__host-portcullis-web=1abc", None),
            ("__Host-portcullis-web", None),
            ("", None),
        ] {
            assert_eq!(read("web", cookies).as_deref(), expected, "{cookies}");
        }
    }

    #[test]
    fn upstreams_get_the_others_alone() {
        let rest = |fields: &[&str]| without_ours(fields.iter().map(|field| field.as_bytes()));
        assert_eq!(rest(&["a=b; c"]), None);
        assert_eq!(rest(&["a=b; __Host-portcullis-web=1; c"]).as_deref(), Some("a=b; c"));
        assert_eq!(rest(&["a=b", "__Host-portcullis-web.login0=1;;d=e"]).as_deref(), Some("a=b; d=e"));
        assert_eq!(rest(&["__Host-portcullis-x"]).as_deref(), Some(""));
        assert_eq!(rest(&[]), None);
    }

    #[test]
    fn what_is_set_is_what_the_browser_may_never_show_to_others() {
        let mut lines = String::new();
        assert!(push_value(&mut lines, "web", "abc", Some(600)));
        assert_eq!(
            lines,
            "Set-Cookie: __Host-portcullis-web=1abc; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=600\r\n"
        );
        let mut gone = String::new();
        push_removal(
            &mut gone,
            "web",
            [&b"__Host-portcullis-web=1abc; __Host-portcullis-web.3=x; a=b"[..]].into_iter(),
        );
        assert_eq!(
            gone,
            "Set-Cookie: __Host-portcullis-web=; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=0\r\n\
             Set-Cookie: __Host-portcullis-web.3=; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=0\r\n"
        );
    }

    #[test]
    fn there_is_a_longest_value() {
        let mut lines = String::new();
        assert!(push_value(&mut lines, "web", &"a".repeat(VALUE_BYTES_MAX), None));
        assert_eq!(lines.lines().count(), CHUNKS_MAX);
        assert!(!push_value(&mut lines, "web", &"a".repeat(VALUE_BYTES_MAX + 1), None));
    }

    proptest! {
        #[test]
        fn every_value_comes_back(value in "[A-Za-z0-9_-]{0,60}", times in 0usize..240) {
            let (value, mut lines) = (value.repeat(times), String::new());
            prop_assert_eq!(push_value(&mut lines, "web", &value, None), value.len() <= VALUE_BYTES_MAX);
            if value.len() <= VALUE_BYTES_MAX {
                prop_assert!(lines.lines().all(|line| line.len() < 4096));
                prop_assert_eq!(read("web", &kept(&lines)), Some(value));
            }
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let fields = || [&bytes[..]].into_iter();
            let _ = (value_of("web", fields()), without_ours(fields()));
        }
    }
}
