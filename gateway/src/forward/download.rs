//! The response: server → client. Heads are parsed and written anew; a body of known length passes through the buffer
//! that received it, with the new head in front of its first bytes; chunked bodies are decoded and framed again.

use std::{
    future::Future,
    pin::{Pin, pin},
    rc::Rc,
    task::Poll,
};

use crate::{
    codec::{
        self, BodyDecoder, BodyLength, HeadLimits, HeaderSlots, Recode, ResponseEdit, ResponseHead, Version,
    },
    decide::compress::{self, Agreed},
    http2,
    net::{
        BULK_BUFFER_BYTES, Buffer, Deadline, IoBuf, Phase, Pipe, Receive, Transmit, Unblocked, monotonic_ns,
    },
};

use super::{
    Failed, ForwardError, Request, Tools, encode::Encoder, taking::Taking, tunnel::Switched,
    upload::UploadState,
};

/// What a server may say in a head.
const RESPONSE_HEAD_LIMITS: HeadLimits =
    HeadLimits { head_bytes_max: 64 * 1024, headers_max: codec::HEADERS_MAX, target_bytes_max: 0 };
/// Interim (1xx) heads before the final one.
const INTERIM_HEADS_MAX: usize = 16;
/// From this many bytes still to come, a body moves through a bulk buffer.
const BULK_FROM_BYTES: u64 = 64 * 1024;
/// Time for the client to leave, or to finish its body, after an early response.
const LINGER_NS: u64 = 2_000_000_000;

/// A response on its way.
pub(super) struct Download<'a, 'r, S, W> {
    pub(super) tools: &'a Tools,
    pub(super) server_read: &'a mut S,
    pub(super) server_deadline: &'a Deadline,
    pub(super) client_write: &'a mut W,
    pub(super) client_deadline: &'a Deadline,
    pub(super) taking: Taking<'a>,
    pub(super) request: &'a Request<'r>,
    pub(super) sent_ns: u64,
    pub(super) upload: Rc<UploadState>,
    /// The client has said that it wants no more.
    pub(super) client_gone: bool,
}

/// A response that was told whole.
pub(super) struct Downloaded {
    pub(super) status: u16,
    pub(super) bytes: u64,
    pub(super) upstream_ns: u64,
    /// The client was told that its connection goes on.
    pub(super) client_keep_alive: bool,
    /// The server's connection goes on.
    pub(super) server_reusable: bool,
    /// The server's connection is no longer HTTP. Nothing was told to the client yet.
    pub(super) switched: Option<Switched>,
    /// It would have been compressed, but there was no encoder left.
    pub(super) lacked_encoder: bool,
}

/// What is kept of a response head.
struct Head<'t> {
    status: u16,
    body: BodyLength,
    framing: BodyLength,
    client_keep_alive: bool,
    server_keep_alive: bool,
    encoder: Option<Box<Encoder<'t>>>,
    lacked_encoder: bool,
}

