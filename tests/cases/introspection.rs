//! Opaque tokens: what an authorization server says of them, and what happens while it says nothing of use.

use std::{os::unix::fs::PermissionsExt as _, sync::mpsc, thread};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::json;
use xtask::lab::{client::Response, scratch::Scratch, scripted::Scripted, wait};

use crate::{
    issuer::{Answer, Issuer, NEVER_S, ask, await_status},
    support::{Edge, HELLO, TIME_MAX, answering},
};

const SECTIONS: &str = "\
[upstreams.app]\nservers = [\"{upstream}\"]\nbalance = \"round_robin\"\nhealth = \"off\"\n\
[auth.partner]\nkind = \"introspection\"\nendpoint = \"{endpoint}\"\nclient_id = \"gate way\"\n\
client_secret_file = \"introspection.secret\"\n{settings}\nroles = \"groups\"\nforward = { x-user = \"sub\" }\n\
[roles.reader]\npermissions = [\"orders:read\"]\n\
[routes.orders]\npath = \"/orders\"\nupstream = \"app\"\nauth = [\"partner\"]\npermission = \"orders:read\"\n\
[routes.public]\npath = \"/public\"\nupstream = \"app\"\npublic = true\n";

const PATH: &str = "/introspect";

/// A gateway with these settings of its auth, in front of a server that says what `server` says.
fn edge(upstream: &Scripted, server: &Issuer, settings: &str) -> Edge {
    let directory = Scratch::new().unwrap();
    let secret = directory.path().join("introspection.secret");
    std::fs::write(&secret, "s3c:ret%\n").unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let sections =
        SECTIONS.replace("{endpoint}", &format!("{}{PATH}", server.url())).replace("{settings}", settings);
    Edge::start_with(directory, upstream.address(), "", &sections)
}

fn active(subject: &str) -> Answer {
    let said = json!({"active": true, "sub": subject, "groups": ["reader"], "exp": NEVER_S});
    Answer::Status(200, said.to_string())
}

fn inactive() -> Answer {
    Answer::Status(200, r#"{"active":false}"#.to_owned())
}

fn get(edge: &Edge, token: &str) -> Response {
    edge.get("/orders", &[("authorization", &format!("Bearer {token}"))])
}

#[test]
fn an_active_token_passes_until_it_is_revoked() {
    let (upstream, server) = (answering(HELLO), Issuer::start(&[]));
    server.answers(PATH, active("bob"));
    let edge = edge(&upstream, &server, "cache = \"1s\"");
    assert_eq!(ask(&edge, "t0/k+en=="), 200);
    let head = String::from_utf8(upstream.next_head(TIME_MAX).unwrap()).unwrap().to_lowercase();
    assert!(head.contains("\r\nx-user: bob\r\n") && !head.contains("authorization"), "{head}");
    let asked = server.asked(PATH);
    let basic =
        format!("authorization: basic {}", BASE64_STANDARD.encode("gate+way:s3c%3Aret%25")).to_lowercase();
    assert!(asked[0].head.starts_with("post /introspect http/1.1\r\n"), "{}", asked[0].head);
    assert!(asked[0].head.contains(&basic), "{}", asked[0].head);
    assert_eq!(asked[0].body, "token=t0%2Fk%2Ben%3D%3D&token_type_hint=access_token");

    server.answers(PATH, inactive());
    await_status(&edge, "t0/k+en==", 401);
    let refused = get(&edge, "t0/k+en==");
    assert_eq!(refused.header("www-authenticate"), Some("Bearer realm=\"partner\", error=\"invalid_token\""));
    server.answers(PATH, Answer::Status(200, json!({"active": true, "sub": "eve"}).to_string()));
    await_status(&edge, "t0/k+en==", 403);
    let count = server.count(PATH);
    for odd in ["", "a b", "a,b", "\u{e9}"] {
        assert_eq!(ask(&edge, odd), 401, "{odd}");
    }
    assert_eq!(ask(&edge, &"a".repeat(8193)), 401);
    assert_eq!(server.count(PATH), count, "nobody is asked about what is no token");
    let output = edge.gateway.output();
    assert!(!output.contains("t0/k+en") && !output.contains("s3c"), "{output}");
}

/// What was said counts for `cache`, good or bad, for all workers, and over a reload.
#[test]
fn an_answer_is_asked_for_once() {
    let (upstream, server) = (answering(HELLO), Issuer::start(&[]));
    server.answers(PATH, Answer::Hold);
    let mut edge = edge(&upstream, &server, "cache = \"1h\"\ntimeout = \"8s\"");
    let (sender, answers) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..30 {
            let (sender, edge) = (sender.clone(), &edge);
            scope.spawn(move || sender.send(ask(edge, "token")).unwrap());
        }
        drop(sender);
        wait::until(TIME_MAX, || (server.count(PATH) == 1).then_some(())).expect("it is asked");
        for _ in 0..20 {
            assert_eq!(edge.get("/public", &[]).status, 200, "nobody waits who has no need to");
        }
        server.answers(PATH, active("bob"));
    });
    assert_eq!(answers.iter().collect::<Vec<u16>>(), [200; 30]);
    server.answers(PATH, inactive());
    assert_eq!([(); 5].map(|()| ask(&edge, "other")), [401; 5]);
    assert_eq!(server.count(PATH), 2);
    edge.gateway.process().signal(libc::SIGHUP).unwrap();
    let reloaded = wait::until(TIME_MAX, || edge.gateway.output().contains("reloaded").then_some(()));
    assert!(reloaded.is_some(), "{}", edge.gateway.output());
    assert_eq!((ask(&edge, "token"), ask(&edge, "other"), server.count(PATH)), (200, 401, 2));
    drop(server);
    assert_eq!((ask(&edge, "token"), ask(&edge, "unknown")), (200, 503));
    let metrics = edge.gateway.metrics().unwrap();
    let counts = metrics.sum_by("portcullis_auth_introspections_total", "result", &[("auth", "partner")]);
    assert_eq!((counts["active"], counts["inactive"], counts["failed"]), (1.0, 1.0, 1.0), "{counts:?}");
}

