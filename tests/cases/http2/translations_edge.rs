//! A listener that speaks HTTP/2: who may, what it bounds, how it ends, what is seen of it.

use std::{fs, net::SocketAddr, sync::Arc, time::Duration};

use h2::{Reason, client};
use http::{HeaderMap, Request, Response};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::{io::AsyncWriteExt, net::TcpStream, sync::Notify};
use tokio_rustls::TlsConnector;
use xtask::lab::{
    client::{Connection, Request as Http1Request},
    scratch::Scratch,
    scripted::Step,
    wait,
};

use super::either::{
    Message,
    Speaks::{Http1, Http2},
    Upstream, all, ask, edge_to, read_head, sections,
};
use crate::{
    h2_peer::{self, Client, Exchange, Server, get, post, run},
    pki::Authority,
    support::{Edge, HELLO, TIME_MAX, answering, scripted},
};

/// A gateway under TLS whose certificates are for `names`, each with a file of its own.
fn secured(listener: &str, names: &[&[&str]]) -> (Edge, Authority, Upstream) {
    let authority = Authority::new("authority");
    let directory = Scratch::new().unwrap();
    let mut certificates = Vec::new();
    for (n, names) in names.iter().enumerate() {
        let issued = authority.issue(names);
        issued.write(&directory, &format!("edge{n}"));
        let key = directory.path().join(format!("edge{n}.key"));
        fs::set_permissions(key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        certificates.push(format!("{{ chain_file = \"edge{n}.crt\", key_file = \"edge{n}.key\" }}"));
    }
    let upstream = Upstream::start(Http1, |_| Message::reply(200).exactly("hello"));
    let listener = format!("{listener}\ntls = {{ certificates = [{}] }}", certificates.join(", "));
    let edge = Edge::start_with(directory, upstream.address, &listener, &sections(Http1, "", ""));
    (edge, authority, upstream)
}

/// A handshake that offers `protocols`; which one was agreed on.
async fn handshake(
    edge: &Edge,
    authority: &Authority,
    name: &str,
    protocols: &[&[u8]],
) -> std::io::Result<(tokio_rustls::client::TlsStream<TcpStream>, Option<Vec<u8>>)> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    let tcp = TcpStream::connect(edge.address).await.unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
    let agreed = tls.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
    Ok((tls, agreed))
}

#[test]
fn a_client_under_tls_gets_the_best_protocol_of_those_that_both_speak() {
    const H2: &[u8] = b"h2";
    const HTTP1: &[u8] = b"http/1.1";
    for (listener, offered, expected) in [
        ("", &[H2, HTTP1][..], Some(Some(H2))),
        ("", &[HTTP1, H2], Some(Some(H2))),
        ("", &[HTTP1], Some(Some(HTTP1))),
        ("", &[], Some(None)),
        ("protocols = [\"http/1.1\"]", &[H2, HTTP1], Some(Some(HTTP1))),
        ("protocols = [\"http/1.1\"]", &[], Some(None)),
        ("protocols = [\"h2\"]", &[H2, HTTP1], Some(Some(H2))),
        ("protocols = [\"h2\"]", &[HTTP1], None),
        ("protocols = [\"http/1.1\"]", &[H2], None),
    ] {
        let (edge, authority, _upstream) = secured(listener, &[&["edge.example"]]);
        run(async {
            let shaken = handshake(&edge, &authority, "edge.example", offered).await;
            let Some(expected) = expected else {
                return assert!(shaken.is_err(), "{listener} {offered:?}: nothing in common");
            };
            let (tls, agreed) = shaken.unwrap();
            assert_eq!(agreed.as_deref(), expected, "{listener} {offered:?}");
            if expected == Some(H2) {
                let mut client = Client::open_over(tls, &client::Builder::new()).await;
                let request = Request::get("https://edge.example/").body(()).unwrap();
                assert_eq!(client.ask(request).await.unwrap().text(), "hello");
            }
        });
    }
}

#[test]
fn in_clear_the_first_bytes_tell() {
    let upstream = answering(HELLO);
    for (protocols, http1, http2) in
        [("[\"h2\", \"http/1.1\"]", true, true), ("[\"http/1.1\"]", true, false), ("[\"h2\"]", false, true)]
    {
        let edge = edge_to(Http1, upstream.address(), &format!("protocols = {protocols}"), "", "");
        let answer = ask(Http2, edge.address, &Message::ask("GET", "/"));
        assert_eq!(answer.is_ok_and(|answer| answer.status == 200), http2, "{protocols}");
        let mut client = edge.connect();
        let answer = client.request(&Http1Request::get("/"));
        assert_eq!(answer.is_ok_and(|answer| answer.status == 200), http1, "{protocols}");
    }
}

