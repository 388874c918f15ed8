//! `kind = "introspection"`

use std::{path::Path, time::Duration};

use toml::Spanned;

use super::{claims, endpoint, refuse_all_but};
use crate::config::{
    auth::{AuthKind, Introspection},
    compile::upstream_tls::Authorities,
    files::{self, Holds},
    raw::RawAuth,
    report::{Choice::Works, Report, Scope},
    types::Secret,
    values::Span,
};

/// How long an answer counts when nobody says otherwise.
const CACHE: Duration = Duration::from_secs(30);
/// A token that was revoked is not taken for good for longer.
const CACHE_MAX: Duration = Duration::from_hours(1);
const TIMEOUT: Duration = Duration::from_secs(2);
/// A worker waits for ten seconds.
const TIMEOUT_MAX: Duration = Duration::from_secs(8);

pub(super) fn compile(
    report: &mut Report,
    at: &Scope,
    mut raw: RawAuth,
    authorities: &Authorities,
) -> Option<AuthKind> {
    let own = [
        "endpoint",
        "client_id",
        "client_secret_file",
        "ca_file",
        "cache",
        "timeout",
        "on_failure",
        "audiences",
        "consumer",
        "roles",
        "scopes",
        "forward",
    ];
    refuse_all_but(report, at, "introspection", &own, &raw);
    // RFC 7662 §2.2 says what scopes are called.
    let scopes_are_named = raw.scopes.is_some();
    let mut claims = claims::rules(report, at, &mut raw, "sub");
    if let (Some(claims), false) = (&mut claims, scopes_are_named) {
        claims.scopes = Some("scope".into());
    }
    if let Some(on_failure) = &raw.on_failure {
        report.choose(at, "on_failure", on_failure, &[("deny", Works(()))]);
    }
    let cache = raw.cache.as_ref().map_or(CACHE, |cache| cache.get_ref().0);
    if let Some(value) = raw.cache.as_ref().filter(|_| cache > CACHE_MAX) {
        let message =
            format!("`{}.cache` is longer than an hour, in which a revoked token would go on", at.path);
        report.error(at.at(value), message);
    }
    let timeout = timeout(report, at, raw.timeout.as_ref(), TIMEOUT);
    if raw.endpoint.is_none() {
        report.missing(at, "endpoint", "\"https://id.example.com/introspect\"");
    }
    if raw.client_id.is_none() {
        report.missing(at, "client_id", "\"gateway\"");
    }
    if raw.client_secret_file.is_none() {
        report.missing(at, "client_secret_file", "\"introspection.secret\"");
    }
    let asked = raw
        .endpoint
        .as_ref()
        .and_then(|url| endpoint(report, at, "endpoint", url, raw.ca_file.as_ref(), authorities));
    let client_secret = raw.client_secret_file.and_then(|file| secret(report, at, &file));
    Some(AuthKind::Introspection(Box::new(Introspection {
        endpoint: asked?,
        client_id: raw.client_id?.into_inner().into(),
        client_secret: client_secret?,
        cache,
        timeout,
        claims: claims?,
    })))
}

/// How long a server that is asked about a request may take.
pub(super) fn timeout(
    report: &mut Report,
    at: &Scope,
    value: Option<&Spanned<Span>>,
    default: Duration,
) -> Duration {
    let timeout = report.duration(at, "timeout", value, default);
    if let Some(value) = value.filter(|_| timeout > TIMEOUT_MAX) {
        let message = format!("`{}.timeout` is longer than the 8 seconds that a request waits", at.path);
        report.error(at.at(value), message);
    }
    timeout
}

/// What a client is known by.
pub(super) fn secret(report: &mut Report, at: &Scope, file: &Spanned<String>) -> Option<Secret> {
    let path = report.resolve_path(at.source, file.get_ref());
    let read = read_secret(&path);
    read.map_err(|problem| report.error(at.at(file), format!("{} {problem}", path.display()))).ok()
}

/// Without the newline that text ends in.
fn read_secret(path: &Path) -> Result<Secret, String> {
    let mut secret = files::read(path, Holds::Secret)?;
    let kept = secret.trim_ascii_end().len();
    secret.truncate(kept);
    if secret.is_empty() || secret.iter().any(u8::is_ascii_control) || str::from_utf8(&secret).is_err() {
        return Err("does not hold one secret and nothing else".to_owned());
    }
    Ok(Secret(secret))
}
