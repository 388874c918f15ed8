//! `[auth.*]`: what a credential is and how it is checked. A file for each kind.

mod api_key;
mod basic;
mod claims;
mod introspection;
mod jwt;
mod mtls;
mod oidc;

use std::{ops::Range, sync::Arc};

use toml::Spanned;

use crate::config::{
    auth::{Auth, AuthKind},
    endpoint::{Endpoint, Url},
    files,
    raw::RawAuth,
    report::{Choice::Works, Report, Scope},
    types::UpstreamTls,
};

pub(super) use oidc::own_routes;

use super::{access::is_header_name, pem, upstream_tls::Authorities};

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
    Introspection,
    Oidc,
}

pub(super) fn auths(report: &mut Report, raw: Vec<(Scope, RawAuth)>) -> Vec<Auth> {
    let authorities = Authorities::default();
    raw.into_iter()
        .filter_map(|(at, raw)| {
            let forward_credential = raw.forward_credential.as_ref().is_some_and(|yes| *yes.get_ref());
            let kind = auth_kind(report, &at, raw, &authorities)?;
            Some(Auth { name: at.name().into(), forward_credential, kind })
        })
        .collect()
}

fn auth_kind(
    report: &mut Report,
    at: &Scope,
    mut raw: RawAuth,
    authorities: &Authorities,
) -> Option<AuthKind> {
    let Some(kind) = raw.kind.take() else {
        report.missing(
            at,
            "kind",
            "\"api_key\", \"jwt\", \"introspection\", \"oidc\", \"basic\" or \"mtls\"",
        );
        return None;
    };
    let kinds = [
        ("api_key", Works(Kind::ApiKey)),
        ("jwt", Works(Kind::Jwt)),
        ("basic", Works(Kind::Basic)),
        ("mtls", Works(Kind::Mtls)),
        ("introspection", Works(Kind::Introspection)),
        ("oidc", Works(Kind::Oidc)),
    ];
    match report.choose(at, "kind", &kind, &kinds)? {
        Kind::ApiKey => api_key::compile(report, at, raw),
        Kind::Jwt => jwt::compile(report, at, raw, authorities),
        Kind::Introspection => introspection::compile(report, at, raw, authorities),
        Kind::Oidc => oidc::compile(report, at, raw, authorities),
        Kind::Basic => basic::compile(report, at, raw),
        Kind::Mtls => Some(mtls::compile(report, at, raw)),
    }
}

/// What is asked at `url`, the value of `key`: under TLS, or on this host.
fn endpoint(
    report: &mut Report,
    at: &Scope,
    key: &str,
    url: &Spanned<String>,
    ca_file: Option<&Spanned<String>>,
    authorities: &Authorities,
) -> Option<Endpoint> {
    let parsed = match Url::parse(url.get_ref()) {
        Ok(parsed) if parsed.is_private() => parsed,
        Ok(_) => {
            let message = format!(
                "`{}.{key}` is {:?}: whoever is on the way could answer; use https",
                at.path,
                url.get_ref()
            );
            report.error(at.at(url), message);
            return None;
        }
        Err(problem) => {
            report.error(at.at(url), format!("`{}.{key}` is {:?}: {problem}", at.path, url.get_ref()));
            return None;
        }
    };
    let tls = match ca_file {
        Some(file) if !parsed.is_secure => {
            let message = format!("`{}.ca_file` has no meaning for what is asked in clear", at.path);
            report.error(at.at(file), message);
            return None;
        }
        Some(file) => {
            let pem = pem::read(report, at, Some(file.clone()), &pem::AUTHORITIES)?;
            Some(UpstreamTls {
                authorities: files::certificates(&pem)?.into(),
                authorities_are_the_systems: false,
                server_name: None,
                client: None,
            })
        }
        None if parsed.is_secure => {
            let tls = authorities.vouch_for_servers();
            Some(tls.map_err(|problem| report.error(at.at(url), problem)).ok()?)
        }
        None => None,
    };
    Some(Endpoint { url: parsed, tls })
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
fn spans(raw: &RawAuth) -> [(&'static str, Option<Range<usize>>); 28] {
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
        ca_file,
        key_file,
        endpoint,
        client_id,
        client_secret_file,
        cache,
        timeout,
        on_failure,
        callback,
        logout,
        after_logout,
        cookie_key_file,
        request_scopes,
        session,
        file
    ]
}