#[test]
fn a_host_of_another_certificate_is_421_on_a_connection_that_was_made_for_one() {
    let (edge, authority, _upstream) = secured("", &[&["a.example", "b.example"], &["c.example"]]);
    run(async {
        let (tls, _) = handshake(&edge, &authority, "a.example", &[b"h2"]).await.unwrap();
        let mut client = Client::open_over(tls, &client::Builder::new()).await;
        for (host, status) in [("a.example", 200), ("b.example", 200), ("c.example", 421), ("a.example", 200)]
        {
            let request = Request::get(format!("https://{host}/")).body(()).unwrap();
            assert_eq!(client.ask(request).await.unwrap().status, status, "{host}");
        }
    });
}

#[test]
fn heads_bodies_and_targets_that_are_too_large_are_refused_and_others_go_on() {
    let upstream = Upstream::start(Http1, |_| Message::reply(200).exactly("hello"));
    let listener =
        "limits = { head_size = \"4KiB\", target_size = \"1KiB\", body_size = \"100B\", headers = 20 }";
    let edge = edge_to(Http1, upstream.address, listener, "", "");
    run(async {
        let mut client = Client::open(edge.address).await;
        let with = |value: String| {
            let mut request = get("/");
            request.headers_mut().insert("x-large", value.parse().unwrap());
            request
        };
        assert_eq!(client.ask(with("x".repeat(3000))).await.unwrap().status, 200);
        assert_eq!(client.ask(with("x".repeat(5000))).await.unwrap().status, 431);
        assert_eq!(client.get(&format!("/{}", "x".repeat(2000))).await.unwrap().status, 414);
        let mut many = get("/");
        for n in 0..30 {
            many.headers_mut().insert(http::HeaderName::try_from(format!("x-{n}")).unwrap(), 1.into());
        }
        assert_eq!(client.ask(many).await.unwrap().status, 431);
        let mut announced = post("/");
        announced.headers_mut().insert("content-length", 101.into());
        let answer = client.post(announced, vec![b'x'; 101], HeaderMap::new()).await.unwrap();
        assert_eq!(answer.status, 413);
        let answer = client.post(post("/"), vec![b'x'; 5000], HeaderMap::new()).await.unwrap();
        assert_eq!(answer.status, 413, "of a length that was not said");
        assert_eq!(client.get("/").await.unwrap().text(), "hello");
    });
}

#[test]
fn sigterm_is_a_goaway_and_what_is_under_way_finishes() {
    let go_on = Arc::new(Notify::new());
    let waits = Arc::clone(&go_on);
    let server = Server::start(move |mut exchange: Exchange| {
        let waits = Arc::clone(&waits);
        async move {
            exchange.say("begun");
            waits.notified().await;
            exchange.answer("hello").await;
        }
    });
    let mut edge = edge_to(Http2, server.address(), "", "", "");
    run(async {
        let idle = Client::open(edge.address).await;
        let mut busy = Client::open(edge.address).await;
        let (response, _) = busy.begin(get("/"), true).await.unwrap();
        let response = tokio::spawn(h2_peer::receive(response));
        assert_eq!(server.next().await, "begun");
        edge.gateway.process().signal(libc::SIGTERM).unwrap();
        assert!(idle.connection.await.unwrap().is_ok(), "an idle connection ends in order");
        // It is told before the exchange is over: no new ones are taken.
        while std::future::poll_fn(|context| busy.send.poll_ready(context)).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        go_on.notify_one();
        assert_eq!(response.await.unwrap().unwrap().text(), "hello");
        drop(busy.send);
        assert!(busy.connection.await.unwrap().is_ok(), "in order");
    });
    let status = edge.gateway.process().wait(TIME_MAX).unwrap().expect("it ends by itself");
    assert!(status.success(), "{status}");
}

#[test]
fn an_idle_connection_is_ended_in_order() {
    let upstream = answering(HELLO);
    let listener = "timeouts = { keep_alive = \"300ms\", head = \"300ms\" }";
    let edge = edge_to(Http1, upstream.address(), listener, "", "");
    run(async {
        let silent = Client::open(edge.address).await;
        assert!(silent.connection.await.unwrap().is_ok());
        let mut client = Client::open(edge.address).await;
        assert_eq!(client.get("/").await.unwrap().status, 200);
        // The handle is kept: it is the gateway that ends it.
        assert!(client.connection.await.unwrap().is_ok());
    });
}

