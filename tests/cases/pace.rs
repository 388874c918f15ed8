//! Clients that are slow: one that keeps the least rate is waited for as long as it takes, one that does not is cut.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};
use xtask::lab::{client::Connection, scratch::Scratch, scripted::Step, wait};

use crate::{
    secured::{tls_connect_over, tls_keys},
    support::{Edge, HELLO, OPEN, TIME_MAX, scripted},
};

/// Silence that is borne in these tests, and a time that is long against it.
const IDLE: &str = "800ms";
const LONG: Duration = Duration::from_secs(3);
/// A client's pause between two small pieces.
const PAUSE: Duration = Duration::from_millis(20);
const PIECE_BYTES: usize = 16 * 1024;
/// What a slow client has room for.
const WINDOW_BYTES: usize = 64 * 1024;
/// More than a socket of the gateway's grows to hold, and what a client takes of it slowly.
const BODY_BYTES: usize = 24 * 1024 * 1024;

fn edge(upstream: SocketAddr, rate_min: &str, more: &str) -> Edge {
    let listener = format!(
        "timeouts = {{ body_idle = \"{IDLE}\" }}\nlimits = {{ body_rate_min = \"{rate_min}\" }}\n{more}"
    );
    let directory = Scratch::new().unwrap();
    if !more.is_empty() {
        tls_keys(&directory);
    }
    Edge::start_with(directory, upstream, &listener, OPEN)
}

/// Waits until a request has ended for `reason`, and how often the bound was hit then.
#[track_caller]
fn refused(edge: &Edge, reason: &str) -> String {
    let metrics = wait::until(TIME_MAX, || {
        let metrics = edge.gateway.metrics().ok()?;
        (metrics.sum("portcullis_refusals_total", &[("reason", reason)]) > 0.0).then_some(metrics)
    });
    let metrics = metrics.unwrap_or_else(|| panic!("no {reason}: {}", edge.gateway.output()));
    metrics.sum("portcullis_bounds_hit_total", &[("bound", "body_rate_min")]).to_string()
}

/// Sends a body of `bytes` for `LONG`, a piece at a time; false: it was cut.
#[expect(clippy::disallowed_methods, reason = "the pause is what the client does")]
fn upload_slowly(client: &mut Connection, bytes: usize) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < LONG {
        if client.send(&vec![b'x'; bytes]).is_err() {
            return false;
        }
        thread::sleep(PAUSE);
    }
    true
}

#[test]
fn a_body_that_drips_is_408_and_counted() {
    let upstream = scripted(&[Step::ReadHead, Step::Stall]);
    let edge = edge(upstream.address(), "1KiB/s", "");
    let mut client = edge.connect();
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n").unwrap();
    upload_slowly(&mut client, 1);
    let response = client.receive("POST").unwrap();
    assert_eq!(response.status, 408);
    assert!(response.text().contains("\"body_too_slow\""), "{}", response.text());
    assert_eq!(refused(&edge, "body_too_slow"), "1");
}

#[test]
fn a_body_that_stops_is_told_apart_from_a_slow_one() {
    let upstream = scripted(&[Step::ReadHead, Step::Stall]);
    let edge = edge(upstream.address(), "1KiB/s", "");
    let mut client = edge.connect();
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n123").unwrap();
    assert!(client.receive("POST").unwrap().text().contains("\"body_timeout\""));
    assert_eq!(refused(&edge, "body_timeout"), "0");
}

#[test]
fn a_slow_body_that_keeps_the_rate_is_waited_for() {
    for (rate_min, bytes) in [("1KiB/s", 400), ("off", 1)] {
        let upstream =
            scripted(&[Step::ReadHead, Step::ReadUntil(b"end".to_vec()), Step::Send(HELLO.into())]);
        let edge = edge(upstream.address(), rate_min, "");
        let mut client = edge.connect();
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n").unwrap();
        assert!(upload_slowly(&mut client, bytes), "{rate_min}");
        client.send(b"end").unwrap();
        assert_eq!(client.receive("POST").unwrap().status, 200, "{rate_min}");
    }
}

