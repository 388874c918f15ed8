//! A small HTTP/1.1 client for tests: it sends exactly the bytes that it is given and reads one response at a time.
//!
//! Comes in: bytes or a [`Request`]. Goes out: a [`Response`] or a [`ClientError`] that says what the peer did. It
//! forgives nothing in a response's framing, never retries and never follows a redirect. RFC 9110, RFC 9112.

mod response;

use std::{
    fmt,
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

pub(super) use response::BODY_BYTES_MAX;
pub use response::Response;
use response::{FIELDS_MAX, Framing, framing, keep_alive, owned, parse_head};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::place::Place;

/// Octets of a response's head, and of one chunk's size line.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// What went wrong, as the peer let us see it.
#[derive(Debug)]
pub enum ClientError {
    /// The port answered with a reset: nobody listens.
    Refused,
    /// The peer reset the connection.
    Reset,
    /// Nothing came in time: dropped packets look like this.
    TimedOut,
    /// The connection ended before the response did; how many octets of the response had come.
    ClosedEarly(usize),
    /// What came is no HTTP/1.1 response, and why.
    Malformed(String),
    /// Anything else, which is rather our own fault.
    Io(io::Error),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("connection refused"),
            Self::Reset => f.write_str("connection reset"),
            Self::TimedOut => f.write_str("timed out"),
            Self::ClosedEarly(bytes) => write!(f, "closed after {bytes} octets of a response"),
            Self::Malformed(why) => write!(f, "malformed response: {why}"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ClientError {}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted => {
                Self::Reset
            }
            // A read timeout is EAGAIN, a connect timeout ETIMEDOUT.
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Self::TimedOut,
            _ => Self::Io(error),
        }
    }
}

/// A request to be written out; the caller gives every field but `host` and `content-length`.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Such as `GET`.
    pub method: &'a str,
    /// Such as `/path?query`.
    pub target: &'a str,
    /// Value of `host`.
    pub host: &'a str,
    /// More fields, in order.
    pub headers: &'a [(&'a str, &'a str)],
    /// Sent with `content-length`, unless it is empty.
    pub body: &'a [u8],
}

impl<'a> Request<'a> {
    /// `GET target` without more fields.
    pub fn get(target: &'a str) -> Self {
        Self { method: "GET", target, host: "localhost", headers: &[], body: &[] }
    }

    /// The same with these fields.
    #[must_use]
    pub fn with(self, headers: &'a [(&'a str, &'a str)]) -> Self {
        Self { headers, ..self }
    }

    /// The octets on the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\nhost: {}\r\n", self.method, self.target, self.host);
        for (name, value) in self.headers {
            head.extend([name, ": ", value, "\r\n"]);
        }
        if !self.body.is_empty() {
            head.extend(["content-length: ", &self.body.len().to_string(), "\r\n"]);
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend(self.body);
        bytes
    }
}

/// A connection that keeps what it has read past a response: the next one of a pipeline.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    time_max: Duration,
}

impl Connection {
    /// Connects, from `source` when one is given. `time_max` holds for the connect and for each later response or
    /// write as a whole. The socket belongs to the namespace of the calling thread.
    pub fn open(server: SocketAddr, source: Option<IpAddr>, time_max: Duration) -> Result<Self, ClientError> {
        let socket = Socket::new(Domain::for_address(server), Type::STREAM, Some(Protocol::TCP))?;
        if let Some(source) = source {
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        socket.connect_timeout(&server.into(), time_max)?;
        socket.set_tcp_nodelay(true)?;
        socket.set_write_timeout(Some(time_max))?;
        Ok(Self { stream: socket.into(), buffer: Vec::new(), time_max })
    }

    /// The same from within `place`; the connection can then be used anywhere.
    pub fn open_in(
        place: &Place,
        server: SocketAddr,
        source: Option<IpAddr>,
        time_max: Duration,
    ) -> Result<Self, ClientError> {
        place.enter(|| Self::open(server, source, time_max))?
    }

    /// Our own address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    /// Sends octets as they are.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        Ok(self.stream.write_all(bytes)?)
    }

    /// Ends our half of the connection; responses can still come.
    pub fn finish_sending(&mut self) -> Result<(), ClientError> {
        Ok(self.stream.shutdown(std::net::Shutdown::Write)?)
    }

