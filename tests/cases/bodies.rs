//! Large bodies come through as they were sent, or are seen not to have.

use std::sync::mpsc;

use xtask::lab::{
    client::{ClientError, Request},
    scripted::Step,
};

use crate::support::{Edge, HELLO, OPEN, TIME_MAX, scripted};

/// More than the buffers and pipes of the gateway and both sockets hold.
const BODY_BYTES: usize = 24 * 1024 * 1024;

/// No two stretches of it are alike, so that a lost, doubled or moved one shows.
fn body() -> Vec<u8> {
    (0..u32::try_from(BODY_BYTES / 4).unwrap())
        .flat_map(|word| word.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect()
}

fn answer(announced_bytes: usize, body: &[u8]) -> Step {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {announced_bytes}\r\n\r\n");
    Step::Send([head.as_bytes(), body].concat())
}

#[test]
fn a_large_body_is_whole_and_its_connections_go_on() {
    let body = body();
    let hello = Step::Send(HELLO.into());
    let upstream = scripted(&[
        Step::ReadHead,
        answer(body.len(), &body),
        Step::ReadHead,
        hello.clone(),
        Step::ReadHead,
        answer(body.len(), &body),
        Step::ReadHead,
        hello,
    ]);
    let edge = Edge::start(upstream.address(), &format!("[runtime]\nworkers = 1\n{OPEN}"));
    let mut client = edge.connect();
    for _ in 0..2 {
        assert!(client.request(&Request::get("/")).unwrap().body == body, "the body is not the one sent");
        assert_eq!(client.request(&Request::get("/")).unwrap().text(), "hello");
    }
    assert_eq!(upstream.accepted(), 1, "the server's connection goes on as well");
}

#[test]
fn clients_that_read_slowly_share_a_worker_with_one_that_does_not() {
    let body = body();
    let upstream =
        scripted(&[Step::ReadHead, answer(body.len(), &body), Step::ReadHead, Step::Send(HELLO.into())]);
    let edge = Edge::start(upstream.address(), &format!("[runtime]\nworkers = 1\n{OPEN}"));
    let mut slow: Vec<_> = (0..4).map(|_| edge.connect()).collect();
    for client in &mut slow {
        client.send(&Request::get("/").bytes()).unwrap();
        upstream.next_head(TIME_MAX).unwrap();
    }
    // None of the four reads yet; a fifth gets all of its own.
    assert!(edge.connect().request(&Request::get("/")).unwrap().body == body);
    let (sender, received) = mpsc::channel();
    for mut client in slow {
        let sender = sender.clone();
        std::thread::spawn(move || sender.send(client.receive("GET").map(|response| response.body)));
    }
    for _ in 0..4 {
        assert!(received.recv_timeout(TIME_MAX).unwrap().unwrap() == body);
    }
}

#[test]
fn a_large_body_that_ends_early_is_cut_and_one_that_is_too_long_poisons_its_connection() {
    let body = body();
    let upstream = scripted(&[Step::ReadHead, answer(body.len() + 1, &body), Step::Close]);
    let edge = Edge::start(upstream.address(), OPEN);
    let seen = edge.connect().request(&Request::get("/"));
    assert!(matches!(seen, Err(ClientError::ClosedEarly(_) | ClientError::Reset)), "it looked whole");

    let upstream = scripted(&[Step::ReadHead, answer(body.len() - 1, &body), Step::Stall]);
    let edge = Edge::start(upstream.address(), &format!("[runtime]\nworkers = 1\n{OPEN}"));
    let mut client = edge.connect();
    for _ in 0..2 {
        let response = client.request(&Request::get("/")).unwrap();
        assert!(body.starts_with(&response.body) && response.body.len() == body.len() - 1);
    }
    assert_eq!(upstream.accepted(), 2, "bytes behind an answer are nobody's");
}
