//! What the gateway says of itself: Date, Connection, and when it makes up its mind about a head.

use crate::support::{Edge, HELLO, answering};

/// `/hello` is answered by the gateway, `/app/…` by the upstream, nothing else by anybody.
const MIXED: &str = "\
[runtime]\nworkers = 1\n\
[upstreams.app]\nservers = [\"{upstream}\"]\nbalance = \"round_robin\"\nhealth = \"off\"\n\
[routes.hello]\npath = \"/hello\"\npublic = true\nrespond = { status = 200, body = \"hi\" }\n\
[routes.app]\npath = \"/app/{*rest}\"\npublic = true\nupstream = \"app\"\n";

#[test]
fn an_http_1_0_client_is_told_that_our_own_answer_keeps_its_connection() {
    let upstream = answering(HELLO);
    let edge = Edge::start(upstream.address(), MIXED);
    let mut client = edge.connect();
    for (path, status) in [("/hello", 200), ("/nowhere", 404), ("/app/", 200), ("/hello", 200)] {
        client.send(format!("GET {path} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").as_bytes()).unwrap();
        let response = client.receive("GET").unwrap();
        assert_eq!((response.status, response.header("connection")), (status, Some("keep-alive")), "{path}");
    }
    client.send(b"GET /hello HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(client.receive("GET").unwrap().header("connection"), Some("close"));
    client.expect_close().unwrap();
}

/// RFC 9110 §6.6.1: ours, and one that came without a date.
#[test]
fn every_answer_says_when_it_was_made() {
    let upstream = answering(HELLO);
    let edge = Edge::start(upstream.address(), MIXED);
    for path in ["/hello", "/nowhere", "/app/"] {
        let date = edge.get(path, &[]).header("date").map(ToOwned::to_owned);
        assert!(date.as_ref().is_some_and(|date| date.ends_with(" GMT") && date.len() == 29), "{date:?}");
    }
    let dated = answering("HTTP/1.1 204 No Content\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n");
    let edge = Edge::start(dated.address(), MIXED);
    assert_eq!(
        edge.get("/app/", &[]).header("date"),
        Some("Sun, 06 Nov 1994 08:49:37 GMT"),
        "it keeps its own"
    );
}

#[test]
fn a_head_that_comes_byte_by_byte_is_read_and_garbage_is_refused_before_its_line_ends() {
    let upstream = answering(HELLO);
    let edge = Edge::start(upstream.address(), MIXED);
    let mut client = edge.connect();
    for byte in b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n" {
        client.send(&[*byte]).unwrap();
    }
    assert_eq!(client.receive("GET").unwrap().status, 200);
    client.send(b"\x16\x03\x01\x02\x00").unwrap();
    assert_eq!(client.receive("GET").unwrap().status, 400);
}

#[test]
fn the_server_as_a_whole_is_no_path() {
    let upstream = answering(HELLO);
    let edge = Edge::start(upstream.address(), MIXED);
    let mut client = edge.connect();
    for target in ["*", "http://a"] {
        client.send(format!("OPTIONS {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).unwrap();
        assert_eq!(client.receive("OPTIONS").unwrap().status, 404, "{target}");
    }
}
