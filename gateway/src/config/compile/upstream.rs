//! `[upstreams.*]`: where requests go.

use std::time::Duration;

use toml::Spanned;

use crate::config::{
    raw::{Field, RawHealth, RawRetry, RawUpstream},
    report::{
        Choice::{self, Later, Works},
        Report, Scope,
    },
    types::{Balance, Health, ProxyProtocol, Retry, Upstream, UpstreamProtocol},
    values::{Later as LaterValue, OrOff, Span, TextOr},
};

use super::{
    edge::choose_or,
    servers,
    upstream_tls::{self, Authorities},
};

/// What `retry.budget` is when nobody says otherwise.
const RETRY_BUDGET_PERCENT: u32 = 20;

/// What `proxy_protocol` may be.
const PROXY_PROTOCOLS: [(&str, Choice<Option<ProxyProtocol>>); 3] =
    [("off", Works(None)), ("v1", Works(Some(ProxyProtocol::V1))), ("v2", Works(Some(ProxyProtocol::V2)))];

pub(super) fn upstreams(report: &mut Report, raw: Vec<(Scope, RawUpstream)>) -> Vec<Upstream> {
    let authorities = Authorities::default();
    raw.into_iter().map(|(at, raw)| upstream(report, &at, raw, &authorities)).collect()
}

fn upstream(report: &mut Report, at: &Scope, raw: RawUpstream, authorities: &Authorities) -> Upstream {
    let later = [("outlier", &raw.outlier), ("breaker", &raw.breaker), ("slow_start", &raw.slow_start)];
    report.later(at, &later);
    let protocols = [("http/1.1", Works(UpstreamProtocol::Http1)), ("h2", Works(UpstreamProtocol::Http2))];
    let protocol = choose_or(report, at, "protocol", raw.protocol, &protocols, UpstreamProtocol::Http1);
    if protocol == UpstreamProtocol::Http2
        && let Some(word) = raw.proxy_protocol.as_ref().filter(|word| word.get_ref() != "off")
    {
        let message = format!(
            "`{}.proxy_protocol` tells who one client is, and a connection of \"h2\" is for many: use one of them",
            at.path
        );
        report.error(at.at(word), message);
    }
    let balance = balance(report, at, raw.balance);
    let servers = servers::servers(report, at, raw.servers);

    let timeouts_at = raw.timeouts.as_ref().map_or_else(|| at.clone(), |table| at.inner("timeouts", table));
    let timeouts = raw.timeouts.map(Spanned::into_inner).unwrap_or_default();
    let mut timeout =
        |key, value, default_s| report.duration(&timeouts_at, key, value, Duration::from_secs(default_s));
    let connect_timeout = timeout("connect", timeouts.connect.as_ref(), 1);
    let head_timeout = timeout("head", timeouts.head.as_ref(), 30);
    let idle_timeout = timeout("idle", timeouts.idle.as_ref(), 60);

    let connections_at = raw.connections.as_ref().map_or_else(|| at.clone(), |t| at.inner("connections", t));
    let connections = raw.connections.map(Spanned::into_inner).unwrap_or_default();
    let per_worker = connections.per_worker.as_ref();
    let idle_per_worker = connections.idle_per_worker.as_ref();
    Upstream {
        name: at.name().into(),
        protocol,
        servers,
        balance,
        tls: raw.tls.and_then(|tls| upstream_tls::tls(report, at, tls, authorities)),
        connect_timeout,
        head_timeout,
        idle_timeout,
        connections_per_worker: report.count(&connections_at, "per_worker", per_worker, 256, 1..=65_536),
        idle_per_worker: report.count(&connections_at, "idle_per_worker", idle_per_worker, 64, 0..=65_536),
        connections_pending: report.count(
            &connections_at,
            "pending",
            connections.pending.as_ref(),
            1024,
            0..=65_536,
        ),
        connection_age_max: max_age(report, &connections_at, connections.max_age),
        retry: retry(report, at, raw.retry),
        proxy_protocol: choose_or(report, at, "proxy_protocol", raw.proxy_protocol, &PROXY_PROTOCOLS, None),
        health: health(report, at, raw.health),
    }
}

