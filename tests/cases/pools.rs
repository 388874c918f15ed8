//! Connections to servers: how many, who waits for one, how old they grow, and what a reload does to them.

use std::time::Duration;

use xtask::lab::{
    client::Request,
    place::Place,
    scripted::{Scripted, Step},
    wait,
};

use crate::support::{Edge, HELLO, answering};

const WAIT_MAX: Duration = Duration::from_secs(15);

/// One worker, `keys` of the upstream, and a route that needs none.
fn sections(keys: &str) -> String {
    format!(
        "[runtime]\nworkers = 1\n\
         [upstreams.app]\nservers = [\"{{upstream}}\"]\nhealth = \"off\"\n{keys}\n\
         [routes.all]\npath = \"/{{*rest}}\"\npublic = true\nupstream = \"app\"\n\
         [routes.own]\npath = \"/own\"\npublic = true\nrespond = {{ status = 204 }}\n"
    )
}

/// A server whose one connection carries an upload of eight octets, and answers whatever comes after.
fn one_upload_then_answers() -> Scripted {
    let answer = Step::Send(HELLO.into());
    let mut script = vec![Step::ReadHead, Step::ReadBody(8), answer.clone()];
    script.extend(std::iter::repeat_n([Step::ReadHead, answer], 64).flatten());
    Scripted::start(&Place::here(), "127.0.0.1:0".parse().unwrap(), vec![script]).unwrap()
}

const HALF_AN_UPLOAD: &[u8] = b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\nhalf";

fn bound(edge: &Edge, bound: &str) -> f64 {
    edge.gateway.metrics().unwrap().sum("portcullis_bounds_hit_total", &[("bound", bound)])
}

#[test]
fn requests_wait_in_line_for_a_connection_and_past_the_line_there_is_503() {
    let upstream = one_upload_then_answers();
    let keys = "connections = { per_worker = 1, pending = 2 }\ntimeouts = { connect = \"10s\" }";
    let edge = Edge::start(upstream.address(), &sections(keys));
    let mut clients: Vec<_> = (0..4).map(|_| edge.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.request(&Request::get("/own")).unwrap().status, 204, "accepted");
    }
    let [upload, first, second, third] = clients.as_mut_slice() else { panic!("four") };
    upload.send(HALF_AN_UPLOAD).unwrap();
    upstream.next_head(WAIT_MAX).expect("the only connection is busy");
    first.send(&Request::get("/first").bytes()).unwrap();
    second.send(&Request::get("/second").bytes()).unwrap();
    let refused = third.request(&Request::get("/third")).unwrap();
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    assert!(refused.text().contains("upstream_busy"), "{}", refused.text());
    upload.send(b"half").unwrap();
    for client in [&mut *upload, &mut *first, &mut *second] {
        assert_eq!(client.receive("GET").unwrap().text(), "hello");
    }
    for path in ["/first", "/second"] {
        let head = String::from_utf8(upstream.next_head(WAIT_MAX).unwrap()).unwrap();
        assert!(head.contains(path), "first come, first served: {head}");
    }
    assert_eq!(upstream.accepted(), 1);
    assert_eq!(third.request(&Request::get("/third")).unwrap().text(), "hello");
    assert!(bound(&edge, "upstream_pool") > 0.0);
}

#[test]
fn who_waits_for_too_long_gets_503() {
    let upstream = one_upload_then_answers();
    let keys = "connections = { per_worker = 1 }\ntimeouts = { connect = \"300ms\" }";
    let edge = Edge::start(upstream.address(), &sections(keys));
    let mut upload = edge.connect();
    upload.send(HALF_AN_UPLOAD).unwrap();
    upstream.next_head(WAIT_MAX).expect("the only connection is busy");
    let late = edge.get("/", &[]);
    assert_eq!(late.status, 503);
    assert!(late.text().contains("upstream_wait_timeout"), "{}", late.text());
    assert!(bound(&edge, "upstream_pool_wait") > 0.0);
    upload.send(b"half").unwrap();
    assert_eq!(upload.receive("POST").unwrap().status, 200, "who holds the connection is not touched");
    assert_eq!(edge.get("/", &[]).status, 200);
}

#[test]
fn a_connection_is_not_used_for_ever() {
    let upstream = answering(HELLO);
    let edge = Edge::start(upstream.address(), &sections("connections = { max_age = \"300ms\" }"));
    let mut client = edge.connect();
    let mut requests = 0;
    let replaced = wait::until(WAIT_MAX, || {
        requests += 1;
        assert_eq!(client.request(&Request::get("/")).unwrap().status, 200);
        (upstream.accepted() > 1).then_some(())
    });
    assert!(replaced.is_some() && requests > 1, "after {requests} requests");
}

#[test]
fn a_reload_keeps_the_connections_of_what_has_not_changed() {
    let upstream = answering(HELLO);
    let edge = Edge::start(upstream.address(), &sections(""));
    let mut client = edge.connect();
    let mut generation = 1.0;
    let mut edge_reloads = |from: &str, to: &str, client: &mut xtask::lab::client::Connection| {
        let mut edge_config = std::fs::read_to_string(edge.gateway.config_file()).unwrap();
        edge_config = edge_config.replace(from, to);
        edge.gateway.write_config(&edge_config).unwrap();
        // SAFETY: kill takes no pointer; the process is ours.
        unsafe { libc::kill(i32::try_from(edge.gateway.pid()).unwrap(), libc::SIGHUP) };
        generation += 1.0;
        let taken = wait::until(WAIT_MAX, || {
            let metrics = edge.gateway.metrics().unwrap();
            (metrics.sum("portcullis_config_generation", &[]) >= generation).then_some(())
        });
        assert!(taken.is_some(), "{}", edge.gateway.output());
        assert_eq!(client.request(&Request::get("/")).unwrap().status, 200);
    };
    assert_eq!(client.request(&Request::get("/")).unwrap().status, 200);
    edge_reloads("status = 204", "status = 205", &mut client);
    assert_eq!(upstream.accepted(), 1, "its upstream is the same");
    edge_reloads("health = \"off\"", "health = \"off\"\ntimeouts = { head = \"29s\" }", &mut client);
    assert_eq!(upstream.accepted(), 2, "its upstream has changed");
}
