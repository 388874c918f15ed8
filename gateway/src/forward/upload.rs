//! The request body: client → server, one buffer at a time. Chunked bodies are decoded and framed again, never
//! relayed (RFC 9112 §7.1).

use std::{cell::Cell, rc::Rc, sync::Arc};

use crate::{
    codec::{self, BodyDecoder, BodyLength},
    net::{Buffer, Deadline, Pace, Patience, Phase, Receive, Transmit, monotonic_ns},
};

use super::{ForwardError, Tools};

/// Body bytes that are read and thrown away once the response has been told, so that the client hears it before the
/// connection closes (RFC 9112 §9.6).
const DISCARD_BYTES_MAX: u64 = 1024 * 1024;
const LINGER_NS: u64 = 2_000_000_000;

/// What both directions of an exchange see of the upload.
#[derive(Default)]
pub(super) struct UploadState {
    /// Payload bytes received so far.
    pub(super) body_bytes: Cell<u64>,
    /// The rest is read but no longer sent: the response is complete, or the server takes no more.
    pub(super) discard: Cell<bool>,
    /// The upload failed: there is no use in waiting for a response.
    pub(super) failed: Cell<bool>,
    /// The response's head has come: its deadline is the download's affair from then on.
    pub(super) response_started: Cell<bool>,
    /// All of the body has been sent or discarded.
    pub(super) done: Cell<bool>,
    /// The upload is under way, be it that only the last of the body waits for the server to take it.
    pub(super) running: Cell<bool>,
    /// The upload waits for the client to send: the client's one deadline is about that.
    pub(super) receiving: Cell<bool>,
    /// The download waits for the client to take something: its deadline is about that while nothing is awaited.
    pub(super) sending: Cell<bool>,
}

/// How long an upload may wait, in ns of `CLOCK_MONOTONIC`.
#[derive(Clone, Copy)]
pub(super) struct UploadLimits {
    /// For the client to send the body; and, of that, the silence, for the server to take it.
    pub(super) pace: Pace,
    /// For a response, once the body has been sent.
    pub(super) head_timeout_ns: u64,
    /// For all of it: a point in time.
    pub(super) deadline_ns: u64,
}

/// Where the bytes come from and where they go, each end with its deadline.
pub(super) struct Ends<'a, R, S> {
    pub(super) client: &'a mut R,
    /// What was received behind the head.
    pub(super) received: &'a mut Buffer,
    pub(super) client_deadline: &'a Deadline,
    pub(super) server: &'a mut S,
    pub(super) server_deadline: &'a Deadline,
    pub(super) limits: UploadLimits,
}

/// A request body on its way.
pub(super) struct Upload<'r> {
    decoder: BodyDecoder,
    chunked: bool,
    bytes_max: u64,
    trailers_removed: &'r [Arc<str>],
    pub(super) state: Rc<UploadState>,
}

