//! `routes.NAME.websocket`: whose pages may open one, and how long it may be silent.

use std::{sync::Arc, time::Duration};

use toml::Spanned;

use crate::config::{
    raw::{Field, RawWebSocket},
    report::{Report, Scope},
    types::{Action, WebSocket},
    values::FlagOr,
};

/// Longer than the pings of common servers and clients are apart.
const IDLE_TIMEOUT: Duration = Duration::from_mins(5);

/// The settings of a route that does `action` with `methods`; none: it has no WebSockets.
pub(super) fn settings(
    report: &mut Report,
    at: &Scope,
    value: Field<FlagOr<RawWebSocket>>,
    action: Option<&Action>,
    methods: &[Arc<str>],
) -> Option<WebSocket> {
    let value = value?;
    let (inner, place) = (at.inner("websocket", &value), at.at(&value));
    let settings = match value.into_inner() {
        FlagOr::Flag(false) => return None,
        FlagOr::Flag(true) => WebSocket { origins: Vec::new(), idle_timeout: IDLE_TIMEOUT },
        FlagOr::More(raw) => WebSocket {
            origins: origins(report, &inner, raw.origins),
            idle_timeout: report.duration(&inner, "idle_timeout", raw.idle_timeout.as_ref(), IDLE_TIMEOUT),
        },
    };
    if action.is_some_and(|action| !matches!(action, Action::Upstream(_))) {
        report.error(place, format!("`{}` needs `upstream`: a fixed answer is no WebSocket", inner.path));
    } else if !methods.is_empty() && !methods.iter().any(|method| &**method == "GET") {
        report.error(place, format!("`{}` needs GET among `methods`: every handshake is one", inner.path));
    }
    Some(settings)
}

fn origins(report: &mut Report, at: &Scope, list: Field<Vec<Spanned<String>>>) -> Vec<Arc<str>> {
    let Some(list) = list else { return Vec::new() };
    if list.get_ref().is_empty() {
        let message = format!("`{}.origins` is empty: leave it out to let pages of any origin in", at.path);
        report.error(at.at(&list), message);
    }
    let origin = |text: Spanned<String>| {
        let origin = text.get_ref().to_ascii_lowercase();
        if is_origin(&origin) {
            return Some(origin.into());
        }
        let message = format!(
            "`{}.origins` holds {:?}, not an origin such as \"https://shop.example.com\"",
            at.path,
            text.get_ref()
        );
        report.error(at.at(&text), message);
        None
    };
    list.into_inner().into_iter().filter_map(origin).collect()
}

/// Scheme, host and perhaps a port, as a browser writes it (RFC 6454 §6.2).
fn is_origin(text: &str) -> bool {
    let Some((scheme, host)) = text.split_once("://") else { return false };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b':' | b'[' | b']');
    let in_scheme = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    !scheme.is_empty() && scheme.bytes().all(in_scheme) && !host.is_empty() && host.bytes().all(plain)
}
