//! Header fields: where they are stored while a head is read, how they are found, and which names mean something
//! to a gateway (RFC 9110 §7.6.1).
//!
//! Comes in: the name–value pairs of one head. Goes out: look-ups and a kind for each name. Names are compared
//! by length first and never copied. It never changes a field; `encode` decides by kind what goes on.

use std::{fmt, mem::MaybeUninit};

/// Fields that a head may have at most, whatever the configuration allows: the slots lie on the stack.
pub const HEADERS_MAX: usize = 128;

/// Connection options of one head (`close`, `keep-alive` and names of fields): more is an attempt at making the
/// removal of fields expensive.
pub(crate) const CONNECTION_OPTIONS_MAX: usize = 16;

/// Room for the fields of one head, 4 KiB, uninitialised until a head is parsed into it.
pub struct HeaderSlots<'b>(pub(crate) [MaybeUninit<httparse::Header<'b>>; HEADERS_MAX]);

impl HeaderSlots<'_> {
    /// Empty slots.
    pub fn new() -> Self {
        Self([const { MaybeUninit::uninit() }; HEADERS_MAX])
    }
}

impl Default for HeaderSlots<'_> {
    fn default() -> Self {
        Self::new()
    }
}

/// The fields of a head, in the order in which they came. Values have no white space around them; names keep their
/// case and are compared without it.
#[derive(Clone, Copy)]
pub struct Fields<'h, 'b>(pub(crate) &'h [httparse::Header<'b>]);

impl<'b> Fields<'_, 'b> {
    /// The first field of this name.
    pub fn get(&self, name: &str) -> Option<&'b [u8]> {
        self.all(name).next()
    }

    /// Every field of this name.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &'b [u8]> {
        self.iter().filter(move |(each, _)| each.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Every field.
    pub fn iter(&self) -> impl Iterator<Item = (&'b str, &'b [u8])> {
        self.0.iter().map(|field| (field.name, field.value))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Names only: values hold credentials.
impl fmt::Debug for Fields<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|field| field.name)).finish()
    }
}

/// What a field's name means to a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `Host`
    Host,
    /// `Connection`
    Connection,
    /// `Content-Length`
    ContentLength,
    /// `Transfer-Encoding`
    TransferEncoding,
    /// `Expect`
    Expect,
    /// About one connection only, not to be passed on: `Keep-Alive`, `TE`, `Trailer`, `Upgrade`,
    /// `HTTP2-Settings` and everything that starts with `Proxy-`.
    HopByHop,
    /// Says where a request came from, which only the gateway may say: `Forwarded`, `X-Forwarded-*`, `X-Real-IP`,
    /// `X-Request-Id`, `traceparent`, `tracestate`.
    Forwarding,
    /// Makes some servers act on another target or method than the one that was checked: `X-Original-URL`,
    /// `X-Rewrite-URL`, `X-HTTP-Method-Override` and its aliases; or on another proxy: `Proxy` (httpoxy).
    Override,
    /// Has an underscore, which many servers read as a hyphen: an alias for a field that was removed.
    Underscored,
    /// Credentials and what describes the body: `Connection` cannot remove them, decisions were made on them.
    Protected,
    /// Anything else.
    Other,
}

