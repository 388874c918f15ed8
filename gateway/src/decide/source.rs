//! Whom a request counts as: the peer, or whom a trusted proxy says it speaks for; and how it was asked.
//!
//! Comes in: the peer's address, the listener's trusted proxies, the values of `X-Forwarded-For` and `Forwarded` in
//! order. Goes out: one address, and whether a header named it (such an address is never blocked at the NIC). It never
//! believes a peer that is not trusted, and never reads more than the last entries.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::forwarded;
use crate::codec::{Fields, is_authority, is_token};

/// Entries that are read, from the right; what a client writes in front of them costs nothing.
const ENTRIES_MAX: usize = 32;
/// Fields that are read, the last ones.
const FIELDS_MAX: usize = 16;
/// A longer id of a request is not taken over.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// The rightmost address that is no trusted proxy, if the peer itself is one; else the peer.
///
/// Each proxy appends whom it got the request from, so what stands right of the first address that is not trusted
/// was written by trusted ones. Where something else than an address comes first, or all are trusted, the peer
/// counts. A forwarded address comes with `true`.
///
/// `Forwarded` is asked only where there is no `X-Forwarded-For`: most proxies write the latter, and let the former
/// through as their clients wrote it.
pub fn source_of<'h>(
    peer: IpAddr,
    trusted: &[IpNet],
    forwarded_for: impl Iterator<Item = &'h [u8]>,
    forwarded: impl Iterator<Item = &'h [u8]>,
) -> (IpAddr, bool) {
    let peer = peer.to_canonical();
    if !trusted.iter().any(|prefix| prefix.contains(&peer)) {
        return (peer, false);
    }
    let lists = LastFields::of(forwarded_for);
    let found = if lists.count > 0 {
        let entries = |field: &'h [u8]| field.rsplit(|byte| *byte == b',').map(address_in);
        first_stranger(trusted, lists.last_first().flat_map(entries))
    } else {
        let elements = LastFields::of(forwarded);
        first_stranger(trusted, elements.last_first().flat_map(forwarded::addresses))
    };
    found.map_or((peer, false), |source| (source, true))
}

/// The first of the last entries that is not trusted; none where something else than an address comes before it.
fn first_stranger(trusted: &[IpNet], entries: impl Iterator<Item = Option<IpAddr>>) -> Option<IpAddr> {
    let is_trusted = |address: &IpAddr| trusted.iter().any(|prefix| prefix.contains(address));
    entries.take(ENTRIES_MAX).map_while(|entry| entry).find(|address| !is_trusted(address))
}

/// The last fields of one name.
struct LastFields<'h> {
    /// Field `n` lies at `n % FIELDS_MAX`.
    fields: [&'h [u8]; FIELDS_MAX],
    count: usize,
}

impl<'h> LastFields<'h> {
    fn of(values: impl Iterator<Item = &'h [u8]>) -> Self {
        let mut last = Self { fields: [b""; FIELDS_MAX], count: 0 };
        for value in values {
            if let Some(slot) = last.fields.get_mut(last.count % FIELDS_MAX) {
                *slot = value;
            }
            last.count += 1;
        }
        last
    }

    fn last_first(&self) -> impl Iterator<Item = &'h [u8]> {
        let numbers = (self.count.saturating_sub(FIELDS_MAX)..self.count).rev();
        numbers.filter_map(|number| self.fields.get(number % FIELDS_MAX).copied())
    }
}

/// What a trusted peer calls the request, where that can stand in a log as it is.
pub fn told_request_id<'h>(headers: &Fields<'_, 'h>) -> Option<&'h str> {
    let id = told(headers, "x-request-id")?;
    ((1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(is_token)).then_some(id)
}

/// A field that stands once: of several, nobody can say which is meant.
fn told<'h>(headers: &Fields<'_, 'h>, name: &str) -> Option<&'h str> {
    let mut values = headers.all(name);
    values.next().filter(|_| values.next().is_none()).and_then(|value| str::from_utf8(value).ok())
}

/// How a request was asked, as servers are told by `X-Forwarded-Proto` and `X-Forwarded-Host`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked<'h> {
    /// `http` or `https`.
    pub proto: &'h str,
    /// A host with an optional port; empty where the client named none.
    pub host: &'h str,
}

