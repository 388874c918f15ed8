//! A small HTTP/2 client for tests: it sends exactly the octets that it is given, and keeps what comes by streams.
//!
//! Comes in: octets, put together by [`frame`] and [`hpack`] or by hand. Goes out: the peer's frames one by one, and
//! what has become of a stream or of the connection. While it sends it reads, so that a flood is never stuck behind
//! its own echo. By itself it only answers PING and opens windows again. It forgives nothing in what the peer frames and never retries. RFC 9113, RFC 7541.

pub mod frame;
pub mod hpack;
mod huffman;

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use super::client::{self, ClientError, Response};
use frame::{Code, Frame, Raw, flag, kind};
use hpack::{Decoder, Field};

/// What a client says first: RFC 9113 §3.4.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Octets of a frame of the peer: we never allow more than `SETTINGS_MAX_FRAME_SIZE` begins with.
const PAYLOAD_BYTES_MAX: usize = 16_384;
/// Octets of one header block of the peer.
const BLOCK_BYTES_MAX: usize = 256 * 1024;
/// Octets that are read ahead while we send.
const INBOX_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A stream of octets in both directions, such as a session of TLS.
pub trait Wire: Read + Write + Send {}
impl<T: Read + Write + Send> Wire for T {}

/// What has come on a stream so far.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// The statuses of interim responses.
    pub interim: Vec<u16>,
    /// The final response, as far as it has come.
    pub response: Option<Response>,
    /// Whether the peer has ended the stream.
    pub is_ended: bool,
    /// Why it was reset.
    pub reset: Option<Code>,
}

/// What became of a stream or of the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The whole response.
    Answer(Response),
    /// `RST_STREAM` came.
    StreamError(Code),
    /// GOAWAY came with an error.
    ConnectionError(Code),
    /// The connection ended without saying why.
    Closed,
}

/// A connection, and what has come over it.
pub struct Connection {
    wire: Box<dyn Wire>,
    socket: TcpStream,
    time_max: Duration,
    inbox: Vec<u8>,
    /// Octets at the front of `inbox` that have been read.
    taken_bytes: usize,
    decoder: Decoder,
    block: Option<Block>,
    /// Whether what DATA takes of the windows is given back at once; true at first.
    pub refills: bool,
    /// The peer's settings, those of all its SETTINGS in turn.
    pub settings: Vec<(u16, u32)>,
    /// How many of our SETTINGS hold.
    pub settings_acks: usize,
    /// What came by stream.
    pub streams: HashMap<u32, Exchange>,
    /// Every GOAWAY: the last stream and why.
    pub goaways: Vec<(u32, Code)>,
    /// Every PING that came back.
    pub pongs: Vec<[u8; 8]>,
}

/// A header block of which more has to come.
struct Block {
    stream: u32,
    is_end: bool,
    bytes: Vec<u8>,
}

impl Connection {
    /// Connects and says nothing yet. `time_max` holds for the connect and for each later wait as a whole.
    pub fn open(server: SocketAddr, time_max: Duration) -> Result<Self, ClientError> {
        let socket = TcpStream::connect_timeout(&server, time_max)?;
        socket.set_nodelay(true)?;
        Ok(Self::over(socket.try_clone()?, socket, time_max)?)
    }

