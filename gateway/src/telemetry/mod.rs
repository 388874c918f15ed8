//! What is known of each exchange: counters, latency, access log, refusals.
//!
//! Comes in: one [`Exchange`] per request, handed over once, and handshakes that were refused. Goes out: a worker's own [`Cells`], which the control
//! thread reads, and whole buffers of log lines through a bounded queue. A worker never formats a metric, takes a
//! lock or waits for a disk.

mod cells;
mod exchange;
mod access;
mod refusals;

pub use access::{AccessLog, AccessWriter, access_log};
pub use cells::{
    Bound, Cells, HandshakeFailure, LATENCY_BOUNDS_US, REFUSALS_MAX, ROUTES_MAX, SERVERS_MAX, Snapshot,
    UpstreamEvent,
};
pub use exchange::Exchange;
pub use refusals::{Refusals, RefusedHandshake};
