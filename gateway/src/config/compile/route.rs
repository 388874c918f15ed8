//! `[routes.*]`: what a request may match, what it needs, and where it goes.

use std::{collections::BTreeMap, sync::Arc};

use toml::Spanned;

use crate::config::{
    permissions::{covers, is_permission},
    raw::{Field, RawRoute},
    report::{Place, Report, Scope, did_you_mean},
    types::{Action, Permission, ROUTES_MAX, Role, Route},
    values::TextOr,
};

use super::{Names, access::is_header_name, conditions, cors, pattern, reshape, websocket};

/// Methods that people write; others are taken as they are.
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"];

/// What a route claims: one host, one path shape, one method; an empty text stands for any.
type Claim = (Arc<str>, String, Arc<str>);

type Texts = Field<Vec<Spanned<String>>>;

pub(super) fn routes(
    report: &mut Report,
    names: &Names,
    roles: &[Role],
    raw: Vec<(Scope, Box<RawRoute>)>,
) -> Vec<Route> {
    if let Some((at, _)) = raw.get(ROUTES_MAX) {
        report
            .error(at.here(), format!("there are {} routes; at most {ROUTES_MAX} are supported", raw.len()));
        return Vec::new();
    }
    let mut claims: BTreeMap<Claim, Place> = BTreeMap::new();
    raw.into_iter().filter_map(|(at, raw)| route(report, names, roles, &mut claims, &at, *raw)).collect()
}

fn route(
    report: &mut Report,
    names: &Names,
    roles: &[Role],
    claims: &mut BTreeMap<Claim, Place>,
    at: &Scope,
    mut raw: RawRoute,
) -> Option<Route> {
    refuse_later(report, at, &raw);
    let hosts = list(report, at, raw.hosts.take(), host);
    let methods = list(report, at, raw.methods.take(), method);
    let path = path(report, at, raw.path.take());
    if let Some((_, shape)) = &path {
        claim(report, claims, at, &hosts, shape, &methods);
    }
    let pattern = path.as_ref().map_or("/", |(path, _)| path);
    let action = action(report, names, at, pattern, &mut raw);
    let rewrite = reshape::rewrite(report, at, pattern, raw.rewrite.take());
    let cors = cors::cors(report, at, &methods, raw.cors.take());
    let compress = reshape::compress(report, at, raw.compress.take());
    if let (Some(_), Some(rewrite)) = (&cors, &rewrite)
        && let Some(name) = rewrite.response.names().find(|name| is_cors_field(name))
    {
        let message = format!("`{}.rewrite.response` holds {name}, which `cors` is about", at.path);
        report.error(at.here(), message);
    }
    let websocket = websocket::settings(report, at, raw.websocket.take(), action.as_ref(), &methods);
    let (auths, public) = access(report, names, at, &mut raw);
    let permission = permission(report, roles, at, raw.permission, &methods, public);
    let scopes = conditions::scopes(report, at, raw.scopes.take(), public);
    let when = conditions::when(report, names, at, raw.when.take(), (pattern, public));
    let limits = report.indices(at, "limits", &names.limits, raw.limits);
    let filter = raw.filter.and_then(|name| report.index(at, "filters", &names.filters, &name));
    let timeouts = raw.timeouts.map(|table| (at.inner("timeouts", &table), table.into_inner()));
    let request_timeout = timeouts.and_then(|(at, timeouts)| {
        let request = timeouts.request?;
        Some(report.duration(&at, "request", Some(&request), request.get_ref().0))
    });
    Some(Route {
        name: at.name().into(),
        hosts,
        path: path?.0,
        methods,
        action: action?,
        auths,
        public,
        permission,
        scopes,
        when: when.map(Arc::new),
        limits,
        filter,
        request_timeout,
        body_size_bytes: raw.body_size.map(|size| size.get_ref().0),
        rewrite: rewrite.map(Arc::new),
        cors: cors.map(Arc::new),
        websocket,
        compress,
    })
}

fn is_cors_field(name: &str) -> bool {
    name.get(.."access-control-".len()).is_some_and(|start| start.eq_ignore_ascii_case("access-control-"))
}

fn refuse_later(report: &mut Report, at: &Scope, raw: &RawRoute) {
    let later = [
        ("match_headers", &raw.match_headers),
        ("split", &raw.split),
        ("mirror", &raw.mirror),
        ("contract", &raw.contract),
        ("cache", &raw.cache),
        ("translate", &raw.translate),
    ];
    report.later(at, &later);
}

