//! Servers that have names: looked up, followed when they move, kept when DNS fails (faults 30 and 31), raced when
//! they have several addresses (RFC 8305).

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use xtask::lab::{
    client::Request,
    dns::{Dns, Says},
    place::Place,
    scripted::{Scripted, Step},
    wait,
};

use crate::support::{Edge, free_address};

const WAIT_MAX: Duration = Duration::from_secs(15);

fn at(addresses: &[&str]) -> Says {
    Says::Addresses(addresses.iter().map(|address| address.parse().unwrap()).collect(), 1)
}

/// A server at `ip` that answers with `body`, again and again.
fn server(ip: &str, port: u16, body: &str) -> Scripted {
    let address = SocketAddr::new(ip.parse::<IpAddr>().unwrap(), port);
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let step = [Step::ReadHead, Step::Send(answer.into())];
    let script = std::iter::repeat_n(step, 256).flatten().collect();
    Scripted::start(&Place::here(), address, vec![script]).unwrap()
}

/// One worker in front of `app.test:PORT`, for which `dns` is asked.
fn edge(dns: &Dns, port: u16, keys: &str) -> Edge {
    let sections = format!(
        "[runtime]\nworkers = 1\nresolvers = [\"{}\"]\n\
         [upstreams.app]\nservers = [\"app.test:{port}\"]\nhealth = \"off\"\n{keys}\n\
         [routes.all]\npath = \"/{{*rest}}\"\npublic = true\nupstream = \"app\"\n",
        dns.address()
    );
    Edge::start(dns.address(), &sections)
}

fn lookups(edge: &Edge, result: &str) -> f64 {
    let labels = [("name", "app.test"), ("result", result)];
    edge.gateway.metrics().unwrap().sum("portcullis_name_lookups_total", &labels)
}

#[test]
fn a_server_is_followed_when_its_name_moves() {
    let port = free_address().port();
    let (old, new) = (server("127.0.0.2", port, "old"), server("127.0.0.3", port, "new"));
    let dns = Dns::start(at(&["127.0.0.2"])).unwrap();
    let edge = edge(&dns, port, "");
    let mut client = edge.connect();
    for _ in 0..3 {
        assert_eq!(client.request(&Request::get("/")).unwrap().text(), "old");
    }
    assert_eq!(old.accepted(), 1, "one pooled connection");
    dns.say(at(&["127.0.0.3"]));
    let moved =
        wait::until(WAIT_MAX, || (client.request(&Request::get("/")).unwrap().text() == "new").then_some(()));
    assert!(moved.is_some(), "the name was not asked again, or the old connection was used on");
    for _ in 0..10 {
        assert_eq!(client.request(&Request::get("/")).unwrap().text(), "new");
    }
    assert_eq!((old.accepted(), new.accepted()), (1, 1));
}

#[test]
fn a_connection_in_use_is_not_pooled_when_its_server_has_moved() {
    let port = free_address().port();
    let answer = |body: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{body}").into_bytes();
    let upload = [Step::ReadHead, Step::ReadBody(8), Step::Send(answer("end")), Step::ReadHead];
    let others: Vec<Step> =
        std::iter::repeat_n([Step::ReadHead, Step::Send(answer("old"))], 256).flatten().collect();
    let address = SocketAddr::new("127.0.0.2".parse().unwrap(), port);
    let old = Scripted::start(&Place::here(), address, vec![upload.to_vec(), others]).unwrap();
    let _new = server("127.0.0.3", port, "new");
    let dns = Dns::start(at(&["127.0.0.2"])).unwrap();
    let edge = edge(&dns, port, "");
    let mut client = edge.connect();
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\nhalf").unwrap();
    old.next_head(WAIT_MAX).expect("the upload has begun");
    dns.say(at(&["127.0.0.3"]));
    let moved = wait::until(WAIT_MAX, || (edge.get("/", &[]).text() == "new").then_some(()));
    assert!(moved.is_some());
    client.send(b"half").unwrap();
    assert_eq!(client.receive("POST").unwrap().text(), "end", "an exchange under way is not touched");
    assert_eq!(client.request(&Request::get("/")).unwrap().text(), "new");
}

