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
    jwk::{Jwk, KeyOperations, PublicKeyUse},
};
use serde::Deserialize;

const RSA_BITS_MIN: usize = 2048;
const RSA_BITS_MAX: usize = 8192;
/// Keys of a set that an issuer publishes.
const FETCHED_MAX: usize = 256;
/// Algorithms whose keys may be published.
const PUBLIC: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// One key and what it may be used for.
pub(in crate::decide) struct Key {
    /// What tokens may call it.
    pub(in crate::decide) kid: Option<Box<str>>,
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

/// The keys of a JWK set that fit one of `algorithms`: at least one.
///
/// # Errors
/// A key is weak or unreadable, or none fits.
pub(super) fn of_set(text: &str, algorithms: &[Algorithm]) -> Result<Box<[Key]>, &'static str> {
    let set = read_set(text.as_bytes())?;
    usable(set.iter().filter_map(|jwk| key_of_jwk(jwk, algorithms).transpose()).collect::<Result<_, _>>()?)
}

/// The same of a key file.
pub(super) fn of_file(file: &[u8], algorithms: &[Algorithm]) -> Result<Box<[Key]>, &'static str> {
    usable(vec![Key { kid: None, verifiers: key_of_file(file, algorithms)? }])
}

/// The keys of a set that an issuer publishes: at least one. Weak and broken ones are passed over, since one of them must
/// not keep the others out, and so are secrets, which nobody publishes.
///
/// # Errors
/// It is no set, has too many keys, or none of use.
pub(in crate::decide) fn of_issuer(jwks: &[u8]) -> Result<Box<[Key]>, &'static str> {
    let set = read_set(jwks)?;
    if set.len() > FETCHED_MAX {
        return Err("the key set has too many keys");
    }
    usable(set.iter().filter_map(|jwk| key_of_jwk(jwk, &PUBLIC).ok().flatten()).collect())
}

fn usable(keys: Vec<Key>) -> Result<Box<[Key]>, &'static str> {
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

/// The keys of a JWK set (RFC 7517 §5: unknown kinds of keys, and what is not understood of them, are passed over).
fn read_set(jwks: &[u8]) -> Result<Vec<Jwk>, &'static str> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<serde_json::Value>,
    }
    let set: Set = serde_json::from_slice(jwks).map_err(|_| "the key set is no JSON Web Key Set")?;
    Ok(set.keys.into_iter().filter_map(|key| serde_json::from_value(key).ok()).collect())
}

/// None: it is not for signatures, or of a kind that is not known here.
fn key_of_jwk(jwk: &Jwk, algorithms: &[Algorithm]) -> Result<Option<Key>, &'static str> {
    let for_signatures = matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature));
    let verifies = |operations: &Vec<KeyOperations>| operations.contains(&KeyOperations::Verify);
    if !for_signatures || !jwk.common.key_operations.as_ref().is_none_or(verifies) {
        return Ok(None);
    }
    let named: Option<Result<Algorithm, _>> = jwk.common.key_algorithm.map(TryInto::try_into);
    let allowed = |a: &&Algorithm| named.as_ref().is_none_or(|named| named.as_ref().is_ok_and(|n| n == *a));
    let allowed: Vec<Algorithm> = algorithms.iter().filter(allowed).copied().collect();
    let kid = jwk.common.key_id.as_deref().map(Into::into);
    let Ok(key) = DecodingKey::from_jwk(jwk) else { return Ok(None) };
    Ok(Some(Key { kid, verifiers: verifiers_of(&key, &allowed)? }))
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
