//! What becomes of an exchange that does not go as planned: answers that come early, peers that break off, peers that
//! take nothing.

use std::{
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use h2::{Reason, server};
use http::{HeaderMap, Response};
use tokio::sync::Notify;
use xtask::lab::{scripted::Step, wait};

use super::either::{
    Message,
    Speaks::{self, Http1, Http2},
    TRANSLATIONS, Upstream, ask, edge_to, read_head,
};
use crate::{
    h2_peer::{self, Client, Exchange, Server, get, post, run},
    support::{HELLO, TIME_MAX, scripted},
};

const MIB: usize = 1024 * 1024;
/// Far more than all windows and sockets on the way have room for.
const LARGE_BYTES: usize = 64 * MIB;

/// A server that answers as soon as it has a head, and takes nothing of the body.
fn hasty(speaks: Speaks) -> (SocketAddr, Box<dyn std::any::Any>) {
    match speaks {
        Http1 => {
            let server = scripted(&[Step::ReadHead, Step::Send(HELLO.into()), Step::Stall]);
            (server.address(), Box::new(server))
        }
        Http2 => {
            let server = Server::start(|mut exchange| async move { exchange.answer("hello").await });
            (server.address(), Box::new(server))
        }
    }
}

#[test]
fn an_early_answer_is_told_at_once_and_ends_the_upload_without_an_error() {
    for (client, server) in TRANSLATIONS {
        let (upstream, _server) = hasty(server);
        let edge = edge_to(server, upstream, "", "", "");
        match client {
            Http1 => {
                let mut client = edge.connect();
                let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {MIB}\r\n\r\n");
                client.send(&[head.as_bytes(), &vec![b'x'; 20_000]].concat()).unwrap();
                let answer = client.receive("POST").unwrap();
                assert_eq!((answer.status, answer.text().as_str()), (200, "hello"), "to {server:?}");
            }
            Http2 => run(async {
                let mut client = Client::open(edge.address).await;
                let (response, mut body) = client.begin(post("/"), false).await.unwrap();
                h2_peer::send(&mut body, vec![b'x'; 20_000], false).await.unwrap();
                let answer = h2_peer::receive(response).await.unwrap();
                assert_eq!((answer.status, answer.text().as_str()), (200, "hello"), "to {server:?}");
                // RFC 9113 §8.1: what is left of the request is not wanted, and nothing is wrong.
                assert_eq!(h2_peer::reset(&mut body).await, Reason::NO_ERROR, "to {server:?}");
                assert_eq!(client.get("/").await.unwrap().text(), "hello", "the connection goes on");
            }),
        }
    }
}

/// A server that breaks off in the middle of its body, whose length it has said or not.
fn breaking(speaks: Speaks, is_chunked: bool) -> (SocketAddr, Box<dyn std::any::Any>) {
    match speaks {
        Http1 => {
            let head = if is_chunked {
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"
            } else {
                "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf"
            };
            let server = scripted(&[Step::ReadHead, Step::Send(head.into()), Step::Close]);
            (server.address(), Box::new(server))
        }
        Http2 => {
            let server = Server::start(move |mut exchange| async move {
                let mut head = Response::new(());
                if !is_chunked {
                    head.headers_mut().insert("content-length", 8.into());
                }
                let mut stream = exchange.begin(head);
                h2_peer::send(&mut stream, b"half".to_vec(), false).await.unwrap();
                // Once what was sent is on its way.
                tokio::task::yield_now().await;
                stream.send_reset(Reason::INTERNAL_ERROR);
            });
            (server.address(), Box::new(server))
        }
    }
}

#[test]
fn a_body_that_breaks_off_never_looks_whole() {
    for (client, server) in TRANSLATIONS {
        for is_chunked in [false, true] {
            let (upstream, _server) = breaking(server, is_chunked);
            let edge = edge_to(server, upstream, "", "", "");
            let result = ask(client, edge.address, &Message::ask("POST", "/"));
            // Where nothing was told yet, 502 says it better.
            if result.as_ref().is_ok_and(|answer| answer.status == 502) {
                continue;
            }
            let error = result.expect_err("a short body looks whole");
            if client == Http2 {
                assert!(error.contains("unexpected internal error"), "to {server:?}: {error}");
            }
        }
    }
}

/// A server that tells what became of an exchange that its client breaks off: `stage` by stage.
fn watching() -> Server {
    Server::start(|mut exchange| async move {
        let path = exchange.request.uri.path().to_owned();
        let mut stream = match path.as_str() {
            "/before" | "/upload" => None,
            _ => Some(exchange.begin(Response::new(()))),
        };
        exchange.say("begun");
        let reason = match &mut stream {
            None if path == "/upload" => {
                let error = loop {
                    match h2_peer::data(&mut exchange.body).await {
                        Some(Ok(_)) => {}
                        Some(Err(error)) => break error.reason(),
                        None => break None,
                    }
                };
                error.map_or("ended".to_owned(), |reason| format!("{reason:?}"))
            }
            None => {
                let reset = std::future::poll_fn(|context| exchange.respond.poll_reset(context)).await;
                format!("{:?}", reset.unwrap())
            }
            Some(stream) => loop {
                if let Err(error) = h2_peer::send(stream, vec![b'x'; 10_000], false).await {
                    let reason = h2_peer::reset(stream).await;
                    break if reason == Reason::CANCEL { format!("{reason:?}") } else { error.to_string() };
                }
            },
        };
        exchange.say(reason);
    })
}

#[test]
fn a_client_that_breaks_off_is_heard_of_by_a_server_of_http2() {
    let server = watching();
    let edge = edge_to(Http2, server.address(), "", "", "");
    run(async {
        let mut client = Client::open(edge.address).await;
        for path in ["/before", "/during", "/upload"] {
            let (response, mut stream) = client.begin(post(path), path != "/upload").await.unwrap();
            if path == "/upload" {
                h2_peer::send(&mut stream, vec![b'x'; 1000], false).await.unwrap();
            }
            assert_eq!(server.next().await, "begun");
            stream.send_reset(Reason::CANCEL);
            drop(response);
            assert_eq!(server.next().await, "CANCEL", "{path}");
        }
    });
    for path in ["/during", "/upload"] {
        let mut client = edge.connect();
        let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\n\r\n");
        client.send(&[head.as_bytes(), &[b'x'; 1000]].concat()).unwrap();
        assert_eq!(server.hear(), "begun");
        client.reset().unwrap();
        assert_eq!(server.hear(), "CANCEL", "{path}");
    }
}

#[test]
fn a_client_that_breaks_off_is_heard_of_by_a_server_of_http1() {
    // Answers nothing; what comes is reported when the connection has ended.
    let server = scripted(&[Step::ReadHead, Step::ReadUntil(b"never".to_vec())]);
    let edge = edge_to(Http1, server.address(), "", "", "");
    run(async {
        let mut client = Client::open(edge.address).await;
        for is_whole in [true, false] {
            let (response, mut stream) = client.begin(post("/"), is_whole).await.unwrap();
            if !is_whole {
                h2_peer::send(&mut stream, b"some".to_vec(), false).await.unwrap();
            }
            let next = async || {
                loop {
                    if let Some(head) = server.next_head(Duration::ZERO) {
                        break head;
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            };
            assert!(next().await.starts_with(b"POST / "));
            stream.send_reset(Reason::CANCEL);
            drop(response);
            next().await;
        }
    });
}

/// Waits until a count of bytes stands still, and says where.
fn standing(bytes: &AtomicUsize) -> usize {
    let mut last = usize::MAX;
    let mut same = 0;
    wait::until(TIME_MAX, || {
        let now = bytes.load(Ordering::Relaxed);
        same = if now == last && now > 0 { same + 1 } else { 0 };
        last = now;
        // 5 ms apart.
        (same > 60).then_some(())
    })
    .expect("it stands still");
    last
}

/// A server that sends a large body as fast as it is let, and the count of bytes that it has sent.
fn generous(speaks: Speaks) -> (SocketAddr, Arc<AtomicUsize>, Option<Server>) {
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    match speaks {
        Http1 => {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            // Ends with the process.
            thread::spawn(move || {
                while let Ok((mut stream, _)) = listener.accept() {
                    let count = Arc::clone(&count);
                    thread::spawn(move || {
                        use std::io::Write;
                        while let Ok(head) = read_head(&mut stream) {
                            let is_large = head.starts_with("GET /large");
                            let bytes = if is_large { LARGE_BYTES } else { 5 };
                            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n");
                            let _gone = stream.write_all(head.as_bytes());
                            for _ in 0..bytes.div_ceil(MIB / 16) {
                                let piece = vec![b'x'; bytes.min(MIB / 16)];
                                if stream.write_all(&piece).is_ok() && is_large {
                                    count.fetch_add(piece.len(), Ordering::Relaxed);
                                }
                            }
                        }
                    });
                }
            });
            (address, sent, None)
        }
        Http2 => {
            let server = Server::start(move |mut exchange: Exchange| {
                let count = Arc::clone(&count);
                async move {
                    if exchange.request.uri.path() != "/large" {
                        return exchange.answer("hello").await;
                    }
                    let mut head = Response::new(());
                    head.headers_mut().insert("content-length", LARGE_BYTES.into());
                    let mut stream = exchange.begin(head);
                    for n in 1..=LARGE_BYTES / 8192 {
                        let is_last = n == LARGE_BYTES / 8192;
                        if h2_peer::send(&mut stream, vec![b'x'; 8192], is_last).await.is_err() {
                            return;
                        }
                        count.fetch_add(8192, Ordering::Relaxed);
                    }
                }
            });
            (server.address(), sent, Some(server))
        }
    }
}

/// In memory of the gateway there are windows; where a side speaks HTTP/1.1, its sockets' buffers are on the way as
/// well, which the kernel may let grow to the maxima of `tcp_rmem` and `tcp_wmem`: often 32 MiB and 4 MiB.
fn in_flight_bytes_max(client: Speaks, server: Speaks) -> usize {
    if (client, server) == (Http2, Http2) { 2 * MIB } else { 48 * MIB }
}

#[test]
fn a_server_is_stopped_by_a_client_that_takes_nothing() {
    for (client, server) in TRANSLATIONS {
        let (upstream, sent, _server) = generous(server);
        let edge = edge_to(server, upstream, "", "", "");
        let bytes_max = in_flight_bytes_max(client, server);
        match client {
            Http1 => {
                let mut client = edge.connect();
                client.send(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
                let bytes = standing(&sent);
                assert!(bytes < bytes_max, "to {server:?}: {bytes} bytes were sent to nobody");
                assert_eq!(client.receive("GET").unwrap().body.len(), LARGE_BYTES);
            }
            Http2 => run(async {
                let mut client = Client::open(edge.address).await;
                let (response, _stream) = client.begin(get("/large"), true).await.unwrap();
                let (response, _) = h2_peer::head(response).await.unwrap();
                let watched = tokio::task::spawn_blocking({
                    let sent = Arc::clone(&sent);
                    move || standing(&sent)
                });
                for _ in 0..20 {
                    assert_eq!(client.get("/small").await.unwrap().body.len(), 5, "another stream goes on");
                }
                let bytes = watched.await.unwrap();
                assert!(bytes < bytes_max, "to {server:?}: {bytes} bytes were sent to nobody");
                let (body, _) = h2_peer::whole(&mut response.into_body()).await.unwrap();
                assert_eq!(body.len(), LARGE_BYTES, "to {server:?}");
            }),
        }
    }
}

/// A server that takes nothing of a body before it is told to.
fn reluctant(speaks: Speaks) -> (SocketAddr, Arc<Notify>, Option<Server>) {
    let told = Arc::new(Notify::new());
    let waits = Arc::clone(&told);
    match speaks {
        Http1 => {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            // Ends with the process.
            thread::spawn(move || {
                while let Ok((mut stream, _)) = listener.accept() {
                    let waits = Arc::clone(&waits);
                    thread::spawn(move || {
                        use std::io::{Read, Write};
                        while let Ok(head) = read_head(&mut stream) {
                            if head.starts_with("POST") {
                                run(waits.notified());
                                let taken = std::io::copy(
                                    &mut (&mut stream).take(LARGE_BYTES as u64),
                                    &mut std::io::sink(),
                                );
                                assert_eq!(taken.unwrap(), LARGE_BYTES as u64);
                            }
                            stream.write_all(HELLO.as_bytes()).unwrap();
                        }
                    });
                }
            });
            (address, told, None)
        }
        Http2 => {
            let server = Server::start(move |mut exchange: Exchange| {
                let waits = Arc::clone(&waits);
                async move {
                    if exchange.request.method == "POST" {
                        waits.notified().await;
                        let (body, _) = h2_peer::whole(&mut exchange.body).await.unwrap();
                        assert_eq!(body.len(), LARGE_BYTES);
                    }
                    exchange.answer("hello").await;
                }
            });
            (server.address(), told, Some(server))
        }
    }
}

#[test]
fn a_client_is_stopped_by_a_server_that_takes_nothing() {
    for server in [Http1, Http2] {
        let (upstream, told, _server) = reluctant(server);
        let edge = edge_to(server, upstream, "limits = { body_size = \"1GiB\" }", "", "");
        let sent = Arc::new(AtomicUsize::new(0));
        run(async {
            let mut client = Client::open(edge.address).await;
            let mut request = post("/");
            request.headers_mut().insert("content-length", LARGE_BYTES.into());
            let (response, mut stream) = client.begin(request, false).await.unwrap();
            let count = Arc::clone(&sent);
            let sending = tokio::spawn(async move {
                for n in 1..=LARGE_BYTES / 8192 {
                    let is_last = n == LARGE_BYTES / 8192;
                    h2_peer::send(&mut stream, vec![b'x'; 8192], is_last).await.unwrap();
                    count.fetch_add(8192, Ordering::Relaxed);
                }
            });
            let watched = tokio::task::spawn_blocking({
                let sent = Arc::clone(&sent);
                move || standing(&sent)
            });
            for _ in 0..20 {
                assert_eq!(client.get("/").await.unwrap().text(), "hello", "another stream goes on");
            }
            let bytes = watched.await.unwrap();
            let bytes_max = in_flight_bytes_max(Http2, server);
            assert!(bytes < bytes_max, "to {server:?}: {bytes} bytes were sent to nobody");
            told.notify_one();
            assert_eq!(h2_peer::receive(response).await.unwrap().text(), "hello", "{server:?}");
            sending.await.unwrap();
        });
    }
}

#[test]
fn streams_that_are_not_taken_do_not_stop_others_on_a_shared_connection() {
    const STALLED: usize = 40;
    let (upstream, sent, server) = generous(Http2);
    // Those that take nothing are not cut in the time of this test.
    let edge = edge_to(Http2, upstream, "timeouts = { body_idle = \"10m\", request = \"10m\" }", "", "");
    run(async {
        let mut client = Client::open(edge.address).await;
        let mut stalled = Vec::new();
        for _ in 0..STALLED {
            stalled.push(client.begin(get("/large"), true).await.unwrap());
        }
        tokio::task::spawn_blocking(move || standing(&sent)).await.unwrap();
        let mut other = Client::open(edge.address).await;
        assert_eq!(other.get("/large").await.unwrap().body.len(), LARGE_BYTES);
        drop(stalled);
    });
    assert_eq!(server.unwrap().accepted(), 1, "they share it");
}

#[test]
fn many_streams_are_served_at_once() {
    for server in [Http1, Http2] {
        let upstream = Upstream::start(server, |request| {
            Message::reply(200).with("x-target", &request.target).exactly(vec![b'x'; 20_000])
        });
        let edge = edge_to(server, upstream.address, "", "", "");
        run(async {
            let mut client = Client::open(edge.address).await;
            // Until the gateway's settings have come, a client does not know how many it takes.
            assert_eq!(client.get("/first").await.unwrap().status, 200);
            let asked = (0..300).map(|n| {
                let mut send = client.send.clone();
                tokio::spawn(async move {
                    std::future::poll_fn(|context| send.poll_ready(context)).await.unwrap();
                    let (response, _) = send.send_request(get(&format!("/{n}")), true).unwrap();
                    let answer = h2_peer::receive(response).await.expect("served, not refused");
                    assert_eq!(answer.fields["x-target"], format!("/{n}"));
                    assert_eq!((answer.status, answer.body.len()), (200, 20_000));
                })
            });
            for asked in asked.collect::<Vec<_>>() {
                asked.await.unwrap();
            }
        });
    }
}

#[test]
fn no_more_streams_are_open_at_once_than_the_listener_allows() {
    let open = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let (counts, seen) = (Arc::clone(&open), Arc::clone(&most));
    let server = Server::start_with(&server::Builder::new(), None, move |mut exchange| {
        let (open, most) = (Arc::clone(&counts), Arc::clone(&seen));
        async move {
            most.fetch_max(open.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            for _ in 0..50 {
                tokio::task::yield_now().await;
            }
            open.fetch_sub(1, Ordering::Relaxed);
            exchange.answer("hello").await;
        }
    });
    let edge = edge_to(Http2, server.address(), "limits = { streams = 4 }", "", "");
    run(async {
        let mut client = Client::open(edge.address).await;
        assert_eq!(client.get("/").await.unwrap().status, 200);
        assert_eq!(client.send.current_max_send_streams(), 4);
        let asked: Vec<_> = (0..40)
            .map(|_| {
                let mut send = client.send.clone();
                tokio::spawn(async move {
                    let (response, _) = send.send_request(get("/"), true).unwrap();
                    h2_peer::receive(response).await.unwrap().status
                })
            })
            .collect();
        for asked in asked {
            assert_eq!(asked.await.unwrap(), 200);
        }
    });
    assert!(most.load(Ordering::Relaxed) <= 4);
}

#[test]
fn an_answer_that_was_told_whole_stays_whole_when_the_body_behind_it_is_too_large() {
    for server in [Http1, Http2] {
        let (upstream, _server) = hasty(server);
        let edge = edge_to(server, upstream, "limits = { body_size = \"100B\" }", "", "");
        run(async {
            let mut client = Client::open(edge.address).await;
            let (response, mut stream) = client.begin(post("/"), false).await.unwrap();
            let (response, _) = h2_peer::head(response).await.unwrap();
            // Behind the answer, which was not about this.
            let _taken = h2_peer::send(&mut stream, vec![b'x'; 5000], false).await;
            let (body, _) = h2_peer::whole(&mut response.into_body()).await.unwrap();
            assert_eq!(body, b"hello", "to {server:?}");
        });
    }
}

#[test]
fn what_a_client_sends_behind_an_answer_is_taken_from_the_connections_window() {
    // A client that goes on sending for a while must not use up the window of its other streams.
    let (upstream, _server) = hasty(Http2);
    let edge = edge_to(Http2, upstream, "", "", "");
    run(async {
        let mut client = Client::open(edge.address).await;
        for _ in 0..64 {
            let answer = client.post(post("/"), vec![b'x'; 60_000], HeaderMap::new()).await.unwrap();
            assert_eq!(answer.text(), "hello");
        }
    });
}
