//! A worker: its listeners, its connections, its sweep, its end.

use std::{
    cell::{Cell, RefCell},
    net::{IpAddr, SocketAddr},
    pin::{Pin, pin},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::mpsc;

use super::{
    Connection,
    ask::{Desk, deliver},
    begin,
    introduce::Ends,
    seats::Seats,
    serve_connection,
};
use crate::{
    codec::HttpDate,
    config,
    decide::{
        Inquiry, Memory, Pressure, Replays, Snapshot, balance,
        crowd::{Crowd, Place},
        known::{self, Known},
        limit, memory,
    },
    forward::{Encoders, Heads, Pool, Tools},
    net::{
        self, Accepted, Buffers, Deadlines, Pace, Phase, Pipes, SWEEP_INTERVAL, Stream, Waits, contain,
        monotonic_ns, nanos, unix_s,
    },
    respond::{Offence, RequestId},
    telemetry::{AccessLog, Bound, Cells, Refusals},
    tls,
};

/// Pause after an accept error, and while no descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Time for tunnels that outlive `drain_timeout` to be cut and recorded, in ns.
const CUT_NS: u64 = 1_000_000_000;

/// What a worker is given at birth. All of it is made by `boot` and may cross threads.
pub struct Equipment {
    /// Which worker this is.
    pub index: usize,
    /// The policy, swapped whole by the control thread.
    pub snapshot: Arc<arc_swap::ArcSwap<Snapshot>>,
    /// Token buckets of all workers.
    pub limiter: Arc<limit::Table>,
    /// Proofs that were shown to any worker.
    pub replays: Arc<Replays>,
    /// Connections by source, of all workers.
    pub crowd: Arc<Crowd>,
    /// Sources that pass before strangers under attack, of all workers.
    pub known: Arc<Known>,
    /// This worker's counters.
    pub cells: Arc<Cells>,
    /// To the control thread; full means counted, never waited for.
    pub offences: mpsc::Sender<Offence>,
    /// To whoever knows of credentials what cannot be told here.
    pub inquiries: mpsc::Sender<Inquiry>,
    /// This worker's end of the access log.
    pub access: AccessLog,
    /// This worker's end of the audit log.
    pub refusals: Refusals,
    /// Random, of this worker and this run.
    pub id_prefix: u64,
    /// Connections at once.
    pub connections_max: usize,
    /// Bytes of buffers in use, past which new requests are refused.
    pub buffer_bytes_max: usize,
    /// Set once, when no new connections are wanted.
    pub draining: Arc<AtomicBool>,
    /// How long open connections may take to finish then.
    pub drain_timeout: Duration,
}

/// A listening socket and how connections on it are served.
pub struct Door {
    /// Bound and listening.
    pub socket: std::net::TcpListener,
    /// Its section.
    pub settings: config::Listener,
    /// Its certificates, or none: what stands there counts for the next handshake.
    pub tls: Option<Arc<arc_swap::ArcSwap<tls::Server>>>,
}

/// How connections of one listener are served.
pub(super) struct Manners {
    pub(super) settings: config::Listener,
    pub(super) tls: Option<Arc<arc_swap::ArcSwap<tls::Server>>>,
}

impl Manners {
    /// `http` or `https`.
    pub(super) fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// How slow a client may be with a body.
    pub(super) fn pace(&self) -> Pace {
        Pace {
            idle_ns: nanos(self.settings.timeouts.body_idle),
            rate_min: self.settings.limits.body_rate_min,
        }
    }
}

/// The policy that a worker goes by at the moment, and what belongs to it alone.
pub(super) struct Current {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) pool: Rc<Pool>,
    /// Per upstream, where round robin stands.
    pub(super) turns: RefCell<Vec<u32>>,
    /// Whose credentials were found good lately.
    pub(super) memory: RefCell<Memory>,
}

impl Current {
    fn new(snapshot: Arc<Snapshot>, before: Option<&Self>) -> Rc<Self> {
        let upstreams = &snapshot.config.upstreams;
        let pool = Rc::new(Pool::of(&snapshot, before.map(|before| (&*before.pool, &*before.snapshot))));
        let turns = RefCell::new(vec![0; upstreams.len()]);
        let memory = RefCell::new(Memory::new(memory::BYTES_MAX));
        Rc::new(Self { snapshot, pool, turns, memory })
    }
}

