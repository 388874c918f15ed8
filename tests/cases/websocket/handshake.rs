//! Who gets a tunnel, and what the others get.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener},
    sync::mpsc,
    thread,
};

use super::*;
use crate::support::{HELLO, answering, scripted};
use xtask::lab::{client::Connection, scripted::Step};

/// Answers to raw bytes: the client may not be able to make such a request.
fn status_of(edge: &Edge, request: &str) -> u16 {
    let mut client = edge.connect();
    client.send(request.as_bytes()).unwrap();
    client.receive("GET").unwrap().status
}

#[test]
fn a_bad_handshake_is_refused_and_goes_nowhere() {
    let upstream = answering(HELLO);
    let edge = Edge::start(upstream.address(), SOCKETS);
    for (from, to, status) in [
        ("GET ", "POST ", 400),
        ("HTTP/1.1", "HTTP/1.0", 400),
        ("Connection: Upgrade", "Connection: keep-alive", 400),
        (KEY, "c2hvcnQ=", 400),
        ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "", 400),
        ("Version: 13", "Version: 8", 426),
        ("Sec-WebSocket-Version: 13\r\n", "", 426),
        ("\r\n\r\n", "\r\nContent-Length: 1\r\n\r\nx", 400),
        ("\r\n\r\n", "\r\n\r\n\u{1}", 400),
        ("\r\n\r\n", "\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ] {
        let request = HANDSHAKE.replace(from, to);
        let mut client = edge.connect();
        client.send(request.as_bytes()).unwrap();
        let response = client.receive("GET").unwrap();
        assert_eq!((response.status, response.keep_alive), (status, false), "{request}");
        if status == 426 {
            assert_eq!(response.header("sec-websocket-version"), Some("13"));
            assert_eq!(response.header("upgrade"), Some("websocket"));
        }
        client.expect_close().unwrap();
    }
    assert_eq!(upstream.accepted(), 0);
}

#[test]
fn a_route_s_policy_holds_for_handshakes() {
    let upstream = answering(HELLO);
    let limits = "[limits.few]\nper = \"source\"\nrate = \"1/h\"\nburst = 1\n";
    let limited = SOCKETS.replace("websocket = true", "websocket = true\nlimits = [\"few\"]");
    let edge = Edge::start(upstream.address(), &format!("{limits}{limited}"));
    assert_eq!(status_of(&edge, HANDSHAKE), 200, "a server that does not switch");
    assert_eq!(status_of(&edge, HANDSHAKE), 429);
}

#[test]
fn only_listed_origins_may_open_one() {
    let listed = "websocket = { origins = [\"https://shop.example\", \"http://localhost:3000\"] }";
    let edge = Edge::start(server(echo_bytes), &SOCKETS.replace("websocket = true", listed));
    for (origin, status) in [
        ("Origin: https://shop.example\r\n", 101),
        ("Origin: HTTPS://SHOP.EXAMPLE\r\n", 101),
        ("Origin: http://localhost:3000\r\n", 101),
        ("Origin: http://localhost\r\n", 403),
        ("Origin: http://shop.example\r\n", 403),
        ("Origin: https://shop.example.evil.example\r\n", 403),
        ("Origin: https://evil.example/https://shop.example\r\n", 403),
        ("Origin: null\r\n", 403),
        ("Origin: https://evil.example\r\nOrigin: https://shop.example\r\n", 403),
        ("", 403),
    ] {
        let request = HANDSHAKE.replace("Upgrade: websocket\r\n", &format!("Upgrade: websocket\r\n{origin}"));
        assert_eq!(status_of(&edge, &request), status, "{origin}");
    }
}

#[test]
fn elsewhere_and_for_other_protocols_upgrade_is_ignored() {
    let upstream = answering(HELLO);
    let plain = Edge::start(upstream.address(), &SOCKETS.replace("websocket = true", ""));
    let sockets = Edge::start(upstream.address(), SOCKETS);
    let h2c = HANDSHAKE.replace("Upgrade: websocket", "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__");
    for (edge, request) in [(&plain, HANDSHAKE), (&plain, h2c.as_str()), (&sockets, h2c.as_str())] {
        assert_eq!(status_of(edge, request), 200);
        let head = upstream.next_head(TIME_MAX).unwrap();
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        for name in ["\r\nupgrade:", "\r\nconnection:", "\r\nhttp2-settings:"] {
            assert!(!head.contains(name), "{head}");
        }
    }
}

