//! Documents of issuers: what is taken, and what changes nothing.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::json;

use super::*;
use crate::config::Endpoint;

const NOW_S: u64 = 1_800_000_000;

fn url(text: &str) -> Url {
    Url::parse(text).unwrap()
}

fn issuer() -> Issuer {
    Issuer::new(KeySource::Jwks(Endpoint { url: url("http://127.0.0.1:1/jwks"), tls: None }))
}

/// A set with a new key of this name.
fn set(kid: &str) -> Vec<u8> {
    let key = Ed25519KeyPair::generate().unwrap();
    let x = URL_SAFE_NO_PAD.encode(key.public_key().as_ref());
    json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": x}]}).to_string().into()
}

fn kids(issuer: &Issuer) -> Vec<String> {
    let said = issuer.said();
    let keys = said.iter().flat_map(|said| said.keys().iter());
    keys.map(|key| key.kid.as_deref().unwrap_or_default().to_owned()).collect()
}

#[test]
fn other_keys_make_another_generation_and_the_same_do_not() {
    let (issuer, first) = (issuer(), set("a"));
    assert_eq!((issuer.generation(), kids(&issuer).len()), (0, 0));
    issuer.take(Claims::new(), &first, NOW_S).unwrap();
    assert_eq!((issuer.generation(), kids(&issuer)), (1, vec!["a".to_owned()]));
    issuer.take(Claims::new(), &first, NOW_S + 1).unwrap();
    assert_eq!(issuer.generation(), 1);
    issuer.take(Claims::new(), &set("b"), NOW_S + 2).unwrap();
    assert_eq!((issuer.generation(), kids(&issuer)), (2, vec!["b".to_owned()]));
    let tally = &issuer.tally;
    assert_eq!([&tally.changed, &tally.unchanged, &tally.failed].map(|count| count.load(Relaxed)), [2, 1, 0]);
    assert_eq!(tally.heard_at_s.load(Relaxed), NOW_S + 2);
}

