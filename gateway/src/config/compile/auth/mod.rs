//! `[auth.*]`: what a credential is and how it is checked. A file for each kind.

mod api_key;
mod basic;
mod jwt;
mod mtls;

use std::{ops::Range, sync::Arc};

use toml::Spanned;

use crate::config::{
    auth::{Auth, AuthKind},
    raw::RawAuth,
    report::{
        Choice::{Later, Works},
        Report, Scope,
    },
};

use super::access::is_header_name;

/// Fields that frame or route a request: a claim never sets them.
const HEADERS_OF_THE_PROXY: [&str; 17] = [
    "connection",
    "content-length",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
    "x-request-id",
];

#[derive(Debug, Clone, Copy)]
enum Kind {
    ApiKey,
    Jwt,
    Basic,
    Mtls,
}

pub(super) fn auths(report: &mut Report, raw: Vec<(Scope, RawAuth)>) -> Vec<Auth> {
    raw.into_iter()
        .filter_map(|(at, raw)| {
            let forward_credential = raw.forward_credential.as_ref().is_some_and(|yes| *yes.get_ref());
            let kind = auth_kind(report, &at, raw)?;
            Some(Auth { name: at.name().into(), forward_credential, kind })
        })
        .collect()
}

fn auth_kind(report: &mut Report, at: &Scope, mut raw: RawAuth) -> Option<AuthKind> {
    let Some(kind) = raw.kind.take() else {
        report.missing(at, "kind", "\"api_key\", \"jwt\", \"basic\" or \"mtls\"");
        return None;
    };
    let kinds = [
        ("api_key", Works(Kind::ApiKey)),
        ("jwt", Works(Kind::Jwt)),
        ("basic", Works(Kind::Basic)),
        ("mtls", Works(Kind::Mtls)),
        ("introspection", Later),
        ("oidc", Later),
    ];
    match report.choose(at, "kind", &kind, &kinds)? {
        Kind::ApiKey => api_key::compile(report, at, raw),
        Kind::Jwt => jwt::compile(report, at, raw),
        Kind::Basic => basic::compile(report, at, raw),
        Kind::Mtls => Some(mtls::compile(report, at, raw)),
    }
}

/// A header that we read or set, in lower case.
fn header_name(report: &mut Report, at: &Scope, name: &Spanned<String>) -> Option<Arc<str>> {
    let lower = name.get_ref().to_ascii_lowercase();
    if !is_header_name(&lower) {
        report.error(
            at.at(name),
            format!("`{}` names {:?}, which is not a header name", at.path, name.get_ref()),
        );
        return None;
    }
    if HEADERS_OF_THE_PROXY.contains(&lower.as_str()) {
        report.error(at.at(name), format!("`{}` names `{lower}`, which only the proxy itself sets", at.path));
        return None;
    }
    Some(lower.into())
}

/// Records keys that belong to other kinds: all but `own`.
fn refuse_all_but(report: &mut Report, at: &Scope, kind: &str, own: &[&str], raw: &RawAuth) {
    for (key, span) in spans(raw) {
        if let Some(span) = span.filter(|_| !own.contains(&key)) {
            let place = report.place(at.source, span);
            report.error(place, format!("`{}.{key}` has no meaning for kind \"{kind}\"", at.path));
        }
    }
}

/// Every key but those of all kinds, and where it stands.
fn spans(raw: &RawAuth) -> [(&'static str, Option<Range<usize>>); 22] {
    macro_rules! spans {
        ($($key:ident),*) => { [$((stringify!($key), raw.$key.as_ref().map(Spanned::span))),*] };
    }
    spans![
        store,
        header,
        query,
        issuer,
        audiences,
        algorithms,
        leeway,
        consumer,
        roles,
        scopes,
        forward,
        jwks_file,
        jwks_url,
        key_file,
        endpoint,
        client_id,
        client_secret_file,
        cache,
        callback,
        logout,
        cookie_key_file,
        file
    ]
}
