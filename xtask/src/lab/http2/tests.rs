//! The client against Debian's nginx, which is another reading of HTTP/2.

use std::{
    net::{Ipv4Addr, TcpListener},
    thread,
};

use super::{
    frame::{flag, setting},
    *,
};
use crate::lab::{self, place::Place, upstream::Nginx};

const TIME_MAX: Duration = Duration::from_secs(10);
const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a.example")];

fn nginx(test: &str) -> Option<Nginx> {
    if !std::path::Path::new(lab::upstream::NGINX).exists() {
        lab::skip(test, "nginx is not installed");
        return None;
    }
    let [address] = Place::here().free_addresses(Ipv4Addr::LOCALHOST.into()).unwrap();
    let http = |directory: &std::path::Path| {
        format!(
            "server {{
                listen {address} http2;
                location = / {{ add_header x-seen $http_x_sent; return 200 \"hello\"; }}
                location / {{ root {}; }}
            }}",
            directory.display()
        )
    };
    Some(Nginx::start_with(&Place::here(), address, http).unwrap())
}

fn connect(nginx: &Nginx, settings: &[(u16, u32)]) -> Connection {
    let mut client = Connection::open(nginx.address(), TIME_MAX).unwrap();
    client.greet(settings).unwrap();
    client
}

#[track_caller]
fn answer(outcome: Outcome) -> Response {
    let Outcome::Answer(response) = outcome else { panic!("{outcome:?}") };
    response
}

#[test]
fn responses_are_read_whole() {
    let Some(nginx) = nginx("responses_are_read_whole") else { return };
    let mut client = connect(&nginx, &[]);
    assert!(client.settings.iter().any(|(id, _)| *id == setting::MAX_CONCURRENT_STREAMS));
    let fields = [&GET[..], &[("x-sent", "Some Value")]].concat();
    let response = answer(client.get(1, &fields).unwrap());
    assert_eq!((response.status, response.text().as_str()), (200, "hello"));
    assert_eq!(response.header("x-seen"), Some("Some Value"));
    // More than the windows hold at once.
    let mut large = GET;
    large[2].1 = "/1m";
    assert_eq!(answer(client.get(3, &large).unwrap()).body.len(), 1024 * 1024);
    client.ping(*b"tick-tac").unwrap();
}

#[test]
fn a_stream_waits_for_its_window() {
    let Some(nginx) = nginx("a_stream_waits_for_its_window") else { return };
    let mut client = connect(&nginx, &[(setting::INITIAL_WINDOW_SIZE, 2)]);
    client.refills = false;
    client.send(&frame::headers(1, flag::END, &hpack::block(&GET))).unwrap();
    while client.streams.get(&1).and_then(|stream| stream.response.as_ref()).is_none_or(|r| r.body.len() < 2)
    {
        client.next_frame().unwrap();
    }
    client.ping(*b"is there").unwrap();
    client.send(&frame::window_update(1, 100)).unwrap();
    assert_eq!(answer(client.outcome(1).unwrap()).text(), "hello");
}

/// A client that has greeted a peer which says `bytes` and then closes.
fn peer_of(bytes: &[u8]) -> (Connection, thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = Connection::open(listener.local_addr().unwrap(), TIME_MAX).unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    let says = [&frame::settings(&[]), &frame::settings_ack(), bytes].concat();
    let peer = thread::spawn(move || {
        stream.write_all(&says).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        io::copy(&mut stream, &mut io::sink()).unwrap();
    });
    client.greet(&[]).unwrap();
    (client, peer)
}

#[test]
fn errors_are_told_apart() {
    let head = frame::headers(3, flag::END, &hpack::indexed(8));
    let bytes = [
        frame::rst_stream(1, Code::CANCEL),
        frame::goaway(5, Code::NO_ERROR, b"soon"),
        head,
        frame::goaway(3, Code::ENHANCE_YOUR_CALM, b""),
    ];
    let (mut client, peer) = peer_of(&bytes.concat());
    assert_eq!(client.outcome(1).unwrap(), Outcome::StreamError(Code::CANCEL));
    assert_eq!(answer(client.outcome(3).unwrap()).status, 200);
    assert_eq!(client.outcome(5).unwrap(), Outcome::ConnectionError(Code::ENHANCE_YOUR_CALM));
    assert_eq!(client.end().unwrap(), Outcome::ConnectionError(Code::ENHANCE_YOUR_CALM));
    drop(client);
    peer.join().unwrap();
    let (mut client, _peer) = peer_of(b"");
    assert_eq!(client.outcome(1).unwrap(), Outcome::Closed);
    let (mut client, _peer) = peer_of(b"\0\0\x01");
    assert!(matches!(client.outcome(1), Err(ClientError::ClosedEarly(3))));
}

#[test]
fn nothing_is_forgiven() {
    let head = frame::headers(1, flag::END_HEADERS, &hpack::indexed(8));
    let cases = [
        frame::data(1, 0, b"before a response"),
        frame::continuation(1, flag::END_HEADERS, b""),
        frame::headers(1, flag::END, &hpack::block(&[("x-a", "no status")])),
        frame::headers(1, flag::END, &hpack::block(&[(":status", "200"), ("X-A", "upper case")])),
        frame::headers(1, flag::END, &hpack::block(&[(":status", "200"), ("connection", "close")])),
        frame::headers(1, flag::END, &hpack::indexed(62)),
        [&head[..], &head].concat(),
        [head.clone(), frame::data(1, flag::END_STREAM, b""), frame::data(1, 0, b"behind the end")].concat(),
        [frame::headers(1, 0, b""), frame::ping(*b"whatever")].concat(),
        frame::header(16_385, kind::DATA, 0, 1),
    ];
    for bytes in cases {
        let (mut client, _peer) = peer_of(&bytes);
        let end = client.end();
        assert!(matches!(end, Err(ClientError::Malformed(_))), "{}: {end:?}", bytes.escape_ascii());
    }
}

#[test]
fn a_flood_is_not_stuck_behind_its_echo() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = Connection::open(listener.local_addr().unwrap(), TIME_MAX).unwrap();
    let (stream, _) = listener.accept().unwrap();
    // It reads no more than it can say again, so that somebody who only sent would wait for ever.
    let echo = thread::spawn(move || io::copy(&mut &stream, &mut &stream));
    client.send(&frame::frame(kind::PING, flag::ACK, 0, b"whatever").repeat(1_000_000)).unwrap();
    while client.pongs.len() < 1_000_000 {
        client.next_frame().unwrap();
    }
    drop(client);
    echo.join().unwrap().unwrap();
}
