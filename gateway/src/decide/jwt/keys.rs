//! The keys that verify tokens (RFC 7517, RFC 7518 §6).
//!
//! Comes in: a JWK set or a key file, and the algorithms that are listed for it. Goes out: every key with the
//! algorithms that its type, its size and its own `alg` allow, made ready. Weak and broken keys are refused here, so
//! that a token is never checked against one. It sees no token.

use aws_lc_rs::{
    hmac,
    signature::{self, ParsedPublicKey, RsaParameters, RsaPublicKeyComponents},
};
use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind,
    jwk::{Jwk, JwkSet, KeyOperations, PublicKeyUse},
};

use crate::config;

const RSA_BITS_MIN: usize = 2048;
const RSA_BITS_MAX: usize = 8192;

/// One key and what it may be used for.
pub(super) struct Key {
    /// What tokens may call it.
    pub(super) kid: Option<Box<str>>,
    /// Every algorithm that this key may be used with.
    pub(super) verifiers: Box<[(Algorithm, Verifier)]>,
}

/// A key made ready for one algorithm.
pub(in crate::decide) enum Verifier {
    /// Of an asymmetric algorithm.
    Public(ParsedPublicKey),
    /// Of HMAC.
    Secret(Box<hmac::Key>),
}

/// All keys of a configured source that fit one of `algorithms`: at least one.
///
/// # Errors
/// A key is weak or unreadable, or none fits.
pub(super) fn compile(keys: &config::JwtKeys, algorithms: &[Algorithm]) -> Result<Box<[Key]>, &'static str> {
    let keys = match keys {
        config::JwtKeys::Jwks(text) => keys_of_set(text, algorithms)?,
        config::JwtKeys::Key(file) => vec![Key { kid: None, verifiers: key_of_file(&file.0, algorithms)? }],
    };
    let keys: Box<[Key]> = keys.into_iter().filter(|key| !key.verifiers.is_empty()).collect();
    if keys.is_empty() { Err("no key fits any of the algorithms") } else { Ok(keys) }
}

impl Verifier {
    /// Whether `signature` is this key's for `message`.
    pub(in crate::decide) fn accepts(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Verifier::Public(key) => key.verify_sig(message, signature).is_ok(),
            Verifier::Secret(key) => hmac::verify(key, message, signature).is_ok(),
        }
    }
}

/// The usable keys of a JWK set (RFC 7517 §5: unknown kinds of keys are passed over).
fn keys_of_set(text: &str, algorithms: &[Algorithm]) -> Result<Vec<Key>, &'static str> {
    let set: JwkSet = serde_json::from_str(text).map_err(|_| "the key set is no JSON Web Key Set")?;
    let signs = |jwk: &&Jwk| {
        let for_signatures = matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature));
        let verifies = |operations: &Vec<KeyOperations>| operations.contains(&KeyOperations::Verify);
        for_signatures && jwk.common.key_operations.as_ref().is_none_or(verifies)
    };
    let mut keys = Vec::new();
    for jwk in set.keys.iter().filter(signs) {
        let named: Option<Result<Algorithm, _>> = jwk.common.key_algorithm.map(TryInto::try_into);
        let allowed =
            |a: &&Algorithm| named.as_ref().is_none_or(|named| named.as_ref().is_ok_and(|n| n == *a));
        let allowed: Vec<Algorithm> = algorithms.iter().filter(allowed).copied().collect();
        let kid = jwk.common.key_id.as_deref().map(Into::into);
        if let Ok(key) = DecodingKey::from_jwk(jwk) {
            keys.push(Key { kid, verifiers: verifiers_of(&key, &allowed)? });
        }
    }
    Ok(keys)
}

/// A public key made ready for `algorithm`; none: it is not for that, or weak, or unreadable.
pub(in crate::decide) fn verifier_of(jwk: &Jwk, algorithm: Algorithm) -> Option<Verifier> {
    let key = DecodingKey::from_jwk(jwk).ok()?;
    let ready = verifiers_of(&key, &[algorithm]).ok()?;
    ready.into_iter().map(|(_, verifier)| verifier).next()
}

/// A PEM public key, else the octets of an HMAC secret.
fn key_of_file(file: &[u8], algorithms: &[Algorithm]) -> Result<Box<[(Algorithm, Verifier)]>, &'static str> {
    let text = str::from_utf8(file).unwrap_or_default();
    if !text.contains("-----BEGIN ") {
        return verifiers_of(&DecodingKey::from_secret(file), algorithms);
    }
    if !text.contains("-----BEGIN PUBLIC KEY-----") && !text.contains("-----BEGIN RSA PUBLIC KEY-----") {
        return Err("the PEM file holds no public key; a private key has no place at a gateway");
    }
    let key = DecodingKey::from_ec_pem(file)
        .or_else(|_| DecodingKey::from_ed_pem(file))
        .or_else(|_| DecodingKey::from_rsa_pem(file))
        .and_then(|key| DecodingKey::from_jwk(&Jwk::from_decoding_key(&key, None)?))
        .map_err(|_| "the PEM file's public key is unreadable or of an unknown kind")?;
    verifiers_of(&key, algorithms)
}

