//! What HTTP's semantics ask of an intermediary, section by section (RFC 9110, RFC 9112).

use std::time::Duration;

use xtask::lab::{
    client::Request,
    scripted::{Scripted, Step},
};

use crate::support::{Edge, HELLO, OPEN, TIME_MAX, answering, scripted};

fn hello() -> Step {
    Step::Send(HELLO.into())
}

fn one_worker(upstream: &Scripted) -> Edge {
    Edge::start(upstream.address(), &format!("[runtime]\nworkers = 1\n{OPEN}"))
}

const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x-hop\r\nX-Hop: 1\r\n\r\n";

/// RFC 9110 §15.2: a proxy passes interim responses on, at once, but not the `100` that it asked for itself.
#[test]
fn interim_responses_are_passed_on_as_they_come() {
    let upstream = scripted(&[
        Step::ReadHead,
        Step::Send(format!("HTTP/1.1 100 Continue\r\n\r\n{HINTS}HTTP/1.1 102 Processing\r\n\r\n").into()),
        Step::ReadUntil(b"body!".to_vec()),
        hello(),
        Step::ReadHead,
        hello(),
    ]);
    let edge = one_worker(&upstream);
    let mut client = edge.connect();
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n").unwrap();
    let early = client.receive("POST").unwrap();
    assert_eq!((early.status, early.header("link")), (103, Some("</a>")));
    assert_eq!((early.header("x-hop"), early.header("content-length")), (None, None));
    assert_eq!(client.receive("POST").unwrap().status, 102);
    // The server waits for the body: what came so far did not wait for the final response.
    client.send(b"body!").unwrap();
    assert_eq!(client.receive("POST").unwrap().text(), "hello");
    assert_eq!(client.request(&Request::get("/")).unwrap().text(), "hello");
    assert_eq!(upstream.accepted(), 1);
}

