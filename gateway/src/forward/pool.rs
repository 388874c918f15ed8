//! One worker's connections to the servers of all upstreams: idle ones wait last-in-first-out, open ones are counted,
//! and who finds none waits for one in a bounded line (see [`super::gate`]).

use std::{
    cell::{Cell, RefCell},
    io,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use super::{
    connect::connect,
    gate::{Gate, Slot},
    shared::{STREAMS_MAX, SharedConnection, SharedStream},
};
use crate::{
    config::{Upstream, UpstreamProtocol},
    decide::{RetryBudget, ServerAddresses, Snapshot},
    http2::To,
    net::{Buffers, Deadline, Deadlines, Stream, monotonic_ns, nanos},
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
    pub(super) opened_ns: u64,
    /// Counts it as open until the end.
    pub(super) _slot: Slot,
}

struct Idle {
    connection: Box<Connection>,
    since_ns: u64,
}

struct Server {
    addresses: Arc<ServerAddresses>,
    /// The version of the addresses that the idle connections lead to.
    version: Cell<u64>,
    /// Counts the connections, so that each of several addresses gets some.
    turn: Cell<usize>,
    idle: RefCell<Vec<Idle>>,
    /// Connections that exchanges share.
    shared: RefCell<Vec<Rc<SharedConnection>>>,
    /// Such connections that are being opened.
    opening: Cell<usize>,
    /// Streams that the last of them has allowed.
    streams_max: Cell<usize>,
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
            shared: RefCell::default(),
            opening: Cell::new(0),
            streams_max: Cell::new(STREAMS_MAX as usize),
            in_flight: Cell::new(0),
        }
    }

    /// Streams that are free on its connections.
    fn room(&self) -> usize {
        self.shared.borrow().iter().map(|each| each.room()).sum()
    }

    /// Whether a connection leads to this server still: DNS may have changed while it was in use.
    fn is_at(&self, connection: &mut Connection) -> bool {
        let version = self.version.get();
        connection.version == version || {
            connection.version = version;
            self.addresses.list().contains(&connection.address)
        }
    }

    /// Where DNS has named other addresses meanwhile, closes what leads elsewhere.
    fn follow_addresses(&self) {
        let version = self.addresses.version();
        if self.version.replace(version) == version {
            return;
        }
        let list = self.addresses.list();
        self.idle.borrow_mut().retain_mut(|idle| {
            idle.connection.version = version;
            list.contains(&idle.connection.address)
        });
        self.shared.borrow_mut().retain(|shared| {
            shared.version.set(version);
            let stays = list.contains(&shared.address);
            if !stays {
                shared.retire();
            }
            stays
        });
    }
}

/// The servers of one upstream.
struct Servers {
    servers: Vec<Server>,
    gate: Rc<Gate>,
    idle_max: usize,
    idle_ns_max: u64,
    age_ns_max: u64,
    connect_timeout: Duration,
    tls: Option<tls::Client>,
    is_shared: bool,
    budget: RefCell<RetryBudget>,
    /// Nothing is kept for later: connections are one client's alone, or no new exchange will ask for any.
    keeps_nothing: Cell<bool>,
}

/// What a request may go on with.
enum Taken {
    /// A connection that is there.
    Connection(Box<Connection>),
    /// A stream on a connection that others use.
    Stream(Box<SharedStream>),
    /// The right to open one.
    Slot(Slot),
}

impl Servers {
    fn new(upstream: &Upstream, servers: impl Iterator<Item = Server>, tls: Option<&tls::Client>) -> Self {
        Self {
            servers: servers.collect(),
            gate: Gate::new(upstream.connections_per_worker, upstream.connections_pending),
            idle_max: upstream.idle_per_worker,
            idle_ns_max: nanos(upstream.idle_timeout),
            age_ns_max: upstream.connection_age_max.map_or(u64::MAX, nanos),
            connect_timeout: upstream.connect_timeout,
            tls: tls.map(tls::Client::for_one_worker),
            is_shared: upstream.protocol == UpstreamProtocol::Http2,
            budget: RefCell::new(RetryBudget::new(upstream.retry.budget_percent)),
            keeps_nothing: Cell::new(upstream.proxy_protocol.is_some()),
        }
    }