/// How a response comes to the client: each takes another way through the gateway.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// From socket to socket in the kernel.
    Spliced,
    /// Framed anew.
    Chunked,
    /// Through a large buffer, then encrypted.
    Secured,
}

const WAYS: [Way; 3] = [Way::Spliced, Way::Chunked, Way::Secured];

fn head_and_body(way: Way) -> Vec<u8> {
    let body = vec![b'x'; BODY_BYTES];
    match way {
        Way::Spliced | Way::Secured => {
            [format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY_BYTES}\r\n\r\n").as_bytes(), &body].concat()
        }
        Way::Chunked => {
            let head = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{BODY_BYTES:x}\r\n");
            [head.as_bytes(), &body, b"\r\n0\r\n\r\n"].concat()
        }
    }
}

/// A client with a small window, so that what it takes shows soon.
fn connect_narrow(address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(WINDOW_BYTES).unwrap();
    socket.connect(&address.into()).unwrap();
    socket.set_read_timeout(Some(TIME_MAX)).unwrap();
    socket.into()
}

/// Asks for the body, takes a piece of it at a time for `LONG` and what is left at once; how many octets came.
#[expect(clippy::disallowed_methods, reason = "the pause is what the client does")]
fn download_slowly(client: &mut (impl Read + Write)) -> io::Result<usize> {
    client.write_all(b"GET / HTTP/1.1\r\nHost: edge.example\r\nConnection: close\r\n\r\n")?;
    let (begun, mut buffer, mut taken_bytes) = (Instant::now(), vec![0; PIECE_BYTES], 0);
    loop {
        match client.read(&mut buffer) {
            Ok(0) => return Ok(taken_bytes),
            Ok(count) => taken_bytes += count,
            // Under TLS that is what the end of a response without close_notify looks like.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(taken_bytes),
            Err(error) => return Err(error),
        }
        if begun.elapsed() < LONG {
            thread::sleep(PAUSE);
        }
    }
}

/// What a slow client gets of a body over `way`.
fn download(way: Way, rate_min: &str) -> (Edge, io::Result<usize>) {
    let upstream = scripted(&[Step::ReadHead, Step::Send(head_and_body(way)), Step::Stall]);
    let tls = if matches!(way, Way::Secured) {
        "tls = { certificates = [{ chain_file = \"edge.crt\", key_file = \"edge.key\" }] }\n"
    } else {
        ""
    };
    let edge = edge(upstream.address(), rate_min, tls);
    let mut tcp = connect_narrow(edge.address);
    let taken = match way {
        Way::Secured => download_slowly(&mut tls_connect_over(&edge, tcp)),
        Way::Spliced | Way::Chunked => download_slowly(&mut tcp),
    };
    (edge, taken)
}

#[test]
fn a_client_that_takes_its_response_slowly_but_at_the_rate_gets_all_of_it() {
    thread::scope(|scope| {
        for way in WAYS {
            for rate_min in ["1KiB/s", "off"] {
                scope.spawn(move || {
                    let (_edge, taken) = download(way, rate_min);
                    assert!(
                        taken.as_ref().is_ok_and(|bytes| *bytes > BODY_BYTES),
                        "{way:?} {rate_min}: {taken:?}"
                    );
                });
            }
        }
    });
}

#[test]
fn a_client_that_takes_its_response_too_slowly_is_reset_and_counted() {
    thread::scope(|scope| {
        for way in WAYS {
            scope.spawn(move || {
                let (edge, taken) = download(way, "64MiB/s");
                let error = taken.as_ref().err().map(io::Error::kind);
                assert_eq!(error, Some(io::ErrorKind::ConnectionReset), "{way:?}: {taken:?}");
                assert_eq!(refused(&edge, "response_too_slow"), "1", "{way:?}");
            });
        }
    });
}
