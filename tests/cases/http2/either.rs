//! The same client and the same server in either version of HTTP, so that a test says once what holds for all four
//! translations.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, mpsc},
    thread,
};

use h2::server;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use portcullis::codec::{BodyDecoder, BodyLength};
use xtask::lab::client::Connection;

use crate::{
    h2_peer::{self, Client, Exchange, Server, run},
    support::{Edge, TIME_MAX},
};

/// What a peer speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speaks {
    Http1,
    Http2,
}

use Speaks::{Http1, Http2};

/// Client and server.
pub(super) const TRANSLATIONS: [(Speaks, Speaks); 4] =
    [(Http1, Http1), (Http1, Http2), (Http2, Http1), (Http2, Http2)];

pub(super) type Fields = Vec<(String, String)>;

/// A request or a response, whatever carries it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) host: String,
    pub(super) status: u16,
    pub(super) interim: Vec<(u16, Fields)>,
    pub(super) fields: Fields,
    pub(super) body: Vec<u8>,
    /// Its length is not said beforehand.
    pub(super) is_chunked: bool,
    pub(super) trailers: Fields,
}

impl Message {
    /// A request for `edge.example`.
    pub(super) fn ask(method: &str, target: &str) -> Self {
        let (method, target, host) = (method.to_owned(), target.to_owned(), "edge.example".to_owned());
        Self { method, target, host, ..Self::default() }
    }

