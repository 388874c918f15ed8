//! Connections to a server that many exchanges share: HTTP/2.
//!
//! Each is driven by a task of its own until it ends. An exchange has a stream on one for its time; a connection takes
//! as many as its server allows, and no new ones once it is old, closing or closed. It knows nothing of lines and
//! slots but that a slot is held while it lives.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    pin::pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use h2::client::SendRequest;

use super::{gate::Slot, pool::Connection};
use crate::{
    http2::{self, Inbound, Outbound, Pumps, Speaker, To, tally::Tally},
    net::{Buffer, Buffers, Deadline, Deadlines, Phase, Stream, contain, join, monotonic_ns, sleep, spawn},
};

/// Streams on one connection, whatever its server allows.
pub(super) const STREAMS_MAX: u32 = 256;
/// Clients that take nothing of their responses must not keep those of others from coming: a window for each stream.
const CONNECTION_WINDOW_BYTES: u32 = STREAMS_MAX * http2::STREAM_WINDOW_BYTES;
/// Time for a server to take what we send, in ns.
const SEND_NS: u64 = 15_000_000_000;
/// Time for a server to close after our last word, in ns.
const LINGER_NS: u64 = 1_000_000_000;

/// A connection that is shared.
pub(super) struct SharedConnection {
    send: RefCell<Option<SendRequest<Bytes>>>,
    state: Rc<State>,
    streams: Cell<usize>,
    /// Exchanges that it has carried: the first is on a connection that nobody has used.
    carried: Cell<u64>,
    scheme: &'static str,
    pub(super) address: SocketAddr,
    pub(super) version: Cell<u64>,
    pub(super) opened_ns: u64,
    pub(super) idle_since_ns: Cell<u64>,
}

