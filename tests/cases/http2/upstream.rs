//! Servers that speak HTTP/2: connections that many requests share, and what becomes of them.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use h2::{Reason, server};
use http::{HeaderMap, Response};
use rustls::ServerConfig;
use tokio::sync::{Barrier, Notify};
use tokio_rustls::TlsAcceptor;
use xtask::lab::{
    client::Request,
    dns::{Dns, Says},
    scratch::Scratch,
    wait,
};

use super::either::{
    Message,
    Speaks::{Http1, Http2},
    ask, edge_to, sections,
};
use crate::{
    h2_peer::{self, Client, Exchange, Server, get, post, run},
    pki::Authority,
    support::{Edge, TIME_MAX, free_address},
};

async fn hello(mut exchange: Exchange) {
    exchange.answer("hello").await;
}

/// The number of the connection is the answer.
async fn number(mut exchange: Exchange) {
    let number = exchange.connection.to_string();
    exchange.answer(&number).await;
}

#[track_caller]
fn connection_of(edge: &Edge) -> String {
    let answer = ask(Http2, edge.address, &Message::ask("GET", "/")).unwrap();
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    String::from_utf8(answer.body).unwrap()
}

/// Opens so many exchanges at once, each of which ends only when all have begun: the connections that they came on.
async fn at_once(edge: &Edge, exchanges: usize) -> Vec<String> {
    let mut asked = Vec::new();
    for _ in 0..exchanges {
        let mut client = Client::open(edge.address).await;
        asked.push(tokio::spawn(async move { client.get("/").await.unwrap() }));
    }
    let mut connections = Vec::new();
    for asked in asked {
        let answer = asked.await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        connections.push(answer.text());
    }
    connections.sort();
    connections
}

/// Answers when so many have come.
fn gathering(builder: &server::Builder, exchanges: usize) -> Server {
    let all = Arc::new(Barrier::new(exchanges));
    Server::start_with(builder, None, move |exchange| {
        let all = Arc::clone(&all);
        async move {
            all.wait().await;
            number(exchange).await;
        }
    })
}

#[test]
fn many_requests_share_a_connection() {
    let server = gathering(&server::Builder::new(), 50);
    let edge = edge_to(Http2, server.address(), "", "", "");
    assert_eq!(run(at_once(&edge, 50)), vec!["1"; 50]);
    let metrics = edge.gateway.metrics().unwrap();
    let label = [("event", "connected")];
    assert_eq!(metrics.sum("portcullis_upstream_events_total", &label).to_string(), "1");
}

#[test]
fn another_connection_is_opened_when_the_server_takes_no_more_streams() {
    let mut builder = server::Builder::new();
    builder.max_concurrent_streams(4);
    let server = gathering(&builder, 10);
    let edge = edge_to(Http2, server.address(), "", "", "");
    let connections = run(at_once(&edge, 10));
    assert_eq!(server.accepted(), 3, "{connections:?}");
    for number in ["1", "2", "3"] {
        assert!(connections.iter().filter(|each| *each == number).count() <= 4, "{connections:?}");
    }
}

#[test]
fn requests_wait_for_a_stream_where_no_more_connections_are_allowed() {
    let mut builder = server::Builder::new();
    builder.max_concurrent_streams(1);
    let server = Server::start_with(&builder, None, number);
    let keys = "connections = { per_worker = 1 }\ntimeouts = { connect = \"15s\" }";
    let edge = edge_to(Http2, server.address(), "", keys, "");
    assert_eq!(run(at_once(&edge, 30)), vec!["1"; 30]);
}

/// Keeps its first exchange until it is told to go on.
fn gated(builder: &server::Builder, name: &'static str) -> (Server, Arc<Notify>) {
    let go_on = Arc::new(Notify::new());
    let (waits, exchanges) = (Arc::clone(&go_on), Arc::new(AtomicUsize::new(0)));
    let server = Server::start_with(builder, None, move |mut exchange| {
        let waits = Arc::clone(&waits);
        let is_first = exchanges.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            exchange.say("begun");
            if is_first {
                waits.notified().await;
            }
            exchange.answer(name).await;
        }
    });
    (server, go_on)
}