    /// A response.
    pub(super) fn reply(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    /// With a field more.
    pub(super) fn with(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With a body whose length is said.
    pub(super) fn exactly(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// With a body whose length is not.
    pub(super) fn chunked(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.is_chunked = true;
        self.exactly(body)
    }

    /// With a trailer more, behind a body whose length is not said.
    pub(super) fn trailing(mut self, name: &str, value: &str) -> Self {
        self.is_chunked = true;
        self.trailers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// All values of a field.
    pub(super) fn all(&self, name: &str) -> Vec<&str> {
        all(&self.fields, name)
    }

    fn has_body(&self) -> bool {
        self.is_chunked || !self.body.is_empty()
    }
}

/// All values of a field among `fields`.
pub(super) fn all<'f>(fields: &'f Fields, name: &str) -> Vec<&'f str> {
    fields.iter().filter(|(has, _)| has.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect()
}

/// A server that reads a request whole, tells the test, and replies.
pub(super) struct Upstream {
    pub(super) address: SocketAddr,
    seen: mpsc::Receiver<Message>,
    _server: Option<Server>,
}

impl Upstream {
    /// One that replies with what `reply` makes of a request.
    pub(super) fn start(speaks: Speaks, reply: fn(&Message) -> Message) -> Self {
        let (tell, seen) = mpsc::channel();
        match speaks {
            Http1 => Self { address: start_http1(reply, tell), seen, _server: None },
            Http2 => {
                let server = Server::start_with(&server::Builder::new(), None, move |exchange| {
                    let tell = tell.clone();
                    async move { reply_http2(exchange, reply, &tell).await }
                });
                Self { address: server.address(), seen, _server: Some(server) }
            }
        }
    }

    /// The next request.
    #[track_caller]
    pub(super) fn seen(&self) -> Message {
        self.seen.recv_timeout(TIME_MAX).expect("a request")
    }
}

/// A gateway before a server that speaks so, with more keys of its upstream and more sections.
pub(super) fn edge_to(speaks: Speaks, upstream: SocketAddr, listener: &str, keys: &str, more: &str) -> Edge {
    let directory = xtask::lab::scratch::Scratch::new().unwrap();
    Edge::start_with(directory, upstream, listener, &sections(speaks, keys, more))
}

/// One worker, an upstream `app` and a public route to it for everything.
pub(super) fn sections(speaks: Speaks, keys: &str, more: &str) -> String {
    let protocol = if speaks == Http2 { "h2" } else { "http/1.1" };
    format!(
        "[runtime]\nworkers = 1\n\
         [upstreams.app]\nservers = [\"{{upstream}}\"]\nprotocol = \"{protocol}\"\nhealth = \"off\"\n{keys}\n\
         [routes.all]\npath = \"/{{*rest}}\"\npublic = true\nupstream = \"app\"\n{more}"
    )
}

/// Asks as a client that speaks so; the error is what it saw instead of a whole answer.
pub(super) fn ask(speaks: Speaks, edge: SocketAddr, request: &Message) -> Result<Message, String> {
    match speaks {
        Http1 => ask_http1(edge, request),
        Http2 => run(ask_http2(edge, request)),
    }
}

fn ask_http1(edge: SocketAddr, request: &Message) -> Result<Message, String> {
    let mut client = Connection::open(edge, None, TIME_MAX).map_err(|error| error.to_string())?;
    let line = format!("{} {} HTTP/1.1\r\nHost: {}\r\n", request.method, request.target, request.host);
    client.send(&written(&line, request, request.has_body())).map_err(|error| error.to_string())?;
    let mut interim = Vec::new();
    loop {
        let response = client.receive(&request.method).map_err(|error| error.to_string())?;
        if response.status < 200 {
            interim.push((response.status, response.headers));
            continue;
        }
        return Ok(Message {
            status: response.status,
            interim,
            fields: response.headers,
            body: response.body,
            trailers: response.trailers,
            ..Message::default()
        });
    }
}

async fn ask_http2(edge: SocketAddr, request: &Message) -> Result<Message, String> {
    let mut client = Client::open(edge).await;
    let mut head = Request::builder()
        .method(request.method.as_str())
        .uri(format!("http://{}{}", request.host, request.target))
        .body(())
        .unwrap();
    *head.headers_mut() = map(&request.fields);
    let answer = if request.has_body() {
        if !request.is_chunked {
            head.headers_mut().insert("content-length", request.body.len().into());
        }
        client.post(head, request.body.clone(), map(&request.trailers)).await
    } else {
        client.ask(head).await
    };
    let answer = answer.map_err(|error| error.to_string())?;
    let interim = answer.interim.iter().map(|head| (head.status().as_u16(), list(head.headers()))).collect();
    Ok(Message {
        status: answer.status,
        interim,
        fields: list(&answer.fields),
        body: answer.body,
        trailers: list(&answer.trailers),
        ..Message::default()
    })
}

/// Fields as h2 takes them.
pub(super) fn map(fields: &Fields) -> HeaderMap {
    let pair = |(name, value): &(String, String)| {
        (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap())
    };
    fields.iter().map(pair).collect::<Vec<_>>().into_iter().fold(
        HeaderMap::new(),
        |mut map, (name, value)| {
            map.append(name, value);
            map
        },
    )
}

fn list(map: &HeaderMap) -> Fields {
    let pair = |(name, value): (&HeaderName, &HeaderValue)| {
        (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    map.iter().map(pair).collect()
}

async fn reply_http2(mut exchange: Exchange, reply: fn(&Message) -> Message, tell: &mpsc::Sender<Message>) {
    let Ok((body, trailers)) = h2_peer::whole(&mut exchange.body).await else { return };
    let request = &exchange.request;
    let seen = Message {
        method: request.method.to_string(),
        target: request.uri.path_and_query().map_or("", |target| target.as_str()).to_owned(),
        host: request.uri.authority().map_or("", |authority| authority.as_str()).to_owned(),
        fields: list(&request.headers),
        body,
        is_chunked: !request.headers.contains_key("content-length"),
        trailers: list(&trailers),
        ..Message::default()
    };
    let reply = reply(&seen);
    let _unheard = tell.send(seen);
    for (status, fields) in &reply.interim {
        let mut head = Response::builder().status(*status).body(()).unwrap();
        *head.headers_mut() = map(fields);
        exchange.respond.send_informational(head).unwrap();
    }
    let mut head = Response::builder().status(reply.status).body(()).unwrap();
    *head.headers_mut() = map(&reply.fields);
    if !reply.has_body() {
        exchange.respond.send_response(head, true).unwrap();
        return;
    }
    if !reply.is_chunked {
        head.headers_mut().insert("content-length", reply.body.len().into());
    }
    let mut stream = exchange.begin(head);
    let is_last = reply.trailers.is_empty();
    if h2_peer::send(&mut stream, reply.body, is_last).await.is_ok() && !is_last {
        stream.send_trailers(map(&reply.trailers)).unwrap();
    }
}

fn start_http1(reply: fn(&Message) -> Message, tell: mpsc::Sender<Message>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let tell = Arc::new(tell);
    // Ends with the process: each connection ends with its peer.
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let tell = Arc::clone(&tell);
            thread::spawn(move || {
                while let Ok(seen) = read_request(&mut stream) {
                    let reply = reply(&seen);
                    let is_head = seen.method == "HEAD";
                    let _unheard = tell.send(seen);
                    if write_reply(&mut stream, &reply, is_head).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

fn write_reply(stream: &mut TcpStream, reply: &Message, is_head: bool) -> io::Result<()> {
    for (status, fields) in &reply.interim {
        let head = Message { fields: fields.clone(), ..Message::default() };
        stream.write_all(&written(&format!("HTTP/1.1 {status} Interim\r\n"), &head, false))?;
    }
    let may_have_body = !is_head && !matches!(reply.status, 204 | 304);
    stream.write_all(&written(&format!("HTTP/1.1 {} Final\r\n", reply.status), reply, may_have_body))
}

/// A message of HTTP/1.1.
fn written(line: &str, message: &Message, with_body: bool) -> Vec<u8> {
    let mut bytes = line.as_bytes().to_vec();
    let mut push = |name: &str, value: &str| bytes.extend(format!("{name}: {value}\r\n").into_bytes());
    message.fields.iter().for_each(|(name, value)| push(name, value));
    match (with_body, message.is_chunked) {
        (false, _) => bytes.extend(b"\r\n"),
        (true, false) => {
            push("Content-Length", &message.body.len().to_string());
            bytes.extend(b"\r\n");
            bytes.extend(&message.body);
        }
        (true, true) => {
            push("Transfer-Encoding", "chunked");
            bytes.extend(b"\r\n");
            for chunk in message.body.chunks(5000) {
                bytes.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
                bytes.extend(chunk);
                bytes.extend(b"\r\n");
            }
            bytes.extend(b"0\r\n");
            for (name, value) in &message.trailers {
                bytes.extend(format!("{name}: {value}\r\n").into_bytes());
            }
            bytes.extend(b"\r\n");
        }
    }
    bytes
}

/// A head, octet by octet, so that nothing behind it is taken.
pub(super) fn read_head(stream: &mut impl Read) -> io::Result<String> {
    let (mut head, mut octet) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut octet)?;
        head.extend(octet);
    }
    Ok(String::from_utf8(head).unwrap())
}

fn read_request(stream: &mut TcpStream) -> io::Result<Message> {
    let head = read_head(stream)?;
    let mut lines = head.lines();
    let mut line = lines.next().unwrap().split(' ');
    let mut seen = Message::ask(line.next().unwrap(), line.next().unwrap());
    seen.fields = lines.filter_map(|line| line.split_once(": ")).map(owned).collect();
    seen.host = seen.all("host").concat();
    let length = if seen.all("transfer-encoding").is_empty() {
        let length = seen.all("content-length").first().and_then(|length| length.parse().ok());
        BodyLength::Exact(length.unwrap_or(0))
    } else {
        seen.is_chunked = true;
        BodyLength::Chunked
    };
    let mut decoder = BodyDecoder::new(length);
    let mut buffer = vec![0; 64 * 1024];
    while !decoder.is_done() {
        let count = stream.read(&mut buffer)?;
        let mut rest = &buffer[..count];
        if rest.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while !rest.is_empty() {
            let decoded = decoder.decode(rest).map_err(io::Error::other)?;
            seen.body.extend(&rest[decoded.data]);
            rest = &rest[decoded.consumed..];
        }
    }
    let trailers = String::from_utf8(decoder.trailers().to_vec()).unwrap();
    seen.trailers = trailers.lines().filter_map(|line| line.split_once(": ")).map(owned).collect();
    Ok(seen)
}

fn owned((name, value): (&str, &str)) -> (String, String) {
    (name.to_ascii_lowercase(), value.to_owned())
}
