//! How long a tunnel lives, what is counted of it, and how much memory it may take.

use std::{fs, io::Write, process::ExitStatus, time::Duration};

use super::*;
use crate::support::scripted;
use xtask::lab::{scripted::Step, wait};

fn with_idle(idle: &str) -> String {
    SOCKETS.replace("websocket = true", &format!("websocket = {{ idle_timeout = \"{idle}\" }}"))
}

fn metric(edge: &Edge, name: &str) -> String {
    edge.gateway.metrics().unwrap().sum(name, &[]).to_string()
}

/// Waits for the end, whichever way it comes.
fn read_until_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => panic!("{error}"),
        _ => rest,
    }
}

#[test]
fn a_silent_tunnel_is_cut_on_both_sides() {
    let upstream = scripted(&[
        Step::ReadHead,
        Step::Send(
            format!(
                "HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\r\n",
                derive_accept_key(KEY.as_bytes())
            )
            .into(),
        ),
        Step::Stall,
    ]);
    let edge = Edge::start(upstream.address(), &with_idle("300ms"));
    let mut stream = open(&edge);
    assert_eq!(read_until_end(&mut stream), b"");
    let closed = wait::until(TIME_MAX, || (metric(&edge, "portcullis_tunnels_active") == "0").then_some(()));
    assert!(closed.is_some());
}

#[test]
fn a_tunnel_in_which_one_side_speaks_lives() {
    let edge = Edge::start(server(echo_bytes), &with_idle("1s"));
    let mut stream = open(&edge);
    // Longer than the silence that is borne, and never silent for so long.
    wait::until(Duration::from_secs(2), || {
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
        None::<()>
    });
    stream.write_all(b"still here").unwrap();
    stream.read_exact(&mut [0; 10]).unwrap();
}

/// Attacks, row 92: pings do not pay for a reader that never reads.
#[test]
fn a_peer_that_takes_nothing_is_cut_even_if_it_speaks() {
    let edge = Edge::start(
        server(|mut stream| {
            agree(&mut stream, b"");
            let mut listening = stream.try_clone().unwrap();
            thread::spawn(move || std::io::copy(&mut listening, &mut std::io::sink()));
            while stream.write_all(&[0; 16_384]).is_ok() {}
        }),
        &with_idle("500ms"),
    );
    let mut stream = open(&edge);
    let cut = wait::until(TIME_MAX, || stream.write_all(b"\x89\x80\0\0\0\0").is_err().then_some(()));
    assert!(cut.is_some(), "the tunnel lives on pings");
}

#[test]
fn a_side_that_takes_nothing_slows_the_other() {
    let edge = Edge::start(
        server(|mut stream| {
            agree(&mut stream, b"");
            thread::park();
        }),
        SOCKETS,
    );
    let mut stream = open(&edge);
    stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let (chunk, mut sent_bytes) = (vec![0; 1024 * 1024], 0);
    while sent_bytes < 64 * 1024 * 1024 {
        match stream.write(&chunk) {
            Ok(count) => sent_bytes += count,
            Err(_) => break,
        }
    }
    assert!(sent_bytes < 64 * 1024 * 1024, "sockets hold a few megabytes, the gateway a buffer");
}

#[test]
fn a_server_that_breaks_off_is_seen_to_have_done_so() {
    let edge = Edge::start(
        server(|mut stream| {
            agree(&mut stream, b"\x81\x05hel");
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        }),
        SOCKETS,
    );
    let mut stream = connect(&edge);
    stream.write_all(HANDSHAKE.as_bytes()).unwrap();
    let mut rest = Vec::new();
    let end = stream.read_to_end(&mut rest);
    assert!(end.is_err() || !rest.starts_with(b"HTTP/1.1 101"), "a reset is passed on: {rest:?}");
}

#[test]
fn tunnels_are_counted_and_logged_when_they_end() {
    let sections = format!("[log]\naccess = {{ file = \"access.jsonl\" }}\n{SOCKETS}");
    let edge = Edge::start(server(echo_bytes), &sections);
    let mut stream = open(&edge);
    let opened = wait::until(TIME_MAX, || (metric(&edge, "portcullis_tunnels_active") == "1").then_some(()));
    assert!(opened.is_some());
    stream.write_all(b"12345").unwrap();
    stream.read_exact(&mut [0; 5]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_until_end(&mut stream), b"");
    let file = edge.directory.path().join("access.jsonl");
    let line = wait::until(TIME_MAX, || fs::read_to_string(&file).ok().filter(|text| text.ends_with('\n')));
    let record: serde_json::Value = serde_json::from_str(line.expect("a line").trim_end()).unwrap();
    assert_eq!((&record["status"], &record["path"]), (&101.into(), &"/chat".into()));
    assert_eq!(record["bytes_in"], 5);
    assert!(record["bytes_out"].as_u64() > Some(100), "the head and the echo: {record}");
    assert_eq!(metric(&edge, "portcullis_tunnels_active"), "0");
    assert_eq!(metric(&edge, "portcullis_tunnels_total"), "1");
}

fn stop(mut edge: Edge, during: impl FnOnce(&Edge)) -> ExitStatus {
    edge.gateway.process().signal(libc::SIGTERM).unwrap();
    during(&edge);
    edge.gateway.process().wait(TIME_MAX).unwrap().expect("it ends")
}

#[test]
fn a_drain_lets_tunnels_finish() {
    let edge = Edge::start(server(echo_bytes), &format!("[runtime]\ndrain_timeout = \"20s\"\n{SOCKETS}"));
    let mut stream = open(&edge);
    let address = edge.address;
    let status = stop(edge, |_| {
        let refusing = wait::until(TIME_MAX, || TcpStream::connect(address).is_err().then_some(()));
        assert!(refusing.is_some(), "it drains");
        stream.write_all(b"last").unwrap();
        stream.read_exact(&mut [0; 4]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_until_end(&mut stream), b"");
    });
    assert!(status.success(), "{status}");
}

#[test]
fn a_drain_ends_and_what_was_cut_is_logged() {
    let sections = format!(
        "[runtime]\ndrain_timeout = \"300ms\"\n[log]\naccess = {{ file = \"access.jsonl\" }}\n{SOCKETS}"
    );
    let edge = Edge::start(server(echo_bytes), &sections);
    let file = edge.directory.path().join("access.jsonl");
    let mut stream = open(&edge);
    let mut log = String::new();
    let status = stop(edge, |_| {
        assert_eq!(read_until_end(&mut stream), b"");
        log = wait::until(TIME_MAX, || fs::read_to_string(&file).ok().filter(|text| text.ends_with('\n')))
            .expect("a line");
    });
    assert!(status.success() && log.contains("\"status\":101"), "{status} {log}");
}
