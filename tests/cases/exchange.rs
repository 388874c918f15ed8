//! Whose time it is in an exchange, and what becomes of both connections after it: slow peers, bodies that stop,
//! early answers, resets.

use std::time::Duration;

use xtask::lab::{
    client::{ClientError, Request},
    place::Place,
    scratch::Scratch,
    scripted::{Scripted, Step},
    wait,
};

use crate::support::{Edge, HELLO, OPEN, TIME_MAX, answering, scripted};

/// Longer than the short deadlines of these tests, sweep included.
const PAUSE: Duration = Duration::from_millis(700);

fn hello() -> Step {
    Step::Send(HELLO.into())
}

/// A gateway whose public listener has these timeouts; one worker, so that pooled connections are met again.
fn edge(upstream: &Scripted, timeouts: &str) -> Edge {
    let listener = format!("timeouts = {{ {timeouts} }}");
    let sections = format!("[runtime]\nworkers = 1\n{OPEN}");
    Edge::start_with(Scratch::new().unwrap(), upstream.address(), &listener, &sections)
}

/// Each connection follows its script, further ones the last.
fn scripts(scripts: Vec<Vec<Step>>) -> Scripted {
    Scripted::start(&Place::here(), "127.0.0.1:0".parse().unwrap(), scripts).unwrap()
}

/// All connections of clients are gone, those apart that the metrics themselves are asked over.
#[track_caller]
fn check_all_closed(edge: &Edge) {
    let closed = wait::until(TIME_MAX, || {
        let active = edge.gateway.metrics().unwrap().sum("portcullis_connections_active", &[]);
        (active < 0.5).then_some(())
    });
    assert!(closed.is_some(), "a connection stays: {}", edge.gateway.output());
}

#[test]
fn a_body_of_no_bytes_is_not_waited_for() {
    let upstream = scripted(&[Step::ReadHead, hello(), Step::ReadHead, hello()]);
    let edge = edge(&upstream, "");
    let mut client = edge.connect();
    for _ in 0..2 {
        client
            .send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nExpect: 100-continue\r\n\r\n")
            .unwrap();
        let response = client.receive("POST").unwrap();
        assert_eq!((response.status, response.keep_alive), (200, true));
    }
    assert_eq!(upstream.accepted(), 1, "the server's connection goes on as well");
}

#[test]
fn a_server_that_takes_longer_than_a_head_may_does_not_cost_the_client_its_connection() {
    let upstream = scripted(&[Step::ReadHead, Step::Pause(PAUSE), hello(), Step::ReadHead, hello()]);
    let edge = edge(&upstream, "head = \"300ms\"");
    let mut client = edge.connect();
    assert_eq!(client.request(&Request::get("/")).unwrap().text(), "hello");
    assert_eq!(client.request(&Request::get("/")).unwrap().text(), "hello");
}

#[test]
fn a_server_that_thinks_about_a_body_does_not_cost_the_client_its_connection() {
    let upstream =
        scripted(&[Step::ReadHead, Step::ReadBody(5), Step::Pause(PAUSE), hello(), Step::ReadHead, hello()]);
    let edge = edge(&upstream, "body_idle = \"300ms\"");
    let mut client = edge.connect();
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n").unwrap();
    upstream.next_head(TIME_MAX).unwrap();
    client.send(b"12345").unwrap();
    assert_eq!(client.receive("POST").unwrap().text(), "hello");
    assert_eq!(client.request(&Request::get("/")).unwrap().text(), "hello");
}

