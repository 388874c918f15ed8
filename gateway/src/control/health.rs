//! Active health checks: which servers get requests.
//!
//! Comes in: `[upstreams.*.health]`. Goes out: [`LiveServers`], read by every worker. A server is asked with a real
//! request; any answer below 500 is alive, also a 404: a server that has no such path still serves. A server counts
//! as live until checks have said otherwise often enough in a row.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    task::{AbortHandle, JoinSet},
    time::{MissedTickBehavior, interval, timeout},
};

use tokio_rustls::TlsConnector;

use crate::{
    config::{self, UpstreamProtocol},
    decide::{LiveServers, ServerAddresses, Snapshot, introduction},
    tls,
};

/// As much of an answer as its status line needs.
const STATUS_LINE_BYTES: usize = 12;
/// Who asks.
const AGENT: &str = "portcullis-health";

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
                        protocol: upstream.protocol,
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
            let alive = asked.as_ref().is_ok_and(|status| is_alive(*status));
            if let Some(live) = streak.observe(alive, health.healthy, health.unhealthy) {
                self.live.set(self.index, self.server, live);
                match asked {
                    _ if live => log::warn!("server {} is live again", self.name),
                    Ok(status) => log::warn!("server {} is dead: it answers {status}", self.name),
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
    protocol: UpstreamProtocol,
    path: Arc<str>,
    /// Goes ahead of everything else: a connection of our own, for no client.
    introduction: Vec<u8>,
}

impl Question {
    /// Asks at all of the server's addresses: as for a request, any that answers will do. Otherwise what one of them
    /// said, or why none did.
    async fn ask_any(&self) -> io::Result<u16> {
        let mut probes = JoinSet::new();
        for address in self.addresses.in_order(0) {
            let question = self.clone();
            probes.spawn(async move { question.ask(address).await });
        }
        let mut last = Err(io::Error::new(io::ErrorKind::NotFound, "its name is not resolved"));
        while let Some(asked) = probes.join_next().await {
            last = asked.unwrap_or_else(|error| Err(io::Error::other(error)));
            if last.as_ref().is_ok_and(|status| is_alive(*status)) {
                break;
            }
        }
        last
    }

    /// Asks with a `GET`, and answers with the status.
    async fn ask(&self, address: SocketAddr) -> io::Result<u16> {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(&self.introduction).await?;
        let Some(tls) = &self.tls else { return self.ask_on(stream).await };
        let name = tls.name_of(self.addresses.server()).map_err(io::Error::other)?;
        let secured = TlsConnector::from(tls.config()).connect(name, stream).await?;
        if tls.speaks_http2() && secured.get_ref().1.alpn_protocol() != Some(tls::ALPN_HTTP2) {
            return Err(io::Error::other("it did not agree to HTTP/2"));
        }
        self.ask_on(secured).await
    }

    async fn ask_on<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> io::Result<u16> {
        match self.protocol {
            UpstreamProtocol::Http1 => self.ask_http1(stream).await,
            UpstreamProtocol::Http2 => self.ask_http2(stream).await.map_err(io::Error::other),
        }
    }

    async fn ask_http1<S: AsyncRead + AsyncWrite + Unpin>(&self, mut stream: S) -> io::Result<u16> {
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: {AGENT}\r\nConnection: close\r\n\r\n",
            self.path,
            self.addresses.server(),
        );
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        let mut status_line = [0; STATUS_LINE_BYTES];
        stream.read_exact(&mut status_line).await?;
        status_of(&status_line).ok_or_else(|| io::Error::other("its answer is not HTTP/1.1"))
    }

    async fn ask_http2<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> Result<u16, h2::Error> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let uri = format!("{scheme}://{}{}", self.addresses.server(), self.path);
        // Both were checked when the configuration was read; what cannot be asked for is not asked for.
        let request = http::Request::get(uri).header("user-agent", AGENT).body(());
        let request = request.map_err(|_| h2::Error::from(h2::Reason::INTERNAL_ERROR))?;
        let (mut send, connection) = h2::client::handshake(stream).await?;
        let (response, _) = send.send_request(request, true)?;
        tokio::select! {
            response = response => Ok(response?.status().as_u16()),
            ended = connection => Err(ended.err().unwrap_or_else(|| h2::Reason::NO_ERROR.into())),
        }
    }
}

/// The status in `HTTP/1.x NNN`.
fn status_of(status_line: &[u8; STATUS_LINE_BYTES]) -> Option<u16> {
    let status = status_line.strip_prefix(b"HTTP/1.")?.split_first()?.1.strip_prefix(b" ")?;
    str::from_utf8(status).ok()?.parse().ok()
}

/// Any answer that is no failure of its own.
fn is_alive(status: u16) -> bool {
    (200..500).contains(&status)
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
            assert_eq!(status_of(line).is_some_and(is_alive), alive, "{}", line.escape_ascii());
        }
    }
}
