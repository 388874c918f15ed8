//! The cases of the Autobahn test suite, by its numbers, written anew (the suite needs Python 2): a raw client plays
//! each straight to a server of RFC 6455 and through the gateway, in clear, under TLS and on a stream of HTTP/2.
//!
//! What comes back has to be what the case asks for, and the same on each way, octet for octet and down to how the
//! connection ends. Two servers answer: one of ours that breaks off at the first octet that it must not take, and
//! tungstenite as a second opinion.

mod closing;
mod compression;
mod deflate;
mod framing;
mod limits;
mod multiplexed;
mod peer;
mod utf8;

use std::io;

use multiplexed::Bridged;

use super::*;
use crate::{secured::TlsClient, support::free_address};

/// First octets of frames (RFC 6455 §5.2): FIN, three reserved bits, the opcode.
const CONTINUATION: u8 = 0x00;
const TEXT: u8 = 0x01;
const BINARY: u8 = 0x02;
const FIN: u8 = 0x80;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;
const RSV1: u8 = 0x40;

/// Codes that a close may tell (RFC 6455 §7.4.1).
const NORMAL: u16 = 1000;
const PROTOCOL_ERROR: u16 = 1002;
/// Stands for a close without a code.
const NO_CODE: u16 = 1005;
const INVALID_PAYLOAD: u16 = 1007;
const TOO_BIG: u16 = 1009;

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A frame as clients send it: masked.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        bytes @ ..126 => frame.push(0x80 | u8::try_from(bytes).unwrap()),
        bytes @ ..0x1_0000 => {
            frame.push(0xfe);
            frame.extend(u16::try_from(bytes).unwrap().to_be_bytes());
        }
        bytes => {
            frame.push(0xff);
            frame.extend((bytes as u64).to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(octet, mask)| octet ^ mask));
    frame
}

/// A message in frames of at most so many octets.
fn fragments(first: u8, payload: &[u8], frame_bytes_max: usize) -> Vec<Vec<u8>> {
    let mut parts = payload.chunks(frame_bytes_max).peekable();
    let mut frames = Vec::new();
    let mut first = first;
    while let Some(part) = parts.next() {
        let fin = if parts.peek().is_none() { FIN } else { 0 };
        frames.push(frame(first | fin, part));
        first = CONTINUATION;
    }
    frames
}

fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(CLOSE, &[&code.to_be_bytes(), reason].concat())
}

/// In which pieces a client writes.
#[derive(Clone, Copy)]
enum Chop {
    /// Everything at once.
    Whole,
    /// Each frame by itself.
    Frames,
    /// So many octets at a time, whatever they are.
    Octets(usize),
    /// A frame, when the answer to the one before has come.
    RoundTrips,
}

/// What a client sends, and what has to come back.
struct Case {
    /// Autobahn's number.
    id: String,
    sent: Vec<Vec<u8>>,
    chop: Chop,
    /// Frames before the close: first octet and payload.
    answers: Vec<(u8, Vec<u8>)>,
    /// Of the close that ends it.
    code: u16,
}

impl Case {
    /// These frames get those answers, and then the client closes.
    fn echoed(id: impl Into<String>, sent: &[Vec<u8>], answers: &[(u8, &[u8])]) -> Self {
        let mut case = Self::failed(id, sent, answers, NORMAL);
        case.sent.push(close(NORMAL, b""));
        case
    }

    /// These frames get those answers, and then the server ends the connection with this code.
    fn failed(id: impl Into<String>, sent: &[Vec<u8>], answers: &[(u8, &[u8])], code: u16) -> Self {
        let answers = answers.iter().map(|(first, payload)| (*first, payload.to_vec())).collect();
        Self { id: id.into(), sent: sent.to_vec(), chop: Chop::Whole, answers, code }
    }

    /// The same in other pieces.
    fn chopped(self, chop: Chop) -> Self {
        Self { chop, ..self }
    }
}

/// What a client has received.
#[derive(PartialEq, Eq)]
struct Transcript {
    octets: Vec<u8>,
    /// In order, or the error that it was.
    end: Result<(), io::ErrorKind>,
}

