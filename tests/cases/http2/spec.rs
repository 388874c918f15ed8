//! What RFC 9113 and RFC 7541 ask of a server, case by case. A case whose name begins with `generic`, `http2` or
//! `hpack` and two numbers is the one of that name in h2spec, the known suite; the others are ours.
//!
//! Where RFC 9113 §5.4 leaves a choice, so do the cases: `PROTOCOL_ERROR` stands for any more specific error, and an
//! error of a stream may be one of its connection.

use xtask::lab::{
    client::ClientError,
    http2::{
        Connection, Outcome,
        frame::{self, Code, flag, setting},
        hpack,
    },
};

use super::{GET, POST, h2_edge, origin::Origin};
use crate::support::{Edge, TIME_MAX};

mod start;
mod connection;
mod frames;
mod generic;
mod header_compression;
mod messages;

/// What must come of a case. Streams are stream 1, unless it says otherwise.
enum Must {
    /// A response with this status and body, and the connection goes on.
    Answer(u16, &'static [u8]),
    /// The same, whatever becomes of the connection.
    Finish(u16, &'static [u8]),
    /// Nothing: the connection goes on.
    GoOn,
    /// The stream is reset or answered with 400, as RFC 9113 §8.1.1 has it, and the connection goes on.
    BeMalformed,
    /// An error of the stream or of the connection, with one of these codes.
    Fail(&'static [Code]),
    /// An error of the connection, with one of these codes, and its end.
    FailConnection(&'static [Code]),
    /// No further response: the frames are ignored or are an error with one of these codes.
    Ignore(&'static [Code]),
    /// So many octets of a body, and no more.
    Send(usize),
    /// The connection ends, without an error.
    End,
}

/// What a case does on a connection whose settings hold.
type Act = Box<dyn FnOnce(&mut Connection) -> Result<(), ClientError>>;

struct Case {
    name: &'static str,
    settings: Vec<(u16, u32)>,
    act: Act,
    must: Must,
}

/// A case that only sends.
fn sends(name: &'static str, bytes: Vec<u8>, must: Must) -> Case {
    acts(name, move |client| client.send(&bytes), must)
}

/// A case that sends, and keeps its responses from ending by windows of no size.
fn sends_held(name: &'static str, bytes: Vec<u8>, must: Must) -> Case {
    Case { settings: vec![(setting::INITIAL_WINDOW_SIZE, 0)], ..sends(name, bytes, must) }
}

/// A case that does more than send.
fn acts(
    name: &'static str,
    act: impl FnOnce(&mut Connection) -> Result<(), ClientError> + 'static,
    must: Must,
) -> Case {
    Case { name, settings: Vec::new(), act: Box::new(act), must }
}

/// Runs them, each on a connection of its own, and names all that went wrong.
#[track_caller]
fn check(cases: Vec<Case>) {
    let origin = Origin::start();
    let edge = h2_edge(&origin, "");
    let failed: Vec<_> = cases
        .into_iter()
        .filter_map(|case| {
            let name = case.name;
            run(&edge, case).err().map(|why| format!("{name}: {why}"))
        })
        .collect();
    assert!(failed.is_empty(), "\n{}", failed.join("\n"));
}

fn run(edge: &Edge, case: Case) -> Result<(), String> {
    let mut client = Connection::open(edge.address, TIME_MAX).unwrap();
    client.greet(&case.settings).map_err(|error| format!("no greeting: {error}"))?;
    client.refills = case.settings.is_empty();
    match (case.act)(&mut client) {
        // The peer may be gone before all is said.
        Ok(()) | Err(ClientError::Reset) => {}
        Err(error) => return Err(format!("in its course: {error}, {:?}", client.goaways)),
    }
    verify(&mut client, &case.must)
}

fn verify(client: &mut Connection, must: &Must) -> Result<(), String> {
    match must {
        Must::Answer(status, body) => match outcome(client)? {
            Outcome::Answer(response) if response.status == *status && response.body == *body => {
                go_on(client)
            }
            other => Err(format!("{} instead of {status}", brief(&other))),
        },
        Must::Finish(status, body) => match outcome(client)? {
            Outcome::Answer(response) if response.status == *status && response.body == *body => Ok(()),
            other => Err(format!("{} instead of {status}", brief(&other))),
        },
        Must::GoOn => go_on(client),
        Must::BeMalformed => match outcome(client)? {
            Outcome::StreamError(Code::PROTOCOL_ERROR) => go_on(client),
            Outcome::Answer(response) if response.status == 400 => go_on(client),
            other => Err(format!("{} instead of a stream error", brief(&other))),
        },
        Must::Fail(codes) => match outcome(client)? {
            Outcome::StreamError(code) if codes.contains(&code) => go_on(client),
            Outcome::ConnectionError(code) if codes.contains(&code) => Ok(()),
            other => Err(format!("{} instead of an error of {codes:?}", brief(&other))),
        },
        Must::FailConnection(codes) => {
            if client.ping(*b"sentinel").is_ok() {
                return Err(format!("it goes on instead of a connection error of {codes:?}"));
            }
            match client.end().map_err(|error| format!("no end: {error}"))? {
                Outcome::ConnectionError(code) if codes.contains(&code) => Ok(()),
                other => Err(format!("{other:?} instead of a connection error of {codes:?}")),
            }
        }
        Must::Ignore(codes) => {
            let error = match client.ping(*b"go on...") {
                Ok(()) => client.streams.get(&1).and_then(|stream| stream.reset),
                Err(ClientError::ClosedEarly(0) | ClientError::Reset) => match client.end() {
                    Ok(Outcome::ConnectionError(code)) => Some(code),
                    other => return Err(format!("{other:?} instead of an error of {codes:?}")),
                },
                Err(error) => return Err(format!("neither on nor an end: {error}")),
            };
            match error {
                Some(code) if !codes.contains(&code) => Err(format!("{code:?} instead of {codes:?}")),
                _ => Ok(()),
            }
        }
        Must::Send(bytes) => {
            while sent_bytes(client) < *bytes {
                client.next_frame().map_err(|error| format!("{} octets: {error}", sent_bytes(client)))?;
            }
            go_on(client)?;
            let sent = sent_bytes(client);
            if sent == *bytes { Ok(()) } else { Err(format!("{sent} octets instead of {bytes}")) }
        }
        Must::End => match client.end().map_err(|error| format!("no end: {error}"))? {
            Outcome::Closed => Ok(()),
            other => Err(format!("{other:?} instead of an end")),
        },
    }
}

fn outcome(client: &mut Connection) -> Result<Outcome, String> {
    client.outcome(1).map_err(|error| format!("no outcome: {error}"))
}

/// An outcome without all the fields and octets.
pub(super) fn brief(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Answer(response) => format!("{} and {} octets", response.status, response.body.len()),
        other => format!("{other:?}"),
    }
}

fn sent_bytes(client: &Connection) -> usize {
    let response = client.streams.get(&1).and_then(|stream| stream.response.as_ref());
    response.map_or(0, |response| response.body.len())
}

/// The connection is alive and no stream was reset of which nobody has asked.
fn go_on(client: &mut Connection) -> Result<(), String> {
    client.ping(*b"go on...").map_err(|error| format!("it does not go on: {error}, {:?}", client.goaways))?;
    if client.goaways.is_empty() { Ok(()) } else { Err(format!("it ends: {:?}", client.goaways)) }
}

/// A GET of `path` on stream 1.
fn get(path: &str) -> Vec<u8> {
    frame::headers(1, flag::END, &request("GET", path))
}

/// The block of a request.
fn request(method: &str, path: &str) -> Vec<u8> {
    let mut fields = if method == "GET" { GET } else { POST };
    (fields[0].1, fields[2].1) = (method, path);
    hpack::block(&fields)
}

/// The head of a POST to `/echo` on stream 1, with more to come.
fn post() -> Vec<u8> {
    frame::headers(1, flag::END_HEADERS, &request("POST", "/echo"))
}

/// A block that may follow another.
fn more_fields() -> Vec<u8> {
    hpack::block(&[("x-dummy", "x".repeat(100))])
}
