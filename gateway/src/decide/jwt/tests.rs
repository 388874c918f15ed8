//! Tokens that are good, and every bad one of rows 67 to 80 of the list of attacks that a gateway without network
//! can meet. Keys are made here; each bad token differs from a good one in the one thing that its test names.

use std::{sync::LazyLock, time::Duration};

use aws_lc_rs::{
    encoding::AsDer,
    hmac,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaEncoding, RsaKeyPair, RsaPublicKeyComponents,
    },
};
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::json;
use zeroize::Zeroizing;

use super::*;
use crate::decide::testing::{NOW_S, TOKEN_SECRET, signed, token_rules};

static RSA: LazyLock<RsaKeyPair> = LazyLock::new(|| RsaKeyPair::generate(KeySize::Rsa2048).unwrap());
static OTHER_RSA: LazyLock<RsaKeyPair> = LazyLock::new(|| RsaKeyPair::generate(KeySize::Rsa2048).unwrap());
static EC: LazyLock<EcdsaKeyPair> =
    LazyLock::new(|| EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).unwrap());
static ED: LazyLock<Ed25519KeyPair> = LazyLock::new(|| Ed25519KeyPair::generate().unwrap());

fn rsa_sign(key: &RsaKeyPair, encoding: &'static dyn RsaEncoding, message: &[u8]) -> Vec<u8> {
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(encoding, &SystemRandom::new(), message, &mut signature).unwrap();
    signature
}

fn rs256(message: &[u8]) -> Vec<u8> {
    rsa_sign(&RSA, &signature::RSA_PKCS1_SHA256, message)
}

fn es256(message: &[u8]) -> Vec<u8> {
    EC.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
}

fn eddsa(message: &[u8]) -> Vec<u8> {
    ED.sign(message).as_ref().to_vec()
}

fn hs256_with(key: &[u8]) -> impl Fn(&[u8]) -> Vec<u8> {
    move |message| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref().to_vec()
}

fn hs256(message: &[u8]) -> Vec<u8> {
    hs256_with(TOKEN_SECRET)(message)
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn rsa_jwk(key: &RsaKeyPair, rest: &serde_json::Value) -> serde_json::Value {
    let public = RsaPublicKeyComponents::<Vec<u8>>::from(key.public_key());
    with(json!({"kty": "RSA", "n": b64(public.n), "e": b64(public.e)}), rest)
}

fn ec_jwk() -> serde_json::Value {
    let point = EC.public_key().as_ref();
    json!({"kty": "EC", "crv": "P-256", "kid": "ec", "x": b64(&point[1..33]), "y": b64(&point[33..])})
}

fn ed_jwk() -> serde_json::Value {
    json!({"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": b64(ED.public_key().as_ref())})
}

fn with(mut object: serde_json::Value, rest: &serde_json::Value) -> serde_json::Value {
    object.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    object
}

fn jwks(keys: &[serde_json::Value]) -> config::JwtKeys {
    config::JwtKeys::Jwks(json!({ "keys": keys }).to_string().into())
}

fn all_keys() -> config::JwtKeys {
    jwks(&[rsa_jwk(&RSA, &json!({"kid": "rsa", "alg": "RS256"})), ec_jwk(), ed_jwk()])
}

fn pem(key: &RsaKeyPair) -> Vec<u8> {
    let der = AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(key.public_key()).unwrap();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der.as_ref()))
        .into()
}

fn rules(algorithms: &[&str], keys: config::JwtKeys) -> config::Jwt {
    config::Jwt { algorithms: algorithms.iter().map(|a| (*a).into()).collect(), keys, ..token_rules() }
}

fn public_rules() -> config::Jwt {
    rules(&["RS256", "PS256", "ES256", "EdDSA"], all_keys())
}

fn claims() -> String {
    json!({"sub": "bob", "exp": NOW_S + 60}).to_string()
}

fn role(name: &str) -> Option<RoleId> {
    ["reader", "clerk"].iter().position(|each| *each == name).map(|at| u16::try_from(at).unwrap())
}