impl<'a, S: Receive, W: Transmit> Download<'a, '_, S, W> {
    pub(super) async fn run(mut self) -> Result<Downloaded, Failed> {
        let mut buffer = self.tools.buffers.take();
        let mut out = self.tools.heads.take();
        let mut result = self.relay(&mut buffer, &mut out).await;
        if let Err(failed) = &mut result {
            if self.taking.was_slow() {
                failed.error = ForwardError::ResponseTooSlow;
            } else if self.client_gone {
                // The server was cut off for it.
                failed.error = ForwardError::ClientGone;
            }
        }
        self.tools.buffers.give(buffer);
        self.tools.heads.give(out);
        if self.upload.running.get() {
            // Early response (RFC 9112 §9.6): the rest of the request is read and dropped for a while, so that the
            // client hears the answer; a send that the server no longer takes is cut.
            self.upload.discard.set(true);
            self.server_deadline.arm(Phase::ResponseBody, 0);
            if self.client_write.is_stream() {
                self.client_deadline.cut(Phase::Body);
            } else {
                self.client_deadline.arm(Phase::Body, monotonic_ns().saturating_add(LINGER_NS));
            }
        }
        result
    }

    async fn relay(&mut self, buffer: &mut Buffer, out: &mut Vec<u8>) -> Result<Downloaded, Failed> {
        let head = self.receive_head(buffer, out).await?;
        let now_ns = monotonic_ns();
        self.upload.response_started.set(true);
        self.server_deadline.arm(Phase::ResponseBody, self.request.deadline_ns);
        if head.status == 101 {
            let switched = Switched {
                head: std::mem::replace(out, self.tools.heads.take()),
                early: std::mem::replace(buffer, Buffer::placeholder()),
            };
            return Ok(Downloaded {
                status: head.status,
                bytes: 0,
                upstream_ns: now_ns.saturating_sub(self.sent_ns),
                client_keep_alive: false,
                server_reusable: false,
                switched: Some(switched),
                lacked_encoder: false,
            });
        }
        let mut told = Told { status: head.status, bytes: 0 };
        let (ended_in_order, leftover) = match (head.body, head.framing) {
            (BodyLength::None, _) => {
                self.tell_head(buffer, out, 0, &mut told).await?;
                (true, !buffer.data().is_empty())
            }
            (BodyLength::Exact(bytes), _) if head.encoder.is_none() => {
                self.pass(buffer, out, bytes, &mut told).await?
            }
            (body, framing) => {
                let chunked = framing == BodyLength::Chunked;
                self.reframe(buffer, out, (body, chunked, head.encoder), &mut told).await?
            }
        };
        Ok(Downloaded {
            status: told.status,
            bytes: told.bytes,
            upstream_ns: now_ns.saturating_sub(self.sent_ns),
            client_keep_alive: head.client_keep_alive,
            // Bytes behind the response belong to nobody: such a connection is not used again.
            server_reusable: head.server_keep_alive
                && ended_in_order
                && !leftover
                && head.body != BodyLength::UntilClose,
            switched: None,
            lacked_encoder: head.lacked_encoder,
        })
    }

    /// Receives up to the end of the final head, and encodes the head for the client into `out`.
    async fn receive_head(
        &mut self,
        buffer: &mut Buffer,
        out: &mut Vec<u8>,
    ) -> Result<Head<'a>, ForwardError> {
        let mut interim_heads = 0;
        let mut received_any = false;
        let (mut is_worth_a_try, mut tried_bytes) = (false, 0);
        loop {
            while is_worth_a_try && !buffer.data().is_empty() {
                match self.parse_head(buffer.data(), out)? {
                    Parsed::Final(head, head_bytes) => {
                        buffer.consume(head_bytes);
                        return Ok(head);
                    }
                    Parsed::Interim(head_bytes) => {
                        buffer.consume(head_bytes);
                        interim_heads += 1;
                        if interim_heads > INTERIM_HEADS_MAX {
                            return Err(ForwardError::TooManyInterim);
                        }
                        self.tell_interim(out).await?;
                    }
                    Parsed::Partial => {
                        tried_bytes = buffer.data().len();
                        break;
                    }
                }
            }
            let seen_bytes = buffer.data().len();
            if buffer.free_bytes() == 0 {
                self.enlarge(buffer);
            }
            match self.receive(buffer).await {
                Ok(0) | Err(_) if self.upload.failed.get() => return Err(ForwardError::ClientGone),
                Ok(0) | Err(_) if self.server_deadline.expired().is_some() => {
                    return Err(ForwardError::ResponseTimeout);
                }
                // A server of TLS 1.3 tells only now that it does not want us (RFC 8446 §4.4.2.4).
                Err(error) if !received_any && error.kind() == std::io::ErrorKind::InvalidData => {
                    return Err(ForwardError::Tls(error));
                }
                Err(error) if !received_any && http2::is_unprocessed(&error) => {
                    return Err(ForwardError::Unprocessed);
                }
                Ok(0) | Err(_) if received_any => return Err(ForwardError::TruncatedResponse),
                Ok(0) | Err(_) => return Err(ForwardError::ClosedBeforeResponse),
                Ok(_) => received_any = true,
            }
            let head_bytes_max = RESPONSE_HEAD_LIMITS.head_bytes_max;
            is_worth_a_try = codec::is_worth_a_try(buffer.data(), seen_bytes, tried_bytes, head_bytes_max);
        }
    }

    /// Interim responses are passed on, but for the `100` that we ask for ourselves, and not to HTTP/1.0, which does
    /// not know them (RFC 9110 §15.2).
    fn encode_interim(&self, head: &ResponseHead<'_, '_>, out: &mut Vec<u8>) {
        if head.status == 100 || self.request.version == Version::Http10 {
            return;
        }
        let edit = ResponseEdit {
            keep_alive: true,
            client_version: self.request.version,
            request_id: self.request.request_id,
            date: "",
            remove: self.request.response.remove,
            lines: &[],
            recode: Recode::default(),
            body: BodyLength::None,
        };
        codec::client_response(out, head, &edit);
    }

    async fn tell_interim(&mut self, out: &mut Vec<u8>) -> Result<(), ForwardError> {
        if out.is_empty() {
            return Ok(());
        }
        let (sent, returned) = self.send(std::mem::take(out)).await;
        *out = returned;
        out.clear();
        sent.map_err(|_| ForwardError::ClientGone)
    }

    fn parse_head(&self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Parsed<'a>, ForwardError> {
        let mut slots = HeaderSlots::new();
        let method = if self.request.is_head { "HEAD" } else { "GET" };
        let parsed = match self.request.websocket {
            Some(_) => codec::switched_head(bytes, &mut slots, &RESPONSE_HEAD_LIMITS),
            None => codec::response_head(bytes, &mut slots, method, &RESPONSE_HEAD_LIMITS),
        };
        let Some(head) = parsed.map_err(ForwardError::BadResponse)? else { return Ok(Parsed::Partial) };
        if head.status == 101 && !self.request.websocket.is_some_and(|key| codec::agrees(&head, key)) {
            return Err(ForwardError::UpgradeNotAgreed);
        }
        if head.is_interim() && head.status != 101 {
            self.encode_interim(&head, out);
            return Ok(Parsed::Interim(head.head_bytes));
        }
        let date = self.request.date.borrow();
        let Coded { recode, encoder, lacked_encoder } = self.coded(&head);
        let body = if encoder.is_some() { BodyLength::Chunked } else { head.body };
        let framing = codec::client_framing(body, self.request.version);
        let edit = ResponseEdit {
            keep_alive: self.request.keep_alive
                && !self.request.draining.get()
                && framing != BodyLength::UntilClose
                && self.upload.done.get(),
            client_version: self.request.version,
            request_id: self.request.request_id,
            date: date.as_str(),
            remove: self.request.response.remove,
            lines: self.request.response.lines,
            recode,
            body: framing,
        };
        codec::client_response(out, &head, &edit);
        let kept = Head {
            status: head.status,
            body: head.body,
            framing,
            client_keep_alive: edit.keep_alive,
            server_keep_alive: head.keep_alive,
            encoder,
            lacked_encoder,
        };
        Ok(Parsed::Final(kept, head.head_bytes))
    }

    /// How the body is to be coded, and by what. A head without a body is told as if it had one.
    fn coded(&self, head: &ResponseHead<'_, '_>) -> Coded<'a> {
        let plain = Coded { recode: Recode::default(), encoder: None, lacked_encoder: false };
        let agreed = self.request.response.compress;
        let recode = compress::recode(head, agreed);
        let (Agreed::Coded(coding), Some(_)) = (agreed, recode.coding) else {
            return Coded { recode, ..plain };
        };
        if head.body == BodyLength::None {
            return Coded { recode, ..plain };
        }
        if let Some(encoder) = self.tools.encoders.take(coding) {
            return Coded { recode, encoder: Some(encoder), lacked_encoder: false };
        }
        let recode = Recode { coding: None, weaken: false, vary: true };
        Coded { recode, encoder: None, lacked_encoder: true }
    }

    /// Passes on a body of `bytes`: whether it ended in order, and whether more came behind it.
    async fn pass(
        &mut self,
        buffer: &mut Buffer,
        out: &mut Vec<u8>,
        bytes: u64,
        told: &mut Told,
    ) -> Result<(bool, bool), Failed> {
        let first = buffer.data().len() as u64;
        let leftover = first > bytes;
        if leftover {
            buffer.truncate(usize::try_from(bytes).unwrap_or(usize::MAX));
        }
        let mut left = bytes - first.min(bytes);
        self.tell_head(buffer, out, usize::MAX, told).await?;
        if left >= BULK_FROM_BYTES
            && self.is_clear()
            && let Some(pipe) = self.tools.pipes.take()
        {
            self.splice(&pipe, left, told).await?;
            self.tools.pipes.give(pipe);
            return Ok((true, leftover));
        }
        if left >= BULK_FROM_BYTES {
            let small = std::mem::replace(buffer, self.tools.buffers.take_bulk());
            self.tools.buffers.give(small);
        }
        while left > 0 {
            buffer.clear();
            match self.receive(buffer).await {
                Ok(0) | Err(_) => return Err(told.failed(ForwardError::TruncatedResponse)),
                Ok(_) => {}
            }
            let received = buffer.data().len() as u64;
            if received > left {
                buffer.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                self.send_buffer(buffer, told).await?;
                return Ok((true, true));
            }
            left -= received;
            self.send_buffer(buffer, told).await?;
        }
        Ok((true, leftover))
    }

    /// Neither side is under TLS, and nothing of the request is still under way.
    fn is_clear(&self) -> bool {
        self.server_read.clear().is_some() && self.client_write.clear().is_some() && self.upload.done.get()
    }

    /// Has the kernel move the last `left` bytes of a body.
    async fn splice(&mut self, pipe: &Pipe, mut left: u64, told: &mut Told) -> Result<(), Failed> {
        let Some(server) = self.server_read.clear() else { return Ok(()) };
        let Some(client) = self.client_write.clear().map(Unblocked::new) else { return Ok(()) };
        while left > 0 {
            let count = match pipe.fill(server, left).await {
                Ok(0) | Err(_) => return Err(told.failed(ForwardError::TruncatedResponse)),
                Ok(count) => count,
            };
            let sending = pin!(pipe.empty(&client, count));
            let sent = self.taking.watch(count as u64, client.meter(), sending).await;
            told.sent(sent, count as u64)?;
            left -= count as u64;
        }
        Ok(())
    }

    /// Decodes a body, codes it where that is wanted, and frames it for the client.
    async fn reframe(
        &mut self,
        buffer: &mut Buffer,
        out: &mut Vec<u8>,
        (body, chunked, encoder): (BodyLength, bool, Option<Box<Encoder<'_>>>),
        told: &mut Told,
    ) -> Result<(bool, bool), Failed> {
        let mut body = Body { decoder: BodyDecoder::new(body), encoder, coded: Vec::new(), chunked };
        loop {
            let mut done = false;
            while !done && !buffer.data().is_empty() {
                let Ok(decoded) = body.decoder.decode(buffer.data()) else {
                    return Err(told.failed(ForwardError::TruncatedResponse));
                };
                let payload = buffer.data().get(decoded.data.clone()).unwrap_or_default();
                body.put(out, payload).map_err(|_| told.failed(ForwardError::Encoding))?;
                done = decoded.done;
                let progressed = done || decoded.consumed > 0;
                buffer.consume(decoded.consumed);
                if !progressed {
                    break;
                }
            }
            if done {
                body.end(out).map_err(|_| told.failed(ForwardError::Encoding))?;
                self.send_out(out, told).await?;
                return Ok((true, !buffer.data().is_empty()));
            }
            // The server may pause now: what it has sent so far is told. Also when that is nothing yet: an event
            // stream's head must not wait for its first event.
            body.flush(out).map_err(|_| told.failed(ForwardError::Encoding))?;
            self.send_out(out, told).await?;
            if buffer.free_bytes() == 0 {
                self.enlarge(buffer);
            }
            match self.receive(buffer).await {
                // A deadline of ours ends the server's direction as well: that is no end of the body.
                Ok(0) if self.server_deadline.expired().is_none() && body.decoder.finish_at_eof().is_ok() => {
                    body.end(out).map_err(|_| told.failed(ForwardError::Encoding))?;
                    self.send_out(out, told).await?;
                    return Ok((false, false));
                }
                Ok(0) | Err(_) => return Err(told.failed(ForwardError::TruncatedResponse)),
                Ok(_) => {}
            }
        }
    }

    /// Sends the head in `out` and at most `body_bytes_max` of the buffer in one go, without copying the body.
    async fn tell_head(
        &mut self,
        buffer: &mut Buffer,
        out: &mut Vec<u8>,
        body_bytes_max: usize,
        told: &mut Told,
    ) -> Result<(), Failed> {
        let with_body = body_bytes_max > 0 && !buffer.data().is_empty();
        if with_body && buffer.prepend(out) {
            out.clear();
            return self.send_buffer(buffer, told).await;
        }
        self.send_out(out, told).await?;
        if with_body { self.send_buffer(buffer, told).await } else { Ok(()) }
    }

    async fn send_buffer(&mut self, buffer: &mut Buffer, told: &mut Told) -> Result<(), Failed> {
        let bytes = buffer.data().len() as u64;
        let (sent, returned) = self.send(std::mem::replace(buffer, Buffer::placeholder())).await;
        *buffer = returned;
        buffer.clear();
        told.sent(sent, bytes)
    }

    async fn send_out(&mut self, out: &mut Vec<u8>, told: &mut Told) -> Result<(), Failed> {
        if out.is_empty() {
            return Ok(());
        }
        let bytes = out.len() as u64;
        let (sent, returned) = self.send(std::mem::take(out)).await;
        *out = returned;
        out.clear();
        told.sent(sent, bytes)
    }

    /// Sends to the client, whose time runs meanwhile and not while the server is waited for.
    async fn send<B: IoBuf>(&mut self, bytes: B) -> (std::io::Result<()>, B) {
        let (count, meter) = (bytes.bytes_init() as u64, self.client_write.meter());
        let sending = pin!(self.client_write.write_all(bytes));
        self.taking.watch(count, meter, sending).await
    }

    async fn receive(&mut self, buffer: &mut Buffer) -> std::io::Result<usize> {
        let taken = std::mem::replace(buffer, Buffer::placeholder());
        let reading = pin!(self.server_read.read(taken, &self.tools.buffers));
        let on_gone = || self.server_deadline.cut(Phase::ResponseBody);
        let ((received, returned), gone) = cut_when_gone(reading, self.client_write, on_gone).await;
        *buffer = returned;
        self.client_gone |= gone;
        received
    }

    /// Makes room behind the data: at the front of the same block, else in a bulk buffer.
    fn enlarge(&self, buffer: &mut Buffer) {
        buffer.compact();
        if buffer.free_bytes() == 0 && buffer.data().len() < BULK_BUFFER_BYTES / 2 {
            let mut bulk = self.tools.buffers.take_bulk();
            bulk.append(buffer.data());
            self.tools.buffers.give(std::mem::replace(buffer, bulk));
        }
    }
}