    /// Speaks over `wire`, which reads and writes `socket`.
    pub fn over(wire: impl Wire + 'static, socket: TcpStream, time_max: Duration) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            wire: Box::new(wire),
            socket,
            time_max,
            inbox: Vec::new(),
            taken_bytes: 0,
            decoder: Decoder::default(),
            block: None,
            refills: true,
            settings: Vec::new(),
            settings_acks: 0,
            streams: HashMap::new(),
            goaways: Vec::new(),
            pongs: Vec::new(),
        })
    }

    /// Says the preface with `settings`, and waits until both sides' settings hold.
    pub fn greet(&mut self, settings: &[(u16, u32)]) -> Result<(), ClientError> {
        self.send(&[PREFACE, &frame::settings(settings)].concat())?;
        match self.next_frame()? {
            Frame::Settings(_) => self.send(&frame::settings_ack())?,
            other => return Err(ClientError::Malformed(format!("{other:?} before SETTINGS"))),
        }
        while self.settings_acks == 0 {
            self.next_frame()?;
        }
        Ok(())
    }

    /// The peer's value of a setting, if it has told one.
    pub fn setting(&self, id: u16) -> Option<u32> {
        self.settings.iter().rev().find(|(told, _)| *told == id).map(|(_, value)| *value)
    }

    /// Sends octets as they are. What comes meanwhile is kept.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        let deadline = Instant::now() + self.time_max;
        let mut rest = bytes;
        while !rest.is_empty() {
            self.read_ahead()?;
            match self.wire.write(rest) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) => self.writable(error, deadline)?,
            }
        }
        while let Err(error) = self.wire.flush() {
            self.writable(error, deadline)?;
        }
        Ok(())
    }

    /// Waits for room, or for something to read that may be in its way.
    fn writable(&self, error: io::Error, deadline: Instant) -> Result<(), ClientError> {
        match error.kind() {
            io::ErrorKind::WouldBlock => self.wait(libc::POLLIN | libc::POLLOUT, deadline),
            io::ErrorKind::Interrupted => Ok(()),
            _ => Err(error.into()),
        }
    }

    /// Takes what is there. An end is found again by whoever waits for more.
    fn read_ahead(&mut self) -> Result<(), ClientError> {
        while self.unread().len() < INBOX_BYTES_MAX {
            let mut bytes = [0; 16 * 1024];
            match self.wire.read(&mut bytes) {
                Ok(0) | Err(_) => return Ok(()),
                Ok(read) => self.put(bytes.iter().take(read)),
            }
        }
        Err(ClientError::Malformed("more than anybody reads".into()))
    }

    /// The next frame, which is kept as well. `ClosedEarly(0)` is an end between two frames.
    pub fn next_frame(&mut self) -> Result<Frame, ClientError> {
        let deadline = Instant::now() + self.time_max;
        loop {
            if let Some(frame) = self.take_frame().map_err(|why| ClientError::Malformed(why.into()))? {
                self.keep(&frame)?;
                return Ok(frame);
            }
            self.more(deadline)?;
        }
    }

    /// What becomes of a stream: the whole response or an error, of its own or of the connection.
    pub fn outcome(&mut self, stream: u32) -> Result<Outcome, ClientError> {
        loop {
            if let Some(exchange) = self.streams.get(&stream) {
                match (exchange.reset, &exchange.response) {
                    // A reset without an error behind a whole response only asks for no more: RFC 9113 §8.1.
                    (None | Some(Code::NO_ERROR), Some(response)) if exchange.is_ended => {
                        return Ok(Outcome::Answer(response.clone()));
                    }
                    (Some(code), _) => return Ok(Outcome::StreamError(code)),
                    _ => {}
                }
            }
            if let Some(ended) = self.connection_error() {
                return Ok(ended);
            }
            match self.next_frame() {
                Ok(_) => {}
                Err(ClientError::ClosedEarly(0) | ClientError::Reset) => return Ok(Outcome::Closed),
                Err(error) => return Err(error),
            }
        }
    }

    /// What becomes of the connection, once it has ended.
    pub fn end(&mut self) -> Result<Outcome, ClientError> {
        loop {
            match self.next_frame() {
                Ok(_) => {}
                Err(ClientError::ClosedEarly(0) | ClientError::Reset) => {
                    return Ok(self.connection_error().unwrap_or(Outcome::Closed));
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn connection_error(&self) -> Option<Outcome> {
        let error = self.goaways.iter().find(|(_, code)| *code != Code::NO_ERROR);
        error.map(|(_, code)| Outcome::ConnectionError(*code))
    }

    /// Sends a PING and waits until it is back: everything before it has been read by the peer.
    pub fn ping(&mut self, octets: [u8; 8]) -> Result<(), ClientError> {
        let before = self.pongs.len();
        self.send(&frame::ping(octets))?;
        while !self.pongs.iter().skip(before).any(|pong| *pong == octets) {
            self.next_frame()?;
        }
        Ok(())
    }

    /// Sends a request without a body on `stream` and waits for its response.
    pub fn get(&mut self, stream: u32, fields: &[(&str, &str)]) -> Result<Outcome, ClientError> {
        self.send(&frame::headers(stream, flag::END, &hpack::block(fields)))?;
        self.outcome(stream)
    }

    /// Ends our half of the connection.
    pub fn finish_sending(&mut self) -> Result<(), ClientError> {
        Ok(self.socket.shutdown(std::net::Shutdown::Write)?)
    }

    fn unread(&self) -> &[u8] {
        self.inbox.get(self.taken_bytes..).unwrap_or_default()
    }

    fn put<'a>(&mut self, bytes: impl Iterator<Item = &'a u8>) {
        self.inbox.drain(..std::mem::take(&mut self.taken_bytes));
        self.inbox.extend(bytes);
    }

    fn take_frame(&mut self) -> Result<Option<Frame>, &'static str> {
        while let Some((raw, bytes)) = frame::take(self.unread(), PAYLOAD_BYTES_MAX)? {
            self.taken_bytes += bytes;
            let is_whole = raw.flags & flag::END_HEADERS != 0;
            match self.block.as_mut() {
                None if raw.kind == kind::HEADERS => self.block = Some(Block::start(&raw)?),
                None if raw.kind == kind::CONTINUATION => return Err("CONTINUATION of nothing"),
                None => return raw.read().map(Some),
                Some(block) if raw.kind == kind::CONTINUATION && raw.stream == block.stream => {
                    block.bytes.extend(raw.payload);
                }
                Some(_) => return Err("a frame within a header block"),
            }
            if self.block.as_ref().is_some_and(|block| block.bytes.len() > BLOCK_BYTES_MAX) {
                return Err("a header block too long");
            }
            if let Some(block) = self.block.take_if(|_| is_whole) {
                let fields = self.decoder.decode(&block.bytes)?;
                return Ok(Some(Frame::Headers { stream: block.stream, is_end: block.is_end, fields }));
            }
        }
        Ok(None)
    }

    fn keep(&mut self, frame: &Frame) -> Result<(), ClientError> {
        match frame {
            Frame::Headers { stream, is_end, fields } => {
                let exchange = self.streams.entry(*stream).or_default();
                exchange.take_fields(fields, *is_end).map_err(|why| ClientError::Malformed(why.into()))
            }
            Frame::Data { stream, is_end, bytes } => {
                let exchange = self.streams.entry(*stream).or_default();
                exchange.take_data(bytes, *is_end).map_err(|why| ClientError::Malformed(why.into()))?;
                match u32::try_from(bytes.len()) {
                    Ok(taken @ 1..) if self.refills => self.refill(*stream, *is_end, taken),
                    _ => Ok(()),
                }
            }
            Frame::Reset { stream, code } => {
                self.streams.entry(*stream).or_default().reset = Some(*code);
                Ok(())
            }
            Frame::Settings(settings) => {
                self.settings.extend(settings);
                Ok(())
            }
            Frame::SettingsAck => {
                self.settings_acks += 1;
                Ok(())
            }
            Frame::Pong(octets) => {
                self.pongs.push(*octets);
                Ok(())
            }
            Frame::GoAway { last, code, .. } => {
                self.goaways.push((*last, *code));
                Ok(())
            }
            Frame::Ping(octets) => self.send_late(&frame::frame(kind::PING, flag::ACK, 0, octets)),
            Frame::Window { .. } | Frame::Other(_) => Ok(()),
        }
    }

    fn refill(&mut self, stream: u32, is_end: bool, taken: u32) -> Result<(), ClientError> {
        let mut updates = frame::window_update(0, taken);
        if !is_end {
            updates.extend(frame::window_update(stream, taken));
        }
        self.send_late(&updates)
    }

    /// Sends what a peer that has said everything need not hear.
    fn send_late(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        match self.send(bytes) {
            Err(ClientError::Reset) => Ok(()),
            sent => sent,
        }
    }

    /// Reads at least one octet more.
    fn more(&mut self, deadline: Instant) -> Result<(), ClientError> {
        loop {
            let mut bytes = [0; 16 * 1024];
            match self.wire.read(&mut bytes) {
                Ok(0) => return Err(ClientError::ClosedEarly(self.unread().len())),
                Ok(read) => {
                    self.put(bytes.iter().take(read));
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(libc::POLLIN, deadline)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn wait(&self, events: i16, deadline: Instant) -> Result<(), ClientError> {
        let left_ms = deadline.saturating_duration_since(Instant::now()).as_millis();
        let mut poll = libc::pollfd { fd: self.socket.as_raw_fd(), events, revents: 0 };
        // SAFETY: `poll` is one pollfd and outlives the call.
        let ready = unsafe { libc::poll(&raw mut poll, 1, i32::try_from(left_ms).unwrap_or(i32::MAX)) };
        // A signal to this process ends poll(2) early; whoever waits tries again.
        if ready == 0 { Err(ClientError::TimedOut) } else { Ok(()) }
    }
}

impl Block {
    /// RFC 9113 §6.2; no server has reason to send a priority.
    fn start(raw: &Raw) -> Result<Self, &'static str> {
        if raw.flags & flag::PRIORITY != 0 {
            return Err("a priority from a server");
        }
        let is_end = raw.flags & flag::END_STREAM != 0;
        Ok(Self { stream: raw.stream, is_end, bytes: raw.unpadded()?.to_vec() })
    }
}

impl Exchange {
    /// RFC 9113 §8.1: interim responses, the final one, trailers; and §8.2: what a head must not hold.
    fn take_fields(&mut self, fields: &[Field], is_end: bool) -> Result<(), &'static str> {
        self.check_open()?;
        self.is_ended = is_end;
        let text = |octets: &[u8]| octets.iter().copied().map(char::from).collect::<String>();
        let named = fields.iter().map(|(name, value)| (text(name), text(value)));
        let (pseudo, regular): (Vec<_>, Vec<_>) = named.partition(|(name, _)| name.starts_with(':'));
        let is_connection_specific = |(name, _): &(String, String)| {
            ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"]
                .contains(&name.as_str())
        };
        if regular.iter().any(is_connection_specific) {
            return Err("a connection-specific field");
        }
        if regular.iter().any(|(name, _)| name.bytes().any(|octet| octet.is_ascii_uppercase())) {
            return Err("upper case in a field's name");
        }
        if let Some(response) = &mut self.response {
            response.trailers = regular;
            return if pseudo.is_empty() && is_end { Ok(()) } else { Err("trailers that are none") };
        }
        let [(name, status)] = pseudo.as_slice() else { return Err("not one :status") };
        let is_first = fields.first().is_some_and(|(first, _)| first == b":status");
        match status.parse() {
            Ok(status @ 100..200) if name == ":status" && is_first && !is_end => self.interim.push(status),
            Ok(status @ 200..600) if name == ":status" && is_first => {
                let (body, trailers) = (Vec::new(), Vec::new());
                self.response = Some(Response { status, headers: regular, body, trailers, keep_alive: true });
            }
            _ => return Err("no :status"),
        }
        Ok(())
    }

    fn take_data(&mut self, bytes: &[u8], is_end: bool) -> Result<(), &'static str> {
        self.check_open()?;
        let response = self.response.as_mut().ok_or("DATA before a response")?;
        response.body.extend(bytes);
        self.is_ended = is_end;
        if response.body.len() > client::BODY_BYTES_MAX { Err("a body too long") } else { Ok(()) }
    }

    fn check_open(&self) -> Result<(), &'static str> {
        if self.is_ended || self.reset.is_some() { Err("a frame on a stream that has ended") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
