//! Packets, a policy and the verdicts that must follow. The host's tests and the kernel's read the same table.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "frames and policies are written down here; a slip is the test's failure"
)]

pub(crate) mod frames;
pub(crate) mod sockets;
pub(crate) mod world;
pub(crate) mod cases;
pub(crate) mod mutate;
