//! One worker's connections to the servers of all upstreams: idle ones wait last-in-first-out, open ones are counted.

use std::{
    cell::{Cell, RefCell},
    io,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use super::connect::connect;
use crate::{
    config::Upstream,
    decide::{Addresses, ServerAddresses},
    net::{Buffers, Deadline, Deadlines, Stream, nanos},
    tls,
};

/// A connection to a server, with the deadline slot of its descriptor.
pub struct Connection {
    /// Dropped before the stream: its slot must go before the descriptor.
    pub deadline: Deadline,
    /// The halves.
    pub stream: Stream,
    /// Whom it leads to, which DNS may no longer name.
    pub(super) address: SocketAddr,
    /// The version of its server's addresses that this one was last found in.
    pub(super) version: u64,
    /// It has carried an exchange before, so the server may have closed it meanwhile.
    pub reused: bool,
}

struct Idle {
    connection: Connection,
    since_ns: u64,
}

struct Server {
    addresses: Arc<ServerAddresses>,
    /// The version of the addresses that the idle connections lead to.
    version: Cell<u64>,
    /// Counts the connections, so that each of several addresses gets some.
    turn: Cell<usize>,
    idle: RefCell<Vec<Idle>>,
    /// Exchanges under way, which `least_requests` compares.
    in_flight: Cell<u32>,
}

impl Server {
    fn new(addresses: Arc<ServerAddresses>) -> Self {
        Self {
            addresses,
            version: Cell::new(0),
            turn: Cell::new(0),
            idle: RefCell::default(),
            in_flight: Cell::new(0),
        }
    }

    /// Whether a connection leads to this server still: DNS may have changed while it was in use.
    fn is_at(&self, connection: &mut Connection) -> bool {
        let version = self.version.get();
        connection.version == version || {
            connection.version = version;
            self.addresses.list().contains(&connection.address)
        }
    }

    /// Where DNS has named other addresses meanwhile, closes what leads elsewhere; says how many those were.
    fn follow_addresses(&self) -> usize {
        let version = self.addresses.version();
        if self.version.replace(version) == version {
            return 0;
        }
        let list = self.addresses.list();
        let mut idle = self.idle.borrow_mut();
        let before = idle.len();
        idle.retain_mut(|idle| {
            idle.connection.version = version;
            list.contains(&idle.connection.address)
        });
        before - idle.len()
    }
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
        self.follow_addresses(server);
        loop {
            let idle = server.idle.borrow_mut().pop()?;
            let age_ns = now_ns.saturating_sub(idle.since_ns);
            if u128::from(age_ns) < self.idle_timeout.as_nanos() && idle.connection.stream.is_quiet() {
                return Some(idle.connection);
            }
            self.open.set(self.open.get() - 1);
        }
    }

    fn follow_addresses(&self, server: &Server) {
        self.open.set(self.open.get() - server.follow_addresses());
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
    /// Empty pools for `upstreams`, whose servers are at `addresses`, with the TLS of each.
    pub fn new(upstreams: &[Upstream], addresses: &Addresses, tls: &[Option<tls::Client>]) -> Self {
        let servers = |(index, (upstream, tls)): (usize, (&Upstream, &Option<tls::Client>))| {
            let addresses_of = |server| addresses.get(index, server).map(Arc::clone);
            Servers {
                servers: (0..upstream.servers.len()).filter_map(addresses_of).map(Server::new).collect(),
                open: Cell::new(0),
                open_max: upstream.connections_per_worker,
                idle_max: upstream.idle_per_worker,
                idle_timeout: upstream.idle_timeout,
                connect_timeout: upstream.connect_timeout,
                tls: tls.as_ref().map(tls::Client::for_one_worker),
            }
        };
        Self { upstreams: upstreams.iter().zip(tls).enumerate().map(servers).collect() }
    }

    /// Exchanges under way on a server.
    pub fn in_flight(&self, upstream: usize, server: usize) -> u32 {
        self.upstreams.get(upstream).and_then(|u| u.servers.get(server)).map_or(0, |s| s.in_flight.get())
    }

    /// Whether any server of an upstream has an address.
    pub fn is_resolved(&self, upstream: usize) -> bool {
        let servers = self.upstreams.get(upstream).map_or(&[][..], |upstream| &upstream.servers);
        servers.iter().any(|server| server.addresses.version() > 0)
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
        let turn = entry.turn.replace(entry.turn.get().wrapping_add(1));
        match connect(&entry.addresses, turn, servers.tls.as_ref(), (deadlines, buffers), at_ns).await {
            Ok(connection) => Ok(lease(connection)),
            Err(error) => {
                servers.open.set(servers.open.get() - 1);
                Err(error)
            }
        }
    }

    /// Closes what has been idle for too long, or leads to where its server no longer is.
    pub fn sweep(&self, now_ns: u64) {
        for servers in &self.upstreams {
            for server in &servers.servers {
                servers.follow_addresses(server);
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
        servers.follow_addresses(server);
        let mut idle = server.idle.borrow_mut();
        if idle.len() < servers.idle_max && server.is_at(&mut connection) {
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