#[test]
fn who_waits_takes_the_stream_that_becomes_free_whichever_servers_it_is() {
    let mut builder = server::Builder::new();
    builder.max_concurrent_streams(1);
    let ((slow, slow_goes_on), (quick, quick_goes_on)) = (gated(&builder, "slow"), gated(&builder, "quick"));
    let more = format!("\"{{upstream}}\", \"{}\"", quick.address());
    let keys =
        "connections = { per_worker = 2 }\ntimeouts = { connect = \"15s\" }\nbalance = \"round_robin\"";
    let own = "[routes.own]\npath = \"/own\"\npublic = true\nrespond = { status = 204 }\n";
    let sections = sections(Http2, keys, own).replace("\"{upstream}\"", &more);
    let edge = Edge::start(slow.address(), &sections);
    run(async {
        let mut client = Client::open(edge.address).await;
        let mut asked = Vec::new();
        for _ in 0..6 {
            asked.push(tokio::spawn(h2_peer::receive(client.begin(get("/"), true).await.unwrap().0)));
        }
        assert_eq!((slow.next().await.as_str(), quick.next().await.as_str()), ("begun", "begun"));
        // Streams are taken in order: all six are there, and four of them wait.
        assert_eq!(client.get("/own").await.unwrap().status, 204);
        quick_goes_on.notify_one();
        for _ in 0..4 {
            assert_eq!(quick.next().await, "begun", "the slow one is still busy");
        }
        slow_goes_on.notify_one();
        let mut names = Vec::new();
        for asked in asked {
            names.push(asked.await.unwrap().unwrap().text());
        }
        names.sort();
        assert_eq!(names, ["quick", "quick", "quick", "quick", "quick", "slow"]);
    });
}

#[test]
fn a_refused_stream_is_sent_again() {
    let asked = Arc::new(AtomicUsize::new(0));
    let server = Server::start(move |mut exchange| {
        let asked = Arc::clone(&asked);
        async move {
            if asked.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
                return exchange.respond.send_reset(Reason::REFUSED_STREAM);
            }
            hello(exchange).await;
        }
    });
    let edge = edge_to(Http2, server.address(), "", "", "");
    for method in ["GET", "POST"] {
        for client in [Http1, Http2] {
            let answer = ask(client, edge.address, &Message::ask(method, "/")).unwrap();
            assert_eq!((answer.status, answer.body), (200, b"hello".to_vec()), "{method} of {client:?}");
        }
    }
}

#[test]
fn what_was_not_refused_is_not_sent_again() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counts = Arc::clone(&asked);
    let server = Server::start(move |mut exchange| {
        counts.fetch_add(1, Ordering::Relaxed);
        async move { exchange.respond.send_reset(Reason::INTERNAL_ERROR) }
    });
    let edge = edge_to(Http2, server.address(), "", "", "");
    assert_eq!(ask(Http2, edge.address, &Message::ask("POST", "/")).unwrap().status, 502);
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[test]
fn a_connection_that_its_server_ends_is_not_used_again_and_its_exchanges_finish() {
    let go_on = Arc::new(Notify::new());
    let waits = Arc::clone(&go_on);
    let server = Server::start(move |exchange| {
        let waits = Arc::clone(&waits);
        async move {
            if exchange.request.uri.path() == "/slow" {
                exchange.say("begun");
                waits.notified().await;
            }
            number(exchange).await;
        }
    });
    let edge = edge_to(Http2, server.address(), "", "retry = { attempts = 0 }", "");
    run(async {
        let mut client = Client::open(edge.address).await;
        let (slow, _) = client.begin(get("/slow"), true).await.unwrap();
        let slow = tokio::spawn(h2_peer::receive(slow));
        assert_eq!(server.next().await, "begun");
        server.go_away();
        // Until the gateway has heard of it, the old connection is as good as any.
        let mut number = client.post(post("/"), b"x".to_vec(), HeaderMap::new()).await.unwrap().text();
        while number == "1" {
            number = client.post(post("/"), b"x".to_vec(), HeaderMap::new()).await.unwrap().text();
        }
        for _ in 0..20 {
            let answer = client.post(post("/"), b"x".to_vec(), HeaderMap::new()).await.unwrap();
            assert_eq!((answer.status, answer.text().as_str()), (200, "2"));
        }
        go_on.notify_one();
        assert_eq!(slow.await.unwrap().unwrap().text(), "1");
    });
}

