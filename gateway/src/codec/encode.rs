//! Heads and chunks on their way out (RFC 9110 §7.6, RFC 9112 §3, §4, §7).
//!
//! Comes in: a head that was read and what is to change. Goes out: bytes appended to the caller's buffer. Both
//! directions are written anew: one framing field of ours, no field of the hop before, no field that only the gateway
//! may set. A control character in a value that we were given becomes a space (RFC 9110 §5.5), so no caller can split
//! a head. It never asks whether a request may pass.

use super::{
    fields::{Kind, Listed, kind},
    framing::{BodyLength, decimal},
    head::{RequestHead, Version},
    response::ResponseHead,
    trace::Trace,
    websocket::UPGRADE_FIELDS,
};

/// What is sent to a client that waits before it sends its body (RFC 9110 §10.1.1).
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// What follows the payload of a chunk.
pub const CHUNK_END: &[u8] = b"\r\n";

/// The longest [`chunk_head`]: 16 digits and CRLF.
pub const CHUNK_HEAD_BYTES_MAX: usize = 18;

const HEX_DIGITS: &[u8; 16] = b"0123456789abcdef";

/// How the gateway calls itself in `Via` (RFC 9110 §7.6.3).
const PSEUDONYM: &str = "portcullis";

/// What changes in a request before it goes upstream.
#[derive(Debug, Clone, Copy)]
pub struct RequestEdit<'a, N = &'a str> {
    /// The whole value of `X-Forwarded-For`.
    pub forwarded_for: &'a str,
    /// `X-Forwarded-Proto`: `http` or `https`.
    pub proto: &'a str,
    /// `X-Forwarded-Host`; empty: none.
    pub forwarded_host: &'a str,
    /// `X-Request-Id`
    pub request_id: &'a str,
    /// `traceparent`, and whether the client's `tracestate` goes with it.
    pub trace: Trace<'a>,
    /// The query: the client's, or what of it is passed on.
    pub query: Option<&'a str>,
    /// Names of fields that are not passed on, such as credentials and identity.
    pub remove: &'a [N],
    /// Fields that we add, such as identity; the client's own of these names are not passed on.
    pub set: &'a [(&'a str, &'a str)],
    /// What the route changes.
    pub rewrite: Rewrite<'a>,
    /// How the body is framed to the upstream; [`BodyLength::UntilClose`] counts as chunked.
    pub body: BodyLength,
}

/// What a route sends instead of what came.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rewrite<'a> {
    /// Its canonical path.
    pub path: Option<&'a str>,
    /// Its `Host`; [`RequestEdit::forwarded_host`] still says what the client asked for.
    pub host: Option<&'a str>,
    /// More fields, made by [`push_field_line`]; the client's own of these names are in `remove`, where they are to
    /// give way.
    pub lines: &'a [u8],
}

/// What changes in a response before it goes to the client.
#[derive(Debug, Clone, Copy)]
pub struct ResponseEdit<'a> {
    /// The client's connection stays open after this response.
    pub keep_alive: bool,
    /// What the client speaks.
    pub client_version: Version,
    /// `X-Request-Id`
    pub request_id: &'a str,
    /// `Date`, for a response that came without one (RFC 9110 §6.6.1).
    pub date: &'a str,
    /// Names of fields that are not passed on.
    pub remove: &'a [std::sync::Arc<str>],
    /// Fields that the route adds, made by [`push_field_line`]. They go with the final response only.
    pub lines: &'a [u8],
    /// The coding of its body.
    pub recode: Recode,
    /// How the body is framed to the client: [`client_framing`]. [`BodyLength::None`] means that none follows by
    /// method or status; a length that the upstream declared for it is then passed on.
    pub body: BodyLength,
}

/// What a content coding of ours changes in a response's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recode {
    /// The coding's name: the body is sent in it, so its length is not known beforehand.
    pub coding: Option<&'static str>,
    /// A strong `ETag` becomes weak: what is sent is not the same octets (RFC 9110 §8.8.1).
    pub weaken: bool,
    /// `Vary: Accept-Encoding`: another client would have been told something else.
    pub vary: bool,
}

/// What a response of our own has to know of the exchange that it ends.
#[derive(Debug, Clone, Copy)]
pub struct Telling<'a> {
    /// `Date` (RFC 9110 §6.6.1), see [`HttpDate`](super::HttpDate).
    pub date: &'a str,
    /// The client's connection stays open after this response.
    pub keep_alive: bool,
    /// What the client speaks.
    pub client_version: Version,
    /// It answers `HEAD`: the length is said and the body left out.
    pub for_head: bool,
    /// Fields that the route adds to every answer, made by [`push_field_line`].
    pub lines: &'a [u8],
}