/// Drives `reading` to its end, with a `cut` that brings the end at once when the client says that it wants no more;
/// and whether it did.
async fn cut_when_gone<F: Future>(
    mut reading: Pin<&mut F>,
    client: &mut impl Transmit,
    cut: impl Fn(),
) -> (F::Output, bool) {
    let mut gone = false;
    std::future::poll_fn(move |context| {
        if let Poll::Ready(output) = reading.as_mut().poll(context) {
            return Poll::Ready((output, gone));
        }
        if !gone && client.poll_gone(context).is_ready() {
            gone = true;
            cut();
        }
        Poll::Pending
    })
    .await
}

/// How a response is to be coded.
struct Coded<'t> {
    recode: Recode,
    encoder: Option<Box<Encoder<'t>>>,
    lacked_encoder: bool,
}

/// A body that is taken out of the server's framing and put into the client's.
struct Body<'t> {
    decoder: BodyDecoder,
    encoder: Option<Box<Encoder<'t>>>,
    /// What the encoder has made since the last flush.
    coded: Vec<u8>,
    chunked: bool,
}

impl Body<'_> {
    fn put(&mut self, out: &mut Vec<u8>, payload: &[u8]) -> std::io::Result<()> {
        match &mut self.encoder {
            _ if payload.is_empty() => Ok(()),
            Some(encoder) => encoder.encode(payload, &mut self.coded),
            None => {
                frame(out, payload, self.chunked);
                Ok(())
            }
        }
    }

    fn flush(&mut self, out: &mut Vec<u8>) -> std::io::Result<()> {
        if let Some(encoder) = &mut self.encoder {
            encoder.flush(&mut self.coded)?;
        }
        self.frame_coded(out);
        Ok(())
    }

    fn end(&mut self, out: &mut Vec<u8>) -> std::io::Result<()> {
        if let Some(encoder) = self.encoder.take() {
            encoder.finish(&mut self.coded)?;
        }
        self.frame_coded(out);
        if self.chunked {
            codec::last_chunk(out, self.decoder.trailers());
        }
        Ok(())
    }

    fn frame_coded(&mut self, out: &mut Vec<u8>) {
        if !self.coded.is_empty() {
            frame(out, &self.coded, self.chunked);
            self.coded.clear();
        }
    }
}

enum Parsed<'t> {
    Final(Head<'t>, usize),
    Interim(usize),
    Partial,
}

/// What the client has been told so far.
struct Told {
    status: u16,
    bytes: u64,
}

impl Told {
    fn sent(&mut self, result: std::io::Result<()>, bytes: u64) -> Result<(), Failed> {
        self.bytes += bytes;
        result.map_err(|_| self.failed(ForwardError::ClientGone))
    }

    fn failed(&self, error: ForwardError) -> Failed {
        let answered = (self.bytes > 0).then_some(self.status);
        Failed { error, answered, request_body_bytes: 0, response_bytes: self.bytes }
    }
}

fn frame(out: &mut Vec<u8>, payload: &[u8], chunked: bool) {
    if chunked {
        codec::chunk_head(out, payload.len());
    }
    out.extend_from_slice(payload);
    if chunked {
        out.extend_from_slice(codec::CHUNK_END);
    }
}
