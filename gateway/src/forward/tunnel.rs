//! A tunnel: bytes in both directions, once both sides have agreed that what follows is no longer HTTP.
//!
//! Comes in: two sides, each with a source, a sink and a deadline. Goes out: how many bytes went which way, and whether
//! both sides ended in order. One buffer per direction, and none while a direction is silent; a side that takes
//! nothing is read nothing from the other for; the end of one direction is passed on and the other goes on. It never
//! looks at the bytes.

use std::{cell::Cell, io, pin::pin};

use super::{Carrier, Lease};
use crate::{
    http2::{InboundHalf, OutboundHalf},
    net::{
        Buffer, Buffers, Deadline, Phase, ReadHalf, Receive, Stream, Transmit, WriteHalf, join, monotonic_ns,
    },
};

/// A server that has switched, and what the client is to hear of it first.
pub struct Tunnel {
    /// The server's connection.
    pub lease: Lease,
    /// What it said.
    pub switched: Switched,
}

impl Tunnel {
    /// Relays between `client` and the server, as [`relay`] does.
    pub async fn relay<R: Source, W: Sink>(
        &mut self,
        client: Side<'_, R, W>,
        terms: Terms<'_>,
        buffers: &Buffers,
    ) -> Passed {
        let early = std::mem::replace(&mut self.switched.early, Buffer::placeholder());
        match self.lease.carrier() {
            Carrier::Own(own) => {
                let Stream { read, write } = &mut own.stream;
                let server = Side { source: read, sink: write, deadline: &own.deadline, early };
                relay(client, server, terms, buffers).await
            }
            Carrier::Shared(shared) => {
                let deadline = &shared.deadline;
                shared.inbound.unframe();
                let source = &mut shared.inbound.within(deadline);
                let sink = &mut shared.outbound.within(deadline);
                relay(client, Side { source, sink, deadline, early }, terms, buffers).await
            }
        }
    }

    /// Ends the server's side so that it sees that something is missing.
    pub fn abort(&mut self) {
        match self.lease.carrier() {
            Carrier::Own(own) => own.stream.abort(),
            Carrier::Shared(shared) => shared.outbound.reset(h2::Reason::CANCEL),
        }
    }
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tunnel(…)")
    }
}

/// How a server switched.
pub struct Switched {
    /// The head of status 101, encoded for the client.
    pub head: Vec<u8>,
    /// What the server has sent behind its head.
    pub early: Buffer,
}

/// Where a direction's bytes come from.
#[expect(async_fn_in_trait, reason = "a worker's futures never leave its thread")]
pub trait Source: Receive {
    /// Waits until there is something to receive, holding no buffer.
    async fn ready(&mut self) -> io::Result<()>;
}

/// Where they go.
#[expect(async_fn_in_trait, reason = "a worker's futures never leave its thread")]
pub trait Sink: Transmit {
    /// Ends this direction; the peer's own goes on.
    async fn finish(&mut self) -> io::Result<()>;
}

/// One end of a tunnel.
pub struct Side<'s, R, W> {
    /// What its peer says.
    pub source: &'s mut R,
    /// What its peer is told.
    pub sink: &'s mut W,
    /// Ends the waits of both.
    pub deadline: &'s Deadline,
    /// What was received of its peer before the tunnel.
    pub early: Buffer,
}

/// What went through a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passed {
    /// Bytes from the client to the server.
    pub up_bytes: u64,
    /// Bytes from the server to the client.
    pub down_bytes: u64,
    /// Both sides ended what they had to say. Otherwise one of them broke off, or a deadline passed.
    pub in_order: bool,
}

/// How long a tunnel may be silent, and who hears when the client has been told something.
type Terms<'t> = (u64, &'t dyn Fn(u64));

/// Relays until both directions have ended. Silence of both for `idle_ns`, or a peer that takes nothing for so long,
/// ends the tunnel.
async fn relay<R1: Source, W1: Sink, R2: Source, W2: Sink>(
    client: Side<'_, R1, W1>,
    server: Side<'_, R2, W2>,
    (idle_ns, client_was_told): Terms<'_>,
    buffers: &Buffers,
) -> Passed {
    let watch = Watch {
        client: End::new(client.deadline, client_was_told),
        server: End::new(server.deadline, &|_| {}),
        idle_ns,
    };
    watch.progress();
    let up = pump(client.source, server.sink, client.early, (&watch, &watch.server), buffers);
    let down = pump(server.source, client.sink, server.early, (&watch, &watch.client), buffers);
    let ((up_bytes, up_ended), (down_bytes, down_ended)) = join(pin!(up), pin!(down)).await;
    Passed { up_bytes, down_bytes, in_order: up_ended && down_ended }
}

