//! `kind = "oidc"`: login with OpenID Connect, and the two pages of the gateway's own that it needs.

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use toml::Spanned;
use zeroize::Zeroizing;

use super::{claims, endpoint, introspection, jwt, refuse_all_but};
use crate::config::{
    auth::{Auth, AuthKind, Jwt, JwtKeys, KeySource, Oidc, OwnPage},
    compile::upstream_tls::Authorities,
    files::{self, Holds},
    raw::{Field, RawAuth},
    report::{Report, Scope},
    types::{Action, Permission, Route, Secret},
};

const CALLBACK: &str = "/oauth2/callback";
const LOGOUT: &str = "/oauth2/logout";
const AFTER_LOGOUT: &str = "/";
const SCOPES: &str = "openid";
/// A session that is renewed again and again.
const SESSION: Duration = Duration::from_hours(12);
const SESSION_MAX: Duration = Duration::from_hours(24 * 30);
/// How long the token endpoint may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Of a cookie key, and how many may open what one has sealed.
const KEY_BYTES: usize = 32;
const KEYS_MAX: usize = 8;
/// Of the auth's own name.
const NAME_BYTES_MAX: usize = 48;
/// The longest form that is read: an issuer's logout token.
const FORM_BYTES_MAX: u64 = 16 * 1024;

pub(super) fn compile(
    report: &mut Report,
    at: &Scope,
    mut raw: RawAuth,
    authorities: &Authorities,
) -> Option<AuthKind> {
    let own = [
        "issuer",
        "client_id",
        "client_secret_file",
        "ca_file",
        "callback",
        "logout",
        "after_logout",
        "cookie_key_file",
        "request_scopes",
        "session",
        "timeout",
        "algorithms",
        "leeway",
        "consumer",
        "roles",
        "scopes",
        "forward",
    ];
    refuse_all_but(report, at, "oidc", &own, &raw);
    if let Some(forward) = raw.forward_credential.as_ref().filter(|forward| *forward.get_ref()) {
        let message = format!("`{}.forward_credential`: nobody else can read a session", at.path);
        report.error(at.at(forward), message);
    }
    // It names cookies, which have names below it.
    if at.name().len() > NAME_BYTES_MAX || at.name().contains('.') {
        let message = format!("`{}` names cookies: at most {NAME_BYTES_MAX} characters, and no dot", at.path);
        report.error(at.here(), message);
    }
    let mut claims = claims::rules(report, at, &mut raw, "sub");
    for (key, missing, example) in [
        ("issuer", raw.issuer.is_none(), "\"https://id.example.com\""),
        ("client_id", raw.client_id.is_none(), "\"web\""),
        (
            "cookie_key_file",
            raw.cookie_key_file.is_none(),
            "\"cookie.key\", lines of `openssl rand -base64 32`",
        ),
    ] {
        if missing {
            report.missing(at, key, example);
        }
    }
    let algorithms = jwt::algorithms(report, at, raw.algorithms.take());
    if algorithms.iter().any(|name| name.starts_with("HS")) {
        report.error(at.here(), format!("`{}.algorithms` holds HMACs, whose keys nobody publishes", at.path));
    }
    let issuer = raw.issuer.as_ref();
    let asked = issuer.and_then(|url| endpoint(report, at, "issuer", url, raw.ca_file.as_ref(), authorities));
    let callback = page(report, at, "callback", raw.callback.take(), CALLBACK);
    let logout = page(report, at, "logout", raw.logout.take(), LOGOUT);
    if callback.is_some() && callback == logout {
        report.error(at.here(), format!("`{}`: `callback` and `logout` are the same", at.path));
    }
    let after_logout = page(report, at, "after_logout", raw.after_logout.take(), AFTER_LOGOUT);
    let request_scopes = request_scopes(report, at, raw.request_scopes.take());
    let session = report.duration(at, "session", raw.session.as_ref(), SESSION);
    if let Some(value) = raw.session.as_ref().filter(|_| session > SESSION_MAX) {
        report.error(at.at(value), format!("`{}.session` is longer than 30 days", at.path));
    }
    let timeout = introspection::timeout(report, at, raw.timeout.as_ref(), TIMEOUT);
    let client_secret =
        raw.client_secret_file.as_ref().map(|file| introspection::secret(report, at, file).ok_or(()));
    let cookie_keys = raw.cookie_key_file.as_ref().and_then(|file| cookie_keys(report, at, file));
    let client_id: Arc<str> = raw.client_id?.into_inner().into();
    if let Some(claims) = &mut claims {
        claims.audiences = vec![client_id.clone()];
    }
    let issuer: Arc<str> = raw.issuer?.into_inner().into();
    let source = KeySource::Issuer { name: issuer.clone(), at: asked? };
    Some(AuthKind::Oidc(Box::new(Oidc {
        client_id,
        client_secret: client_secret.transpose().ok()?,
        callback: callback?,
        logout: logout?,
        after_logout: after_logout?,
        cookie_keys: cookie_keys?,
        request_scopes: request_scopes?,
        session,
        timeout,
        id_token: Jwt {
            issuer: Some(issuer),
            algorithms,
            leeway: raw.leeway.map_or(Duration::from_secs(30), |leeway| leeway.get_ref().0),
            claims: claims?,
            keys: JwtKeys::Fetched(Box::new(source)),
        },
    })))
}

