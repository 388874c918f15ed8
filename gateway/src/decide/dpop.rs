//! Demonstrating proof of possession (RFC 9449): a request signed with the key that its token is bound to.
//!
//! Comes in: the `DPoP` field of a request, the token and its key's thumbprint, who asks for what, the time. Goes out:
//! whether the proof is for this request and this token, and was not shown before. The key in the proof's header is
//! believed only because the token names its thumbprint. No nonces are given out: a proof is good for [`WINDOW_S`] at
//! most, and once.

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{
    Algorithm,
    jwk::{Jwk, ThumbprintHash},
};
use serde::Deserialize;

use super::{
    AuthFailure, Peer,
    authn::Presented,
    claims::{self, Claims, Json},
    jwt::{self, keys},
    replay::{Replays, Seen, WINDOW_S},
};
use crate::codec::{RequestHead, path::canonical};

/// The field that carries a proof.
pub(super) const FIELD: &str = "dpop";
/// Longest proof, in bytes: an RSA key of 8192 bits, its signature and some claims.
const PROOF_BYTES_MAX: usize = 4096;
/// Longest `jti`, in bytes.
const ID_BYTES_MAX: usize = 256;
/// How far a client's clock may be ahead of ours, in seconds.
const AHEAD_S: u64 = 15;

const _: () = assert!(AHEAD_S < WINDOW_S);

/// Algorithms that a proof may be signed with: none with a shared secret (RFC 9449 §4.3).
const ALGORITHMS: [(&str, Algorithm); 9] = [
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
];

/// Their names, for `WWW-Authenticate`.
pub(super) fn algorithms() -> String {
    ALGORITHMS.map(|(name, _)| name).join(" ")
}

/// Why a proof is none. The caller only learns `invalid_dpop_proof`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProofFault {
    /// The token asks for a proof, and there is none, or several.
    Absent,
    /// Not a JWT of the right type with all claims, or too long.
    Malformed,
    /// Its key is unusable, private, or not the one that the token names.
    Key,
    /// Its algorithm is none that may be used, or its signature is wrong.
    Signature,
    /// It is for another method or another URL.
    Request,
    /// It is for another token.
    Token,
    /// It is too old, or comes from the future.
    Time,
    /// It was shown before.
    Replayed,
}

#[derive(Deserialize)]
struct Header {
    jwk: Jwk,
}

/// Whether the request proves that it comes from the holder of the key that `thumbprint` names.
///
/// # Errors
/// It does not, or there is no room to remember that it did.
pub(super) fn check(
    thumbprint: &[u8; 32],
    token: &[u8],
    (head, peer): (&RequestHead<'_, '_>, &Peer<'_>),
    replays: &Replays,
    unix_s: u64,
) -> Result<(), AuthFailure> {
    let Presented::One(proof) = Presented::of(head.headers.all(FIELD)) else {
        return Err(AuthFailure::Proof(ProofFault::Absent));
    };
    let claims = verify(proof, thumbprint).map_err(AuthFailure::Proof)?;
    let id = check_claims(&claims, token, (head, peer), unix_s).map_err(AuthFailure::Proof)?;
    match replays.see((thumbprint, id), unix_s) {
        Seen::Never => Ok(()),
        Seen::Before => Err(AuthFailure::Proof(ProofFault::Replayed)),
        Seen::Full => Err(AuthFailure::Unavailable),
    }
}

/// The claims of a proof that the right key has signed.
fn verify(proof: &[u8], thumbprint: &[u8; 32]) -> Result<Claims, ProofFault> {
    if proof.len() > PROOF_BYTES_MAX {
        return Err(ProofFault::Malformed);
    }
    let parts = jwt::Parts::of(proof).ok_or(ProofFault::Malformed)?;
    let header = claims::parse(&parts.header).ok_or(ProofFault::Malformed)?;
    if header.get("typ").and_then(Json::text) != Some("dpop+jwt") || header.contains_key("crit") {
        return Err(ProofFault::Malformed);
    }
    let name = header.get("alg").and_then(Json::text).ok_or(ProofFault::Malformed)?;
    let algorithm = ALGORITHMS.iter().find(|(known, _)| *known == name).ok_or(ProofFault::Signature)?.1;
    match header.get("jwk") {
        // RFC 9449 §4.3, check 7: a private key would be everybody's by now.
        Some(Json::Object(key)) if !key.contains_key("d") && !key.contains_key("k") => {}
        _ => return Err(ProofFault::Key),
    }
    let Header { jwk } = serde_json::from_slice(&parts.header).map_err(|_| ProofFault::Key)?;
    let verifier = keys::verifier_of(&jwk, algorithm).ok_or(ProofFault::Key)?;
    let found = jwk.thumbprint(ThumbprintHash::SHA256).map_err(|_| ProofFault::Key)?;
    if found != URL_SAFE_NO_PAD.encode(thumbprint) {
        return Err(ProofFault::Key);
    }
    if !verifier.accepts(parts.message, &parts.signature) {
        return Err(ProofFault::Signature);
    }
    claims::parse(&parts.payload).ok_or(ProofFault::Malformed)
}

/// Checks 8 to 12 of RFC 9449 §4.3. Goes out: what makes the proof unlike any other.
fn check_claims<'c>(
    claims: &'c Claims,
    token: &[u8],
    (head, peer): (&RequestHead<'_, '_>, &Peer<'_>),
    unix_s: u64,
) -> Result<&'c str, ProofFault> {
    let text = |name: &str| claims.get(name).and_then(Json::text).ok_or(ProofFault::Malformed);
    let id = text("jti").ok().filter(|id| !id.is_empty() && id.len() <= ID_BYTES_MAX);
    let id = id.ok_or(ProofFault::Malformed)?;
    if text("htm")? != head.method || !is_for(text("htu")?, head, peer) {
        return Err(ProofFault::Request);
    }
    let Some(Json::Whole(issued_at_s)) = claims.get("iat") else { return Err(ProofFault::Malformed) };
    // What is remembered is remembered from when it was seen: a proof from the future would outlive it.
    let oldest_s = unix_s.saturating_sub(WINDOW_S - AHEAD_S);
    if !(oldest_s..=unix_s.saturating_add(AHEAD_S)).contains(issued_at_s) {
        return Err(ProofFault::Time);
    }
    if text("ath")? != URL_SAFE_NO_PAD.encode(digest(&SHA256, token)) {
        return Err(ProofFault::Token);
    }
    Ok(id)
}

/// Whether `url` is that of the request, but for query and fragment. In clear, TLS may have ended before us.
fn is_for(url: &str, head: &RequestHead<'_, '_>, peer: &Peer<'_>) -> bool {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = url.split_once("://") else { return false };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = if path.is_empty() { "/" } else { path };
    let is_https = scheme.eq_ignore_ascii_case("https");
    let scheme_fits = is_https || (!peer.tls && scheme.eq_ignore_ascii_case("http"));
    let default_port = if is_https { ":443" } else { ":80" };
    let bare = |authority: &str| -> String {
        authority.strip_suffix(default_port).unwrap_or(authority).to_ascii_lowercase()
    };
    scheme_fits
        && bare(authority) == bare(head.authority)
        && canonical(path).is_ok_and(|path| path == head.path)
}

#[cfg(test)]
mod tests;
