//! A request head: bytes → [`RequestHead`] (RFC 9112 §2 to §6, §9.3; RFC 9110 §7.2, §10.1.1).
//!
//! Comes in: what the client has sent so far. Goes out: nothing yet, a head that every peer must read alike, or what
//! the client did wrong. httparse finds the tokens; what it forgives (bare LF, empty lines without end) is refused
//! here. It never repairs a head and never looks behind its last byte.

use std::{borrow::Cow, fmt};

use super::{
    fields::{Fields, HEADERS_MAX, HeaderSlots, Kind, kind},
    framing::{BodyLength, Framing, FramingError, raw_value},
    path::PathError,
    target::{check_authority, target},
};

/// Empty lines that may stand before a request line (RFC 9112 §2.2 wants one at least).
const EMPTY_LINES_MAX: usize = 4;

/// The protocol version of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
    /// HTTP/2, whose heads reach the codec as text of HTTP/1.1.
    Http2,
}

impl Version {
    /// As RFC 9110 §2.5 and §7.6.3 have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2.0",
        }
    }
}

/// How large a head may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLimits {
    /// All of it, from the first byte to the empty line.
    pub head_bytes_max: usize,
    /// Its fields; above [`HEADERS_MAX`] it means [`HEADERS_MAX`].
    pub headers_max: usize,
    /// The request target.
    pub target_bytes_max: usize,
}

/// What the client did wrong. Nothing of such a request goes anywhere, and its connection cannot be used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The method is not a token.
    #[error("a malformed method")]
    MalformedMethod,
    /// The target has none of the four forms, or holds a `#`, a control character or a byte above 0x7f.
    #[error("a malformed request target")]
    MalformedTarget,
    /// The path has no canonical form.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The request line does not end in `HTTP/` and two digits with a dot.
    #[error("a malformed protocol version")]
    MalformedVersion,
    /// A version that is neither 1.0 nor 1.1.
    #[error("an unsupported protocol version")]
    UnsupportedVersion,
    /// `CONNECT`, in any case: this is no tunnel.
    #[error("CONNECT")]
    Connect,
    /// `TRACE`, in any case: it would show a client what the gateway adds.
    #[error("TRACE")]
    Trace,
    /// A line that does not end in CRLF and nothing else: a bare LF, a bare CR, more after the version.
    #[error("a line that does not end in CRLF")]
    LineEnd,
    /// More empty lines before the request line than are skipped.
    #[error("too many empty lines")]
    TooManyEmptyLines,
    /// A field name that is not a token followed by its colon: a space before it, a folded line.
    #[error("a malformed field name")]
    FieldName,
    /// A control character in a field value.
    #[error("a malformed field value")]
    FieldValue,
    /// The target is longer than `target_bytes_max`.
    #[error("a request target that is too long")]
    TargetTooLong,
    /// The head is longer than `head_bytes_max`.
    #[error("a head that is too large")]
    HeadTooLarge,
    /// There are more fields than `headers_max`.
    #[error("too many header fields")]
    TooManyFields,
    /// HTTP/1.1 without `Host`.
    #[error("no Host")]
    MissingHost,
    /// More than one `Host`, equal or not.
    #[error("more than one Host")]
    RepeatedHost,
    /// `Host`, or the authority of an absolute-form, is not a host with an optional port.
    #[error("a malformed host")]
    MalformedHost,
    /// `user:password@` before the host.
    #[error("userinfo in the authority")]
    UserinfoInAuthority,
    /// `Expect` is not `100-continue`, or came twice.
    #[error("an unknown expectation")]
    UnknownExpectation,
    /// Where the request ends cannot be said.
    #[error(transparent)]
    Framing(#[from] FramingError),
}

/// A request head that has one meaning.
pub struct RequestHead<'h, 'b> {
    /// A token, in the case in which it came; never `CONNECT` or `TRACE`.
    pub method: &'b str,
    /// The canonical path, or `*`: what is routed, checked and sent.
    pub path: Cow<'b, str>,
    /// What follows the first `?`, as it came: visible ASCII without `#`.
    pub query: Option<&'b str>,
    /// Host and optional port: the absolute-form's, else `Host`'s. Empty only in HTTP/1.0 without `Host`.
    pub authority: &'b str,
    /// What the client speaks.
    pub version: Version,
    /// All fields as they came.
    pub headers: Fields<'h, 'b>,
    /// Never [`BodyLength::UntilClose`].
    pub body: BodyLength,
    /// The client waits for [`CONTINUE`](super::CONTINUE) before it sends its body.
    pub expect_continue: bool,
    /// The client means to send another request on this connection.
    pub keep_alive: bool,
    /// Bytes up to the first one of the body, empty lines before the request line included.
    pub head_bytes: usize,
}

