//! JSON Web Tokens: whether one is good, and what it says (RFC 7515, 7519, best practice RFC 8725).
//!
//! Comes in: a compact token, the time, the keys and rules of one `[auth.*]`. Goes out: consumer, roles and headers
//! for the upstream, or the fault. What a token's header says only ever narrows the choice of keys:
//!
//! - An algorithm belongs to a key by the key's type, its own `alg` and the configured list, fixed when the policy is
//!   compiled. The header's `alg` picks among them, so `none` or a public key taken for an HMAC secret finds nothing.
//! - `kid` is compared, never opened, queried or fetched; `jku`, `jwk`, `x5u`, `x5c` are not looked at.
//! - `crit` is refused: no extension is understood here.
//!
//! `exp` is required and both times are whole numbers. It never reads a clock, a file or the network.

pub(super) mod keys;

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm;

use self::keys::{Key, Verifier};
use super::{
    Answer, AuthFailure, Identity,
    authz::RoleId,
    claims::{self, Claims, Json},
    holder,
    issuer::{Issuer, Outlook},
};
use crate::config;

/// Longest token, in bytes.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// Keys that a token without a `kid` is tried with; bounds the signatures checked for one request.
const KEYS_TRIED_MAX: usize = 4;
/// Times are before the year 10000, so that no sum overflows.
pub(super) const TIME_S_MAX: u64 = 253_402_300_799;

/// Why a token is not accepted. The caller only learns `invalid_token`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenFault {
    /// Longer than [`TOKEN_BYTES_MAX`].
    TooLong,
    /// Not three parts of canonical base64url, or not JSON objects without doubled members.
    Malformed,
    /// `crit` names extensions.
    Critical,
    /// Whoever has given it out does not stand by it.
    Inactive,
    /// No key has its `kid`.
    UnknownKey,
    /// No key that it may mean is for its `alg`.
    Algorithm,
    /// The signature is wrong.
    Signature,
    /// `exp` is missing or no whole number of seconds, or `nbf` is none.
    Time,
    /// `exp` has passed.
    Expired,
    /// `nbf` has not come.
    NotYetValid,
    /// `iss` is not the configured issuer.
    Issuer,
    /// `aud` holds none of the configured audiences.
    Audience,
    /// The consumer's claim is missing, empty, too long, no string, or has control characters.
    Consumer,
    /// It was not made for what it is shown for: another login, another session, no logout.
    Binding,
    /// `cnf` asks for a proof that is not known here, or the client's certificate is not the one that it names.
    Confirmation,
    /// A claim that becomes a header upstream is no scalar, or has bytes that a header may not carry.
    Forward,
}

/// The rules and keys of one `kind = "jwt"`, compiled.
pub struct Tokens {
    rules: config::Jwt,
    algorithms: Box<[Algorithm]>,
    keys: Keys,
}

enum Keys {
    /// Those of the configuration.
    Fixed(Box<[Key]>),
    /// Those that it has published last.
    Of(Arc<Issuer>),
}