#[test]
fn a_server_that_pauses_between_pieces_is_waited_for() {
    let upstream = scripted(&[
        Step::ReadHead,
        Step::Send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n".to_vec()),
        Step::Pause(PAUSE),
        Step::Send(b"3\r\ntwo\r\n0\r\n\r\n".to_vec()),
    ]);
    let edge = edge(&upstream, "body_idle = \"300ms\"");
    assert_eq!(edge.get("/", &[]).text(), "onetwo");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the pause is what the client does")]
fn a_client_that_pauses_before_its_body_is_no_fault_of_the_server() {
    let upstream = scripted(&[Step::ReadHead, Step::ReadBody(5), hello()]);
    let sections = OPEN.replace("health = \"off\"", "health = \"off\"\ntimeouts = { head = \"300ms\" }");
    let edge = Edge::start(upstream.address(), &sections);
    let mut client = edge.connect();
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n").unwrap();
    assert_eq!(client.receive("POST").unwrap().status, 100);
    std::thread::sleep(PAUSE);
    client.send(b"12345").unwrap();
    assert_eq!(client.receive("POST").unwrap().status, 200);
}

#[test]
fn a_body_that_stops_after_some_pieces_is_408_and_not_504() {
    let upstream = scripted(&[Step::ReadHead, Step::Stall]);
    let edge = edge(&upstream, "body_idle = \"400ms\"");
    for _ in 0..3 {
        let mut client = edge.connect();
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n").unwrap();
        upstream.next_head(TIME_MAX).unwrap();
        client.send(b"123").unwrap();
        assert_eq!(client.receive("POST").unwrap().status, 408);
    }
}

#[test]
fn a_client_that_neither_sends_nor_reads_is_let_go() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 40000000\r\n\r\n";
    let big = [head.as_bytes(), &vec![b'x'; 40_000_000]].concat();
    let upstream = scripted(&[Step::ReadHead, Step::Send(big), Step::Stall]);
    let edge = edge(&upstream, "body_idle = \"300ms\"");
    let mut client = edge.connect();
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n123").unwrap();
    upstream.next_head(TIME_MAX).unwrap();
    check_all_closed(&edge);
    let mut client = edge.connect();
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    upstream.next_head(TIME_MAX).unwrap();
    check_all_closed(&edge);
}

