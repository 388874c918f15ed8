//! `kind = "jwt"`
//!
//! A key and its algorithms are bound here, not by what a token says: a public key never serves as an HMAC secret,
//! and one file never holds both kinds (RFC 8725 section 3.1).

use std::{path::Path, sync::Arc, time::Duration};

use toml::Spanned;

use super::{claims, endpoint, refuse_all_but};
use crate::config::{
    auth::{AuthKind, Jwt, JwtKeys, KeySource},
    compile::upstream_tls::Authorities,
    files::{self, Holds},
    raw::{Field, RawAuth},
    report::{Report, Scope, did_you_mean},
    types::Secret,
};

/// Signatures that are checked with a public key.
const PUBLIC_KEY_ALGORITHMS: [&str; 9] =
    ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];

/// HMACs, and the shortest secret that each may have, in bytes (RFC 7518 section 3.2).
const SECRET_ALGORITHMS: [(&str, usize); 3] = [("HS256", 32), ("HS384", 48), ("HS512", 64)];

/// What is accepted when nobody says otherwise.
const ALGORITHMS: [&str; 3] = ["RS256", "ES256", "EdDSA"];

pub(super) fn compile(
    report: &mut Report,
    at: &Scope,
    mut raw: RawAuth,
    authorities: &Authorities,
) -> Option<AuthKind> {
    let own = [
        "issuer",
        "audiences",
        "algorithms",
        "leeway",
        "consumer",
        "roles",
        "scopes",
        "forward",
        "jwks_file",
        "jwks_url",
        "key_file",
        "ca_file",
    ];
    refuse_all_but(report, at, "jwt", &own, &raw);
    let claims = claims::rules(report, at, &mut raw, "sub");
    let algorithms = algorithms(report, at, raw.algorithms);
    let sources = Sources {
        issuer: raw.issuer.as_ref(),
        jwks_file: raw.jwks_file.as_ref(),
        key_file: raw.key_file.as_ref(),
        jwks_url: raw.jwks_url.as_ref(),
    };
    let keys = sources.keys(report, at, &algorithms, (raw.ca_file, authorities));
    Some(AuthKind::Jwt(Box::new(Jwt {
        issuer: raw.issuer.map(|issuer| issuer.into_inner().into()),
        algorithms,
        // Unlike other durations it may be nothing at all.
        leeway: raw.leeway.map_or(Duration::from_secs(30), |leeway| leeway.get_ref().0),
        claims: claims?,
        keys: keys?,
    })))
}

pub(super) fn algorithms(
    report: &mut Report,
    at: &Scope,
    list: Field<Vec<Spanned<String>>>,
) -> Vec<Arc<str>> {
    let Some(list) = list else { return ALGORITHMS.map(Arc::from).to_vec() };
    let place = at.at(&list);
    let mut algorithms: Vec<Arc<str>> = Vec::new();
    let known: Vec<&str> =
        PUBLIC_KEY_ALGORITHMS.into_iter().chain(SECRET_ALGORITHMS.map(|(name, _)| name)).collect();
    let mut refused = false;
    for name in list.into_inner() {
        let text = name.get_ref().as_str();
        refused |= !known.contains(&text);
        if text.eq_ignore_ascii_case("none") {
            report.error(
                at.at(&name),
                format!("`{}.algorithms` never holds `none`: it is no signature", at.path),
            );
        } else if known.contains(&text) {
            algorithms.push(text.into());
        } else {
            let message = format!("`{}.algorithms` holds {text:?}, which is none of {known:?}", at.path);
            report.error_with_hint(at.at(&name), message, did_you_mean(text, &known));
        }
    }
    let secret = algorithms.iter().filter(|a| secret_bytes_min(a).is_some()).count();
    if algorithms.is_empty() && !refused {
        report.error(place, format!("`{}.algorithms` is empty: no token could ever pass", at.path));
    } else if secret != 0 && secret != algorithms.len() {
        let message =
            format!("`{}.algorithms` mixes HMACs with signatures: one key cannot serve both", at.path);
        report.error(place, message);
    }
    algorithms
}

fn secret_bytes_min(algorithm: &str) -> Option<usize> {
    SECRET_ALGORITHMS.iter().find(|(name, _)| *name == algorithm).map(|(_, bytes)| *bytes)
}

/// Where keys may come from: one of these, or the issuer itself.
struct Sources<'r> {
    issuer: Option<&'r Spanned<String>>,
    jwks_file: Option<&'r Spanned<String>>,
    key_file: Option<&'r Spanned<String>>,
    jwks_url: Option<&'r Spanned<String>>,
}