/// A page of the hosts that use the auth: a path as it is sent, without parameters.
fn page(report: &mut Report, at: &Scope, key: &str, value: Field<String>, default: &str) -> Option<Arc<str>> {
    let Some(value) = value else { return Some(default.into()) };
    let path = value.get_ref().as_str();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte);
    let has_dots = path.split('/').any(|segment| matches!(segment, "." | ".."));
    if path.starts_with('/') && path.bytes().all(is_plain) && !path.contains("//") && !has_dots {
        return Some(path.into());
    }
    report.error(at.at(&value), format!("`{}.{key}` is {path:?}, not a path such as {default:?}", at.path));
    None
}

fn request_scopes(report: &mut Report, at: &Scope, list: Field<Vec<Spanned<String>>>) -> Option<Arc<str>> {
    let Some(list) = list else { return Some(SCOPES.into()) };
    // RFC 6749 §3.3
    let is_scope = |scope: &str| {
        !scope.is_empty() && scope.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\".contains(&byte))
    };
    let scopes: Vec<&str> = list.get_ref().iter().map(|scope| scope.get_ref().as_str()).collect();
    if scopes.iter().all(|scope| is_scope(scope)) && scopes.contains(&"openid") {
        return Some(scopes.join(" ").into());
    }
    let message =
        format!("`{}.request_scopes` has to be a list of scopes with \"openid\" among them", at.path);
    report.error(at.at(&list), message);
    None
}

fn cookie_keys(report: &mut Report, at: &Scope, file: &Spanned<String>) -> Option<Box<[Secret]>> {
    let path = report.resolve_path(at.source, file.get_ref());
    let read = read_keys(&path);
    read.map_err(|problem| report.error(at.at(file), format!("{} {problem}", path.display()))).ok()
}

/// A key in base64 on each line, the one that seals first; empty lines and those that begin with `#` count for nothing.
fn read_keys(path: &Path) -> Result<Box<[Secret]>, String> {
    let bytes = files::read(path, Holds::Secret)?;
    let text = str::from_utf8(&bytes).map_err(|_| "is not UTF-8".to_owned())?;
    let mut keys = Vec::new();
    for (number, line) in (1..).zip(text.lines().map(str::trim)) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let key = STANDARD.decode(line).map(Zeroizing::new).ok().filter(|key| key.len() == KEY_BYTES);
        let key = key.ok_or_else(|| format!("has no {KEY_BYTES} bytes in base64 in line {number}"))?;
        keys.push(Secret(key));
    }
    match keys.len() {
        0 => Err("holds no keys".to_owned()),
        1..=KEYS_MAX => Ok(keys.into()),
        _ => Err(format!("holds more than {KEYS_MAX} keys")),
    }
}

/// Callback and logout of every auth, on all hosts of the routes that use it, under the limits of all of them.
pub(in crate::config::compile) fn own_routes(auths: &[Auth], routes: &[Route]) -> Vec<Route> {
    let mut own = Vec::new();
    for (index, auth) in auths.iter().enumerate() {
        let AuthKind::Oidc(rules) = &auth.kind else { continue };
        let users = || routes.iter().filter(|route| route.auths.contains(&index));
        let hosts: BTreeSet<&Arc<str>> = users().flat_map(|route| &route.hosts).collect();
        let limits: BTreeSet<usize> = users().flat_map(|route| &route.limits).copied().collect();
        // A host that is named has paths of its own: a route for any host is not asked there.
        let named = Some(hosts.into_iter().cloned().collect()).filter(|hosts: &Vec<_>| !hosts.is_empty());
        let any = users().any(|route| route.hosts.is_empty()).then(Vec::new);
        for (hosts, suffix) in [(named, ""), (any, ".any")] {
            let Some(hosts) = hosts else { continue };
            for (page, path, methods) in [
                (OwnPage::Callback, &rules.callback, &["GET"][..]),
                (OwnPage::Logout, &rules.logout, &["GET", "POST"]),
            ] {
                own.push(Route {
                    name: format!("auth.{}.{}{suffix}", auth.name, page.label()).into(),
                    hosts: hosts.clone(),
                    path: path.clone(),
                    methods: methods.iter().map(|method| Arc::from(*method)).collect(),
                    action: Action::Own(index, page),
                    auths: Vec::new(),
                    public: true,
                    permission: Permission::None,
                    scopes: Vec::new(),
                    when: None,
                    limits: limits.iter().copied().collect(),
                    filter: None,
                    request_timeout: None,
                    body_size_bytes: Some(FORM_BYTES_MAX),
                    rewrite: None,
                    cors: None,
                    websocket: None,
                    compress: Vec::new(),
                });
            }
        }
    }
    own
}
