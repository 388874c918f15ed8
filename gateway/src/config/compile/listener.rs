//! `[listeners.*]`: where requests come in, and the one admin listener.

use std::{net::SocketAddr, num::NonZeroU64, path::Path, time::Duration};

use toml::Spanned;

use crate::config::{
    raw::{Field, RawListener, RawListenerLimits, RawListenerTimeouts},
    report::{
        Choice::{Later, Works},
        Report, Scope,
    },
    types::{
        Admin, AdminAddress, CONNECTIONS_PER_SOURCE_MAX, HEAD_SIZE_BYTES_MAX, Listener, ListenerLimits,
        ListenerTimeouts, Protocols,
    },
    values::{OrOff, Size},
};

use super::{edge::choose_or, listener_tls};

/// The header table of a worker is this long at most.
const HEADERS_MAX: u32 = 1024;
/// Requests at once on one connection: each costs a task and its window.
const STREAMS_MAX: u32 = 1000;

/// Bytes a second, where nothing is said.
const BODY_RATE_MIN: u64 = 500;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Http,
    Admin,
}

pub(super) fn listeners(
    report: &mut Report,
    raw: Vec<(Scope, RawListener)>,
) -> (Vec<Listener>, Option<Admin>) {
    let mut listeners: Vec<Listener> = Vec::new();
    let mut admin: Option<(Scope, Admin)> = None;
    for (at, mut raw) in raw {
        let kinds = [("http", Works(Kind::Http)), ("admin", Works(Kind::Admin))];
        if choose_or(report, &at, "kind", raw.kind.take(), &kinds, Kind::Http) == Kind::Admin {
            if let Some((first, _)) = &admin {
                let message =
                    format!("`{}` is a second admin listener: the first is `{}`", at.path, first.path);
                report.error(at.here(), message);
            }
            if let Some(this) = admin_listener(report, &at, raw) {
                admin.get_or_insert((at, this));
            }
            continue;
        }
        let address_place = raw.address.as_ref().map(|address| at.at(address));
        let Some(listener) = listener(report, &at, raw) else { continue };
        if let Some(other) = listeners.iter().find(|other| other.address == listener.address)
            && let Some(place) = address_place
        {
            let message = format!("`listeners.{}` listens on {} already", other.name, other.address);
            report.error(place, message);
        }
        listeners.push(listener);
    }
    (listeners, admin.map(|(_, admin)| admin))
}

fn listener(report: &mut Report, at: &Scope, raw: RawListener) -> Option<Listener> {
    report.later(at, &[("token_file", &raw.token_file)]);
    let protocols = protocols(report, at, raw.protocols);
    let proxy_protocol_from = report.prefixes(at, "proxy_protocol_from", raw.proxy_protocol_from);
    let trusted_proxies = report.prefixes(at, "trusted_proxies", raw.trusted_proxies);
    let tls = raw.tls.and_then(|tls| listener_tls::tls(report, at, tls, protocols));
    let timeouts = timeouts(report, at, raw.timeouts);
    let limits = limits(report, at, raw.limits);
    let Some(address) = raw.address else {
        report.missing(at, "address", "\"[::]:443\"");
        return None;
    };
    let Ok(parsed) = address.get_ref().parse::<SocketAddr>() else {
        let message = format!(
            "`{}.address` is {:?}, not an address and a port such as \"[::]:443\" or \"192.0.2.1:80\"",
            at.path,
            address.get_ref()
        );
        report.error(at.at(&address), message);
        return None;
    };
    Some(Listener {
        name: at.name().into(),
        address: parsed,
        proxy_protocol_from,
        trusted_proxies,
        protocols,
        tls,
        timeouts,
        limits,
    })
}

fn protocols(report: &mut Report, at: &Scope, list: Field<Vec<Spanned<String>>>) -> Protocols {
    let Some(list) = list else { return Protocols { http1: true, http2: true } };
    if list.get_ref().is_empty() {
        report.error(
            at.at(&list),
            format!("`{}.protocols` is empty: leave it out or list \"http/1.1\"", at.path),
        );
    }
    let words = [("http/1.1", Works(Word::Http1)), ("h2", Works(Word::Http2)), ("h3", Later)];
    let mut protocols = Protocols { http1: false, http2: false };
    for protocol in list.into_inner() {
        match report.choose(at, "protocols", &protocol, &words) {
            Some(Word::Http1) => protocols.http1 = true,
            Some(Word::Http2) => protocols.http2 = true,
            None => {}
        }
    }
    protocols
}

/// One of `protocols`.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Word {
    Http1,
    Http2,
}

fn timeouts(report: &mut Report, at: &Scope, raw: Field<RawListenerTimeouts>) -> ListenerTimeouts {
    let at = raw.as_ref().map_or_else(|| at.clone(), |table| at.inner("timeouts", table));
    let raw = raw.map(Spanned::into_inner).unwrap_or_default();
    let mut read = |key, value, default_s| report.duration(&at, key, value, Duration::from_secs(default_s));
    ListenerTimeouts {
        handshake: read("handshake", raw.handshake.as_ref(), 5),
        head: read("head", raw.head.as_ref(), 10),
        body_idle: read("body_idle", raw.body_idle.as_ref(), 15),
        keep_alive: read("keep_alive", raw.keep_alive.as_ref(), 60),
        request: read("request", raw.request.as_ref(), 60),
    }
}