/// Appends the request head for the upstream: HTTP/1.1, origin-form, `Host` first.
///
/// Removed are: fields about one connection and those that `Connection` names (but never `Host`, credentials and what
/// describes the body), fields that say where the request came from, fields that override target or method, every
/// name with an underscore (`X_Forwarded_For` is `X-Forwarded-For` to many servers), `Expect`, `edit.remove`.
pub fn upstream_request<N: AsRef<str>>(
    out: &mut Vec<u8>,
    head: &RequestHead<'_, '_>,
    edit: &RequestEdit<'_, N>,
) {
    push(out, &[head.method, " ", edit.rewrite.path.unwrap_or(&head.path)]);
    if let Some(query) = edit.query {
        push(out, &["?", query]);
    }
    push(out, &[" HTTP/1.1\r\nHost: ", edit.rewrite.host.unwrap_or(head.authority), "\r\n"]);
    let listed = Listed::of(&head.headers);
    let forwards = max_forwards(head);
    for (name, value) in head.headers.iter() {
        let passes = match kind(name) {
            Kind::Other => !listed.contains(name),
            Kind::Protected => true,
            _ => false,
        };
        let is_counted = forwards.is_some() && name.eq_ignore_ascii_case("max-forwards");
        if passes && !is_counted && !is_edited(name, edit) {
            push_field(out, name, value);
        }
    }
    if let Some(forwards) = forwards {
        push(out, &["Max-Forwards: "]);
        push_decimal(out, forwards.saturating_sub(1));
        push(out, &["\r\n"]);
    }
    push_own_field(out, "X-Forwarded-For", edit.forwarded_for);
    push_own_field(out, "X-Forwarded-Proto", edit.proto);
    if !edit.forwarded_host.is_empty() {
        push_own_field(out, "X-Forwarded-Host", edit.forwarded_host);
    }
    push_own_field(out, "X-Request-Id", edit.request_id);
    push_trace(out, edit.trace, head);
    push_via(out, head.version);
    for (name, value) in edit.set {
        push_own_field(out, name, value);
    }
    out.extend_from_slice(edit.rewrite.lines);
    match edit.body {
        BodyLength::None => {}
        BodyLength::Exact(bytes) => push_content_length(out, bytes),
        BodyLength::Chunked | BodyLength::UntilClose => push(out, &["Transfer-Encoding: chunked\r\n"]),
    }
    push(out, &["\r\n"]);
}

/// The client's trace as it came, or one that begins here: version 00, not sampled (W3C Trace Context §3).
fn push_trace(out: &mut Vec<u8>, trace: Trace<'_>, head: &RequestHead<'_, '_>) {
    match trace {
        Trace::Client(parent) => {
            push(out, &["traceparent: ", parent.as_str(), "\r\n"]);
            for state in head.headers.all("tracestate") {
                push_field(out, "tracestate", state);
            }
        }
        Trace::Own { trace_id, parent_id } => {
            push(out, &["traceparent: 00-", trace_id, "-"]);
            push_hex(out, parent_id, u64::BITS / 4);
            push(out, &["-00\r\n"]);
        }
    }
}

/// How often an `OPTIONS` may still be forwarded (RFC 9110 §7.6.2): at 0 it is the gateway that is asked. Nothing for
/// other methods, and for a value that is no number.
pub fn max_forwards(head: &RequestHead<'_, '_>) -> Option<u64> {
    (head.method == "OPTIONS").then(|| head.headers.get("max-forwards").and_then(decimal)).flatten()
}

/// How a body of the upstream is framed to a client: HTTP/1.0 knows no chunks and reads until we close.
pub fn client_framing(upstream: BodyLength, client_version: Version) -> BodyLength {
    match (upstream, client_version) {
        (BodyLength::None | BodyLength::Exact(_), _) => upstream,
        (BodyLength::Chunked | BodyLength::UntilClose, Version::Http10) => BodyLength::UntilClose,
        (BodyLength::Chunked | BodyLength::UntilClose, _) => BodyLength::Chunked,
    }
}

