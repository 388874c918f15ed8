//! Every check of RFC 9449 §4.3: a good proof, and each that differs from it in one thing.

use std::{hash::RandomState, sync::LazyLock};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair},
};
use serde_json::{Value, json};

use super::*;
use crate::decide::testing::{NOW_S, peer, signed, with_head};

static EC: LazyLock<EcdsaKeyPair> =
    LazyLock::new(|| EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap());
static ED: LazyLock<Ed25519KeyPair> = LazyLock::new(|| Ed25519KeyPair::generate().unwrap());

const TOKEN: &[u8] = b"a.token.of-some-kind";

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn ec_jwk() -> Value {
    let point = EC.public_key().as_ref();
    json!({ "kty": "EC", "crv": "P-256", "x": b64(&point[1..33]), "y": b64(&point[33..]) })
}

fn ed_jwk() -> Value {
    json!({ "kty": "OKP", "crv": "Ed25519", "x": b64(ED.public_key().as_ref()) })
}

/// RFC 7638 §3, by hand.
fn thumbprint_of(jwk: &Value) -> [u8; 32] {
    let member = |name: &str| jwk[name].as_str().unwrap();
    let canonical = match member("kty") {
        "EC" => format!(r#"{{"crv":"P-256","kty":"EC","x":"{}","y":"{}"}}"#, member("x"), member("y")),
        _ => format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, member("x")),
    };
    digest(&SHA256, canonical.as_bytes()).as_ref().try_into().unwrap()
}

fn header() -> Value {
    json!({ "typ": "dpop+jwt", "alg": "ES256", "jwk": ec_jwk() })
}

fn payload() -> Value {
    json!({
        "jti": "one", "htm": "GET", "htu": "https://api.example/orders/1", "iat": NOW_S,
        "ath": b64(digest(&SHA256, TOKEN)),
    })
}

fn proof(header: &Value, payload: &Value) -> String {
    signed(&header.to_string(), &payload.to_string(), |message| {
        EC.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
    })
}

fn with(mut object: Value, name: &str, value: Value) -> Value {
    object[name] = value;
    object
}

fn without(mut object: Value, name: &str) -> Value {
    object.as_object_mut().unwrap().remove(name);
    object
}

/// Of `GET /orders/1`, whose `DPoP` fields are `proofs`.
fn checked(jwk: &Value, proofs: &[&str], replays: &Replays) -> Result<(), AuthFailure> {
    let fields: Vec<String> = proofs.iter().map(|proof| format!("DPoP: {proof}")).collect();
    let request = format!("GET /orders/1?a=b HTTP/1.1\n{}", fields.join("\n"));
    with_head(&request, |head| check(&thumbprint_of(jwk), TOKEN, (head, &peer(None)), replays, NOW_S))
}

#[track_caller]
fn check_proof(proof: &str, expected: Result<(), ProofFault>) {
    let replays = Replays::new(RandomState::new());
    assert_eq!(checked(&ec_jwk(), &[proof], &replays), expected.map_err(AuthFailure::Proof));
}

#[test]
fn a_proof_is_good_once() {
    let (good, replays) = (proof(&header(), &payload()), Replays::new(RandomState::new()));
    assert_eq!(checked(&ec_jwk(), &[&good], &replays), Ok(()));
    assert_eq!(checked(&ec_jwk(), &[&good], &replays), Err(AuthFailure::Proof(ProofFault::Replayed)));
    let again = proof(&header(), &payload());
    assert_eq!(checked(&ec_jwk(), &[&again], &replays), Err(AuthFailure::Proof(ProofFault::Replayed)));
    let next = proof(&header(), &with(payload(), "jti", json!("two")));
    assert_eq!(checked(&ec_jwk(), &[&next], &replays), Ok(()));
    let ed = json!({ "typ": "dpop+jwt", "alg": "EdDSA", "jwk": ed_jwk() });
    let ed = signed(&ed.to_string(), &payload().to_string(), |message| ED.sign(message).as_ref().to_vec());
    assert_eq!(checked(&ed_jwk(), &[&ed], &replays), Ok(()), "another key's ids are its own");
}

#[test]
fn there_is_exactly_one() {
    let (good, replays) = (proof(&header(), &payload()), Replays::new(RandomState::new()));
    let absent = Err(AuthFailure::Proof(ProofFault::Absent));
    assert_eq!(checked(&ec_jwk(), &[], &replays), absent);
    assert_eq!(checked(&ec_jwk(), &[&good, &good], &replays), absent);
}