impl Transcript {
    /// The frames of it, as many as are whole.
    fn frames(&self) -> Vec<(u8, Vec<u8>)> {
        let (mut rest, mut frames) = (&self.octets[..], Vec::new());
        while let Some((first, payload_bytes, header_bytes)) = header(rest) {
            let Some(payload) = rest.get(header_bytes..header_bytes + payload_bytes) else { break };
            frames.push((first, payload.to_vec()));
            rest = &rest[header_bytes + payload_bytes..];
        }
        frames
    }
}

/// First octet, payload's and header's octets of a frame without a mask, as servers send them.
fn header(octets: &[u8]) -> Option<(u8, usize, usize)> {
    let first = *octets.first()?;
    match *octets.get(1)? {
        127 => {
            let bytes = u64::from_be_bytes(*octets.get(2..)?.first_chunk()?);
            Some((first, usize::try_from(bytes).ok()?, 10))
        }
        126 => Some((first, u16::from_be_bytes(*octets.get(2..)?.first_chunk()?).into(), 4)),
        bytes => Some((first, bytes.into(), 2)),
    }
}

/// Plays a case to its end.
fn play(case: &Case, mut stream: impl Read + Write) -> Transcript {
    let mut transcript = Transcript { octets: Vec::new(), end: Ok(()) };
    let send = |stream: &mut dyn Write, octets: &[u8]| {
        let sent = stream.write_all(octets).and_then(|()| stream.flush());
        sent.unwrap_or_else(|error| panic!("{}: {error}", case.id));
    };
    match case.chop {
        Chop::Whole => send(&mut stream, &case.sent.concat()),
        Chop::Frames => case.sent.iter().for_each(|frame| send(&mut stream, frame)),
        Chop::Octets(bytes) => case.sent.concat().chunks(bytes).for_each(|piece| send(&mut stream, piece)),
        Chop::RoundTrips => {
            for (frame, answered) in case.sent.iter().zip(1..) {
                send(&mut stream, frame);
                while transcript.end.is_ok() && transcript.frames().len() < answered {
                    if receive(&mut stream, &mut transcript) == 0 {
                        break;
                    }
                }
            }
        }
    }
    while receive(&mut stream, &mut transcript) > 0 {}
    transcript
}

/// Reads what there is; 0 at the end.
fn receive(stream: &mut impl Read, transcript: &mut Transcript) -> usize {
    let mut octets = vec![0; 65_536];
    match stream.read(&mut octets) {
        Ok(count) => {
            transcript.octets.extend(&octets[..count]);
            count
        }
        Err(error) => {
            transcript.end = Err(error.kind());
            0
        }
    }
}

/// Two servers, and a gateway before both with a listener in clear and one under TLS.
struct Ways {
    strict: SocketAddr,
    tungstenite: SocketAddr,
    clear: SocketAddr,
    edge: Edge,
}

/// Which server is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Server {
    Strict,
    Tungstenite,
}

impl Server {
    fn path(self) -> &'static str {
        match self {
            Self::Strict => "/strict",
            Self::Tungstenite => "/tungstenite",
        }
    }
}

impl Ways {
    fn open() -> Self {
        let (strict, tungstenite) = (server(peer::echo_strictly), server(peer::echo_by_tungstenite));
        let clear = free_address();
        let directory = Scratch::new().unwrap();
        let keys = tls_keys(&directory);
        let sections = format!(
            "[listeners.clear]\naddress = \"{clear}\"\n\
             [upstreams.strict]\nservers = [\"{strict}\"]\nhealth = \"off\"\n\
             [upstreams.tungstenite]\nservers = [\"{tungstenite}\"]\nhealth = \"off\"\n\
             [routes.strict]\npath = \"/strict\"\npublic = true\nupstream = \"strict\"\nwebsocket = true\n\
             [routes.tungstenite]\npath = \"/tungstenite\"\npublic = true\nupstream = \"tungstenite\"\n\
             websocket = true\n"
        );
        let edge = Edge::start_with(directory, strict, &keys, &sections);
        Self { strict, tungstenite, clear, edge }
    }