    /// An idle connection of `server` (unless it is to be a `fresh` one), or a slot for another.
    fn take(
        &self,
        server: &Server,
        wanted: &Wanted<'_>,
        deadlines: &Rc<Deadlines>,
        was_called: bool,
        now_ns: u64,
    ) -> Option<Taken> {
        let fresh = wanted.fresh;
        if self.is_shared {
            if let Some(stream) = self.take_stream(server, wanted, deadlines, now_ns) {
                return Some(Taken::Stream(stream));
            }
            // Those that are being opened will have room for so many, each beside whom it is opened for.
            let others = self.gate.waiting() + usize::from(!was_called);
            if others <= server.opening.get() * server.streams_max.get().saturating_sub(1) {
                return None;
            }
        }
        if !fresh && let Some(connection) = self.take_idle(server, now_ns) {
            return Some(Taken::Connection(connection));
        }
        // Idle ones count as open, but must not stand in the way of one that is needed.
        let slot = self.gate.open().or_else(|| self.close_idle().then(|| self.gate.open()).flatten());
        slot.map(Taken::Slot)
    }

    /// What needs no new connection.
    fn take_free(
        &self,
        server: &Server,
        wanted: &Wanted<'_>,
        deadlines: &Rc<Deadlines>,
        now_ns: u64,
    ) -> Option<Taken> {
        if self.is_shared {
            return self.take_stream(server, wanted, deadlines, now_ns).map(Taken::Stream);
        }
        if wanted.fresh { None } else { self.take_idle(server, now_ns).map(Taken::Connection) }
    }

    /// A stream on the connection of `server` that has the fewest.
    fn take_stream(
        &self,
        server: &Server,
        wanted: &Wanted<'_>,
        deadlines: &Rc<Deadlines>,
        now_ns: u64,
    ) -> Option<Box<SharedStream>> {
        server.follow_addresses();
        let mut shared = server.shared.borrow_mut();
        shared.retain(|each| {
            let is_young = now_ns.saturating_sub(each.opened_ns) < self.age_ns_max;
            if !is_young {
                each.retire();
            }
            let is_open = each.is_open();
            if !is_open {
                each.retire();
            }
            is_open
        });
        let least = shared.iter().filter(|each| each.room() > 0).min_by_key(|each| each.streams())?;
        least.stream(deadlines, wanted.to)
    }

    /// The connection that was used last, of those that are neither too old nor have heard anything meanwhile.
    fn take_idle(&self, server: &Server, now_ns: u64) -> Option<Box<Connection>> {
        server.follow_addresses();
        loop {
            let idle = server.idle.borrow_mut().pop()?;
            if self.may_be_kept(&idle, now_ns) && idle.connection.stream.is_quiet() {
                return Some(idle.connection);
            }
        }
    }

    fn may_be_kept(&self, idle: &Idle, now_ns: u64) -> bool {
        now_ns.saturating_sub(idle.since_ns) < self.idle_ns_max
            && now_ns.saturating_sub(idle.connection.opened_ns) < self.age_ns_max
    }

    /// Waits in line for a connection or a slot; says whose it is.
    async fn wait(
        &self,
        wanted: &Wanted<'_>,
        deadlines: &Rc<Deadlines>,
        at_ns: u64,
    ) -> Result<(usize, Taken), CheckoutError> {
        let place = self.gate.line_up().ok_or(CheckoutError::Exhausted)?;
        loop {
            let left = Duration::from_nanos(at_ns.saturating_sub(monotonic_ns()));
            let free = place.called(left).await.ok_or(CheckoutError::Pending)?;
            let now_ns = monotonic_ns();
            // Better what is there than a new connection to the server that was picked.
            let free = free.filter(|free| !wanted.tried.contains(free));
            let there = free.and_then(|free| {
                let taken = self.take_free(self.servers.get(free)?, wanted, deadlines, now_ns);
                taken.map(|taken| (free, taken))
            });
            let taken = there.or_else(|| {
                let taken = self.take(self.servers.get(wanted.server)?, wanted, deadlines, true, now_ns);
                taken.map(|taken| (wanted.server, taken))
            });
            if let Some(taken) = taken {
                // Where one stream is free, more may be.
                if self.is_shared {
                    self.gate.call_next(None);
                }
                return Ok(taken);
            }
        }
    }

