//! Heads between HTTP/2's fields and HTTP/1.1's text (RFC 9113 §8.2, §8.3).
//!
//! Comes in: what h2 has read, or a head as HTTP/1.1. Goes out: the other. What HTTP/2 says in another way is said in
//! HTTP/1.1's (`:authority` is `Host`, the end of the stream is a length); the rest is for the HTTP/1.1 parser to
//! judge, which reads every head that comes out of here. It never lets a line break in: h2 and http have checked each
//! value, and each is looked at again.

use aws_lc_rs::rand;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{CONNECTION, CONTENT_LENGTH, COOKIE, HOST, SEC_WEBSOCKET_KEY, TE, TRANSFER_ENCODING, UPGRADE},
    request, response, uri,
};

use crate::codec::{Fields, RequestHead, ResponseHead, WebSocketKey, websocket};

/// Why a request has no HTTP/1.1 form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// `:authority` and `Host` differ (RFC 9113 §8.3.1).
    #[error("two hosts")]
    TwoHosts,
    /// A value begins or ends with white space, or holds a line break (RFC 9113 §8.2.1).
    #[error("a malformed field value")]
    FieldValue,
}

/// How a body comes that HTTP/2 ends by ending its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none, or its length is said.
    Plain,
    /// In chunks of our making, with the trailers behind them.
    Chunked,
}

/// Appends a request's head as HTTP/1.1. `is_whole`: no body follows.
///
/// # Errors
/// It has no such form.
pub fn push_request(out: &mut Vec<u8>, parts: &request::Parts, is_whole: bool) -> Result<Framing, TextError> {
    let websocket = asks_for_websocket(parts);
    let method = if websocket { "GET" } else { parts.method.as_str() };
    push(out, &[method, " "]);
    match parts.uri.path_and_query() {
        Some(target) if websocket || parts.method != Method::CONNECT => push(out, &[target.as_str()]),
        // Refused, as every CONNECT is, in its own form.
        _ => push(out, &[parts.uri.authority().map_or("*", uri::Authority::as_str)]),
    }
    push(out, &[" HTTP/1.1\r\n"]);
    let authority = parts.uri.authority().map(uri::Authority::as_str);
    let mut hosts = parts.headers.get_all(HOST).iter();
    match (authority, hosts.next()) {
        (Some(authority), None) => push(out, &["Host: ", authority, "\r\n"]),
        (Some(authority), Some(host)) if host.as_bytes().eq_ignore_ascii_case(authority.as_bytes()) => {
            push(out, &["Host: ", authority, "\r\n"]);
        }
        (Some(_), Some(_)) => return Err(TextError::TwoHosts),
        (None, Some(host)) => push_field(out, "Host", host.as_bytes())?,
        (None, None) => {}
    }
    if hosts.next().is_some() {
        return Err(TextError::TwoHosts);
    }
    if websocket {
        push_handshake(out);
    }
    let framing = push_fields(out, &parts.headers, is_whole || websocket)?;
    push(out, &["\r\n"]);
    Ok(framing)
}

/// Appends a response's head as HTTP/1.1. `is_whole`: no body follows; `is_bodiless`: nor could one, by method or
/// status.
///
/// # Errors
/// It has no such form.
pub fn push_response(
    out: &mut Vec<u8>,
    parts: &response::Parts,
    is_whole: bool,
    is_bodiless: bool,
) -> Result<Framing, TextError> {
    push(out, &["HTTP/1.1 ", parts.status.as_str(), " \r\n"]);
    let interim = parts.status.is_informational();
    let framing = push_fields(out, &parts.headers, is_whole || is_bodiless || interim)?;
    if is_whole && !is_bodiless && !interim && !parts.headers.contains_key(CONTENT_LENGTH) {
        push(out, &["Content-Length: 0\r\n"]);
    }
    push(out, &["\r\n"]);
    Ok(framing)
}