#[test]
fn a_head_that_has_no_form_in_http1_is_502_and_others_go_on() {
    let server = Server::start(|mut exchange| async move {
        let path = exchange.request.uri.path().to_owned();
        let bad = "ends with a space ".parse::<http::HeaderValue>().unwrap();
        match path.as_str() {
            "/head" | "/hint" => {
                if path == "/hint" {
                    let hint = Response::builder().status(103).header("link", "</a>").body(()).unwrap();
                    exchange.respond.send_informational(hint).unwrap();
                }
                let mut stream = exchange.begin(Response::builder().header("x-bad", bad).body(()).unwrap());
                let _reset = h2_peer::send(&mut stream, b"hello".to_vec(), true).await;
            }
            "/trailer" => {
                let mut stream = exchange.begin(Response::new(()));
                h2_peer::send(&mut stream, b"hello".to_vec(), false).await.unwrap();
                let mut trailers = HeaderMap::new();
                trailers.insert("x-good", 1.into());
                trailers.insert("x-bad", bad);
                stream.send_trailers(trailers).unwrap();
            }
            _ => exchange.answer("hello").await,
        }
    });
    let edge = edge_to(Http2, server.address(), "", "retry = { attempts = 0 }", "");
    for client in [Http1, Http2] {
        for path in ["/head", "/hint", "/trailer"] {
            let answer = ask(client, edge.address, &Message::ask("GET", path));
            assert!(!answer.is_ok_and(|answer| answer.status == 200), "{path} looks whole to {client:?}");
            assert_eq!(
                ask(client, edge.address, &Message::ask("GET", "/")).unwrap().body,
                b"hello",
                "{path}"
            );
        }
    }
    assert_eq!(server.accepted(), 1);
    let panics = [("bound", "panics")];
    assert!(edge.gateway.metrics().unwrap().sum("portcullis_bounds_hit_total", &panics) < 1.0);
}

#[test]
fn servers_may_reset_as_many_streams_as_they_like() {
    let go_on = Arc::new(Notify::new());
    let waits = Arc::clone(&go_on);
    let server = Server::start(move |mut exchange| {
        let waits = Arc::clone(&waits);
        async move {
            if exchange.request.uri.path() == "/reset" {
                return exchange.respond.send_reset(Reason::INTERNAL_ERROR);
            }
            exchange.say("begun");
            waits.notified().await;
            hello(exchange).await;
        }
    });
    let edge = edge_to(Http2, server.address(), "", "", "");
    run(async {
        let mut client = Client::open(edge.address).await;
        let (slow, _) = client.begin(get("/slow"), true).await.unwrap();
        let slow = tokio::spawn(h2_peer::receive(slow));
        assert_eq!(server.next().await, "begun");
        for _ in 0..300 {
            let answer = client.ask(post("/reset")).await.unwrap();
            assert_eq!(answer.status, 502, "{}", answer.text());
        }
        go_on.notify_one();
        assert_eq!(slow.await.unwrap().unwrap().text(), "hello", "the others of its connection go on");
    });
    assert_eq!(server.accepted(), 1);
}

#[test]
fn a_connection_is_not_used_for_ever() {
    let server = Server::start(number);
    let edge = edge_to(Http2, server.address(), "", "connections = { max_age = \"300ms\" }", "");
    assert_eq!(connection_of(&edge), "1");
    assert!(wait::until(TIME_MAX, || (connection_of(&edge) == "2").then_some(())).is_some());
}

