//! Requests whose end could be read in two ways (RFC 9112 §6, §11.2): refused, and nothing of them goes on.

use crate::support::{Edge, HELLO, OPEN, answering, scripted};
use xtask::lab::scripted::Step;

/// Each is refused with one of `statuses` and a close, and nothing reaches the upstream. The rows are those of the
/// request-smuggling catalogue that the codec's own tests go through in full.
const REFUSED: &[(&str, &[u16], &str)] = &[
    (
        "1 CL and TE",
        &[400],
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    ("2 TE on HTTP/1.0", &[400], "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("3 TE identity", &[400, 501], "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n"),
    (
        "3 TE list",
        &[400, 501],
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "3 TE with a vertical tab",
        &[400, 501],
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "4 TE twice",
        &[400, 501],
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    ("5 obs-fold", &[400], "GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n"),
    ("6 space before the colon", &[400], "POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n\r\n12345"),
    ("7 bare CR", &[400], "GET / HTTP/1.1\r\nHost: a\r\nX: 1\rY: 2\r\n\r\n"),
    ("8 bare LF", &[400], "GET / HTTP/1.1\nHost: a\n\n"),
    ("9 NUL in a value", &[400], "GET / HTTP/1.1\r\nHost: a\r\nX: 1\0\r\n\r\n"),
    (
        "10 differing CLs",
        &[400],
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n12345",
    ),
    ("11 CL with a sign", &[400], "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n12345"),
    ("11 CL in hex", &[400], "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\n12345"),
    (
        "11 CL overflows",
        &[400],
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551621\r\n\r\n12345",
    ),
    ("19 CONNECT", &[405], "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n"),
    ("20 TRACE", &[405], "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("21 HTTP/2.0 as text", &[400, 505], "GET / HTTP/2.0\r\nHost: a\r\n\r\n"),
    ("23 Host missing", &[400], "GET / HTTP/1.1\r\n\r\n"),
    ("23 Host twice", &[400], "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
    ("24 userinfo", &[400], "GET http://user@a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("26 8-bit target", &[400], "GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("29 escaped slash", &[400], "GET /a%2fb HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("30 escaped NUL", &[400], "GET /a%00b HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("32 backslash", &[400], "GET /a\\b HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("33 path parameter", &[400], "GET /a/..;/b HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("36 fragment", &[400], "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n"),
];

#[test]
fn an_ambiguous_request_is_refused_closed_and_never_forwarded() {
    let upstream = answering(HELLO);
    // The source must not be remembered as an offender for what this test sends on purpose.
    let edge = Edge::start(upstream.address(), OPEN);
    for (name, statuses, bytes) in REFUSED {
        let mut client = edge.connect();
        client.send(bytes.as_bytes()).unwrap();
        let response = client.receive("GET").unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(statuses.contains(&response.status), "{name}: {}", response.status);
        assert_eq!(response.header("content-type"), Some("application/problem+json"), "{name}");
        assert!(!response.keep_alive, "{name} keeps the connection");
        client.expect_close().unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    assert_eq!(upstream.accepted(), 0, "nothing reached the upstream");
}

#[test]
fn a_refused_request_does_not_hide_the_ones_before_it() {
    let upstream = answering(HELLO);
    let edge = Edge::start(upstream.address(), OPEN);
    let mut client = edge.connect();
    client.send(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost : a\r\n\r\nGET /3 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!(client.receive("GET").unwrap().status, 200);
    assert_eq!(client.receive("GET").unwrap().status, 400);
    client.expect_close().unwrap();
    assert_eq!(std::iter::from_fn(|| upstream.next_head(std::time::Duration::ZERO)).count(), 1);
}

#[test]
fn broken_chunks_never_look_whole_to_the_server() {
    for body in [
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nhello",
    ] {
        let upstream = scripted(&[Step::ReadHead, Step::Stall]);
        let edge = Edge::start(upstream.address(), OPEN);
        let mut client = edge.connect();
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        client.send(format!("{head}{body}").as_bytes()).unwrap();
        let response = client.receive("POST").unwrap_or_else(|error| panic!("{body:?}: {error}"));
        assert_eq!((response.status, response.keep_alive), (400, false), "{body:?}");
    }
}

#[test]
fn legal_but_rare_requests_keep_working() {
    let upstream = answering(HELLO);
    let edge = Edge::start(upstream.address(), OPEN);
    let legal: &[&str] = &[
        "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://b.example/x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX-Empty:\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX-Obs: \u{e9}\r\n\r\n",
        "GET /?a=[1]&b={2}|\"' HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /%61/./b/../c HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    ];
    for request in legal {
        let mut client = edge.connect();
        for byte in request.as_bytes() {
            client.send(&[*byte]).unwrap();
        }
        let response = client.receive("GET").unwrap_or_else(|error| panic!("{request:?}: {error}"));
        assert_eq!(response.status, 200, "{request:?}: {}", response.text());
    }
    let heads: Vec<String> = std::iter::from_fn(|| upstream.next_head(std::time::Duration::ZERO))
        .map(|head| String::from_utf8_lossy(&head).into_owned())
        .collect();
    assert!(heads[1].starts_with("GET /x HTTP/1.1\r\n") && heads[1].contains("b.example"), "{}", heads[1]);
    assert!(heads[5].starts_with("GET /a/c HTTP/1.1\r\n"), "one canonical path is sent: {}", heads[5]);
}