#[test]
fn an_answer_that_the_deadline_ends_does_not_look_whole() {
    let upstream =
        scripted(&[Step::ReadHead, Step::Send(b"HTTP/1.1 200 OK\r\n\r\nhalf".to_vec()), Step::Stall]);
    let edge = edge(&upstream, "request = \"400ms\"");
    let answer = edge.connect().request(&Request::get("/"));
    assert!(matches!(answer, Err(ClientError::ClosedEarly(_) | ClientError::Reset)), "{answer:?}");
    let mut client = edge.connect();
    client.send(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n").unwrap();
    let answer = client.receive("GET");
    assert!(matches!(answer, Err(ClientError::Reset)), "{answer:?}");
}

#[test]
fn a_full_pool_gives_up_an_idle_connection_for_a_needed_one() {
    let (one, two) = (answering(HELLO), answering(HELLO));
    let sections = format!(
        "[runtime]\nworkers = 1\n[upstreams.app]\nservers = [\"{}\", \"{}\"]\nbalance = \"round_robin\"\n\
         health = \"off\"\nconnections = {{ per_worker = 1, idle_per_worker = 1 }}\n\
         [routes.all]\npath = \"/{{*rest}}\"\npublic = true\nupstream = \"app\"\n",
        one.address(),
        two.address()
    );
    let edge = Edge::start(one.address(), &sections);
    for _ in 0..4 {
        assert_eq!(edge.get("/", &[]).status, 200);
    }
    assert!(one.accepted() > 0 && two.accepted() > 0, "both servers are used");
}

#[test]
fn a_pool_of_busy_connections_is_503_and_bounds_that_are_hit_are_counted() {
    let upstream = scripted(&[Step::ReadHead, Step::Stall]);
    let sections = format!(
        "[runtime]\nworkers = 1\n{}",
        OPEN.replace(
            "health = \"off\"",
            "health = \"off\"\nconnections = { per_worker = 1, pending = 0 }\ntimeouts = { head = \"1s\" }"
        )
    );
    let edge = Edge::start(upstream.address(), &sections);
    let mut busy = edge.connect();
    busy.send(&Request::get("/").bytes()).unwrap();
    upstream.next_head(TIME_MAX).unwrap();
    assert_eq!(edge.get("/", &[]).status, 503);
    assert_eq!(busy.receive("GET").unwrap().status, 504);
    let metrics = edge.gateway.metrics().unwrap();
    let hits = |bound| metrics.sum("portcullis_bounds_hit_total", &[("bound", bound)]).to_string();
    assert_eq!((hits("upstream_pool"), hits("deadlines")), ("1".to_owned(), "1".to_owned()));
}

#[test]
fn an_early_answer_survives_what_the_client_does_wrong_afterwards() {
    let refusal = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno";
    let upstream = scripted(&[Step::ReadHead, Step::Send(refusal.into()), Step::Stall]);
    let edge = edge(&upstream, "");
    let mut client = edge.connect();
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    let response = client.receive("POST").unwrap();
    assert_eq!((response.status, response.keep_alive), (401, false));
    client.send(b"zz\r\n").unwrap();
    client.expect_close().unwrap();
}

#[test]
fn a_server_that_answered_early_is_not_used_again() {
    let refusal = "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno";
    let upstream = scripts(vec![
        vec![Step::ReadHead, Step::Send(refusal.into()), Step::Stall],
        vec![Step::ReadHead, hello()],
    ]);
    let edge = edge(&upstream, "");
    let mut client = edge.connect();
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n123").unwrap();
    assert_eq!(client.receive("POST").unwrap().status, 403);
    client.send(b"4567890").unwrap();
    client.expect_close().unwrap();
    assert_eq!(edge.get("/", &[]).text(), "hello", "the rest of the body is not read as a request");
    assert_eq!(upstream.accepted(), 2);
}

#[test]
fn a_client_that_resets_in_mid_upload_takes_the_servers_connection_with_it() {
    let upstream = scripts(vec![vec![Step::ReadHead, Step::Stall], vec![Step::ReadHead, hello()]]);
    let edge = edge(&upstream, "");
    let mut client = edge.connect();
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n123").unwrap();
    upstream.next_head(TIME_MAX).unwrap();
    client.reset().unwrap();
    check_all_closed(&edge);
    assert_eq!(edge.get("/", &[]).text(), "hello");
    assert_eq!(upstream.accepted(), 2);
}

#[test]
fn a_client_that_leaves_in_mid_head_or_mid_body_is_forgotten() {
    let upstream = scripted(&[Step::ReadHead, Step::Stall]);
    let edge = edge(&upstream, "");
    for half in ["GET / HTTP/1.1\r\nHo", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n123"] {
        let mut client = edge.connect();
        client.send(half.as_bytes()).unwrap();
        drop(client);
        check_all_closed(&edge);
    }
    let metrics = edge.gateway.metrics().unwrap();
    assert!(metrics.sum("portcullis_responses_total", &[("status", "408")]) < 0.5, "it was not a deadline");
}

#[test]
fn a_client_that_resets_in_mid_download_takes_the_servers_connection_with_it() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 20000000\r\n\r\n";
    let big = [head.as_bytes(), &vec![b'x'; 20_000_000]].concat();
    let upstream =
        scripts(vec![vec![Step::ReadHead, Step::Send(big), Step::Stall], vec![Step::ReadHead, hello()]]);
    let edge = edge(&upstream, "");
    let mut client = edge.connect();
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    upstream.next_head(TIME_MAX).unwrap();
    client.reset().unwrap();
    check_all_closed(&edge);
    assert_eq!(edge.get("/", &[]).text(), "hello");
    assert_eq!(upstream.accepted(), 2);
}

#[test]
fn a_request_that_may_have_been_acted_on_is_not_sent_twice() {
    let close_on_second = vec![Step::ReadHead, hello(), Step::ReadHead, Step::ReadBody(3), Step::Close];
    let upstream = scripts(vec![close_on_second, vec![Step::ReadHead, hello()]]);
    let edge = edge(&upstream, "");
    assert_eq!(edge.get("/1", &[]).text(), "hello");
    let post = Request { method: "POST", body: b"pay", ..Request::get("/2") };
    assert_eq!(edge.connect().request(&post).unwrap().status, 502);
    assert_eq!(std::iter::from_fn(|| upstream.next_head(Duration::ZERO)).count(), 2, "once each");
}

#[test]
fn a_client_that_finishes_its_side_still_gets_its_answer() {
    let upstream =
        scripted(&[Step::ReadHead, Step::ReadBody(5), Step::Pause(Duration::from_millis(50)), hello()]);
    let edge = edge(&upstream, "");
    let mut client = edge.connect();
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12345").unwrap();
    client.finish_sending().unwrap();
    assert_eq!(client.receive("POST").unwrap().text(), "hello");
    client.expect_close().unwrap();
}

