//! WebSockets on streams (RFC 8441): the client's, the server's, or both.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, ext::Protocol, server};
use http::{Method, Request, Response, StatusCode};
use tungstenite::handshake::derive_accept_key;

use super::either::{
    Speaks::{self, Http1, Http2},
    edge_to, read_head,
};
use crate::{
    h2_peer::{self, Client, Exchange, Server, run},
    support::{Edge, HELLO, TIME_MAX},
};

const WEBSOCKET: &str = "websocket = true\n";
/// More than all windows on the way have room for.
const LARGE_BYTES: usize = 4 * 1024 * 1024;

const HANDSHAKE: &str = "GET /chat HTTP/1.1\r\nHost: edge.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
     Sec-WebSocket-Protocol: chat\r\n\r\n";

/// Says every octet again. At `/refuse` it refuses, at `/farewell` it says its last after the first octets, at
/// `/abort` it breaks off then.
struct Echo {
    address: SocketAddr,
    server: Option<Server>,
}

impl Echo {
    fn start(speaks: Speaks) -> Self {
        match speaks {
            Http1 => Self { address: echo_http1(), server: None },
            Http2 => {
                let mut builder = server::Builder::new();
                builder.enable_connect_protocol();
                let server = Server::start_with(&builder, None, echo_http2);
                Self { address: server.address(), server: Some(server) }
            }
        }
    }
}

fn echo_http1() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Ends with the process: each connection ends with its peer.
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            thread::spawn(move || {
                let Ok(head) = read_head(&mut stream) else { return };
                let path = head.split(' ').nth(1).unwrap().to_owned();
                if path == "/robots.txt" {
                    return stream.write_all(HELLO.as_bytes()).unwrap();
                }
                let field =
                    |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
                let key = field("Sec-WebSocket-Key: ");
                assert!(head.contains("Upgrade: websocket\r\n"), "{head}");
                if path == "/refuse" {
                    let refusal = "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno";
                    stream.write_all(refusal.as_bytes()).unwrap();
                    return;
                }
                let answer = format!(
                    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                     Sec-WebSocket-Accept: {}\r\nSec-WebSocket-Protocol: chat\r\n\r\n",
                    derive_accept_key(key.as_bytes())
                );
                stream.write_all(answer.as_bytes()).unwrap();
                let mut again = stream.try_clone().unwrap();
                match path.as_str() {
                    "/chat" => {
                        if io::copy(&mut stream, &mut again).is_ok() {
                            let _gone = stream.shutdown(Shutdown::Write);
                        }
                    }
                    path => {
                        let mut octets = [0; 5];
                        stream.read_exact(&mut octets).unwrap();
                        stream.write_all(&octets).unwrap();
                        if path == "/farewell" {
                            stream.shutdown(Shutdown::Write).unwrap();
                            let _gone = io::copy(&mut stream, &mut io::sink());
                        } else {
                            // SO_LINGER of zero: closing resets.
                            socket2::SockRef::from(&stream)
                                .set_linger(Some(std::time::Duration::ZERO))
                                .unwrap();
                        }
                    }
                }
            });
        }
    });
    address
}

async fn echo_http2(mut exchange: Exchange) {
    let path = exchange.request.uri.path().to_owned();
    if exchange.request.method != Method::CONNECT {
        return exchange.answer("hello").await;
    }
    let protocol = exchange.request.extensions.get::<Protocol>().map(Protocol::as_str);
    assert_eq!(protocol, Some("websocket"));
    assert_eq!(exchange.request.headers["sec-websocket-version"], "13");
    for field in ["sec-websocket-key", "upgrade", "connection", "te"] {
        assert!(!exchange.request.headers.contains_key(field), "{field}");
    }
    if path == "/refuse" {
        let mut head = Response::builder().status(403).body(()).unwrap();
        head.headers_mut().insert("content-length", 2.into());
        let mut stream = exchange.begin(head);
        h2_peer::send(&mut stream, b"no".to_vec(), true).await.unwrap();
        return;
    }
    let head = Response::builder().header("sec-websocket-protocol", "chat").body(()).unwrap();
    let mut stream = exchange.begin(head);
    loop {
        match h2_peer::data(&mut exchange.body).await {
            Some(Ok(octets)) => {
                if h2_peer::send(&mut stream, octets.to_vec(), false).await.is_err() {
                    return exchange.say("nobody listens");
                }
            }
            Some(Err(error)) => return exchange.say(format!("{:?}", error.reason())),
            None => {
                exchange.say("ended");
                let _gone = stream.send_data(Bytes::new(), true);
                return;
            }
        }
        match path.as_str() {
            "/farewell" => {
                stream.send_data(Bytes::new(), true).unwrap();
                let _ended = h2_peer::whole(&mut exchange.body).await;
                return;
            }
            "/abort" => {
                // Once what was sent is on its way.
                tokio::task::yield_now().await;
                return stream.send_reset(Reason::CANCEL);
            }
            _ => {}
        }
    }
}

