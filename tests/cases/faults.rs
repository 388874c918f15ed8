//! What goes wrong behind the gateway and in front of it, and what the other side sees of it.

use std::time::Duration;

use xtask::lab::{
    client::{ClientError, Request},
    place::Place,
    scripted::{Scripted, Step},
};

use crate::support::{Edge, HELLO, OPEN, answering, free_address, scripted};

fn one_worker(sections: &str) -> String {
    format!("[runtime]\nworkers = 1\n{sections}")
}

#[test]
fn no_server_is_a_fast_502_or_503() {
    let edge = Edge::start(free_address(), OPEN);
    let response = edge.get("/", &[]);
    assert!([502, 503].contains(&response.status), "{}", response.status);
    assert_eq!(response.header("content-type"), Some("application/problem+json"));
}

#[test]
fn a_server_that_closes_without_an_answer_is_502() {
    let upstream = scripted(&[Step::ReadHead, Step::Close]);
    let edge = Edge::start(upstream.address(), OPEN);
    assert_eq!(edge.get("/", &[]).status, 502);
    let upstream = scripted(&[Step::ReadHead, Step::Reset]);
    let edge = Edge::start(upstream.address(), OPEN);
    assert_eq!(edge.get("/", &[]).status, 502);
}

#[test]
fn garbage_from_a_server_is_502_and_not_passed_on() {
    for garbage in [
        "SSH-2.0-OpenSSH\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    ] {
        let upstream = scripted(&[Step::ReadHead, Step::Send(garbage.into()), Step::Stall]);
        let edge = Edge::start(upstream.address(), OPEN);
        assert_eq!(edge.get("/", &[]).status, 502, "{garbage:?}");
    }
}

#[test]
fn an_answer_whose_head_has_no_end_or_breaks_off_is_502() {
    let fields = "X: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n";
    let large = format!("HTTP/1.1 200 OK\r\n{}", fields.repeat(65 * 1024 / fields.len() + 1));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: a\r\n".repeat(2000));
    for (head, end) in [
        (&large[..], Step::Stall),
        (&many, Step::Stall),
        ("HTTP/1.1 200 OK\r\nContent-Le", Step::Close),
        ("HTTP/1.1 200 OK\r\nContent-Le", Step::Reset),
    ] {
        let upstream = scripted(&[Step::ReadHead, Step::Send(head.into()), end.clone()]);
        let edge = Edge::start(upstream.address(), OPEN);
        assert_eq!(edge.get("/", &[]).status, 502, "{} bytes, then {end:?}", head.len());
        assert_eq!(upstream.accepted(), 1, "it had begun to answer: it is not asked again");
    }
}

#[test]
fn interim_answers_without_end_are_502() {
    let interim = "HTTP/1.1 100 Continue\r\n\r\n".repeat(20_000);
    let upstream = scripted(&[Step::ReadHead, Step::Send(interim.into()), Step::Stall]);
    let edge = Edge::start(upstream.address(), OPEN);
    assert_eq!(edge.get("/", &[]).status, 502);
    let few = format!("{}{HELLO}", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(3));
    let upstream = answering(&few);
    let edge = Edge::start(upstream.address(), OPEN);
    assert_eq!(edge.get("/", &[]).status, 200, "a few are legal");
}

#[test]
fn a_silent_server_is_504() {
    let upstream = scripted(&[Step::ReadHead, Step::Stall]);
    let sections = OPEN.replace("health = \"off\"", "health = \"off\"\ntimeouts = { head = \"300ms\" }");
    let edge = Edge::start(upstream.address(), &sections);
    assert_eq!(edge.get("/", &[]).status, 504);
}

#[test]
fn a_server_that_drips_for_ever_is_cut_by_the_deadline_of_the_whole() {
    let drip = |first: &str, drop: &str| {
        let mut script = vec![Step::ReadHead, Step::Send(first.into())];
        let slowly = [Step::Send(drop.into()), Step::Pause(Duration::from_millis(20))];
        script.extend(std::iter::repeat_n(slowly, 2000).flatten());
        scripted(&script)
    };
    let sections =
        OPEN.replace("upstream = \"app\"", "upstream = \"app\"\ntimeouts = { request = \"500ms\" }");
    let head = drip("HTTP/1.1 200 OK\r\nX: ", "a");
    let edge = Edge::start(head.address(), &sections);
    assert_eq!(edge.get("/", &[]).status, 504);
    let body = drip("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", "a");
    let edge = Edge::start(body.address(), &sections);
    let answer = edge.connect().request(&Request::get("/"));
    assert!(answer.is_err(), "half a body must not look whole: {answer:?}");
}