/// All that a worker's connections share. Lives on one thread.
pub(super) struct Worker {
    pub(super) tools: Tools,
    pub(super) limiter: Arc<limit::Table>,
    pub(super) replays: Arc<Replays>,
    crowd: Arc<Crowd>,
    pub(super) known: Arc<Known>,
    pub(super) cells: Arc<Cells>,
    pub(super) access: RefCell<AccessLog>,
    pub(super) refusals: RefCell<Refusals>,
    pub(super) draining: Cell<bool>,
    /// `Date` of our own answers and of responses that came without one; the sweep keeps it.
    pub(super) date: RefCell<HttpDate>,
    /// Connections that wait for a request with a receive buffer in hand, which the sweep calls back.
    pub(super) waits: Waits,
    /// How many they are.
    pub(super) waiting: Cell<usize>,
    /// Tasks that wait for streams of HTTP/2.
    pub(super) seats: Seats,
    pub(super) desk: Desk,
    policy: RefCell<arc_swap::Cache<Arc<arc_swap::ArcSwap<Snapshot>>, Arc<Snapshot>>>,
    current: RefCell<Rc<Current>>,
    offences: mpsc::Sender<Offence>,
    id_prefix: u64,
    id_count: Cell<u64>,
    random: Cell<u64>,
    connections: Cell<usize>,
    connections_max: usize,
}

impl Worker {
    fn new(equipment: Equipment, desk: Desk) -> Rc<Self> {
        let snapshot = equipment.snapshot.load_full();
        Rc::new(Self {
            tools: Tools {
                buffers: Rc::new(Buffers::new(equipment.buffer_bytes_max)),
                deadlines: Deadlines::new(),
                heads: Heads::default(),
                encoders: Encoders::default(),
                pipes: Pipes::default(),
            },
            limiter: equipment.limiter,
            replays: equipment.replays,
            crowd: equipment.crowd,
            known: equipment.known,
            cells: equipment.cells,
            access: RefCell::new(equipment.access),
            refusals: RefCell::new(equipment.refusals),
            draining: Cell::new(false),
            date: RefCell::new(HttpDate::new(unix_s())),
            waits: Waits::default(),
            waiting: Cell::new(0),
            seats: Seats::default(),
            desk,
            policy: RefCell::new(arc_swap::Cache::new(equipment.snapshot)),
            current: RefCell::new(Current::new(snapshot, None)),
            offences: equipment.offences,
            id_prefix: equipment.id_prefix,
            id_count: Cell::new(0),
            random: Cell::new(equipment.id_prefix | 1),
            connections: Cell::new(0),
            connections_max: equipment.connections_max,
        })
    }

    /// The newest policy, asked for once per request.
    pub(super) fn current(&self) -> Rc<Current> {
        let mut policy = self.policy.borrow_mut();
        let newest = policy.load();
        let mut current = self.current.borrow_mut();
        if !Arc::ptr_eq(newest, &current.snapshot) {
            let next = Current::new(Arc::clone(newest), Some(&**current));
            current.pool.retire(&next.pool);
            *current = next;
        }
        Rc::clone(&current)
    }

    pub(super) fn next_request_id(&self) -> RequestId {
        let count = self.id_count.get();
        self.id_count.set(count + 1);
        RequestId::new(self.id_prefix, count)
    }

    /// A live server of `upstream` that is not among those that have failed.
    pub(super) fn pick(&self, current: &Current, upstream: usize, failed: &[usize]) -> Option<usize> {
        let snapshot = &current.snapshot;
        let servers = balance::Servers {
            live: &|server| {
                snapshot.live.is_live(upstream, server) && snapshot.addresses.is_resolved(upstream, server)
            },
            in_flight: &|server| current.pool.in_flight(upstream, server),
            tried: failed,
        };
        let mut turns = current.turns.borrow_mut();
        snapshot.balancers.get(upstream)?.pick(&servers, turns.get_mut(upstream)?, self.next_random())
    }

    /// Xorshift: spreads load, guards nothing.
    pub(super) fn next_random(&self) -> u64 {
        let mut random = self.random.get();
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        self.random.set(random);
        random
    }

    /// A consumer has proved who it is in a request that came from this source.
    pub(super) fn note_proven(&self, source: IpAddr, snapshot: &Snapshot, now_ns: u64) {
        if let Some(source) = source_at_nic(source, &snapshot.config) {
            self.known.note_proven(source, now_ns);
        }
    }