#[test]
fn an_idle_connection_is_closed() {
    let server = Server::start(number);
    let edge = edge_to(Http2, server.address(), "", "timeouts = { idle = \"300ms\" }", "");
    assert_eq!(connection_of(&edge), "1");
    // Each question keeps it from being idle, so it is asked less and less often.
    let mut pause = std::time::Duration::from_millis(100);
    let closed = wait::until(TIME_MAX, || {
        #[expect(clippy::disallowed_methods, reason = "silence is what the test is about")]
        std::thread::sleep(pause);
        pause *= 2;
        (connection_of(&edge) == "2").then_some(())
    });
    assert!(closed.is_some());
}

#[test]
fn a_reload_keeps_the_connection_of_what_has_not_changed() {
    let server = Server::start(number);
    let edge = edge_to(Http2, server.address(), "", "", "");
    let mut generation = 1.0;
    let mut reload = |from: &str, to: &str| {
        let config = std::fs::read_to_string(edge.gateway.config_file()).unwrap().replace(from, to);
        edge.gateway.write_config(&config).unwrap();
        // SAFETY: kill takes no pointer; the process is ours.
        unsafe { libc::kill(i32::try_from(edge.gateway.pid()).unwrap(), libc::SIGHUP) };
        generation += 1.0;
        let taken = wait::until(TIME_MAX, || {
            let metrics = edge.gateway.metrics().unwrap();
            (metrics.sum("portcullis_config_generation", &[]) >= generation).then_some(())
        });
        assert!(taken.is_some(), "{}", edge.gateway.output());
    };
    assert_eq!(connection_of(&edge), "1");
    reload("path = \"/{*rest}\"", "methods = [\"GET\"]\npath = \"/{*rest}\"");
    assert_eq!(connection_of(&edge), "1", "its upstream is the same");
    reload("health = \"off\"", "health = \"off\"\ntimeouts = { head = \"29s\" }");
    assert_eq!(connection_of(&edge), "2", "its upstream has changed");
}

#[test]
fn when_a_connection_breaks_its_exchanges_end_and_the_next_goes_elsewhere() {
    let server = Server::start(|mut exchange| async move {
        if exchange.request.uri.path() == "/hang" {
            exchange.say("begun");
            let _stream = exchange.begin(Response::new(()));
            std::future::pending::<()>().await;
        }
        number(exchange).await;
    });
    let edge = edge_to(Http2, server.address(), "", "", "");
    run(async {
        let mut client = Client::open(edge.address).await;
        let mut hanging = Vec::new();
        for _ in 0..10 {
            let (hang, _) = client.begin(get("/hang"), true).await.unwrap();
            hanging.push(tokio::spawn(h2_peer::receive(hang)));
        }
        for _ in 0..10 {
            assert_eq!(server.next().await, "begun");
        }
        server.drop_connections();
        for hang in hanging {
            let error = hang.await.unwrap().expect_err("a short body looks whole");
            assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
        }
        let answer = client.get("/").await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "2"));
    });
}