#[test]
fn an_upload_that_stalls_or_drips_is_408_and_its_connection_goes_on() {
    for (rate, label) in [("1KiB/s", "body_too_slow"), ("off", "body_timeout")] {
        let upstream = scripted(&[Step::ReadHead, Step::Stall]);
        let listener =
            format!("timeouts = {{ body_idle = \"600ms\" }}\nlimits = {{ body_rate_min = \"{rate}\" }}");
        let more = "[routes.own]\npath = \"/own\"\npublic = true\nrespond = { status = 204 }\n";
        let edge = edge_to(Http1, upstream.address(), &listener, "", more);
        run(async {
            let mut client = Client::open(edge.address).await;
            let (response, mut stream) = client.begin(post("/"), false).await.unwrap();
            let drip = rate != "off";
            let sending = tokio::spawn(async move {
                stream.send_data("x".into(), false).unwrap();
                while drip && h2_peer::send(&mut stream, b"x".to_vec(), false).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                stream
            });
            let answer = h2_peer::receive(response).await.unwrap();
            assert_eq!(answer.status, 408);
            assert!(answer.text().contains(label), "{}", answer.text());
            sending.await.unwrap();
            assert_eq!(client.get("/own").await.unwrap().status, 204, "the connection goes on");
        });
    }
}

#[test]
fn a_stream_whose_client_takes_nothing_is_reset_and_its_connection_goes_on() {
    let upstream = Upstream::start(Http1, |_| Message::reply(200).exactly(vec![b'x'; 1024 * 1024]));
    let listener = "timeouts = { body_idle = \"600ms\" }";
    let more = "[routes.own]\npath = \"/own\"\npublic = true\nrespond = { status = 204 }\n";
    let edge = edge_to(Http1, upstream.address, listener, "", more);
    run(async {
        let mut client = Client::open(edge.address).await;
        let (response, mut stream) = client.begin(get("/"), true).await.unwrap();
        let (response, _) = h2_peer::head(response).await.unwrap();
        assert_eq!(h2_peer::reset(&mut stream).await, Reason::INTERNAL_ERROR);
        assert!(h2_peer::whole(&mut response.into_body()).await.is_err(), "a short body looks whole");
        assert_eq!(client.get("/own").await.unwrap().status, 204, "the connection goes on");
    });
}

#[test]
fn each_event_arrives_before_the_next_is_sent() {
    for speaks in [Http1, Http2] {
        let arrived = Arc::new(Notify::new());
        let (upstream, _server) = events(speaks, &arrived);
        let edge = edge_to(speaks, upstream, "", "", "");
        run(async {
            let mut client = Client::open(edge.address).await;
            let (response, _stream) = client.begin(get("/events"), true).await.unwrap();
            let (response, _) = h2_peer::head(response).await.unwrap();
            assert_eq!(response.headers()["content-type"], "text/event-stream");
            let mut body = response.into_body();
            for n in 0..5 {
                arrived.notify_one();
                let event = h2_peer::data(&mut body).await.expect("an event").unwrap();
                assert_eq!(event, format!("data: {n}\n\n"), "{speaks:?}");
            }
            arrived.notify_one();
            assert!(h2_peer::data(&mut body).await.is_none());
        });
    }
}

/// A server of five events, each of which waits until it is asked for.
fn events(speaks: super::either::Speaks, arrived: &Arc<Notify>) -> (SocketAddr, Option<Server>) {
    let arrived = Arc::clone(arrived);
    if speaks == Http2 {
        let server = Server::start(move |mut exchange: Exchange| {
            let arrived = Arc::clone(&arrived);
            async move {
                let head = Response::builder().header("content-type", "text/event-stream").body(()).unwrap();
                let mut stream = exchange.begin(head);
                for n in 0..5 {
                    arrived.notified().await;
                    h2_peer::send(&mut stream, format!("data: {n}\n\n").into(), false).await.unwrap();
                }
                arrived.notified().await;
                stream.send_data(bytes::Bytes::new(), true).unwrap();
            }
        });
        return (server.address(), Some(server));
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        use std::io::Write;
        let (mut stream, _) = listener.accept().unwrap();
        read_head(&mut stream).unwrap();
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        for n in 0..5 {
            run(arrived.notified());
            stream.write_all(format!("data: {n}\n\n").as_bytes()).unwrap();
        }
        run(arrived.notified());
    });
    (address, None)
}

#[test]
fn requests_over_http2_are_logged_and_counted() {
    let upstream = answering(HELLO);
    let more = "[log]\naccess = { file = \"access.jsonl\" }\n";
    let edge = edge_to(Http1, upstream.address(), "", "", more);
    let answer = ask(Http2, edge.address, &Message::ask("GET", "/a?token=secret")).unwrap();
    let file = edge.directory.path().join("access.jsonl");
    let read = || fs::read_to_string(&file).ok().filter(|text| text.ends_with('\n'));
    let line = wait::until(TIME_MAX, read).expect("a line");
    let record: serde_json::Value = serde_json::from_str(line.lines().next().unwrap()).expect("JSON");
    assert_eq!(
        (&record["status"], &record["method"], &record["path"]),
        (&200.into(), &"GET".into(), &"/a".into())
    );
    assert_eq!(record["request_id"].as_str().unwrap(), answer.all("x-request-id")[0]);
    let metrics = edge.gateway.metrics().unwrap();
    assert_eq!(metrics.sum("portcullis_responses_total", &[("status", "200")]).to_string(), "1");
    assert_eq!(metrics.sum("portcullis_requests_total", &[("route", "all")]).to_string(), "1");
}

