//! `respond`, `redirect` and `rewrite` of a route: what it answers by itself and what it changes.

use std::{collections::BTreeMap, sync::Arc};

use toml::Spanned;

use crate::config::{
    compress::Coding,
    edits::{FieldEdits, Redirect, Respond, Rewrite},
    raw::{Field, RawFieldEdits, RawRedirect, RawRespond, RawRewrite},
    report::{Choice::Works, Report, Scope},
    template::{Piece, Template, Use},
    values::{OrOff, TextOr},
};

use super::{access::is_header_name, pattern};

/// A fixed answer is a message, not a file.
const RESPOND_BODY_BYTES_MAX: usize = 64 << 10;

/// Fields that one table may name, and the length of each value's template.
const FIELDS_MAX: usize = 32;
const VALUE_BYTES_MAX: usize = 4 << 10;

/// What `redirect` says without a status: the method and the body stay, and the answer may be remembered.
const REDIRECT_STATUS: u64 = 308;
const REDIRECT_STATUSES: [u64; 5] = [301, 302, 303, 307, 308];

/// Names by header, as they stand in a table.
type RawFields = Field<BTreeMap<Spanned<String>, Spanned<String>>>;

/// Which head a field stands in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Head {
    Request,
    Response,
}

pub(super) fn respond(report: &mut Report, at: &Scope, path: &str, raw: RawRespond) -> Option<Respond> {
    let body = raw.body.map_or_else(String::new, |body| {
        if body.get_ref().len() > RESPOND_BODY_BYTES_MAX {
            let message = format!("`{}.body` is longer than {} KiB", at.path, RESPOND_BODY_BYTES_MAX >> 10);
            report.error(at.at(&body), message);
        }
        body.into_inner()
    });
    let Some(status) = raw.status else {
        report.missing(at, "status", "404");
        return None;
    };
    let number = report.number(at, "status", Some(&status), 404, 200..=599);
    // These have no body (RFC 9110 sections 15.3.5, 15.3.6 and 15.4.5).
    if matches!(number, 204 | 205 | 304) && !body.is_empty() {
        report.error(at.at(&status), format!("`{}` has a body, but {number} cannot have one", at.path));
    }
    let content_type = raw.content_type.map_or_else(
        || "text/plain; charset=utf-8".into(),
        |text| {
            if !is_media_type(text.get_ref()) {
                let message = format!("`{}.content_type` is not a media type", at.path);
                report.error(at.at(&text), message);
            }
            text.into_inner()
        },
    );
    let headers = fields(report, at, "headers", path, Head::Response, raw.headers);
    if let Some((name, _)) = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
        let message = format!("`{}.headers` holds {name}: write `content_type` instead", at.path);
        report.error(at.here(), message);
    }
    Some(Respond {
        status: u16::try_from(number).unwrap_or(404),
        body: body.into(),
        content_type: content_type.into(),
        headers,
    })
}