    /// What comes back, which is the same on each way. `fields` are added to the handshake; what the server has made
    /// of its extensions comes first.
    #[track_caller]
    fn play(&self, server: Server, fields: &str, case: &Case) -> (Option<String>, Transcript) {
        let address = match server {
            Server::Strict => self.strict,
            Server::Tungstenite => self.tungstenite,
        };
        let request = HANDSHAKE.replace("/chat", server.path()).replacen("\r\n", &format!("\r\n{fields}"), 1);
        let straight = |address| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(TIME_MAX)).unwrap();
            stream.set_write_timeout(Some(TIME_MAX)).unwrap();
            stream.set_nodelay(true).unwrap();
            let extensions = shake_hands(&mut stream, &request);
            (extensions, play(case, stream))
        };
        let (extensions, expected) = straight(address);
        let mut session: TlsClient = tls_connect(&self.edge);
        session.sock.set_nodelay(true).unwrap();
        let secured = (shake_hands(&mut session, &request), play(case, session));
        let ways = [
            ("in clear", straight(self.clear)),
            ("under TLS", secured),
            ("by HTTP/2", self.bridged(server, fields, case)),
        ];
        for (way, (agreed, transcript)) in ways {
            let id = &case.id;
            assert_eq!(agreed, extensions, "{id} {way}");
            assert_eq!(transcript.end, expected.end, "{id} {way}");
            let (came, there_are) = (transcript.octets.len(), expected.octets.len());
            assert!(
                transcript.octets == expected.octets,
                "{id} {way}: {came} octets of {there_are}, or others"
            );
        }
        (extensions, expected)
    }

    /// The same on a stream of HTTP/2.
    #[track_caller]
    fn bridged(&self, server: Server, fields: &str, case: &Case) -> (Option<String>, Transcript) {
        let mut bridged = Bridged::open(self.clear, server.path(), field(fields, "Sec-WebSocket-Extensions"));
        let transcript = play(case, &mut bridged.stream);
        let extensions = bridged.extensions.clone();
        bridged.finish().unwrap_or_else(|error| panic!("{}: {error}", case.id));
        (extensions, transcript)
    }

    /// Plays each case to these servers on each way.
    #[track_caller]
    fn check(&self, servers: &[Server], cases: &[Case]) {
        for case in cases {
            for &server in servers {
                let (_, transcript) = self.play(server, "", case);
                let id = format!("{} to {}", case.id, server.path());
                assert_eq!(transcript.end, Ok(()), "{id}");
                let mut frames = transcript.frames();
                let whole = frames.iter().map(|(_, payload)| payload.len()).sum::<usize>();
                let (first, said) = frames.pop().unwrap_or_else(|| panic!("{id}: nothing came back"));
                let code = said.first_chunk().map_or(NO_CODE, |code| u16::from_be_bytes(*code));
                assert_eq!((first, code), (CLOSE, case.code), "{id}");
                let firsts = |frames: &[(u8, Vec<u8>)]| -> Vec<_> {
                    frames.iter().map(|(first, payload)| (*first, payload.len())).collect()
                };
                assert_eq!(firsts(&frames), firsts(&case.answers), "{id}: {whole} octets");
                assert!(frames == case.answers, "{id}: other octets came back");
            }
        }
    }
}

const BOTH: &[Server] = &[Server::Strict, Server::Tungstenite];

/// Opens the WebSocket; the extensions that were agreed on.
fn shake_hands(stream: &mut (impl Read + Write), request: &str) -> Option<String> {
    stream.write_all(request.as_bytes()).unwrap();
    stream.flush().unwrap();
    let head = read_head(stream);
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    field(&head, "Sec-WebSocket-Extensions").map(ToOwned::to_owned)
}

/// The value of a field in a head, whatever the case of its name.
fn field<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines().find_map(|line| {
        let (each, value) = line.split_once(':')?;
        each.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}