fn max_age(report: &mut Report, at: &Scope, value: Field<OrOff<Span>>) -> Option<Duration> {
    const DEFAULT: Duration = Duration::from_hours(1);
    let Some(value) = value else { return Some(DEFAULT) };
    let span = value.span();
    match value.into_inner() {
        OrOff::Off => None,
        OrOff::On(age) => Some(report.duration(at, "max_age", Some(&Spanned::new(span, age)), DEFAULT)),
    }
}

fn balance(report: &mut Report, at: &Scope, value: Field<TextOr<LaterValue>>) -> Balance {
    let Some(value) = value else { return Balance::LeastRequests };
    let span = value.span();
    let choices = [
        ("round_robin", Works(Balance::RoundRobin)),
        ("random", Works(Balance::Random)),
        ("least_requests", Works(Balance::LeastRequests)),
        ("ewma", Later),
    ];
    match value.into_inner() {
        TextOr::Text(word) => report.choose(at, "balance", &Spanned::new(span, word), &choices),
        TextOr::More(_) => {
            let place = report.place(at.source, span);
            report.error(place, format!("`{}.balance` by hash is not supported yet", at.path));
            None
        }
    }
    .unwrap_or(Balance::LeastRequests)
}

fn retry(report: &mut Report, at: &Scope, value: Field<RawRetry>) -> Retry {
    let at = value.as_ref().map_or_else(|| at.clone(), |table| at.inner("retry", table));
    let raw = value.map(Spanned::into_inner).unwrap_or_default();
    let mut retry = Retry {
        attempts: report.number_u32(&at, "attempts", raw.attempts.as_ref(), 1, 0..=10),
        on_connect: raw.on.is_none(),
        on_reset_before_head: raw.on.is_none(),
        budget_percent: match raw.budget.map(Spanned::into_inner) {
            None => Some(RETRY_BUDGET_PERCENT),
            Some(OrOff::On(percent)) => Some(percent.0),
            Some(OrOff::Off) => None,
        },
    };
    for word in raw.on.map(Spanned::into_inner).unwrap_or_default() {
        let causes =
            [("connect", Works(Cause::Connect)), ("reset_before_head", Works(Cause::ResetBeforeHead))];
        match report.choose(&at, "on", &word, &causes) {
            Some(Cause::Connect) => retry.on_connect = true,
            Some(Cause::ResetBeforeHead) => retry.on_reset_before_head = true,
            None => {}
        }
    }
    retry
}

/// What `retry.on` may name.
#[derive(Clone, Copy)]
enum Cause {
    Connect,
    ResetBeforeHead,
}

fn health(report: &mut Report, at: &Scope, value: Field<OrOff<RawHealth>>) -> Option<Health> {
    let (at, raw) = match value {
        Some(value) => (at.inner("health", &value), value.into_inner()),
        None => (at.clone(), OrOff::On(RawHealth::default())),
    };
    let OrOff::On(raw) = raw else { return None };
    let interval = report.duration(&at, "interval", raw.interval.as_ref(), Duration::from_secs(2));
    let timeout = report.duration(&at, "timeout", raw.timeout.as_ref(), Duration::from_secs(1));
    let healthy = report.number_u32(&at, "healthy", raw.healthy.as_ref(), 2, 1..=100);
    let unhealthy = report.number_u32(&at, "unhealthy", raw.unhealthy.as_ref(), 3, 1..=100);
    let path = raw.path.map_or_else(|| "/healthz".to_owned(), |path| health_path(report, &at, path));
    Some(Health { path: path.into(), interval, timeout, healthy, unhealthy })
}

/// It goes into a request line as it is, so nothing may stand in it that ends the target.
fn health_path(report: &mut Report, at: &Scope, path: Spanned<String>) -> String {
    let text = path.get_ref();
    if !text.starts_with('/') || !text.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
        report
            .error(at.at(&path), format!("`{}.path` is {text:?}, not a path that begins with `/`", at.path));
    }
    path.into_inner()
}
