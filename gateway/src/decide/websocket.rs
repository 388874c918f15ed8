//! Whether a request may become a WebSocket: the handshake and where its page comes from.
//!
//! Comes in: a route's policy and a request head. Goes out: the key to hold the server's answer against, nothing for
//! an ordinary request, or a refusal. It never looks at what passes behind the handshake.

use std::time::Duration;

use super::{Refusal, RoutePolicy, authn::Presented};
use crate::{
    codec::{RequestHead, WebSocketKey, asks_for_websocket, websocket_key},
    config,
};

/// A handshake that may go to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WebSocket {
    /// What the server's answer is held against.
    pub key: WebSocketKey,
    /// Silence in both directions that ends the tunnel.
    pub idle_timeout: Duration,
}

/// Where a route has no WebSockets, `Upgrade` is ignored, as RFC 9110 §7.8 allows.
pub(super) fn handshake(
    route: &RoutePolicy,
    head: &RequestHead<'_, '_>,
) -> Result<Option<WebSocket>, Refusal> {
    let Some(settings) = route.websocket.as_ref().filter(|_| asks_for_websocket(head)) else {
        return Ok(None);
    };
    let key = websocket_key(head).map_err(Refusal::BadHandshake)?;
    check_origin(settings, head)?;
    Ok(Some(WebSocket { key, idle_timeout: settings.idle_timeout }))
}

/// Browsers send cookies along with the handshake of any page, and no pre-flight request asks before it: only the
/// page's origin tells a foreign page from our own (RFC 6455 §10.2).
fn check_origin(settings: &config::WebSocket, head: &RequestHead<'_, '_>) -> Result<(), Refusal> {
    if settings.origins.is_empty() {
        return Ok(());
    }
    match Presented::of(head.headers.all("origin")) {
        Presented::One(origin)
            if settings.origins.iter().any(|each| origin.eq_ignore_ascii_case(each.as_bytes())) =>
        {
            Ok(())
        }
        _ => Err(Refusal::ForeignOrigin),
    }
}
