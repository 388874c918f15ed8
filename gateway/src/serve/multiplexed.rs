//! A client's connection under HTTP/2: many requests at once, each a task of its own.
//!
//! The connection's task drives h2, accepts streams and ends the connection: in order where it has been silent for too
//! long or the process is to end, at once where its client sends too much of what is no request. A stream meets the
//! same stages as a request of HTTP/1.1, in [`super::stream`].

use std::{cell::Cell, pin::pin, rc::Rc, task::Poll};

use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};

use super::{
    LINGER_NS, after,
    introduce::Ends,
    offence,
    seats::{self, Work},
    secured::Secured,
    worker::{Manners, Worker},
};
use crate::{
    http2::{
        self, Pumps, Wire,
        tally::{Excess, Tally},
    },
    net::{Buffer, Deadline, Phase, Stream, join, monotonic_ns, nanos},
    respond::OffenceKind,
    telemetry::Bound,
};

/// A wait that has no end of its own.
const FAR_NS: u64 = u64::MAX / 2;

/// What all streams of a connection share.
pub(super) struct Multiplexed {
    pub(super) worker: Rc<Worker>,
    pub(super) manners: Rc<Manners>,
    pub(super) secured: Option<Secured>,
    pub(super) ends: Ends,
    /// Streams whose tasks have not ended, those among them that the client has reset: what they began at a server
    /// still goes on (CVE-2025-8671).
    streams: Cell<usize>,
    /// No new ones are wanted.
    leaving: Cell<bool>,
    /// The connection's life beside its descriptor's deadline: silence, or the end of the process.
    life: Deadline,
    pumps: Pumps,
}

/// A request, and where its answer goes: too large to be handed about.
pub(super) type Incoming = Box<(http::Request<RecvStream>, SendResponse<Bytes>)>;

/// What happens to a connection.
enum Event {
    Stream(Incoming),
    /// It is time to end in order.
    Leave,
    /// It is time to end whatever the client does.
    Cut,
    Excess(Excess),
    Ended(Result<(), h2::Error>),
}

/// A connection that speaks HTTP/2, from its preface (the beginning of which has been `received`) to its end.
pub(super) async fn serve_multiplexed(
    (worker, manners): (&Rc<Worker>, &Rc<Manners>),
    (stream, deadline): (&mut Stream, &Deadline),
    received: Buffer,
    (secured, ends): (Option<Secured>, Ends),
) {
    let (wire, pumps) = http2::wire(received, Tally::of_client());
    let connection = Rc::new(Multiplexed {
        worker: Rc::clone(worker),
        manners: Rc::clone(manners),
        secured,
        ends,
        streams: Cell::new(0),
        leaving: Cell::new(false),
        life: worker.tools.deadlines.watch_task(),
        pumps: pumps.clone(),
    });
    let buffers = &worker.tools.buffers;
    let Stream { read, write } = stream;
    // Silence is borne for as long as a request's head may take, until the first one has come.
    connection.life.arm(Phase::KeepAlive, after(manners.settings.timeouts.head));
    deadline.disarm();
    let idle_ns = nanos(manners.settings.timeouts.body_idle);
    let receive = pumps.receive(read, buffers, || connection.streams.get() == 0);
    let send = async {
        pumps.send(write, deadline, idle_ns).await;
        deadline.arm(Phase::Linger, monotonic_ns().saturating_add(LINGER_NS));
        // Whether the client still hears it changes nothing.
        let _ = write.finish().await;
    };
    let drive = connection.drive(wire, deadline);
    join(pin!(receive), pin!(join(pin!(drive), pin!(send)))).await;
}