    /// Something went well on a connection: where that is so for long, its source is known.
    pub(super) fn note_steady(&self, ends: &Ends, snapshot: &Snapshot, now_ns: u64) {
        let Some(long_lived) = snapshot.config.under_attack.long_lived else { return };
        // The packets of whom a forwarder names are the forwarder's.
        if ends.is_told || ends.good_for_s(now_ns) < long_lived.as_secs() {
            return;
        }
        if let Some(source) = source_at_nic(ends.peer, &snapshot.config) {
            self.known.note_steady(source, now_ns);
        }
    }

    pub(super) fn report(&self, offence: Offence) {
        if self.offences.try_send(offence).is_err() {
            self.cells.bound_hit(Bound::OffenceQueue);
        }
    }
}

/// Serves until it has drained. Runs on the worker's own ring.
pub async fn run(equipment: Equipment, doors: Vec<Door>) {
    let (draining, drain_timeout) = (Arc::clone(&equipment.draining), equipment.drain_timeout);
    let (desk, mailbox) = match Desk::new(equipment.inquiries.clone()) {
        Ok(made) => made,
        Err(error) => return log::error!("worker {}: {error}", equipment.index),
    };
    let worker = Worker::new(equipment, desk);
    net::spawn(deliver(Rc::clone(&worker), mailbox));
    let mut listening = Vec::new();
    for door in doors {
        let listener = match net::Listener::new(door.socket) {
            Ok(listener) => listener,
            Err(error) => {
                log::error!("listener {}: {error}", door.settings.name);
                continue;
            }
        };
        listening.push(listener.fd());
        let manners = Rc::new(Manners { settings: door.settings, tls: door.tls });
        net::spawn(accept(Rc::clone(&worker), listener, manners));
    }
    while !draining.load(Ordering::Relaxed) {
        sweep(&worker).await;
    }
    worker.draining.set(true);
    for fd in listening {
        // SAFETY: touches no memory; the accept task owns the descriptor and closes it only after this ends its wait.
        unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
    }
    let give_up_ns = monotonic_ns().saturating_add(nanos(drain_timeout));
    while worker.connections.get() > 0 && monotonic_ns() < give_up_ns {
        for phase in [Phase::KeepAlive, Phase::Drain] {
            worker.tools.deadlines.expire(phase);
        }
        sweep(&worker).await;
    }
    // What has not ended by itself is cut, and still told to the log.
    for phase in [Phase::Tunnel, Phase::Send] {
        worker.tools.deadlines.expire(phase);
    }
    let given_up_ns = monotonic_ns().saturating_add(CUT_NS);
    while worker.cells.has_tunnels() && monotonic_ns() < given_up_ns {
        sweep(&worker).await;
    }
    worker.access.borrow_mut().flush();
    worker.refusals.borrow_mut().flush(unix_s());
}

/// One turn of the housekeeping: late connections, buffers that wait in vain, idle upstream connections, what the logs
/// have gathered.
async fn sweep(worker: &Rc<Worker>) {
    net::sleep(SWEEP_INTERVAL).await;
    worker.cells.swept();
    let now_ns = monotonic_ns();
    worker.tools.deadlines.sweep(now_ns);
    worker.waits.turn();
    for _ in 0..worker.tools.deadlines.take_fired() {
        worker.cells.bound_hit(Bound::Deadlines);
    }
    worker.current().pool.sweep(now_ns);
    worker.date.borrow_mut().refresh(unix_s());
    worker.access.borrow_mut().flush();
    worker.refusals.borrow_mut().flush(unix_s());
}