/// What a key verifies: those of `algorithms` that its type and size are for.
fn verifiers_of(
    key: &DecodingKey,
    algorithms: &[Algorithm],
) -> Result<Box<[(Algorithm, Verifier)]>, &'static str> {
    let mut verifiers = Vec::new();
    for algorithm in algorithms {
        let verifier = match (key.family(), key.kind()) {
            (AlgorithmFamily::Rsa, DecodingKeyKind::RsaModulusExponent { n, e }) => rsa(n, e, *algorithm)?,
            (AlgorithmFamily::Ec, DecodingKeyKind::SecretOrDer(point)) => ec(point, *algorithm)?,
            (AlgorithmFamily::Ed, DecodingKeyKind::SecretOrDer(point)) => ed(point, *algorithm)?,
            (AlgorithmFamily::Hmac, DecodingKeyKind::SecretOrDer(octets)) => secret(octets, *algorithm)?,
            _ => None,
        };
        verifiers.extend(verifier.map(|verifier| (*algorithm, verifier)));
    }
    Ok(verifiers.into())
}

fn rsa(modulus: &[u8], exponent: &[u8], algorithm: Algorithm) -> Result<Option<Verifier>, &'static str> {
    let parameters: &'static RsaParameters = match algorithm {
        Algorithm::RS256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        Algorithm::RS384 => &signature::RSA_PKCS1_2048_8192_SHA384,
        Algorithm::RS512 => &signature::RSA_PKCS1_2048_8192_SHA512,
        Algorithm::PS256 => &signature::RSA_PSS_2048_8192_SHA256,
        Algorithm::PS384 => &signature::RSA_PSS_2048_8192_SHA384,
        Algorithm::PS512 => &signature::RSA_PSS_2048_8192_SHA512,
        _ => return Ok(None),
    };
    // Some issuers write the sign octet that RFC 7518 §6.3.1.1 forbids.
    let zeros = modulus.iter().take_while(|byte| **byte == 0).count();
    let n = modulus.get(zeros..).unwrap_or_default();
    let bits = n.len() * 8 - n.first().map_or(0, |byte| byte.leading_zeros() as usize);
    if bits < RSA_BITS_MIN {
        return Err("an RSA key has fewer than 2048 bits");
    }
    if bits > RSA_BITS_MAX {
        return Err("an RSA key has more than 8192 bits");
    }
    let key = RsaPublicKeyComponents { n, e: exponent }.to_parsed_public_key(parameters);
    key.map(|key| Some(Verifier::Public(key))).map_err(|_| "an RSA key is unreadable")
}

fn ec(point: &[u8], algorithm: Algorithm) -> Result<Option<Verifier>, &'static str> {
    /// Octets of an uncompressed point: a tag and two coordinates.
    const P256_POINT: usize = 1 + 2 * 32;
    const P384_POINT: usize = 1 + 2 * 48;
    let curve = match (algorithm, point.len()) {
        (Algorithm::ES256, P256_POINT) => &signature::ECDSA_P256_SHA256_FIXED,
        (Algorithm::ES384, P384_POINT) => &signature::ECDSA_P384_SHA384_FIXED,
        _ => return Ok(None),
    };
    let key = ParsedPublicKey::new(curve, point);
    key.map(|key| Some(Verifier::Public(key))).map_err(|_| "an elliptic curve key is not on its curve")
}

fn ed(point: &[u8], algorithm: Algorithm) -> Result<Option<Verifier>, &'static str> {
    if algorithm != Algorithm::EdDSA {
        return Ok(None);
    }
    let key = ParsedPublicKey::new(&signature::ED25519, point);
    key.map(|key| Some(Verifier::Public(key))).map_err(|_| "an Ed25519 key is unreadable")
}

fn secret(octets: &[u8], algorithm: Algorithm) -> Result<Option<Verifier>, &'static str> {
    let algorithm = match algorithm {
        Algorithm::HS256 => hmac::HMAC_SHA256,
        Algorithm::HS384 => hmac::HMAC_SHA384,
        Algorithm::HS512 => hmac::HMAC_SHA512,
        _ => return Ok(None),
    };
    // RFC 7518 §3.2: a key as long as the hash, or longer.
    if octets.len() < algorithm.tag_len() {
        return Err("an HMAC secret is shorter than the hash of its algorithm");
    }
    Ok(Some(Verifier::Secret(Box::new(hmac::Key::new(algorithm, octets)))))
}
