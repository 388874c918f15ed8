//! Which trace a request belongs to, and what it is called: on the way to the server, in the answer, in the log.

use std::fs;

use serde_json::Value;
use xtask::lab::{
    client::Response,
    scratch::Scratch,
    scripted::{Scripted, Step},
    wait,
};

use crate::support::{Edge, HELLO, OPEN, TIME_MAX, answering, scripted};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn start(upstream: &Scripted, listener: &str) -> Edge {
    let sections = format!("[log]\naccess = {{ file = \"access.jsonl\" }}\n{OPEN}");
    Edge::start_with(Scratch::new().unwrap(), upstream.address(), listener, &sections)
}

/// The values of a field of the next head that the upstream was sent.
struct Sent(String);

impl Sent {
    #[track_caller]
    fn next(upstream: &Scripted) -> Self {
        let head = upstream.next_head(TIME_MAX).expect("a request reaches the upstream");
        Self(String::from_utf8(head).unwrap())
    }

    fn all(&self, name: &str) -> Vec<&str> {
        let lines = self.0.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(each, _)| each.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
    }

    #[track_caller]
    fn one(&self, name: &str) -> &str {
        let [value] = self.all(name)[..] else { panic!("not one {name}: {}", self.0) };
        value
    }
}

/// The line of the access log about the request of this id.
#[track_caller]
fn logged(edge: &Edge, request_id: &str) -> Value {
    let file = edge.directory.path().join("access.jsonl");
    let line = wait::until(TIME_MAX, || {
        let text = fs::read_to_string(&file).ok()?;
        let records = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        records.into_iter().find(|record| record["request_id"] == request_id)
    });
    line.expect("a line in the access log")
}

/// A GET with these fields: what the upstream saw and what came back.
#[track_caller]
fn ask(edge: &Edge, upstream: &Scripted, fields: &[(&str, &str)]) -> (Sent, Response) {
    let response = edge.get("/", fields);
    assert_eq!(response.status, 200, "{fields:?}");
    (Sent::next(upstream), response)
}

#[test]
fn a_clients_trace_goes_on_as_it_came() {
    let upstream = answering(HELLO);
    let edge = start(&upstream, "");
    let later = "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-and.more";
    for parent in [PARENT, later, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"] {
        let fields = [("TraceParent", parent), ("tracestate", "a=1, b=2"), ("Tracestate", "c=t61rcWkgMzE")];
        let (sent, response) = ask(&edge, &upstream, &fields);
        assert_eq!(sent.one("traceparent"), parent);
        assert_eq!(sent.all("tracestate"), ["a=1, b=2", "c=t61rcWkgMzE"]);
        let record = logged(&edge, response.header("x-request-id").unwrap());
        assert_eq!(record["trace_id"], TRACE_ID);
    }
    let (sent, _) = ask(&edge, &upstream, &[("traceparent", PARENT)]);
    assert!(sent.all("tracestate").is_empty(), "none came");
}

#[test]
fn without_a_valid_trace_one_begins_with_the_requests_id() {
    let upstream = answering(HELLO);
    let edge = start(&upstream, "");
    let mut parents = Vec::new();
    for fields in [
        &[][..],
        &[("tracestate", "a=1")],
        &[("traceparent", ""), ("tracestate", "a=1")],
        &[("traceparent", PARENT), ("traceparent", PARENT), ("tracestate", "a=1")],
        &[("traceparent", &PARENT.to_uppercase()), ("tracestate", "a=1")],
        &[("traceparent", &format!("{PARENT}-00"))],
        &[("traceparent", &PARENT.replacen("00", "ff", 1))],
        &[("traceparent", "00-00000000000000000000000000000000-00f067aa0ba902b7-01")],
        &[("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01")],
        &[("trace_parent", PARENT), ("traceparent_", PARENT)],
    ] {
        let (sent, response) = ask(&edge, &upstream, fields);
        let id = response.header("x-request-id").unwrap();
        let parent = sent.one("traceparent");
        let parts: Vec<&str> = parent.split('-').collect();
        assert_eq!((parts.len(), parts[0], parts[1], parts[3]), (4, "00", id, "00"), "{fields:?}: {parent}");
        let digits = parts[2].bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        assert!(parts[2].len() == 16 && digits && parts[2] != "0000000000000000", "{parent}");
        assert!(sent.all("tracestate").is_empty(), "it belongs to no trace: {}", sent.0);
        assert_eq!(logged(&edge, id)["trace_id"], id);
        parents.push(parts[2].to_owned());
    }
    let count = parents.len();
    parents.sort_unstable();
    parents.dedup();
    assert_eq!(parents.len(), count, "each request is a parent of its own");
}

#[test]
fn a_refused_request_is_found_by_its_trace() {
    let upstream = answering(HELLO);
    let sections = "[log]\naccess = { file = \"access.jsonl\" }\n";
    let edge = Edge::start(upstream.address(), sections);
    let refused = edge.get("/nothing", &[("traceparent", PARENT)]);
    assert_eq!(refused.status, 404);
    assert_eq!(logged(&edge, refused.header("x-request-id").unwrap())["trace_id"], TRACE_ID);
}