/// Appends a server's agreement to a WebSocket: what is a success of an extended CONNECT (RFC 8441 §5) is 101 with the
/// answer to the key that was asked with. What it says of a length means nothing (RFC 9110 §9.3.6).
///
/// # Errors
/// It has no such form.
pub fn push_switched(out: &mut Vec<u8>, parts: &response::Parts, key: WebSocketKey) -> Result<(), TextError> {
    push(out, &["HTTP/1.1 101 \r\n"]);
    for (name, value) in websocket::UPGRADE_FIELDS {
        push(out, &[name, ": ", value, "\r\n"]);
    }
    push_field(out, "Sec-WebSocket-Accept", &key.accept())?;
    for (name, value) in &parts.headers {
        if *name != CONTENT_LENGTH && !is_of_handshake(name) {
            push_field(out, name.as_str(), value.as_bytes())?;
        }
    }
    push(out, &["\r\n"]);
    Ok(())
}

/// Appends trailers as the end of a chunked body.
///
/// # Errors
/// They have no such form.
pub fn push_trailers(out: &mut Vec<u8>, trailers: &HeaderMap) -> Result<(), TextError> {
    push(out, &["0\r\n"]);
    for (name, value) in trailers {
        push_field(out, name.as_str(), value.as_bytes())?;
    }
    push(out, &["\r\n"]);
    Ok(())
}

fn push_fields(out: &mut Vec<u8>, fields: &HeaderMap, is_whole: bool) -> Result<Framing, TextError> {
    let mut has_length = false;
    for name in fields.keys() {
        // A key has no meaning here, and must not stand beside ours (RFC 8441 §5).
        if name == HOST || name == SEC_WEBSOCKET_KEY {
            continue;
        }
        let mut values = fields.get_all(name).iter();
        if name == COOKIE {
            push_cookies(out, values)?;
        } else if name == CONTENT_LENGTH {
            // h2 refuses lengths that differ; one says it all.
            has_length = true;
            if let Some(value) = values.next() {
                push_field(out, "Content-Length", value.as_bytes())?;
            }
        } else {
            for value in values {
                push_field(out, name.as_str(), value.as_bytes())?;
            }
        }
    }
    if is_whole || has_length {
        return Ok(Framing::Plain);
    }
    push(out, &["Transfer-Encoding: chunked\r\n"]);
    Ok(Framing::Chunked)
}

/// RFC 9113 §8.2.3: for HTTP/1.1, the crumbs are one field again.
fn push_cookies<'v>(
    out: &mut Vec<u8>,
    values: impl Iterator<Item = &'v HeaderValue>,
) -> Result<(), TextError> {
    let mut cookies = Vec::new();
    for value in values {
        if !cookies.is_empty() {
            cookies.extend_from_slice(b"; ");
        }
        cookies.extend_from_slice(value.as_bytes());
    }
    push_field(out, "Cookie", &cookies)
}

fn push_field(out: &mut Vec<u8>, name: &str, value: &[u8]) -> Result<(), TextError> {
    let spaced = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let broken = value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0));
    if broken || spaced(value.first()) || spaced(value.last()) {
        return Err(TextError::FieldValue);
    }
    push(out, &[name, ": "]);
    out.extend_from_slice(value);
    push(out, &["\r\n"]);
    Ok(())
}

/// An extended CONNECT for a WebSocket (RFC 8441 §4).
pub fn asks_for_websocket(parts: &request::Parts) -> bool {
    let protocol = parts.extensions.get::<h2::ext::Protocol>();
    parts.method == Method::CONNECT
        && protocol.is_some_and(|protocol| protocol.as_str().eq_ignore_ascii_case("websocket"))
}

/// What RFC 6455 asks for and RFC 8441 §5 leaves out: the server's answer is held against this key. The version is the
/// client's to say, as before.
fn push_handshake(out: &mut Vec<u8>) {
    let mut octets = [0; 16];
    // Without randomness any key will do: it guards caches that do not know WebSockets, and keeps no secret.
    let _ = rand::fill(&mut octets);
    for (name, value) in websocket::UPGRADE_FIELDS {
        push(out, &[name, ": ", value, "\r\n"]);
    }
    let key = STANDARD.encode(octets);
    push(out, &["Sec-WebSocket-Key: ", &key, "\r\n"]);
}

