//! The worker's runtime: ring, streams, buffers, deadlines, clock. The only place that names monoio, so that a
//! change of runtime stays inside.
//!
//! Rules that everything here keeps (each was seen to bite): a future that reads or accepts is never dropped to
//! cancel it, since data or a descriptor would be lost; a deadline shuts the descriptor down instead, and the
//! pending operation returns with its buffer. A worker is woken by its own ring only; what other threads want of it,
//! it finds at the next sweep, or in its mailbox.

mod buffer;
mod clock;
mod deadline;
mod halves;
mod join;
mod meter;
mod pace;
mod ring;
mod splice;
mod stream;
mod waits;
mod mailbox;
mod race;
mod liveness;
mod panics;
mod tls;

pub use buffer::{BUFFER_BYTES, BULK_BUFFER_BYTES, Buffer, Buffers, HEADROOM_BYTES};
pub use clock::{coarse_ns, monotonic_ns, nanos, unix_s};
pub use deadline::{Deadline, Deadlines, Phase, SWEEP_INTERVAL};
pub use halves::{Receive, Transmit, bytes_of};
pub use join::join;
pub use liveness::notice_dead_peers;
pub use mailbox::{Mailbox, Postman};
pub use meter::Meter;
pub use monoio::buf::IoBuf;
pub use pace::{Pace, Patience};
pub use panics::contain;
pub use race::connect;
pub use ring::{RingError, run_on_ring, sleep, spawn};
pub use splice::{Pipe, Pipes, Unblocked};
pub use stream::{Accepted, Listener, ReadHalf, Stream, WriteHalf, is_out_of_descriptors};
pub use tls::{handshake, handshake_as_client};
pub use waits::{Waits, was_called_back};