fn is_media_type(text: &str) -> bool {
    let mut parts = text.split(';').next().unwrap_or_default().trim().split('/');
    let names = [parts.next(), parts.next()];
    parts.next().is_none()
        && names.into_iter().all(|name| name.is_some_and(is_header_name))
        && text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

/// `redirect = ""` asks for nothing.
pub(super) fn asks_redirect(raw: &Spanned<TextOr<RawRedirect>>) -> bool {
    !matches!(raw.get_ref(), TextOr::Text(to) if to.is_empty())
}

pub(super) fn redirect(
    report: &mut Report,
    at: &Scope,
    path: &str,
    raw: Spanned<TextOr<RawRedirect>>,
) -> Option<Redirect> {
    let inner = at.inner("redirect", &raw);
    let span = raw.span();
    let (to, status) = match raw.into_inner() {
        TextOr::Text(to) => (Spanned::new(span, to), REDIRECT_STATUS),
        TextOr::More(table) => {
            let Some(to) = table.to else {
                report.missing(&inner, "to", "\"https://{host}{path}\"");
                return None;
            };
            let status = table.status.as_ref().map_or(REDIRECT_STATUS, |status| *status.get_ref());
            if let Some(place) = &table.status
                && !REDIRECT_STATUSES.contains(&status)
            {
                let message =
                    format!("`{}.status` is {status}, not one of {REDIRECT_STATUSES:?}", inner.path);
                report.error(inner.at(place), message);
            }
            (to, status)
        }
    };
    match target(to.get_ref(), path) {
        Ok((origin, path, query)) => {
            Some(Redirect { status: u16::try_from(status).unwrap_or(308), origin, path, query })
        }
        Err(problem) => {
            report.error(inner.at(&to), format!("`{}` {problem}", inner.path));
            None
        }
    }
}

/// Takes a target apart before anything is filled in, so that no value can ever become a host.
fn target(to: &str, pattern: &str) -> Result<(Template, Template, Option<Template>), String> {
    let scheme = ["https://", "http://"].into_iter().find(|scheme| to.starts_with(scheme));
    let authority_end = scheme.map_or(0, |scheme| {
        to.get(scheme.len()..)
            .and_then(|rest| rest.find(['/', '?', '#']).or_else(|| rest.find("{path}")))
            .map_or(to.len(), |end| scheme.len() + end)
    });
    let (origin, rest) = to.split_at(authority_end);
    let origin = Template::parse(origin, pattern, Use::Authority)?;
    if let Some(scheme) = scheme {
        let sample = origin.sample();
        let authority = sample.strip_prefix(scheme).unwrap_or_default();
        if authority.is_empty()
            || !authority.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b))
        {
            return Err("names no host: write `https://host/path`".to_owned());
        }
        // A name before or behind `{host}` would be another host, one that the client chooses.
        let whole = match &*origin.0 {
            [Piece::Text(_)] => true,
            [Piece::Text(before), Piece::Value(_), port @ ..] => {
                **before == *scheme
                    && authority
                        .strip_prefix('x')
                        .is_some_and(|port| port.is_empty() || port.starts_with(':'))
                    && port.len() < 2
            }
            _ => false,
        };
        if !whole {
            return Err(
                "can have `{host}` only as all of its host, with or without a port behind it".to_owned()
            );
        }
    }
    if rest.contains('#') {
        return Err("holds a fragment, which is not supported".to_owned());
    }
    let (path, query) = match rest.split_once('?') {
        Some((path, query)) => (path, Some(Template::parse(query, pattern, Use::Anything)?)),
        None => (rest, None),
    };
    if query.as_ref().is_some_and(|query| !query.sample().bytes().all(|byte| byte.is_ascii_graphic())) {
        return Err("holds a query of other than visible ASCII characters".to_owned());
    }
    let path = if path.is_empty() && scheme.is_some() { "/" } else { path };
    Ok((origin, path_template(path, pattern)?, query))
}

fn path_template(text: &str, pattern: &str) -> Result<Template, String> {
    let template = Template::parse(text, pattern, Use::Path)?;
    let sample = template.sample();
    if sample.starts_with("//") {
        return Err("begins with `//`, which names a host".to_owned());
    }
    if sample.contains('?') {
        return Err("holds `?`: the client's query is kept as it is".to_owned());
    }
    pattern::shape(&sample).map(|_| template)
}

pub(super) fn rewrite(
    report: &mut Report,
    at: &Scope,
    path: &str,
    raw: Option<Spanned<RawRewrite>>,
) -> Option<Rewrite> {
    let raw = raw?;
    let at = at.inner("rewrite", &raw);
    let raw = raw.into_inner();
    let mut rewrite = Rewrite::default();
    if let Some(text) = raw.path {
        match path_template(text.get_ref(), path) {
            Ok(template) => rewrite.path = Some(template),
            Err(problem) => report.error(at.at(&text), format!("`{}.path` {problem}", at.path)),
        }
    }
    let table = RawFieldEdits {
        add_headers: raw.add_headers,
        set_headers: raw.set_headers,
        remove_headers: raw.remove_headers,
    };
    rewrite.request = edits(report, &at, path, Head::Request, table);
    let set = &mut rewrite.request.set;
    if let Some(host) = set.iter().position(|(name, _)| name.eq_ignore_ascii_case("host")) {
        rewrite.host = Some(set.swap_remove(host).1);
    }
    if let Some(response) = raw.response {
        let at = at.inner("response", &response);
        rewrite.response = edits(report, &at, path, Head::Response, response.into_inner());
    }
    (rewrite != Rewrite::default()).then_some(rewrite)
}

