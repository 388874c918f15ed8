//! Path patterns: literal segments, `{name}` for one segment, `{*rest}` for everything below.
//!
//! A pattern is compared with the canonical form of a request's path, so it has to be canonical itself: a pattern
//! that no request can ever match would be a route that silently protects nothing.

use std::fmt::Write as _;

/// Checks a pattern. Goes out: its shape, in which two patterns that match the same paths are equal. The error is
/// the end of a sentence that began with the pattern.
pub(super) fn shape(pattern: &str) -> Result<String, String> {
    let Some(path) = pattern.strip_prefix('/') else {
        return Err("does not begin with `/`".to_owned());
    };
    let segments: Vec<&str> = path.split('/').collect();
    let last = segments.len() - 1;
    let mut names: Vec<&str> = Vec::new();
    let mut shape = String::with_capacity(pattern.len());
    for (i, segment) in segments.iter().enumerate() {
        shape.push('/');
        let name = segment.strip_prefix('{').and_then(|s| s.strip_suffix('}'));
        match name.map(|name| name.strip_prefix('*').map_or((name, false), |rest| (rest, true))) {
            Some((name, rest)) => {
                check_name(name)?;
                if names.contains(&name) {
                    return Err(format!("names `{name}` twice"));
                }
                if rest && i != last {
                    return Err(format!("goes on after `{{*{name}}}`, which stands for everything below"));
                }
                names.push(name);
                // Braces cannot stand in a literal segment, so a shape is never mistaken for one.
                shape.push_str(if rest { "{*}" } else { "{}" });
            }
            None if segment.is_empty() && i != last => return Err("holds `//`".to_owned()),
            None => {
                check_literal(segment)?;
                shape.push_str(segment);
            }
        }
    }
    Ok(shape)
}

fn check_name(name: &str) -> Result<(), String> {
    let well_formed = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if well_formed { Ok(()) } else { Err(format!("names a parameter {name:?}: use letters, digits and `_`")) }
}

/// A literal segment of a canonical path (RFC 3986 section 3.3, normalised by section 6.2.2).
fn check_literal(segment: &str) -> Result<(), String> {
    if matches!(segment, "." | "..") {
        return Err(format!("holds the segment `{segment}`"));
    }
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'{' | b'}' => {
                return Err(format!("holds {segment:?}: a parameter is a whole segment, `{{name}}`"));
            }
            b'?' | b'#' => return Err(format!("holds `{}`, but only the path is matched", char::from(byte))),
            b'%' => check_escape(bytes.next(), bytes.next())?,
            b'\\' | b'|' | b'^' | b'"' | b'<' | b'>' | b'`' | b'[' | b']' => {
                return Err(format!("holds `{}`, which a path cannot", char::from(byte)));
            }
            0x21..=0x7e => {}
            _ => return Err(format!("holds {segment:?}: write what is not ASCII as {}", escaped(segment))),
        }
    }
    Ok(())
}

fn check_escape(high: Option<u8>, low: Option<u8>) -> Result<(), String> {
    let digit =
        |byte: Option<u8>| byte.and_then(|b| char::from(b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
    let (Some(high_value), Some(low_value)) = (digit(high), digit(low)) else {
        return Err("holds a `%` without two hexadecimal digits behind it".to_owned());
    };
    let byte = high_value << 4 | low_value;
    if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,=:@".contains(&byte) {
        return Err(format!("holds `%{byte:02X}`: write `{}`", char::from(byte)));
    }
    if matches!(byte, b'/' | b'\\') || byte.is_ascii_control() {
        return Err(format!("holds `%{byte:02X}`, which no request may hold"));
    }
    if [high, low].into_iter().flatten().any(|b| b.is_ascii_lowercase()) {
        return Err(format!("holds an escape in lower case: write `%{byte:02X}`"));
    }
    Ok(())
}

fn escaped(segment: &str) -> String {
    let mut out = String::new();
    for byte in segment.bytes() {
        if byte.is_ascii_graphic() {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::shape;

    #[track_caller]
    fn check(pattern: &str, expected: Result<&str, &str>) {
        match (shape(pattern), expected) {
            (Ok(shape), Ok(expected)) => assert_eq!(shape, expected),
            (Err(message), Err(part)) => assert!(message.contains(part), "{message}"),
            (shape, expected) => panic!("{shape:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn patterns() {
        check("/", Ok("/"));
        check("/v1/orders", Ok("/v1/orders"));
        check("/v1/orders/", Ok("/v1/orders/"));
        check("/v1/orders/{id}", Ok("/v1/orders/{}"));
        check("/{a}/{b}", Ok("/{}/{}"));
        check("/files/{*rest}", Ok("/files/{*}"));
        check("/{*rest}", Ok("/{*}"));
        check("/caf%C3%A9/a:b@c;d=e", Ok("/caf%C3%A9/a:b@c;d=e"));
        check("", Err("does not begin with `/`"));
        check("orders", Err("does not begin with `/`"));
        check("*", Err("does not begin with `/`"));
        check("//", Err("holds `//`"));
        check("/a//b", Err("holds `//`"));
        check("/a/./b", Err("holds the segment `.`"));
        check("/a/..", Err("holds the segment `..`"));
        check("/a/...", Ok("/a/..."));
        check("/{a}/{a}", Err("names `a` twice"));
        check("/{a}/{*a}", Err("names `a` twice"));
        check("/{*rest}/x", Err("goes on after `{*rest}`"));
        check("/{}", Err("names a parameter \"\""));
        check("/{a-b}", Err("names a parameter"));
        check("/{*}", Err("names a parameter"));
        check("/{1}", Err("names a parameter"));
        check("/x{id}", Err("a parameter is a whole segment"));
        check("/{id}.json", Err("a parameter is a whole segment"));
        check("/{id", Err("a parameter is a whole segment"));
        check("/a?b", Err("only the path is matched"));
        check("/a#b", Err("only the path is matched"));
        check("/%61", Err("write `a`"));
        check("/%7E", Err("write `~`"));
        check("/a%3Ab", Err("write `:`"));
        check("/%20", Ok("/%20"));
        check("/%2f", Err("no request may hold"));
        check("/%5C", Err("no request may hold"));
        check("/%00", Err("no request may hold"));
        check("/%c3%a9", Err("write `%C3`"));
        check("/%", Err("without two hexadecimal digits"));
        check("/%g0", Err("without two hexadecimal digits"));
        check("/a b", Err("%20"));
        check("/café", Err("caf%C3%A9"));
        check("/a\\b", Err("which a path cannot"));
    }

    proptest! {
        #[test]
        fn nothing_panics(pattern in ".{0,40}") {
            let _ = shape(&pattern);
        }

        #[test]
        fn an_accepted_pattern_keeps_its_segments(pattern in "(/([a-z.%]|%[0-9A-F]{2}|\\{[a-z]\\}){0,4}){1,4}") {
            if let Ok(shape) = shape(&pattern) {
                prop_assert_eq!(shape.matches('/').count(), pattern.matches('/').count());
                prop_assert!(!shape.contains("//") && !shape.contains("/../"));
            }
        }
    }
}
