//! When a request is sent again, when not, and what a flood of failures may cost the servers that are left.

use xtask::lab::{
    client::Request,
    scripted::{Scripted, Step},
};

use crate::support::{Edge, HELLO, answering, free_address, scripted};

/// One worker in front of two servers in turn, the first of them first.
fn edge(first: std::net::SocketAddr, second: std::net::SocketAddr, retry: &str) -> Edge {
    let sections = format!(
        "[runtime]\nworkers = 1\n\
         [upstreams.app]\nservers = [\"{{upstream}}\", \"{second}\"]\nbalance = \"round_robin\"\n\
         health = \"off\"\nretry = {{ {retry} }}\n\
         [routes.all]\npath = \"/{{*rest}}\"\npublic = true\nupstream = \"app\"\n"
    );
    Edge::start(first, &sections)
}

fn status(edge: &Edge, method: &str) -> u16 {
    edge.connect().request(&Request { method, ..Request::get("/") }).unwrap().status
}

/// Resets each connection instead of an answer.
fn resetting() -> Scripted {
    scripted(&[Step::ReadHead, Step::Reset])
}

#[test]
fn a_reset_before_the_answer_is_retried_elsewhere_if_it_can_do_no_harm() {
    let (bad, good) = (resetting(), answering(HELLO));
    let two = edge(bad.address(), good.address(), "attempts = 1");
    assert_eq!(status(&two, "GET"), 200);
    assert_eq!((bad.accepted(), good.accepted()), (1, 1));

    let (bad, good) = (resetting(), answering(HELLO));
    let two = edge(bad.address(), good.address(), "attempts = 1");
    assert_eq!(status(&two, "POST"), 502, "it may have been acted upon");
    assert_eq!((bad.accepted(), good.accepted()), (1, 0));
}

#[test]
fn an_answer_that_has_begun_is_never_asked_for_again() {
    let bad = scripted(&[Step::ReadHead, Step::Send(b"HTTP/1.1 200".to_vec()), Step::Reset]);
    let good = answering(HELLO);
    let two = edge(bad.address(), good.address(), "attempts = 3");
    assert_eq!(status(&two, "GET"), 502);
    assert_eq!(good.accepted(), 0);
}

#[test]
fn only_what_is_listed_is_a_reason() {
    let good = answering(HELLO);
    let two = edge(free_address(), good.address(), "on = [\"reset_before_head\"]");
    assert_eq!(status(&two, "GET"), 502, "nobody listens, and that is no reason");

    let two = edge(free_address(), good.address(), "on = [\"connect\"]");
    assert_eq!(status(&two, "POST"), 200, "nothing was sent: also what is not idempotent");

    let (bad, good) = (resetting(), answering(HELLO));
    let two = edge(bad.address(), good.address(), "on = [\"connect\"]");
    assert_eq!(status(&two, "GET"), 502);
    assert_eq!(good.accepted(), 0);
}

/// Fault row 36.
#[test]
fn a_server_whose_queue_is_full_costs_its_deadline_and_another_one_is_asked() {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let full = socket.local_addr().unwrap().as_socket().unwrap();
    // The backlog takes one more than it says; further SYNs go unanswered.
    let _taken = std::net::TcpStream::connect(full).unwrap();
    let good = answering(HELLO);
    let two = edge(full, good.address(), "attempts = 1 }\ntimeouts = { connect = \"300ms\"");
    assert_eq!(status(&two, "POST"), 200, "nothing was sent: also what is not idempotent");
    assert_eq!(good.accepted(), 1);
}

#[test]
fn attempts_are_counted() {
    let (one, two) = (resetting(), resetting());
    let edge = edge(one.address(), two.address(), "attempts = 0");
    assert_eq!(status(&edge, "GET"), 502);
    assert_eq!(one.accepted() + two.accepted(), 1);
}

#[test]
fn a_budget_bounds_what_failures_cost() {
    let over_budget = |edge: &Edge| {
        let metrics = edge.gateway.metrics().unwrap();
        metrics.sum("portcullis_bounds_hit_total", &[("bound", "retry_budget")])
    };
    let good = answering(HELLO);
    // Every second of 60 requests finds nobody; ten retries are always allowed, and none for the requests.
    let poor = edge(free_address(), good.address(), "budget = \"0%\"");
    let statuses: Vec<u16> = (0..60).map(|_| status(&poor, "GET")).collect();
    let failed = statuses.iter().filter(|status| **status == 502).count();
    assert!(failed > 0 && over_budget(&poor) > 0.0, "{statuses:?}");

    let good = answering(HELLO);
    let rich = edge(free_address(), good.address(), "budget = \"off\"");
    assert!((0..60).all(|_| status(&rich, "GET") == 200));
    assert_eq!(over_budget(&rich).to_string(), "0");
}
