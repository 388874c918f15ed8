//! What one source, or all of them together, may take.

use std::time::Duration;

use xtask::lab::{
    client::{ClientError, Connection, Request},
    metrics::Metrics,
    scratch::Scratch,
    scripted::Step,
    wait,
};

use crate::support::{Edge, HELLO, OPEN, TIME_MAX, answering, scripted};

fn start(upstream: std::net::SocketAddr, listener: &str, runtime: &str) -> Edge {
    let sections = format!("[runtime]\n{runtime}\n{OPEN}");
    Edge::start_with(Scratch::new().unwrap(), upstream, listener, &sections)
}

/// Waits until the metrics say so.
#[track_caller]
fn await_metrics(edge: &Edge, holds: impl Fn(&Metrics) -> bool) -> Metrics {
    wait::until(TIME_MAX, || edge.gateway.metrics().ok().filter(&holds)).expect("the metrics say so")
}

fn bound(metrics: &Metrics, name: &str) -> f64 {
    metrics.sum("portcullis_bounds_hit_total", &[("bound", name)])
}

/// Whether a connection from `source` is served. A refused one is closed before its request is read.
fn served(edge: &Edge, source: &str) -> Option<Connection> {
    let mut client = Connection::open(edge.address, Some(source.parse().unwrap()), TIME_MAX).unwrap();
    match client.request(&Request::get("/")) {
        Ok(response) => {
            assert_eq!(response.status, 200);
            Some(client)
        }
        Err(ClientError::Reset | ClientError::ClosedEarly(0)) => None,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_source_has_so_many_connections_over_all_workers() {
    let upstream = answering(HELLO);
    let edge = start(upstream.address(), "limits = { connections_per_source = 3 }", "workers = 2");
    let before = await_metrics(&edge, |metrics| metrics.sum("portcullis_connections_active", &[]) < 0.5);
    let mut held: Vec<_> = (0..3).map(|_| served(&edge, "127.0.0.7").expect("within the limit")).collect();
    assert!(served(&edge, "127.0.0.7").is_none(), "one too many");
    assert!(served(&edge, "127.0.0.8").is_some(), "another source");
    let metrics = edge.gateway.metrics().unwrap();
    // Whoever waited for the start has knocked from 127.0.0.1, maybe faster than the workers were there to answer.
    let refused = bound(&metrics, "connections_per_source") - bound(&before, "connections_per_source");
    assert_eq!(refused.to_string(), "1");
    held.pop();
    await_metrics(&edge, |metrics| metrics.sum("portcullis_connections_active", &[]) < 2.5);
    assert!(served(&edge, "127.0.0.7").is_some(), "a place is given back");
}

#[test]
fn a_trusted_proxy_stands_for_many_sources() {
    let upstream = answering(HELLO);
    let listener = "limits = { connections_per_source = 1 }\ntrusted_proxies = [\"127.0.0.7\"]";
    let edge = start(upstream.address(), listener, "workers = 1");
    await_metrics(&edge, |metrics| metrics.sum("portcullis_connections_active", &[]) < 0.5);
    let held: Vec<_> = (0..5).map(|_| served(&edge, "127.0.0.7").expect("trusted")).collect();
    let _one = served(&edge, "127.0.0.8").expect("within the limit");
    assert!(served(&edge, "127.0.0.8").is_none(), "not trusted");
    drop(held);
}

#[test]
fn past_the_memory_for_buffers_new_requests_are_503_and_old_ones_go_on() {
    let upstream = scripted(&[Step::ReadHead, Step::Pause(Duration::from_secs(3)), Step::Send(HELLO.into())]);
    let edge = start(upstream.address(), "", "workers = 1\nbuffers_max = \"1MiB\"");
    let mut waiting = Vec::new();
    let refused = loop {
        assert!(waiting.len() < 100, "nothing is refused");
        let mut client = edge.connect();
        client.send(&Request::get("/").bytes()).unwrap();
        if upstream.next_head(Duration::from_millis(500)).is_none() {
            break client.receive("GET").unwrap();
        }
        waiting.push(client);
    };
    assert!(
        waiting.len() > 10,
        "a request takes two buffers of 21 KiB, not {} requests a MiB",
        waiting.len()
    );
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    assert!(refused.text().contains("\"overloaded\""), "{}", refused.text());
    assert!(bound(&edge.gateway.metrics().unwrap(), "buffers") > 0.5);
    for mut client in waiting {
        assert_eq!(client.receive("GET").unwrap().text(), "hello");
    }
    let room = wait::until(TIME_MAX, || (edge.get("/", &[]).status == 200).then_some(()));
    assert!(room.is_some(), "and then there is room again");
}