/// Appends the response head for the client: fields about the upstream's connection and those that `Connection`
/// names are removed, `Via`, `X-Request-Id` and framing are ours. Says `Connection: close` when the connection is
/// not kept, also because the body ends with it. An interim head has no framing, and none may go to HTTP/1.0; 101 is
/// that of a WebSocket.
pub fn client_response(out: &mut Vec<u8>, head: &ResponseHead<'_, '_>, edit: &ResponseEdit<'_>) {
    push_status_line(out, head.status, head.reason);
    let listed = Listed::of(&head.headers);
    let bodiless = edit.body == BodyLength::None && !head.is_interim() && head.status != 204;
    for (name, value) in head.headers.iter() {
        let passes = match kind(name) {
            // HEAD and 304: the length that a body would have had.
            Kind::ContentLength => bodiless,
            Kind::Host | Kind::Connection | Kind::TransferEncoding | Kind::HopByHop => false,
            Kind::Forwarding => !name.eq_ignore_ascii_case("x-request-id") && !listed.contains(name),
            Kind::Protected => true,
            Kind::Expect | Kind::Override | Kind::Underscored | Kind::Other => !listed.contains(name),
        };
        if !passes || edit.remove.iter().any(|each| each.eq_ignore_ascii_case(name)) {
            continue;
        }
        if edit.recode.weaken && name.eq_ignore_ascii_case("etag") && value.starts_with(b"\"") {
            push(out, &[name, ": W/"]);
            out.extend_from_slice(value);
            push(out, &["\r\n"]);
        } else if edit.recode.coding.is_none() || !is_of_plain_body(name) {
            push_field(out, name, value);
        }
    }
    push_via(out, head.version);
    push_own_field(out, "X-Request-Id", edit.request_id);
    if head.status == 101 {
        for (name, value) in UPGRADE_FIELDS {
            push_own_field(out, name, value);
        }
    }
    if !head.is_interim() {
        out.extend_from_slice(edit.lines);
        push_recoding(out, edit.recode);
        if head.headers.get("date").is_none() {
            push_own_field(out, "Date", edit.date);
        }
        push_framing(out, edit);
    }
    push(out, &["\r\n"]);
}

/// What is true of the octets that the upstream sent, and not of those that we do.
fn is_of_plain_body(name: &str) -> bool {
    name.eq_ignore_ascii_case("content-length") || name.eq_ignore_ascii_case("accept-ranges")
}

fn push_recoding(out: &mut Vec<u8>, recode: Recode) {
    if let Some(coding) = recode.coding {
        push_own_field(out, "Content-Encoding", coding);
    }
    if recode.vary {
        push_own_field(out, "Vary", "Accept-Encoding");
    }
}

/// The framing fields of a final response, and what becomes of the connection (RFC 9112 §6, §9.3).
fn push_framing(out: &mut Vec<u8>, edit: &ResponseEdit<'_>) {
    let closes = match (edit.body, edit.client_version) {
        (BodyLength::None, _) => !edit.keep_alive,
        (BodyLength::Exact(bytes), _) => {
            push_content_length(out, bytes);
            !edit.keep_alive
        }
        (BodyLength::Chunked, Version::Http11 | Version::Http2) => {
            push(out, &["Transfer-Encoding: chunked\r\n"]);
            !edit.keep_alive
        }
        (BodyLength::Chunked, Version::Http10) | (BodyLength::UntilClose, _) => true,
    };
    push_connection(out, !closes, edit.client_version);
}

/// What is not the client's version's own habit.
fn push_connection(out: &mut Vec<u8>, keep_alive: bool, client_version: Version) {
    match (keep_alive, client_version) {
        (false, _) => push(out, &["Connection: close\r\n"]),
        (true, Version::Http10) => push(out, &["Connection: keep-alive\r\n"]),
        (true, Version::Http11 | Version::Http2) => {}
    }
}

/// Appends a whole response of our own. An HTTP/1.0 client is told that its connection stays (RFC 9112 §9.3).
pub fn simple_response(
    out: &mut Vec<u8>,
    status: u16,
    reason: &str,
    fields: &[(&str, &str)],
    body: &[u8],
    telling: &Telling<'_>,
) {
    push_status_line(out, status, reason);
    push_own_field(out, "Date", telling.date);
    for (name, value) in fields {
        push_own_field(out, name, value);
    }
    out.extend_from_slice(telling.lines);
    // RFC 9110 §8.6: neither has a body, and 204 must not say that it has none.
    let bodiless = matches!(status, 204 | 304);
    if !bodiless {
        push_content_length(out, body.len() as u64);
    }
    push_connection(out, telling.keep_alive, telling.client_version);
    push(out, &["\r\n"]);
    if !bodiless && !telling.for_head {
        out.extend_from_slice(body);
    }
}

