//! `kind = "jwt"`
//!
//! A key and its algorithms are bound here, not by what a token says: a public key never serves as an HMAC secret,
//! and one file never holds both kinds (RFC 8725 section 3.1).

use std::{sync::Arc, time::Duration};

use toml::Spanned;

use super::{header_name, refuse_all_but};
use crate::config::{
    auth::{AuthKind, Jwt, JwtKeys},
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

pub(super) fn compile(report: &mut Report, at: &Scope, raw: RawAuth) -> Option<AuthKind> {
    report.later(at, &[("jwks_url", &raw.jwks_url), ("scopes", &raw.scopes)]);
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
    ];
    refuse_all_but(report, at, "jwt", &own, &raw);
    let algorithms = algorithms(report, at, raw.algorithms);
    let keys = jwt_keys(report, at, raw.jwks_file, raw.key_file, raw.jwks_url.is_some(), &algorithms);
    let forward = raw.forward.map(Spanned::into_inner).unwrap_or_default();
    let forward = forward.into_iter().filter_map(|(header, claim)| {
        let header = header_name(report, at, &header)?;
        Some((header, claim_path(report, at, "forward", claim)?))
    });
    let forward = forward.collect();
    let consumer = raw.consumer.map_or_else(|| Some("sub".into()), |c| claim_path(report, at, "consumer", c));
    Some(AuthKind::Jwt(Box::new(Jwt {
        issuer: raw.issuer.map(|issuer| issuer.into_inner().into()),
        audiences: raw
            .audiences
            .map(Spanned::into_inner)
            .unwrap_or_default()
            .into_iter()
            .map(|audience| audience.into_inner().into())
            .collect(),
        algorithms,
        // Unlike other durations it may be nothing at all.
        leeway: raw.leeway.map_or(Duration::from_secs(30), |leeway| leeway.get_ref().0),
        consumer: consumer?,
        roles: raw.roles.and_then(|roles| claim_path(report, at, "roles", roles)),
        forward,
        keys: keys?,
    })))
}

fn algorithms(report: &mut Report, at: &Scope, list: Field<Vec<Spanned<String>>>) -> Vec<Arc<str>> {
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

fn jwt_keys(
    report: &mut Report,
    at: &Scope,
    jwks_file: Field<String>,
    key_file: Field<String>,
    has_url: bool,
    algorithms: &[Arc<str>],
) -> Option<JwtKeys> {
    match (jwks_file, key_file) {
        (Some(jwks), None) => {
            let path = report.resolve_path(at.source, jwks.get_ref());
            match read_jwks(&path) {
                Ok(text) => Some(JwtKeys::Jwks(text)),
                Err(problem) => {
                    report.error(at.at(&jwks), format!("{} {problem}", path.display()));
                    None
                }
            }
        }
        (None, Some(key)) => {
            let path = report.resolve_path(at.source, key.get_ref());
            match read_key(&path, algorithms) {
                Ok(key) => Some(JwtKeys::Key(key)),
                Err(problem) => {
                    report.error(at.at(&key), format!("{} {problem}", path.display()));
                    None
                }
            }
        }
        (Some(_), Some(key)) => {
            report
                .error(at.at(&key), format!("`{}` has both `jwks_file` and `key_file`: choose one", at.path));
            None
        }
        (None, None) => {
            let dropped =
                ["jwks_file", "key_file"].iter().any(|k| report.was_dropped(&format!("{}.{k}", at.path)));
            if !has_url && !dropped {
                let message = format!(
                    "`{}` needs `jwks_file` or `key_file`: keys from the issuer's discovery document are not supported yet",
                    at.path
                );
                report.error(at.here(), message);
            }
            None
        }
    }
}

/// A JWK set (RFC 7517 section 5). One with symmetric keys is a secret.
fn read_jwks(path: &std::path::Path) -> Result<Arc<str>, String> {
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
fn read_key(path: &std::path::Path, algorithms: &[Arc<str>]) -> Result<Secret, String> {
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

/// A path of claims, with dots between.
fn claim_path(report: &mut Report, at: &Scope, key: &str, path: Spanned<String>) -> Option<Arc<str>> {
    if path.get_ref().split('.').all(|part| !part.is_empty()) {
        return Some(path.into_inner().into());
    }
    report.error(
        at.at(&path),
        format!("`{}.{key}` is {:?}, not a claim such as `sub`", at.path, path.get_ref()),
    );
    None
}
