//! Credentials that are of no use to a thief: client certificates (`kind = "mtls"`), and tokens that are bound to one
//! (RFC 8705) or to a key (`DPoP`, RFC 9449).

use aws_lc_rs::{
    digest::{SHA256, digest},
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use rcgen::SanType;
use rustls::version::TLS13;
use serde_json::json;
use xtask::lab::{scratch::Scratch, scripted::Scripted};

use crate::{
    pki::{Authority, Issued},
    support::{Edge, HELLO, TIME_MAX, answering},
    tls_client::{ask, connect, settings},
};

const LISTENER: &str = "tls = { certificates = [{ chain_file = \"0.crt\", key_file = \"0.key\" }], \
                        client_ca_file = \"ca.pem\", client_auth = \"optional\" }";
const SECTIONS: &str = "\
[upstreams.app]\nservers = [\"{upstream}\"]\nbalance = \"round_robin\"\nhealth = \"off\"\n\
[auth.machines]\nkind = \"mtls\"\nconsumer = \"san_uri\"\n\
[auth.staff]\nkind = \"jwt\"\nkey_file = \"jwt.secret\"\nalgorithms = [\"HS256\"]\n\
[auth.trusted]\nkind = \"jwt\"\nkey_file = \"jwt.secret\"\nalgorithms = [\"HS256\"]\nforward_credential = true\n\
[roles.reader]\npermissions = [\"orders:read\"]\n\
[consumers.\"spiffe://a.example/ada\"]\nroles = [\"reader\"]\n\
[routes.machines]\npath = \"/machines\"\nupstream = \"app\"\nauth = [\"machines\"]\npermission = \"orders:read\"\n\
[routes.staff]\npath = \"/staff\"\nupstream = \"app\"\nauth = [\"staff\"]\n\
[routes.trusted]\npath = \"/trusted\"\nupstream = \"app\"\nauth = [\"trusted\"]\n";
const SECRET: &str = "a secret of thirty-two octets or more";

struct Site {
    authority: Authority,
    edge: Edge,
    upstream: Scripted,
}

fn site() -> Site {
    use std::os::unix::fs::PermissionsExt;
    let (authority, directory) = (Authority::new("ca"), Scratch::new().unwrap());
    directory.write("ca.pem", authority.pem()).unwrap();
    authority.issue(&["a.example"]).write(&directory, "0");
    let secret = directory.write("jwt.secret", SECRET).unwrap();
    std::fs::set_permissions(secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let upstream = answering(HELLO);
    let edge = Edge::start_with(directory, upstream.address(), LISTENER, SECTIONS);
    Site { authority, edge, upstream }
}

impl Site {
    /// For a client that is called so.
    fn issue(&self, uri: &str) -> Issued {
        let uri = SanType::URI(uri.try_into().unwrap());
        self.authority.issue_with(&["client.example"], |params| params.subject_alt_names.push(uri))
    }

    /// The head of the answer to a request with these header lines.
    fn get(&self, shown: Option<&Issued>, path: &str, lines: &str) -> String {
        let config = settings(&self.authority, shown, &[&TLS13]).into();
        let mut stream = connect(&config, self.edge.address, "a.example").unwrap();
        ask(&mut stream, &format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n{lines}\r\n")).unwrap()
    }

    #[track_caller]
    fn check(&self, shown: Option<&Issued>, path: &str, lines: &str, expected: u16) {
        let head = self.get(shown, path, lines);
        assert!(head.starts_with(&format!("HTTP/1.1 {expected} ")), "{head}");
    }
}

fn token(rest: serde_json::Value) -> String {
    let mut claims = json!({ "sub": "ada", "exp": 4_000_000_000u64 });
    if let serde_json::Value::Object(rest) = rest {
        claims.as_object_mut().unwrap().extend(rest);
    }
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256), &claims, &key).unwrap()
}

#[test]
fn a_certificate_says_who_is_asking() {
    let site = site();
    let (ada, eve) = (site.issue("spiffe://a.example/ada"), site.issue("spiffe://a.example/eve"));
    site.check(Some(&ada), "/machines", "", 200);
    site.check(Some(&eve), "/machines", "", 403);
    site.check(Some(&site.authority.issue(&["spiffe.example"])), "/machines", "", 401);
    let refused = site.get(None, "/machines", "");
    assert!(refused.starts_with("HTTP/1.1 401 "), "{refused}");
    assert!(refused.contains("WWW-Authenticate: ClientCertificate realm=\"machines\""), "{refused}");
}

/// RFC 8705 §3: who has stolen the token has not stolen the key of the certificate.
#[test]
fn a_token_that_is_bound_to_a_certificate_is_of_use_with_that_one_only() {
    let site = site();
    let (ada, eve) = (site.issue("spiffe://a.example/ada"), site.issue("spiffe://a.example/eve"));
    let thumbprint = BASE64.encode(digest(&SHA256, ada.certificate.der()));
    let bound = format!("Authorization: Bearer {}\r\n", token(json!({ "cnf": { "x5t#S256": thumbprint } })));
    // In this order, so that a token which was found good before is shown by somebody else.
    site.check(Some(&ada), "/staff", &bound, 200);
    site.check(Some(&eve), "/staff", &bound, 401);
    site.check(None, "/staff", &bound, 401);
    site.check(None, "/staff", &format!("Authorization: Bearer {}\r\n", token(json!({}))), 200);
    let odd = format!("Authorization: Bearer {}\r\n", token(json!({ "cnf": { "kid": "a" } })));
    site.check(Some(&ada), "/staff", &odd, 401);
}

/// RFC 9449, through the whole gateway; each of its checks has a test in `decide/dpop`.
#[test]
fn a_token_that_is_bound_to_a_key_needs_a_new_proof_each_time() {
    let site = site();
    let holder = Holder::new();
    let bound = token(json!({ "cnf": { "jkt": holder.thumbprint() } }));
    let with = |scheme: &str, token: &str, proof: &str| {
        format!("Authorization: {scheme} {token}\r\nDPoP: {proof}\r\n")
    };
    let first = holder.proof("1", &bound);
    site.check(None, "/staff", &with("DPoP", &bound, &first), 200);
    let head = String::from_utf8(site.upstream.next_head(TIME_MAX).unwrap()).unwrap().to_lowercase();
    assert!(!head.contains("dpop") && !head.contains("authorization"), "{head}");
    let replayed = site.get(None, "/staff", &with("DPoP", &bound, &first));
    assert!(replayed.starts_with("HTTP/1.1 401 "), "{replayed}");
    assert!(
        replayed.contains("WWW-Authenticate: DPoP realm=\"staff\", error=\"invalid_dpop_proof\""),
        "{replayed}"
    );
    site.check(None, "/staff", &with("DPoP", &bound, &holder.proof("2", &bound)), 200);
    site.check(None, "/staff", &with("DPoP", &bound, &Holder::new().proof("3", &bound)), 401);
    site.check(None, "/staff", &with("Bearer", &bound, &holder.proof("4", &bound)), 401);
    site.check(None, "/staff", &format!("Authorization: DPoP {bound}\r\n"), 401);
    let free = token(json!({}));
    site.check(None, "/staff", &with("DPoP", &free, &holder.proof("5", &free)), 401);
}

#[test]
fn a_credential_goes_upstream_only_where_that_is_asked_for() {
    let site = site();
    let line = format!("Authorization: Bearer {}\r\n", token(json!({})));
    for (path, goes_on) in [("/staff", false), ("/trusted", true)] {
        site.check(None, path, &line, 200);
        let head = String::from_utf8(site.upstream.next_head(TIME_MAX).unwrap()).unwrap();
        assert_eq!(head.contains(&line), goes_on, "{head}");
    }
}

/// Has a key.
struct Holder(EcdsaKeyPair);

impl Holder {
    fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    fn coordinates(&self) -> [String; 2] {
        let point = self.0.public_key().as_ref();
        [&point[1..33], &point[33..]].map(|coordinate| BASE64.encode(coordinate))
    }

    fn thumbprint(&self) -> String {
        let [x, y] = self.coordinates();
        let members = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        BASE64.encode(digest(&SHA256, members.as_bytes()))
    }

    /// For `GET /staff`.
    #[expect(clippy::disallowed_methods, reason = "a proof says when it was made")]
    fn proof(&self, id: &str, token: &str) -> String {
        let [x, y] = self.coordinates();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let jwk = json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y });
        let parts = [
            json!({ "typ": "dpop+jwt", "alg": "ES256", "jwk": jwk }),
            json!({
                "jti": id, "htm": "GET", "htu": "https://a.example/staff", "iat": now.as_secs(),
                "ath": BASE64.encode(digest(&SHA256, token.as_bytes())),
            }),
        ];
        let message = parts.map(|part| BASE64.encode(part.to_string())).join(".");
        let signature = self.0.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
        format!("{message}.{}", BASE64.encode(signature))
    }
}