#[test]
fn when_dns_fails_the_last_addresses_stay() {
    let port = free_address().port();
    let _server = server("127.0.0.2", port, "here");
    let dns = Dns::start(at(&["127.0.0.2"])).unwrap();
    let edge = edge(&dns, port, "");
    for failure in [Says::Failure, Says::NoSuchName, Says::Nothing, Says::Addresses(Vec::new(), 1)] {
        let before = lookups(&edge, "failed");
        dns.say(failure.clone());
        let failed = wait::until(WAIT_MAX, || (lookups(&edge, "failed") > before).then_some(()));
        assert!(failed.is_some(), "{failure:?} is counted");
        assert_eq!(edge.get("/", &[]).text(), "here", "{failure:?}");
    }
    let before = lookups(&edge, "resolved");
    dns.say(at(&["127.0.0.2"]));
    assert!(wait::until(WAIT_MAX, || (lookups(&edge, "resolved") > before).then_some(())).is_some());
}

#[test]
fn a_name_that_was_never_resolved_is_503_until_it_is() {
    let port = free_address().port();
    let _server = server("127.0.0.2", port, "here");
    let dns = Dns::start(Says::Nothing).unwrap();
    let edge = edge(&dns, port, "");
    let response = edge.get("/", &[]);
    assert_eq!((response.status, response.header("retry-after")), (503, Some("1")));
    assert!(response.text().contains("name_unresolved"), "{}", response.text());
    dns.say(at(&["127.0.0.2"]));
    let served = wait::until(WAIT_MAX, || (edge.get("/", &[]).status == 200).then_some(()));
    assert!(served.is_some());
    assert!(dns.asked() > 0);
}

#[test]
fn an_address_that_refuses_or_is_silent_costs_no_request() {
    let port = free_address().port();
    let _server = server("127.0.0.2", port, "here");
    // Nobody listens on ::1: it refuses at once.
    let dns = Dns::start(at(&["::1", "127.0.0.2"])).unwrap();
    let without_retries = "retry = { attempts = 0 }\ntimeouts = { connect = \"5s\" }";
    let refused = edge(&dns, port, without_retries);
    for _ in 0..4 {
        assert_eq!(refused.get("/", &[("connection", "close")]).text(), "here");
    }
    // A full queue of connections drops what comes: such an address is as silent as a host that is gone.
    let full = FullQueue::at(SocketAddr::new("::1".parse().unwrap(), port));
    let silent = edge(&dns, port, without_retries);
    assert_eq!(silent.get("/", &[]).text(), "here");
    drop(full);
}

#[test]
fn localhost_is_known_without_dns() {
    let port = free_address().port();
    let _server = server("127.0.0.1", port, "here");
    let sections = format!(
        "[upstreams.app]\nservers = [\"localhost:{port}\"]\n\
         health = {{ interval = \"50ms\", healthy = 1, unhealthy = 1 }}\n\
         [routes.all]\npath = \"/{{*rest}}\"\npublic = true\nupstream = \"app\"\n"
    );
    let edge = Edge::start(free_address(), &sections);
    for _ in 0..5 {
        assert_eq!(edge.get("/", &[]).text(), "here");
    }
}

/// A listener that accepts nobody and whose queue is full.
struct FullQueue {
    _listener: socket2::Socket,
    _waiting: Vec<socket2::Socket>,
}

impl FullQueue {
    fn at(address: SocketAddr) -> Self {
        let socket = || {
            let kind = socket2::Type::STREAM.nonblocking().cloexec();
            socket2::Socket::new(socket2::Domain::for_address(address), kind, None).unwrap()
        };
        let listener = socket();
        listener.bind(&address.into()).unwrap();
        listener.listen(0).unwrap();
        let waiting = (0..4)
            .map(|_| {
                let client = socket();
                // Under way, or refused: what counts is that the queue fills.
                let _under_way = client.connect(&address.into());
                client
            })
            .collect();
        Self { _listener: listener, _waiting: waiting }
    }
}
