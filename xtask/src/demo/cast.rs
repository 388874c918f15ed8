//! The cast: clients that mean well at a steady rate, and one that tries keys.
//!
//! Comes in: where to connect from and to, what to show. Goes out: tallies that can be read while they play. Each
//! client is a thread with an address of its own; all of them end when their guard is dropped.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use xtask::lab::{
    client::{ClientError, Connection, Request},
    place::Place,
    wait,
};

/// One honest client asks so often.
const HONEST_EVERY: Duration = Duration::from_millis(50);
/// An honest client waits so long for an answer.
const HONEST_TIME_MAX: Duration = Duration::from_secs(5);
/// Then it connects anew: SYNs of honest clients must pass too.
const REQUESTS_PER_CONNECTION: u64 = 20;
/// The guesser asks so often.
const GUESS_EVERY: Duration = Duration::from_millis(5);
/// The guesser takes a longer silence for a block.
const GUESS_TIME_MAX: Duration = Duration::from_millis(700);
/// So many reasons of failures are kept.
const COMPLAINTS_MAX: usize = 5;
/// So many latencies are kept.
const LATENCIES_MAX: usize = 1_000_000;

/// What honest clients saw.
#[derive(Debug, Clone, Default)]
pub(super) struct HonestTally {
    /// Requests, answered or not.
    pub(super) requests: u64,
    /// Those that were not answered with 200.
    pub(super) failures: u64,
    /// The first failures, told.
    pub(super) complaints: Vec<String>,
    /// When the first answer came.
    pub(super) first_answer: Option<Instant>,
    latencies: Vec<Duration>,
}

impl HonestTally {
    fn note(&mut self, who: IpAddr, began: Instant, answer: Result<u16, ClientError>) {
        self.requests += 1;
        match answer {
            Ok(200) => {
                self.first_answer.get_or_insert_with(Instant::now);
                if self.latencies.len() < LATENCIES_MAX {
                    self.latencies.push(began.elapsed());
                }
            }
            other => {
                self.failures += 1;
                if self.complaints.len() < COMPLAINTS_MAX {
                    let what =
                        other.map_or_else(|error| error.to_string(), |status| format!("status {status}"));
                    self.complaints.push(format!("{who}: {what}"));
                }
            }
        }
    }

    /// The time within which 99 of 100 answers came.
    pub(super) fn p99(&self) -> Option<Duration> {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() * 99 / 100).copied()
    }
}

/// What the guesser saw.
#[derive(Debug, Clone, Default)]
pub(super) struct GuesserTally {
    /// Guesses that were answered with a refusal.
    pub(super) refused: u64,
    /// Guesses that were let in.
    pub(super) admitted: u64,
    /// Guesses that nobody answered.
    pub(super) unanswered: u64,
    /// It was answered, then no longer, on an old connection and on a new one.
    pub(super) blocked: bool,
    /// And then again.
    pub(super) answered_again: bool,
}

/// Threads that share a tally.
pub(super) struct Players<T> {
    stop: Arc<AtomicBool>,
    tally: Arc<Mutex<T>>,
    threads: Vec<JoinHandle<io::Result<()>>>,
}

impl<T: Clone> Players<T> {
    /// What they have seen so far.
    pub(super) fn tally(&self) -> T {
        lock(&self.tally).clone()
    }
}

impl<T> Drop for Players<T> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => eprintln!("a client could not enter its namespace: {error}"),
                Err(_) => eprintln!("a client panicked"),
            }
        }
    }
}