/// One direction, to its end: how many bytes, and whether it ended in order.
async fn pump<R: Source, W: Sink>(
    source: &mut R,
    sink: &mut W,
    early: Buffer,
    (watch, to): (&Watch<'_>, &End<'_>),
    buffers: &Buffers,
) -> (u64, bool) {
    let mut buffer = early;
    let mut passed_bytes = 0;
    let ended = loop {
        let count = buffer.data().len() as u64;
        if count > 0 {
            watch.send(to);
            let (sent, returned) = sink.write_all(buffer).await;
            to.sending.set(false);
            buffer = returned;
            if sent.is_err() {
                break Err(());
            }
            passed_bytes += count;
            (to.was_told)(watch.progress());
        }
        // What filled the buffer has more behind it; else the wait may be long, and is made without a buffer.
        if buffer.free_bytes() > 0 || count == 0 {
            buffers.give(std::mem::replace(&mut buffer, Buffer::placeholder()));
            if source.ready().await.is_err() {
                break Err(());
            }
            buffer = buffers.take();
        }
        buffer.clear();
        let (received, returned) = source.read(buffer, buffers).await;
        buffer = returned;
        match received {
            // The end that a deadline makes looks like the peer's own.
            Ok(0) if watch.has_fired() => break Err(()),
            Ok(0) => break sink.finish().await.map_err(drop),
            Ok(_) => {
                watch.progress();
            }
            Err(_) => break Err(()),
        }
    };
    buffers.give(buffer);
    if ended.is_err() {
        watch.cut();
    }
    (passed_bytes, ended.is_ok())
}

/// A side's deadline, and whether it is about a peer that has to take something.
struct End<'a> {
    deadline: &'a Deadline,
    sending: Cell<bool>,
    was_told: &'a dyn Fn(u64),
}

impl<'a> End<'a> {
    fn new(deadline: &'a Deadline, was_told: &'a dyn Fn(u64)) -> Self {
        Self { deadline, sending: Cell::new(false), was_told }
    }

    fn arm(&self, at_ns: u64) {
        // A peer that takes nothing gains no time by what it says meanwhile.
        if !self.sending.get() {
            self.deadline.arm(Phase::Tunnel, at_ns);
        }
    }
}

struct Watch<'a> {
    client: End<'a>,
    server: End<'a>,
    idle_ns: u64,
}

impl Watch<'_> {
    /// A peer has to take something.
    fn send(&self, to: &End<'_>) {
        to.sending.set(true);
        to.deadline.arm(Phase::Send, monotonic_ns().saturating_add(self.idle_ns));
    }

    /// Something has moved, and when.
    fn progress(&self) -> u64 {
        let now_ns = monotonic_ns();
        let at_ns = now_ns.saturating_add(self.idle_ns);
        self.client.arm(at_ns);
        self.server.arm(at_ns);
        now_ns
    }

    /// One direction has broken: neither is worth anything any more.
    fn cut(&self) {
        for end in [&self.client, &self.server] {
            end.deadline.cut(if end.sending.get() { Phase::Send } else { Phase::Tunnel });
        }
    }

    fn has_fired(&self) -> bool {
        self.client.deadline.expired().is_some() || self.server.deadline.expired().is_some()
    }
}

impl Source for ReadHalf {
    async fn ready(&mut self) -> io::Result<()> {
        self.readable().await
    }
}

impl Source for InboundHalf<'_> {
    async fn ready(&mut self) -> io::Result<()> {
        Self::ready(self).await
    }
}

impl Sink for OutboundHalf<'_> {
    async fn finish(&mut self) -> io::Result<()> {
        Self::finish(self).await
    }
}

impl Sink for WriteHalf {
    async fn finish(&mut self) -> io::Result<()> {
        Self::finish(self).await
    }
}
