//! HTTP/1.1 as its users know it: keep-alive, pipelines, bodies in both framings, `Expect`, HEAD, big bodies.

use xtask::lab::{client::Request, place::Place, scripted::Step, upstream::Nginx};

use crate::support::{Edge, HELLO, OPEN, TIME_MAX, answering, free_address, scripted};

/// What an upstream was sent, in lower case.
fn head(upstream: &xtask::lab::scripted::Scripted) -> String {
    String::from_utf8(upstream.next_head(TIME_MAX).expect("a request reaches the upstream"))
        .unwrap()
        .to_lowercase()
}

#[test]
fn a_real_server_is_reached_and_told_who_asks() {
    let upstream = Nginx::start(&Place::here(), free_address(), "one").unwrap();
    let edge = Edge::start(upstream.address(), OPEN);
    let response = edge.get("/echo?q=1", &[("x-forwarded-for", "203.0.113.9"), ("connection", "keep-alive")]);
    assert_eq!(response.status, 200, "{}", response.text());
    let text = response.text();
    assert!(text.contains("target: /echo?q=1\n"), "{text}");
    assert!(text.contains("x-forwarded-for: 127.0.0.1\n"), "a stranger's header is not believed: {text}");
    assert!(text.contains("x-forwarded-proto: http\n"), "{text}");
    let request_id = response.header("x-request-id").expect("a request id");
    assert!(text.contains(&format!("x-request-id: {request_id}\n")), "both sides see the same id: {text}");
}

#[test]
fn one_connection_carries_many_requests_and_a_pipeline() {
    let upstream = Nginx::start(&Place::here(), free_address(), "one").unwrap();
    let edge = Edge::start(upstream.address(), OPEN);
    let mut client = edge.connect();
    for n in 0..5 {
        let response = client.request(&Request::get(&format!("/{n}"))).unwrap();
        assert_eq!((response.status, response.keep_alive), (200, true));
    }
    let pipeline: Vec<u8> = (0..10).flat_map(|n| Request::get(&format!("/pipelined/{n}")).bytes()).collect();
    client.send(&pipeline).unwrap();
    for n in 0..10 {
        let response = client.receive("GET").unwrap();
        assert!(
            response.text().contains(&format!("target: /pipelined/{n}\n")),
            "in order: {}",
            response.text()
        );
    }
}

#[test]
fn upstream_connections_are_kept_and_reused() {
    let upstream = answering(HELLO);
    let edge = Edge::start(upstream.address(), &format!("[runtime]\nworkers = 1\n{OPEN}"));
    for _ in 0..5 {
        assert_eq!(edge.get("/", &[]).text(), "hello");
    }
    assert_eq!(upstream.accepted(), 1);
}

#[test]
fn a_megabyte_comes_through_whole() {
    let upstream = Nginx::start(&Place::here(), free_address(), "one").unwrap();
    let edge = Edge::start(upstream.address(), OPEN);
    for (file, bytes) in [("128", 128), ("16k", 16 * 1024), ("1m", 1024 * 1024)] {
        let response = edge.get(&format!("/files/{file}"), &[]);
        assert_eq!(response.body.len(), bytes, "{file}");
        assert!(response.body.iter().all(|&byte| byte == b'x'), "{file}");
    }
}

#[test]
fn a_large_request_body_streams_to_the_server() {
    const BYTES: usize = 3 * 1024 * 1024;
    let upstream = scripted(&[Step::ReadHead, Step::ReadBody(BYTES), Step::Send(HELLO.into())]);
    let edge = Edge::start(upstream.address(), OPEN);
    let body = vec![b'b'; BYTES];
    let response =
        edge.connect().request(&Request { method: "PUT", body: &body, ..Request::get("/up") }).unwrap();
    assert_eq!((response.status, response.text()), (200, "hello".into()));
    assert!(head(&upstream).contains(&format!("content-length: {BYTES}\r\n")));
}

#[test]
fn chunks_are_decoded_and_framed_again_with_their_trailers() {
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n\
                  3;ext=1\r\nabc\r\n4\r\ndefg\r\n0\r\nx-sum: 7\r\ncontent-length: 9\r\n\r\n";
    let upstream = answering(answer);
    let edge = Edge::start(upstream.address(), OPEN);
    let mut client = edge.connect();
    let response = client.request(&Request::get("/")).unwrap();
    assert_eq!(response.text(), "abcdefg");
    assert_eq!(response.trailers, [("x-sum".to_owned(), "7".to_owned())], "a forbidden trailer is dropped");
    assert_eq!(client.request(&Request::get("/")).unwrap().text(), "abcdefg", "the connection goes on");
}