/// Reads each text of a list; what stands twice counts once.
fn list(
    report: &mut Report,
    at: &Scope,
    texts: Texts,
    read: fn(&mut Report, &Scope, &Spanned<String>) -> Option<Arc<str>>,
) -> Vec<Arc<str>> {
    let mut values = Vec::new();
    for text in texts.map(Spanned::into_inner).unwrap_or_default() {
        if let Some(value) = read(report, at, &text)
            && !values.contains(&value)
        {
            values.push(value);
        }
    }
    values
}

/// A host name in lower case, perhaps with `*.` before it; a port is never part of it.
fn host(report: &mut Report, at: &Scope, text: &Spanned<String>) -> Option<Arc<str>> {
    let host = text.get_ref().to_ascii_lowercase();
    let name = host.strip_prefix("*.").unwrap_or(&host);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    let literal = host.parse::<std::net::Ipv4Addr>().is_ok()
        || host
            .strip_prefix('[')
            .and_then(|h| h.strip_suffix(']'))
            .is_some_and(|h| h.parse::<std::net::Ipv6Addr>().is_ok());
    if literal || (name.len() <= 253 && name.split('.').all(label)) {
        return Some(host.into());
    }
    let problem = if host.contains(':') {
        "leave the port out"
    } else if host == "*" {
        "leave `hosts` out to match any host"
    } else if host.contains('*') {
        "`*` stands for one whole label at the front, as in `*.example.com`"
    } else if host.is_ascii() {
        "write a name such as `api.example.com`"
    } else {
        "write an international name in its ASCII form, `xn--…`"
    };
    report.error(at.at(text), format!("`{}.hosts` holds {:?}: {problem}", at.path, text.get_ref()));
    None
}

fn method(report: &mut Report, at: &Scope, text: &Spanned<String>) -> Option<Arc<str>> {
    let name = text.get_ref().as_str();
    if matches!(name, "CONNECT" | "TRACE") {
        report.error(at.at(text), format!("`{}.methods` holds {name}, which is never served", at.path));
        return None;
    }
    // Methods are case-sensitive (RFC 9110 section 9.1); a lower-case one is nearly always a slip.
    if !is_header_name(name) || name.bytes().any(|b| b.is_ascii_lowercase()) {
        let message = format!("`{}.methods` holds {name:?}, which is not a method in upper case", at.path);
        report.error_with_hint(at.at(text), message, did_you_mean(&name.to_ascii_uppercase(), &METHODS));
        return None;
    }
    Some(name.into())
}

fn path(report: &mut Report, at: &Scope, path: Field<String>) -> Option<(Arc<str>, String)> {
    let Some(path) = path else {
        report.missing(at, "path", "\"/v1/orders/{id}\"");
        return None;
    };
    match pattern::shape(path.get_ref()) {
        Ok(shape) => Some((path.into_inner().into(), shape)),
        Err(problem) => {
            report.error(at.at(&path), format!("`{}.path` {problem}", at.path));
            None
        }
    }
}

/// Refuses a route that matches exactly what an earlier one matches: nothing would say which of them wins.
fn claim(
    report: &mut Report,
    claims: &mut BTreeMap<Claim, Place>,
    at: &Scope,
    hosts: &[Arc<str>],
    shape: &str,
    methods: &[Arc<str>],
) {
    let any = [Arc::from("")];
    let mut told = false;
    for host in if hosts.is_empty() { &any } else { hosts } {
        for method in if methods.is_empty() { &any } else { methods } {
            let earlier =
                claims.entry((host.clone(), shape.to_owned(), method.clone())).or_insert_with(|| at.here());
            if !told && *earlier != at.here() {
                told = true;
                let message = format!(
                    "`{}` matches the same host, path and method as the route at {}",
                    at.path,
                    report.show(earlier)
                );
                report.error(at.here(), message);
            }
        }
    }
}