#[test]
fn a_forwarder_may_say_who_speaks_http2() {
    let upstream = Upstream::start(Http1, |_| Message::reply(200));
    let edge = edge_to(Http1, upstream.address, "proxy_protocol_from = [\"127.0.0.1\"]", "", "");
    for pieces in [true, false] {
        run(async {
            let mut tcp = TcpStream::connect(edge.address).await.unwrap();
            let header = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n";
            if pieces {
                for octet in header {
                    tcp.write_all(&[*octet]).await.unwrap();
                }
            } else {
                tcp.write_all(header).await.unwrap();
            }
            let mut client = Client::open_over(tcp, &client::Builder::new()).await;
            assert_eq!(client.get("/").await.unwrap().status, 200);
        });
        assert_eq!(upstream.seen().all("x-forwarded-for"), ["192.0.2.7"]);
    }
}

#[test]
fn what_the_gateway_answers_by_itself_it_answers_over_http2() {
    let upstream = Upstream::start(Http1, |_| {
        Message::reply(200).with("content-type", "text/plain").exactly("All work and no play. ".repeat(1000))
    });
    let more = "[routes.page]\npath = \"/page\"\npublic = true\nupstream = \"app\"\ncompress = [\"gzip\"]\n\
        [routes.old]\npath = \"/old/{*rest}\"\npublic = true\nredirect = \"/new/{rest}\"\n\
        [routes.robots]\npath = \"/robots.txt\"\npublic = true\nrespond = { status = 200, body = \"none\" }\n\
        [routes.shared]\npath = \"/shared\"\nmethods = [\"GET\", \"PUT\"]\npublic = true\nupstream = \"app\"\n\
        [routes.shared.cors]\norigins = [\"https://shop.example\"]\n";
    let edge = edge_to(Http1, upstream.address, "", "", more);
    let ask = |request: &Message| ask(Http2, edge.address, request).unwrap();
    let page = ask(&Message::ask("GET", "/page").with("accept-encoding", "gzip"));
    assert_eq!((page.status, page.all("content-encoding")), (200, vec!["gzip"]));
    let mut text = String::new();
    let mut decoder = flate2::read::GzDecoder::new(page.body.as_slice());
    std::io::Read::read_to_string(&mut decoder, &mut text).unwrap();
    assert_eq!(text, "All work and no play. ".repeat(1000));
    let moved = ask(&Message::ask("GET", "/old/a?b"));
    assert_eq!((moved.status, moved.all("location")), (308, vec!["/new/a?b"]));
    let robots = ask(&Message::ask("GET", "/robots.txt"));
    assert_eq!((robots.status, robots.body.as_slice()), (200, &b"none"[..]));
    let head = ask(&Message::ask("HEAD", "/robots.txt"));
    assert_eq!((head.status, head.body.len(), head.all("content-length")), (200, 0, vec!["4"]));
    let preflight = Message::ask("OPTIONS", "/shared")
        .with("origin", "https://shop.example")
        .with("access-control-request-method", "PUT");
    let preflight = ask(&preflight);
    assert_eq!(preflight.status, 204);
    assert_eq!(all(&preflight.fields, "access-control-allow-origin"), ["https://shop.example"]);
    let trace = ask(&Message::ask("TRACE", "/robots.txt"));
    assert_eq!(trace.status, 405);
}

/// A connection that is told to be one of HTTP/1.1 stays one.
#[test]
fn an_upgrade_to_http2_is_not_taken() {
    let upstream = answering(HELLO);
    let edge = edge_to(Http1, upstream.address(), "", "", "");
    let mut client = Connection::open(edge.address, None, TIME_MAX).unwrap();
    let upgrade =
        [("Upgrade", "h2c"), ("Connection", "Upgrade, HTTP2-Settings"), ("HTTP2-Settings", "AAMAAABk")];
    let answer = client.request(&Http1Request::get("/").with(&upgrade)).unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    let head = String::from_utf8(upstream.next_head(TIME_MAX).unwrap()).unwrap().to_lowercase();
    assert!(!head.contains("upgrade") && !head.contains("http2-settings"), "{head}");
}