#[test]
fn a_server_that_dies_in_mid_body_is_seen_to_have_died() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n",
    ] {
        for end in [Step::Close, Step::Reset] {
            let upstream = scripted(&[Step::ReadHead, Step::Send(answer.into()), end]);
            let edge = Edge::start(upstream.address(), OPEN);
            // Where nothing had been told yet, it is a 502.
            let answer = edge.connect().request(&Request::get("/"));
            let seen = answer.as_ref().map_or(true, |response| response.status == 502);
            assert!(seen, "a truncated answer must not look whole: {answer:?}");
        }
    }
    // A client of HTTP/1.0 has only the close to tell the end by: it must be a reset.
    let upstream = scripted(&[
        Step::ReadHead,
        Step::Send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n".to_vec()),
        Step::Close,
    ]);
    let edge = Edge::start(upstream.address(), OPEN);
    let mut client = edge.connect();
    client.send(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n").unwrap();
    let error = client.receive("GET");
    assert!(matches!(error, Err(ClientError::Reset)), "{error:?}");
}

#[test]
fn a_pooled_connection_that_the_server_closed_is_replaced_without_a_word() {
    let close_after_one = vec![Step::ReadHead, Step::Send(HELLO.into()), Step::Close];
    let any = "127.0.0.1:0".parse().unwrap();
    let upstream = Scripted::start(&Place::here(), any, vec![close_after_one; 1]).unwrap();
    let edge = Edge::start(upstream.address(), &one_worker(OPEN));
    for _ in 0..20 {
        assert_eq!(edge.get("/", &[]).status, 200);
    }
}

#[test]
fn bytes_behind_an_answer_poison_the_connection() {
    let two_answers = format!("{HELLO}HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison");
    let upstream = answering(&two_answers);
    let edge = Edge::start(upstream.address(), &one_worker(OPEN));
    for _ in 0..5 {
        assert_eq!(edge.get("/", &[]).text(), "hello", "CVE-2025-4366: nobody gets another's answer");
    }
    assert_eq!(upstream.accepted(), 5);
}

#[test]
fn an_early_answer_reaches_a_client_that_is_still_sending() {
    let refusal = "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno";
    let upstream = scripted(&[Step::ReadHead, Step::Send(refusal.into()), Step::Stall]);
    let edge = Edge::start(upstream.address(), OPEN);
    let mut client = edge.connect();
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 7000000\r\n\r\n").unwrap();
    client.send(&vec![b'x'; 200_000]).unwrap();
    let response = client.receive("POST").unwrap();
    assert_eq!((response.status, response.text()), (403, "no".into()));
}

#[test]
fn a_slow_head_is_cut_by_an_absolute_deadline() {
    let upstream = answering(HELLO);
    let listener = "timeouts = { head = \"400ms\" }";
    let directory = xtask::lab::scratch::Scratch::new().unwrap();
    let edge = Edge::start_with(directory, upstream.address(), listener, OPEN);
    let mut client = edge.connect();
    client.send(b"GET / HT").unwrap();
    let response = client.receive("GET").unwrap();
    assert_eq!(response.status, 408);
    assert_eq!(upstream.accepted(), 0);
}

#[test]
fn a_body_that_stops_is_408() {
    let upstream = scripted(&[Step::ReadHead, Step::Stall]);
    let listener = "timeouts = { body_idle = \"400ms\" }";
    let directory = xtask::lab::scratch::Scratch::new().unwrap();
    let edge = Edge::start_with(directory, upstream.address(), listener, OPEN);
    let mut client = edge.connect();
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n123").unwrap();
    assert_eq!(client.receive("POST").unwrap().status, 408);
}

#[test]
fn an_idle_connection_is_closed_in_silence() {
    let upstream = answering(HELLO);
    let listener = "timeouts = { keep_alive = \"300ms\" }";
    let directory = xtask::lab::scratch::Scratch::new().unwrap();
    let edge = Edge::start_with(directory, upstream.address(), listener, OPEN);
    let mut client = edge.connect();
    assert_eq!(client.request(&Request::get("/")).unwrap().status, 200);
    client.expect_close().unwrap();
}

#[test]
fn a_dead_server_is_left_out_by_its_health_checks_and_comes_back() {
    let good = answering(HELLO);
    let place = Place::here();
    let address = free_address();
    let sections = format!(
        "[runtime]\nworkers = 1\n[upstreams.app]\nservers = [\"{address}\"]\nbalance = \"round_robin\"\n\
         retry = {{ attempts = 0 }}\n\
         health = {{ path = \"/\", interval = \"100ms\", timeout = \"1s\", healthy = 1, unhealthy = 1 }}\n\
         [routes.all]\npath = \"/{{*rest}}\"\npublic = true\nupstream = \"app\"\n"
    );
    let edge = Edge::start(good.address(), &sections);
    let left_out =
        xtask::lab::wait::until(Duration::from_secs(10), || (edge.get("/", &[]).status == 503).then_some(()));
    assert!(left_out.is_some(), "no live server is 503");
    let script = vec![vec![Step::ReadHead, Step::Send(HELLO.into()), Step::Close]];
    let _revived = Scripted::start(&place, address, script).unwrap();
    let back =
        xtask::lab::wait::until(Duration::from_secs(10), || (edge.get("/", &[]).status == 200).then_some(()));
    assert!(back.is_some(), "a server that answers again is used again");
}
