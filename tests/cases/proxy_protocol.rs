//! The PROXY protocol: believed of those who are listed, refused of all others, and told to servers that want it.

use std::{net::SocketAddr, time::Duration};

use xtask::lab::{
    client::{ClientError, Connection},
    scratch::Scratch,
    scripted::{Scripted, Step},
    wait,
};

use crate::support::{Edge, HELLO, OPEN, TIME_MAX, answering, scripted};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n";
/// The same, with a TLV behind the addresses.
const V2: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x10\xc0\0\x02\x07\xc6\x33\x64\x01\x12\x67\x01\xbb\x03\0\x01\x09";
const V2_LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// One worker whose listener has `keys`.
fn edge(upstream: SocketAddr, keys: &str, sections: &str) -> Edge {
    let sections = format!("[runtime]\nworkers = 1\n{sections}");
    Edge::start_with(Scratch::new().unwrap(), upstream, keys, &sections)
}

const FROM_US: &str = "proxy_protocol_from = [\"127.0.0.1\"]\ntimeouts = { head = \"500ms\" }";

fn failed(edge: &Edge) -> u64 {
    let failed = edge.gateway.metrics().unwrap().sum("portcullis_proxy_headers_failed_total", &[]);
    format!("{failed}").parse().unwrap()
}

/// What the server was told of the client.
#[track_caller]
fn check_source(edge: &Edge, server: &Scripted, pieces: &[&[u8]], expected: &str) {
    let mut client = edge.connect();
    for piece in pieces {
        client.send(piece).unwrap();
    }
    assert_eq!(client.receive("GET").unwrap().text(), "hello");
    let head = String::from_utf8(server.next_head(TIME_MAX).unwrap()).unwrap().to_lowercase();
    assert!(head.contains(&format!("\r\nx-forwarded-for: {expected}\r\n")), "{head}");
}

#[test]
fn a_listed_peer_says_whom_it_speaks_for() {
    let server = answering(HELLO);
    let edge = edge(server.address(), FROM_US, OPEN);
    for header in [V1, V2] {
        check_source(&edge, &server, &[&[header, GET].concat()], "192.0.2.7");
        check_source(&edge, &server, &[header, GET], "192.0.2.7");
        let octets: Vec<&[u8]> = header.chunks(1).chain([GET]).collect();
        check_source(&edge, &server, &octets, "192.0.2.7");
    }
    for header in [V2_LOCAL, b"PROXY UNKNOWN\r\n"] {
        check_source(&edge, &server, &[header, GET], "127.0.0.1");
    }
}