impl Tokens {
    /// From the configuration.
    ///
    /// # Errors
    /// An algorithm that is none, a key that is weak or unreadable, or no key for any of the algorithms.
    pub fn compile(rules: &config::Jwt) -> Result<Tokens, &'static str> {
        let parse = |name: &Arc<str>| name.parse().map_err(|_| "algorithms: one is unknown or not supported");
        let algorithms: Box<[Algorithm]> = rules.algorithms.iter().map(parse).collect::<Result<_, _>>()?;
        let keys = match &rules.keys {
            config::JwtKeys::Jwks(text) => Keys::Fixed(keys::of_set(text, &algorithms)?),
            config::JwtKeys::Key(file) => Keys::Fixed(keys::of_file(&file.0, &algorithms)?),
            config::JwtKeys::Fetched(source) => Keys::Of(Arc::new(Issuer::new((**source).clone()))),
        };
        Ok(Tokens { rules: rules.clone(), algorithms, keys })
    }

    /// Whose keys count, where they are fetched.
    pub fn issuer(&self) -> Option<&Arc<Issuer>> {
        match &self.keys {
            Keys::Fixed(_) => None,
            Keys::Of(issuer) => Some(issuer),
        }
    }

    /// The same, to be replaced by one that knows its keys already.
    pub fn issuer_mut(&mut self) -> Option<&mut Arc<Issuer>> {
        match &mut self.keys {
            Keys::Fixed(_) => None,
            Keys::Of(issuer) => Some(issuer),
        }
    }

    /// What [`Tokens::check`] says, where it can be said: none means that the issuer may have other keys by now, and
    /// has to be asked.
    pub fn judge(&self, token: &[u8], unix_s: u64, role: &dyn Fn(&str) -> Option<RoleId>) -> Option<Answer> {
        // Before the keys are looked at: what is asked meanwhile is in them.
        let outlook = self.issuer().map(|issuer| issuer.outlook(unix_s));
        let checked = self.check(token, unix_s, role);
        match (checked, outlook) {
            (Err(TokenFault::UnknownKey), Some(Outlook::MayHaveOthers)) => None,
            (Err(TokenFault::UnknownKey), Some(Outlook::Silent)) => Some(Err(AuthFailure::Unavailable)),
            (checked, _) => Some(checked.map_err(AuthFailure::Token)),
        }
    }

    /// What `token` says, if it is good at `unix_s`; `role` finds a role by its name.
    ///
    /// # Errors
    /// The first fault found.
    pub fn check(
        &self,
        token: &[u8],
        unix_s: u64,
        role: &dyn Fn(&str) -> Option<RoleId>,
    ) -> Result<Identity, TokenFault> {
        let (claims, good_until_s) = self.claims(token, unix_s)?;
        Ok(Identity { good_until_s, ..self.read(claims, role)? })
    }

    /// Whose claims they are; until when they are good is left open.
    ///
    /// # Errors
    /// They make nobody known.
    pub(super) fn read(
        &self,
        claims: Claims,
        role: &dyn Fn(&str) -> Option<RoleId>,
    ) -> Result<Identity, TokenFault> {
        holder::read(&self.rules.claims, claims, role)
    }

    /// What a token says that is good, and until when, whoever it makes known.
    ///
    /// # Errors
    /// The first fault found.
    pub(super) fn claims(&self, token: &[u8], unix_s: u64) -> Result<(Claims, u64), TokenFault> {
        let claims = match self.verify(token) {
            // The issuer is not asked about what would not be good with any key.
            Err(TokenFault::UnknownKey) => {
                self.check_claims(&payload_of(token)?, unix_s)?;
                return Err(TokenFault::UnknownKey);
            }
            verified => verified?,
        };
        let good_until_s = self.check_claims(&claims, unix_s)?;
        Ok((claims, good_until_s))
    }

    /// The claims, once their signature is known to be good.
    fn verify(&self, token: &[u8]) -> Result<Claims, TokenFault> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenFault::TooLong);
        }
        let parts = Parts::of(token).ok_or(TokenFault::Malformed)?;
        let header = claims::parse(&parts.header).ok_or(TokenFault::Malformed)?;
        let said;
        let keys = match &self.keys {
            Keys::Fixed(keys) => keys,
            Keys::Of(issuer) => {
                said = issuer.said().ok_or(TokenFault::UnknownKey)?;
                said.keys()
            }
        };
        let verifiers = self.verifiers(keys, &header)?;
        if !verifiers.iter().any(|verifier| verifier.accepts(parts.message, &parts.signature)) {
            return Err(TokenFault::Signature);
        }
        claims::parse(&parts.payload).ok_or(TokenFault::Malformed)
    }

    /// The verifiers that a header may mean: never none, at most [`KEYS_TRIED_MAX`].
    fn verifiers<'k>(&self, keys: &'k [Key], header: &Claims) -> Result<Vec<&'k Verifier>, TokenFault> {
        // RFC 7515 §4.1.11: an extension that is not understood makes the token invalid, and none is.
        if header.contains_key("crit") {
            return Err(TokenFault::Critical);
        }
        let kid = match header.get("kid") {
            None => None,
            Some(kid) => Some(kid.text().ok_or(TokenFault::Malformed)?),
        };
        let alg = header.get("alg").and_then(Json::text).ok_or(TokenFault::Malformed)?;
        let alg: Algorithm = alg.parse().map_err(|_| TokenFault::Algorithm)?;
        let meant = |key: &&Key| kid.is_none() || key.kid.is_none() || key.kid.as_deref() == kid;
        let mut keys = keys.iter().filter(meant).peekable();
        keys.peek().ok_or(TokenFault::UnknownKey)?;
        if !self.algorithms.contains(&alg) {
            return Err(TokenFault::Algorithm);
        }
        let of_alg = keys.filter_map(|key| key.verifiers.iter().find(|(a, _)| *a == alg).map(|(_, v)| v));
        let verifiers: Vec<&Verifier> = of_alg.take(KEYS_TRIED_MAX).collect();
        if verifiers.is_empty() { Err(TokenFault::Algorithm) } else { Ok(verifiers) }
    }

    /// Until when the claims are good for us.
    fn check_claims(&self, claims: &Claims, unix_s: u64) -> Result<u64, TokenFault> {
        let good_until_s = self.check_times(claims, unix_s)?;
        if let Some(issuer) = &self.rules.issuer
            && claims.get("iss").and_then(Json::text) != Some(issuer)
        {
            return Err(TokenFault::Issuer);
        }
        holder::check_audience(&self.rules.claims, claims)?;
        Ok(good_until_s)
    }

    /// RFC 7519 §4.1.4 and §4.1.5, with the configured leeway both ways. Goes out: when it has expired for us.
    fn check_times(&self, claims: &Claims, unix_s: u64) -> Result<u64, TokenFault> {
        let leeway_s = self.rules.leeway.as_secs().min(TIME_S_MAX);
        let time = |claim: &Json| match claim {
            Json::Whole(seconds) if *seconds <= TIME_S_MAX => Ok(*seconds),
            _ => Err(TokenFault::Time),
        };
        let good_until_s = time(claims.get("exp").ok_or(TokenFault::Time)?)? + leeway_s;
        if unix_s >= good_until_s {
            return Err(TokenFault::Expired);
        }
        let not_before_s = claims.get("nbf").map(time).transpose()?;
        if not_before_s.is_some_and(|not_before_s| not_before_s > unix_s.saturating_add(leeway_s)) {
            return Err(TokenFault::NotYetValid);
        }
        Ok(good_until_s)
    }
}