#[test]
fn it_is_a_proof_and_has_all_claims() {
    check_proof("", Err(ProofFault::Malformed));
    check_proof("a.b.c", Err(ProofFault::Malformed));
    check_proof(&"a".repeat(PROOF_BYTES_MAX + 1), Err(ProofFault::Malformed));
    check_proof(&proof(&with(header(), "typ", json!("JWT")), &payload()), Err(ProofFault::Malformed));
    check_proof(&proof(&without(header(), "typ"), &payload()), Err(ProofFault::Malformed));
    check_proof(&proof(&with(header(), "crit", json!(["x"])), &payload()), Err(ProofFault::Malformed));
    for claim in ["jti", "htm", "htu", "iat", "ath"] {
        check_proof(&proof(&header(), &without(payload(), claim)), Err(ProofFault::Malformed));
    }
    check_proof(&proof(&header(), &with(payload(), "jti", json!(""))), Err(ProofFault::Malformed));
    check_proof(
        &proof(&header(), &with(payload(), "jti", json!("j".repeat(257)))),
        Err(ProofFault::Malformed),
    );
    check_proof(&proof(&header(), &with(payload(), "jti", json!("j".repeat(256)))), Ok(()));
    check_proof(&proof(&header(), &with(payload(), "iat", json!("1"))), Err(ProofFault::Malformed));
}

#[test]
fn the_key_is_public_and_the_one_that_the_token_names() {
    let private = with(ec_jwk(), "d", json!("AQ"));
    check_proof(&proof(&with(header(), "jwk", private), &payload()), Err(ProofFault::Key));
    check_proof(&proof(&with(header(), "jwk", ed_jwk()), &payload()), Err(ProofFault::Key));
    check_proof(&proof(&without(header(), "jwk"), &payload()), Err(ProofFault::Key));
    let replays = Replays::new(RandomState::new());
    let stranger = checked(&ed_jwk(), &[&proof(&header(), &payload())], &replays);
    assert_eq!(stranger, Err(AuthFailure::Proof(ProofFault::Key)));
}

#[test]
fn it_is_signed_with_that_key() {
    check_proof(&proof(&with(header(), "alg", json!("none")), &payload()), Err(ProofFault::Signature));
    check_proof(&proof(&with(header(), "alg", json!("HS256")), &payload()), Err(ProofFault::Signature));
    check_proof(&proof(&with(header(), "alg", json!("RS256")), &payload()), Err(ProofFault::Key));
    let good = proof(&header(), &payload());
    let other = proof(&header(), &with(payload(), "jti", json!("other")));
    let (message, _) = good.rsplit_once('.').unwrap();
    let (_, signature) = other.rsplit_once('.').unwrap();
    check_proof(&format!("{message}.{signature}"), Err(ProofFault::Signature));
}

#[test]
fn it_is_for_this_request() {
    let url = |url: &str| proof(&header(), &with(payload(), "htu", json!(url)));
    for same in [
        "https://api.example/orders/1?else=1#there",
        "HTTPS://API.example:443/orders/1",
        "https://api.example/orders/%31",
    ] {
        check_proof(&url(same), Ok(()));
    }
    for other in [
        "https://api.example/orders/2",
        "https://api.example/orders",
        "https://api.example",
        "https://api.example:444/orders/1",
        "https://api.example.net/orders/1",
        "http://api.example/orders/1",
        "/orders/1",
        "",
    ] {
        check_proof(&url(other), Err(ProofFault::Request));
    }
    check_proof(&proof(&header(), &with(payload(), "htm", json!("POST"))), Err(ProofFault::Request));
    check_proof(&proof(&header(), &with(payload(), "htm", json!("get"))), Err(ProofFault::Request));
}

#[test]
fn it_is_for_this_token_and_fresh() {
    let other = b64(digest(&SHA256, b"another.token"));
    check_proof(&proof(&header(), &with(payload(), "ath", json!(other))), Err(ProofFault::Token));
    let at = |iat_s: u64| proof(&header(), &with(payload(), "iat", json!(iat_s)));
    check_proof(&at(NOW_S + AHEAD_S), Ok(()));
    check_proof(&at(NOW_S + AHEAD_S + 1), Err(ProofFault::Time));
    check_proof(&at(NOW_S + AHEAD_S - WINDOW_S), Ok(()));
    check_proof(&at(NOW_S + AHEAD_S - WINDOW_S - 1), Err(ProofFault::Time));
}
