//! One canonical form for a path: it is routed, checked and sent, so that no two parties read it differently
//! (RFC 3986 §6.2.2, RFC 9110 §4.2.3).
//!
//! Comes in: the path of a request target, visible ASCII without `?`. Goes out: the canonical path, borrowed when
//! it came so, or why it has none. Case is kept: `/Admin` and `/admin` are two paths.
//!
//! | in the path | becomes |
//! |---|---|
//! | `%41`, `%7e`: escaped letter, digit, `-` `.` `_` `~` | the character |
//! | `%c3%a9`: other escapes of well-formed UTF-8 | kept, hex in upper case |
//! | `%3a`: escaped ``!$&'()*+,=:@`` | the character: it delimits nothing in our form (RFC 3986 §3.3), and servers decode it |
//! | `%20`: escaped ``"<>[]^`{}``, vertical bar, space | kept, hex in upper case |
//! | bare ``"<>[]^`{}``, vertical bar | escaped |
//! | `//`, `/./`, `/x/../` | merged, dropped, resolved; in that order from left to right, after unescaping |
//! | `/..` above the root | refused |
//! | `%2f`, `%5c`, `%25`, `%3b`, `%3f`, `%23` | refused: decoded once more they cut the path elsewhere (CVE-2025-66490) |
//! | `%00` to `%1f`, `%7f`, `%c2%80` to `%c2%9f` | refused: control characters |
//! | `\`, `;`, `#`, bytes above 0x7f | refused |
//! | `%u002f`, `%zz`, `%4` | refused: not an escape |
//! | overlong or otherwise malformed UTF-8 | refused |
//! | fullwidth and small forms of ASCII (U+FF01 to U+FF5E, U+FE50 to U+FE6B), one- and two-dot leaders | refused: some servers fold them to ASCII |
//! | a segment that ends in `.` or a space, other than `.` and `..` | refused: some file systems cut it off |
//!
//! RFC 3986 §2.2 lets `%3a` and `:` differ, but servers decode a segment before they look at it, and then a rule for
//! `/a:b` must hold for `/a%3Ab` as well. None of these characters delimits anything in a path that gets this far:
//! `/`, `;`, `?`, `#` and `%` are refused when escaped, and the query is not touched, where `&`, `=` and `+` mean
//! something. Two kinds of server see a difference, both by error or by their own convention: one that reads a bare
//! `+` in a path as a space (`/a%2Bb` reaches it as `/a+b`), and one that splits a segment at `,` or `:` before it
//! decodes. What such a server means by the escaped form cannot be said here; both forms are one resource.

use std::borrow::Cow;

/// Why a path has no canonical form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It does not start with `/`.
    #[error("a path that does not start with a slash")]
    NotAbsolute,
    /// It holds a backslash, `;`, `#`, white space, a control character or a byte above 0x7f.
    #[error("a byte that a path must not hold")]
    ForbiddenByte,
    /// A `%` without two hexadecimal digits, `%u002f` among them.
    #[error("a percent sign without two hexadecimal digits")]
    MalformedEscape,
    /// An escaped `/`, `\`, `%`, `;`, `?`, `#` or control character.
    #[error("an escape that hides a delimiter or control character")]
    ForbiddenEscape,
    /// Escaped bytes that are not well-formed UTF-8, overlong forms among them.
    #[error("escaped bytes that are not UTF-8")]
    NotUtf8,
    /// An escaped character that some servers fold to ASCII.
    #[error("an escaped look-alike of an ASCII character")]
    Lookalike,
    /// More `..` than segments before it.
    #[error("a path that leads above the root")]
    AboveRoot,
    /// A segment that ends in a dot or a space.
    #[error("a segment that ends in a dot or a space")]
    TrailingDotOrSpace,
}

/// The canonical form of `path`.
pub fn canonical(path: &str) -> Result<Cow<'_, str>, PathError> {
    if is_canonical(path.as_bytes()) {
        return Ok(Cow::Borrowed(path));
    }
    let relative = path.strip_prefix('/').ok_or(PathError::NotAbsolute)?;
    let mut out = String::with_capacity(path.len() + 16);
    // `out` is empty or "/segment/segment…" without a slash at its end, until the last segment has been seen.
    let mut segments = relative.split('/').peekable();
    while let Some(segment) = segments.next() {
        let start = out.len();
        out.push('/');
        unescape_into(&mut out, segment)?;
        let is_last = segments.peek().is_none();
        match out.get(start + 1..).unwrap_or_default() {
            "" | "." => out.truncate(start),
            ".." => {
                out.truncate(start);
                let parent = out.rfind('/').ok_or(PathError::AboveRoot)?;
                out.truncate(parent);
            }
            kept if kept.ends_with('.') || kept.ends_with("%20") => {
                return Err(PathError::TrailingDotOrSpace);
            }
            _ => continue,
        }
        if is_last {
            out.push('/');
        }
    }
    Ok(Cow::Owned(out))
}

