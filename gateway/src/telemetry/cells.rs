//! A worker's counters: plain cells with one writer, so that a count costs a load and a store (0.65 ns where the
//! metrics crate's handle costs 4 to 21).

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::config;

/// Routes that are counted apart, those of earlier configurations among them; further ones share the last slot.
pub const ROUTES_MAX: usize = 2 * config::ROUTES_MAX;
/// Servers that are counted apart, over all upstreams; further ones share the last slot.
pub const SERVERS_MAX: usize = 1024;
/// Reasons of refusals that are counted apart.
pub const REFUSALS_MAX: usize = 64;
/// Upper bounds of the latency buckets, in µs; the last bucket has none.
pub const LATENCY_BOUNDS_US: [u64; 18] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000,
];

const STATUSES: usize = 600;
const CLASSES: usize = 5;

/// Routes whose cells are made together, when the first of them is counted.
const ROUTES_PER_CHUNK: usize = 1024;
const CHUNKS: usize = ROUTES_MAX / ROUTES_PER_CHUNK;

const _: () = assert!(ROUTES_MAX.is_multiple_of(ROUTES_PER_CHUNK));

/// A bound that was hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// `runtime.connections_max`
    Connections,
    /// `listeners.*.limits.connections_per_source`
    ConnectionsPerSource,
    /// The table of connections by source had no slot for one: it was let in uncounted.
    Crowd,
    /// `under_attack.strangers`
    Strangers,
    /// `runtime.buffers_max`
    Buffers,
    /// The process had no descriptor left.
    Descriptors,
    /// The queue of offences was full.
    OffenceQueue,
    /// The queue of the access log was full.
    AccessQueue,
    /// The queue of the audit log was full.
    AuditQueue,
    /// All connections to an upstream were busy, and the line for them was full.
    Pool,
    /// No connection to an upstream became free in time.
    PoolWait,
    /// `retry.budget`: a request was not sent again.
    RetryBudget,
    /// `listeners.*.limits.body_rate_min`
    BodyRate,
    /// A deadline passed: idle connections among them.
    Deadlines,
    /// A response went out as it was, for want of an encoder.
    Encoders,
    /// `listeners.*.limits.streams`: a stream was refused whose client had reset others that are still at work.
    Http2Streams,
    /// Too many credentials were being asked about: a request was answered with 503.
    Inquiries,
    /// A client sent too many frames of HTTP/2 that carry nothing, or reset too many streams; it was cut off.
    Http2Frames,
    /// A connection's task panicked. Not a bound, but as rare and as worth seeing.
    Panics,
}

impl Bound {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 19] = [
        Self::Connections,
        Self::ConnectionsPerSource,
        Self::Crowd,
        Self::Strangers,
        Self::Buffers,
        Self::Descriptors,
        Self::OffenceQueue,
        Self::AccessQueue,
        Self::AuditQueue,
        Self::Pool,
        Self::PoolWait,
        Self::RetryBudget,
        Self::BodyRate,
        Self::Deadlines,
        Self::Encoders,
        Self::Http2Streams,
        Self::Inquiries,
        Self::Http2Frames,
        Self::Panics,
    ];

    /// Its label in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::ConnectionsPerSource => "connections_per_source",
            Self::Crowd => "connections_per_source_table",
            Self::Strangers => "strangers",
            Self::Buffers => "buffers",
            Self::Descriptors => "descriptors",
            Self::OffenceQueue => "offence_queue",
            Self::AccessQueue => "access_queue",
            Self::AuditQueue => "audit_queue",
            Self::Pool => "upstream_pool",
            Self::PoolWait => "upstream_pool_wait",
            Self::RetryBudget => "retry_budget",
            Self::BodyRate => "body_rate_min",
            Self::Deadlines => "deadlines",
            Self::Encoders => "encoders",
            Self::Http2Streams => "http2_streams",
            Self::Inquiries => "inquiries",
            Self::Http2Frames => "http2_frames",
            Self::Panics => "panics",
        }
    }
}

/// How a TLS handshake failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandshakeFailure {
    /// The client left, or did not finish in time.
    Left,
    /// It refused us: it does not trust the certificate, for example.
    Alert,
    /// It speaks nothing that we speak.
    Incompatible,
    /// It asked for a name that no certificate has.
    UnrecognizedName,
    /// Its certificate is missing, or is not one that we trust.
    ClientCertificate,
    /// It broke the protocol.
    Malformed,
}