fn edits(report: &mut Report, at: &Scope, path: &str, head: Head, raw: RawFieldEdits) -> FieldEdits {
    let add = fields(report, at, "add_headers", path, head, raw.add_headers);
    if add.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        let message =
            format!("`{}.add_headers` holds host, of which there is one: use `set_headers`", at.path);
        report.error(at.here(), message);
    }
    let set = fields(report, at, "set_headers", path, head, raw.set_headers);
    let names = raw.remove_headers.map(Spanned::into_inner).unwrap_or_default();
    let mut remove: Vec<Arc<str>> = Vec::new();
    for name in names.into_iter().take(FIELDS_MAX) {
        if name.get_ref().eq_ignore_ascii_case("host")
            || !may_touch(report, at, "remove_headers", head, &name)
        {
            if name.get_ref().eq_ignore_ascii_case("host") {
                let message = format!("`{}.remove_headers` holds host, which every request has", at.path);
                report.error(at.at(&name), message);
            }
            continue;
        }
        remove.push(name.get_ref().to_ascii_lowercase().into());
    }
    FieldEdits { add, set, remove }
}

fn fields(
    report: &mut Report,
    at: &Scope,
    key: &str,
    path: &str,
    head: Head,
    raw: RawFields,
) -> Vec<(Arc<str>, Template)> {
    let Some(table) = raw else { return Vec::new() };
    if table.get_ref().len() > FIELDS_MAX {
        report.error(at.at(&table), format!("`{}.{key}` holds more than {FIELDS_MAX} fields", at.path));
    }
    let mut fields = Vec::new();
    for (name, value) in table.into_inner().into_iter().take(FIELDS_MAX) {
        if !may_touch(report, at, key, head, &name) {
            continue;
        }
        let text = value.get_ref();
        let problem = if text.len() > VALUE_BYTES_MAX {
            Some(format!("is longer than {} KiB", VALUE_BYTES_MAX >> 10))
        } else if text.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
            Some("holds a control character".to_owned())
        } else {
            match Template::parse(text, path, Use::Anything) {
                Ok(template) => {
                    fields.push((name.get_ref().as_str().into(), template));
                    None
                }
                Err(problem) => Some(problem),
            }
        };
        if let Some(problem) = problem {
            report.error(at.at(&value), format!("`{}.{key}.{}` {problem}", at.path, name.get_ref()));
        }
    }
    fields
}

/// Content codings in the order in which they stand; "off": none.
pub(super) fn compress(
    report: &mut Report,
    at: &Scope,
    raw: Field<OrOff<Vec<Spanned<String>>>>,
) -> Vec<Coding> {
    let Some(OrOff::On(names)) = raw.map(Spanned::into_inner) else { return Vec::new() };
    let mut codings = Vec::new();
    for name in &names {
        let choices = Coding::ALL.map(|coding| (coding.name(), Works(coding)));
        match report.choose(at, "compress", name, &choices) {
            Some(coding) if codings.contains(&coding) => {
                report.error(at.at(name), format!("`{}.compress` holds {:?} twice", at.path, name.get_ref()));
            }
            coding => codings.extend(coding),
        }
    }
    codings
}

/// Whether a field is the operator's to change, or why it is not.
fn may_touch(report: &mut Report, at: &Scope, key: &str, head: Head, name: &Spanned<String>) -> bool {
    let text = name.get_ref().as_str();
    let problem = if !is_header_name(text) {
        "is not the name of a header"
    } else if is_framing(text) {
        "is about one connection or one message's framing, which is the gateway's own affair"
    } else if is_ours(text, head) {
        "is set by the gateway itself"
    } else {
        return true;
    };
    report.error(at.at(name), format!("`{}.{key}` holds {text:?}, which {problem}", at.path));
    false
}

fn is_framing(name: &str) -> bool {
    const NAMES: [&str; 10] = [
        "connection",
        "content-length",
        "expect",
        "http2-settings",
        "keep-alive",
        "proxy",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    NAMES.iter().any(|each| each.eq_ignore_ascii_case(name)) || begins(name, "proxy-")
}

fn is_ours(name: &str, head: Head) -> bool {
    let ours: &[&str] = match head {
        Head::Request => &["forwarded", "traceparent", "tracestate", "via", "x-real-ip", "x-request-id"],
        Head::Response => &["date", "host", "via", "x-request-id"],
    };
    ours.iter().any(|each| each.eq_ignore_ascii_case(name))
        || (head == Head::Request && begins(name, "x-forwarded-"))
}

fn begins(name: &str, prefix: &str) -> bool {
    name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}
