//! The verdict logic of the XDP filter and the layouts of its maps.
//!
//! One verdict code, three places: the kernel runs [`verdict::classify`] through `main.rs`, the host tests run it
//! on byte slices, and the differential test holds the two against each other. Comes in: a packet, the settings and
//! the tables. Goes out: a [`Reason`], and from it a [`Verdict`]. Nothing here allocates, reads a clock of its own
//! or bans anybody: only user space bans, on evidence from a finished handshake.
#![cfg_attr(not(test), no_std)]
#![expect(
    clippy::inline_always,
    reason = "in the kernel all of it is one function: the verifier follows packet pointers best where no call hides them"
)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "every narrowing keeps the low bits that the header's layout puts there"
)]

pub mod layout;
pub mod packet;
pub mod bucket;
pub mod class;
pub mod feeds;
pub mod front;
pub mod verdict;
pub mod syn_cookie;
mod policy;

pub use class::Class;
pub use layout::{Ban, BanKind, BanOrigin};
pub use packet::Packet;
pub use verdict::{Reason, Tables, Verdict, classify};

/// Version of the maps' layouts. It names the directory that they are pinned in, so that a program never adopts
/// maps that it would misread. Raise it with every change in [`layout`] and every change of a map's key.
pub const ABI: u32 = 4;
