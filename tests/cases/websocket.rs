//! WebSockets: who may open one, and that what passes then is exactly what was sent (RFC 6455).

mod conformance;
mod handshake;
mod life;

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
};

use tungstenite::{Message, WebSocket, handshake::derive_accept_key, protocol::frame};
use xtask::lab::scratch::Scratch;

use crate::{
    secured::{tls_connect, tls_keys},
    support::{Edge, TIME_MAX},
};

/// One upstream and a public route with WebSockets for everything.
const SOCKETS: &str = "\
[upstreams.app]\nservers = [\"{upstream}\"]\nhealth = \"off\"\n\
[routes.all]\npath = \"/{*rest}\"\npublic = true\nupstream = \"app\"\nwebsocket = true\n";

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

const HANDSHAKE: &str = "GET /chat HTTP/1.1\r\nHost: edge.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// A server that does `serve` on each connection, on a thread of its own.
fn server(serve: fn(TcpStream)) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Ends with the process: each connection ends with its peer.
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            thread::spawn(move || serve(stream));
        }
    });
    address
}

/// Says every message again.
fn echo_messages(stream: TcpStream) {
    let mut socket = tungstenite::accept(stream).expect("a handshake");
    while let Ok(message) = socket.read() {
        if matches!(message, Message::Text(_) | Message::Binary(_)) {
            socket.send(message).expect("the peer listens");
        }
    }
}

/// Agrees to the handshake, then says every byte again until the peer ends its direction.
fn echo_bytes(mut stream: TcpStream) {
    agree(&mut stream, b"");
    let mut again = stream.try_clone().unwrap();
    if std::io::copy(&mut stream, &mut again).is_ok() {
        let _gone = stream.shutdown(Shutdown::Write);
    }
}

/// Reads a handshake's head and agrees, with `early` behind it in one send.
fn agree(stream: &mut TcpStream, early: &[u8]) {
    let head = read_head(stream);
    let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).expect("a key");
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        derive_accept_key(key.as_bytes())
    );
    stream.write_all(&[answer.as_bytes(), early].concat()).unwrap();
}

/// A head, byte by byte, so that nothing behind it is taken.
fn read_head(stream: &mut impl Read) -> String {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).expect("a head");
        head.extend(byte);
    }
    String::from_utf8(head).unwrap()
}