#[test]
fn the_server_sees_the_handshake_and_the_client_the_server_s_choice() {
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nKeep-Alive: 5\r\n\
         Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Accept: {}\r\n\r\n",
        derive_accept_key(KEY.as_bytes())
    );
    let upstream = scripted(&[Step::ReadHead, Step::Send(answer.into()), Step::Stall]);
    let edge = Edge::start(upstream.address(), SOCKETS);
    let mut stream = connect(&edge);
    let offer = "Sec-WebSocket-Protocol: superchat, chat\r\nSec-WebSocket-Extensions: permessage-deflate\r\n";
    let request = HANDSHAKE.replace("Upgrade: websocket\r\n", &format!("{offer}Upgrade: h2c, websocket\r\n"));
    stream.write_all(request.as_bytes()).unwrap();
    let told = read_head(&mut stream).to_ascii_lowercase();
    let asked = String::from_utf8(upstream.next_head(TIME_MAX).unwrap()).unwrap().to_ascii_lowercase();
    for line in [
        "upgrade: websocket",
        "connection: upgrade",
        "sec-websocket-key: dghlihnhbxbszsbub25jzq==",
        "sec-websocket-version: 13",
        "sec-websocket-protocol: superchat, chat",
        "sec-websocket-extensions: permessage-deflate",
        "x-forwarded-for: 127.0.0.1",
    ] {
        assert_eq!(asked.lines().filter(|each| *each == line).count(), 1, "{line}: {asked}");
    }
    for line in ["upgrade: websocket", "connection: upgrade", "sec-websocket-protocol: chat"] {
        assert_eq!(told.lines().filter(|each| *each == line).count(), 1, "{line}: {told}");
    }
    assert!(!told.contains("keep-alive") && !told.contains("content-length"), "{told}");
}

#[test]
fn a_server_that_has_not_read_the_key_gets_no_tunnel() {
    for answer in [
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n".to_owned(),
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n\r\n",
            derive_accept_key(b"AAAAAAAAAAAAAAAAAAAAAA==")
        ),
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n\r\n",
            derive_accept_key(KEY.as_bytes())
        ),
    ] {
        let upstream = scripted(&[Step::ReadHead, Step::Send(answer.clone().into()), Step::Stall]);
        let edge = Edge::start(upstream.address(), SOCKETS);
        assert_eq!(status_of(&edge, HANDSHAKE), 502, "{answer}");
    }
}

#[test]
fn a_server_that_refuses_is_heard_and_http_goes_on() {
    let refusal = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno";
    let hello = Step::Send(HELLO.into());
    let upstream = scripted(&[Step::ReadHead, Step::Send(refusal.into()), Step::ReadHead, hello]);
    let edge = Edge::start(upstream.address(), SOCKETS);
    let mut client: Connection = edge.connect();
    client.send(HANDSHAKE.as_bytes()).unwrap();
    let response = client.receive("GET").unwrap();
    assert_eq!((response.status, response.text(), response.keep_alive), (401, "no".into(), true));
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!(client.receive("GET").unwrap().text(), "hello");
}

/// Attacks, row 17: such bytes may be a request that only looks like frames.
#[test]
fn bytes_before_the_answer_are_not_tunnelled() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (asked, has_asked) = mpsc::channel();
    let (sent, has_sent) = mpsc::channel();
    let serving = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let head = read_head(&mut stream);
        asked.send(()).unwrap();
        has_sent.recv().unwrap();
        let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap();
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n\r\n",
            derive_accept_key(key.as_bytes())
        );
        stream.write_all(answer.as_bytes()).unwrap();
        let mut heard = Vec::new();
        let _end = stream.read_to_end(&mut heard);
        heard
    });
    let edge = Edge::start(address, SOCKETS);
    let mut client = edge.connect();
    client.send(HANDSHAKE.as_bytes()).unwrap();
    has_asked.recv_timeout(TIME_MAX).unwrap();
    client.send(b"GET /admin HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    sent.send(()).unwrap();
    let response = client.receive("GET").unwrap();
    assert_eq!((response.status, response.keep_alive), (400, false));
    assert_eq!(serving.join().unwrap(), b"", "nothing of it reached the server");
}

#[test]
fn a_client_that_leaves_before_the_answer_costs_nothing() {
    let upstream = scripted(&[Step::ReadHead, Step::Stall]);
    let edge = Edge::start(
        upstream.address(),
        &SOCKETS.replace("\"off\"", "\"off\"\ntimeouts = { head = \"500ms\" }"),
    );
    let stream = connect(&edge);
    (&stream).write_all(HANDSHAKE.as_bytes()).unwrap();
    upstream.next_head(TIME_MAX).unwrap();
    stream.shutdown(Shutdown::Both).unwrap();
    let gone = xtask::lab::wait::until(TIME_MAX, || {
        let metrics = edge.gateway.metrics().unwrap();
        (metrics.sum("portcullis_connections_active", &[]) < 0.5).then_some(metrics)
    });
    assert_eq!(gone.expect("the connection ends").sum("portcullis_tunnels_total", &[]).to_string(), "0");
}