fn edge(server: Speaks, upstream: &Echo) -> Edge {
    edge_to(server, upstream.address, "", "", WEBSOCKET)
}

/// An extended CONNECT.
fn connect(path: &str, protocol: &'static str) -> Request<()> {
    let request = Request::connect(format!("http://edge.example{path}"))
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "chat");
    let mut request = request.body(()).unwrap();
    request.extensions_mut().insert(Protocol::from_static(protocol));
    request
}

/// A client that knows that the gateway takes an extended CONNECT.
async fn client(edge: &Edge) -> Client {
    let mut client = Client::open(edge.address).await;
    // Its settings come before any answer.
    let _answer = client.get("/robots.txt").await;
    assert!(client.send.is_extended_connect_protocol_enabled());
    client
}

async fn open(client: &mut Client, path: &str) -> (Response<RecvStream>, SendStream<Bytes>) {
    let (response, stream) = client.begin(connect(path, "websocket"), false).await.unwrap();
    (h2_peer::head(response).await.unwrap().0, stream)
}

/// Exactly so many octets.
async fn take(body: &mut RecvStream, bytes: usize) -> Vec<u8> {
    let mut taken = Vec::new();
    while taken.len() < bytes {
        taken.extend_from_slice(&h2_peer::data(body).await.expect("more").unwrap());
    }
    assert_eq!(taken.len(), bytes);
    taken
}

#[test]
fn octets_pass_both_ways_over_a_stream_until_the_client_ends() {
    for server in [Http1, Http2] {
        let echo = Echo::start(server);
        let edge = edge(server, &echo);
        run(async {
            let mut client = client(&edge).await;
            let (response, mut stream) = open(&mut client, "/chat").await;
            assert_eq!(response.status(), StatusCode::OK, "{server:?}");
            assert_eq!(response.headers()["sec-websocket-protocol"], "chat");
            for field in ["sec-websocket-accept", "connection", "upgrade"] {
                assert!(!response.headers().contains_key(field), "{field}");
            }
            let mut body = response.into_body();
            h2_peer::send(&mut stream, b"hello".to_vec(), false).await.unwrap();
            assert_eq!(take(&mut body, 5).await, b"hello");
            let sending = tokio::spawn(async move {
                h2_peer::send(&mut stream, vec![b'x'; LARGE_BYTES], true).await.unwrap();
                stream
            });
            take(&mut body, LARGE_BYTES).await;
            assert!(h2_peer::data(&mut body).await.is_none(), "to {server:?}: it ends in order");
            sending.await.unwrap();
            if server == Http2 {
                assert_eq!(client.get("/other").await.unwrap().text(), "hello", "others go on");
            }
        });
    }
}

/// An open tunnel of a client of HTTP/1.1.
fn open_http1(edge: &Edge, path: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(edge.address).unwrap();
    stream.set_read_timeout(Some(TIME_MAX)).unwrap();
    stream.write_all(HANDSHAKE.replace("/chat", path).as_bytes()).unwrap();
    let head = read_head(&mut stream).unwrap();
    (stream, head)
}