/// The claims of a token, whether or not they are to be believed.
fn payload_of(token: &[u8]) -> Result<Claims, TokenFault> {
    let parts = Parts::of(token).ok_or(TokenFault::Malformed)?;
    claims::parse(&parts.payload).ok_or(TokenFault::Malformed)
}

/// The parts of a compact token (RFC 7515 §3.1), decoded.
pub(super) struct Parts<'t> {
    /// JSON, if the token is one.
    pub(super) header: Vec<u8>,
    /// JSON as well.
    pub(super) payload: Vec<u8>,
    /// Of `message`.
    pub(super) signature: Vec<u8>,
    /// What is signed.
    pub(super) message: &'t [u8],
}

impl<'t> Parts<'t> {
    /// None: it is not three parts of canonical base64url.
    pub(super) fn of(token: &'t [u8]) -> Option<Self> {
        let (message, signature) = split_last_dot(token)?;
        let (header, payload) = split_last_dot(message)?;
        let (header, payload) = (decode(header)?, decode(payload)?);
        Some(Self { header, payload, signature: decode(signature)?, message })
    }
}

fn split_last_dot(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let dot = text.iter().rposition(|byte| *byte == b'.')?;
    Some((text.get(..dot)?, text.get(dot + 1..)?))
}

/// Base64url without padding, and only in its canonical spelling.
pub(super) fn decode(text: &[u8]) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod vector_tests;
