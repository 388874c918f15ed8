//! Active health checks: which servers get requests.
//!
//! Comes in: `[upstreams.*.health]`. Goes out: [`LiveServers`], read by every worker. A server is asked with a real
//! request; any answer below 500 is alive, also a 404: a server that has no such path still serves. A server counts
//! as live until checks have said otherwise often enough in a row.

mod secured;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::{AbortHandle, JoinSet},
    time::{MissedTickBehavior, interval, timeout},
};

use crate::{
    config,
    decide::{LiveServers, ServerAddresses, Snapshot, introduction},
    tls,
};

/// As much of an answer as its status line needs.
const STATUS_LINE_BYTES: usize = 12;

/// Running checks; dropped, they end.
pub struct Checks(Vec<AbortHandle>);

impl Checks {
    /// Starts a check per server of every upstream that wants them.
    pub fn start(snapshot: &Snapshot) -> Self {
        let mut tasks = Vec::new();
        for (index, upstream) in snapshot.config.upstreams.iter().enumerate() {
            let Some(health) = &upstream.health else { continue };
            for (server, settings) in upstream.servers.iter().enumerate() {
                let name = format!("{} {}", upstream.name, settings.address);
                let Some(addresses) = snapshot.addresses.get(index, server) else { continue };
                let target = Target {
                    name,
                    question: Question {
                        addresses: Arc::clone(addresses),
                        tls: snapshot.upstream_tls.get(index).cloned().flatten(),
                        path: Arc::clone(&health.path),
                        introduction: upstream
                            .proxy_protocol
                            .map_or_else(Vec::new, |version| introduction(version, None)),
                    },
                    live: Arc::clone(&snapshot.live),
                    index,
                    server,
                };
                tasks.push(tokio::spawn(target.watch(health.clone())).abort_handle());
            }
        }
        Self(tasks)
    }
}

impl Drop for Checks {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

struct Target {
    name: String,
    question: Question,
    live: Arc<LiveServers>,
    index: usize,
    server: usize,
}

impl Target {
    async fn watch(self, health: config::Health) {
        let mut streak = Streak::new(self.live.is_live(self.index, self.server));
        let mut ticks = interval(health.interval.max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let asked = timeout(health.timeout, self.question.ask_any()).await;
            let asked = asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            let alive = asked.as_ref().is_ok_and(is_alive);
            if let Some(live) = streak.observe(alive, health.healthy, health.unhealthy) {
                self.live.set(self.index, self.server, live);
                match asked {
                    _ if live => log::warn!("server {} is live again", self.name),
                    Ok(line) => log::warn!("server {} is dead: {}", self.name, line.escape_ascii()),
                    Err(error) => log::warn!("server {} is dead: {error}", self.name),
                }
            }
        }
    }
}

/// What is asked of a server.
#[derive(Clone)]
struct Question {
    addresses: Arc<ServerAddresses>,
    tls: Option<tls::Client>,
    path: Arc<str>,
    /// Goes ahead of everything else: a connection of our own, for no client.
    introduction: Vec<u8>,
}

impl Question {
    /// Asks at all of the server's addresses: as for a request, any that answers will do. Otherwise what one of them
    /// said, or why none did.
    async fn ask_any(&self) -> io::Result<[u8; STATUS_LINE_BYTES]> {
        let mut probes = JoinSet::new();
        for address in self.addresses.in_order(0) {
            let question = self.clone();
            probes.spawn(async move { question.ask(address).await });
        }
        let mut last = Err(io::Error::new(io::ErrorKind::NotFound, "its name is not resolved"));
        while let Some(asked) = probes.join_next().await {
            last = asked.unwrap_or_else(|error| Err(io::Error::other(error)));
            if last.as_ref().is_ok_and(is_alive) {
                break;
            }
        }
        last
    }

    /// Asks with a `GET`, and answers with the beginning of the status line.
    async fn ask(&self, address: SocketAddr) -> io::Result<[u8; STATUS_LINE_BYTES]> {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: portcullis-health\r\nConnection: close\r\n\r\n",
            self.path,
            self.addresses.server(),
        );
        stream.write_all(&self.introduction).await?;
        let mut status_line = [0; STATUS_LINE_BYTES];
        if let Some(tls) = &self.tls {
            let name = tls.name_of(self.addresses.server()).map_err(io::Error::other)?;
            secured::ask(&mut stream, (tls, name), request.as_bytes(), &mut status_line).await?;
        } else {
            stream.write_all(request.as_bytes()).await?;
            stream.read_exact(&mut status_line).await?;
        }
        Ok(status_line)
    }
}

/// `HTTP/1.x NNN` with a status from 200 to 499.
fn is_alive(status_line: &[u8; STATUS_LINE_BYTES]) -> bool {
    let [version @ .., b' ', hundreds, tens, units] = status_line else { return false };
    version.starts_with(b"HTTP/1.")
        && (b'2'..=b'4').contains(hundreds)
        && tens.is_ascii_digit()
        && units.is_ascii_digit()
}

/// Checks in a row that agree.
///
/// ```text
///            unhealthy failures in a row
///     live ─────────────────────────────► dead
///          ◄─────────────────────────────
///            healthy successes in a row
/// ```
#[derive(Debug)]
struct Streak {
    live: bool,
    /// Checks in a row that disagree with `live`.
    against: u32,
}

impl Streak {
    fn new(live: bool) -> Self {
        Self { live, against: 0 }
    }

    /// Takes the result of a check; says what the server has become, where it has become something.
    fn observe(&mut self, alive: bool, healthy: u32, unhealthy: u32) -> Option<bool> {
        if alive == self.live {
            self.against = 0;
            return None;
        }
        self.against += 1;
        let needed = if self.live { unhealthy } else { healthy };
        if self.against < needed {
            return None;
        }
        *self = Self { live: alive, against: 0 };
        Some(alive)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(results: &[bool], expected: &[Option<bool>]) {
        let mut streak = Streak::new(true);
        let seen: Vec<_> = results.iter().map(|&alive| streak.observe(alive, 2, 3)).collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn it_takes_so_many_in_a_row_to_change() {
        check(&[false, false, true, false, false], &[None; 5]);
        check(&[false, false, false], &[None, None, Some(false)]);
        check(&[false, false, false, true, false, true], &[None, None, Some(false), None, None, None]);
        check(&[false, false, false, true, true], &[None, None, Some(false), None, Some(true)]);
    }

    #[test]
    fn any_answer_below_500_is_a_sign_of_life() {
        for (line, alive) in [
            (b"HTTP/1.1 200", true),
            (b"HTTP/1.0 404", true),
            (b"HTTP/1.1 500", false),
            (b"HTTP/1.1 100", false),
            (b"SSH-2.0-Open", false),
            (b"HTTP/1.1 2x0", false),
        ] {
            assert_eq!(is_alive(line), alive, "{}", String::from_utf8_lossy(line));
        }
    }
}
