//! HTTP/2 as clients speak it: what RFC 9113 asks for, and what attackers make of it.

mod either;
mod translations;
mod translations_streams;
mod translations_edge;
mod translations_websocket;
mod upstream;
mod grpc;
mod clients;
mod origin;
mod spec;
mod attacks_messages;
mod attacks_floods;
mod legal;

use xtask::lab::{http2::Connection, scratch::Scratch};

use crate::support::{Edge, OPEN, TIME_MAX};
use origin::Origin;

/// A request for the whole of the site.
const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a.example")];
/// One with a body that comes back.
const POST: [(&str, &str); 4] =
    [(":method", "POST"), (":scheme", "http"), (":path", "/echo"), (":authority", "a.example")];

/// A gateway with one worker that speaks HTTP/2 in clear before `origin`, with more `listener` keys.
fn h2_edge(origin: &Origin, listener: &str) -> Edge {
    let listener = format!("protocols = [\"h2\", \"http/1.1\"]\n{listener}");
    let sections = format!("[runtime]\nworkers = 1\n{OPEN}");
    Edge::start_with(Scratch::new().unwrap(), origin.address(), &listener, &sections)
}

/// A connection to it whose settings hold.
#[track_caller]
fn connect(edge: &Edge) -> Connection {
    let mut client = Connection::open(edge.address, TIME_MAX).unwrap();
    client.greet(&[]).unwrap();
    client
}
