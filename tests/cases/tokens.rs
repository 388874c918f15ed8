//! Tokens whose keys an issuer publishes, while it changes them, and while it is slow, away or out of its mind.

use std::{net::SocketAddr, os::unix::fs::PermissionsExt as _, sync::mpsc, thread};

use serde_json::json;
use xtask::lab::{client::Request, scratch::Scratch, wait};

use crate::{
    issuer::{Answer, Issuer, NEVER_S, SigningKey, ask, await_status},
    pki::Authority,
    support::{Edge, HELLO, OPEN, TIME_MAX, answering, free_address},
};

const SECTIONS: &str = "\
[upstreams.app]\nservers = [\"{upstream}\"]\nbalance = \"round_robin\"\nhealth = \"off\"\n\
[auth.staff]\nkind = \"jwt\"\nissuer = \"{issuer}\"\nalgorithms = [\"ES256\"]\naudiences = [\"orders\"]\n\
[routes.orders]\npath = \"/orders\"\nupstream = \"app\"\nauth = [\"staff\"]\n\
[routes.public]\npath = \"/public\"\nupstream = \"app\"\npublic = true\n";

/// A gateway for tokens of the issuer that is, or will be, at `issuer`.
fn edge(upstream: SocketAddr, issuer: SocketAddr) -> Edge {
    Edge::start(upstream, &SECTIONS.replace("{issuer}", &format!("http://{issuer}")))
}

/// A token of `subject`, signed with `key`.
fn token(issuer: SocketAddr, key: &SigningKey, subject: &str) -> String {
    let issuer = format!("http://{issuer}");
    key.sign(&json!({"iss": issuer, "aud": "orders", "sub": subject, "exp": NEVER_S}))
}

fn fetches(edge: &Edge, result: &str) -> f64 {
    let metrics = edge.gateway.metrics().unwrap();
    metrics.sum("portcullis_auth_key_fetches_total", &[("auth", "staff"), ("result", result)])
}

#[test]
fn keys_are_found_by_discovery_and_change_at_any_time() {
    let (upstream, [old, new]) = (answering(HELLO), ["old", "new"].map(SigningKey::new));
    let issuer = Issuer::start(&[&old]);
    let edge = edge(upstream.address(), issuer.address());
    let [of_old, of_new] = [&old, &new].map(|key| token(issuer.address(), key, "bob"));
    assert_eq!(ask(&edge, &of_old), 200, "whoever comes before the keys waits for them");
    let head = String::from_utf8(upstream.next_head(TIME_MAX).unwrap()).unwrap().to_lowercase();
    assert!(!head.contains("authorization"), "{head}");
    assert_eq!(ask(&edge, &of_new), 401);
    assert_eq!(ask(&edge, &old.sign(&json!({"iss": issuer.url(), "sub": "bob", "exp": NEVER_S}))), 401);
    let elsewhere = json!({"iss": "http://127.0.0.1:1", "aud": "orders", "sub": "bob", "exp": NEVER_S});
    assert_eq!(ask(&edge, &old.sign(&elsewhere)), 401);

    issuer.publish(&[&new]);
    await_status(&edge, &of_new, 200);
    assert_eq!(ask(&edge, &of_old), 401, "what was remembered counts no longer than its key");
    assert_eq!((issuer.count("/jwks"), fetches(&edge, "changed")), (2, 2.0));
    let metrics = edge.gateway.metrics().unwrap();
    let keys = metrics.sum("portcullis_auth_keys", &[("auth", "staff")]);
    let age_s = metrics.sum("portcullis_auth_keys_age_seconds", &[("auth", "staff")]);
    assert!((keys, age_s < 20.0) == (1.0, true), "{keys} keys, {age_s} seconds old");
}

