//! One worker's connections to the servers of all upstreams: idle ones wait last-in-first-out, open ones are counted.

use std::{
    cell::{Cell, RefCell},
    io,
    net::SocketAddr,
    rc::Rc,
    time::Duration,
};

use super::connect::connect;
use crate::{
    config::Upstream,
    net::{Buffers, Deadline, Deadlines, Stream, nanos},
    tls,
};

/// A connection to a server, with the deadline slot of its descriptor.
pub struct Connection {
    /// Dropped before the stream: its slot must go before the descriptor.
    pub deadline: Deadline,
    /// The halves.
    pub stream: Stream,
    /// It has carried an exchange before, so the server may have closed it meanwhile.
    pub reused: bool,
}

struct Idle {
    connection: Connection,
    since_ns: u64,
}

struct Server {
    address: SocketAddr,
    idle: RefCell<Vec<Idle>>,
    /// Exchanges under way, which `least_requests` compares.
    in_flight: Cell<u32>,
}

struct Servers {
    servers: Vec<Server>,
    open: Cell<usize>,
    open_max: usize,
    idle_max: usize,
    idle_timeout: Duration,
    connect_timeout: Duration,
    tls: Option<tls::Client>,
}

impl Servers {
    /// The connection that was used last, of those that are neither too old nor have heard anything meanwhile.
    fn take_idle(&self, server: &Server, now_ns: u64) -> Option<Connection> {
        loop {
            let idle = server.idle.borrow_mut().pop()?;
            let age_ns = now_ns.saturating_sub(idle.since_ns);
            if u128::from(age_ns) < self.idle_timeout.as_nanos() && idle.connection.stream.is_quiet() {
                return Some(idle.connection);
            }
            self.open.set(self.open.get() - 1);
        }
    }

    /// Closes the connection that has been idle for longest, whichever server's; false: there is none.
    fn close_idle(&self) -> bool {
        let oldest = |server: &Server| server.idle.borrow().first().map(|idle| idle.since_ns);
        let waiting = self.servers.iter().filter_map(|server| Some((oldest(server)?, server)));
        let Some((_, server)) = waiting.min_by_key(|(since_ns, _)| *since_ns) else { return false };
        drop(server.idle.borrow_mut().remove(0));
        self.open.set(self.open.get() - 1);
        true
    }
}

/// The pools of one worker for one policy snapshot; indices are those of the configuration.
pub struct Pool {
    upstreams: Vec<Servers>,
}

/// Why there is no connection.
#[derive(Debug)]
pub enum CheckoutError {
    /// `connections.per_worker` are open, and all of them are busy.
    Exhausted,
    /// The server did not answer in time.
    Timeout,
    /// The server could not be reached.
    Unreachable(io::Error),
    /// No TLS with it: it does not speak it, or is not whom it should be.
    Tls(io::Error),
}

impl Pool {
    /// Empty pools for `upstreams`, with the TLS of each.
    pub fn new(upstreams: &[Upstream], tls: &[Option<tls::Client>]) -> Self {
        let servers = |(upstream, tls): (&Upstream, &Option<tls::Client>)| {
            let server = |address| Server { address, idle: RefCell::default(), in_flight: Cell::new(0) };
            Servers {
                servers: upstream.servers.iter().map(|s| server(s.address)).collect(),
                open: Cell::new(0),
                open_max: upstream.connections_per_worker,
                idle_max: upstream.idle_per_worker,
                idle_timeout: upstream.idle_timeout,
                connect_timeout: upstream.connect_timeout,
                tls: tls.as_ref().map(tls::Client::for_one_worker),
            }
        };
        Self { upstreams: upstreams.iter().zip(tls).map(servers).collect() }
    }

    /// Exchanges under way on a server.
    pub fn in_flight(&self, upstream: usize, server: usize) -> u32 {
        self.upstreams.get(upstream).and_then(|u| u.servers.get(server)).map_or(0, |s| s.in_flight.get())
    }

    /// An idle connection that is still quiet, or a new one. With `fresh`, always a new one.
    pub async fn check_out(
        self: &Rc<Self>,
        upstream: usize,
        server: usize,
        fresh: bool,
        (deadlines, buffers): (&Rc<Deadlines>, &Buffers),
        now_ns: u64,
    ) -> Result<Lease, CheckoutError> {
        let unknown = || CheckoutError::Unreachable(io::ErrorKind::NotFound.into());
        let servers = self.upstreams.get(upstream).ok_or_else(unknown)?;
        let entry = servers.servers.get(server).ok_or_else(unknown)?;
        let lease = |connection| {
            entry.in_flight.set(entry.in_flight.get() + 1);
            Lease { pool: Rc::clone(self), upstream, server, connection: Some(connection) }
        };
        if !fresh && let Some(connection) = servers.take_idle(entry, now_ns) {
            return Ok(lease(connection));
        }
        // Idle ones count as open, but must not stand in the way of one that is needed.
        if servers.open.get() >= servers.open_max && !servers.close_idle() {
            return Err(CheckoutError::Exhausted);
        }
        servers.open.set(servers.open.get() + 1);
        let at_ns = now_ns.saturating_add(nanos(servers.connect_timeout));
        match connect(entry.address, servers.tls.as_ref(), (deadlines, buffers), at_ns).await {
            Ok(connection) => Ok(lease(connection)),
            Err(error) => {
                servers.open.set(servers.open.get() - 1);
                Err(error)
            }
        }
    }

    /// Closes what has been idle for too long.
    pub fn sweep(&self, now_ns: u64) {
        for servers in &self.upstreams {
            for server in &servers.servers {
                let mut idle = server.idle.borrow_mut();
                let before = idle.len();
                idle.retain(|idle| {
                    u128::from(now_ns.saturating_sub(idle.since_ns)) < servers.idle_timeout.as_nanos()
                });
                servers.open.set(servers.open.get() - (before - idle.len()));
            }
        }
    }
}

/// A connection on loan. Dropped, it is closed; [`Lease::give_back`] keeps it for the next exchange.
pub struct Lease {
    pool: Rc<Pool>,
    upstream: usize,
    server: usize,
    connection: Option<Connection>,
}

impl Lease {
    /// The connection.
    #[expect(clippy::expect_used, reason = "taken only by give_back, which consumes the lease")]
    pub fn connection(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("a lease holds its connection until it is given back")
    }

    /// Returns a connection on which the exchange ended cleanly.
    pub fn give_back(mut self, now_ns: u64) {
        let Some(mut connection) = self.connection.take() else { return };
        connection.reused = true;
        connection.deadline.disarm();
        let Some(servers) = self.pool.upstreams.get(self.upstream) else { return };
        let Some(server) = servers.servers.get(self.server) else { return };
        server.in_flight.set(server.in_flight.get().saturating_sub(1));
        let mut idle = server.idle.borrow_mut();
        if idle.len() < servers.idle_max {
            idle.push(Idle { connection, since_ns: now_ns });
        } else {
            servers.open.set(servers.open.get().saturating_sub(1));
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.connection.take().is_none() {
            return;
        }
        let Some(servers) = self.pool.upstreams.get(self.upstream) else { return };
        servers.open.set(servers.open.get().saturating_sub(1));
        if let Some(server) = servers.servers.get(self.server) {
            server.in_flight.set(server.in_flight.get().saturating_sub(1));
        }
    }
}