    /// Closes with a reset instead of an end.
    pub fn reset(self) -> Result<(), ClientError> {
        Ok(SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))?)
    }

    /// Sends a request and reads its final response; interim ones (1xx) are skipped.
    pub fn request(&mut self, request: &Request<'_>) -> Result<Response, ClientError> {
        self.send(&request.bytes())?;
        loop {
            let response = self.receive(request.method)?;
            if response.status >= 200 {
                return Ok(response);
            }
        }
    }

    /// Reads one response to a request of this method, interim or final.
    pub fn receive(&mut self, method: &str) -> Result<Response, ClientError> {
        let deadline = Instant::now() + self.time_max;
        let (mut response, version, head_bytes) = loop {
            if let Some(head) = parse_head(&self.buffer)? {
                break head;
            }
            if self.buffer.len() > HEAD_BYTES_MAX {
                return Err(ClientError::Malformed("head too long".into()));
            }
            self.more(deadline)?;
        };
        let framing = framing(&response, method)?;
        response.keep_alive = keep_alive(&response, version, &framing);
        self.buffer.drain(..head_bytes);
        match framing {
            Framing::None => {}
            Framing::Length(length) => response.body = self.take(length, deadline)?,
            Framing::Chunked => self.receive_chunks(&mut response, deadline)?,
            Framing::UntilClose => response.body = self.take_rest(deadline)?,
        }
        Ok(response)
    }

    /// Waits until `enough` says so of the octets that have come and belong to no response that was read.
    pub fn read_until(&mut self, enough: impl Fn(&[u8]) -> bool) -> Result<(), ClientError> {
        let deadline = Instant::now() + self.time_max;
        while !enough(&self.buffer) {
            self.more(deadline)?;
        }
        Ok(())
    }

    /// Waits for the peer to close without another octet; any octet is an error.
    pub fn expect_close(&mut self) -> Result<(), ClientError> {
        let rest = self.take_rest(Instant::now() + self.time_max)?;
        if rest.is_empty() {
            Ok(())
        } else {
            Err(ClientError::Malformed(format!("{} more octets", rest.len())))
        }
    }

    /// RFC 9112 §7.1
    fn receive_chunks(&mut self, response: &mut Response, deadline: Instant) -> Result<(), ClientError> {
        loop {
            let (line_bytes, size) = loop {
                match httparse::parse_chunk_size(&self.buffer) {
                    Ok(httparse::Status::Complete(line)) => break line,
                    Ok(httparse::Status::Partial) if self.buffer.len() <= HEAD_BYTES_MAX => {
                        self.more(deadline)?;
                    }

                    _ => return Err(ClientError::Malformed("chunk size".into())),
                }
            };
            self.buffer.drain(..line_bytes);
            if size == 0 {
                response.trailers = self.receive_trailers(deadline)?;
                return Ok(());
            }
            let size = usize::try_from(size)
                .ok()
                .filter(|size| size.saturating_add(response.body.len()) <= BODY_BYTES_MAX)
                .ok_or_else(|| ClientError::Malformed("body too long".into()))?;
            let mut chunk = self.take(size + 2, deadline)?;
            if chunk.split_off(size) != b"\r\n" {
                return Err(ClientError::Malformed("chunk without its end".into()));
            }
            response.body.append(&mut chunk);
        }
    }

    fn receive_trailers(&mut self, deadline: Instant) -> Result<Vec<(String, String)>, ClientError> {
        loop {
            let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
            match httparse::parse_headers(&self.buffer, &mut fields) {
                Ok(httparse::Status::Complete((bytes, fields))) => {
                    let trailers = owned(fields);
                    self.buffer.drain(..bytes);
                    return Ok(trailers);
                }
                Ok(httparse::Status::Partial) if self.buffer.len() <= HEAD_BYTES_MAX => {
                    self.more(deadline)?;
                }

                _ => return Err(ClientError::Malformed("trailers".into())),
            }
        }
    }

    /// Takes so many octets off the front.
    fn take(&mut self, bytes: usize, deadline: Instant) -> Result<Vec<u8>, ClientError> {
        while self.buffer.len() < bytes {
            self.more(deadline)?;
        }
        let rest = self.buffer.split_off(bytes);
        Ok(std::mem::replace(&mut self.buffer, rest))
    }

    fn take_rest(&mut self, deadline: Instant) -> Result<Vec<u8>, ClientError> {
        loop {
            match self.more(deadline) {
                Ok(()) if self.buffer.len() <= BODY_BYTES_MAX => {}
                Ok(()) => return Err(ClientError::Malformed("body too long".into())),
                Err(ClientError::ClosedEarly(_)) => return Ok(std::mem::take(&mut self.buffer)),
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads at least one octet more.
    fn more(&mut self, deadline: Instant) -> Result<(), ClientError> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ClientError::TimedOut);
        }
        self.stream.set_read_timeout(Some(left))?;
        let mut bytes = [0; 16 * 1024];
        let read = loop {
            match self.stream.read(&mut bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        if read == 0 {
            return Err(ClientError::ClosedEarly(self.buffer.len()));
        }
        self.buffer.extend(bytes.iter().take(read));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::{
        place::Place,
        scripted::{Scripted, Step},
    };

    const TIME_MAX: Duration = Duration::from_secs(10);

    fn get_from(steps: Vec<Step>) -> (Scripted, Connection, Result<Response, ClientError>) {
        let upstream = Scripted::start(&Place::here(), "127.0.0.1:0".parse().unwrap(), vec![steps]).unwrap();
        let mut connection = Connection::open(upstream.address(), None, TIME_MAX).unwrap();
        let response = connection.request(&Request::get("/"));
        (upstream, connection, response)
    }

    #[track_caller]
    fn check(answer: &str, body: &str, keep_alive: bool) {
        // Whole, and octet by octet: every split point.
        let drip =
            answer.bytes().flat_map(|byte| [Step::Send(vec![byte]), Step::Pause(Duration::from_micros(10))]);
        for sending in [vec![Step::Send(answer.into())], drip.collect()] {
            let steps = [vec![Step::ReadHead], sending, vec![Step::Close]].concat();
            let response = get_from(steps).2.unwrap();
            assert_eq!((response.text().as_str(), response.keep_alive), (body, keep_alive));
        }
    }

    #[track_caller]
    fn check_malformed(answer: &str) {
        let result = get_from(vec![Step::ReadHead, Step::Send(answer.into()), Step::Close]).2;
        assert!(matches!(result, Err(ClientError::Malformed(_))), "{result:?}");
    }

    #[test]
    fn a_body_ends_where_its_framing_says() {
        check("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", "ok", true);
        check("HTTP/1.1 204 No Content\r\n\r\n", "", true);
        check(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nok\r\n1\r\n!\r\n0\r\n\r\n",
            "ok!",
            true,
        );
        check("HTTP/1.1 200 OK\r\n\r\nuntil close", "until close", false);
        check("HTTP/1.1 200 OK\r\nConnection: x, Close\r\ncontent-length: 0\r\n\r\n", "", false);
        check("HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n", "", false);
        check("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx", "x", true);
    }

    #[test]
    fn nothing_is_forgiven() {
        check_malformed("SSH-2.0-OpenSSH_9.2\r\n");
        check_malformed(
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        );
        check_malformed("HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nok".replace('+', "-").as_str());
        check_malformed("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n");
        check_malformed("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nokay\r\n0\r\n\r\n");
        check_malformed("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n");
    }

    #[test]
    fn trailers_are_kept() {
        let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nDigest: x\r\n\r\n";
        let response = get_from(vec![Step::ReadHead, Step::Send(answer.into()), Step::Close]).2.unwrap();
        assert_eq!(response.trailers, [("digest".into(), "x".into())]);
    }

    #[test]
    fn what_the_peer_did_is_told() {
        let truncated = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nok";
        let result = get_from(vec![Step::ReadHead, Step::Send(truncated.into()), Step::Close]).2;
        assert!(matches!(result, Err(ClientError::ClosedEarly(2))), "{result:?}");
        let result = get_from(vec![Step::ReadHead, Step::Reset]).2;
        assert!(matches!(result, Err(ClientError::Reset)), "{result:?}");

        let upstream =
            Scripted::start(&Place::here(), "127.0.0.1:0".parse().unwrap(), vec![vec![Step::Stall]]).unwrap();
        let mut connection = Connection::open(upstream.address(), None, Duration::from_millis(20)).unwrap();
        assert!(matches!(connection.request(&Request::get("/")), Err(ClientError::TimedOut)));
        let gone = upstream.address();
        drop(upstream);
        assert!(matches!(Connection::open(gone, None, TIME_MAX), Err(ClientError::Refused)));
    }

    #[test]
    fn a_pipeline_is_read_in_order() {
        let answer = |n| format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{n}");
        let both = [answer(1), answer(2)].concat();
        let (_upstream, mut connection, first) =
            get_from(vec![Step::ReadHead, Step::Send(both.into()), Step::Close]);
        assert_eq!(first.unwrap().text(), "1");
        assert_eq!(connection.receive("GET").unwrap().text(), "2");
        connection.expect_close().unwrap();
    }

    #[test]
    fn the_source_address_is_the_one_asked_for() {
        let upstream =
            Scripted::start(&Place::here(), "127.0.0.1:0".parse().unwrap(), vec![vec![Step::Stall]]).unwrap();
        let source = "127.0.0.66".parse().unwrap();
        let connection = Connection::open(upstream.address(), Some(source), TIME_MAX).unwrap();
        assert_eq!(connection.local_addr().unwrap().ip(), source);
    }
}
