//! Tokens that only their holder may use: bound to a client's certificate (RFC 8705 §3) or to a key (RFC 9449 §6).
//!
//! Comes in: a token's claims, and later each request that shows it. Goes out: whether the request proves that it comes
//! from the holder. A token that was remembered is proven again each time. One that names a proof which is not known
//! here is refused: it was meant to be worth less to a thief.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use super::{
    AuthFailure, Peer,
    claims::{Claims, Json},
    dpop::{self, ProofFault},
    jwt::TokenFault,
    replay::Replays,
};
use crate::codec::RequestHead;

/// What a token's holder has to prove; at least one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Binding {
    /// SHA-256 of the certificate that the client shows.
    certificate: Option<[u8; 32]>,
    /// SHA-256 thumbprint (RFC 7638) of the key that signs each request.
    key: Option<[u8; 32]>,
}

/// How a token was presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    /// As one that whoever has it may use.
    Bearer,
    /// With a proof.
    Dpop,
}

impl Binding {
    /// What `cnf` asks for (RFC 7800 §3.1); none: nothing.
    ///
    /// # Errors
    /// It asks for what is not known here.
    pub(super) fn of(claims: &Claims) -> Result<Option<Self>, TokenFault> {
        let confirmation = match claims.get("cnf") {
            None => return Ok(None),
            Some(Json::Object(confirmation)) if !confirmation.is_empty() => confirmation,
            Some(_) => return Err(TokenFault::Confirmation),
        };
        let mut binding = Self { certificate: None, key: None };
        for (member, value) in confirmation {
            let place = match member.as_str() {
                "x5t#S256" => &mut binding.certificate,
                "jkt" => &mut binding.key,
                _ => return Err(TokenFault::Confirmation),
            };
            let digest = value.text().and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
            *place = Some(digest.and_then(|digest| digest.try_into().ok()).ok_or(TokenFault::Confirmation)?);
        }
        Ok(Some(binding))
    }
}

/// Whether a request may use `token`, which is good otherwise.
///
/// # Errors
/// The proof that the token asks for is missing or wrong, or it was presented with one that it does not ask for.
pub(super) fn check(
    binding: Option<Binding>,
    (token, scheme): (&[u8], Scheme),
    (head, peer): (&RequestHead<'_, '_>, &Peer<'_>),
    replays: &Replays,
    unix_s: u64,
) -> Result<(), AuthFailure> {
    let Binding { certificate, key } = binding.unwrap_or(Binding { certificate: None, key: None });
    if certificate.is_some() && certificate != peer.certificate.map(|shown| shown.sha256) {
        return Err(AuthFailure::Token(TokenFault::Confirmation));
    }
    match (key, scheme) {
        (None, Scheme::Bearer) => Ok(()),
        (Some(key), Scheme::Dpop) => dpop::check(&key, token, (head, peer), replays, unix_s),
        // RFC 9449 §7.1: a thief must not use it without the key by calling it a bearer's.
        (Some(_), Scheme::Bearer) => Err(AuthFailure::Proof(ProofFault::Absent)),
        (None, Scheme::Dpop) => Err(AuthFailure::Proof(ProofFault::Key)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::claims;

    #[track_caller]
    fn check_of(claims: &str, expected: Result<Option<Binding>, TokenFault>) {
        assert_eq!(Binding::of(&claims::parse(claims.as_bytes()).unwrap()), expected, "{claims}");
    }

    #[test]
    fn a_confirmation_is_understood_or_refused() {
        let digest = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE";
        let one = Some([1; 32]);
        check_of("{}", Ok(None));
        check_of(
            &format!(r#"{{"cnf":{{"jkt":"{digest}"}}}}"#),
            Ok(Some(Binding { certificate: None, key: one })),
        );
        let both = format!(r#"{{"cnf":{{"jkt":"{digest}","x5t#S256":"{digest}"}}}}"#);
        check_of(&both, Ok(Some(Binding { certificate: one, key: one })));
        for bad in [
            r#"{"cnf":null}"#,
            r#"{"cnf":{}}"#,
            r#"{"cnf":{"jkt":"AQ"}}"#,
            r#"{"cnf":{"jkt":1}}"#,
            r#"{"cnf":{"kid":"a"}}"#,
            &format!(r#"{{"cnf":{{"jkt":"{digest}","jwk":{{}}}}}}"#),
            &format!(r#"{{"cnf":{{"jkt":"{digest}="}}}}"#),
        ] {
            check_of(bad, Err(TokenFault::Confirmation));
        }
    }
}