impl<'h> Asked<'h> {
    /// The same as a trusted peer tells it, which may have taken the request under TLS or for another host. What
    /// stands twice, or is neither, is not believed.
    #[must_use]
    pub fn or_told(self, headers: &Fields<'_, 'h>) -> Self {
        let proto = told(headers, "x-forwarded-proto").filter(|proto| matches!(*proto, "http" | "https"));
        let host = told(headers, "x-forwarded-host").filter(|host| is_authority(host));
        Self { proto: proto.unwrap_or(self.proto), host: host.unwrap_or(self.host) }
    }
}

/// An address with or without a port, an IPv6 one with or without brackets.
fn address_in(entry: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(entry.trim_ascii()).ok()?;
    let in_brackets = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let address = match text.parse::<SocketAddr>() {
        Ok(with_port) => with_port.ip(),
        Err(_) => in_brackets.unwrap_or(text).parse().ok()?,
    };
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::codec::{HeadLimits, HeaderSlots, request_head};

    #[track_caller]
    fn check(peer: &str, forwarded_for: &[&str], expected: (&str, bool)) {
        check_both(peer, forwarded_for, &[], expected);
    }

    #[track_caller]
    fn check_both(peer: &str, forwarded_for: &[&str], forwarded: &[&str], expected: (&str, bool)) {
        let trusted = ["10.0.0.0/8".parse().unwrap(), "2001:db8:f::/48".parse().unwrap()];
        let source = source_of(
            peer.parse().unwrap(),
            &trusted,
            forwarded_for.iter().map(|v| v.as_bytes()),
            forwarded.iter().map(|v| v.as_bytes()),
        );
        let expected = (expected.0.parse().unwrap(), expected.1);
        assert_eq!(source, expected, "{peer} {forwarded_for:?} {forwarded:?}");
    }

    #[test]
    fn forwarded_is_read_like_the_older_field_and_only_without_it() {
        let check = |forwarded: &[&str], expected| check_both("10.0.0.1", &[], forwarded, expected);
        check(&["for=198.51.100.7"], ("198.51.100.7", true));
        check(&["for=1.1.1.1, for=198.51.100.7, for=10.0.0.2"], ("198.51.100.7", true));
        check(&["for=1.1.1.1", "for=\"[2001:db8::7]:1\"", "for=10.0.0.2"], ("2001:db8::7", true));
        check(&["for=198.51.100.7, for=_hidden, for=10.0.0.2"], ("10.0.0.1", false));
        check(&["for=198.51.100.7, for=unknown"], ("10.0.0.1", false));
        check(&["for=\", for=198.51.100.7"], ("198.51.100.7", true));
        check_both("203.0.113.1", &[], &["for=198.51.100.7"], ("203.0.113.1", false));
        check_both("10.0.0.1", &["198.51.100.7"], &["for=1.1.1.1"], ("198.51.100.7", true));
        check_both("10.0.0.1", &["junk"], &["for=1.1.1.1"], ("10.0.0.1", false));
    }

    #[test]
    fn an_id_is_taken_over_where_it_can_stand_in_a_log() {
        #[track_caller]
        fn check(fields: &str, expected: Option<&str>) {
            let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
            let limits = HeadLimits { head_bytes_max: 4096, headers_max: 16, target_bytes_max: 16 };
            let mut slots = HeaderSlots::new();
            let head = request_head(text.as_bytes(), &mut slots, &limits).unwrap().unwrap();
            assert_eq!(told_request_id(&head.headers), expected, "{fields}");
        }
        check("", None);
        check("X-Request-Id: a1-B.2_c~\r\n", Some("a1-B.2_c~"));
        check(&format!("X-Request-Id: {}\r\n", "x".repeat(128)), Some(&"x".repeat(128)));
        check(&format!("X-Request-Id: {}\r\n", "x".repeat(129)), None);
        check("X-Request-Id:\r\n", None);
        check("X-Request-Id: a b\r\n", None);
        check("X-Request-Id: a\"b\r\n", None);
        check("X-Request-Id: \u{e9}\r\n", None);
        check("X-Request-Id: a\r\nX-Request-Id: a\r\n", None);
    }

    #[test]
    fn only_a_trusted_peer_is_believed() {
        check("203.0.113.1", &["198.51.100.7"], ("203.0.113.1", false));
        check("10.0.0.1", &["198.51.100.7"], ("198.51.100.7", true));
        check("::ffff:10.0.0.1", &["198.51.100.7"], ("198.51.100.7", true));
        check("2001:db8:f::1", &["2001:db8::7"], ("2001:db8::7", true));
        check("10.0.0.1", &[], ("10.0.0.1", false));
    }

    #[test]
    fn the_rightmost_that_is_not_trusted_counts() {
        check("10.0.0.1", &["1.1.1.1, 198.51.100.7, 10.0.0.2"], ("198.51.100.7", true));
        check("10.0.0.1", &["1.1.1.1", "198.51.100.7", "10.0.0.2,10.0.0.3"], ("198.51.100.7", true));
        check("10.0.0.1", &["junk, 198.51.100.7"], ("198.51.100.7", true));
        check("10.0.0.1", &["10.0.0.3, 10.0.0.2"], ("10.0.0.1", false));
    }

    #[test]
    fn what_is_no_address_stops_the_search() {
        check("10.0.0.1", &["198.51.100.7, junk"], ("10.0.0.1", false));
        check("10.0.0.1", &["198.51.100.7, unknown, 10.0.0.2"], ("10.0.0.1", false));
        check("10.0.0.1", &["198.51.100.7,"], ("10.0.0.1", false));
        check("10.0.0.1", &[""], ("10.0.0.1", false));
        check("10.0.0.1", &["198.51.100.7.8"], ("10.0.0.1", false));
    }

    #[test]
    fn ports_and_brackets_are_understood() {
        check("10.0.0.1", &[" 198.51.100.7:4711 "], ("198.51.100.7", true));
        check("10.0.0.1", &["[2001:db8::7]:4711"], ("2001:db8::7", true));
        check("10.0.0.1", &["[2001:db8::7]"], ("2001:db8::7", true));
        check("10.0.0.1", &["::ffff:198.51.100.7"], ("198.51.100.7", true));
    }

    #[test]
    fn a_trusted_peer_says_how_it_was_asked_where_it_says_one_thing() {
        let told = |fields: &str| {
            let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
            let limits = HeadLimits { head_bytes_max: 1024, headers_max: 16, target_bytes_max: 64 };
            let mut slots = HeaderSlots::new();
            let head = request_head(request.as_bytes(), &mut slots, &limits).unwrap().unwrap();
            let asked = Asked { proto: "http", host: head.authority }.or_told(&head.headers);
            (asked.proto.to_owned(), asked.host.to_owned())
        };
        let expect = |proto: &str, host: &str| (proto.to_owned(), host.to_owned());
        assert_eq!(told(""), expect("http", "a"));
        assert_eq!(told("X-Forwarded-Proto: https\r\n"), expect("https", "a"));
        assert_eq!(told("X-Forwarded-Host: b:8443\r\n"), expect("http", "b:8443"));
        assert_eq!(told("X-Forwarded-Proto: HTTPS\r\nX-Forwarded-Host: b, c\r\n"), expect("http", "a"));
        assert_eq!(told("X-Forwarded-Proto: https\r\nX-Forwarded-Proto: https\r\n"), expect("http", "a"));
        assert_eq!(told("X-Forwarded-Host: user@b\r\nX-Forwarded-Proto: \r\n"), expect("http", "a"));
        assert_eq!(told("X-Forwarded-Host:\r\n"), expect("http", "a"));
    }

    #[test]
    fn work_is_bounded_and_what_a_client_writes_in_front_changes_nothing() {
        let padded = format!("{}198.51.100.7", "1.1.1.1,".repeat(10_000));
        check("10.0.0.1", &[&padded], ("198.51.100.7", true));
        let fields = [vec!["1.1.1.1"; 100], vec!["198.51.100.7"]].concat();
        check("10.0.0.1", &fields, ("198.51.100.7", true));
        check(
            "10.0.0.1",
            &[&format!("198.51.100.7{}", ",10.0.0.2".repeat(ENTRIES_MAX - 1))],
            ("198.51.100.7", true),
        );
        check(
            "10.0.0.1",
            &[&format!("198.51.100.7{}", ",10.0.0.2".repeat(ENTRIES_MAX))],
            ("10.0.0.1", false),
        );
    }

    proptest! {
        #[test]
        fn a_peer_that_is_not_trusted_is_always_itself(
            peer: [u8; 4], fields in prop::collection::vec("[0-9a-f.:, \\[\\]]{0,40}", 0..4),
        ) {
            let peer = IpAddr::from(peer);
            let trusted = ["10.0.0.0/8".parse().unwrap()];
            let values = || fields.iter().map(String::as_bytes);
            let (source, forwarded) = source_of(peer, &trusted, values(), values());
            prop_assert!(forwarded == (source != peer));
            prop_assert!(!forwarded || peer.to_string().starts_with("10."));
        }
    }
}
