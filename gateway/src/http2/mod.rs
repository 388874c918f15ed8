//! HTTP/2 (RFC 9113) on a connection, in either role: many streams, each of which is spoken to as if it were an
//! HTTP/1.1 connection of its own.
//!
//! The h2 crate does frames, HPACK and flow control; [`wire`] is the socket that it sees, [`tally`] counts what a peer
//! sends before h2 does, so that a flood ends early. [`inbound`] gives what a stream says as HTTP/1.1 bytes,
//! [`outbound`] takes HTTP/1.1 bytes and says them on a stream; [`text`] are the heads in both directions. So there is
//! one codec, one reading of a message and one relay for all four translations, and what h2 lets through is checked by
//! the same strict parser as everything else.
//!
//! It knows no policy, and it never holds more of a body than a window of it.

pub mod tally;
pub mod text;
mod wire;
mod inbound;
mod outbound;

pub use inbound::{Inbound, InboundHalf, To};
pub use outbound::{Answer, Outbound, OutboundHalf, Speaker};
pub use wire::{Pumps, Wire, wire};

use std::io;

/// What begins a client's connection (RFC 9113 §3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of a body that a peer may send on a stream before we have passed any on, and on all streams of a connection.
pub const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
/// See [`STREAM_WINDOW_BYTES`].
pub const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// The largest frame that we take: the least that a peer may assume, so that nothing waits behind a long one.
pub const FRAME_BYTES_MAX: u32 = 16 * 1024;
/// Bytes of a body that h2 holds for a stream until the peer's window or the socket takes them.
pub const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// Streams of a peer that h2 resets for what is wrong with them, before it gives the connection up
/// (CVE-2025-8671).
pub const ERROR_RESETS_MAX: usize = 64;
/// Streams that a peer resets before they were looked at, likewise (CVE-2023-44487).
pub const EARLY_RESETS_MAX: usize = 20;

// A stream alone never fills the connection's window.
const _: () = assert!(STREAM_WINDOW_BYTES < CONNECTION_WINDOW_BYTES);

/// Whether a connection's first bytes are an HTTP/2 preface; `None`: more are needed to tell. No request of HTTP/1.1
/// begins with it, since `PRI` with `HTTP/2.0` is refused there.
pub fn is_preface(bytes: &[u8]) -> Option<bool> {
    let seen = bytes.len().min(PREFACE.len());
    match bytes.get(..seen) == PREFACE.get(..seen) {
        true if seen < PREFACE.len() => None,
        is_it => Some(is_it),
    }
}

/// A request was not sent: its connection takes no more.
#[derive(Debug, thiserror::Error)]
#[error("the connection takes no more requests")]
pub(crate) struct NotSent;

/// Whether a peer has let a request be known that it did nothing with it (RFC 9113 §8.7).
pub fn is_unprocessed(error: &io::Error) -> bool {
    let Some(inner) = error.get_ref() else { return false };
    inner.is::<NotSent>()
        || inner.downcast_ref::<h2::Error>().is_some_and(|error| {
            error.reason() == Some(h2::Reason::REFUSED_STREAM)
                || (error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preface_is_told_at_its_first_strange_byte() {
        for end in 0..PREFACE.len() {
            assert_eq!(is_preface(&PREFACE[..end]), None);
        }
        assert_eq!(is_preface(PREFACE), Some(true));
        assert_eq!(is_preface(&[PREFACE, b"more"].concat()), Some(true));
        assert_eq!(is_preface(b"GET / HTTP/1.1\r\n"), Some(false));
        assert_eq!(is_preface(b"PRI * HTTP/1.1\r\n"), Some(false));
    }
}
