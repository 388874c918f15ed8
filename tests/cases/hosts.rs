//! Hosts that vanish without a word, and a queue of connections that is full: in namespaces, where links can be cut.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    thread,
};

use xtask::lab::{
    self,
    client::{Connection, Request, Response},
    gateway::{Gateway, Start},
    netns::{EDGE_V4, Lab, WORLD_INTERFACE, WORLD_V4},
    scratch::Scratch,
    scripted::{Scripted, Step},
    wait,
};

use crate::support::{BINARY, HELLO, OPEN, TIME_MAX, stand_still};

const PUBLIC: SocketAddr = SocketAddr::new(IpAddr::V4(EDGE_V4), 8080);
const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9901);
const UPSTREAM: SocketAddr = SocketAddr::new(IpAddr::V4(WORLD_V4), 9000);

/// The gateway is at the edge, its server and clients in the world. The gateway ends first.
struct Stage {
    gateway: Gateway,
    upstream: Scripted,
    lab: Lab,
    _directory: Scratch,
}

impl Stage {
    /// `None`: `test` cannot run here, and has said so.
    fn set(test: &str, script: Vec<Step>, prepare: impl FnOnce(&Lab)) -> Option<Self> {
        if let Err(why) = lab::privileges() {
            lab::skip(test, &why);
            return None;
        }
        let (lab, directory) = (Lab::new().unwrap(), Scratch::new().unwrap());
        prepare(&lab);
        let upstream = Scripted::start(&lab.world.place(), UPSTREAM, vec![script]).unwrap();
        let routes = OPEN.replace("{upstream}", &UPSTREAM.to_string()).replace(
            "health = \"off\"",
            "health = \"off\"\nretry = { attempts = 0 }\ntimeouts = { connect = \"300ms\", head = \"300ms\" }",
        );
        let config = format!(
            "[runtime]\nworkers = 1\n\
             [listeners.public]\naddress = \"{PUBLIC}\"\ntimeouts = {{ body_idle = \"400ms\" }}\n\
             [listeners.admin]\nkind = \"admin\"\naddress = \"{ADMIN}\"\n{routes}"
        );
        let gateway = Gateway::start(&Start {
            binary: Path::new(BINARY),
            place: lab.edge.place(),
            directory: directory.path(),
            config: &config,
            listener: PUBLIC,
            admin: Some(ADMIN),
        });
        let gateway = gateway.unwrap_or_else(|error| panic!("{error:#}\n{config}"));
        Some(Self { gateway, upstream, lab, _directory: directory })
    }

    fn connect_from_the_edge(&self) -> Connection {
        Connection::open_in(&self.lab.edge.place(), PUBLIC, None, TIME_MAX).unwrap()
    }

    fn ask(&self) -> Response {
        self.connect_from_the_edge().request(&Request::get("/")).unwrap()
    }

    /// From `down` on nothing that is sent to the world arrives, and nothing says so.
    fn set_link(&self, state: &str) {
        self.lab.world.ip(&format!("link set {WORLD_INTERFACE} {state}")).unwrap();
    }
}

fn hello_each_time() -> Vec<Step> {
    std::iter::repeat_n([Step::ReadHead, Step::Send(HELLO.into())], 64).flatten().collect()
}

/// Fault row 9.
#[test]
fn a_server_whose_host_vanishes_is_504_and_its_connections_are_not_used_again() {
    let test = "a_server_whose_host_vanishes_is_504_and_its_connections_are_not_used_again";
    let Some(stage) = Stage::set(test, hello_each_time(), |_| {}) else { return };
    assert_eq!(stage.ask().status, 200);
    stage.set_link("down");
    let lost = stage.ask();
    assert!(lost.status == 504 && lost.text().contains("response_timeout"), "{}", lost.text());
    assert_eq!(stage.upstream.accepted(), 1, "it went out on the connection from before");
    let again = stage.ask();
    assert!(again.status == 504 && again.text().contains("connect_timeout"), "{}", again.text());
    stage.set_link("up");
    let back = wait::until(TIME_MAX, || (stage.ask().status == 200).then_some(()));
    assert!(back.is_some(), "{}", stage.gateway.output());
    assert!(stage.upstream.accepted() >= 2);
}

#[test]
fn a_client_whose_host_vanishes_in_mid_response_is_let_go() {
    let test = "a_client_whose_host_vanishes_in_mid_response_is_let_go";
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 40000000\r\n\r\n";
    let big = [head.as_bytes(), &vec![b'x'; 40_000_000]].concat();
    let Some(stage) = Stage::set(test, vec![Step::ReadHead, Step::Send(big), Step::Stall], |_| {}) else {
        return;
    };
    let mut client = Connection::open_in(&stage.lab.world.place(), PUBLIC, None, TIME_MAX).unwrap();
    client.send(&Request::get("/").bytes()).unwrap();
    client.read_until(|taken| taken.len() > 100_000).unwrap();
    stage.set_link("down");
    let gone = wait::until(TIME_MAX, || {
        let active = stage.gateway.metrics().unwrap().sum("portcullis_connections_active", &[]);
        (active < 0.5).then_some(())
    });
    assert!(gone.is_some(), "{}", stage.gateway.output());
}

/// Fault rows 35 and 36, as a client sees them: the kernel has a client try again.
#[test]
fn connections_that_the_queue_has_no_room_for_come_in_later() {
    const QUEUE: usize = 8;
    const CLIENTS: usize = 4 * QUEUE;
    let test = "connections_that_the_queue_has_no_room_for_come_in_later";
    let narrow = |lab: &Lab| lab.edge.sysctl("net/core/somaxconn", &QUEUE.to_string()).unwrap();
    let Some(mut stage) = Stage::set(test, hello_each_time(), narrow) else { return };
    let overflows = |stage: &Stage| {
        let netstat = stage.lab.edge.enter(|| fs::read_to_string("/proc/thread-self/net/netstat").unwrap());
        counter(&netstat.unwrap(), "ListenOverflows")
    };
    let before = overflows(&stage);
    stand_still(&mut stage.gateway);
    thread::scope(|scope| {
        let place = stage.lab.edge.place();
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let place = place.clone();
                scope.spawn(move || {
                    let mut client = Connection::open_in(&place, PUBLIC, None, TIME_MAX).unwrap();
                    client.request(&Request::get("/")).unwrap().status
                })
            })
            .collect();
        let full = wait::until(TIME_MAX, || (overflows(&stage) > before).then_some(()));
        stage.gateway.process().signal(libc::SIGCONT).unwrap();
        assert!(full.is_some(), "the queue holds more than it may");
        for client in clients {
            assert_eq!(client.join().unwrap(), 200);
        }
    });
}

/// A counter of /proc/net/netstat: names in one line, values in the next.
fn counter(netstat: &str, name: &str) -> u64 {
    let lines: Vec<_> = netstat.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
    let pairs = lines.chunks_exact(2).flat_map(|pair| pair[0].iter().zip(&pair[1]));
    pairs.filter(|(key, _)| **key == name).map(|(_, value)| value.parse().unwrap()).next().unwrap()
}