    fn give_back(&self, server: usize, mut connection: Box<Connection>, now_ns: u64) {
        let Some(entry) = self.servers.get(server) else { return };
        entry.follow_addresses();
        let here = entry.is_at(&mut connection) && !self.keeps_nothing.get();
        let idle = Idle { connection, since_ns: now_ns };
        let mut waiting = entry.idle.borrow_mut();
        // In a line, the one that is called takes it at once.
        let room = waiting.len() < self.idle_max || self.gate.is_waited_at();
        if here && room && self.may_be_kept(&idle, now_ns) {
            waiting.push(idle);
            drop(waiting);
            self.gate.call_next(Some(server));
        }
    }

    /// Closes the connection that has been idle for longest, whichever server's; false: there is none.
    fn close_idle(&self) -> bool {
        let oldest = |server: &Server| server.idle.borrow().first().map(|idle| idle.since_ns);
        let waiting = self.servers.iter().filter_map(|server| Some((oldest(server)?, server)));
        let Some((_, server)) = waiting.min_by_key(|(since_ns, _)| *since_ns) else { return false };
        let closed = server.idle.borrow_mut().remove(0);
        drop(closed);
        true
    }

    fn sweep(&self, now_ns: u64) {
        for server in &self.servers {
            server.follow_addresses();
            server.idle.borrow_mut().retain(|idle| self.may_be_kept(idle, now_ns));
            server.shared.borrow_mut().retain(|each| {
                let is_idle = each.streams() == 0
                    && now_ns.saturating_sub(each.idle_since_ns.get()) >= self.idle_ns_max;
                if is_idle || now_ns.saturating_sub(each.opened_ns) >= self.age_ns_max {
                    each.retire();
                }
                each.is_open()
            });
        }
    }

    fn retire(&self) {
        self.keeps_nothing.set(true);
        for server in &self.servers {
            server.idle.borrow_mut().clear();
            server.shared.borrow_mut().drain(..).for_each(|each| each.retire());
        }
    }
}

/// The pools of one worker for one policy snapshot; indices are those of the configuration.
pub struct Pool {
    upstreams: Vec<Rc<Servers>>,
}

/// Which connection is asked for.
pub struct Wanted<'w> {
    /// The upstream.
    pub upstream: usize,
    /// Its server that was picked.
    pub server: usize,
    /// Servers that will not do.
    pub tried: &'w [usize],
    /// One that nobody has used yet.
    pub fresh: bool,
    /// Sent first, on a new connection that nobody else will use.
    pub introduction: Option<&'w [u8]>,
    /// There is no use for one after this.
    pub deadline_ns: u64,
    /// What is asked.
    pub to: To,
}

/// Why there is no connection.
#[derive(Debug)]
pub enum CheckoutError {
    /// `connections.per_worker` are open, all of them are busy, and `connections.pending` requests wait for one.
    Exhausted,
    /// None became free in time.
    Pending,
    /// We have no descriptor left for one.
    NoDescriptor,
    /// The server did not answer in time.
    Timeout,
    /// The server could not be reached.
    Unreachable(io::Error),
    /// No TLS with it: it does not speak it, or is not whom it should be.
    Tls(io::Error),
    /// It speaks HTTP/2 and makes no WebSockets of its streams.
    NoWebSockets,
}