/// One who means well: from where, to where, with which header field.
pub(super) struct Honest {
    /// Its address.
    pub(super) source: IpAddr,
    /// The gateway.
    pub(super) server: SocketAddr,
    /// Name and value of its credential.
    pub(super) credential: (&'static str, String),
}

/// Starts honest clients that ask until they are dropped.
pub(super) fn start_honest(place: &Place, clients: Vec<Honest>) -> anyhow::Result<Players<HonestTally>> {
    let mut players = Players { stop: Arc::default(), tally: Arc::default(), threads: Vec::new() };
    for client in clients {
        let (stop, tally) = (players.stop.clone(), players.tally.clone());
        players.threads.push(place.spawn("honest", move || ask(&client, &stop, &tally))?);
    }
    Ok(players)
}

fn ask(client: &Honest, stop: &AtomicBool, tally: &Mutex<HonestTally>) {
    let mut connection = None;
    let mut next = Instant::now();
    let mut asked = 0_u64;
    while !rest(&mut next, HONEST_EVERY, stop) {
        if asked.is_multiple_of(REQUESTS_PER_CONNECTION) {
            connection = None;
        }
        asked += 1;
        let began = Instant::now();
        let target = format!("/v1/orders/{asked}");
        let answer = ask_once(&mut connection, client, &target);
        lock(tally).note(client.source, began, answer);
    }
}

/// One request, over the connection at hand or a new one; after a failure there is none at hand.
fn ask_once(connection: &mut Option<Connection>, client: &Honest, target: &str) -> Result<u16, ClientError> {
    let mut open = match connection.take() {
        Some(open) => open,
        None => Connection::open(client.server, Some(client.source), HONEST_TIME_MAX)?,
    };
    let (name, value) = &client.credential;
    let response = open.request(&Request::get(target).with(&[(name, value)]))?;
    if response.keep_alive {
        *connection = Some(open);
    }
    Ok(response.status)
}

/// Starts the guesser: it tries wrong keys until it is blocked, then until it is answered again, and ends.
pub(super) fn start_guesser(
    place: &Place,
    source: IpAddr,
    server: SocketAddr,
) -> anyhow::Result<Players<GuesserTally>> {
    let mut players = Players { stop: Arc::default(), tally: Arc::default(), threads: Vec::new() };
    let (stop, tally) = (players.stop.clone(), players.tally.clone());
    players.threads.push(place.spawn("guesser", move || guess(source, server, &stop, &tally))?);
    Ok(players)
}

fn guess(source: IpAddr, server: SocketAddr, stop: &AtomicBool, tally: &Mutex<GuesserTally>) {
    let mut connection = None;
    let mut next = Instant::now();
    let mut silences = 0;
    for n in 0_u64.. {
        if rest(&mut next, GUESS_EVERY, stop) {
            return;
        }
        let answer = guess_once(&mut connection, source, server, &format!("guess-{n:06}"));
        let mut tally = lock(tally);
        match answer {
            Ok(200..300) => tally.admitted += 1,
            Ok(_) => tally.refused += 1,
            Err(_) => tally.unanswered += 1,
        }
        match answer {
            Err(ClientError::TimedOut) => silences += 1,
            // Two silences in a row: the second on a connection of its own, so that it was not just a lost one.
            Ok(_) if tally.blocked => {
                tally.answered_again = true;
                return;
            }
            _ => silences = 0,
        }
        tally.blocked |= silences >= 2;
    }
}

fn guess_once(
    connection: &mut Option<Connection>,
    source: IpAddr,
    server: SocketAddr,
    key: &str,
) -> Result<u16, ClientError> {
    let mut open = match connection.take() {
        Some(open) => open,
        None => Connection::open(server, Some(source), GUESS_TIME_MAX)?,
    };
    let response = open.request(&Request::get("/v1/orders/1").with(&[("x-api-key", key)]))?;
    if response.keep_alive {
        *connection = Some(open);
    }
    Ok(response.status)
}

/// Waits until `next`, which moves on by `every`; true when it is time to stop.
fn rest(next: &mut Instant, every: Duration, stop: &AtomicBool) -> bool {
    let now = Instant::now();
    let stopped = || stop.load(Ordering::Relaxed).then_some(());
    let stop_now = wait::until(next.saturating_duration_since(now), stopped).is_some();
    // Whoever is late does not hurry afterwards: the rate is a bound.
    *next = now.max(*next) + every;
    stop_now
}

fn lock<T>(tally: &Mutex<T>) -> MutexGuard<'_, T> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use xtask::lab::scripted::{Scripted, Step};

    use super::*;

    const TIME_MAX: Duration = Duration::from_secs(20);

    fn answers(status: &str, count: usize) -> Vec<Step> {
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
        (0..count).flat_map(|_| [Step::ReadHead, Step::Send(answer.clone().into())]).collect()
    }

    fn server(scripts: Vec<Vec<Step>>) -> Scripted {
        Scripted::start(&Place::here(), "127.0.0.1:0".parse().unwrap(), scripts).unwrap()
    }

    #[test]
    fn honest_clients_keep_their_connection_and_count() {
        let server = server(vec![[answers("200 OK", 3), answers("403 Forbidden", 1)].concat()]);
        let client = Honest {
            source: "127.0.0.11".parse().unwrap(),
            server: server.address(),
            credential: ("x-api-key", "right".into()),
        };
        let players = start_honest(&Place::here(), vec![client]).unwrap();
        let tally =
            wait::until(TIME_MAX, || Some(players.tally()).filter(|tally| tally.requests >= 4)).unwrap();
        assert_eq!((tally.failures, server.accepted()), (1, 1));
        assert_eq!(tally.complaints, ["127.0.0.11: status 403"]);
        assert!(tally.first_answer.is_some() && tally.p99().is_some());
        let head = String::from_utf8(server.next_head(TIME_MAX).unwrap()).unwrap();
        assert!(
            head.starts_with("GET /v1/orders/1 HTTP/1.1\r\n") && head.contains("x-api-key: right\r\n"),
            "{head}"
        );
    }

    #[test]
    fn the_guesser_notices_its_block_and_its_end() {
        let silent = || vec![Step::Stall];
        let mut first = answers("401 Unauthorized", 3);
        first.push(Step::Stall);
        let server = server(vec![first, silent(), answers("401 Unauthorized", 1)]);
        let guesser = start_guesser(&Place::here(), "127.0.0.66".parse().unwrap(), server.address()).unwrap();
        let tally =
            wait::until(TIME_MAX, || Some(guesser.tally()).filter(|tally| tally.answered_again)).unwrap();
        assert_eq!((tally.refused, tally.admitted, tally.unanswered), (4, 0, 2));
        assert!(tally.blocked);
    }
}