async fn accept(worker: Rc<Worker>, mut listener: net::Listener, manners: Rc<Manners>) {
    let mut is_short = false;
    loop {
        match listener.accept().await {
            Ok(Accepted::Connection(stream, peer)) => {
                is_short = false;
                admit(&worker, stream, peer, &manners);
            }
            Ok(Accepted::Shed) => worker.cells.bound_hit(Bound::Descriptors),
            Ok(Accepted::Short) => {
                if !is_short {
                    is_short = true;
                    log::warn!("no descriptor is left for connections to {}", manners.settings.address);
                }
                net::sleep(ACCEPT_PAUSE).await;
            }
            Ok(Accepted::Closed) => break,
            Err(error) => {
                log::warn!("accept on {}: {error}", manners.settings.address);
                net::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn admit(worker: &Rc<Worker>, stream: Stream, peer: SocketAddr, manners: &Rc<Manners>) {
    if worker.connections.get() >= worker.connections_max {
        worker.cells.bound_hit(Bound::Connections);
        return;
    }
    if worker.known.pressure() == Pressure::Attack
        && is_one_stranger_too_many(worker, peer.ip(), &manners.settings)
    {
        worker.cells.bound_hit(Bound::Strangers);
        return;
    }
    let Ok(place) = find_place(worker, peer.ip().to_canonical(), &manners.settings) else {
        worker.cells.bound_hit(Bound::ConnectionsPerSource);
        return;
    };
    worker.connections.set(worker.connections.get() + 1);
    worker.cells.connection_opened();
    // Outside of the task, which keeps all that it is given.
    let begun = Box::pin(begin(Rc::clone(worker), stream, (peer, place), Rc::clone(manners)));
    net::spawn(hold(Rc::clone(worker), peer.ip(), begun));
}

/// A connection's task.
async fn hold(worker: Rc<Worker>, peer: IpAddr, begun: Pin<Box<impl Future<Output = Option<Connection>>>>) {
    if contain(pin!(serve_connection(begun))).await.is_none() {
        worker.cells.bound_hit(Bound::Panics);
        log::error!("a connection from {peer} was dropped: its task panicked");
    }
    worker.cells.connection_closed();
    worker.connections.set(worker.connections.get() - 1);
}

/// Under attack the rest of the room is for those of whom something good is known, and for who speaks for others.
fn is_one_stranger_too_many(worker: &Worker, peer: IpAddr, listener: &config::Listener) -> bool {
    let current = worker.current();
    let config = &current.snapshot.config;
    let percent = usize::try_from(config.under_attack.strangers_percent).unwrap_or(100);
    if worker.connections.get() < worker.connections_max.saturating_mul(percent) / 100 {
        return false;
    }
    let peer = peer.to_canonical();
    let trusted = listener.trusted_proxies.iter().chain(&listener.proxy_protocol_from);
    if trusted.chain(&config.prefilter.allow).any(|prefix| prefix.contains(&peer)) {
        return false;
    }
    let since_ns = monotonic_ns().saturating_sub(nanos(config.escalation.known_for));
    !source_at_nic(peer, config).is_some_and(|source| worker.known.is_known(source, since_ns))
}

/// An address as the filter counts it.
fn source_at_nic(address: IpAddr, config: &config::Config) -> Option<known::Source> {
    known::Source::of(address, (config.prefilter.source_prefix_v4, config.prefilter.source_prefix_v6))
}

/// The peer's place in the crowd, where it needs one: behind a trusted proxy or a forwarder stand many sources, of
/// which a forwarder names one at once.
///
/// # Errors
/// It has as many connections as it may have.
pub(super) fn find_place(
    worker: &Worker,
    peer: IpAddr,
    listener: &config::Listener,
) -> Result<Option<Place>, ()> {
    let Some(max) = listener.limits.connections_per_source else { return Ok(None) };
    let mut many = listener.trusted_proxies.iter().chain(&listener.proxy_protocol_from);
    if many.any(|prefix| prefix.contains(&peer)) {
        return Ok(None);
    }
    let place = worker.crowd.enter(&listener.name, peer, max).ok_or(())?;
    if !place.is_counted() {
        worker.cells.bound_hit(Bound::Crowd);
    }
    Ok(Some(place))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The most that the task of an idle connection may take: with the runtime's own, it fits a block of 512 bytes. What
    /// only a request needs is boxed.
    const IDLE_BYTES_MAX: usize = 432;

    fn future_bytes<A, F: Future>(_: impl Fn(Rc<Worker>, A) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn an_idle_connection_keeps_no_room_for_a_request() {
        type Accepted = (Stream, SocketAddr, Rc<Manners>);
        let bytes = future_bytes(|worker, (stream, peer, manners): Accepted| {
            hold(Rc::clone(&worker), peer.ip(), Box::pin(begin(worker, stream, (peer, None), manners)))
        });
        assert!(bytes <= IDLE_BYTES_MAX, "{bytes}");
    }
}