impl HandshakeFailure {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 6] = [
        Self::Left,
        Self::Alert,
        Self::Incompatible,
        Self::UnrecognizedName,
        Self::ClientCertificate,
        Self::Malformed,
    ];

    /// Its label in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Alert => "alert",
            Self::Incompatible => "incompatible",
            Self::UnrecognizedName => "unrecognized_name",
            Self::ClientCertificate => "client_certificate",
            Self::Malformed => "malformed",
        }
    }
}

/// What happened between us and a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamEvent {
    /// A new connection.
    Connected,
    /// A pooled connection.
    Reused,
    /// The request was sent again.
    Retried,
    /// The server could not be reached, or failed the exchange.
    Failed,
}

impl UpstreamEvent {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 4] = [Self::Connected, Self::Reused, Self::Retried, Self::Failed];

    /// Its label in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Reused => "reused",
            Self::Retried => "retried",
            Self::Failed => "failed",
        }
    }
}

/// One counter. Only its worker writes it; whoever reads it sees a value that was true a moment ago.
#[derive(Debug, Default)]
struct Cell(AtomicU64);

impl Cell {
    fn add(&self, count: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

fn cells<const N: usize>() -> [Cell; N] {
    std::array::from_fn(|_| Cell::default())
}

/// Requests by class of status, then by route, so that routes that answer well lie close together: 40 KiB.
type Chunk = [[Cell; ROUTES_PER_CHUNK]; CLASSES];

/// All counters of one worker, about 50 KiB and 40 KiB for each thousand routes that have been seen.
#[derive(Debug)]
#[repr(align(128))]
pub struct Cells {
    statuses: Box<[Cell; STATUSES]>,
    refusals: Box<[Cell; REFUSALS_MAX]>,
    routes: Box<[OnceLock<Box<Chunk>>; CHUNKS]>,
    upstream: Box<[Cell; SERVERS_MAX * UpstreamEvent::ALL.len()]>,
    latency: [Cell; LATENCY_BOUNDS_US.len() + 1],
    latency_sum_ns: Cell,
    bounds: [Cell; Bound::ALL.len()],
    opened: Cell,
    closed: Cell,
    tunnels_opened: Cell,
    tunnels_closed: Cell,
    handshakes_failed: [Cell; HandshakeFailure::ALL.len()],
    proxy_headers_failed: Cell,
    bytes_in: Cell,
    bytes_out: Cell,
    sweeps: Cell,
}

impl Default for Cells {
    fn default() -> Self {
        Self {
            statuses: Box::new(cells()),
            refusals: Box::new(cells()),
            routes: Box::new([const { OnceLock::new() }; CHUNKS]),
            upstream: Box::new(cells()),
            latency: cells(),
            latency_sum_ns: Cell::default(),
            bounds: cells(),
            opened: Cell::default(),
            closed: Cell::default(),
            tunnels_opened: Cell::default(),
            tunnels_closed: Cell::default(),
            handshakes_failed: cells(),
            proxy_headers_failed: Cell::default(),
            bytes_in: Cell::default(),
            bytes_out: Cell::default(),
            sweeps: Cell::default(),
        }
    }
}

impl Cells {
    /// An answer: its status, the slot of its route (or none), how long it took, the bytes of both bodies.
    pub fn answered(
        &self,
        status: u16,
        route: Option<usize>,
        duration_ns: u64,
        (bytes_in, bytes_out): (u64, u64),
    ) {
        bump(&*self.statuses, usize::from(status), 1);
        let class = usize::from(status / 100).wrapping_sub(1);
        if let Some(route) = route {
            let route = route.min(ROUTES_MAX - 1);
            let chunk = self.routes.get(route / ROUTES_PER_CHUNK);
            let chunk = chunk.map(|chunk| chunk.get_or_init(|| Box::new(std::array::from_fn(|_| cells()))));
            if let Some(cells) = chunk.and_then(|chunk| chunk.get(class)) {
                bump(cells, route % ROUTES_PER_CHUNK, 1);
            }
        }
        let duration_us = duration_ns / 1000;
        bump(&self.latency, LATENCY_BOUNDS_US.partition_point(|&bound| bound < duration_us), 1);
        self.latency_sum_ns.add(duration_ns);
        self.bytes_in.add(bytes_in);
        self.bytes_out.add(bytes_out);
    }

    /// A refusal, by its index in [`crate::respond::LABELS`].
    pub fn refused(&self, label: usize) {
        bump(&*self.refusals, label.min(REFUSALS_MAX - 1), 1);
    }

    /// What happened with the server in `slot`.
    pub fn upstream(&self, event: UpstreamEvent, slot: usize) {
        let index = slot.min(SERVERS_MAX - 1) * UpstreamEvent::ALL.len() + event as usize;
        bump(&*self.upstream, index, 1);
    }

    /// A bound was hit.
    pub fn bound_hit(&self, bound: Bound) {
        bump(&self.bounds, bound as usize, 1);
    }

    /// The worker has swept once more: it still turns.
    pub fn swept(&self) {
        self.sweeps.add(1);
    }

    /// How often it has.
    pub fn sweeps(&self) -> u64 {
        self.sweeps.get()
    }

    /// A connection was accepted.
    pub fn connection_opened(&self) {
        self.opened.add(1);
    }

    /// How many have been.
    pub fn opened(&self) -> u64 {
        self.opened.get()
    }

    /// A connection ended.
    pub fn connection_closed(&self) {
        self.closed.add(1);
    }

    /// A client's request became a tunnel.
    pub fn tunnel_opened(&self) {
        self.tunnels_opened.add(1);
    }

    /// A tunnel ended.
    pub fn tunnel_closed(&self) {
        self.tunnels_closed.add(1);
    }

    /// Whether any tunnel is open.
    pub fn has_tunnels(&self) -> bool {
        self.tunnels_opened.get() > self.tunnels_closed.get()
    }

    /// A connection that had to begin with a PROXY header did not.
    pub fn proxy_header_failed(&self) {
        self.proxy_headers_failed.add(1);
    }

    /// A TLS handshake failed.
    pub fn handshake_failed(&self, failure: HandshakeFailure) {
        bump(&self.handshakes_failed, failure as usize, 1);
    }
}

fn bump(cells: &[Cell], index: usize, count: u64) {
    if let Some(cell) = cells.get(index) {
        cell.add(count);
    }
}

/// The sums over all workers at one moment. What has never happened is left out.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Answers by status.
    pub statuses: Vec<(u16, u64)>,
    /// Refusals by label index.
    pub refusals: Vec<(usize, u64)>,
    /// Requests by route slot and status class 1 to 5.
    pub routes: Vec<(usize, usize, u64)>,
    /// Server events by slot.
    pub upstream: Vec<(usize, UpstreamEvent, u64)>,
    /// Answers by latency bucket, all of them.
    pub latency: Vec<u64>,
    /// The sum of all latencies.
    pub latency_sum_ns: u64,
    /// Bounds hit, all of them.
    pub bounds: Vec<(Bound, u64)>,
    /// Connections accepted.
    pub opened: u64,
    /// Connections ended.
    pub closed: u64,
    /// Tunnels opened.
    pub tunnels_opened: u64,
    /// Tunnels ended.
    pub tunnels_closed: u64,
    /// TLS handshakes that failed, all kinds.
    pub handshakes_failed: Vec<(HandshakeFailure, u64)>,
    /// PROXY headers that were missing, malformed or late.
    pub proxy_headers_failed: u64,
    /// Body bytes from clients.
    pub bytes_in: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
}

impl Snapshot {
    /// Reads the cells of all workers.
    pub fn of<'c, W: Iterator<Item = &'c Cells> + Clone>(workers: &W) -> Self {
        let sum = |pick: &dyn Fn(&Cells) -> u64| workers.clone().map(pick).sum::<u64>();
        let sums = |pick: fn(&Cells) -> &[Cell], count: usize| {
            (0..count)
                .map(|index| sum(&|cells: &Cells| pick(cells).get(index).map_or(0, Cell::get)))
                .collect::<Vec<u64>>()
        };
        let seen = |values: Vec<u64>| values.into_iter().enumerate().filter(|&(_, value)| value > 0);
        let status = |(index, value)| (u16::try_from(index).unwrap_or(0), value);
        let events = UpstreamEvent::ALL.len();
        Self {
            statuses: seen(sums(|c| &*c.statuses, STATUSES)).map(status).collect(),
            refusals: seen(sums(|c| &*c.refusals, REFUSALS_MAX)).collect(),
            routes: routes_of(workers),
            upstream: seen(sums(|c| &*c.upstream, SERVERS_MAX * events))
                .filter_map(|(index, value)| {
                    Some((index / events, *UpstreamEvent::ALL.get(index % events)?, value))
                })
                .collect(),
            latency: sums(|c| &c.latency, LATENCY_BOUNDS_US.len() + 1),
            latency_sum_ns: sum(&|c| c.latency_sum_ns.get()),
            bounds: Bound::ALL.into_iter().zip(sums(|c| &c.bounds, Bound::ALL.len())).collect(),
            opened: sum(&|c| c.opened.get()),
            closed: sum(&|c| c.closed.get()),
            tunnels_opened: sum(&|c| c.tunnels_opened.get()),
            tunnels_closed: sum(&|c| c.tunnels_closed.get()),
            handshakes_failed: HandshakeFailure::ALL
                .into_iter()
                .zip(sums(|c| &c.handshakes_failed, HandshakeFailure::ALL.len()))
                .collect(),
            proxy_headers_failed: sum(&|c| c.proxy_headers_failed.get()),
            bytes_in: sum(&|c| c.bytes_in.get()),
            bytes_out: sum(&|c| c.bytes_out.get()),
        }
    }
}

/// Requests by route slot and status class. Routes that nobody has asked for cost nothing.
fn routes_of<'c>(workers: &(impl Iterator<Item = &'c Cells> + Clone)) -> Vec<(usize, usize, u64)> {
    let mut seen = Vec::new();
    for chunk in 0..CHUNKS {
        let made: Vec<&Chunk> =
            workers.clone().filter_map(|cells| Some(&**cells.routes.get(chunk)?.get()?)).collect();
        if made.is_empty() {
            continue;
        }
        for (index, class) in
            (0..ROUTES_PER_CHUNK).flat_map(|index| (0..CLASSES).map(move |class| (index, class)))
        {
            let count = |chunk: &&Chunk| chunk.get(class)?.get(index).map(Cell::get);
            let sum: u64 = made.iter().filter_map(count).sum();
            if sum > 0 {
                seen.push((chunk * ROUTES_PER_CHUNK + index, class + 1, sum));
            }
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_add_up_and_silence_is_left_out() {
        let (one, two) = (Cells::default(), Cells::default());
        one.answered(200, Some(3), 150_000, (10, 20));
        two.answered(200, Some(3), 99_000, (1, 2));
        two.answered(429, None, 100_000_000_000, (0, 5));
        two.refused(7);
        one.upstream(UpstreamEvent::Retried, 2);
        two.bound_hit(Bound::Pool);
        one.connection_opened();
        let snapshot = Snapshot::of(&[&one, &two].into_iter());
        assert_eq!(snapshot.statuses, [(200, 2), (429, 1)]);
        assert_eq!(snapshot.routes, [(3, 2, 2)]);
        assert_eq!(snapshot.refusals, [(7, 1)]);
        assert_eq!(snapshot.upstream, [(2, UpstreamEvent::Retried, 1)]);
        assert_eq!((snapshot.latency[0], snapshot.latency[1], snapshot.latency.last()), (1, 1, Some(&1)));
        assert_eq!(snapshot.bounds.iter().find(|(bound, _)| *bound == Bound::Pool), Some(&(Bound::Pool, 1)));
        assert_eq!((snapshot.opened, snapshot.bytes_in, snapshot.bytes_out), (1, 11, 27));
    }

    #[test]
    fn what_lies_past_the_last_slot_is_counted_there() {
        let cells = Cells::default();
        cells.answered(200, Some(ROUTES_MAX + 5), 0, (0, 0));
        cells.answered(999, Some(0), 0, (0, 0));
        cells.refused(REFUSALS_MAX + 5);
        let snapshot = Snapshot::of(&std::iter::once(&cells));
        assert_eq!(snapshot.routes, [(ROUTES_MAX - 1, 2, 1)]);
        assert_eq!(snapshot.refusals, [(REFUSALS_MAX - 1, 1)]);
    }

    #[test]
    fn only_routes_that_were_asked_for_take_memory() {
        let (one, two) = (Cells::default(), Cells::default());
        one.answered(200, Some(5000), 0, (0, 0));
        one.answered(503, Some(5000), 0, (0, 0));
        two.answered(200, Some(5001), 0, (0, 0));
        two.answered(200, Some(ROUTES_PER_CHUNK - 1), 0, (0, 0));
        let made = |cells: &Cells| cells.routes.iter().filter(|chunk| chunk.get().is_some()).count();
        assert_eq!((made(&one), made(&two)), (1, 2));
        let snapshot = Snapshot::of(&[&one, &two].into_iter());
        assert_eq!(snapshot.routes, [(ROUTES_PER_CHUNK - 1, 2, 1), (5000, 2, 1), (5000, 5, 1), (5001, 2, 1)]);
    }
}
