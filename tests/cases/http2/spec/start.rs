//! RFC 9113 §3: how a connection starts, in clear and under TLS, and what is no HTTP/2.

use std::net::TcpStream;

use xtask::lab::{
    client::{self, ClientError},
    http2::{
        Connection, Outcome, PREFACE,
        frame::{self, Code},
    },
    scratch::Scratch,
};

use super::{
    super::{GET, origin::Origin},
    brief, get,
};
use crate::{
    secured::{tls_connect_as, tls_keys},
    support::{Edge, OPEN, TIME_MAX},
};

const SHORT: &str = "timeouts = { head = \"1s\", keep_alive = \"1s\" }";

/// A gateway that speaks these protocols, in clear or under TLS.
fn edge(origin: &Origin, protocols: &str, is_secured: bool) -> Edge {
    let directory = Scratch::new().unwrap();
    let tls = if is_secured { tls_keys(&directory) } else { String::new() };
    let listener = format!("protocols = [{protocols}]\n{SHORT}\n{tls}");
    let sections = format!("[runtime]\nworkers = 1\n{OPEN}");
    Edge::start_with(directory, origin.address(), &listener, &sections)
}

/// §3.4
#[test]
fn a_connection_that_does_not_start_as_it_must_is_closed() {
    // http2/3.5/1 is every other case: `greet` wants SETTINGS first.
    let origin = Origin::start();
    let h2_only = edge(&origin, "\"h2\"", false);
    let both = edge(&origin, "\"h2\", \"http/1.1\"", false);
    let late = [&PREFACE[..PREFACE.len() - 2], b"XX"].concat();
    let cases: [(&str, &[u8]); 3] = [
        ("http2/3.5/2 no preface", b"INVALID CONNECTION PREFACE\r\n\r\n"),
        ("a preface that ends otherwise", &late),
        ("a preface of another version", b"PRI * HTTP/3.0\r\n\r\nSM\r\n\r\n"),
    ];
    for (name, bytes) in cases {
        for edge in [&h2_only, &both] {
            let mut client = Connection::open(edge.address, TIME_MAX).unwrap();
            // It may be gone before all is said.
            let _gone = client.send(bytes);
            let end = client.end();
            // Where HTTP/1.1 is spoken as well, what is not the preface is a malformed request of that.
            let is_http1 = matches!(&end, Err(ClientError::Malformed(_) | ClientError::ClosedEarly(1..)));
            let is_end = matches!(&end, Ok(Outcome::Closed | Outcome::ConnectionError(Code::PROTOCOL_ERROR)));
            assert!(is_end || is_http1 && edge.address == both.address, "{name}: {end:?}");
        }
    }
    assert_eq!(origin.count(), 0);
    // HTTP/1.1 in clear where only HTTP/2 is spoken: the client says nothing that is HTTP/2.
    let mut client = client::Connection::open(h2_only.address, None, TIME_MAX).unwrap();
    let answer = client.request(&client::Request::get("/"));
    assert!(!matches!(&answer, Ok(response) if response.status == 200), "{answer:?}");
    assert_eq!(origin.count(), 0);
}

/// §3.4: the preface ends with SETTINGS, which h2 does not ask for.
#[test]
fn a_connection_that_does_not_start_with_settings_is_closed() {
    let origin = Origin::start();
    let edge = edge(&origin, "\"h2\", \"http/1.1\"", false);
    let firsts = [
        ("PING", frame::ping(*b"whatever")),
        ("HEADERS", get("/")),
        ("SETTINGS with ACK", frame::settings_ack()),
        ("an unknown frame", frame::frame(0xee, 0, 0, b"")),
    ];
    for (name, first) in firsts {
        let mut client = Connection::open(edge.address, TIME_MAX).unwrap();
        // It may be gone before all is said.
        let _gone = client.send(&[PREFACE, &first, &frame::settings(&[]), &get("/")].concat());
        let end = client.end();
        assert!(matches!(&end, Ok(Outcome::ConnectionError(Code::PROTOCOL_ERROR))), "{name}: {end:?}");
    }
    assert_eq!(origin.count(), 0);
}

/// What is answered or said to a client that speaks HTTP/2 under TLS and offers these protocols.
fn spoken_under_tls(edge: &Edge, protocols: &[&str]) -> Result<Outcome, ClientError> {
    let tcp = TcpStream::connect(edge.address).unwrap();
    let session = tls_connect_as(edge, tcp.try_clone().unwrap(), protocols);
    let mut client = Connection::over(session, tcp, TIME_MAX).unwrap();
    client.greet(&[])?;
    let mut fields = GET;
    (fields[1].1, fields[3].1) = ("https", "edge.example");
    client.get(1, &fields)
}

/// §3.2
#[test]
fn under_tls_http_2_is_agreed_on_and_not_found_out() {
    let origin = Origin::start();
    let both = edge(&origin, "\"h2\", \"http/1.1\"", true);
    let (h2_only, http1_only) = (edge(&origin, "\"h2\"", true), edge(&origin, "\"http/1.1\"", true));
    for (edge, protocols) in [(&both, &["h2"][..]), (&both, &["http/1.1", "h2"]), (&h2_only, &["h2"])] {
        let outcome = spoken_under_tls(edge, protocols).unwrap();
        assert_eq!(brief(&outcome), "200 and 5 octets", "{protocols:?}");
    }
    let count = origin.count();
    for (edge, protocols) in [
        (&both, &["http/1.1"][..]),
        (&both, &["h2c"]),
        (&both, &[]),
        (&h2_only, &["http/1.1"]),
        (&http1_only, &["h2"]),
        (&http1_only, &["http/1.1"]),
        (&http1_only, &[]),
    ] {
        match spoken_under_tls(edge, protocols) {
            Err(ClientError::TimedOut) => panic!("{protocols:?}: borne for ever"),
            Ok(outcome) => panic!("{protocols:?}: {}", brief(&outcome)),
            Err(_) => {}
        }
    }
    assert_eq!(origin.count(), count);
}

#[test]
fn where_http_2_was_agreed_on_http_1_1_is_an_error() {
    let origin = Origin::start();
    let edge = edge(&origin, "\"h2\", \"http/1.1\"", true);
    let tcp = TcpStream::connect(edge.address).unwrap();
    let session = tls_connect_as(&edge, tcp.try_clone().unwrap(), &["h2"]);
    let mut client = Connection::over(session, tcp, TIME_MAX).unwrap();
    client.send(b"GET / HTTP/1.1\r\nHost: edge.example\r\n\r\n").unwrap();
    let end = client.end();
    let is_end = matches!(&end, Ok(Outcome::Closed | Outcome::ConnectionError(Code::PROTOCOL_ERROR)));
    assert!(is_end, "{end:?}");
    assert_eq!(origin.count(), 0);
}

/// A preface is no request of HTTP/1.1, wherever that alone is spoken.
#[test]
fn where_http_2_is_not_spoken_its_preface_is_refused() {
    let origin = Origin::start();
    let edge = edge(&origin, "\"http/1.1\"", false);
    let mut client = client::Connection::open(edge.address, None, TIME_MAX).unwrap();
    client.send(&[PREFACE, &frame::settings(&[]), &get("/")].concat()).unwrap();
    let response = client.receive("PRI").unwrap();
    assert!(matches!(response.status, 400 | 505), "{response:?}");
    assert!(!response.keep_alive);
    assert_eq!(origin.count(), 0);
}
