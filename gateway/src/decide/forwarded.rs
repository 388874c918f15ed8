//! `Forwarded` (RFC 7239), read from its end.
//!
//! Comes in: the value of a field. Goes out: its elements, the last one first, each as the address that it names.
//! Each proxy adds its element at the end, so whatever a client has written stands in front, and is not looked at
//! before what its proxies wrote: a quote that it leaves open changes nothing. It never guesses: what is not in the
//! grammar, hidden (`_name`) or `unknown` is no address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::codec::is_token;

/// The elements of one field from the last to the first; what is no element, or names no address, is `None`.
pub(super) fn addresses(field: &[u8]) -> impl Iterator<Item = Option<IpAddr>> {
    let mut left = Some(field);
    std::iter::from_fn(move || {
        let field = left?;
        let start = last_outside_quotes(field, b',');
        left = start.map(|comma| field.get(..comma).unwrap_or_default());
        Some(address_of(field.get(start.map_or(0, |comma| comma + 1)..).unwrap_or_default()))
    })
}

/// Where the last `separator` stands that is not within quotes, as seen from the end.
fn last_outside_quotes(text: &[u8], separator: u8) -> Option<usize> {
    let mut in_quotes = false;
    text.iter().rposition(|&byte| {
        in_quotes ^= byte == b'"';
        byte == separator && !in_quotes
    })
}

/// The one `for` of an element, §4 and §6. White space around a `;` is forgiven, since many proxies write it.
fn address_of(element: &[u8]) -> Option<IpAddr> {
    let mut node = None;
    let mut left = Some(element);
    while let Some(pairs) = left {
        let start = last_outside_quotes(pairs, b';');
        left = start.map(|semicolon| pairs.get(..semicolon).unwrap_or_default());
        let pair = pairs.get(start.map_or(0, |semicolon| semicolon + 1)..)?.trim_ascii();
        if pair.is_empty() {
            continue;
        }
        let equals = pair.iter().position(|&byte| byte == b'=')?;
        let (name, value) = (pair.get(..equals)?, pair.get(equals + 1..)?);
        if !is_all_token(name) || !(is_all_token(value) || unquoted(value).is_some()) {
            return None;
        }
        if name.eq_ignore_ascii_case(b"for") && node.replace(value).is_some() {
            return None;
        }
    }
    address_in(node?)
}

/// §6: an address, with a port if it is quoted, an IPv6 one always in brackets and quotes.
fn address_in(node: &[u8]) -> Option<IpAddr> {
    let Some(quoted) = unquoted(node) else {
        return Some(str::from_utf8(node).ok()?.parse::<Ipv4Addr>().ok()?.into());
    };
    let text = str::from_utf8(quoted).ok()?;
    let (address, port) = if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        (IpAddr::from(address.parse::<Ipv6Addr>().ok()?), port)
    } else {
        let (address, port) = text.split_at(text.find(':').unwrap_or(text.len()));
        (address.parse::<Ipv4Addr>().ok()?.into(), port)
    };
    (port.is_empty() || is_port(port.strip_prefix(':')?)).then(|| address.to_canonical())
}

/// §6.3: a number or a hidden one.
fn is_port(text: &str) -> bool {
    let is_hidden = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    };
    match text.strip_prefix('_') {
        Some(name) => is_hidden(name),
        None => text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok(),
    }
}

/// What stands in a quoted string in which nothing is escaped: no address needs that.
fn unquoted(value: &[u8]) -> Option<&[u8]> {
    let text = value.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    text.iter().all(|byte| !matches!(byte, b'"' | b'\\')).then_some(text)
}