impl Pool {
    /// The pools for the upstreams of `snapshot`. Those of upstreams that are as they were `before` go on.
    pub fn of(snapshot: &Snapshot, before: Option<(&Self, &Snapshot)>) -> Self {
        let unchanged = |upstream: &Upstream| {
            let (pool, old) = before?;
            let at = old.config.upstreams.iter().position(|other| other == upstream)?;
            pool.upstreams.get(at).map(Rc::clone)
        };
        let servers = |(index, upstream): (usize, &Upstream)| {
            unchanged(upstream).unwrap_or_else(|| {
                let addresses = |server| snapshot.addresses.get(index, server).map(Arc::clone);
                let servers = (0..upstream.servers.len()).filter_map(addresses).map(Server::new);
                let tls = snapshot.upstream_tls.get(index).and_then(Option::as_ref);
                Rc::new(Servers::new(upstream, servers, tls))
            })
        };
        Self { upstreams: snapshot.config.upstreams.iter().enumerate().map(servers).collect() }
    }

    /// Closes what is idle of the upstreams that `successor` does not go on with; exchanges under way end as they
    /// would, and their connections are closed then.
    pub fn retire(&self, successor: &Self) {
        for servers in &self.upstreams {
            if !successor.upstreams.iter().any(|other| Rc::ptr_eq(other, servers)) {
                servers.retire();
            }
        }
    }

    /// Asks an upstream's budget of retries.
    pub(super) fn budget<T>(&self, upstream: usize, ask: impl FnOnce(&mut RetryBudget) -> T) -> Option<T> {
        Some(ask(&mut self.upstreams.get(upstream)?.budget.borrow_mut()))
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

    /// An idle connection that is still quiet, or a new one; where neither is to be had, the next that is free,
    /// which may be another server's.
    pub async fn check_out(
        &self,
        wanted: &Wanted<'_>,
        tools: (&Rc<Deadlines>, &Rc<Buffers>),
        now_ns: u64,
    ) -> Result<Lease, CheckoutError> {
        let unknown = || CheckoutError::Unreachable(io::ErrorKind::NotFound.into());
        let servers = self.upstreams.get(wanted.upstream).ok_or_else(unknown)?;
        let entry = servers.servers.get(wanted.server).ok_or_else(unknown)?;
        let soon =
            |now_ns: u64| now_ns.saturating_add(nanos(servers.connect_timeout)).min(wanted.deadline_ns);
        let first = entry.room() > servers.gate.waiting() || !servers.gate.is_waited_at();
        let (server, taken) =
            match first.then(|| servers.take(entry, wanted, tools.0, false, now_ns)).flatten() {
                Some(taken) => (wanted.server, taken),
                None => servers.wait(wanted, tools.0, soon(now_ns)).await?,
            };
        let told = wanted.introduction;
        let mut lease = Lease::new(Rc::clone(servers), server);
        let carrier = match taken {
            Taken::Connection(connection) => Carrier::Own(connection),
            Taken::Stream(stream) => Carrier::Shared(stream),
            Taken::Slot(slot) => {
                let turn = entry.turn.replace(entry.turn.get().wrapping_add(1));
                // What was waited is not taken off what the connection may take.
                let at_ns = soon(monotonic_ns());
                let opening = servers.is_shared.then(|| Opening::new(entry));
                let connection =
                    connect(&entry.addresses, turn, servers.tls.as_ref(), tools, told, (slot, at_ns)).await;
                match opening {
                    None => Carrier::Own(Box::new(connection?)),
                    Some(opening) => {
                        let shared = servers.share(entry, connection, wanted, tools, at_ns).await;
                        drop(opening);
                        // Those who waited for it look again: for their streams, or for connections of their own.
                        servers.gate.call_all(shared.is_ok().then_some(server));
                        Carrier::Shared(shared?)
                    }
                }
            }
        };
        let has_websockets = carrier.has_websockets();
        // From here on it is given back, whatever becomes of it.
        lease.carrier = Some(carrier);
        if matches!(wanted.to, To::WebSocket(_)) && !has_websockets {
            return Err(CheckoutError::NoWebSockets);
        }
        Ok(lease)
    }

    /// Closes what has been idle for too long or has become too old, or leads to where its server no longer is.
    pub fn sweep(&self, now_ns: u64) {
        for servers in &self.upstreams {
            servers.sweep(now_ns);
        }
    }
}

impl Servers {
    /// Makes a new connection one that is shared, and takes its first stream.
    async fn share(
        &self,
        entry: &Server,
        connection: Result<Connection, CheckoutError>,
        wanted: &Wanted<'_>,
        (deadlines, buffers): (&Rc<Deadlines>, &Rc<Buffers>),
        at_ns: u64,
    ) -> Result<Box<SharedStream>, CheckoutError> {
        let left = Duration::from_nanos(at_ns.saturating_sub(monotonic_ns()));
        let shared = SharedConnection::open(connection?, buffers, left).await;
        let shared = shared.map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut => CheckoutError::Timeout,
            _ => CheckoutError::Unreachable(error),
        })?;
        entry.streams_max.set(shared.room());
        let stream = shared.stream(deadlines, wanted.to);
        if !self.keeps_nothing.get() {
            entry.shared.borrow_mut().push(shared);
        }
        stream.ok_or(CheckoutError::Exhausted)
    }
}