/// Fault rows 26 and 27.
#[test]
fn garbage_leaves_the_last_good_keys() {
    let issuer = issuer();
    issuer.take(Claims::new(), &set("a"), NOW_S).unwrap();
    let secret = json!({"keys": [{"kty": "oct", "kid": "s", "k": URL_SAFE_NO_PAD.encode([7; 32])}]});
    let weak =
        json!({"keys": [{"kty": "RSA", "kid": "w", "n": URL_SAFE_NO_PAD.encode([255; 128]), "e": "AQAB"}]});
    let many = json!({"keys": vec![json!({"kty": "XYZ"}); 2000]});
    let garbage =
        ["", "<html>", "{}", "[]", "null", r#"{"keys":[]}"#, r#"{"keys":{}}"#, r#"{"keys":[1,null]}"#];
    for body in garbage.map(str::to_owned).into_iter().chain([secret, weak, many].map(|set| set.to_string()))
    {
        assert!(issuer.take(Claims::new(), body.as_bytes(), NOW_S + 1).is_err(), "{body}");
        issuer.failed(NOW_S + 1);
    }
    assert_eq!((issuer.generation(), kids(&issuer)), (1, vec!["a".to_owned()]));
    assert_eq!(issuer.tally.heard_at_s.load(Relaxed), NOW_S, "so old are its keys");
    issuer.forget();
    assert_eq!((issuer.generation(), kids(&issuer).len()), (2, 0));
    issuer.forget();
    assert_eq!(issuer.generation(), 2);
}

/// Neither to a service that only this host can reach, nor to what anybody on the way can change.
#[test]
fn row_73_a_discovery_document_does_not_lead_to_what_is_not_https() {
    let name = "https://id.example.com";
    for jwks_uri in [
        "http://127.0.0.1:8080/latest/meta-data",
        "http://169.254.169.254/latest",
        "http://keys.example.net/",
    ] {
        let document = json!({"issuer": name, "jwks_uri": jwks_uri}).to_string();
        let refused = discovered(document.as_bytes(), name, &url(name)).err();
        assert_eq!(refused, Some("its `jwks_uri` leads elsewhere than to https"), "{jwks_uri}");
    }
}

/// A key of another kind, a weak or a broken one does not keep the good ones out (RFC 7517 §5).
#[test]
fn one_bad_key_does_not_spoil_a_set() {
    let mut set: serde_json::Value = serde_json::from_slice(&set("good")).unwrap();
    let bad = [
        json!({"kty": "EC", "crv": "secp256k1", "kid": "k", "x": "AA", "y": "AA"}),
        json!({"kty": "OKP", "crv": "X25519", "kid": "x", "x": URL_SAFE_NO_PAD.encode([9; 32])}),
        json!({"kty": "RSA", "kid": "weak", "n": URL_SAFE_NO_PAD.encode([255; 128]), "e": "AQAB"}),
        json!({"kty": "RSA", "kid": "broken", "n": 1}),
        json!({"kty": "oct", "kid": "secret", "k": URL_SAFE_NO_PAD.encode([7; 64])}),
        json!({"kid": "nothing"}),
        json!("text"),
    ];
    set["keys"].as_array_mut().unwrap().extend(bad);
    let issuer = issuer();
    issuer.take(Claims::new(), set.to_string().as_bytes(), NOW_S).unwrap();
    assert_eq!(kids(&issuer), ["good"]);
}

/// Row 72: whatever comes of it, nobody asks again at once.
#[test]
fn row_72_an_issuer_is_asked_about_unknown_keys_now_and_then() {
    let issuer = issuer();
    let check = |unix_s: u64, expected| assert_eq!(issuer.outlook(unix_s), expected, "{}", unix_s - NOW_S);
    check(NOW_S, Outlook::MayHaveOthers);
    issuer.failed(NOW_S);
    check(NOW_S, Outlook::Silent);
    check(NOW_S + ASKED_EVERY_S - 1, Outlook::Silent);
    check(NOW_S + ASKED_EVERY_S, Outlook::MayHaveOthers);
    issuer.take(Claims::new(), &set("a"), NOW_S + 20).unwrap();
    check(NOW_S + 20, Outlook::HasNoOthers);
    check(NOW_S + 20 + ASKED_EVERY_S, Outlook::MayHaveOthers);
    // The clock steps back.
    check(NOW_S, Outlook::MayHaveOthers);
}

#[test]
fn a_discovery_document_is_its_issuers_and_leads_to_its_keys() {
    #[track_caller]
    fn check(document: &serde_json::Value, name: &str, expected: Result<&str, &str>) {
        match discovered(document.to_string().as_bytes(), name, &url(name)) {
            Ok((_, keys)) => assert_eq!(Ok(keys.to_string().as_str()), expected),
            Err(problem) => {
                let expected = expected.expect_err("it is refused");
                assert!(problem.contains(expected), "{document}: {problem}");
            }
        }
    }
    let name = "https://id.example.com/realms/a";
    let with = |issuer: &str, jwks_uri: &str| json!({"issuer": issuer, "jwks_uri": jwks_uri});
    check(&with(name, "https://keys.example.net/k?v=1"), name, Ok("https://keys.example.net/k?v=1"));
    for other in ["https://id.example.com/realms/a/", "https://id.example.com/realms/b", "", "x"] {
        check(&with(other, "https://keys.example.net/"), name, Err("another issuer's"));
    }
    check(&json!({"jwks_uri": "https://keys.example.net/"}), name, Err("another issuer's"));
    check(&json!({"issuer": name}), name, Err("has no `jwks_uri`"));
    check(&json!({"issuer": name, "jwks_uri": 1}), name, Err("has no `jwks_uri`"));
    check(&json!([name]), name, Err("no JSON object"));
    check(&with(name, "file:///etc/passwd"), name, Err("no URL that can be asked"));
    let local = "http://127.0.0.1:9000";
    check(&with(local, "http://127.0.0.1:9000/jwks"), local, Ok("http://127.0.0.1:9000/jwks"));
    check(&with(local, "http://192.0.2.1/jwks"), local, Err("elsewhere"));
    let said =
        discovered(with(local, "http://127.0.0.1:9000/jwks").to_string().as_bytes(), local, &url(local));
    let issuer = issuer();
    issuer.take(said.unwrap().0, &set("a"), NOW_S).unwrap();
    assert_eq!(issuer.said().unwrap().text_of("jwks_uri"), Some("http://127.0.0.1:9000/jwks"));
}