fn is_all_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|&byte| is_token(byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `expected`: the elements from the last to the first, `-` for what names no address.
    #[track_caller]
    fn check(field: &str, expected: &[&str]) {
        let told = |address: Option<IpAddr>| address.map_or_else(|| "-".to_owned(), |a| a.to_string());
        let found: Vec<String> = addresses(field.as_bytes()).map(told).collect();
        assert_eq!(found, expected, "{field}");
    }

    #[test]
    fn the_examples_of_the_rfc() {
        check("for=\"_gazonk\"", &["-"]);
        check("For=\"[2001:db8:cafe::17]:4711\"", &["2001:db8:cafe::17"]);
        check("for=192.0.2.60;proto=http;by=203.0.113.43", &["192.0.2.60"]);
        check("for=192.0.2.43, for=198.51.100.17", &["198.51.100.17", "192.0.2.43"]);
        check(
            "for=192.0.2.43,for=\"[2001:db8:cafe::17]\",for=unknown",
            &["-", "2001:db8:cafe::17", "192.0.2.43"],
        );
        check("for=_hidden, for=_SEVKISEK", &["-", "-"]);
        check("for=\"192.0.2.43:47011\"", &["192.0.2.43"]);
        check("for=\"192.0.2.43:_port.1\"", &["192.0.2.43"]);
    }

    #[test]
    fn what_is_not_in_the_grammar_is_no_address() {
        for field in [
            "",
            "192.0.2.1",
            "for",
            "for=",
            "for =192.0.2.1",
            "for= 192.0.2.1",
            "for=192.0.2.1:80",
            "for=192.0.2.256",
            "for=2001:db8::1",
            "for=[2001:db8::1]",
            "for=\"2001:db8::1\"",
            "for=\"[2001:db8::1\"",
            "for=\"[2001:db8::1]80\"",
            "for=\"[2001:db8::1]:\"",
            "for=\"[192.0.2.1]\"",
            "for=\"192.0.2.1:\"",
            "for=\"192.0.2.1:65536\"",
            "for=\"192.0.2.1:+80\"",
            "for=\"192.0.2.1:_\"",
            "for=\"192.0.2.1:_a b\"",
            "for=\"192.0.2.1",
            "for=192.0.2.1\"",
            "for=\"\\192.0.2.1\"",
            "for=192.0.2.1;for=192.0.2.1",
            "for=192.0.2.1;FOR=_x",
            "for=192.0.2.1;proto",
            "for=192.0.2.1;proto=",
            "for=192.0.2.1;by=a b",
            "for=192.0.2.1 proto=http",
            "by=192.0.2.1",
            "for=192.0.2.1;host=\"a\\\"b\"",
        ] {
            check(field, &["-"]);
        }
    }

    #[test]
    fn separators_within_quotes_separate_nothing() {
        check("for=192.0.2.1;host=\"a,b;c=d\"", &["192.0.2.1"]);
        check("for=\"_a,for=192.0.2.1\"", &["-"]);
        check(" for=192.0.2.1 ; proto=https ,\tfor=192.0.2.2;;", &["192.0.2.2", "192.0.2.1"]);
    }

    proptest! {
        /// What a client writes in front of a proxy's own element is never taken for it, nor does it hide it.
        #[test]
        fn what_stands_in_front_changes_nothing(
            before in "[ -~]{0,40}", node in "192\\.0\\.2\\.[1-9]|\"\\[2001:db8::[1-9]\\](:80)?\"",
        ) {
            let own: Vec<_> = addresses(format!("for={node}").as_bytes()).collect();
            prop_assert!(own[0].is_some());
            let field = format!("{before}, for={node};proto=https");
            prop_assert_eq!(addresses(field.as_bytes()).next(), Some(own[0]));
        }

        #[test]
        fn no_bytes_panic(field: Vec<u8>, likely in "[for=\"\\[\\]:;,_ 0-9.\\\\]{0,60}") {
            prop_assert!(addresses(&field).count() <= field.len() + 1);
            prop_assert!(addresses(likely.as_bytes()).count() <= likely.len() + 1);
        }

        #[test]
        fn every_address_is_read_as_it_is_written(address: IpAddr, port: u16) {
            let text = match address {
                IpAddr::V4(address) => format!("for=\"{address}:{port}\""),
                IpAddr::V6(address) => format!("for=\"[{address}]:{port}\""),
            };
            prop_assert_eq!(addresses(text.as_bytes()).next(), Some(Some(address.to_canonical())));
        }
    }
}
