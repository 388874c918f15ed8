//! Row 92 at scale: ten thousand clients whose heads never end, and honest ones among them.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};
use xtask::lab::{
    self,
    client::{Connection, Request},
    scratch::Scratch,
    wait,
};

use crate::support::{Edge, HELLO, OPEN, TIME_MAX, answering_times};

const CROWD: u32 = 10_000;
/// Below what one source may have.
const PER_SOURCE: u32 = 400;
/// Each of the crowd sends an octet so often; less than the gateway lingers after its last answer.
const DRIP_EVERY: Duration = Duration::from_millis(400);
/// For all of the crowd to be there.
const FULL_TIME_MAX: Duration = Duration::from_mins(2);
const HONEST: usize = 4;
const REQUESTS_PER_CONNECTION: usize = 8;
const CALM_REQUESTS: usize = 500;
/// By then the crowd has been cut, or never will be.
const CROWDED_REQUESTS_MAX: usize = 200_000;
/// Descriptors that the test and the gateway need beside the crowd's.
const SPARE: u64 = 1000;

/// Raises our own limit of descriptors; false: it cannot be raised so far. The gateway inherits it.
fn can_open(descriptors: u64) -> bool {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls get a pointer to a local of the right type.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        limit.rlim_cur = limit.rlim_cur.max(descriptors.min(limit.rlim_max));
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
    }
    limit.rlim_cur >= descriptors
}

/// One of the crowd.
struct Slow {
    stream: TcpStream,
    /// What it was told.
    told: Vec<u8>,
}

impl Slow {
    fn open(server: SocketAddr, number: u32) -> io::Result<Self> {
        let source = Ipv4Addr::from_bits(Ipv4Addr::new(127, 0, 1, 0).to_bits() + number / PER_SOURCE);
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(source.into(), 0).into())?;
        socket.connect_timeout(&server.into(), TIME_MAX)?;
        let mut stream = TcpStream::from(socket);
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nX: ")?;
        stream.set_nonblocking(true)?;
        Ok(Self { stream, told: Vec::new() })
    }

    /// Sends one more octet; false: the gateway has had enough.
    fn drip(&mut self) -> bool {
        let mut buffer = [0; 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return false,
                Ok(count) => self.told.extend(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return false,
            }
        }
        self.stream.write_all(b"a").is_ok()
    }
}

/// Ends the crowd also where an assertion has failed.
struct SetWhenDropped<'a>(&'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What has become of the crowd.
#[derive(Debug, Default)]
struct Cut {
    with_408: usize,
    /// The answer was lost in a reset, or there was none.
    without: usize,
}

/// Keeps up a crowd until `stop`: who is cut comes again. Each has been cut once before `all_were_cut` is set.
#[expect(clippy::disallowed_methods, reason = "the pause is what the crowd does")]
fn crowd(server: SocketAddr, all_were_cut: &AtomicBool, stop: &AtomicBool) -> Cut {
    let open = |number| Slow::open(server, number).unwrap_or_else(|error| panic!("client {number}: {error}"));
    let mut crowd: Vec<_> = (0..CROWD).map(open).collect();
    let (mut cut, mut first) = (Cut::default(), vec![true; crowd.len()]);
    while !stop.load(Ordering::Relaxed) {
        let round = Instant::now();
        for (number, (slow, is_first)) in (0..).zip(crowd.iter_mut().zip(&mut first)) {
            if slow.drip() {
                continue;
            }
            if slow.told.starts_with(b"HTTP/1.1 408 ") {
                cut.with_408 += 1;
            } else {
                assert!(slow.told.is_empty(), "{}", slow.told.escape_ascii());
                cut.without += 1;
            }
            *is_first = false;
            *slow = open(number);
        }
        if !first.contains(&true) {
            all_were_cut.store(true, Ordering::Relaxed);
        }
        thread::sleep(DRIP_EVERY.saturating_sub(round.elapsed()));
    }
    cut
}

/// Asks until `enough` of so many requests; how long each took, in order of time. Every one must be answered.
#[expect(clippy::disallowed_methods, reason = "how long an answer took is what is told")]
fn ask(server: SocketAddr, enough: impl Fn(usize) -> bool + Sync) -> Vec<Duration> {
    let one = || {
        let mut times = Vec::new();
        while !enough(times.len()) {
            let mut begun = Instant::now();
            let mut client = Connection::open(server, None, TIME_MAX).unwrap();
            for _ in 0..REQUESTS_PER_CONNECTION {
                assert_eq!(client.request(&Request::get("/")).unwrap().status, 200);
                times.push(begun.elapsed());
                begun = Instant::now();
            }
        }
        times
    };
    let mut times = thread::scope(|scope| {
        let clients: Vec<_> = (0..HONEST).map(|_| scope.spawn(one)).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect::<Vec<_>>()
    });
    times.sort_unstable();
    times
}

/// The time within which so many of a hundred were answered.
fn percentile(times: &[Duration], percent: usize) -> Duration {
    times[(times.len() * percent / 100).min(times.len() - 1)]
}

#[test]
fn honest_clients_are_served_among_ten_thousand_whose_heads_never_end() {
    let descriptors = u64::from(CROWD) + SPARE;
    if !can_open(descriptors) {
        let test = "honest_clients_are_served_among_ten_thousand_whose_heads_never_end";
        return lab::skip(test, &format!("it needs {descriptors} descriptors: ulimit -n"));
    }
    let upstream = answering_times(HELLO, 100_000);
    let listener = "timeouts = { head = \"4s\" }";
    let edge = Edge::start_with(Scratch::new().unwrap(), upstream.address(), listener, OPEN);
    let calm = ask(edge.address, |asked| asked >= CALM_REQUESTS);
    let (all_were_cut, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    let (crowded, cut) = thread::scope(|scope| {
        let ended = SetWhenDropped(&stop);
        let crowd = scope.spawn(|| crowd(edge.address, &all_were_cut, &stop));
        let is_full = || {
            let active = edge.gateway.metrics().unwrap().sum("portcullis_connections_active", &[]);
            // Some of them are being cut at any time.
            (crowd.is_finished() || active > f64::from(CROWD) * 0.9).then_some(())
        };
        let full = wait::until(FULL_TIME_MAX, is_full);
        let is_over = |asked| {
            all_were_cut.load(Ordering::Relaxed) || crowd.is_finished() || asked > CROWDED_REQUESTS_MAX
        };
        let crowded = ask(edge.address, is_over);
        drop(ended);
        assert!(full.is_some(), "{}", edge.gateway.output());
        (crowded, crowd.join().unwrap())
    });
    println!(
        "p99 of honest requests: {:?} ({} without the crowd, {} with it: {:?}); p50 {:?} and {:?}; {cut:?}",
        percentile(&calm, 99),
        calm.len(),
        crowded.len(),
        percentile(&crowded, 99),
        percentile(&calm, 50),
        percentile(&crowded, 50),
    );
    assert!(all_were_cut.load(Ordering::Relaxed), "{cut:?}");
    // A client that is late may lose its answer to a reset.
    assert!(cut.with_408 > cut.without, "{cut:?}");
    let metrics = edge.gateway.metrics().unwrap();
    let refused = metrics.sum("portcullis_refusals_total", &[("reason", "head_timeout")]);
    assert!(refused >= f64::from(CROWD), "{refused}");
}