#[test]
fn interim_responses_do_not_reach_http_1_0() {
    let upstream = answering(&format!("{HINTS}{HELLO}"));
    let edge = one_worker(&upstream);
    let mut client = edge.connect();
    client.send(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(client.receive("GET").unwrap().text(), "hello");
    client.expect_close().unwrap();
}

#[test]
fn a_server_that_fails_after_an_interim_response_is_still_502() {
    let upstream = scripted(&[Step::ReadHead, Step::Send(HINTS.into()), Step::Close]);
    let edge = one_worker(&upstream);
    let mut client = edge.connect();
    client.send(&Request::get("/").bytes()).unwrap();
    assert_eq!(client.receive("GET").unwrap().status, 103);
    assert_eq!(client.receive("GET").unwrap().status, 502);
}

/// RFC 9110 §8.6, §15.4.5, RFC 9112 §6.3: a length that says what a body would have had is no length of a body.
#[test]
fn lengths_of_bodies_that_do_not_come_are_told_and_not_waited_for() {
    let answer = |line: &str| Step::Send(format!("HTTP/1.1 {line}\r\nContent-Length: 1000\r\n\r\n").into());
    let upstream = scripted(&[
        Step::ReadHead,
        answer("304 Not Modified"),
        Step::ReadHead,
        answer("200 OK"),
        Step::ReadHead,
        answer("204 No Content"),
        Step::ReadHead,
        hello(),
    ]);
    let edge = one_worker(&upstream);
    let mut client = edge.connect();
    let not_modified = client.request(&Request::get("/")).unwrap();
    assert_eq!((not_modified.status, not_modified.header("content-length")), (304, Some("1000")));
    let head = client.request(&Request { method: "HEAD", ..Request::get("/") }).unwrap();
    assert_eq!((head.status, head.header("content-length")), (200, Some("1000")));
    // A 204 must not say a length: what stands behind it is a body to some.
    let no_content = client.request(&Request::get("/")).unwrap();
    assert_eq!((no_content.status, no_content.header("content-length")), (204, None));
    assert_eq!(no_content.header("transfer-encoding"), None);
    assert_eq!(client.request(&Request::get("/")).unwrap().text(), "hello");
    assert_eq!(upstream.accepted(), 1);
}

/// CVE-2025-4366: what a server sends behind an answer without a body is never the next client's.
#[test]
fn a_body_where_there_must_be_none_poisons_its_connection() {
    for (method, line) in [("HEAD", "200 OK"), ("GET", "204 No Content"), ("GET", "304 Not Modified")] {
        let poison = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
        let answer = format!("HTTP/1.1 {line}\r\nContent-Length: {}\r\n\r\n{poison}", poison.len());
        let any = "127.0.0.1:0".parse().unwrap();
        let scripts = vec![
            vec![Step::ReadHead, Step::Send(answer.into()), Step::Stall],
            vec![Step::ReadHead, hello(), Step::Stall],
        ];
        let upstream = Scripted::start(&xtask::lab::place::Place::here(), any, scripts).unwrap();
        let edge = one_worker(&upstream);
        let mut client = edge.connect();
        client.request(&Request { method, ..Request::get("/") }).unwrap();
        assert_eq!(client.request(&Request::get("/")).unwrap().text(), "hello", "{method} {line}");
        assert_eq!(upstream.accepted(), 2, "{method} {line}");
    }
}

/// RFC 9110 §15.3.6: a 205 ends where its framing says, and has nothing in it.
#[test]
fn a_205_is_framed_like_any_other() {
    for framing in ["Content-Length: 0\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"] {
        let upstream = answering(&format!("HTTP/1.1 205 Reset Content\r\n{framing}"));
        let edge = one_worker(&upstream);
        let mut client = edge.connect();
        for _ in 0..2 {
            let response = client.request(&Request::get("/")).unwrap();
            assert_eq!((response.status, response.body.len(), response.keep_alive), (205, 0, true));
        }
        assert_eq!(upstream.accepted(), 1);
    }
}

/// RFC 9110 §9.3.2: the same fields as a GET, and no body, also where the gateway answers by itself.
#[test]
fn head_is_told_what_get_is_told() {
    let upstream = answering(HELLO);
    let sections = format!(
        "{}[routes.own]\npath = \"/own\"\npublic = true\nrespond = {{ status = 200, body = \"own\" }}\n",
        OPEN.replace("/{*rest}", "/app")
    );
    let edge = Edge::start(upstream.address(), &sections);
    let mut client = edge.connect();
    for target in ["/own", "/nowhere"] {
        let get = client.request(&Request::get(target)).unwrap();
        let head = client.request(&Request { method: "HEAD", ..Request::get(target) }).unwrap();
        assert_eq!((get.status, get.header("content-type")), (head.status, head.header("content-type")));
        assert_eq!(head.header("content-length"), Some(get.body.len().to_string().as_str()), "{target}");
        assert!(head.body.is_empty() && head.keep_alive, "{target}");
    }
}

/// RFC 9110 §7.6.3: each hop is named, the nearest last; §7.6.1: and no field of a hop goes farther.
#[test]
fn a_message_says_which_way_it_came_and_nothing_of_the_hops() {
    let upstream = answering(&HELLO.replacen(
        "\r\n",
        "\r\nVia: 1.0 inner\r\nProxy-Authenticate: x\r\nTE: x\r\nTrailer: x\r\nUpgrade: x\r\n",
        1,
    ));
    let edge = Edge::start(upstream.address(), OPEN);
    let response = edge.get("/", &[("via", "1.0 outer"), ("te", "trailers"), ("keep-alive", "5")]);
    let vias: Vec<_> = response.headers.iter().filter(|(name, _)| name == "via").collect();
    assert_eq!(
        vias.iter().map(|(_, value)| value.as_str()).collect::<Vec<_>>(),
        ["1.0 inner", "1.1 portcullis"]
    );
    for gone in ["proxy-authenticate", "te", "trailer", "upgrade"] {
        assert_eq!(response.header(gone), None, "{gone}");
    }
    let head = String::from_utf8(upstream.next_head(TIME_MAX).unwrap()).unwrap().to_lowercase();
    let (outer, ours) = (head.find("via: 1.0 outer"), head.find("via: 1.1 portcullis"));
    assert!(outer.is_some() && outer < ours, "{head}");
    assert!(!head.contains("\r\nte:") && !head.contains("keep-alive"), "{head}");
}

/// RFC 9110 §7.6.2: an `OPTIONS` goes as far as it says, and each hop counts.
#[test]
fn options_go_as_far_as_they_say() {
    let upstream = answering(HELLO);
    let edge = Edge::start(upstream.address(), OPEN);
    let ask = |method, target, value: &str| {
        let headers = [("max-forwards", value)];
        edge.connect().request(&Request { method, ..Request::get(target).with(&headers) }).unwrap()
    };
    for target in ["*", "/x"] {
        let response = ask("OPTIONS", target, "0");
        assert_eq!((response.status, response.keep_alive), (204, true), "{target}");
        assert_eq!(upstream.accepted(), 0, "{target}");
    }
    for (method, value, expected) in
        [("OPTIONS", "1", "0"), ("OPTIONS", "70", "69"), ("GET", "0", "0"), ("OPTIONS", "x", "x")]
    {
        assert_eq!(ask(method, "/x", value).text(), "hello");
        let head = String::from_utf8(upstream.next_head(TIME_MAX).unwrap()).unwrap().to_lowercase();
        assert_eq!(head.matches("max-forwards").count(), 1, "{head}");
        assert!(head.contains(&format!("\r\nmax-forwards: {expected}\r\n")), "{method} {value}: {head}");
    }
}

/// RFC 9112 §9.6: `close` is heard on both sides, and nothing behind the last request is answered.
#[test]
fn close_ends_a_connection_behind_the_answer() {
    let upstream = answering(HELLO);
    let edge = one_worker(&upstream);
    let mut client = edge.connect();
    client
        .send(
            b"GET /1 HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n\
              GET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
        )
        .unwrap();
    let response = client.receive("GET").unwrap();
    assert_eq!((response.text(), response.header("connection")), ("hello".into(), Some("close")));
    client.expect_close().unwrap();
    upstream.next_head(TIME_MAX).unwrap();
    assert!(upstream.next_head(Duration::ZERO).is_none(), "the second request is not even read");
    // The server's own wish is about its own connection.
    let closing = answering(&HELLO.replacen("\r\n", "\r\nConnection: close\r\n", 1));
    let edge = one_worker(&closing);
    let mut client = edge.connect();
    for _ in 0..2 {
        let response = client.request(&Request::get("/")).unwrap();
        assert_eq!((response.keep_alive, response.header("connection")), (true, None));
    }
    assert_eq!(closing.accepted(), 2);
}

/// Fault row 4: a server that drips for ever, in its head or in its body, ends at the deadlines.
#[test]
fn a_server_that_drips_for_ever_is_cut_at_the_deadlines() {
    let drip = |start: &str| {
        let drops = [Step::Send(b"x".to_vec()), Step::Pause(Duration::from_millis(20))];
        let drips = std::iter::repeat_n(drops, 2_000).flatten();
        let steps: Vec<_> = [Step::ReadHead, Step::Send(start.into())].into_iter().chain(drips).collect();
        scripted(&steps)
    };
    let sections = OPEN.replace("health = \"off\"", "health = \"off\"\ntimeouts = { head = \"400ms\" }");
    let upstream = drip("HTTP/1.1 200 OK\r\nX: ");
    let edge = Edge::start(upstream.address(), &sections);
    assert_eq!(edge.get("/", &[]).status, 504);
    let upstream = drip("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n");
    let directory = xtask::lab::scratch::Scratch::new().unwrap();
    let edge = Edge::start_with(directory, upstream.address(), "timeouts = { request = \"400ms\" }", OPEN);
    let answer = edge.connect().request(&Request::get("/"));
    assert!(answer.is_err(), "what is not whole does not look so: {answer:?}");
}

/// Fault row 1: on a pooled connection a reset is as good as a close.
#[test]
fn a_pooled_connection_that_is_reset_is_replaced_for_what_may_be_sent_twice() {
    let any = "127.0.0.1:0".parse().unwrap();
    let scripts = vec![
        vec![Step::ReadHead, hello(), Step::ReadHead, Step::Reset],
        vec![Step::ReadHead, hello(), Step::Stall],
    ];
    let upstream = Scripted::start(&xtask::lab::place::Place::here(), any, scripts).unwrap();
    let edge = one_worker(&upstream);
    assert_eq!(edge.get("/1", &[]).text(), "hello");
    assert_eq!(edge.get("/2", &[]).text(), "hello");
    assert_eq!(upstream.accepted(), 2);
}
