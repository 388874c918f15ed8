//! What a stream's peer is told, from the bytes of an HTTP/1.1 connection.
//!
//! A response with its interim heads, or a request; what is framed in chunks is taken out of them. No more is given to
//! h2 than the peer's window and [`super::SEND_BUFFER_BYTES`] have room for: who sends is made to wait.

use std::{
    cell::Cell,
    io,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{
    Reason, SendStream,
    client::{ResponseFuture, SendRequest},
    server::SendResponse,
};

use http::HeaderMap;

use super::text;
use crate::{
    codec::{self, BodyDecoder, BodyLength, HeadLimits, HeaderSlots},
    net::{Deadline, IoBuf, Meter, Transmit, WriteHalf, bytes_of},
};

/// Heads of our own making are as long as policy lets them be.
const HEAD_LIMITS: HeadLimits = HeadLimits {
    head_bytes_max: 1024 * 1024,
    headers_max: codec::HEADERS_MAX,
    target_bytes_max: 1024 * 1024,
};

/// Who begins a stream, and how its head is read.
pub enum Speaker {
    /// A server: its head is a response, in which a `HEAD` is answered without a body.
    Server {
        /// Where it goes.
        respond: SendResponse<Bytes>,
        /// It answers a `HEAD`.
        to_head: bool,
        /// 101 may come, and is 200 here (RFC 8441 §5).
        websocket: bool,
    },
    /// A client: its head is a request.
    Client {
        /// Where it goes; it has room for one more stream.
        send: SendRequest<Bytes>,
        /// `https` or `http`.
        scheme: &'static str,
        /// It is an extended CONNECT (RFC 8441 §4).
        websocket: bool,
        /// Where the answer will be found, once the head was sent.
        answer: Answer,
    },
}

/// What a request was answered with, handed from the direction that asks to the one that listens.
pub type Answer = Rc<Cell<Option<ResponseFuture>>>;

/// One stream's outgoing direction.
pub struct Outbound {
    speaker: Speaker,
    /// A head that has not ended yet; empty where it came in one piece, as ours do.
    head: Vec<u8>,
    body: Body,
    stream: Option<SendStream<Bytes>>,
    /// The connection takes no more streams.
    was_refused: bool,
    /// Payload that waits for room.
    waiting: Bytes,
    /// Payload that the peer's window has had room for.
    taken_bytes: Rc<Cell<u64>>,
    /// The stream ends with what waits.
    ends_with_data: bool,
    /// The stream ends with these, behind what waits.
    trailers: Option<HeaderMap>,
}

enum Body {
    /// The head has not ended.
    Not,
    Framed(BodyDecoder),
    /// Bytes as they are.
    Tunnel,
    Ended,
}

impl Outbound {
    /// Nothing is said yet.
    pub fn new(speaker: Speaker) -> Self {
        Self {
            speaker,
            head: Vec::new(),
            body: Body::Not,
            stream: None,
            was_refused: false,
            waiting: Bytes::new(),
            taken_bytes: Rc::default(),
            ends_with_data: false,
            trailers: None,
        }
    }

    /// Resets the stream: what was said is not whole.
    pub fn reset(&mut self, reason: Reason) {
        match (&mut self.stream, &mut self.speaker) {
            (Some(stream), _) => stream.send_reset(reason),
            (None, Speaker::Server { respond, .. }) => respond.send_reset(reason),
            (None, Speaker::Client { .. }) => {}
        }
    }

    /// Whether the connection took no more streams: its peer is about to close it.
    pub fn was_refused(&self) -> bool {
        self.was_refused
    }

    /// Whether all has been said.
    pub fn has_ended(&self) -> bool {
        self.body.has_ended() && self.waiting.is_empty()
    }

    /// For one exchange.
    pub fn within<'d>(&'d mut self, deadline: &'d Deadline) -> OutboundHalf<'d> {
        OutboundHalf { outbound: self, deadline }
    }

    /// Says as much of `bytes` as there is room for, and how much that was; then it waits, or there was no more.
    fn poll_say(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if !self.waiting.is_empty() {
            ready!(self.poll_send_waiting(context))?;
        }
        match &mut self.body {
            Body::Not => Poll::Ready(self.say_head(bytes)),
            // Behind the end there is nothing to say; ours ends where its framing does.
            Body::Ended => Poll::Ready(Ok(bytes.len())),
            Body::Tunnel => {
                self.waiting = Bytes::copy_from_slice(bytes);
                Poll::Ready(Ok(bytes.len()))
            }
            Body::Framed(decoder) => {
                let decoded = decoder.decode(bytes).map_err(io::Error::other)?;
                self.waiting = Bytes::copy_from_slice(bytes.get(decoded.data.clone()).unwrap_or_default());
                if decoded.done {
                    self.say_end()?;
                }
                Poll::Ready(Ok(decoded.consumed))
            }
        }
    }

    /// Sends what waits, as the peer and h2 have room for it.
    fn poll_send_waiting(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = self.stream.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        while !self.waiting.is_empty() {
            let room = ready!(poll_room(stream, context, self.waiting.len()))?;
            let piece = self.waiting.split_to(room.min(self.waiting.len()));
            self.taken_bytes.set(self.taken_bytes.get() + piece.len() as u64);
            let is_last = self.ends_with_data && self.waiting.is_empty();
            stream.send_data(piece, is_last).map_err(io::Error::other)?;
        }
        if let Some(trailers) = self.trailers.take() {
            stream.send_trailers(trailers).map_err(io::Error::other)?;
        }
        Poll::Ready(Ok(()))
    }

    /// The body's framing has ended: with what waits, with nothing, or with trailers.
    fn say_end(&mut self) -> io::Result<()> {
        let Body::Framed(decoder) = std::mem::replace(&mut self.body, Body::Ended) else { return Ok(()) };
        let stream = self.stream.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        if !decoder.trailers().is_empty() {
            self.trailers = Some(text::trailers(decoder.trailers()).map_err(io::Error::other)?);
        }
        match (self.waiting.is_empty(), self.trailers.take()) {
            (true, None) => stream.send_data(Bytes::new(), true).map_err(io::Error::other),
            (true, Some(trailers)) => stream.send_trailers(trailers).map_err(io::Error::other),
            (false, trailers) => {
                self.ends_with_data = trailers.is_none();
                self.trailers = trailers;
                Ok(())
            }
        }
    }

    /// Takes a head out of `bytes`, once it has ended, and says it.
    fn say_head(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.head.is_empty() {
            if let Some(head_bytes) = self.try_head(bytes)? {
                return Ok(head_bytes);
            }
            self.head.extend_from_slice(bytes);
            return Ok(bytes.len());
        }
        let before = self.head.len();
        let mut head = std::mem::take(&mut self.head);
        head.extend_from_slice(bytes);
        if let Some(head_bytes) = self.try_head(&head)? {
            return Ok(head_bytes.saturating_sub(before));
        }
        self.head = head;
        Ok(bytes.len())
    }

    fn try_head(&mut self, bytes: &[u8]) -> io::Result<Option<usize>> {
        let mut slots = HeaderSlots::new();
        match &mut self.speaker {
            Speaker::Server { respond, to_head, websocket } => {
                let method = if *to_head { "HEAD" } else { "GET" };
                let head = if *websocket {
                    codec::switched_head(bytes, &mut slots, &HEAD_LIMITS)
                } else {
                    codec::response_head(bytes, &mut slots, method, &HEAD_LIMITS)
                };
                let Some(head) = head.map_err(io::Error::other)? else { return Ok(None) };
                let response = text::response(&head).map_err(io::Error::other)?;
                if head.is_interim() && head.status != 101 {
                    respond.send_informational(response).map_err(io::Error::other)?;
                    return Ok(Some(head.head_bytes));
                }
                self.body = Body::of(head.body, head.status == 101);
                let stream = respond.send_response(response, self.body.has_ended());
                self.stream = Some(stream.map_err(io::Error::other)?);
                Ok(Some(head.head_bytes))
            }
            Speaker::Client { send, scheme, websocket, answer } => {
                let head = codec::request_head(bytes, &mut slots, &HEAD_LIMITS);
                let Some(head) = head.map_err(io::Error::other)? else { return Ok(None) };
                let request = text::request(&head, scheme, *websocket).map_err(io::Error::other)?;
                self.body = Body::of(head.body, *websocket);
                let sent = send.send_request(request, self.body.has_ended());
                self.was_refused = sent.is_err();
                let (response, stream) = sent.map_err(io::Error::other)?;
                answer.set(Some(response));
                self.stream = Some(stream);
                Ok(Some(head.head_bytes))
            }
        }
    }
}

impl Body {
    fn of(length: BodyLength, is_tunnel: bool) -> Self {
        match length {
            _ if is_tunnel => Self::Tunnel,
            BodyLength::None | BodyLength::Exact(0) => Self::Ended,
            length => Self::Framed(BodyDecoder::new(length)),
        }
    }

    fn has_ended(&self) -> bool {
        matches!(self, Self::Ended)
    }
}

/// Waits for room for at least one of `bytes`, and says how many there is for.
fn poll_room(
    stream: &mut SendStream<Bytes>,
    context: &mut Context<'_>,
    bytes: usize,
) -> Poll<io::Result<usize>> {
    stream.reserve_capacity(bytes);
    loop {
        if stream.capacity() > 0 {
            return Poll::Ready(Ok(stream.capacity()));
        }
        match ready!(stream.poll_capacity(context)) {
            // Told of room that is taken already: asked again.
            Some(Ok(_)) => {}
            Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
            None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }
}

/// A stream's outgoing direction with the deadline of its waits.
pub struct OutboundHalf<'d> {
    outbound: &'d mut Outbound,
    deadline: &'d Deadline,
}

impl OutboundHalf<'_> {
    /// Waits for `poll` to be ready, or for the deadline to end what is sent.
    fn poll_within<T>(
        &mut self,
        context: &mut Context<'_>,
        poll: impl FnOnce(&mut Outbound, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if let Poll::Ready(phase) = self.deadline.poll_expired(context)
            && phase.ends_sending()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        poll(self.outbound, context)
    }

    /// Ends this direction of a tunnel.
    pub async fn finish(&mut self) -> io::Result<()> {
        std::future::poll_fn(|context| {
            self.poll_within(context, |outbound, context| {
                if !outbound.has_ended() {
                    ready!(outbound.poll_send_waiting(context))?;
                    outbound.body = Body::Ended;
                    let stream = outbound.stream.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
                    stream.send_data(Bytes::new(), true).map_err(io::Error::other)?;
                }
                Poll::Ready(Ok(()))
            })
        })
        .await
    }
}

impl Transmit for OutboundHalf<'_> {
    async fn write_all<B: IoBuf>(&mut self, bytes: B) -> (io::Result<()>, B) {
        let mut said = 0;
        let sent = std::future::poll_fn(|context| {
            self.poll_within(context, |outbound, context| {
                loop {
                    let rest = bytes_of(&bytes).get(said..).unwrap_or_default();
                    if rest.is_empty() {
                        return if outbound.waiting.is_empty() {
                            Poll::Ready(Ok(()))
                        } else {
                            outbound.poll_send_waiting(context)
                        };
                    }
                    said += ready!(outbound.poll_say(context, rest))?;
                }
            })
        })
        .await;
        (sent, bytes)
    }

    fn clear(&self) -> Option<&WriteHalf> {
        None
    }

    fn meter(&self) -> Meter {
        Meter::of_stream(&self.outbound.taken_bytes)
    }

    fn is_stream(&self) -> bool {
        true
    }

    fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let gone = match (&mut self.outbound.stream, &mut self.outbound.speaker) {
            (Some(stream), _) => stream.poll_reset(context).is_ready(),
            (None, Speaker::Server { respond, .. }) => respond.poll_reset(context).is_ready(),
            (None, Speaker::Client { .. }) => false,
        };
        if gone { Poll::Ready(()) } else { Poll::Pending }
    }
}