#[test]
fn a_server_of_http2_has_websockets_for_clients_of_http1() {
    let echo = Echo::start(Http2);
    let edge = edge(Http2, &echo);
    let (mut stream, head) = open_http1(&edge, "/chat");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let lower = head.to_lowercase();
    let accept = derive_accept_key(b"dGhlIHNhbXBsZSBub25jZQ==");
    assert!(head.contains(&accept), "{head}");
    assert!(
        lower.contains("\r\nupgrade: websocket\r\n") && lower.contains("\r\nconnection: upgrade\r\n"),
        "{head}"
    );
    assert!(lower.contains("\r\nsec-websocket-protocol: chat\r\n"), "{head}");
    let mut writer = stream.try_clone().unwrap();
    let writing = thread::spawn(move || {
        writer.write_all(&vec![b'x'; LARGE_BYTES]).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut back = Vec::new();
    stream.read_to_end(&mut back).unwrap();
    assert_eq!(back.len(), LARGE_BYTES);
    writing.join().unwrap();
    assert_eq!(echo.server.as_ref().unwrap().hear(), "ended");
}

#[test]
fn a_server_may_end_a_websocket_too() {
    for server in [Http1, Http2] {
        let echo = Echo::start(server);
        let edge = edge(server, &echo);
        run(async {
            let mut client = client(&edge).await;
            let (response, mut stream) = open(&mut client, "/farewell").await;
            let mut body = response.into_body();
            h2_peer::send(&mut stream, b"hello".to_vec(), false).await.unwrap();
            assert_eq!(take(&mut body, 5).await, b"hello");
            assert!(h2_peer::data(&mut body).await.is_none(), "to {server:?}: it ends in order");
            stream.send_data(Bytes::new(), true).unwrap();

            let (response, mut stream) = open(&mut client, "/abort").await;
            h2_peer::send(&mut stream, b"hello".to_vec(), false).await.unwrap();
            h2_peer::reset(&mut stream).await;
            assert!(h2_peer::whole(&mut response.into_body()).await.is_err(), "to {server:?}: it breaks off");
        });
    }
    let echo = Echo::start(Http2);
    let edge = edge(Http2, &echo);
    let (mut stream, _) = open_http1(&edge, "/farewell");
    stream.write_all(b"hello").unwrap();
    let mut back = Vec::new();
    stream.read_to_end(&mut back).unwrap();
    assert_eq!(back, b"hello");
    let (mut stream, _) = open_http1(&edge, "/abort");
    stream.write_all(b"hello").unwrap();
    assert!(stream.read_to_end(&mut back).is_err(), "it breaks off");
}

#[test]
fn a_server_of_http2_hears_of_a_client_that_breaks_off() {
    let echo = Echo::start(Http2);
    let edge = edge(Http2, &echo);
    run(async {
        let mut client = client(&edge).await;
        let (response, mut stream) = open(&mut client, "/chat").await;
        assert_eq!(response.status(), StatusCode::OK);
        stream.send_reset(Reason::CANCEL);
        // The connection is driven until the reset is out.
        assert_eq!(client.get("/other").await.unwrap().text(), "hello");
    });
    assert_eq!(echo.server.as_ref().unwrap().hear(), "Some(CANCEL)");
    let (stream, head) = open_http1(&edge, "/chat");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(stream);
    assert_eq!(echo.server.as_ref().unwrap().hear(), "Some(CANCEL)");
}

#[test]
fn a_refusal_of_the_server_is_an_answer() {
    for server in [Http1, Http2] {
        let echo = Echo::start(server);
        let edge = edge(server, &echo);
        run(async {
            let mut client = client(&edge).await;
            let (response, _stream) = open(&mut client, "/refuse").await;
            assert_eq!(response.status(), StatusCode::FORBIDDEN, "{server:?}");
            assert_eq!(h2_peer::whole(&mut response.into_body()).await.unwrap().0, b"no");
        });
    }
    let echo = Echo::start(Http2);
    let edge = edge(Http2, &echo);
    let (_, head) = open_http1(&edge, "/refuse");
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
}

#[test]
fn a_server_without_websockets_on_streams_is_502() {
    let server = Server::start(echo_http2);
    let echo = Echo { address: server.address(), server: None };
    let edge = edge(Http2, &echo);
    let (_, head) = open_http1(&edge, "/chat");
    assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
    run(async {
        let mut client = client(&edge).await;
        assert_eq!(open(&mut client, "/chat").await.0.status(), StatusCode::BAD_GATEWAY);
        assert_eq!(client.get("/").await.unwrap().text(), "hello");
    });
}

#[test]
fn a_connect_that_is_no_websocket_is_refused() {
    let echo = Echo::start(Http2);
    let edge = edge_to(Http2, echo.address, "", "", "");
    run(async {
        let mut client = client(&edge).await;
        let (response, _stream) = open(&mut client, "/chat").await;
        assert!(response.status().is_client_error(), "where the route has none: {}", response.status());
        for request in
            [connect("/chat", "connect-udp"), Request::connect("edge.example:443").body(()).unwrap()]
        {
            let (response, _stream) = client.begin(request, false).await.unwrap();
            let status = h2_peer::receive(response).await.unwrap().status;
            assert!((400..=501).contains(&status) && status != 500, "{status}");
        }
        assert_eq!(client.get("/").await.unwrap().text(), "hello");
    });
}
