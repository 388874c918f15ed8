//! What a peer says on a stream, as the bytes of an HTTP/1.1 connection.
//!
//! A request's body, or a response with its interim heads, framed in chunks where the head does not say its length.
//! A window of it is opened again only as its bytes are taken, so that who reads slowly is sent slowly.

use std::{
    future::Future as _,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use h2::{RecvStream, client::ResponseFuture};

use super::{
    NotSent,
    outbound::Answer,
    text::{self, Framing},
};
use crate::{
    codec::{self, WebSocketKey},
    net::{Buffer, Buffers, Deadline, ReadHalf, Receive},
};

/// One stream's incoming direction.
pub struct Inbound {
    source: Source,
    framing: Framing,
    /// Text that goes before what follows: heads, chunk sizes, trailers.
    text: Vec<u8>,
    text_at: usize,
    /// Payload that was received and not yet taken.
    payload: Bytes,
}

enum Source {
    /// The answer to a request that is still to be sent.
    Asked(Answer, To),
    /// A response whose head has not come yet.
    Response(ResponseFuture, To),
    Body(RecvStream),
    Trailers(RecvStream),
    /// It broke, which has been told, perhaps behind what came before; h2 is not asked again.
    Broken {
        /// What came has no form in HTTP/1.1.
        is_malformed: bool,
    },
    /// All of it has come. The stream is kept: to drop it early would reset it.
    Ended(#[expect(dead_code, reason = "held until the exchange is over")] Option<RecvStream>),
}

/// What a response answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// A `HEAD`: it has no body.
    Head,
    /// An extended CONNECT that stands for a handshake with this key.
    WebSocket(WebSocketKey),
    /// Any other request.
    Other,
}

impl Inbound {
    /// A request's body, framed as its head says.
    pub fn of_request(body: RecvStream, framing: Framing) -> Self {
        Self::new(Source::Body(body), framing)
    }

    /// A response, from its head on.
    pub fn of_response(answer: Answer, to: To) -> Self {
        Self::new(Source::Asked(answer, to), Framing::Plain)
    }

    fn new(source: Source, framing: Framing) -> Self {
        Self { source, framing, text: Vec::new(), text_at: 0, payload: Bytes::new() }
    }

    /// From here on, payload is told as it comes: the stream is a tunnel.
    pub fn unframe(&mut self) {
        self.framing = Framing::Plain;
    }

    /// Whether it broke for what its peer said.
    pub fn is_malformed(&self) -> bool {
        matches!(self.source, Source::Broken { is_malformed: true })
    }

    /// Fills as much of `room` as there is something for; `Ok(0)`: the peer has ended its direction.
    fn poll_fill(&mut self, context: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut filled = 0;
        loop {
            let free = room.get_mut(filled..).unwrap_or_default();
            if free.is_empty() {
                return Poll::Ready(Ok(filled));
            }
            let count = self.take(free);
            filled += count;
            if count > 0 {
                continue;
            }
            match self.poll_more(context) {
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false)) => return Poll::Ready(Ok(filled)),
                // What has come is told before what went wrong, and that when it is asked for again.
                Poll::Ready(Err(_)) | Poll::Pending if filled > 0 => return Poll::Ready(Ok(filled)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Takes what is there: text first, then payload.
    fn take(&mut self, room: &mut [u8]) -> usize {
        let text = self.text.get(self.text_at..).unwrap_or_default();
        if !text.is_empty() {
            let count = copy(text, room);
            self.text_at += count;
            return count;
        }
        if self.text_at > 0 {
            self.text.clear();
            self.text_at = 0;
        }
        let count = copy(&self.payload, room);
        if count == 0 {
            return 0;
        }
        self.payload.advance(count);
        if let Source::Body(body) = &mut self.source {
            // Fails only where the stream is gone already.
            let _ = body.flow_control().release_capacity(count);
        }
        if self.payload.is_empty() && self.framing == Framing::Chunked {
            self.text.extend_from_slice(codec::CHUNK_END);
        }
        count
    }

    /// Waits for something to take; false: there will be nothing. An error is the last thing that there is.
    fn poll_more(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let more = ready!(self.poll_source(context));
        if more.is_err() && !matches!(self.source, Source::Broken { .. }) {
            // It may have been half written.
            self.text.clear();
            let inner = more.as_ref().err().and_then(io::Error::get_ref);
            let is_malformed = inner.is_some_and(|inner| inner.downcast_ref::<text::TextError>().is_some());
            self.source = Source::Broken { is_malformed };
        }
        Poll::Ready(more)
    }

    fn poll_source(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        match &mut self.source {
            Source::Asked(answer, to) => {
                // Whoever listens has asked, or could not, so that nobody has heard of it.
                let response = answer.take().ok_or_else(|| io::Error::other(NotSent))?;
                self.source = Source::Response(response, *to);
                Poll::Ready(Ok(true))
            }
            Source::Response(response, to) => {
                let to = *to;
                if let Poll::Ready(Some(interim)) = response.poll_informational(context) {
                    let parts = interim.map_err(io::Error::other)?.into_parts().0;
                    return self.head(&parts, false, to).map(|_| true).into();
                }
                let response = ready!(Pin::new(response).poll(context)).map_err(io::Error::other)?;
                let (parts, body) = response.into_parts();
                self.framing = self.head(&parts, body.is_end_stream(), to)?;
                self.source = Source::Body(body);
                Poll::Ready(Ok(true))
            }
            Source::Body(body) => {
                match ready!(body.poll_data(context)) {
                    Some(Ok(payload)) if payload.is_empty() => {}
                    Some(Ok(payload)) => {
                        if self.framing == Framing::Chunked {
                            codec::chunk_head(&mut self.text, payload.len());
                        }
                        self.payload = payload;
                    }
                    Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                    None => self.source = self.after_body(),
                }
                Poll::Ready(Ok(true))
            }
            Source::Trailers(body) => {
                let trailers = ready!(body.poll_trailers(context)).map_err(io::Error::other)?;
                text::push_trailers(&mut self.text, &trailers.unwrap_or_default()).map_err(invalid)?;
                self.source = self.after_trailers();
                Poll::Ready(Ok(true))
            }
            Source::Broken { .. } => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Source::Ended(_) => Poll::Ready(Ok(false)),
        }
    }

    fn head(&mut self, parts: &http::response::Parts, is_whole: bool, to: To) -> io::Result<Framing> {
        if let To::WebSocket(key) = to
            && parts.status.is_success()
        {
            text::push_switched(&mut self.text, parts, key).map_err(invalid)?;
            return Ok(Framing::Plain);
        }
        let is_bodiless = to == To::Head || matches!(parts.status.as_u16(), 204 | 304);
        text::push_response(&mut self.text, parts, is_whole, is_bodiless).map_err(invalid)
    }

    /// A body of a length that was said has no place for trailers.
    fn after_body(&mut self) -> Source {
        match std::mem::replace(&mut self.source, Source::Ended(None)) {
            Source::Body(body) if self.framing == Framing::Chunked => Source::Trailers(body),
            Source::Body(body) => Source::Ended(Some(body)),
            other => other,
        }
    }

    fn after_trailers(&mut self) -> Source {
        match std::mem::replace(&mut self.source, Source::Ended(None)) {
            Source::Trailers(body) => Source::Ended(Some(body)),
            other => other,
        }
    }
}

/// A stream's incoming direction with the deadline of its waits.
pub struct InboundHalf<'d> {
    inbound: &'d mut Inbound,
    deadline: &'d Deadline,
}

impl Inbound {
    /// For one exchange.
    pub fn within<'d>(&'d mut self, deadline: &'d Deadline) -> InboundHalf<'d> {
        InboundHalf { inbound: self, deadline }
    }
}

impl Receive for InboundHalf<'_> {
    async fn read(&mut self, mut buffer: Buffer, buffers: &Buffers) -> (io::Result<usize>, Buffer) {
        if buffer.free_bytes() == 0 && buffer.data().is_empty() {
            buffers.give(std::mem::replace(&mut buffer, buffers.take()));
        }
        let count = std::future::poll_fn(|context| {
            if self.deadline.poll_expired(context).is_ready() {
                return Poll::Ready(Ok(0));
            }
            self.inbound.poll_fill(context, buffer.room())
        })
        .await;
        if let Ok(count) = count {
            buffer.filled(count);
        }
        (count, buffer)
    }

    fn clear(&self) -> Option<&ReadHalf> {
        None
    }
}

impl InboundHalf<'_> {
    /// Waits until there is something to take, or the deadline.
    pub async fn ready(&mut self) -> io::Result<()> {
        std::future::poll_fn(|context| {
            let there = self.inbound.text_at < self.inbound.text.len() || !self.inbound.payload.is_empty();
            if there || self.deadline.poll_expired(context).is_ready() {
                return Poll::Ready(Ok(()));
            }
            match ready!(self.inbound.poll_more(context)) {
                Ok(true) => {
                    context.waker().wake_by_ref();
                    Poll::Pending
                }
                Ok(false) => Poll::Ready(Ok(())),
                Err(error) => Poll::Ready(Err(error)),
            }
        })
        .await
    }
}

fn copy(from: &[u8], to: &mut [u8]) -> usize {
    let count = from.len().min(to.len());
    if let (Some(from), Some(to)) = (from.get(..count), to.get_mut(..count)) {
        to.copy_from_slice(from);
    }
    count
}

fn invalid(error: text::TextError) -> io::Error {
    io::Error::other(error)
}
