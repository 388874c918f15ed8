//! The end of HTTP on a connection: the server has switched to the WebSocket that the client asked for.

use super::{Connection, Next, Record};
use crate::{
    codec::HandshakeError,
    decide::{Refusal, WebSocket},
    forward::{Side, Tunnel},
    net::{Buffer, Phase, monotonic_ns, nanos},
    respond::Failure,
    telemetry::Cells,
};

/// What follows a handshake before its answer is meant for a server that may not have switched: a request in it would
/// pass unseen (attacks, row 17).
pub(super) const EARLY_BYTES: Refusal = Refusal::BadHandshake(HandshakeError::EarlyBytes);

impl Connection {
    /// Tells the client that the server has switched, and relays until both are done.
    pub(super) async fn tunnel(
        &mut self,
        mut tunnel: Tunnel,
        websocket: Option<WebSocket>,
        record: &mut Record,
    ) -> Next {
        let idle_ns = websocket.map_or(0, |websocket| nanos(websocket.idle_timeout));
        let buffers = &self.worker.tools.buffers;
        if !self.stream.is_quiet() {
            self.worker.tools.heads.give(tunnel.switched.head);
            return self.refuse(&Failure::Refused(&EARLY_BYTES), None, record).await;
        }
        self.deadline.arm(Phase::Send, super::after(self.manners.settings.timeouts.body_idle));
        let head = std::mem::take(&mut tunnel.switched.head);
        let head_bytes = head.len() as u64;
        let (told, head) = self.stream.write.write_all(head).await;
        self.worker.tools.heads.give(head);
        record.response_bytes = head_bytes;
        record.answered_ns = Some(monotonic_ns());
        if told.is_err() {
            record.label = "client_gone";
            return Next::Close;
        }
        // Most tunnels are silent most of the time.
        buffers.give(std::mem::replace(&mut self.received, Buffer::placeholder()));
        self.stream.write.forget_memory();
        let _open = Open::new(&self.worker.cells);
        let client = Side {
            source: &mut self.stream.read,
            sink: &mut self.stream.write,
            deadline: &self.deadline,
            early: Buffer::placeholder(),
        };
        let (worker, ends) = (&self.worker, &self.ends);
        let told = |now_ns| worker.note_steady(ends, &worker.current().snapshot, now_ns);
        let passed = tunnel.relay(client, (idle_ns, &told), buffers).await;
        record.request_bytes = passed.up_bytes;
        record.response_bytes = head_bytes + passed.down_bytes;
        if passed.in_order {
            return Next::Close;
        }
        tunnel.abort();
        Next::Abort
    }
}

/// Counts a tunnel for as long as it lives, also where its task panics.
pub(super) struct Open<'c>(&'c Cells);

impl<'c> Open<'c> {
    pub(super) fn new(cells: &'c Cells) -> Self {
        cells.tunnel_opened();
        Self(cells)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.tunnel_closed();
    }
}