/// Where a route leads: one of three, never none.
fn action(report: &mut Report, names: &Names, at: &Scope, path: &str, raw: &mut RawRoute) -> Option<Action> {
    let upstream = raw.upstream.take();
    let redirect = raw.redirect.take().filter(reshape::asks_redirect);
    let respond = raw.respond.take();
    let second = match (&upstream, &redirect, &respond) {
        (Some(_), Some(redirect), _) => Some(("upstream", "redirect", at.at(redirect))),
        (Some(_), None, Some(respond)) => Some(("upstream", "respond", at.at(respond))),
        (None, Some(redirect), Some(_)) => Some(("respond", "redirect", at.at(redirect))),
        _ => None,
    };
    if let Some((first, second, place)) = second {
        report.error(place, format!("`{}` has both `{first}` and `{second}`: choose one", at.path));
        return None;
    }
    if let (None, Some(rewrite)) = (&upstream, &raw.rewrite)
        && raw.split.is_none()
    {
        report.error(at.at(rewrite), format!("`{}.rewrite` needs an `upstream`", at.path));
    }
    if let Some(upstream) = upstream {
        return report.index(at, "upstreams", &names.upstreams, &upstream).map(Action::Upstream);
    }
    if let Some(raw) = redirect {
        return reshape::redirect(report, at, path, raw).map(|redirect| Action::Redirect(redirect.into()));
    }
    if let Some(value) = respond {
        let inner = at.inner("respond", &value);
        let respond = reshape::respond(report, &inner, path, value.into_inner());
        return respond.map(|respond| Action::Respond(respond.into()));
    }
    let asks_later = raw.split.as_ref().is_some_and(|key| key.get_ref().asks());
    if !asks_later
        && !["respond", "redirect"].iter().any(|key| report.was_dropped(&format!("{}.{key}", at.path)))
    {
        report.missing(at, "upstream", "upstream = \"orders\", or respond = { status = 404 }");
    }
    None
}

/// Who may call: `auth` or `public`, never both and never neither.
fn access(report: &mut Report, names: &Names, at: &Scope, raw: &mut RawRoute) -> (Vec<usize>, bool) {
    let public = raw.public.as_ref().is_some_and(|public| *public.get_ref());
    let listed = raw.auth.as_ref().is_some_and(|auth| !auth.get_ref().is_empty());
    if let Some(auth) = &raw.auth
        && public
    {
        report.error(at.at(auth), format!("`{}` has both `auth` and `public = true`: choose one", at.path));
    }
    let dropped = ["auth", "public"].iter().any(|key| report.was_dropped(&format!("{}.{key}", at.path)));
    if !public && !listed && !dropped {
        let message = format!("`{}` says neither `auth` nor `public = true`: who may call it?", at.path);
        report.error(at.here(), message);
    }
    (report.indices(at, "auth", &names.auth, raw.auth.take()), public)
}

fn permission(
    report: &mut Report,
    roles: &[Role],
    at: &Scope,
    value: Field<TextOr<BTreeMap<Spanned<String>, Spanned<String>>>>,
    methods: &[Arc<str>],
    public: bool,
) -> Permission {
    let Some(value) = value else { return Permission::None };
    let (span, inner) = (value.span(), at.inner("permission", &value));
    if public {
        report.error(at.at(&value), format!("`{}` is public, so nobody is asked for a permission", at.path));
    }
    match value.into_inner() {
        TextOr::Text(name) => {
            asked(report, roles, &inner, &Spanned::new(span, name)).map_or(Permission::None, Permission::All)
        }
        TextOr::More(table) => by_method(report, roles, &inner, &table, methods),
    }
}

fn by_method(
    report: &mut Report,
    roles: &[Role],
    at: &Scope,
    table: &BTreeMap<Spanned<String>, Spanned<String>>,
    methods: &[Arc<str>],
) -> Permission {
    if table.is_empty() {
        report.error(at.here(), format!("`{}` is empty: every method would be refused", at.path));
    }
    let mut permissions = Vec::new();
    for (key, name) in table {
        let Some(method) = method(report, at, key) else { continue };
        if !methods.is_empty() && !methods.contains(&method) {
            let message = format!("`{}` holds {method}, which the route does not match", at.path);
            report.error_with_hint(at.at(key), message, did_you_mean(&method, methods));
        }
        permissions.extend(asked(report, roles, at, name).map(|name| (method, name)));
    }
    let unlisted = methods.iter().find(|method| !table.keys().any(|key| key.get_ref() == method.as_ref()));
    if let Some(method) = unlisted {
        let message = format!("`{}` does not hold {method}, so {method} is always refused", at.path);
        report.warn(at.here(), message, None);
    }
    Permission::ByMethod(permissions)
}

/// A permission that a route asks for. It is odd when no role holds it.
fn asked(report: &mut Report, roles: &[Role], at: &Scope, name: &Spanned<String>) -> Option<Arc<str>> {
    let text = name.get_ref().as_str();
    if !is_permission(text) {
        report
            .error(at.at(name), format!("`{}` is {text:?}, not a permission such as `orders:read`", at.path));
        return None;
    }
    let held: Vec<&str> = roles.iter().flat_map(|role| role.permissions.iter().map(AsRef::as_ref)).collect();
    if !held.iter().any(|held| covers(held, text)) {
        let message = format!("no role holds the permission `{text}`, so `{}` lets nobody pass", at.path);
        report.warn(at.at(name), message, did_you_mean(text, &held));
    }
    Some(text.into())
}