/// Counts a connection as being opened, however that ends.
struct Opening<'s>(&'s Server);

impl<'s> Opening<'s> {
    fn new(server: &'s Server) -> Self {
        server.opening.set(server.opening.get() + 1);
        Self(server)
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.0.opening.set(self.0.opening.get() - 1);
    }
}

/// What carries an exchange to a server.
pub enum Carrier {
    /// A connection of its own for that time.
    Own(Box<Connection>),
    /// A stream beside others.
    Shared(Box<SharedStream>),
}

impl Carrier {
    /// Whether a WebSocket can be had: on a stream, where the server offers it.
    fn has_websockets(&self) -> bool {
        match self {
            Self::Own(_) => true,
            Self::Shared(stream) => stream.connection.has_websockets(),
        }
    }
}

/// A connection on loan. Dropped, it is closed; [`Lease::give_back`] keeps it for the next exchange.
pub struct Lease {
    servers: Rc<Servers>,
    server: usize,
    carrier: Option<Carrier>,
}

impl Lease {
    /// Counts as an exchange under way from now on.
    fn new(servers: Rc<Servers>, server: usize) -> Self {
        if let Some(entry) = servers.servers.get(server) {
            entry.in_flight.set(entry.in_flight.get() + 1);
        }
        Self { servers, server, carrier: None }
    }

    /// Whose connection it is.
    pub fn server(&self) -> usize {
        self.server
    }

    /// What it is.
    #[expect(clippy::expect_used, reason = "taken only by give_back, which consumes the lease")]
    pub fn carrier(&mut self) -> &mut Carrier {
        self.carrier.as_mut().expect("a lease holds its connection until it is given back")
    }

    /// Whether the connection has carried an exchange before, so that its server may have closed it meanwhile.
    pub fn is_reused(&self) -> bool {
        match &self.carrier {
            Some(Carrier::Own(own)) => own.reused,
            Some(Carrier::Shared(shared)) => shared.reused,
            None => false,
        }
    }

    /// Returns a connection on which the exchange ended cleanly.
    pub fn give_back(mut self, now_ns: u64) {
        if !matches!(self.carrier, Some(Carrier::Own(_))) {
            return;
        }
        let Some(Carrier::Own(mut connection)) = self.carrier.take() else { return };
        connection.reused = true;
        connection.deadline.disarm();
        self.servers.give_back(self.server, connection, now_ns);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(server) = self.servers.servers.get(self.server) {
            server.in_flight.set(server.in_flight.get().saturating_sub(1));
        }
        // A stream has ended: there is room for another.
        if let Some(Carrier::Shared(stream)) = self.carrier.take() {
            drop(stream);
            self.servers.gate.call_next(Some(self.server));
        }
    }
}