impl Sources<'_> {
    fn keys(
        &self,
        report: &mut Report,
        at: &Scope,
        algorithms: &[Arc<str>],
        (ca_file, authorities): (Field<String>, &Authorities),
    ) -> Option<JwtKeys> {
        let named = [("jwks_file", self.jwks_file), ("key_file", self.key_file), ("jwks_url", self.jwks_url)];
        let mut given = named.into_iter().filter_map(|(key, value)| Some((key, value?)));
        let (first, second) = (given.next(), given.next());
        if let (Some((first, _)), Some((second, value))) = (first, second) {
            report
                .error(at.at(value), format!("`{}` has both `{first}` and `{second}`: choose one", at.path));
            return None;
        }
        let from = |report: &mut Report, key: &str, url: &Spanned<String>| {
            if algorithms.iter().any(|algorithm| secret_bytes_min(algorithm).is_some()) {
                let message = format!(
                    "`{}.{key}` is where keys are fetched, but HMACs need a secret that nobody publishes",
                    at.path
                );
                report.error(at.at(url), message);
                return None;
            }
            endpoint(report, at, key, url, ca_file.as_ref(), authorities)
        };
        if let (Some((key, _)), Some(ca_file)) = (first, &ca_file)
            && key != "jwks_url"
        {
            report.error(at.at(ca_file), format!("`{}.ca_file` has no meaning with `{key}`", at.path));
        }
        match (first, self.issuer) {
            (Some(("jwks_url", url)), _) => {
                let source = KeySource::Jwks(from(report, "jwks_url", url)?);
                Some(JwtKeys::Fetched(Box::new(source)))
            }
            (Some(("jwks_file", file)), _) => read_with(report, at, file, read_jwks).map(JwtKeys::Jwks),
            (Some((_, file)), _) => {
                read_with(report, at, file, |path| read_key(path, algorithms)).map(JwtKeys::Key)
            }
            (None, Some(issuer)) => {
                let endpoint = from(report, "issuer", issuer)?;
                if endpoint.url.target.contains('?') {
                    report.error(
                        at.at(issuer),
                        format!("`{}.issuer` has a query, which no issuer has", at.path),
                    );
                    return None;
                }
                let source = KeySource::Issuer { name: issuer.get_ref().as_str().into(), at: endpoint };
                Some(JwtKeys::Fetched(Box::new(source)))
            }
            (None, None) => {
                let keys = ["issuer", "jwks_file", "key_file", "jwks_url"];
                if !keys.iter().any(|key| report.was_dropped(&format!("{}.{key}", at.path))) {
                    let message = format!(
                        "`{}` needs `issuer`, from where keys are fetched, or `jwks_url`, `jwks_file` or `key_file`",
                        at.path
                    );
                    report.error(at.here(), message);
                }
                None
            }
        }
    }
}

fn read_with<T>(
    report: &mut Report,
    at: &Scope,
    file: &Spanned<String>,
    read: impl FnOnce(&Path) -> Result<T, String>,
) -> Option<T> {
    let path = report.resolve_path(at.source, file.get_ref());
    let read = read(&path);
    read.map_err(|problem| report.error(at.at(file), format!("{} {problem}", path.display()))).ok()
}

/// A JWK set (RFC 7517 section 5). One with symmetric keys is a secret.
fn read_jwks(path: &Path) -> Result<Arc<str>, String> {
    let bytes = files::read(path, Holds::Public)?;
    let set: serde_json::Value = serde_json::from_slice(&bytes).map_err(|e| format!("is not JSON: {e}"))?;
    let keys =
        set.get("keys").and_then(|keys| keys.as_array()).ok_or("is not a JWK set: it has no list `keys`")?;
    if keys.is_empty() {
        return Err("holds no keys".to_owned());
    }
    let is_secret = |key: &serde_json::Value| key.get("kty").and_then(|kty| kty.as_str()) == Some("oct");
    let is_private = |key: &serde_json::Value| key.get("d").is_some();
    if keys.iter().any(|key| is_secret(key) || is_private(key)) {
        files::read(path, Holds::Secret)?;
    }
    String::from_utf8(bytes.to_vec()).map(Arc::from).map_err(|_| "is not UTF-8".to_owned())
}

/// A public key in PEM, or the octets of an HMAC secret.
fn read_key(path: &Path, algorithms: &[Arc<str>]) -> Result<Secret, String> {
    let bytes_min = algorithms.iter().filter_map(|a| secret_bytes_min(a)).max();
    let mut key = files::read(path, if bytes_min.is_some() { Holds::Secret } else { Holds::Public })?;
    let is_pem = key.windows(11).any(|window| window == b"-----BEGIN ");
    let is_private = key.windows(12).any(|window| window == b"PRIVATE KEY-");
    match bytes_min {
        Some(_) if is_pem => Err("holds PEM, but an HMAC needs a shared secret".to_owned()),
        Some(bytes_min) => {
            // Text ends in a newline that is no part of the secret; in random bytes it would be one.
            if let Some((b'\n', text)) = key.split_last()
                && text.iter().all(u8::is_ascii_graphic)
            {
                let length = text.len();
                key.truncate(length);
            }
            if key.len() < bytes_min {
                return Err(format!("holds {} bytes, but these algorithms need {bytes_min}", key.len()));
            }
            Ok(Secret(key))
        }
        None if is_private => Err("holds a private key; a gateway needs the public one only".to_owned()),
        None if !is_pem => Err("does not hold a public key in PEM".to_owned()),
        None => Ok(Secret(key)),
    }
}
