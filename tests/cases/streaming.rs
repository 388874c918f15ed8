//! Server-sent events and long polls: what a server has said is told before it says more.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::mpsc::{self, Sender},
    thread::{self, JoinHandle},
};

use xtask::lab::scratch::Scratch;

use crate::{
    secured::{tls_connect, tls_keys},
    support::{Edge, OPEN, TIME_MAX},
};

const EVENTS: [&str; 4] = ["data: one\n\n", "data: two\n\n", ": a comment\n\n", "data: four\n\n"];

/// How a server frames its stream of events.
#[derive(Debug, Clone, Copy)]
enum Framed {
    Chunked,
    UntilClose,
}

/// A server that sends its head at once, and each event only when it is told that the one before has arrived.
struct Events {
    address: SocketAddr,
    arrived: Sender<()>,
    serving: JoinHandle<()>,
}

impl Events {
    fn start(framed: Framed) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (arrived, told) = mpsc::channel::<()>();
        let serving = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            read_head(&mut stream);
            let framing = match framed {
                Framed::Chunked => "Transfer-Encoding: chunked\r\n",
                Framed::UntilClose => "Connection: close\r\n",
            };
            let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{framing}\r\n");
            stream.write_all(head.as_bytes()).unwrap();
            for event in EVENTS {
                told.recv_timeout(TIME_MAX).expect("what was sent arrives");
                let bytes = match framed {
                    Framed::Chunked => format!("{:x}\r\n{event}\r\n", event.len()),
                    Framed::UntilClose => event.to_owned(),
                };
                stream.write_all(bytes.as_bytes()).unwrap();
            }
            told.recv_timeout(TIME_MAX).expect("what was sent arrives");
            if matches!(framed, Framed::Chunked) {
                stream.write_all(b"0\r\n\r\n").unwrap();
            }
        });
        Self { address, arrived, serving }
    }
}

fn read_head(stream: &mut impl Read) -> String {
    read_until(stream, b"\r\n\r\n")
}

fn read_until(stream: &mut impl Read, end: &[u8]) -> String {
    let (mut read, mut byte) = (Vec::new(), [0]);
    while !read.ends_with(end) {
        stream.read_exact(&mut byte).expect("more");
        read.extend(byte);
    }
    String::from_utf8(read).unwrap()
}

#[track_caller]
fn check(
    framed: Framed,
    start: impl Fn(SocketAddr) -> Edge,
    mut client: impl FnMut(&Edge) -> Box<dyn Duplex>,
) {
    let events = Events::start(framed);
    let edge = start(events.address);
    let mut stream = client(&edge);
    stream.write_all(b"GET /events HTTP/1.1\r\nHost: edge.example\r\n\r\n").unwrap();
    stream.flush().unwrap();
    let head = read_head(&mut stream).to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 200") && head.contains("transfer-encoding: chunked"), "{head}");
    for event in EVENTS {
        events.arrived.send(()).unwrap();
        assert_eq!(read_until(&mut stream, b"\r\n"), format!("{:x}\r\n", event.len()), "{framed:?}");
        assert_eq!(read_until(&mut stream, b"\n\n\r\n"), format!("{event}\r\n"), "{framed:?}");
    }
    events.arrived.send(()).unwrap();
    assert_eq!(read_until(&mut stream, b"\r\n\r\n"), "0\r\n\r\n");
    events.serving.join().unwrap();
}

trait Duplex: Read + Write {}
impl<T: Read + Write> Duplex for T {}

#[test]
fn each_event_arrives_before_the_next_is_sent() {
    for framed in [Framed::Chunked, Framed::UntilClose] {
        let connect = |edge: &Edge| -> Box<dyn Duplex> {
            let stream = TcpStream::connect(edge.address).unwrap();
            stream.set_read_timeout(Some(TIME_MAX)).unwrap();
            Box::new(stream)
        };
        check(framed, |upstream| Edge::start(upstream, OPEN), connect);
    }
}

#[test]
fn each_event_arrives_before_the_next_is_sent_under_tls() {
    for framed in [Framed::Chunked, Framed::UntilClose] {
        let start = |upstream| {
            let directory = Scratch::new().unwrap();
            let keys = tls_keys(&directory);
            Edge::start_with(directory, upstream, &keys, OPEN)
        };
        check(framed, start, |edge| Box::new(tls_connect(edge)));
    }
}