#[test]
fn a_server_is_followed_when_its_name_moves_and_its_exchanges_finish() {
    let says = |ip: &str| Says::Addresses(vec![ip.parse().unwrap()], 1);
    let port = free_address().port();
    let go_on = Arc::new(Notify::new());
    let waits = Arc::clone(&go_on);
    let old = Server::start_at(SocketAddr::new("127.0.0.2".parse().unwrap(), port), move |mut exchange| {
        let waits = Arc::clone(&waits);
        async move {
            if exchange.request.uri.path() == "/slow" {
                exchange.say("begun");
                waits.notified().await;
            }
            exchange.answer("old").await;
        }
    });
    let new =
        Server::start_at(SocketAddr::new("127.0.0.3".parse().unwrap(), port), |mut exchange| async move {
            exchange.answer("new").await;
        });
    let dns = Dns::start(says("127.0.0.2")).unwrap();
    let sections = sections(Http2, "", "")
        .replace("{upstream}", &format!("app.test:{port}"))
        .replace("workers = 1", &format!("workers = 1\nresolvers = [\"{}\"]", dns.address()));
    let edge = Edge::start(dns.address(), &sections);
    run(async {
        let mut client = Client::open(edge.address).await;
        let (slow, _) = client.begin(get("/slow"), true).await.unwrap();
        let slow = tokio::spawn(h2_peer::receive(slow));
        assert_eq!(old.next().await, "begun");
        dns.say(says("127.0.0.3"));
        while client.get("/").await.unwrap().text() != "new" {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        for _ in 0..10 {
            assert_eq!(client.get("/").await.unwrap().text(), "new");
        }
        assert_eq!((old.accepted(), old.open(), new.accepted()), (1, 1, 1), "the old one has an exchange");
        go_on.notify_one();
        assert_eq!(slow.await.unwrap().unwrap().text(), "old", "an exchange under way is not touched");
    });
    assert!(wait::until(TIME_MAX, || (old.open() == 0).then_some(())).is_some(), "nobody uses it any more");
}

fn tls(authority: &Authority, protocols: &[&[u8]]) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let (chain, key) = authority.issue(&["127.0.0.1"]).pair();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

fn secured(upstream: SocketAddr, authority: &Authority) -> Edge {
    let directory = Scratch::new().unwrap();
    directory.write("ca.pem", authority.pem()).unwrap();
    let keys = "tls = { ca_file = \"ca.pem\" }\nretry = { attempts = 0 }";
    Edge::start_with(directory, upstream, "", &sections(Http2, keys, ""))
}

#[test]
fn servers_under_tls_agree_to_http2_or_are_not_spoken_to() {
    let authority = Authority::new("authority");
    let agrees = Server::start_with(
        &server::Builder::new(),
        Some(tls(&authority, &[b"h2", b"http/1.1"])),
        |mut exchange| async move {
            let scheme = exchange.request.uri.scheme_str().unwrap_or_default().to_owned();
            exchange.answer(&scheme).await;
        },
    );
    let edge = secured(agrees.address(), &authority);
    for client in [Http1, Http2] {
        let answer = ask(client, edge.address, &Message::ask("GET", "/")).unwrap();
        assert_eq!((answer.status, answer.body), (200, b"https".to_vec()));
    }
    assert_eq!(agrees.accepted(), 1);
    for protocols in [&[&b"http/1.1"[..]][..], &[]] {
        let refuses = Server::start_with(&server::Builder::new(), Some(tls(&authority, protocols)), hello);
        let edge = secured(refuses.address(), &authority);
        let answer = edge.connect().request(&Request::get("/")).unwrap();
        assert_eq!(answer.status, 502, "{protocols:?}");
        assert!(answer.text().contains("upstream_tls"), "{}", answer.text());
    }
}

#[test]
fn a_server_is_live_while_it_answers_over_http2() {
    let server = Server::start(|mut exchange| async move {
        let status = if exchange.request.uri.path() == "/healthz" { "well" } else { "hello" };
        exchange.answer(status).await;
    });
    let health =
        "{ path = \"/healthz\", interval = \"100ms\", timeout = \"2s\", healthy = 1, unhealthy = 1 }";
    let sections = sections(Http2, "", "").replace("health = \"off\"", &format!("health = {health}"));
    let edge = Edge::start(server.address(), &sections);
    let answer = |status: u16, label: &str| {
        let reached = wait::until(TIME_MAX, || {
            let answer = edge.connect().request(&Request::get("/")).unwrap();
            (answer.status == status && answer.text().contains(label)).then_some(())
        });
        assert!(reached.is_some(), "never {status}: {}", edge.gateway.output());
    };
    answer(200, "hello");
    drop(server);
    answer(503, "no_live_server");
}

#[test]
fn what_answers_in_http1_is_no_server_of_http2() {
    let server = crate::support::answering(crate::support::HELLO);
    let edge = edge_to(Http2, server.address(), "", "retry = { attempts = 0 }", "");
    assert_eq!(edge.get("/", &[]).status, 502);
    let nobody = free_address();
    let edge = edge_to(Http2, nobody, "", "retry = { attempts = 0 }", "");
    assert_eq!(edge.get("/", &[]).status, 502);
}