/// With `cache = "0s"` every request is asked about.
#[test]
fn nothing_is_kept_where_nothing_may_be() {
    let (upstream, server) = (answering(HELLO), Issuer::start(&[]));
    server.answers(PATH, active("bob"));
    let edge = edge(&upstream, &server, "cache = \"0s\"");
    assert_eq!((ask(&edge, "token"), ask(&edge, "token"), server.count(PATH)), (200, 200, 2));
    server.answers(PATH, inactive());
    assert_eq!(ask(&edge, "token"), 401);
}

/// Nobody opens the breaker by showing what the server does not like.
#[test]
fn a_token_that_the_server_calls_bad_keeps_nobody_else_out() {
    let (upstream, server) = (answering(HELLO), Issuer::start(&[]));
    let edge = edge(&upstream, &server, "");
    server.answers(PATH, Answer::Status(400, r#"{"error":"unsupported_token_type"}"#.to_owned()));
    assert_eq!([(); 2].map(|()| ask(&edge, "e30.e30.e30")), [401, 401]);
    assert_eq!(server.count(PATH), 1, "that is an answer");
    server.answers(PATH, Answer::Status(400, r#"{"error":"invalid_request"}"#.to_owned()));
    for n in 0..8 {
        assert_eq!(ask(&edge, &format!("odd{n}")), 503);
    }
    server.answers(PATH, active("bob"));
    assert_eq!(ask(&edge, "good"), 200);
}

#[test]
fn row_82_while_nobody_can_tell_nobody_passes_and_the_server_is_left_alone() {
    let (upstream, server, elsewhere) = (answering(HELLO), Issuer::start(&[]), Issuer::start(&[]));
    elsewhere.answers(PATH, active("eve"));
    server.answers(PATH, active("bob"));
    let edge = edge(&upstream, &server, "cache = \"1h\"\ntimeout = \"1s\"");
    assert_eq!(ask(&edge, "known"), 200);
    let status = |status, body: &str| Answer::Status(status, body.to_owned());
    let faults = [
        ("html", status(200, "<html>active: true</html>")),
        ("error", status(500, r#"{"active":true,"sub":"eve","groups":"reader"}"#)),
        ("redirect", Answer::Redirect(format!("{}{PATH}", elsewhere.url()))),
        ("silent", Answer::Hang),
        ("huge", status(200, &format!(r#"{{"active":true,"sub":"eve","x":"{}"}}"#, "x".repeat(1 << 20)))),
    ];
    for (what, fault) in faults {
        server.answers(PATH, fault);
        let refused = get(&edge, what);
        assert_eq!(refused.status, 503, "{what}");
        assert!(refused.text().contains("auth_unavailable"), "{what}: {}", refused.text());
        assert_eq!(ask(&edge, "known"), 200, "{what}");
        assert_eq!(edge.get("/public", &[]).status, 200, "{what}");
    }
    assert_eq!(elsewhere.count(PATH), 0, "a redirect is not followed");
    // Five in a row.
    server.answers(PATH, active("bob"));
    assert_eq!((ask(&edge, "new"), server.count(PATH)), (503, 6), "it is not asked");
    let open = || edge.gateway.metrics().unwrap().sum("portcullis_auth_breaker_open", &[("auth", "partner")]);
    assert!((open(), ask(&edge, "known")) == (1.0, 200), "{}", open());
    await_status(&edge, "new", 200);
    assert!(open() == 0.0, "{}", open());
}
