//! An upstream that reads whole requests, keeps what it has read and answers by path.
//!
//! `/hold` is never answered, `/bytes/N` with so many octets, `/echo` with the request's body, all else with
//! `hello`. It counts what it has at once, so that a test sees what a flood costs a server.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

/// A running upstream. It ends with the process, each connection of it with its peer.
pub(super) struct Origin {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    requests: Mutex<Vec<Request>>,
    held: AtomicUsize,
    held_max: AtomicUsize,
}

/// What came of a request: its head line by line, and its body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) lines: Vec<String>,
    pub(super) body: Vec<u8>,
    pub(super) trailers: Vec<String>,
}

impl Request {
    /// Such as `GET /path`.
    pub(super) fn target(&self) -> &str {
        self.lines[0].rsplit_once(' ').unwrap().0
    }

    /// The values of a field; `name` in lower case.
    pub(super) fn values(&self, name: &str) -> Vec<&str> {
        let fields = self.lines[1..].iter().filter_map(|line| line.split_once(": "));
        fields.filter(|(listed, _)| listed.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
    }
}

impl Origin {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, shared) = (listener.local_addr().unwrap(), Arc::new(Shared::default()));
        let server = Arc::clone(&shared);
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let server = Arc::clone(&server);
                thread::spawn(move || while server.serve(&mut BufReader::new(&stream)).is_ok() {});
            }
        });
        Self { address, shared }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every request so far, in the order in which they had been read.
    pub(super) fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// How many requests have come.
    pub(super) fn count(&self) -> usize {
        self.shared.requests.lock().unwrap().len()
    }

    /// How many are held now.
    pub(super) fn held(&self) -> usize {
        self.shared.held.load(Ordering::Relaxed)
    }

    /// How many were held at once.
    pub(super) fn held_max(&self) -> usize {
        self.shared.held_max.load(Ordering::Relaxed)
    }
}

impl Shared {
    /// One request and its answer. The gateway sends no request before it has the answer to the last.
    fn serve(&self, reader: &mut BufReader<&TcpStream>) -> io::Result<()> {
        let mut request = Request { lines: read_lines(reader)?, ..Request::default() };
        let path = request.lines[0].split(' ').nth(1).unwrap_or_default().to_owned();
        if path.starts_with("/hold") {
            return self.hold(request, reader);
        }
        match request.values("content-length").first() {
            Some(length) => {
                request.body.resize(length.parse().unwrap(), 0);
                reader.read_exact(&mut request.body)?;
            }
            None if request.values("transfer-encoding") == ["chunked"] => read_chunks(reader, &mut request)?,
            None => {}
        }
        let body = match path.strip_prefix("/bytes/") {
            Some(bytes) => vec![b'x'; bytes.parse().unwrap()],
            None if path.starts_with("/echo") => request.body.clone(),
            None => b"hello".to_vec(),
        };
        let is_head = request.lines[0].starts_with("HEAD ");
        self.requests.lock().unwrap().push(request);
        let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
        if !is_head {
            answer.extend(body);
        }
        let mut stream = *reader.get_ref();
        stream.write_all(&answer)
    }

    /// Until the peer has gone.
    fn hold(&self, request: Request, reader: &mut BufReader<&TcpStream>) -> io::Result<()> {
        let held = self.held.fetch_add(1, Ordering::Relaxed) + 1;
        self.held_max.fetch_max(held, Ordering::Relaxed);
        self.requests.lock().unwrap().push(request);
        let gone = io::copy(reader, &mut io::sink());
        self.held.fetch_sub(1, Ordering::Relaxed);
        gone.and(Err(io::ErrorKind::UnexpectedEof.into()))
    }
}

/// Up to the empty line. Octets that are no UTF-8 become one character each.
fn read_lines(reader: &mut impl BufRead) -> io::Result<Vec<String>> {
    let mut lines = Vec::new();
    loop {
        let mut line = Vec::new();
        if reader.read_until(b'\n', &mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line: String = line.iter().map(|octet| char::from(*octet)).collect();
        match line.trim_end_matches(['\r', '\n']) {
            "" => return Ok(lines),
            line => lines.push(line.to_owned()),
        }
    }
}

fn read_chunks(reader: &mut impl BufRead, request: &mut Request) -> io::Result<()> {
    loop {
        let mut size = String::new();
        reader.read_line(&mut size)?;
        let size = usize::from_str_radix(size.trim_end(), 16).map_err(io::Error::other)?;
        if size == 0 {
            request.trailers = read_lines(reader)?;
            return Ok(());
        }
        let mut chunk = vec![0; size + 2];
        reader.read_exact(&mut chunk)?;
        request.body.extend(&chunk[..size]);
    }
}