impl<'r> Upload<'r> {
    pub(super) fn new(length: BodyLength, bytes_max: u64, trailers_removed: &'r [Arc<str>]) -> Self {
        let decoder = BodyDecoder::new(length);
        let state = UploadState::default();
        state.done.set(decoder.is_done());
        Self {
            decoder,
            chunked: length == BodyLength::Chunked,
            bytes_max,
            trailers_removed,
            state: Rc::new(state),
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.state.done.get()
    }

    pub(super) fn discard(&self) {
        self.state.discard.set(true);
    }

    pub(super) fn was_discarded(&self) -> bool {
        self.state.discard.get()
    }

    /// Encodes what `received` holds of the body behind `out`; bytes behind the body stay in `received`.
    pub(super) fn take_received(
        &mut self,
        received: &mut Buffer,
        out: &mut Vec<u8>,
    ) -> Result<(), ForwardError> {
        while !self.is_done() && !received.data().is_empty() {
            let decoded = self.decoder.decode(received.data()).map_err(ForwardError::BadRequestBody)?;
            let payload = received.data().get(decoded.data.clone()).unwrap_or_default();
            let body_bytes = self.state.body_bytes.get() + payload.len() as u64;
            self.state.body_bytes.set(body_bytes);
            if body_bytes > self.bytes_max {
                return Err(ForwardError::RequestBodyTooLarge);
            }
            if !payload.is_empty() {
                if self.chunked {
                    codec::chunk_head(out, payload.len());
                    out.extend_from_slice(payload);
                    out.extend_from_slice(codec::CHUNK_END);
                } else {
                    out.extend_from_slice(payload);
                }
            }
            if decoded.done {
                if self.chunked {
                    codec::last_chunk_without(out, self.decoder.trailers(), self.trailers_removed);
                }
                self.state.done.set(true);
            }
            let progressed = decoded.done || decoded.consumed > 0;
            received.consume(decoded.consumed);
            if !progressed {
                break;
            }
        }
        Ok(())
    }

    /// Reads, frames and sends until the body has ended. Ends without an error when the server stops taking it: its
    /// response may say why.
    pub(super) async fn run<R: Receive, S: Transmit>(
        &mut self,
        tools: &Tools,
        mut ends: Ends<'_, R, S>,
    ) -> Result<(), ForwardError> {
        self.state.running.set(true);
        let result = self.relay(tools, &mut ends).await;
        self.state.running.set(false);
        if result.is_err() {
            self.state.failed.set(true);
            // Ends the other direction's wait for a response that nobody needs; its deadline shuts the socket down.
            ends.server_deadline.arm(Phase::ResponseHead, 0);
        }
        result
    }

    async fn relay<R: Receive, S: Transmit>(
        &mut self,
        tools: &Tools,
        ends: &mut Ends<'_, R, S>,
    ) -> Result<(), ForwardError> {
        let Ends { client, received, client_deadline, server, server_deadline, limits } = ends;
        let mut out = tools.heads.take();
        let mut discarded_bytes = 0_u64;
        let mut patience = Patience::new(limits.pace);
        while !self.is_done() {
            let now_ns = monotonic_ns();
            let discarding = self.state.discard.get();
            let wait_ns = if discarding { LINGER_NS } else { patience.left_ns() };
            client_deadline.arm(Phase::Body, now_ns.saturating_add(wait_ns).min(limits.deadline_ns));
            if received.free_bytes() == 0 {
                received.compact();
            }
            self.state.receiving.set(true);
            let (read, buffer) =
                client.read(std::mem::replace(*received, Buffer::placeholder()), &tools.buffers).await;
            **received = buffer;
            self.state.receiving.set(false);
            let then_ns = monotonic_ns();
            let count = read.as_ref().map_or(0, |count| *count as u64);
            patience.spend(then_ns.saturating_sub(now_ns), count);
            // What follows is the server's time, unless the client is also to take something.
            if self.state.sending.get() {
                client_deadline.arm(Phase::Look, then_ns);
            } else {
                client_deadline.disarm();
            }
            match read {
                Ok(0) | Err(_) if self.state.discard.get() => return Ok(()),
                // Under TLS the end that a deadline made is an error: no close_notify came before it.
                Ok(0) | Err(_) if client_deadline.expired().is_some() => {
                    return Err(if patience.was_slow() {
                        ForwardError::RequestBodyTooSlow
                    } else {
                        ForwardError::RequestBodyTimeout
                    });
                }
                Ok(0) | Err(_) => return Err(ForwardError::ClientGone),
                Ok(count) => discarded_bytes += if self.state.discard.get() { count as u64 } else { 0 },
            }
            out.clear();
            let taken = self.take_received(received, &mut out);
            if self.state.discard.get() {
                // Nobody reads it any more: what is wrong with it only ends it.
                if taken.is_err() || discarded_bytes > DISCARD_BYTES_MAX {
                    return Ok(());
                }
                continue;
            }
            taken?;
            // The server's answer is due when it has the request; until then it owes us progress.
            let wait_ns = if self.is_done() { limits.head_timeout_ns } else { limits.pace.idle_ns };
            if !self.state.response_started.get() {
                server_deadline
                    .arm(Phase::ResponseHead, monotonic_ns().saturating_add(wait_ns).min(limits.deadline_ns));
            }
            let (sent, returned) = server.write_all(out).await;
            out = returned;
            if sent.is_err() {
                self.discard();
            } else if !self.is_done() && !self.state.response_started.get() {
                // The client is waited for, not the server.
                server_deadline.disarm();
            }
        }
        tools.heads.give(out);
        Ok(())
    }
}
