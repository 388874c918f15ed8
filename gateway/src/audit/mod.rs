//! The audit log: who was refused, who changed what; lines that nobody can change later without it being seen.
//!
//! Comes in: entries, from the workers in buffers that they own, from control and the command line one by one. Goes
//! out: one file of JSON lines, each with its number and the hash of the line before it (`chain`), now and then one
//! that is signed (`signer`); several processes append to it (`ledger`), and `verify` finds what was changed, moved,
//! left out or put in. It never holds a credential nor a query, and nobody who serves a request waits for it: what a
//! full queue or a full disk cost is counted, and the next line that can be written says so.

mod entry;
mod chain;
mod signer;
mod ledger;
mod desk;
pub mod verify;

pub use chain::{Head, LINE_BYTES_MAX, hex};
pub use desk::{Audit, NotWritten, Writer, start};
pub use entry::Entry;
pub use ledger::Ledger;
pub use signer::{PublicKey, Signer};