/// The kind of a field name, whatever its case. Length and first letter rule out most names before any is compared.
pub(crate) fn kind(name: &str) -> Kind {
    let is = |other: &str| name.eq_ignore_ascii_case(other);
    let first = name.as_bytes().first().map_or(0, u8::to_ascii_lowercase);
    match (name.len(), first) {
        (2, b't') if is("te") => Kind::HopByHop,
        (4, b'h') if is("host") => Kind::Host,
        (5, b'p') if is("proxy") => Kind::Override,
        (6, b'e') if is("expect") => Kind::Expect,
        (6, b'c') if is("cookie") => Kind::Protected,
        (7, b't') if is("trailer") => Kind::HopByHop,
        (7, b'u') if is("upgrade") => Kind::HopByHop,
        (9, b'f') if is("forwarded") => Kind::Forwarding,
        (9, b'x') if is("x-real-ip") => Kind::Forwarding,
        (10, b'c') if is("connection") => Kind::Connection,
        (10, b'k') if is("keep-alive") => Kind::HopByHop,
        (10, b't') if is("tracestate") => Kind::Forwarding,
        (11, b't') if is("traceparent") => Kind::Forwarding,
        (12, b'c') if is("content-type") => Kind::Protected,
        (12, b'x') if is("x-request-id") => Kind::Forwarding,
        (13, b'a') if is("authorization") => Kind::Protected,
        (13, b'x') if is("x-rewrite-url") || is("x-http-method") => Kind::Override,
        (14, b'c') if is("content-length") => Kind::ContentLength,
        (14, b'h') if is("http2-settings") => Kind::HopByHop,
        (14, b'x') if is("x-original-url") => Kind::Override,
        (16, b'c') if is("content-encoding") => Kind::Protected,
        (17, b't') if is("transfer-encoding") => Kind::TransferEncoding,
        (17, b'x') if is("x-method-override") => Kind::Override,
        (22, b'x') if is("x-http-method-override") => Kind::Override,
        (_, b'x') if starts_with(name, b"x-forwarded-") => Kind::Forwarding,
        (_, b'p') if starts_with(name, b"proxy-") => Kind::HopByHop,
        _ if name.as_bytes().contains(&b'_') => Kind::Underscored,
        _ => Kind::Other,
    }
}

fn starts_with(name: &str, prefix: &[u8]) -> bool {
    name.as_bytes().get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// The members of a comma-separated list, without the white space around them and without empty ones
/// (RFC 9110 §5.6.1).
pub(crate) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}

/// The field names that `Connection` lists: they end at this hop.
#[derive(Default)]
pub(crate) struct Listed<'b> {
    names: [&'b [u8]; CONNECTION_OPTIONS_MAX],
    len: usize,
}

impl<'b> Listed<'b> {
    /// Collects them from a head that was parsed, so there are at most [`CONNECTION_OPTIONS_MAX`].
    #[inline]
    pub(crate) fn of(fields: &Fields<'_, 'b>) -> Self {
        let mut listed = Self::default();
        for name in fields.all("connection").flat_map(list) {
            if let Some(slot) = listed.names.get_mut(listed.len) {
                *slot = name;
                listed.len += 1;
            }
        }
        listed
    }

    /// Whether this field is one of them.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.names.iter().take(self.len).any(|each| each.eq_ignore_ascii_case(name.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::{Kind, kind, list};

    #[track_caller]
    fn check(name: &str, expected: Kind) {
        assert_eq!(kind(name), expected, "{name}");
        assert_eq!(kind(&name.to_ascii_uppercase()), expected, "{name} in upper case");
        // Same length, same first letter.
        if !name.starts_with("x-forwarded-") && !name.starts_with("proxy-") && !name.contains('_') {
            let other = format!("{}!", name.get(..name.len() - 1).unwrap());
            assert_eq!(kind(&other), Kind::Other, "{other}");
        }
    }

    #[test]
    fn names_have_kinds() {
        check("host", Kind::Host);
        check("connection", Kind::Connection);
        check("content-length", Kind::ContentLength);
        check("transfer-encoding", Kind::TransferEncoding);
        check("expect", Kind::Expect);
        for name in
            ["te", "trailer", "upgrade", "keep-alive", "http2-settings", "proxy-connection", "proxy-x"]
        {
            check(name, Kind::HopByHop);
        }
        for name in [
            "forwarded",
            "x-forwarded-for",
            "x-forwarded-anything",
            "x-real-ip",
            "x-request-id",
            "traceparent",
            "tracestate",
        ] {
            check(name, Kind::Forwarding);
        }
        for name in [
            "proxy",
            "x-original-url",
            "x-rewrite-url",
            "x-http-method-override",
            "x-http-method",
            "x-method-override",
        ] {
            check(name, Kind::Override);
        }
        for name in ["authorization", "cookie", "content-type", "content-encoding"] {
            check(name, Kind::Protected);
        }
        check("x_forwarded_for", Kind::Underscored);
        check("content_length", Kind::Underscored);
        for name in ["accept", "x-forwarded", "proxyx", "hosts", "x-real-ips", "via"] {
            check(name, Kind::Other);
        }
    }

    #[test]
    fn lists_have_members() {
        let members: Vec<_> = list(b" close,, X-A ,\t").collect();
        assert_eq!(members, [&b"close"[..], b"X-A"]);
    }
}