#[test]
fn trailers_bring_in_no_second_trace() {
    let upstream =
        scripted(&[Step::ReadHead, Step::ReadUntil(b"0\r\n\r\n".to_vec()), Step::Send(HELLO.into())]);
    let edge = start(&upstream, "");
    let mut client = edge.connect();
    let request = format!(
        "POST / HTTP/1.1\r\nHost: a\r\ntraceparent: {PARENT}\r\nTransfer-Encoding: chunked\r\n\
         Trailer: traceparent, tracestate\r\n\r\n2\r\nok\r\n0\r\n\
         traceparent: 00-00000000000000000000000000000001-0000000000000001-01\r\ntracestate: x=1\r\n\r\n"
    );
    client.send(request.as_bytes()).unwrap();
    assert_eq!(client.receive("POST").unwrap().status, 200);
    assert_eq!(Sent::next(&upstream).one("traceparent"), PARENT);
    let body = String::from_utf8(upstream.next_head(TIME_MAX).unwrap()).unwrap();
    assert!(!body.contains("trace"), "{body}");
}

#[test]
fn a_strangers_id_is_replaced() {
    let upstream = answering(HELLO);
    let edge = start(&upstream, "");
    let (sent, response) = ask(&edge, &upstream, &[("x-request-id", "theirs")]);
    let id = response.header("x-request-id").unwrap();
    assert!(id != "theirs" && id.len() == 32, "{id}");
    assert_eq!(sent.one("x-request-id"), id);
    assert_eq!(logged(&edge, id)["trace_id"], id);
}

#[test]
fn a_trusted_proxys_id_is_kept_everywhere() {
    let upstream = answering(HELLO);
    let edge = start(&upstream, "trusted_proxies = [\"127.0.0.1\"]");
    let long = "x".repeat(128);
    for id in ["1-67891233-abcdef012345678912345678", "a", &long] {
        let (sent, response) = ask(&edge, &upstream, &[("x-request-id", id)]);
        assert_eq!((sent.one("x-request-id"), response.header("x-request-id")), (id, Some(id)));
        let trace = sent.one("traceparent").split('-').nth(1).unwrap().to_owned();
        assert!(trace.len() == 32 && trace != id, "the trace is still ours: {trace}");
        assert_eq!(logged(&edge, id)["trace_id"], trace);
    }
    for fields in [
        &[("x-request-id", "")][..],
        &[("x-request-id", "a b")],
        &[("x-request-id", "a,b")],
        &[("x-request-id", "a\"b")],
        &[("x-request-id", &format!("{long}x"))],
        &[("x-request-id", "a"), ("x-request-id", "a")],
    ] {
        let (sent, response) = ask(&edge, &upstream, fields);
        let id = response.header("x-request-id").unwrap();
        assert!(id.len() == 32 && sent.one("x-request-id") == id, "{fields:?}: {id}");
    }
}

#[test]
fn a_refusal_is_called_as_its_request() {
    let upstream = answering(HELLO);
    let trusted = "trusted_proxies = [\"127.0.0.1\"]";
    let edge = Edge::start_with(Scratch::new().unwrap(), upstream.address(), trusted, "");
    let refused = edge.get("/nothing", &[("x-request-id", "kept-1")]);
    assert_eq!((refused.status, refused.header("x-request-id")), (404, Some("kept-1")));
    assert!(refused.text().contains("\"request_id\":\"kept-1\""), "{}", refused.text());
}

#[test]
fn whom_a_trusted_proxy_names_in_forwarded_is_the_source() {
    let upstream = answering(HELLO);
    let edge = start(&upstream, "trusted_proxies = [\"127.0.0.1\", \"10.0.0.0/8\"]");
    let source = |fields: &[(&str, &str)]| {
        let (_, response) = ask(&edge, &upstream, fields);
        let record = logged(&edge, response.header("x-request-id").unwrap());
        record["source"].as_str().unwrap().to_owned()
    };
    assert_eq!(source(&[("forwarded", "for=203.0.113.9;proto=https;by=10.0.0.1")]), "203.0.113.9");
    assert_eq!(source(&[("forwarded", "for=\"[2001:db8::7]:80\", for=10.0.0.2")]), "2001:db8::7");
    assert_eq!(source(&[("forwarded", "for=1.1.1.1\""), ("forwarded", "for=203.0.113.9")]), "203.0.113.9");
    assert_eq!(source(&[("forwarded", "for=203.0.113.9, for=unknown")]), "127.0.0.1");
    assert_eq!(
        source(&[("forwarded", "for=1.1.1.1"), ("x-forwarded-for", "203.0.113.9")]),
        "203.0.113.9",
        "the older field is what most proxies write"
    );
    let stranger = start(&upstream, "");
    let (_, response) = ask(&stranger, &upstream, &[("forwarded", "for=203.0.113.9")]);
    assert_eq!(logged(&stranger, response.header("x-request-id").unwrap())["source"], "127.0.0.1");
}
