//! Who a connection is from: its peer, or whom a forwarder names by the PROXY protocol.
//!
//! Comes in: a connection as it was accepted. Goes out: its ends, and what has been received behind the header, if
//! there was one to be. A peer that `proxy_protocol_from` lists must begin with a header; of all others nothing is
//! read here, so that a header of theirs is a request that is not HTTP.

use std::{
    cell::Cell,
    net::{IpAddr, SocketAddr},
};

use super::worker::{Manners, Worker, find_place};
use crate::{
    codec::{self, PROXY_HEADER_BYTES_MAX, Told},
    config,
    decide::crowd::Place,
    net::{self, BUFFER_BYTES, Buffer, Deadline, HEADROOM_BYTES, Phase, Stream, monotonic_ns, nanos},
    telemetry::Bound,
};

// One buffer holds any header.
const _: () = assert!(PROXY_HEADER_BYTES_MAX < BUFFER_BYTES - HEADROOM_BYTES);

/// The ends of a client's connection.
#[derive(Debug)]
pub(super) struct Ends {
    /// Who is at the other one, in its short form. A socket's address would take twice as much.
    pub(super) peer: IpAddr,
    peer_port: u16,
    /// Where that one connected to, where it is known better than by the listener: rare, so it is apart.
    local: Option<Box<SocketAddr>>,
    /// A forwarder says so: the packets are the forwarder's, which must not be blocked for what others do.
    pub(super) is_told: bool,
    /// The second since which it has given no offence. A word is not worth the room: there are many that are idle.
    good_since_s: Cell<u32>,
}

/// A connection of which it is known who it is from.
pub(super) struct Introduced {
    /// Its ends.
    pub(super) ends: Ends,
    /// What was received behind the header.
    pub(super) received: Buffer,
    /// Counts it among those of whom a forwarder has named.
    pub(super) place: Option<Place>,
}

impl Ends {
    /// Those of the socket itself.
    fn of_socket(stream: &Stream, peer: SocketAddr, worker: &Worker) -> Self {
        // Asking the kernel costs a system call, and only a server that is told of clients hears the answer.
        let asked = worker.current().snapshot.config.upstreams.iter().any(|u| u.proxy_protocol.is_some());
        let local = if asked { stream.local_address().ok().map(Box::new) } else { None };
        let ends = Self {
            peer: peer.ip().to_canonical(),
            peer_port: peer.port(),
            local,
            is_told: false,
            good_since_s: Cell::new(0),
        };
        ends.begin_anew(monotonic_ns());
        ends
    }

    /// It has only just come, or given offence, which is no better.
    pub(super) fn begin_anew(&self, now_ns: u64) {
        self.good_since_s.set(seconds(now_ns).saturating_add(1));
    }

    /// For how many whole seconds it has been good.
    pub(super) fn good_for_s(&self, now_ns: u64) -> u64 {
        seconds(now_ns).saturating_sub(self.good_since_s.get()).into()
    }

    /// The peer, and where it connected to on that listener.
    pub(super) fn both(&self, listener: &config::Listener) -> (SocketAddr, SocketAddr) {
        let peer = SocketAddr::new(self.peer, self.peer_port);
        (peer, self.local.as_deref().copied().unwrap_or(listener.address))
    }
}

/// Enough for 136 years without a restart of the host.
fn seconds(now_ns: u64) -> u32 {
    u32::try_from(now_ns / 1_000_000_000).unwrap_or(u32::MAX)
}

/// The ends of a connection, and what was received behind its header. `None`: it begins with none, though its peer is
/// listed, or with one that is malformed or late, or whom it names has as many connections as may be; counted, and to
/// be closed.
pub(super) async fn introduce(
    stream: &mut Stream,
    peer: SocketAddr,
    (worker, manners): (&Worker, &Manners),
    deadline: &Deadline,
) -> Option<Introduced> {
    let ends = Ends::of_socket(stream, peer, worker);
    let forwarders = &manners.settings.proxy_protocol_from;
    if !forwarders.iter().any(|prefix| prefix.contains(&ends.peer)) {
        return Some(Introduced { ends, received: Buffer::placeholder(), place: None });
    }
    let timeout_ns = nanos(manners.settings.timeouts.head);
    deadline.arm(Phase::Handshake, monotonic_ns().saturating_add(timeout_ns));
    let mut received = worker.tools.buffers.take();
    let told = receive_header(stream, &mut received, &worker.tools.buffers).await;
    deadline.disarm();
    match told {
        Some(Told::Nothing) => Some(Introduced { ends, received, place: None }),
        Some(Told::Ends { source, destination }) => {
            let ends = Ends {
                peer: source.ip().to_canonical(),
                peer_port: source.port(),
                local: Some(Box::new(destination)),
                is_told: true,
                good_since_s: ends.good_since_s,
            };
            let Ok(place) = find_place(worker, ends.peer, &manners.settings) else {
                worker.cells.bound_hit(Bound::ConnectionsPerSource);
                worker.tools.buffers.give(received);
                return None;
            };
            Some(Introduced { ends, received, place })
        }
        None => {
            worker.cells.proxy_header_failed();
            worker.tools.buffers.give(received);
            None
        }
    }
}

async fn receive_header(stream: &mut Stream, received: &mut Buffer, buffers: &net::Buffers) -> Option<Told> {
    loop {
        let taken = std::mem::replace(received, Buffer::placeholder());
        let (read, returned) = stream.read.read(taken, buffers).await;
        *received = returned;
        if matches!(read, Ok(0) | Err(_)) {
            return None;
        }
        match codec::proxy_header(received.data()) {
            Ok(Some((told, header_bytes))) => {
                received.consume(header_bytes);
                return Some(told);
            }
            Ok(None) => {}
            Err(error) => {
                log::debug!("a connection was closed: {error}");
                return None;
            }
        }
    }
}