fn verify(rules: &config::Jwt, token: impl AsRef<[u8]>) -> Result<Identity, TokenFault> {
    Tokens::compile(rules).ok().unwrap().check(token.as_ref(), NOW_S, &role)
}

#[track_caller]
fn check(rules: &config::Jwt, token: impl AsRef<[u8]>, expected: Result<(), TokenFault>) {
    assert_eq!(verify(rules, token).map(|_| ()), expected);
}

/// A HS256 token with these claims, under `rules`.
#[track_caller]
fn check_claims(rules: &config::Jwt, claims: &str, expected: Result<(), TokenFault>) {
    check(rules, signed(r#"{"alg":"HS256"}"#, claims, hs256), expected);
}

#[test]
fn every_kind_of_key_verifies_its_own_tokens() {
    let rules = public_rules();
    check(&rules, signed(r#"{"alg":"RS256","kid":"rsa","typ":"JWT"}"#, &claims(), rs256), Ok(()));
    check(&rules, signed(r#"{"alg":"ES256","kid":"ec"}"#, &claims(), es256), Ok(()));
    check(&rules, signed(r#"{"alg":"EdDSA","kid":"ed"}"#, &claims(), eddsa), Ok(()));
    check(&rules, signed(r#"{"alg":"EdDSA"}"#, &claims(), eddsa), Ok(()));
    check(&token_rules(), signed(r#"{"alg":"HS256"}"#, &claims(), hs256), Ok(()));
    let from_pem = self::rules(&["RS256"], config::JwtKeys::Key(config::Secret(Zeroizing::new(pem(&RSA)))));
    check(&from_pem, signed(r#"{"alg":"RS256"}"#, &claims(), rs256), Ok(()));
    let pss = self::rules(&["PS256"], jwks(&[rsa_jwk(&RSA, &json!({}))]));
    let sign = |message: &[u8]| rsa_sign(&RSA, &signature::RSA_PSS_SHA256, message);
    check(&pss, signed(r#"{"alg":"PS256"}"#, &claims(), sign), Ok(()));
}

#[test]
fn row_67_none_in_any_case_is_refused() {
    for alg in ["none", "None", "NONE", "nOnE", ""] {
        let header = json!({"alg": alg}).to_string();
        check(&public_rules(), signed(&header, &claims(), |_| Vec::new()), Err(TokenFault::Algorithm));
        check(&token_rules(), signed(&header, &claims(), hs256), Err(TokenFault::Algorithm));
    }
    for header in ["{}", r#"{"alg":null}"#, r#"{"alg":["HS256"]}"#] {
        check(&token_rules(), signed(header, &claims(), hs256), Err(TokenFault::Malformed));
    }
}

#[test]
fn row_68_a_public_key_is_never_an_hmac_secret() {
    let pem = pem(&RSA);
    let keys = config::JwtKeys::Key(config::Secret(Zeroizing::new(pem.clone())));
    let header = r#"{"alg":"HS256","kid":"rsa"}"#;
    // Also where the operator lists HS256 beside RS256.
    let rules = rules(&["RS256", "HS256"], keys);
    let components = RsaPublicKeyComponents::<Vec<u8>>::from(RSA.public_key());
    for secret in
        [pem.clone(), pem.trim_ascii().to_vec(), components.n.clone(), b64(components.n).into_bytes()]
    {
        check(&rules, signed(header, &claims(), hs256_with(&secret)), Err(TokenFault::Algorithm));
        check(&public_rules(), signed(header, &claims(), hs256_with(&secret)), Err(TokenFault::Algorithm));
    }
}

#[test]
fn row_69_an_algorithm_belongs_to_a_key_and_not_to_a_header() {
    let rules = public_rules();
    // The key's own alg is RS256: PS256 is listed, and still not for this key.
    let pss = |message: &[u8]| rsa_sign(&RSA, &signature::RSA_PSS_SHA256, message);
    check(&rules, signed(r#"{"alg":"PS256","kid":"rsa"}"#, &claims(), pss), Err(TokenFault::Algorithm));
    check(&rules, signed(r#"{"alg":"ES256","kid":"ed"}"#, &claims(), es256), Err(TokenFault::Algorithm));
    check(&rules, signed(r#"{"alg":"ES256","kid":"rsa"}"#, &claims(), es256), Err(TokenFault::Algorithm));
    let rs512 = |message: &[u8]| rsa_sign(&RSA, &signature::RSA_PKCS1_SHA512, message);
    check(&rules, signed(r#"{"alg":"RS512","kid":"rsa"}"#, &claims(), rs512), Err(TokenFault::Algorithm));
    check(&rules, signed(r#"{"alg":"rs256","kid":"rsa"}"#, &claims(), rs256), Err(TokenFault::Algorithm));
}

#[test]
fn row_70_keys_in_or_behind_the_header_are_not_looked_at() {
    let other = |message: &[u8]| rsa_sign(&OTHER_RSA, &signature::RSA_PKCS1_SHA256, message);
    let own_key = rsa_jwk(&OTHER_RSA, &json!({"kid": "rsa"}));
    for (name, value) in [
        ("jwk", own_key),
        ("jku", json!("https://attacker.example/jwks.json")),
        ("x5u", json!("https://attacker.example/chain.pem")),
        ("x5c", json!(["MIIB"])),
    ] {
        let header = with(json!({"alg": "RS256", "kid": "rsa"}), &json!({ name: value })).to_string();
        check(&public_rules(), signed(&header, &claims(), other), Err(TokenFault::Signature));
        check(&public_rules(), signed(&header, &claims(), rs256), Ok(()));
    }
}

#[test]
fn row_71_a_kid_is_only_compared() {
    for kid in [
        "../../../../dev/null",
        "' UNION SELECT 'a",
        "https://attacker.example/k",
        "/proc/self/environ",
        "",
        "RSA",
    ] {
        let header = json!({"alg": "RS256", "kid": kid}).to_string();
        check(&public_rules(), signed(&header, &claims(), rs256), Err(TokenFault::UnknownKey));
    }
    for kid in [json!(1), json!(null), json!(["rsa"]), json!({"rsa": 1})] {
        let header = json!({"alg": "RS256", "kid": kid}).to_string();
        check(&public_rules(), signed(&header, &claims(), rs256), Err(TokenFault::Malformed));
    }
}

/// Rules whose keys are fetched, and the issuer that has none so far.
fn fetched() -> (Tokens, Arc<Issuer>) {
    let url = config::Url::parse("http://127.0.0.1:1/jwks").unwrap();
    let source = config::KeySource::Jwks(config::Endpoint { url, tls: None });
    let mut rules = rules(&["ES256", "EdDSA"], config::JwtKeys::Fetched(Box::new(source)));
    rules.issuer = Some("https://id.example".into());
    let tokens = Tokens::compile(&rules).ok().unwrap();
    let issuer = Arc::clone(tokens.issuer().unwrap());
    (tokens, issuer)
}

#[test]
fn row_72_an_unknown_key_is_asked_about_unless_that_was_done_a_moment_ago() {
    let (tokens, issuer) = fetched();
    let claims = |iss: &str, exp: u64| json!({"sub": "bob", "iss": iss, "exp": exp}).to_string();
    let ours = claims("https://id.example", NOW_S + 60);
    let signed_by =
        |kid: &str, claims: &str| signed(&json!({"alg": "ES256", "kid": kid}).to_string(), claims, es256);
    let judge = |token: &str, unix_s: u64| {
        tokens.judge(token.as_bytes(), unix_s, &role).map(|answer| answer.map(|_| ()))
    };
    let unknown = Some(Err(AuthFailure::Token(TokenFault::UnknownKey)));
    let good = signed_by("ec", &ours);
    assert_eq!(judge(&good, NOW_S), None, "nothing is known yet");
    issuer.failed(NOW_S);
    assert_eq!(judge(&good, NOW_S), Some(Err(AuthFailure::Unavailable)), "it may well be good");
    let set = json!({"keys": [ec_jwk(), ed_jwk(), rsa_jwk(&RSA, &json!({"kid": "rsa"}))]}).to_string();
    issuer.take(Claims::new(), set.as_bytes(), NOW_S).unwrap();
    assert_eq!(judge(&good, NOW_S), Some(Ok(())));
    assert_eq!(judge(&signed_by("new", &ours), NOW_S), unknown);
    assert_eq!(judge(&signed_by("new", &ours), NOW_S + 30), None);
    assert_eq!(judge(&signed_by("ec", &claims("https://id.example", NOW_S + 90)), NOW_S + 60), Some(Ok(())));
    issuer.failed(NOW_S + 30);
    assert_eq!(judge(&good, NOW_S + 30), Some(Ok(())), "fault row 26: the last good keys stay");
    assert_eq!(judge(&signed_by("new", &ours), NOW_S + 30), Some(Err(AuthFailure::Unavailable)));

    // What would be good with no key is not worth a question.
    let fault =
        |token: &str, fault| assert_eq!(judge(token, NOW_S + 40), Some(Err(AuthFailure::Token(fault))));
    fault(&signed_by("new", &claims("https://id.example", NOW_S)), TokenFault::Expired);
    fault(&signed_by("new", &claims("https://other.example", NOW_S + 60)), TokenFault::Issuer);
    fault(&signed_by("new", "{}"), TokenFault::Time);
    fault("e30.e30.e30", TokenFault::Malformed);
    // The set has an RSA key, but the configuration has no algorithm for it.
    let header = json!({"alg": "RS256", "kid": "rsa"}).to_string();
    fault(&signed(&header, &ours, rs256), TokenFault::Algorithm);
    fault(&signed(&header, &ours, hs256), TokenFault::Algorithm);
}

#[test]
fn row_74_times_are_whole_numbers_and_exp_is_required() {
    let with_exp = |exp: &str| format!(r#"{{"sub":"bob","exp":{exp}}}"#);
    let check = |exp: &str, expected| check_claims(&token_rules(), &with_exp(exp), expected);
    check_claims(&token_rules(), r#"{"sub":"bob"}"#, Err(TokenFault::Time));
    let string = format!("\"{}\"", NOW_S + 60);
    for exp in [
        &string,
        "null",
        "true",
        "[1]",
        "-1",
        "1e30",
        "18446744073709551616",
        "18446744073709551615",
        "2e9",
        "1900000000.5",
        "253402300800",
    ] {
        check(exp, Err(TokenFault::Time));
    }
    check("NaN", Err(TokenFault::Malformed));
    check("1e999", Err(TokenFault::Malformed));
    check("253402300799", Ok(()));
    check(&(NOW_S + 1).to_string(), Ok(()));
    check(&NOW_S.to_string(), Err(TokenFault::Expired));
    check("0", Err(TokenFault::Expired));
}

#[test]
fn row_74_not_before_is_honoured_and_leeway_forgives_both_ways() {
    let claims = |exp: u64, nbf: u64| format!(r#"{{"sub":"bob","exp":{exp},"nbf":{nbf}}}"#);
    let strict = token_rules();
    check_claims(&strict, &claims(NOW_S + 60, NOW_S), Ok(()));
    check_claims(&strict, &claims(NOW_S + 60, NOW_S + 1), Err(TokenFault::NotYetValid));
    check_claims(&strict, &format!(r#"{{"sub":"b","exp":{},"nbf":"0"}}"#, NOW_S + 60), Err(TokenFault::Time));
    let lenient = config::Jwt { leeway: Duration::from_secs(30), ..token_rules() };
    check_claims(&lenient, &claims(NOW_S - 29, NOW_S + 30), Ok(()));
    check_claims(&lenient, &claims(NOW_S - 30, 0), Err(TokenFault::Expired));
    check_claims(&lenient, &claims(NOW_S + 60, NOW_S + 31), Err(TokenFault::NotYetValid));
    let endless = config::Jwt { leeway: Duration::MAX, ..token_rules() };
    check_claims(&endless, &claims(0, 253_402_300_799), Ok(()));
}

#[test]
fn row_75_issuer_and_audience_are_exact() {
    let mut rules = config::Jwt { issuer: Some("https://id.example".into()), ..token_rules() };
    rules.claims.audiences = vec!["orders".into(), "stock".into()];
    let check = |iss: serde_json::Value, aud: serde_json::Value, expected| {
        let claims = json!({"sub": "bob", "exp": NOW_S + 60, "iss": iss, "aud": aud});
        check_claims(&rules, &claims.to_string(), expected);
    };
    let iss = json!("https://id.example");
    check(iss.clone(), json!("orders"), Ok(()));
    check(iss.clone(), json!(["other", "stock"]), Ok(()));
    for bad in ["https://id.example/", "HTTPS://id.example", "https://id.example.attacker.example", ""] {
        check(json!(bad), json!("orders"), Err(TokenFault::Issuer));
    }
    check(json!(["https://id.example"]), json!("orders"), Err(TokenFault::Issuer));
    check(json!(null), json!("orders"), Err(TokenFault::Issuer));
    for bad in [
        json!("order"),
        json!("orders "),
        json!([]),
        json!(null),
        json!(["other"]),
        json!(["orders", 1]),
        json!({"orders": 1}),
    ] {
        check(iss.clone(), bad, Err(TokenFault::Audience));
    }
    check_claims(&rules, &claims(), Err(TokenFault::Issuer));
}

#[test]
fn row_76_an_extension_that_must_be_understood_is_not() {
    for crit in [json!(["exp"]), json!(["b64"]), json!([]), json!(null), json!("x")] {
        let header = json!({"alg": "HS256", "crit": crit, "b64": true}).to_string();
        check(&token_rules(), signed(&header, &claims(), hs256), Err(TokenFault::Critical));
    }
}

#[test]
fn row_77_doubled_members_are_refused_in_header_and_claims() {
    let rules = token_rules();
    check(&rules, signed(r#"{"alg":"none","alg":"HS256"}"#, &claims(), hs256), Err(TokenFault::Malformed));
    let doubled = format!(r#"{{"sub":"bob","sub":"admin","exp":{}}}"#, NOW_S + 60);
    check_claims(&rules, &doubled, Err(TokenFault::Malformed));
    let escaped = format!(r#"{{"sub":"bob","\u0073ub":"admin","exp":{}}}"#, NOW_S + 60);
    check_claims(&rules, &escaped, Err(TokenFault::Malformed));
}

/// Order of P-256. As r and s it is zero to a reader that reduces first (kin of CVE-2022-21449).
const ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa,
    0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];

#[test]
fn row_78_zero_and_empty_signatures_prove_nothing() {
    for (header, len) in [
        (r#"{"alg":"ES256","kid":"ec"}"#, 64),
        (r#"{"alg":"EdDSA","kid":"ed"}"#, 64),
        (r#"{"alg":"RS256","kid":"rsa"}"#, 256),
    ] {
        for signature in [Vec::new(), vec![0; len], vec![0xff; len], vec![0; len - 1], vec![0; len + 1]] {
            check(&public_rules(), signed(header, &claims(), |_| signature), Err(TokenFault::Signature));
        }
    }
    let psychic = signed(r#"{"alg":"ES256","kid":"ec"}"#, &claims(), |_| [ORDER, ORDER].concat());
    check(&public_rules(), psychic, Err(TokenFault::Signature));
    check(
        &token_rules(),
        signed(r#"{"alg":"HS256"}"#, &claims(), |_| vec![0; 32]),
        Err(TokenFault::Signature),
    );
    let truncated = |message: &[u8]| hs256(message)[..16].to_vec();
    check(&token_rules(), signed(r#"{"alg":"HS256"}"#, &claims(), truncated), Err(TokenFault::Signature));
}

#[track_caller]
fn refuses_to_compile(rules: &config::Jwt, expected: &str) {
    let reason = Tokens::compile(rules).err().unwrap();
    assert!(reason.contains(expected), "{reason}");
}

#[test]
fn row_79_weak_keys_are_refused_when_the_policy_is_compiled() {
    let rsa_of_bits = |bits: usize| {
        let mut modulus = vec![0xff; bits.div_ceil(8)];
        modulus[0] = 0xff >> (bits.div_ceil(8) * 8 - bits);
        rules(&["RS256"], jwks(&[json!({"kty": "RSA", "n": b64(modulus), "e": "AQAB"})]))
    };
    for bits in [512, 1024, 2040, 2047] {
        refuses_to_compile(&rsa_of_bits(bits), "fewer than 2048");
    }
    Tokens::compile(&rsa_of_bits(2048)).ok().unwrap();
    refuses_to_compile(&rsa_of_bits(8193), "more than 8192");
    // A modulus does not grow by zeros in front.
    let padded = [vec![0; 200], vec![0xff; 128]].concat();
    let padded = rules(&["RS256"], jwks(&[json!({"kty": "RSA", "n": b64(padded), "e": "AQAB"})]));
    refuses_to_compile(&padded, "fewer than 2048");
    let short = config::JwtKeys::Key(config::Secret(Zeroizing::new(vec![7; 31])));
    refuses_to_compile(&rules(&["HS256"], short), "shorter");
    let for_256 = config::JwtKeys::Key(config::Secret(Zeroizing::new(vec![7; 32])));
    refuses_to_compile(&rules(&["HS512"], for_256), "shorter");
}

#[test]
fn keys_that_cannot_be_used_are_refused_when_the_policy_is_compiled() {
    let key = |text: &str| config::JwtKeys::Key(config::Secret(Zeroizing::new(text.as_bytes().to_vec())));
    refuses_to_compile(&rules(&["none"], all_keys()), "algorithms");
    refuses_to_compile(&rules(&[], all_keys()), "no key fits");
    refuses_to_compile(&rules(&["HS256"], all_keys()), "no key fits");
    refuses_to_compile(&rules(&["RS256"], jwks(&[])), "no key fits");
    refuses_to_compile(&rules(&["RS256"], config::JwtKeys::Jwks("<html>".into())), "no JSON Web Key Set");
    refuses_to_compile(&rules(&["RS256"], jwks(&[rsa_jwk(&RSA, &json!({"use": "enc"}))])), "no key fits");
    refuses_to_compile(
        &rules(&["RS256"], jwks(&[rsa_jwk(&RSA, &json!({"key_ops": ["encrypt"]}))])),
        "no key fits",
    );
    refuses_to_compile(
        &rules(&["RS256"], jwks(&[rsa_jwk(&RSA, &json!({"alg": "RSA-OAEP"}))])),
        "no key fits",
    );
    refuses_to_compile(
        &rules(&["RS256"], key("-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----")),
        "private",
    );
    refuses_to_compile(
        &rules(&["RS256"], key("-----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----")),
        "unreadable",
    );
    let off_curve = json!({"kty": "EC", "crv": "P-256", "x": b64([1; 32]), "y": b64([1; 32])});
    refuses_to_compile(&rules(&["ES256"], jwks(&[off_curve])), "not on its curve");
    // RFC 7517 §5: a key of an unknown kind does not spoil the set.
    let unknown = json!({"kty": "XYZ", "kid": "x"});
    Tokens::compile(&rules(&["EdDSA"], jwks(&[unknown, ed_jwk()]))).ok().unwrap();
}

#[test]
fn row_80_base64url_has_one_spelling() {
    let good = signed(r#"{"alg":"RS256","kid":"rsa"}"#, &claims(), rs256);
    check(&public_rules(), &good, Ok(()));
    // 256 bytes leave four bits in the last character, which a lenient reader ignores.
    let (rest, last) = good.split_at(good.len() - 1);
    let next = char::from(last.as_bytes()[0] + 1);
    let malformed = Err(TokenFault::Malformed);
    check(&public_rules(), format!("{rest}{next}"), malformed);
    check(&public_rules(), format!("{good}=="), malformed);
    check(&public_rules(), format!("{good}\n"), malformed);
    check(&public_rules(), format!(" {good}"), malformed);
    check(&public_rules(), good.replacen('.', "=.", 1), malformed);
    let standard: String = good.replace('-', "+").replace('_', "/");
    assert_eq!(verify(&public_rules(), &standard).is_ok(), standard == good);
}

#[test]
fn a_token_has_three_parts_and_a_bounded_length() {
    let rules = token_rules();
    for token in ["", ".", "..", "...", "a.b", "a.b.c", "e30.e30.", "e30.e30.e30.e30.e30"] {
        check(&rules, token, Err(TokenFault::Malformed));
    }
    // Pads the claims until the token has this many bytes.
    let of_len = |len: usize| {
        let base = signed(r#"{"alg":"HS256"}"#, &claims(), hs256).len();
        let padding = |n: usize| json!({"sub": "bob", "exp": NOW_S + 60, "pad": "x".repeat(n)}).to_string();
        let tokens =
            (0..len).map(|n| signed(r#"{"alg":"HS256"}"#, &padding(n + (len - base) * 3 / 4 - 20), hs256));
        tokens.take(40).find(|token| token.len() >= len).unwrap()
    };
    let fits = of_len(TOKEN_BYTES_MAX - 2);
    assert!(fits.len() <= TOKEN_BYTES_MAX, "{}", fits.len());
    check(&rules, fits, Ok(()));
    check(&rules, of_len(TOKEN_BYTES_MAX + 1), Err(TokenFault::TooLong));
}

#[test]
fn a_consumer_is_a_bounded_name() {
    let check = |sub: serde_json::Value, expected| {
        check_claims(&token_rules(), &json!({"sub": sub, "exp": NOW_S + 60}).to_string(), expected);
    };
    check(json!("a"), Ok(()));
    check(json!("x".repeat(config::CONSUMER_BYTES_MAX)), Ok(()));
    check(json!("Zoë"), Ok(()));
    for bad in [
        json!("x".repeat(config::CONSUMER_BYTES_MAX + 1)),
        json!(""),
        json!(7),
        json!(null),
        json!(["a"]),
        json!("a\nb"),
        json!("a\u{0}"),
    ] {
        check(bad, Err(TokenFault::Consumer));
    }
    check_claims(&token_rules(), &json!({"exp": NOW_S + 60}).to_string(), Err(TokenFault::Consumer));
}

#[test]
fn roles_are_found_by_path_and_unknown_ones_are_ignored() {
    let mut rules = token_rules();
    rules.claims.roles = Some("realm_access.roles".into());
    let check = |roles: serde_json::Value, expected: &[RoleId]| {
        let claims = json!({"sub": "bob", "exp": NOW_S + 60, "realm_access": {"roles": roles}}).to_string();
        let token = signed(r#"{"alg":"HS256"}"#, &claims, hs256);
        assert_eq!(*verify(&rules, token).unwrap().roles, *expected);
    };
    check(json!(["reader", "gone", 7, "clerk"]), &[0, 1]);
    check(json!("clerk"), &[1]);
    check(json!("reader clerk"), &[0, 1]);
    check(json!("readerclerk"), &[]);
    check(json!(["reader clerk"]), &[]);
    check(json!({"reader": true}), &[]);
    check(json!(null), &[]);
}

#[test]
fn scopes_are_names_between_spaces_or_a_list() {
    let check = |scope: serde_json::Value, expected: &[&str]| {
        let claims = json!({"sub": "bob", "exp": NOW_S + 60, "scope": scope}).to_string();
        let identity = verify(&token_rules(), signed(r#"{"alg":"HS256"}"#, &claims, hs256)).unwrap();
        assert_eq!(identity.scopes.iter().map(|scope| &**scope).collect::<Vec<_>>(), expected);
    };
    check(json!("orders:read  orders:write "), &["orders:read", "orders:write"]);
    check(json!(["orders:read", 7, "a b"]), &["orders:read", "a b"]);
    check(json!(""), &[]);
    check(json!(null), &[]);
    check(json!({"orders:read": true}), &[]);
}

#[test]
fn a_token_is_told_by_its_jti_where_that_may_be_told() {
    let check = |jti: serde_json::Value, expected: Option<&str>| {
        let claims = json!({"sub": "bob", "exp": NOW_S + 60, "jti": jti}).to_string();
        let identity = verify(&token_rules(), signed(r#"{"alg":"HS256"}"#, &claims, hs256)).unwrap();
        assert_eq!(identity.credential.as_deref(), expected);
    };
    check(json!("a1-b2"), Some("a1-b2"));
    for odd in [json!(7), json!(""), json!("a\nb"), json!("x".repeat(129))] {
        check(odd, None);
    }
}

#[test]
fn claims_become_headers_only_if_a_header_can_carry_them() {
    let mut rules = token_rules();
    rules.claims.forward = vec![("x-user".into(), "sub".into()), ("x-mail".into(), "mail".into())];
    let check = |mail: serde_json::Value, expected: Result<&[(&str, &str)], TokenFault>| {
        let claims = json!({"sub": "bob", "exp": NOW_S + 60, "mail": mail}).to_string();
        let said = verify(&rules, signed(r#"{"alg":"HS256"}"#, &claims, hs256));
        let set =
            said.map(|said| said.set.iter().map(|(n, v)| (n.to_string(), v.clone())).collect::<Vec<_>>());
        let owned =
            |set: &[(&str, &str)]| set.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        assert_eq!(set, expected.map(owned));
    };
    check(json!("b@x.example"), Ok(&[("x-user", "bob"), ("x-mail", "b@x.example")]));
    check(json!("Bob B"), Ok(&[("x-user", "bob"), ("x-mail", "Bob B")]));
    check(json!(7), Ok(&[("x-user", "bob"), ("x-mail", "7")]));
    check(json!(true), Ok(&[("x-user", "bob"), ("x-mail", "true")]));
    check(json!(null), Ok(&[("x-user", "bob")]));
    for bad in [
        json!("a\r\nx-admin: 1"),
        json!("a\tb"),
        json!("Zoë"),
        json!(""),
        json!(" a"),
        json!("a "),
        json!("\u{7f}"),
        json!(["a"]),
        json!({}),
        json!(1.5),
    ] {
        check(bad, Err(TokenFault::Forward));
    }
}

#[test]
fn a_token_without_kid_is_tried_with_few_keys() {
    let other = |n: usize| rsa_jwk(&OTHER_RSA, &json!({"kid": format!("other{n}")}));
    let behind = |n: usize| {
        jwks(&(0..n).map(other).chain([rsa_jwk(&RSA, &json!({"kid": "rsa"}))]).collect::<Vec<_>>())
    };
    let token = signed(r#"{"alg":"RS256"}"#, &claims(), rs256);
    check(&rules(&["RS256"], behind(KEYS_TRIED_MAX - 1)), &token, Ok(()));
    check(&rules(&["RS256"], behind(KEYS_TRIED_MAX)), &token, Err(TokenFault::Signature));
    let with_kid = signed(r#"{"alg":"RS256","kid":"rsa"}"#, &claims(), rs256);
    check(&rules(&["RS256"], behind(KEYS_TRIED_MAX)), with_kid, Ok(()));
}

proptest! {
    /// No single changed byte of a good token leaves a good token.
    #[test]
    fn every_byte_is_protected(at in 0usize..150, to: u8) {
        let good = signed(r#"{"alg":"HS256"}"#, &claims(), hs256).into_bytes();
        let mut changed = good.clone();
        let at = at % good.len();
        changed[at] = to;
        prop_assert_eq!(verify(&token_rules(), &changed).is_ok(), changed == good);
    }

    #[test]
    fn no_bytes_panic(token in "[A-Za-z0-9_.=-]{0,80}", bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        prop_assert!(verify(&token_rules(), token).is_err());
        prop_assert!(verify(&token_rules(), bytes).is_err());
    }
}
