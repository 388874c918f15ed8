//! Connections that go quiet and come back: what they keep meanwhile is little, and nothing of what they say is lost.
#![expect(clippy::disallowed_methods, reason = "the pauses are what these clients do")]

use std::{
    io::{Read, Write},
    thread::sleep,
    time::Duration,
};

use xtask::lab::{client::Request, scratch::Scratch, wait};

use crate::{
    secured::{tls_connect, tls_keys},
    support::{Edge, HELLO, OPEN, TIME_MAX, answering},
};

/// Longer than a connection is waited for with a buffer in hand.
const PAUSE: Duration = Duration::from_millis(350);

/// A client that comes in bursts: how long it waits before each request.
const RHYTHM: [Duration; 12] = [
    Duration::ZERO,
    Duration::ZERO,
    Duration::ZERO,
    PAUSE,
    PAUSE,
    Duration::ZERO,
    Duration::ZERO,
    Duration::from_millis(150),
    Duration::ZERO,
    Duration::ZERO,
    PAUSE,
    Duration::ZERO,
];

#[test]
fn whoever_pauses_is_served_as_before() {
    let upstream = answering(HELLO);
    let edge = Edge::start(upstream.address(), OPEN);
    let mut client = edge.connect();
    for (at, pause) in RHYTHM.into_iter().enumerate() {
        sleep(pause);
        assert_eq!(client.request(&Request::get("/")).unwrap().text(), "hello", "request {at}");
    }
    // Requests that come together, the last of them in two pieces.
    let request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    client.send(format!("{request}{request}GET / HT").as_bytes()).unwrap();
    assert_eq!(client.receive("GET").unwrap().text(), "hello");
    assert_eq!(client.receive("GET").unwrap().text(), "hello");
    sleep(PAUSE);
    client.send(b"TP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!(client.receive("GET").unwrap().text(), "hello");
}

#[test]
fn whoever_pauses_under_tls_is_served_as_before() {
    let upstream = answering(HELLO);
    let directory = Scratch::new().unwrap();
    let keys = tls_keys(&directory);
    let edge = Edge::start_with(directory, upstream.address(), &keys, OPEN);
    let mut client = tls_connect(&edge);
    for (at, pause) in RHYTHM.into_iter().enumerate() {
        sleep(pause);
        client.write_all(b"GET / HTTP/1.1\r\nHost: edge.example\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"hello") {
            let mut piece = [0; 1024];
            let count = client.read(&mut piece).unwrap();
            assert!(count > 0, "request {at}: {}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&piece[..count]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 200"), "request {at}: {}", String::from_utf8_lossy(&answer));
    }
}

#[test]
fn whoever_takes_long_to_ask_at_first_is_served() {
    let upstream = answering(HELLO);
    let edge = Edge::start(upstream.address(), OPEN);
    let mut client = edge.connect();
    sleep(PAUSE);
    assert_eq!(client.request(&Request::get("/")).unwrap().text(), "hello");
    // So is one that begins as HTTP/2 does and then says something else.
    let mut client = edge.connect();
    sleep(PAUSE);
    client.send(b"PR").unwrap();
    sleep(PAUSE);
    client.send(b"OPFIND / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!(client.receive("PROPFIND").unwrap().text(), "hello");
}

#[test]
fn an_idle_connection_still_ends_in_time() {
    let upstream = answering(HELLO);
    let edge = Edge::start_with(
        Scratch::new().unwrap(),
        upstream.address(),
        "timeouts = { keep_alive = \"1s\" }",
        OPEN,
    );
    let mut clients: Vec<_> = (0..3).map(|_| edge.connect()).collect();
    for (count, client) in clients.iter_mut().enumerate() {
        for _ in 0..count {
            assert_eq!(client.request(&Request::get("/")).unwrap().status, 200);
        }
    }
    let active = || edge.gateway.metrics().unwrap().sum("portcullis_connections_active", &[]);
    assert!(wait::until(TIME_MAX, || (active() < 0.5).then_some(())).is_some(), "{} are left", active());
}