/// RFC 8414 §3.1: where a server knows nothing of OpenID.
#[test]
fn an_authorization_server_without_openid_is_found_too() {
    let (upstream, key) = (answering(HELLO), SigningKey::new("a"));
    let issuer = Issuer::start(&[&key]);
    let name = format!("{}/tenants/a", issuer.url());
    issuer.answers("/.well-known/openid-configuration", Answer::Status(404, String::new()));
    let document = json!({"issuer": name, "jwks_uri": format!("{}/jwks", issuer.url())}).to_string();
    issuer.answers("/.well-known/oauth-authorization-server/tenants/a", Answer::Status(200, document));
    let edge = Edge::start(upstream.address(), &SECTIONS.replace("{issuer}", &name));
    let token = key.sign(&json!({"iss": name, "aud": ["orders"], "sub": "bob", "exp": NEVER_S}));
    assert_eq!(ask(&edge, &token), 200, "{}", edge.gateway.output());
    assert_eq!(issuer.count("/tenants/a/.well-known/openid-configuration"), 1);
}

/// Under TLS, an issuer has to prove its name.
#[test]
fn an_issuer_under_tls_is_believed_if_somebody_vouches_for_it() {
    let (upstream, key) = (answering(HELLO), SigningKey::new("a"));
    let issuer = Issuer::start(&[&key]);
    let [authority, other] = ["id", "other"].map(Authority::new);
    let issued = authority.issue(&["127.0.0.1"]);
    let directory = Scratch::new().unwrap();
    directory.write("id.crt", issued.certificate.pem()).unwrap();
    let key_file = directory.write("id.key", issued.key.serialize_pem()).unwrap();
    std::fs::set_permissions(key_file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let tls = "tls = { certificates = [{ chain_file = \"id.crt\", key_file = \"id.key\" }] }";
    let front = Edge::start_with(directory, issuer.address(), tls, OPEN);
    let name = format!("https://{}", front.address);
    let document = json!({"issuer": name, "jwks_uri": format!("{name}/jwks")}).to_string();
    issuer.answers("/.well-known/openid-configuration", Answer::Status(200, document));
    let token = key.sign(&json!({"iss": name, "aud": "orders", "sub": "bob", "exp": NEVER_S}));
    for (authority, status) in [(&authority, 200), (&other, 503)] {
        let directory = Scratch::new().unwrap();
        directory.write("ca.pem", authority.pem()).unwrap();
        let sections = SECTIONS.replace("{issuer}", &format!("{name}\"\nca_file = \"ca.pem"));
        let edge = Edge::start_with(directory, upstream.address(), "", &sections);
        assert_eq!(ask(&edge, &token), status, "{}", edge.gateway.output());
    }
    assert_eq!(issuer.count("/jwks"), 1);
}

/// While the issuer does not answer, those who need it wait, and nobody else does.
#[test]
fn row_72_a_storm_of_unknown_keys_is_one_question() {
    let (upstream, key) = (answering(HELLO), SigningKey::new("a"));
    let issuer = Issuer::start(&[&key]);
    let edge = edge(upstream.address(), issuer.address());
    let known = token(issuer.address(), &key, "bob");
    assert_eq!(ask(&edge, &known), 200);
    issuer.answers("/jwks", Answer::Hang);
    let unknown = |n: usize| token(issuer.address(), &SigningKey::new(&format!("unknown {n}")), "eve");
    thread::scope(|scope| {
        // From here on its question hangs.
        let first = scope.spawn(|| {
            let unknown = unknown(0);
            wait::until(TIME_MAX, || (ask(&edge, &unknown) == 503).then_some(())).expect("nobody can tell");
        });
        wait::until(TIME_MAX, || (issuer.count("/jwks") == 2).then_some(())).expect("it is asked again");
        let (sender, answers) = mpsc::channel();
        for n in 1..=50 {
            let (sender, edge, unknown) = (sender.clone(), &edge, &unknown);
            scope.spawn(move || sender.send(ask(edge, &unknown(n))).unwrap());
        }
        drop(sender);
        for n in 0..20 {
            assert_eq!(edge.get("/public", &[]).status, 200);
            assert_eq!(ask(&edge, &known), 200);
            assert_eq!(ask(&edge, &token(issuer.address(), &key, &format!("bob {n}"))), 200);
        }
        let answers: Vec<u16> = answers.iter().collect();
        assert_eq!((answers.len(), answers.iter().all(|status| *status == 503)), (50, true), "{answers:?}");
        first.join().unwrap();
    });
    // One that hung, and what is tried again after a failure without anybody asking.
    assert!(issuer.count("/jwks") <= 4, "{}", issuer.count("/jwks"));
}

/// Commits these faults one after the other: its keys go on counting.
#[track_caller]
fn check_faults(faults: Vec<(&str, Answer)>) {
    let (upstream, key) = (answering(HELLO), SigningKey::new("a"));
    let issuer = Issuer::start(&[&key]);
    let mut edge = edge(upstream.address(), issuer.address());
    let address = issuer.address();
    let known = token(address, &key, "bob");
    assert_eq!(ask(&edge, &known), 200);
    let unknown = token(address, &SigningKey::new("unknown"), "eve");
    let check = |edge: &Edge, failures: f64, what: &str| {
        let failed = wait::until(TIME_MAX, || {
            // The first time it is asked because of this, then because it has failed.
            ask(edge, &unknown);
            (fetches(edge, "failed") >= failures).then_some(())
        });
        assert!(failed.is_some(), "{what}: {}", edge.gateway.output());
        assert_eq!(ask(edge, &known), 200, "{what}");
        assert_eq!(ask(edge, &token(address, &key, what)), 200, "{what}");
        assert_eq!(edge.get("/public", &[]).status, 200, "{what}");
    };
    let mut failures = 0.0;
    for (what, answer) in faults {
        issuer.answers("/jwks", answer);
        failures += 1.0;
        check(&edge, failures, what);
    }
    drop(issuer);
    check(&edge, failures + 1.0, "gone");
    await_status(&edge, &unknown, 503);
    let refused = edge.get("/orders", &[("authorization", &format!("Bearer {unknown}"))]);
    assert!(refused.text().contains("auth_unavailable"), "{}", refused.text());

    edge.gateway.process().signal(libc::SIGHUP).unwrap();
    let reloaded = wait::until(TIME_MAX, || edge.gateway.output().contains("reloaded").then_some(()));
    assert!(reloaded.is_some(), "{}", edge.gateway.output());
    assert_eq!(ask(&edge, &known), 200, "keys outlive a reload");

    let output = edge.gateway.output();
    assert!(!output.contains(&known) && !output.contains(&unknown), "tokens are never logged: {output}");
    let issuer = Issuer::start_at(address, &[&SigningKey::new("another")]);
    await_status(&edge, &unknown, 401);
    assert_eq!(ask(&edge, &known), 401, "its key is gone");
    drop(issuer);
}

/// Fault rows 26 and 27.
#[test]
fn keys_go_on_counting_while_an_issuer_sends_garbage_and_dies() {
    let status = |status, body: &str| Answer::Status(status, body.to_owned());
    check_faults(vec![
        ("html", status(200, "<html>We'll be back soon!</html>")),
        ("empty", status(200, r#"{"keys":[]}"#)),
        ("error", status(500, r#"{"keys":[]}"#)),
    ]);
}

#[test]
fn row_73_an_issuer_that_redirects_is_not_followed_and_a_huge_answer_is_none() {
    let elsewhere = Issuer::start(&[&SigningKey::new("unknown")]);
    check_faults(vec![
        ("redirect", Answer::Redirect(format!("{}/jwks", elsewhere.url()))),
        ("huge", Answer::Status(200, format!("{{\"keys\":[{}]}}", "\"x\",".repeat(1 << 20)))),
        ("silent", Answer::Hang),
    ]);
    assert_eq!(elsewhere.count("/jwks"), 0);
}

#[test]
fn whoever_starts_before_its_issuer_serves_the_others() {
    let (upstream, key, address) = (answering(HELLO), SigningKey::new("a"), free_address());
    let edge = edge(upstream.address(), address);
    let token = token(address, &key, "bob");
    let mut connection = edge.connect();
    let authorization = format!("Bearer {token}");
    let headers = [("authorization", authorization.as_str())];
    assert_eq!(connection.request(&Request::get("/orders").with(&headers)).unwrap().status, 503);
    assert_eq!(connection.request(&Request::get("/public")).unwrap().status, 200);
    let _issuer = Issuer::start_at(address, &[&key]);
    await_status(&edge, &token, 200);
}