fn connect(edge: &Edge) -> TcpStream {
    let stream = TcpStream::connect(edge.address).unwrap();
    stream.set_read_timeout(Some(TIME_MAX)).unwrap();
    stream.set_write_timeout(Some(TIME_MAX)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// An open tunnel.
fn open(edge: &Edge) -> TcpStream {
    let mut stream = connect(edge);
    stream.write_all(HANDSHAKE.as_bytes()).unwrap();
    let head = read_head(&mut stream);
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    stream
}

fn secured(upstream: SocketAddr) -> Edge {
    let directory = Scratch::new().unwrap();
    let keys = tls_keys(&directory);
    Edge::start_with(directory, upstream, &keys, SOCKETS)
}

/// What Autobahn's echo cases do, with a client and a server that check every frame.
fn converse<S: Read + Write>(stream: S, url: &str) {
    let (mut socket, response) = tungstenite::client(url, stream).map_err(|_| ()).expect("a handshake");
    assert_eq!(response.status(), 101);
    let long = "é".repeat(512 * 1024);
    for text in ["", "hello", &"x".repeat(125), &"x".repeat(126), &"x".repeat(65_536), &long] {
        echoes(&mut socket, &Message::text(text));
        echoes(&mut socket, &Message::binary(text.as_bytes().to_vec()));
    }
    socket.send(Message::Ping(b"are you there"[..].into())).unwrap();
    assert_eq!(socket.read().unwrap(), Message::Pong(b"are you there"[..].into()));
    for (data, opcode, fin) in [
        ("one ", frame::coding::Data::Text, false),
        ("two ", frame::coding::Data::Continue, false),
        ("three", frame::coding::Data::Continue, true),
    ] {
        let opcode = frame::coding::OpCode::Data(opcode);
        let part = frame::Frame::message(data.as_bytes().to_vec(), opcode, fin);
        socket.send(Message::Frame(part)).unwrap();
    }
    assert_eq!(socket.read().unwrap(), Message::text("one two three"));
    let farewell = frame::CloseFrame { code: frame::coding::CloseCode::Normal, reason: "enough".into() };
    socket.close(Some(farewell.clone())).unwrap();
    assert_eq!(socket.read().unwrap(), Message::Close(Some(farewell)));
    assert!(matches!(socket.read(), Err(tungstenite::Error::ConnectionClosed)));
}

#[track_caller]
fn echoes<S: Read + Write>(socket: &mut WebSocket<S>, message: &Message) {
    socket.send(message.clone()).unwrap();
    assert!(socket.read().unwrap() == *message, "another message came back");
}

#[test]
fn messages_of_every_kind_come_back() {
    let edge = Edge::start(server(echo_messages), SOCKETS);
    converse(connect(&edge), "ws://edge.example/chat");
}

#[test]
fn messages_of_every_kind_come_back_under_tls() {
    let edge = secured(server(echo_messages));
    converse(tls_connect(&edge), "ws://edge.example/chat");
}

/// Frames as they stand on the wire: FIN and opcode, length, mask, payload.
const FRAMES: [(&str, &[u8]); 12] = [
    ("text of no length", &[0x81, 0x80, 1, 2, 3, 4]),
    ("text of one byte", &[0x81, 0x81, 1, 2, 3, 4, b'a' ^ 1]),
    ("binary with a zero mask", &[0x82, 0x82, 0, 0, 0, 0, 0, 0xff]),
    ("16 bits of length", &[0x82, 0xfe, 0, 126, 9, 9, 9, 9]),
    ("64 bits of length", &[0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 7, 7, 7, 7]),
    ("two fragments", &[0x01, 0x81, 1, 2, 3, 4, 5, 0x80, 0x81, 1, 2, 3, 4, 5]),
    ("a ping between fragments", &[0x01, 0x80, 1, 2, 3, 4, 0x89, 0x80, 1, 2, 3, 4, 0x80, 0x80, 1, 2, 3, 4]),
    ("an unasked pong", &[0x8a, 0x81, 1, 2, 3, 4, 5]),
    ("a close with a code", &[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8]),
    ("a compressed message", &[0xc1, 0x81, 1, 2, 3, 4, 5]),
    ("a reserved opcode", &[0x83, 0x80, 1, 2, 3, 4]),
    ("what looks like a request", b"GET /admin HTTP/1.1\r\nHost: a\r\n\r\n"),
];

#[test]
fn frames_pass_byte_for_byte() {
    let edge = Edge::start(server(echo_bytes), SOCKETS);
    let mut stream = open(&edge);
    for (name, frame) in FRAMES {
        // In one piece, and byte by byte.
        for piece_bytes in [frame.len(), 1] {
            for piece in frame.chunks(piece_bytes) {
                stream.write_all(piece).unwrap();
            }
            let mut back = vec![0; frame.len()];
            stream.read_exact(&mut back).unwrap();
            assert_eq!(back, frame, "{name}");
        }
    }
    let all: Vec<u8> = FRAMES.iter().flat_map(|(_, frame)| frame.iter().copied()).collect();
    stream.write_all(&all).unwrap();
    let mut back = vec![0; all.len()];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(back, all);
}

#[test]
fn the_end_of_one_direction_is_not_the_end_of_the_other() {
    let edge = Edge::start(server(echo_bytes), SOCKETS);
    let mut stream = open(&edge);
    let bytes: Vec<u8> = (0_u32..100_000).flat_map(u32::to_le_bytes).collect();
    let mut sender = stream.try_clone().unwrap();
    let sent = bytes.clone();
    let sending = thread::spawn(move || {
        sender.write_all(&sent).unwrap();
        sender.shutdown(Shutdown::Write).unwrap();
    });
    let mut back = Vec::new();
    stream.read_to_end(&mut back).unwrap();
    sending.join().unwrap();
    assert!(back == bytes, "{} of {} bytes came back", back.len(), bytes.len());
}

#[test]
fn under_tls_each_direction_ends_with_its_own_farewell() {
    let edge = secured(server(echo_bytes));
    let mut session = tls_connect(&edge);
    session.write_all(HANDSHAKE.as_bytes()).unwrap();
    assert!(read_head(&mut session).starts_with("HTTP/1.1 101 "));
    session.write_all(b"the last words").unwrap();
    session.conn.send_close_notify();
    session.flush().unwrap();
    let mut back = String::new();
    // An end without a farewell would be an error.
    session.read_to_string(&mut back).unwrap();
    assert_eq!(back, "the last words");
}

#[test]
fn what_a_server_says_with_its_answer_comes_through() {
    let edge = Edge::start(
        server(|mut stream| {
            agree(&mut stream, b"\x81\x05hello");
            let _ = stream.shutdown(Shutdown::Write);
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        }),
        SOCKETS,
    );
    let mut stream = open(&edge);
    let mut said = Vec::new();
    stream.read_to_end(&mut said).unwrap();
    assert_eq!(said, b"\x81\x05hello");
}