fn limits(report: &mut Report, at: &Scope, raw: Field<RawListenerLimits>) -> ListenerLimits {
    let at = raw.as_ref().map_or_else(|| at.clone(), |table| at.inner("limits", table));
    let raw = raw.map(Spanned::into_inner).unwrap_or_default();
    let limits = ListenerLimits {
        streams: report.number_u32(&at, "streams", raw.streams.as_ref(), 100, 1..=STREAMS_MAX),
        connections_per_source: per_source(report, &at, raw.connections_per_source),
        head_size_bytes: bounded_size(report, &at, "head_size", raw.head_size.as_ref(), 32 << 10),
        headers: report.count(&at, "headers", raw.headers.as_ref(), 100, 1..=HEADERS_MAX),
        target_size_bytes: bounded_size(report, &at, "target_size", raw.target_size.as_ref(), 8 << 10),
        body_size_bytes: raw.body_size.as_ref().map_or(8 << 20, |size| size.get_ref().0),
        body_rate_min: match raw.body_rate_min.map(Spanned::into_inner) {
            Some(OrOff::Off) => None,
            Some(OrOff::On(rate)) => Some(rate.0),
            None => NonZeroU64::new(BODY_RATE_MIN),
        },
    };
    if limits.target_size_bytes > limits.head_size_bytes {
        let place =
            raw.target_size.as_ref().or(raw.head_size.as_ref()).map_or_else(|| at.here(), |v| at.at(v));
        report
            .error(place, format!("`{}.target_size` is larger than the head that holds the target", at.path));
    }
    limits
}

fn per_source(report: &mut Report, at: &Scope, value: Field<OrOff<u64>>) -> Option<u32> {
    let span = value.as_ref().map(Spanned::span).unwrap_or_default();
    let number = match value.map(Spanned::into_inner) {
        Some(OrOff::Off) => return None,
        Some(OrOff::On(number)) => Some(Spanned::new(span, number)),
        None => None,
    };
    let bounds = 1..=CONNECTIONS_PER_SOURCE_MAX;
    Some(report.number_u32(at, "connections_per_source", number.as_ref(), 512, bounds))
}

/// A size that a worker must be able to hold in memory at once.
fn bounded_size(
    report: &mut Report,
    at: &Scope,
    key: &str,
    value: Option<&Spanned<Size>>,
    default: u64,
) -> usize {
    let bytes = value.map_or(default, |size| size.get_ref().0);
    if let Some(value) = value
        && !(64..=HEAD_SIZE_BYTES_MAX).contains(&bytes)
    {
        report.error(
            at.at(value),
            format!("`{}.{key}` must be 64 B to {} KiB", at.path, HEAD_SIZE_BYTES_MAX >> 10),
        );
    }
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn admin_listener(report: &mut Report, at: &Scope, raw: RawListener) -> Option<Admin> {
    report.later(at, &[("token_file", &raw.token_file)]);
    for (key, place) in [
        ("protocols", raw.protocols.as_ref().map(|v| at.at(v))),
        ("proxy_protocol_from", raw.proxy_protocol_from.as_ref().map(|v| at.at(v))),
        ("trusted_proxies", raw.trusted_proxies.as_ref().map(|v| at.at(v))),
        ("tls", raw.tls.as_ref().filter(|v| matches!(v.get_ref(), OrOff::On(_))).map(|v| at.at(v))),
        ("timeouts", raw.timeouts.as_ref().map(|v| at.at(v))),
        ("limits", raw.limits.as_ref().map(|v| at.at(v))),
    ] {
        if let Some(place) = place {
            report.error(place, format!("`{}.{key}` is not supported yet on the admin listener", at.path));
        }
    }
    let Some(address) = raw.address else {
        report.missing(at, "address", "\"127.0.0.1:9901\"");
        return None;
    };
    match admin_address(address.get_ref()) {
        Ok(address) => Some(Admin { address }),
        Err(problem) => {
            report.error(
                at.at(&address),
                format!("`{}.address` is {:?}, {problem}", at.path, address.get_ref()),
            );
            None
        }
    }
}

fn admin_address(text: &str) -> Result<AdminAddress, &'static str> {
    if let Some(path) = text.strip_prefix("unix:") {
        let absolute = Path::new(path).is_absolute();
        return absolute
            .then(|| AdminAddress::Unix(path.into()))
            .ok_or("which needs an absolute path after `unix:`");
    }
    match text.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_loopback() => Ok(AdminAddress::Tcp(address)),
        Ok(_) => Err("which is not loopback: the admin listener has neither TLS nor tokens yet"),
        Err(_) => Err("not an address and a port such as \"127.0.0.1:9901\", or `unix:` and a path"),
    }
}