/// Whether the path is plainly canonical: nothing escaped, nothing to resolve. A path with escapes may be canonical
/// as well; it takes the long way.
fn is_canonical(path: &[u8]) -> bool {
    if path.first() != Some(&b'/') {
        return false;
    }
    let mut before = 0;
    for &byte in path {
        let plain = is_unreserved(byte) || is_kept_bare(byte) || byte == b'/';
        if !plain || (byte == b'/' && matches!(before, b'/' | b'.')) {
            return false;
        }
        before = byte;
    }
    before != b'.'
}

/// Appends a segment with its escapes in their canonical form.
fn unescape_into(out: &mut String, segment: &str) -> Result<(), PathError> {
    let mut rest = segment.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        match *byte {
            b'%' => rest = unescape_one(out, after)?,
            byte if is_unreserved(byte) || is_kept_bare(byte) => out.push(char::from(byte)),
            b'"' | b'<' | b'>' | b'[' | b']' | b'^' | b'`' | b'{' | b'|' | b'}' => push_escape(out, *byte),
            _ => return Err(PathError::ForbiddenByte),
        }
    }
    Ok(())
}

/// Takes the two digits after a `%`, and the escapes that belong to the same character; gives what is left.
fn unescape_one<'p>(out: &mut String, after: &'p [u8]) -> Result<&'p [u8], PathError> {
    let (byte, mut rest) = hex_pair(after)?;
    match byte {
        b'/' | b'\\' | b'%' | b';' | b'?' | b'#' | 0x00..=0x1f | 0x7f => {
            return Err(PathError::ForbiddenEscape);
        }
        byte if is_unreserved(byte) || is_kept_bare(byte) => out.push(char::from(byte)),
        byte if byte.is_ascii() => push_escape(out, byte),
        lead => {
            let mut bytes = [lead, 0, 0, 0];
            let len = utf8_len(lead).ok_or(PathError::NotUtf8)?;
            for slot in bytes.iter_mut().take(len).skip(1) {
                let digits = rest.strip_prefix(b"%").ok_or(PathError::NotUtf8)?;
                (*slot, rest) = hex_pair(digits)?;
            }
            let escaped = bytes.get(..len).unwrap_or_default();
            check_character(str::from_utf8(escaped).map_err(|_| PathError::NotUtf8)?)?;
            for &byte in escaped {
                push_escape(out, byte);
            }
        }
    }
    Ok(rest)
}

/// Refuses what is a control character, or ASCII in disguise.
fn check_character(text: &str) -> Result<(), PathError> {
    for character in text.chars() {
        match character {
            '\u{80}'..='\u{9f}' => return Err(PathError::ForbiddenEscape),
            '\u{2024}' | '\u{2025}' | '\u{fe50}'..='\u{fe6b}' | '\u{ff01}'..='\u{ff5e}' => {
                return Err(PathError::Lookalike);
            }
            _ => {}
        }
    }
    Ok(())
}

/// How many bytes a character takes that starts so; `str::from_utf8` checks the rest.
fn utf8_len(lead: u8) -> Option<usize> {
    match lead {
        0xc2..=0xdf => Some(2),
        0xe0..=0xef => Some(3),
        0xf0..=0xf4 => Some(4),
        _ => None,
    }
}

fn hex_pair(digits: &[u8]) -> Result<(u8, &[u8]), PathError> {
    let [high, low, rest @ ..] = digits else { return Err(PathError::MalformedEscape) };
    let high = hex_digit(*high).ok_or(PathError::MalformedEscape)?;
    let low = hex_digit(*low).ok_or(PathError::MalformedEscape)?;
    Ok((high << 4 | low, rest))
}

fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

fn push_escape(out: &mut String, byte: u8) {
    let digit = |value: u8| char::from(if value < 10 { b'0' + value } else { b'A' + value - 10 });
    out.push('%');
    out.push(digit(byte >> 4));
    out.push(digit(byte & 0x0f));
}

/// RFC 3986 §2.3
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// What else may stand bare in a segment (RFC 3986 §3.3), without `;`.
fn is_kept_bare(byte: u8) -> bool {
    matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@')
}

#[cfg(test)]
mod tests;