/// Without query and values: they hold credentials.
impl fmt::Debug for RequestHead<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestHead")
            .field("method", &self.method)
            .field("path", &self.path)
            .field("authority", &self.authority)
            .field("version", &self.version)
            .field("headers", &self.headers)
            .field("body", &self.body)
            .field("expect_continue", &self.expect_continue)
            .field("keep_alive", &self.keep_alive)
            .field("head_bytes", &self.head_bytes)
            .finish_non_exhaustive()
    }
}

/// Reads the request head that `bytes` start with. `Ok(None)`: it has not ended, read more and call again with all
/// of it. The result does not depend on how the bytes arrived.
pub fn request_head<'h, 'b>(
    bytes: &'b [u8],
    slots: &'h mut HeaderSlots<'b>,
    limits: &HeadLimits,
) -> Result<Option<RequestHead<'h, 'b>>, RequestError> {
    let within = bytes.get(..limits.head_bytes_max).unwrap_or(bytes);
    let incomplete =
        if bytes.len() < limits.head_bytes_max { Ok(None) } else { Err(RequestError::HeadTooLarge) };
    let Some((empty_bytes, message)) = skip_empty_lines(within)? else { return incomplete };

    let slots = slots.0.get_mut(..limits.headers_max.min(HEADERS_MAX)).unwrap_or_default();
    let mut request = httparse::Request::new(&mut []);
    let parsed =
        httparse::ParserConfig::default().parse_request_with_uninit_headers(&mut request, message, slots);
    if target_bytes(&request, message) > limits.target_bytes_max {
        return Err(RequestError::TargetTooLong);
    }
    let message_bytes = match parsed {
        Ok(httparse::Status::Complete(message_bytes)) => message_bytes,
        Ok(httparse::Status::Partial) => return incomplete,
        Err(httparse::Error::Version) => return version_error(message).map_or(incomplete, Err),
        Err(error) => return Err(syntax_error(error, &request)),
    };
    let message = message.get(..message_bytes).unwrap_or(message);
    if has_bare_line_feed(message) {
        return Err(RequestError::LineEnd);
    }
    // httparse has set all three when it says that the head is complete.
    let (Some(method), Some(text), Some(minor)) = (request.method, request.path, request.version) else {
        return Err(RequestError::MalformedTarget);
    };
    let version = if minor == 0 { Version::Http10 } else { Version::Http11 };
    head(method, text, version, Fields(request.headers), message, empty_bytes).map(Some)
}

/// Whether [`request_head`] is worth another try, which found no end in the first `tried_bytes`: a line has ended
/// behind `seen_bytes`, or there is twice as much (what is no head at all need not wait for its line's end), or as
/// much as there may be. To try at every byte that comes would cost the square of the head's length.
pub fn is_worth_a_try(bytes: &[u8], seen_bytes: usize, tried_bytes: usize, head_bytes_max: usize) -> bool {
    bytes.get(seen_bytes..).unwrap_or_default().contains(&b'\n')
        || bytes.len() / 2 >= tried_bytes
        || bytes.len() >= head_bytes_max
}