/// What the driver tells.
#[derive(Default)]
struct State {
    /// The server's settings have come.
    settled: Cell<bool>,
    ended: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// One exchange's stream.
pub struct SharedStream {
    /// What the server says.
    pub inbound: Inbound,
    /// What it is told.
    pub outbound: Outbound,
    /// Ends the waits of both.
    pub deadline: Deadline,
    /// Others have used the connection before.
    pub(super) reused: bool,
    pub(super) connection: Rc<SharedConnection>,
}

impl SharedConnection {
    /// Speaks HTTP/2 on a new connection, and waits for the server's settings for at most `time_max`.
    pub(super) async fn open(
        connection: Connection,
        buffers: &Rc<Buffers>,
        time_max: Duration,
    ) -> std::io::Result<Rc<Self>> {
        let Connection { deadline, stream, address, version, opened_ns, _slot: slot, .. } = connection;
        let scheme = if stream.read.is_clear() { "http" } else { "https" };
        let (wire, pumps) = http2::wire(Buffer::placeholder(), Tally::of_server());
        let (send, driver) = h2::client::Builder::new()
            .enable_push(false)
            .initial_window_size(http2::STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_header_list_size(64 * 1024)
            .max_local_error_reset_streams(Some(http2::ERROR_RESETS_MAX))
            .max_send_buffer_size(http2::SEND_BUFFER_BYTES)
            .handshake::<_, Bytes>(wire)
            .await
            .map_err(std::io::Error::other)?;
        let state = Rc::new(State::default());
        spawn(drive(driver, pumps, (stream, deadline, slot), Rc::clone(buffers), Rc::clone(&state)));
        let shared = Rc::new(Self {
            send: RefCell::new(Some(send)),
            state,
            streams: Cell::new(0),
            carried: Cell::new(0),
            scheme,
            address,
            version: Cell::new(version),
            opened_ns,
            idle_since_ns: Cell::new(monotonic_ns()),
        });
        shared.settled(time_max).await?;
        Ok(shared)
    }

    async fn settled(&self, time_max: Duration) -> std::io::Result<()> {
        let mut late = pin!(sleep(time_max));
        std::future::poll_fn(|context| {
            if self.state.ended.get() {
                return Poll::Ready(Err(std::io::ErrorKind::ConnectionReset.into()));
            }
            if self.state.settled.get() {
                return Poll::Ready(Ok(()));
            }
            if late.as_mut().poll(context).is_ready() {
                return Poll::Ready(Err(std::io::ErrorKind::TimedOut.into()));
            }
            self.state.waker.replace(Some(context.waker().clone()));
            Poll::Pending
        })
        .await
    }

    /// Whether it takes exchanges: its server has not begun to end it (GOAWAY), nor are its stream numbers used up.
    pub(super) fn is_open(&self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        let mut send = self.send.borrow_mut();
        let is_ready = |send: &mut SendRequest<Bytes>| {
            // Only a handle that waits for its last stream to open would be told later.
            matches!(send.poll_ready(&mut context), Poll::Ready(Ok(())))
        };
        !self.state.ended.get() && send.as_mut().is_some_and(is_ready)
    }

    /// Exchanges on it.
    pub(super) fn streams(&self) -> usize {
        self.streams.get()
    }

    /// How many more exchanges it takes.
    pub(super) fn room(&self) -> usize {
        let allowed = self.send.borrow().as_ref().map_or(0, SendRequest::current_max_send_streams);
        let open = if self.is_open() { allowed.min(STREAMS_MAX as usize) } else { 0 };
        open.saturating_sub(self.streams.get())
    }

    /// Whether its server makes WebSockets of streams (RFC 8441 §3).
    pub(super) fn has_websockets(&self) -> bool {
        self.send.borrow().as_ref().is_some_and(SendRequest::is_extended_connect_protocol_enabled)
    }

    /// Takes no more exchanges; those under way go on, and the connection closes behind the last.
    pub(super) fn retire(&self) {
        self.send.take();
    }

    /// A stream for an exchange; none where there is no room.
    pub(super) fn stream(self: &Rc<Self>, deadlines: &Rc<Deadlines>, to: To) -> Option<Box<SharedStream>> {
        if self.room() == 0 {
            return None;
        }
        let send = self.send.borrow().clone()?;
        self.streams.set(self.streams.get() + 1);
        let reused = self.carried.replace(self.carried.get() + 1) > 0;
        let answer = http2::Answer::default();
        let speaker = Speaker::Client {
            send,
            scheme: self.scheme,
            websocket: matches!(to, To::WebSocket(_)),
            answer: Rc::clone(&answer),
        };
        Some(Box::new(SharedStream {
            inbound: Inbound::of_response(answer, to),
            outbound: Outbound::new(speaker),
            deadline: deadlines.watch_task(),
            reused,
            connection: Rc::clone(self),
        }))
    }
}

impl Drop for SharedStream {
    fn drop(&mut self) {
        let connection = &self.connection;
        connection.streams.set(connection.streams.get().saturating_sub(1));
        connection.idle_since_ns.set(monotonic_ns());
        if self.outbound.was_refused() {
            connection.retire();
        }
    }
}

/// A connection's life: it ends when the server ends it, or when it is retired and its last stream has ended.
async fn drive(
    driver: h2::client::Connection<http2::Wire, Bytes>,
    pumps: Pumps,
    (mut stream, deadline, slot): (Stream, Deadline, Slot),
    buffers: Rc<Buffers>,
    state: Rc<State>,
) {
    let speak = async {
        let mut driver = Some(driver);
        std::future::poll_fn(|context| {
            let polled = match (&mut driver, pumps.excess()) {
                (Some(driver), None) => std::pin::Pin::new(driver).poll(context),
                _ => Poll::Ready(Ok(())),
            };
            // A server's first frame is its settings (RFC 9113 §3.4).
            if pumps.has_frame() && !state.settled.replace(true) {
                wake(&state);
            }
            if let Poll::Ready(Err(error)) = &polled {
                log::debug!("a server's HTTP/2 connection ended: {error}");
            }
            polled.map(drop)
        })
        .await;
        drop(driver.take());
        state.ended.set(true);
        wake(&state);
    };
    let Stream { read, write } = &mut stream;
    let receive = pumps.receive(read, &buffers, || false);
    let send = async {
        pumps.send(write, &deadline, SEND_NS).await;
        deadline.arm(Phase::Linger, monotonic_ns().saturating_add(LINGER_NS));
        // Whether the server still hears it changes nothing.
        let _ = write.finish().await;
    };
    let all = async {
        join(pin!(receive), pin!(join(pin!(speak), pin!(send)))).await;
    };
    if contain(pin!(all)).await.is_none() {
        log::error!("a server's HTTP/2 connection was dropped: its task panicked");
        state.ended.set(true);
        wake(&state);
    }
    // The slot of the deadline must go before the descriptor is closed, and the gate's behind it.
    drop(deadline);
    drop(stream);
    drop(slot);
}

fn wake(state: &State) {
    if let Some(waker) = state.waker.take() {
        waker.wake();
    }
}