#[test]
fn a_server_that_does_not_accept_is_504() {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    // The backlog takes one more than it says; further SYNs go unanswered.
    let _taken = std::net::TcpStream::connect(address).unwrap();
    let sections = OPEN.replace(
        "health = \"off\"",
        "health = \"off\"\nretry = { attempts = 0 }\ntimeouts = { connect = \"300ms\" }",
    );
    let edge = Edge::start(address, &sections);
    let response = edge.get("/", &[]);
    assert_eq!(response.status, 504, "{}", response.text());
}

#[test]
fn a_head_of_any_allowed_size_is_taken_and_one_byte_more_is_431() {
    const HEAD: &str = "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n";
    let upstream = answering(HELLO);
    let listener = "limits = { head_size = \"60KiB\" }";
    let edge = Edge::start_with(Scratch::new().unwrap(), upstream.address(), listener, OPEN);
    // Around the sizes of the buffers, and at the limit.
    let sizes = [20 * 1024, 21 * 1024, 60 * 1024].into_iter().flat_map(|size| [size - 1, size, size + 1]);
    for bytes in sizes {
        let head = HEAD.replace("X: ", &format!("X: {}", "x".repeat(bytes - HEAD.len())));
        let mut client = edge.connect();
        client.send(head.as_bytes()).unwrap();
        let expected = if bytes <= 60 * 1024 { 200 } else { 431 };
        assert_eq!(client.receive("GET").unwrap().status, expected, "{bytes}");
    }
}

/// A route of the gateway's own beside [`OPEN`].
const OWN: &str =
    "[routes.own]\npath = \"/own\"\npublic = true\nrespond = { status = 200, body = \"own\" }\n";

#[test]
fn a_body_that_nobody_wanted_is_never_read_as_a_request() {
    let upstream = answering(HELLO);
    let edge = Edge::start(upstream.address(), &format!("{OPEN}{OWN}"));
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    // Whole with the head: skipped, and the connection goes on.
    let mut client = edge.connect();
    let post =
        format!("POST /own HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{smuggled}", smuggled.len());
    client.send(post.as_bytes()).unwrap();
    let response = client.receive("POST").unwrap();
    assert_eq!((response.text(), response.keep_alive), ("own".into(), true));
    assert_eq!(client.request(&Request::get("/own")).unwrap().text(), "own");
    // Later than the head: where it ends is not waited for.
    let mut client = edge.connect();
    client
        .send(
            format!("POST /own HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", smuggled.len()).as_bytes(),
        )
        .unwrap();
    let response = client.receive("POST").unwrap();
    assert_eq!((response.text(), response.keep_alive), ("own".into(), false));
    client.send(smuggled.as_bytes()).unwrap();
    client.expect_close().unwrap();
    assert_eq!(upstream.accepted(), 0);
}

#[test]
fn a_pipeline_of_own_and_forwarded_answers_stays_in_order() {
    let upstream = answering(HELLO);
    let edge = Edge::start(upstream.address(), &format!("{OPEN}{OWN}"));
    let mut client = edge.connect();
    client
        .send(
            b"GET /own HTTP/1.1\r\nHost: a\r\n\r\n\
              POST /app HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n\
              HEAD /own HTTP/1.1\r\nHost: a\r\n\r\nOPTIONS * HTTP/1.1\r\nHost: a\r\n\r\nGET /own HTTP/1.1\r\nHo",
        )
        .unwrap();
    assert_eq!(client.receive("GET").unwrap().text(), "own");
    assert_eq!(client.receive("POST").unwrap().text(), "hello");
    let head = client.receive("HEAD").unwrap();
    assert_eq!((head.status, head.header("content-length")), (200, Some("3")));
    assert_eq!(client.receive("OPTIONS").unwrap().status, 200, "`*` goes where everything goes");
    client.send(b"st: a\r\n\r\n").unwrap();
    assert_eq!(client.receive("GET").unwrap().text(), "own");
}