#[test]
fn a_listed_peer_without_a_good_header_is_closed_and_counted() {
    let server = answering(HELLO);
    let edge = edge(server.address(), FROM_US, OPEN);
    // Whoever waits for the listener at the start says nothing, and is counted as well.
    let quiet = || edge.gateway.metrics().unwrap().sum("portcullis_connections_active", &[]) < 0.5;
    let settled = || Some(failed(&edge)).filter(|failed| *failed > 0 && quiet());
    let before = wait::until(TIME_MAX, settled).unwrap();
    let bad: [&[u8]; 4] =
        [GET, b"PROXY TCP4 192.0.2.7\r\n", b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c", &[b'x'; 600]];
    for bytes in bad {
        let mut client = edge.connect();
        client.send(bytes).unwrap();
        assert_closed(&mut client);
    }
    // One that stops in the middle is late.
    let mut late = edge.connect();
    late.send(V1.split_at(10).0).unwrap();
    assert_closed(&mut late);
    assert_eq!(failed(&edge), before + 5);
    assert_eq!(server.accepted(), 0);
}

/// Without an answer, in whichever way.
#[track_caller]
fn assert_closed(client: &mut Connection) {
    let end = client.receive("GET");
    assert!(matches!(end, Err(ClientError::ClosedEarly(0) | ClientError::Reset)), "{end:?}");
}

#[test]
fn of_anybody_else_a_header_is_not_http() {
    let server = answering(HELLO);
    let edge = edge(server.address(), "proxy_protocol_from = [\"192.0.2.0/24\"]", OPEN);
    for header in [V1, V2] {
        let mut client = edge.connect();
        client.send(&[header, GET].concat()).unwrap();
        assert_eq!(client.receive("GET").unwrap().status, 400);
        client.expect_close().unwrap();
    }
    assert_eq!((server.accepted(), failed(&edge)), (0, 0));
    let mut client = edge.connect();
    client.send(GET).unwrap();
    assert_eq!(client.receive("GET").unwrap().status, 200);
}

#[test]
fn offences_of_whom_a_forwarder_names_block_nobody() {
    let server = answering(HELLO);
    let edge = edge(server.address(), FROM_US, OPEN);
    for _ in 0..10 {
        let mut client = edge.connect();
        client.send(&[V1, b"GET / HTTP/1.1\r\n bad\r\n\r\n"].concat()).unwrap();
        assert_eq!(client.receive("GET").unwrap().status, 400);
    }
    let ignored = |cause: &str| {
        let labels = [("cause", cause)];
        edge.gateway.metrics().unwrap().sum("portcullis_offences_ignored_total", &labels)
    };
    assert!(wait::until(TIME_MAX, || (ignored("forwarded") >= 10.0).then_some(())).is_some());
    // The forwarder's own connections are as protected as itself.
    for _ in 0..10 {
        let mut client = edge.connect();
        client.send(&[V2_LOCAL, b"GET / HTTP/1.1\r\n bad\r\n\r\n"].concat()).unwrap();
        assert_eq!(client.receive("GET").unwrap().status, 400);
    }
    assert!(wait::until(TIME_MAX, || (ignored("protected") >= 10.0).then_some(())).is_some());
}

#[test]
fn servers_are_told_who_is_asking_on_a_connection_of_its_own() {
    let server = scripted(&[Step::ReadHead, Step::Send(HELLO.into()), Step::Stall]);
    let sections = OPEN.replace("health = \"off\"", "health = \"off\"\nproxy_protocol = \"v1\"");
    let first = edge(server.address(), "", &sections);
    for requests in 1..=2 {
        let mut client = first.connect();
        client.send(GET).unwrap();
        assert_eq!(client.receive("GET").unwrap().text(), "hello");
        let head = String::from_utf8(server.next_head(TIME_MAX).unwrap()).unwrap();
        let (us, listener) = (client.local_addr().unwrap(), first.address);
        let expected =
            format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\nGET / HTTP/1.1\r\n", us.port(), listener.port());
        assert!(head.starts_with(&expected), "{head}");
        assert_eq!(server.accepted(), requests, "no connection carries two requests");
    }
    // What a forwarder has told is passed on.
    let second = edge(server.address(), FROM_US, &sections);
    let mut client = second.connect();
    client.send(&[V2, GET].concat()).unwrap();
    assert_eq!(client.receive("GET").unwrap().text(), "hello");
    let head = server.next_head(TIME_MAX).unwrap();
    assert!(head.starts_with(&[V1, b"GET / "].concat()), "{}", head.escape_ascii());
}

#[test]
fn version_2_is_told_as_well_and_a_health_check_speaks_for_nobody() {
    // The signature of version 2 begins like an empty head; addresses of IPv4 end 24 octets behind that.
    let server = scripted(&[
        Step::ReadHead,
        Step::ReadBody(24),
        Step::ReadHead,
        Step::Send(HELLO.into()),
        Step::Stall,
    ]);
    let sections = OPEN.replace("health = \"off\"", "health = \"off\"\nproxy_protocol = \"v2\"");
    let edge_v2 = edge(server.address(), "", &sections);
    assert_eq!(edge_v2.get("/", &[]).text(), "hello");
    assert_eq!(server.next_head(TIME_MAX).unwrap(), b"\r\n\r\n");
    assert!(server.next_head(TIME_MAX).unwrap().starts_with(b"GET / HTTP/1.1\r\n"));

    let server = answering(HELLO);
    let health = "health = { interval = \"100ms\" }\nproxy_protocol = \"v1\"";
    let _edge = edge(server.address(), "", &OPEN.replace("health = \"off\"", health));
    let head = server.next_head(Duration::from_secs(10)).unwrap();
    assert!(head.starts_with(b"PROXY UNKNOWN\r\nGET /healthz HTTP/1.1\r\n"), "{}", head.escape_ascii());
}