#[test]
fn a_chunked_request_reaches_the_server_chunk_by_chunk() {
    // The framing is made anew, so the test reads the upstream's octets by their number: "5\r\nhello\r\n0\r\n\r\n".
    let upstream = scripted(&[Step::ReadHead, Step::ReadBody(15), Step::Send(HELLO.into())]);
    let edge = Edge::start(upstream.address(), OPEN);
    let mut client = edge.connect();
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    for byte in b"5;x=y\r\nhello\r\n0\r\n\r\n" {
        client.send(&[*byte]).unwrap();
    }
    assert_eq!(client.receive("POST").unwrap().text(), "hello");
    let head = head(&upstream);
    assert!(head.contains("transfer-encoding: chunked\r\n") && !head.contains("content-length"), "{head}");
}

#[test]
fn expect_100_continue_is_answered_before_the_body() {
    let upstream = scripted(&[Step::ReadHead, Step::ReadBody(5), Step::Send(HELLO.into())]);
    let edge = Edge::start(upstream.address(), OPEN);
    let mut client = edge.connect();
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n").unwrap();
    assert_eq!(client.receive("POST").unwrap().status, 100);
    client.send(b"12345").unwrap();
    assert_eq!(client.receive("POST").unwrap().status, 200);
    assert!(!head(&upstream).contains("expect"), "the gateway has answered it");
}

#[test]
fn head_204_and_304_have_no_body_and_the_connection_goes_on() {
    let upstream = scripted(&[
        Step::ReadHead,
        Step::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n".to_vec()),
        Step::ReadHead,
        Step::Send(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()),
        Step::ReadHead,
        Step::Send(b"HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n".to_vec()),
        Step::ReadHead,
        Step::Send(HELLO.into()),
    ]);
    let edge = Edge::start(upstream.address(), &format!("[runtime]\nworkers = 1\n{OPEN}"));
    let mut client = edge.connect();
    let response = client.request(&Request { method: "HEAD", ..Request::get("/") }).unwrap();
    assert_eq!((response.status, response.header("content-length")), (200, Some("1000")));
    assert_eq!(client.request(&Request::get("/")).unwrap().status, 204);
    assert_eq!(client.request(&Request::get("/")).unwrap().status, 304);
    assert_eq!(client.request(&Request::get("/")).unwrap().text(), "hello");
    assert_eq!(upstream.accepted(), 1);
}

#[test]
fn an_http_1_0_client_is_told_the_end_by_the_close() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let upstream = answering(chunked);
    let edge = Edge::start(upstream.address(), OPEN);
    let mut client = edge.connect();
    client.send(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n").unwrap();
    let response = client.receive("GET").unwrap();
    assert_eq!(
        (response.text(), response.header("transfer-encoding"), response.keep_alive),
        ("abc".into(), None, false)
    );
}

#[test]
fn hop_by_hop_fields_stay_on_their_hop() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: x-secret\r\nX-Secret: 1\r\nKeep-Alive: timeout=5\r\n\
                  X-Kept: yes\r\n\r\nok";
    let upstream = answering(answer);
    let edge = Edge::start(upstream.address(), OPEN);
    let headers = [
        ("connection", "keep-alive, x-hop, host"),
        ("x-hop", "1"),
        ("te", "trailers"),
        ("upgrade", "h2c"),
        ("http2-settings", "AAMAAABkAAQAAP__"),
        ("proxy-connection", "keep-alive"),
        ("x-original-url", "/admin"),
        ("x_forwarded_for", "1.2.3.4"),
        ("x-end-to-end", "1"),
    ];
    let response = edge.get("/", &headers);
    assert_eq!((response.header("x-secret"), response.header("keep-alive")), (None, None));
    assert_eq!(response.header("x-kept"), Some("yes"));
    let head = head(&upstream);
    for gone in
        ["x-hop", "\r\nte:", "upgrade", "http2-settings", "proxy-connection", "x-original-url", "x_forwarded"]
    {
        assert!(!head.contains(gone), "{gone}: {head}");
    }
    assert!(head.contains("\r\nhost: localhost\r\n") && head.contains("x-end-to-end: 1\r\n"), "{head}");
}

#[test]
fn requests_are_shared_in_turn_by_the_live_servers() {
    let (one, two) = (answering(HELLO), answering(HELLO));
    let dead = free_address();
    let sections = format!(
        "[runtime]\nworkers = 1\n[upstreams.app]\nservers = [\"{}\", \"{dead}\", \"{}\"]\nbalance = \"round_robin\"\n\
         health = \"off\"\n[routes.all]\npath = \"/{{*rest}}\"\npublic = true\nupstream = \"app\"\n",
        one.address(),
        two.address()
    );
    let edge = Edge::start(one.address(), &sections);
    for _ in 0..12 {
        assert_eq!(
            edge.get("/", &[]).status,
            200,
            "a server that is not there costs a retry, not the request"
        );
    }
    let heads = |upstream: &xtask::lab::scripted::Scripted| {
        std::iter::from_fn(|| upstream.next_head(std::time::Duration::ZERO)).count()
    };
    let (first, second) = (heads(&one), heads(&two));
    assert_eq!(first + second, 12);
    assert!(first >= 4 && second >= 4, "{first} and {second}");
}