/// A request of ours for h2: `scheme` and `Host` go into its target. `as_websocket`: it is an extended CONNECT.
///
/// # Errors
/// Its target or a field has no form in HTTP/2.
pub fn request(
    head: &RequestHead<'_, '_>,
    scheme: &'static str,
    as_websocket: bool,
) -> Result<Request<()>, http::Error> {
    let mut target = String::with_capacity(head.path.len() + head.query.map_or(0, |query| query.len() + 1));
    target.push_str(&head.path);
    if let Some(query) = head.query {
        target.push('?');
        push_query(&mut target, query);
    }
    let uri = Uri::builder().scheme(scheme).authority(head.authority).path_and_query(target).build()?;
    let method = if as_websocket { Method::CONNECT } else { Method::from_bytes(head.method.as_bytes())? };
    let mut request = Request::builder().method(method).uri(uri).body(())?;
    push_values(request.headers_mut(), &head.headers, as_websocket)?;
    if as_websocket {
        request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
    } else {
        // We pass trailers on, and servers of gRPC want to hear it.
        request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
    }
    Ok(request)
}

/// Clients may leave bare in a query what h2 does not take: no URI holds these (RFC 3986 §3.4), and escaped they mean
/// the same.
fn push_query(target: &mut String, query: &str) {
    for character in query.chars() {
        match character {
            '"' => target.push_str("%22"),
            '<' => target.push_str("%3C"),
            '>' => target.push_str("%3E"),
            other => target.push(other),
        }
    }
}

/// A response for h2. 101 to an extended CONNECT is 200 (RFC 8441 §5).
///
/// # Errors
/// A field has no form in HTTP/2.
pub fn response(head: &ResponseHead<'_, '_>) -> Result<Response<()>, http::Error> {
    let is_switch = head.status == 101;
    let status = if is_switch { StatusCode::OK } else { StatusCode::from_u16(head.status)? };
    let mut response = Response::builder().status(status).body(())?;
    push_values(response.headers_mut(), &head.headers, is_switch)?;
    Ok(response)
}

/// Trailers for h2, from lines that each end in CRLF.
///
/// # Errors
/// A field has no form in HTTP/2.
pub fn trailers(lines: &[u8]) -> Result<HeaderMap, http::Error> {
    let mut map = HeaderMap::new();
    for line in lines.split(|&byte| byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if let Some(colon) = line.iter().position(|&byte| byte == b':') {
            let (name, value) = line.split_at_checked(colon).unwrap_or_default();
            let value = value.get(1..).unwrap_or_default().trim_ascii();
            map.append(HeaderName::from_bytes(name)?, HeaderValue::from_bytes(value)?);
        }
    }
    Ok(map)
}

/// All fields but those of an HTTP/1.1 connection (RFC 9113 §8.2.2), and but those of a handshake that HTTP/2 makes
/// in another way.
fn push_values(map: &mut HeaderMap, fields: &Fields<'_, '_>, of_handshake: bool) -> Result<(), http::Error> {
    map.reserve(fields.len());
    // One allocation for all values, of which each keeps a part alive.
    let bytes = fields.iter().map(|(_, value)| value.len()).sum();
    let mut all = Vec::with_capacity(bytes);
    fields.iter().for_each(|(_, value)| all.extend_from_slice(value));
    let mut all = Bytes::from(all);
    for (name, value) in fields.iter() {
        let value = all.split_to(value.len());
        let name = HeaderName::from_bytes(name.as_bytes())?;
        if is_of_connection(&name) || (of_handshake && is_of_handshake(&name)) {
            continue;
        }
        let mut value = HeaderValue::from_maybe_shared(value)?;
        // What no two messages share is no use in the peer's table, and would push out what is (RFC 7541 §7.1.3).
        value.set_sensitive(is_unique(&name));
        map.append(name, value);
    }
    Ok(())
}

fn is_of_connection(name: &HeaderName) -> bool {
    *name == CONNECTION
        || *name == TRANSFER_ENCODING
        || *name == UPGRADE
        || *name == HOST
        || *name == TE
        || *name == "keep-alive"
        || *name == "proxy-connection"
        || *name == "http2-settings"
}

fn is_unique(name: &HeaderName) -> bool {
    *name == "x-request-id" || *name == "traceparent"
}

fn is_of_handshake(name: &HeaderName) -> bool {
    *name == "sec-websocket-key" || *name == "sec-websocket-accept"
}

fn push(out: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
}

#[cfg(test)]
mod tests;