/// Appends what goes before a chunk's payload of `len` bytes; [`CHUNK_END`] goes behind it. `len` must not be zero,
/// which would end the body: skip empty pieces.
pub fn chunk_head(out: &mut Vec<u8>, len: usize) {
    debug_assert!(len > 0, "an empty chunk ends the body");
    push_hex(out, len as u64, (usize::BITS - len.leading_zeros()).div_ceil(4));
    out.extend_from_slice(b"\r\n");
}

/// The last `digits` of a number.
fn push_hex(out: &mut Vec<u8>, value: u64, digits: u32) {
    out.extend((0..digits).rev().filter_map(|digit| HEX_DIGITS.get((value >> (4 * digit) & 0xf) as usize)));
}

/// Appends the end of a chunked body with the trailers of [`BodyDecoder::trailers`](super::BodyDecoder::trailers).
pub fn last_chunk(out: &mut Vec<u8>, trailers: &[u8]) {
    last_chunk_without::<&str>(out, trailers, &[]);
}

/// The same without the trailers of these names: some servers merge trailers into the fields of the head, so what was
/// removed there must not come in here (attacks, rows 14 and 44).
pub fn last_chunk_without<N: AsRef<str>>(out: &mut Vec<u8>, trailers: &[u8], remove: &[N]) {
    out.extend_from_slice(b"0\r\n");
    for line in trailers.split_inclusive(|&byte| byte == b'\n') {
        let name = line.split(|&byte| byte == b':').next().unwrap_or_default();
        if !remove.iter().any(|each| each.as_ref().as_bytes().eq_ignore_ascii_case(name)) {
            out.extend_from_slice(line);
        }
    }
    out.extend_from_slice(b"\r\n");
}

fn is_edited<N: AsRef<str>>(name: &str, edit: &RequestEdit<'_, N>) -> bool {
    let mut edited = edit.remove.iter().map(AsRef::as_ref).chain(edit.set.iter().map(|(name, _)| *name));
    edited.any(|each| each.eq_ignore_ascii_case(name))
}

fn push(out: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
}

/// A field that was read, so its value is clean.
fn push_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    push(out, &[name, ": "]);
    out.extend_from_slice(value);
    push(out, &["\r\n"]);
}

/// A field whose value comes from us, from a claim or from a configuration.
fn push_own_field(out: &mut Vec<u8>, name: &str, value: &str) {
    push_field_line(out, name, |out| push(out, &[value]));
}

/// Appends a field line whose value is what `write` appends, with its control characters made spaces: whatever that
/// is, it stays one field. `name` is a token.
pub fn push_field_line(out: &mut Vec<u8>, name: &str, write: impl FnOnce(&mut Vec<u8>)) {
    push(out, &[name, ": "]);
    let start = out.len();
    write(out);
    for byte in out.iter_mut().skip(start) {
        if byte.is_ascii_control() && *byte != b'\t' {
            *byte = b' ';
        }
    }
    push(out, &["\r\n"]);
}

/// The version in it is that of the message that was received.
fn push_via(out: &mut Vec<u8>, received: Version) {
    let version = match received {
        Version::Http10 => "1.0 ",
        Version::Http11 => "1.1 ",
        Version::Http2 => "2.0 ",
    };
    push(out, &["Via: ", version, PSEUDONYM, "\r\n"]);
}

fn push_status_line(out: &mut Vec<u8>, status: u16, reason: &str) {
    push(out, &["HTTP/1.1 "]);
    push_decimal(out, u64::from(status));
    push(out, &[" ", reason, "\r\n"]);
}

fn push_content_length(out: &mut Vec<u8>, bytes: u64) {
    push(out, &["Content-Length: "]);
    push_decimal(out, bytes);
    push(out, &["\r\n"]);
}

fn push_decimal(out: &mut Vec<u8>, value: u64) {
    let start = out.len();
    let mut left = value;
    loop {
        // The remainder is one digit.
        out.push(b'0' + u8::try_from(left % 10).unwrap_or_default());
        left /= 10;
        if left == 0 {
            break;
        }
    }
    if let Some(digits) = out.get_mut(start..) {
        digits.reverse();
    }
}

#[cfg(test)]
mod tests;
