//! `cors` of a route.

use std::sync::Arc;

use toml::Spanned;

use crate::config::{
    cors::{Cors, OriginPattern, Origins},
    raw::{Field, RawCors},
    report::{Report, Scope},
};

use super::access::is_header_name;

/// Entries of each list.
const ENTRIES_MAX: usize = 64;

type Texts = Field<Vec<Spanned<String>>>;

pub(super) fn cors(
    report: &mut Report,
    at: &Scope,
    methods: &[Arc<str>],
    raw: Option<Spanned<RawCors>>,
) -> Option<Cors> {
    let raw = raw?;
    let at = at.inner("cors", &raw);
    let raw = raw.into_inner();
    let credentials = raw.credentials.is_some_and(Spanned::into_inner);
    let origins = origins(report, &at, credentials, raw.origins)?;
    let listed = names(report, &at, "methods", credentials, raw.methods);
    let methods = match listed {
        Some(listed) => listed,
        // What needs no leave, where the route takes any.
        None if methods.is_empty() => "GET, HEAD, POST".into(),
        None => methods.join(", ").into(),
    };
    let headers = names(report, &at, "headers", credentials, raw.headers).unwrap_or_default();
    let expose = names(report, &at, "expose", credentials, raw.expose).unwrap_or_default();
    let max_age = raw.max_age.map(|span| span.get_ref().0.as_secs().to_string()).unwrap_or_default();
    Some(Cors { origins, credentials, methods, headers, expose, max_age: max_age.into() })
}

fn origins(report: &mut Report, at: &Scope, credentials: bool, raw: Texts) -> Option<Origins> {
    let Some(raw) = raw.filter(|raw| !raw.get_ref().is_empty()) else {
        report.missing(at, "origins", "[\"https://shop.example.com\"]");
        return None;
    };
    let place = at.at(&raw);
    let texts = raw.into_inner();
    if texts.len() > ENTRIES_MAX {
        report.error(place, format!("`{}.origins` holds more than {ENTRIES_MAX}", at.path));
        return None;
    }
    if texts.iter().any(|text| text.get_ref() == "*") {
        if credentials {
            let message =
                format!("`{}` lets any origin use its visitors' credentials: name the origins", at.path);
            report.error(place, message);
        } else if texts.len() > 1 {
            report
                .error(place, format!("`{}.origins` holds \"*\" beside others: it stands for all", at.path));
        }
        return Some(Origins::Any);
    }
    let mut listed = Vec::new();
    for text in &texts {
        match pattern(text.get_ref()) {
            Ok(pattern) => listed.push(pattern),
            Err(problem) => {
                report.error(
                    at.at(text),
                    format!("`{}.origins` holds {:?}: {problem}", at.path, text.get_ref()),
                );
            }
        }
    }
    Some(Origins::Listed(listed))
}

/// RFC 6454 section 6.2: a scheme, a host and a port that is not the scheme's own; as browsers write it.
fn pattern(text: &str) -> Result<OriginPattern, &'static str> {
    const FORM: &str = "write scheme, host and perhaps a port, such as `https://shop.example.com`";
    let origin = text.to_ascii_lowercase();
    if origin == "null" {
        return Ok(OriginPattern::Exact(origin.into()));
    }
    let (scheme, authority) = origin.split_once("://").ok_or(FORM)?;
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    if !is_scheme {
        return Err(FORM);
    }
    if authority.contains('/') {
        return Err("an origin has no path, not even a final slash");
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    };
    match (scheme, port) {
        (_, Some(port)) if port.parse::<u16>().is_err() || port.starts_with(['+', '0']) => return Err(FORM),
        ("https", Some("443")) | ("http", Some("80")) => {
            return Err("browsers leave the scheme's own port out: so must this");
        }
        _ => {}
    }
    let is_host = |host: &str| {
        let label = |label: &str| {
            !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        };
        let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        literal.map_or_else(
            || host.split('.').all(label),
            |literal| literal.parse::<std::net::Ipv6Addr>().is_ok(),
        )
    };
    if let Some(parent) = host.strip_prefix("*.") {
        if !is_host(parent) || !parent.contains('.') {
            return Err(
                "`*` stands for one label below a name of at least two, as in `https://*.example.com`",
            );
        }
        let (_, after) = authority.split_at(1);
        return Ok(OriginPattern::OneLabel(format!("{scheme}://").into(), after.into()));
    }
    if host.contains('*') {
        return Err("`*` stands for one whole label at the front, as in `https://*.example.com`");
    }
    if is_host(host) { Ok(OriginPattern::Exact(origin.into())) } else { Err(FORM) }
}

/// A list of tokens as the value of a field.
fn names(report: &mut Report, at: &Scope, key: &str, credentials: bool, raw: Texts) -> Option<Arc<str>> {
    let raw = raw?;
    if raw.get_ref().len() > ENTRIES_MAX {
        report.error(at.at(&raw), format!("`{}.{key}` holds more than {ENTRIES_MAX}", at.path));
        return None;
    }
    let mut names = Vec::new();
    for text in raw.into_inner() {
        let name = text.get_ref();
        if name == "*" && credentials {
            let message =
                format!("`{}.{key}` holds \"*\", which means nothing with credentials: name them", at.path);
            report.error(at.at(&text), message);
        } else if !is_header_name(name) {
            report.error(at.at(&text), format!("`{}.{key}` holds {name:?}, which is not a name", at.path));
        } else {
            names.push(text.into_inner());
        }
    }
    Some(names.join(", ").into())
}