impl Multiplexed {
    /// Drives h2 until the connection has ended. Gives `wire` up then, which ends the pumps.
    async fn drive(self: &Rc<Self>, wire: Wire, deadline: &Deadline) {
        let limits = &self.manners.settings.limits;
        let handshake = h2::server::Builder::new()
            .initial_window_size(http2::STREAM_WINDOW_BYTES)
            .initial_connection_window_size(http2::CONNECTION_WINDOW_BYTES)
            .max_frame_size(http2::FRAME_BYTES_MAX)
            .max_header_list_size(u32::try_from(limits.head_size_bytes).unwrap_or(u32::MAX))
            .max_concurrent_streams(limits.streams)
            .max_local_error_reset_streams(Some(http2::ERROR_RESETS_MAX))
            .max_pending_accept_reset_streams(http2::EARLY_RESETS_MAX)
            .max_send_buffer_size(http2::SEND_BUFFER_BYTES)
            .enable_connect_protocol()
            .handshake::<_, Bytes>(wire);
        let mut handshake = pin!(handshake);
        let shaken = std::future::poll_fn(|context| match self.life.poll_expired(context) {
            Poll::Ready(_) => Poll::Ready(None),
            Poll::Pending => handshake.as_mut().poll(context).map(Some),
        });
        let mut h2 = match shaken.await {
            Some(Ok(h2)) => h2,
            Some(Err(error)) => return self.ended(Err(error)),
            None => return,
        };
        loop {
            match self.next_event(&mut h2).await {
                Event::Stream(incoming) => self.accept(incoming),
                Event::Leave => {
                    self.life.rearm();
                    self.leaving.set(true);
                    self.await_end();
                    h2.graceful_shutdown();
                }
                Event::Cut => return deadline.cut(Phase::Linger),
                Event::Excess(excess) => {
                    self.report(OffenceKind::Malformed);
                    if excess == Excess::Start {
                        h2.abrupt_shutdown(h2::Reason::PROTOCOL_ERROR);
                    } else {
                        self.worker.cells.bound_hit(Bound::Http2Frames);
                        h2.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM);
                    }
                    // The farewell goes into the outbox; nothing more is taken.
                    let _ = std::future::poll_fn(|context| h2.poll_closed(context)).await;
                    return;
                }
                Event::Ended(result) => return self.ended(result),
            }
        }
    }

    async fn next_event(&self, h2: &mut h2::server::Connection<Wire, Bytes>) -> Event {
        std::future::poll_fn(|context| {
            if let Some(excess) = self.pumps.excess() {
                return Poll::Ready(Event::Excess(excess));
            }
            match self.life.poll_expired(context) {
                Poll::Ready(Phase::Linger) => return Poll::Ready(Event::Cut),
                Poll::Ready(_) => return Poll::Ready(Event::Leave),
                Poll::Pending => {}
            }
            h2.poll_accept(context).map(|accepted| match accepted {
                Some(Ok(incoming)) => Event::Stream(Box::new(incoming)),
                Some(Err(error)) => Event::Ended(Err(error)),
                None => Event::Ended(Ok(())),
            })
        })
        .await
    }

    /// Where no stream is left, the connection's own last bytes are waited for, or another request.
    fn await_end(&self) {
        let timeouts = &self.manners.settings.timeouts;
        match (self.streams.get(), self.leaving.get()) {
            (0, false) => self.life.arm(Phase::KeepAlive, after(timeouts.keep_alive)),
            (0, true) => self.life.arm(Phase::Linger, after(timeouts.body_idle)),
            (_, true) => self.life.disarm(),
            // The end of the process has no time, but is to be told.
            (_, false) => self.life.arm(Phase::Drain, FAR_NS),
        }
    }

    fn accept(self: &Rc<Self>, mut incoming: Incoming) {
        if self.streams.get() >= self.manners.settings.limits.streams as usize {
            self.worker.cells.bound_hit(Bound::Http2Streams);
            incoming.1.send_reset(h2::Reason::REFUSED_STREAM);
            return;
        }
        seats::serve(&self.worker, Work { open: OpenStream::new(self), incoming });
    }

    /// The connection has ended, for a reason that may be its client's fault.
    fn ended(&self, result: Result<(), h2::Error>) {
        if let Err(error) = result {
            log::debug!("the connection of {} ended: {error}", self.ends.peer);
            if error.is_library() {
                self.report(OffenceKind::Malformed);
            }
        }
    }

    fn report(&self, kind: OffenceKind) {
        let (ends, worker) = (&self.ends, &self.worker);
        worker.report(offence(kind, ends.peer, ends.is_told, worker.next_request_id()));
    }

    /// A request was answered to its end.
    pub(super) fn answered(&self) {
        self.pumps.stream_ended();
    }
}

/// Counts a stream's task for as long as it lives, also where it panics.
pub(super) struct OpenStream(Rc<Multiplexed>);

impl OpenStream {
    pub(super) fn connection(&self) -> &Rc<Multiplexed> {
        &self.0
    }

    fn new(connection: &Rc<Multiplexed>) -> Self {
        connection.streams.set(connection.streams.get() + 1);
        connection.await_end();
        Self(Rc::clone(connection))
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let connection = &self.0;
        connection.streams.set(connection.streams.get().saturating_sub(1));
        if connection.streams.get() == 0 {
            connection.await_end();
        }
    }
}
