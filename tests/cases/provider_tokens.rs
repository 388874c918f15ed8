//! Tokens of an OpenID provider that others certified: signed ones and opaque ones, by its own rules.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;
use xtask::lab::{client::Request, scratch::Scratch, wait};

use crate::{
    openid::Provider,
    support::{Edge, HELLO, TIME_MAX, answering},
};

const SECTIONS: &str = "\
[upstreams.app]\nservers = [\"{upstream}\"]\nbalance = \"round_robin\"\nhealth = \"off\"\n\
[auth.signed]\nkind = \"jwt\"\nissuer = \"{issuer}\"\nforward = { x-client = \"client_id\" }\nscopes = \"scope\"\n\
[auth.opaque]\nkind = \"introspection\"\nendpoint = \"{issuer}/token/introspection\"\nclient_id = \"gateway\"\n\
client_secret_file = \"introspection.secret\"\nconsumer = \"client_id\"\ncache = \"1s\"\naudiences = [\"urn:api:opaque\"]\n\
[routes.orders]\npath = \"/orders\"\nupstream = \"app\"\nauth = [\"signed\", \"opaque\"]\n\
[routes.public]\npath = \"/public\"\nupstream = \"app\"\npublic = true\n";

fn edge(provider: &Provider, upstream: std::net::SocketAddr) -> Edge {
    let directory = Scratch::new().unwrap();
    let secret = directory.path().join("introspection.secret");
    std::fs::write(&secret, "secret-of-gateway\n").unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    Edge::start_with(directory, upstream, "", &SECTIONS.replace("{issuer}", &provider.issuer()))
}

/// What the provider gives to its client `machine` for a resource.
#[track_caller]
fn token(provider: &Provider, resource: &str) -> String {
    let form = format!("grant_type=client_credentials&scope=read&resource=urn:api:{resource}");
    provider.token("machine", &form)["access_token"].as_str().unwrap().to_owned()
}

fn ask(edge: &Edge, token: &str) -> u16 {
    edge.get("/orders", &[("authorization", &format!("Bearer {token}"))]).status
}

#[track_caller]
fn await_status(edge: &Edge, token: &str, status: u16) {
    let found = wait::until(TIME_MAX, || (ask(edge, token) == status).then_some(()));
    assert!(found.is_some(), "never {status}: {}", edge.gateway.output());
}

#[test]
fn signed_tokens_are_good_while_their_key_is_published() {
    const TEST: &str = "provider_tokens::signed_tokens_are_good_while_their_key_is_published";
    let Some(provider) = Provider::start(TEST, &json!({})) else { return };
    let upstream = answering(HELLO);
    let edge = edge(&provider, upstream.address());
    for resource in ["jwt", "jwt:RS256", "jwt:EdDSA"] {
        assert_eq!(ask(&edge, &token(&provider, resource)), 200, "{resource}: {}", edge.gateway.output());
        let head = String::from_utf8(upstream.next_head(TIME_MAX).unwrap()).unwrap().to_lowercase();
        assert!(head.contains("\r\nx-client: machine\r\n") && !head.contains("authorization"), "{head}");
    }
    let old = token(&provider, "jwt");
    assert_eq!(ask(&edge, &old), 200);
    provider.order("rotate?keep=yes");
    let kept = token(&provider, "jwt");
    await_status(&edge, &kept, 200);
    assert_eq!(ask(&edge, &old), 200, "both keys are published");
    provider.order("rotate?");
    let new = token(&provider, "jwt");
    await_status(&edge, &new, 200);
    assert_eq!((ask(&edge, &old), ask(&edge, &kept)), (401, 401));

    for fault in ["down", "garbage", "error", "slow"] {
        provider.order(&format!("fault?of=/jwks&is={fault}"));
        assert_eq!(ask(&edge, &new), 200, "{fault}");
        assert_eq!(ask(&edge, &token(&provider, "jwt")), 200, "{fault}: one that nobody has seen");
        assert_eq!(edge.get("/public", &[]).status, 200, "{fault}");
    }
}

#[test]
fn opaque_tokens_are_good_until_they_are_revoked() {
    const TEST: &str = "provider_tokens::opaque_tokens_are_good_until_they_are_revoked";
    let Some(provider) = Provider::start(TEST, &json!({})) else { return };
    let upstream = answering(HELLO);
    let edge = edge(&provider, upstream.address());
    let token = token(&provider, "opaque");
    assert_eq!(ask(&edge, &token), 200, "{}", edge.gateway.output());
    assert_eq!(ask(&edge, "nobody-has-given-this-out"), 401);
    let form = format!("client_id=machine&client_secret=secret-of-machine&token={token}");
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    let request =
        Request { method: "POST", body: form.as_bytes(), ..Request::get("/token/revocation").with(&headers) };
    assert_eq!(provider.ask(&request).status, 200);
    await_status(&edge, &token, 401);
    provider.order("fault?of=/token/introspection&is=error");
    assert_eq!(ask(&edge, "another"), 503);
    assert_eq!(edge.get("/public", &[]).status, 200);
}
