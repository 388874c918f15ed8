//! The issuer's word that sessions are over (back-channel logout), while its keys change and while it is slow.

use std::thread;

use serde_json::json;
use xtask::lab::{
    client::{Request, Response},
    scratch::Scratch,
    wait,
};

use crate::{
    issuer::{Answer, Issuer, NEVER_S, SigningKey},
    support::{Edge, HELLO, TIME_MAX, answering},
};

const SECTIONS: &str = "\
[runtime]\nworkers = 2\nstate_dir = \"state\"\n\
[upstreams.app]\nservers = [\"{upstream}\"]\nhealth = \"off\"\n\
[auth.browser]\nkind = \"oidc\"\nissuer = \"{issuer}\"\nclient_id = \"web\"\nalgorithms = [\"ES256\"]\n\
cookie_key_file = \"cookie.key\"\n\
[routes.app]\npath = \"/{*rest}\"\nauth = [\"browser\"]\nupstream = \"app\"\n\
[routes.open]\npath = \"/open\"\npublic = true\nupstream = \"app\"\n";

fn logout_token(issuer: &Issuer, key: &SigningKey) -> String {
    let now_s = portcullis::net::unix_s();
    let events = json!({ "http://schemas.openid.net/event/backchannel-logout": {} });
    let url = issuer.url();
    key.sign(
        &json!({"iss": url, "aud": "web", "sub": "alice", "iat": now_s, "exp": NEVER_S, "events": events}),
    )
}

fn say(edge: &Edge, token: &str) -> Response {
    let form = format!("logout_token={token}");
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    let request = Request::get("/oauth2/logout").with(&headers);
    edge.connect().request(&Request { method: "POST", body: form.as_bytes(), ..request }).unwrap()
}

#[test]
fn a_word_with_a_new_key_waits_for_the_keys_alone_and_is_asked_for_again_where_there_are_none() {
    let (upstream, [old, new, other]) = (answering(HELLO), ["old", "new", "other"].map(SigningKey::new));
    let issuer = Issuer::start(&[&old]);
    let directory = Scratch::new().unwrap();
    super::keep_secret(&directory.write("cookie.key", super::KEY).unwrap());
    let edge =
        Edge::start_with(directory, upstream.address(), "", &SECTIONS.replace("{issuer}", &issuer.url()));
    let known = wait::until(TIME_MAX, || {
        let said = say(&edge, &logout_token(&issuer, &old));
        (said.status == 200).then_some(())
    });
    assert!(known.is_some(), "{}", edge.gateway.output());

    // It is not asked more often than every few seconds.
    issuer.answers("/jwks", Answer::Hold);
    let before = issuer.count("/jwks");
    let token = logout_token(&issuer, &new);
    thread::scope(|scope| {
        let said = scope.spawn(|| {
            let said = wait::until(TIME_MAX, || {
                let said = say(&edge, &token);
                (said.status == 200).then_some(())
            });
            assert!(said.is_some(), "{}", edge.gateway.output());
        });
        let asked = wait::until(TIME_MAX, || (issuer.count("/jwks") > before).then_some(()));
        assert!(asked.is_some(), "it is asked for its keys");
        for _ in 0..20 {
            assert_eq!(edge.get("/open", &[]).status, 200, "nobody waits who has no need to");
            assert_eq!(edge.get("/", &[]).status, 401);
        }
        issuer.publish(&[&new]);
        said.join().unwrap();
    });

    issuer.answers("/jwks", Answer::Hang);
    let token = logout_token(&issuer, &other);
    let unsure = wait::until(TIME_MAX, || Some(say(&edge, &token)).filter(|said| said.status != 400));
    let unsure = unsure.expect("nobody can tell whose word it is");
    assert_eq!((unsure.status, unsure.header("retry-after")), (503, Some("5")), "{}", unsure.text());
    issuer.publish(&[&other]);
    let heard = wait::until(TIME_MAX, || (say(&edge, &token).status == 200).then_some(()));
    assert!(heard.is_some(), "{}", edge.gateway.output());
}
