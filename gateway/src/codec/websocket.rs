//! The WebSocket handshake (RFC 6455 §4.2): whether a request asks for one, whether it does so properly, and whether
//! the server's answer agrees.
//!
//! Comes in: heads that were read. Goes out: the client's key, or what is wrong. Behind the handshake it knows
//! nothing: frames pass as bytes. It never negotiates; protocols and extensions are between client and server.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{
    fields::{Fields, list},
    framing::BodyLength,
    head::{RequestHead, Version},
    response::ResponseHead,
};

/// The fields that ask a server for a switch; the client's own of these names end at this hop.
pub const UPGRADE_FIELDS: [(&str, &str); 2] = [("Connection", "Upgrade"), ("Upgrade", "websocket")];

/// The only version that there is (RFC 6455 §4.1).
pub const VERSION: &str = "13";

/// What the key is joined with before it is hashed (RFC 6455 §1.3).
const ACCEPT_SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// 16 octets in base64.
const KEY_BYTES: usize = 24;
/// The 20 octets of SHA-1 in base64.
const ACCEPT_BYTES: usize = 28;

/// What a client did wrong in its handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// Not a `GET` of HTTP/1.1 without a body.
    #[error("a handshake that is not a GET of HTTP/1.1 without a body")]
    Request,
    /// `Upgrade: websocket` without `Connection: upgrade`.
    #[error("a handshake without Connection: upgrade")]
    Connection,
    /// `Sec-WebSocket-Key` is missing, came twice, or is not 16 octets in base64.
    #[error("a malformed Sec-WebSocket-Key")]
    Key,
    /// `Sec-WebSocket-Version` is missing, came twice, or is not 13.
    #[error("an unknown Sec-WebSocket-Version")]
    Version,
    /// The client sent more before it knew whether the server agrees.
    #[error("bytes behind the handshake before its answer")]
    EarlyBytes,
}

/// A client's `Sec-WebSocket-Key`, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WebSocketKey([u8; KEY_BYTES]);

impl WebSocketKey {
    /// The `Sec-WebSocket-Accept` by which a server shows that it has read the key (RFC 6455 §4.2.2).
    pub fn accept(self) -> [u8; ACCEPT_BYTES] {
        let mut joined = [0; KEY_BYTES + ACCEPT_SUFFIX.len()];
        let (key, suffix) = joined.split_at_mut(KEY_BYTES);
        key.copy_from_slice(&self.0);
        suffix.copy_from_slice(ACCEPT_SUFFIX);
        let mut accept = [0; ACCEPT_BYTES];
        // 20 octets make 28 characters, so this does not fail; zeros would match no server's answer.
        let _ = STANDARD.encode_slice(digest(&SHA1_FOR_LEGACY_USE_ONLY, &joined), &mut accept);
        accept
    }
}

/// Whether a request asks for a WebSocket. What other protocols it names is ignored (RFC 9110 §7.8).
pub fn asks_for_websocket(head: &RequestHead<'_, '_>) -> bool {
    names_websocket(&head.headers)
}

/// The key of a request that [`asks_for_websocket`].
///
/// # Errors
/// The handshake is not as RFC 6455 §4.2.1 wants it.
pub fn websocket_key(head: &RequestHead<'_, '_>) -> Result<WebSocketKey, HandshakeError> {
    let bodiless = matches!(head.body, BodyLength::None | BodyLength::Exact(0));
    if head.method != "GET" || head.version == Version::Http10 || !bodiless {
        return Err(HandshakeError::Request);
    }
    if !connection_upgrades(&head.headers) {
        return Err(HandshakeError::Connection);
    }
    if only(&head.headers, "sec-websocket-version") != Some(VERSION.as_bytes()) {
        return Err(HandshakeError::Version);
    }
    let key = only(&head.headers, "sec-websocket-key").ok_or(HandshakeError::Key)?;
    let key: [u8; KEY_BYTES] = key.try_into().map_err(|_| HandshakeError::Key)?;
    // Decoding needs room for what the length alone allows: 18 octets.
    let mut octets = [0; 18];
    match STANDARD.decode_slice(key, &mut octets) {
        Ok(16) => Ok(WebSocketKey(key)),
        _ => Err(HandshakeError::Key),
    }
}

/// Whether a head of status 101 is the answer to this key (RFC 6455 §4.2.2): what passes behind it is no longer HTTP,
/// so a server that was not asked, or has not understood, must not open the tunnel.
pub fn agrees(head: &ResponseHead<'_, '_>, key: WebSocketKey) -> bool {
    let no_body = head.headers.get("transfer-encoding").is_none()
        && head.headers.all("content-length").all(|length| length == b"0");
    head.status == 101
        && head.version == Version::Http11
        && names_websocket(&head.headers)
        && connection_upgrades(&head.headers)
        && only(&head.headers, "sec-websocket-accept") == Some(&key.accept())
        && no_body
}

fn names_websocket(headers: &Fields<'_, '_>) -> bool {
    headers.all("upgrade").flat_map(list).any(|protocol| protocol.eq_ignore_ascii_case(b"websocket"))
}

fn connection_upgrades(headers: &Fields<'_, '_>) -> bool {
    headers.all("connection").flat_map(list).any(|option| option.eq_ignore_ascii_case(b"upgrade"))
}

/// The value of a field that stands once.
fn only<'b>(headers: &Fields<'_, 'b>, name: &str) -> Option<&'b [u8]> {
    let mut values = headers.all(name);
    values.next().filter(|_| values.next().is_none())
}

#[cfg(test)]
mod tests;