/// What the tokens mean together.
fn head<'h, 'b>(
    method: &'b str,
    text: &'b str,
    version: Version,
    headers: Fields<'h, 'b>,
    message: &'b [u8],
    empty_bytes: usize,
) -> Result<RequestHead<'h, 'b>, RequestError> {
    if method.eq_ignore_ascii_case("CONNECT") {
        return Err(RequestError::Connect);
    }
    if method.eq_ignore_ascii_case("TRACE") {
        return Err(RequestError::Trace);
    }
    let mut framing = Framing::default();
    let mut host = None;
    let mut expects = false;
    for (name, value) in headers.iter() {
        match kind(name) {
            Kind::Host if host.is_some() => return Err(RequestError::RepeatedHost),
            Kind::Host => host = Some(host_value(value)?),
            Kind::Connection => framing.connection(value)?,
            Kind::ContentLength => framing.content_length(value)?,
            Kind::TransferEncoding => framing.transfer_encoding(raw_value(message, name))?,
            Kind::Expect if expects || !value.eq_ignore_ascii_case(b"100-continue") => {
                return Err(RequestError::UnknownExpectation);
            }
            Kind::Expect => expects = true,
            _ => {}
        }
    }
    let body = framing.body(version)?;
    let target = target(method, text)?;
    // RFC 9112 §3.2: Host is missing only where it was not yet invented.
    if host.is_none() && version == Version::Http11 {
        return Err(RequestError::MissingHost);
    }
    Ok(RequestHead {
        method,
        path: target.path,
        query: target.query,
        authority: target.authority.or(host).unwrap_or_default(),
        version,
        headers,
        body,
        // RFC 9110 §10.1.1: nothing to wait for without a body, nothing to say to HTTP/1.0.
        expect_continue: expects
            && version != Version::Http10
            && !matches!(body, BodyLength::None | BodyLength::Exact(0)),
        keep_alive: framing.keep_alive(version) && !may_have_unframed_body(method, version, body),
        head_bytes: empty_bytes + message.len(),
    })
}

/// An HTTP/1.0 client that declares no length may send a body all the same and end it by closing: what follows the
/// head must not be taken for the next request (CVE-2026-2835).
fn may_have_unframed_body(method: &str, version: Version, body: BodyLength) -> bool {
    version == Version::Http10 && body == BodyLength::None && !matches!(method, "GET" | "HEAD" | "OPTIONS")
}

fn host_value(value: &[u8]) -> Result<&str, RequestError> {
    let host = str::from_utf8(value).map_err(|_| RequestError::MalformedHost)?;
    check_authority(host)?;
    Ok(host)
}

/// Splits off the empty lines that a robust server skips (RFC 9112 §2.2): how many bytes, and the rest. `None`: the
/// request line has not begun.
fn skip_empty_lines(bytes: &[u8]) -> Result<Option<(usize, &[u8])>, RequestError> {
    let mut rest = bytes;
    for _ in 0..=EMPTY_LINES_MAX {
        match rest {
            [] | [b'\r'] => return Ok(None),
            [b'\r', b'\n', after @ ..] => rest = after,
            [b'\r' | b'\n', ..] => return Err(RequestError::LineEnd),
            _ => return Ok(Some((bytes.len() - rest.len(), rest))),
        }
    }
    Err(RequestError::TooManyEmptyLines)
}

/// Whether a line ends in LF alone, which httparse takes and others do not (RFC 9112 §2.2). Without a branch in the
/// loop, so that it is done for many bytes at once.
pub(crate) fn has_bare_line_feed(message: &[u8]) -> bool {
    let pairs = message.iter().zip(message.iter().skip(1));
    pairs.fold(0, |bare, (&before, &byte)| bare | (u8::from(byte == b'\n') & u8::from(before != b'\r'))) != 0
}

/// Bytes of the target as far as it has come.
fn target_bytes(request: &httparse::Request<'_, '_>, message: &[u8]) -> usize {
    match (request.method, request.path) {
        (_, Some(target)) => target.len(),
        (Some(method), None) => {
            message.iter().skip(method.len() + 1).take_while(|&&byte| byte > b' ' && byte != 0x7f).count()
        }
        (None, None) => 0,
    }
}

/// Which versions are unknown and which are no versions; `None` until their line has ended.
fn version_error(message: &[u8]) -> Option<RequestError> {
    let line = message.split(|&byte| byte == b'\n').next().filter(|line| line.len() < message.len())?;
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    match line.splitn(3, |&byte| byte == b' ').nth(2) {
        Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor])
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Some(RequestError::UnsupportedVersion)
        }
        _ => Some(RequestError::MalformedVersion),
    }
}

fn syntax_error(error: httparse::Error, request: &httparse::Request<'_, '_>) -> RequestError {
    match error {
        httparse::Error::HeaderName => RequestError::FieldName,
        httparse::Error::HeaderValue => RequestError::FieldValue,
        httparse::Error::TooManyHeaders => RequestError::TooManyFields,
        httparse::Error::NewLine => RequestError::LineEnd,
        httparse::Error::Version => RequestError::MalformedVersion,
        httparse::Error::Token | httparse::Error::Status if request.method.is_none() => {
            RequestError::MalformedMethod
        }
        httparse::Error::Token | httparse::Error::Status => RequestError::MalformedTarget,
    }
}

#[cfg(test)]
mod tests;
