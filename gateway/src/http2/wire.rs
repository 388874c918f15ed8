//! The socket as h2 sees it: two queues in memory, and the pumps that move them over a stream in clear or under TLS.
//!
//! h2 asks to read and write by polling, `io_uring` takes a buffer and gives it back: between them stand one received
//! buffer and one vector on its way out. h2 is not given more than it takes, and gives no more than fits. The pumps
//! never drop an operation; they end when their direction does.

use std::{
    cell::{Cell, RefCell},
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::tally::{Excess, Tally};
use crate::net::{Buffer, Buffers, Deadline, Phase, ReadHalf, WriteHalf, coarse_ns};

/// h2 is told to wait when so much is to be sent.
const OUTBOX_BYTES_MAX: usize = 64 * 1024;
/// Memory that a silent connection keeps for what it will send.
const OUTBOX_KEPT_BYTES: usize = 4 * 1024;
/// Bytes that are read and thrown away behind h2's last word, so that the peer hears it: a close with unread bytes
/// would reset the connection.
const DRAINED_BYTES_MAX: usize = 1024 * 1024;

const NS_PER_S: u64 = 1_000_000_000;

/// h2's end.
pub struct Wire(Rc<Queues>);

/// The pumps' end, and what the connection's owner may ask.
#[derive(Clone)]
pub struct Pumps(Rc<Queues>);

struct Queues {
    inbox: RefCell<Inbox>,
    outbox: RefCell<Outbox>,
    tally: RefCell<Tally>,
    excess: Cell<Option<Excess>>,
}

struct Inbox {
    received: Buffer,
    /// Nothing more will come.
    ended: bool,
    /// h2 is gone: what still comes is thrown away.
    is_abandoned: bool,
    /// h2, which waits for bytes.
    reader: Option<Waker>,
    /// The pump, which waits until h2 has taken them.
    pump: Option<Waker>,
}

#[derive(Default)]
struct Outbox {
    bytes: Vec<u8>,
    /// Some are on their way.
    sending: bool,
    /// h2 has said its last.
    finished: bool,
    /// The peer takes no more.
    broken: bool,
    /// h2, which waits for room or for the end.
    writer: Option<Waker>,
    /// The pump, which waits for bytes.
    pump: Option<Waker>,
}

/// Both ends of a wire whose peer has sent `received` already.
pub fn wire(received: Buffer, tally: Tally) -> (Wire, Pumps) {
    let inbox = Inbox { received, ended: false, is_abandoned: false, reader: None, pump: None };
    let queues = Rc::new(Queues {
        inbox: RefCell::new(inbox),
        outbox: RefCell::default(),
        tally: RefCell::new(tally),
        excess: Cell::new(None),
    });
    let pumps = Pumps(Rc::clone(&queues));
    let received = pumps.0.inbox.borrow().received.data().to_vec();
    pumps.count(&received);
    (Wire(queues), pumps)
}

impl Pumps {
    /// What the peer has sent too much of, if it has. The connection is to be ended then; nothing more is read.
    pub fn excess(&self) -> Option<Excess> {
        self.0.excess.get()
    }

    /// Whether the peer's first frame has come. h2 takes it when it is driven next.
    pub fn has_frame(&self) -> bool {
        self.0.tally.borrow().has_frame()
    }

    /// A stream has come to a good end: the peer may ask for more.
    pub fn stream_ended(&self) {
        self.0.tally.borrow_mut().stream_ended();
    }

    /// Receives until the peer ends its direction, or sends too much of what carries nothing. While `is_idle`, no
    /// buffer is held.
    pub async fn receive(&self, read: &mut ReadHalf, buffers: &Buffers, is_idle: impl Fn() -> bool) {
        let mut drained_bytes = 0;
        loop {
            let mut buffer = self.taken().await;
            if is_idle() {
                buffers.give(std::mem::replace(&mut buffer, Buffer::placeholder()));
                if read.readable().await.is_err() {
                    break;
                }
            }
            if buffer.free_bytes() == 0 {
                buffer = buffers.take();
            }
            let (count, received) = read.read(buffer, buffers).await;
            let count = count.unwrap_or_default();
            let mut inbox = self.0.inbox.borrow_mut();
            inbox.received = received;
            if inbox.is_abandoned {
                inbox.received.clear();
                drained_bytes += count;
            }
            let go_on = count > 0 && drained_bytes < DRAINED_BYTES_MAX && self.count(inbox.received.data());
            wake(&mut inbox.reader);
            if !go_on {
                break;
            }
        }
        let mut inbox = self.0.inbox.borrow_mut();
        inbox.ended = true;
        wake(&mut inbox.reader);
        if inbox.received.data().is_empty() {
            buffers.give(std::mem::replace(&mut inbox.received, Buffer::placeholder()));
        }
    }

    /// False: it is too much.
    fn count(&self, bytes: &[u8]) -> bool {
        let mut tally = self.0.tally.borrow_mut();
        tally.pass_time(coarse_ns() / NS_PER_S);
        let counted = tally.count(bytes);
        drop(tally);
        self.0.excess.set(self.0.excess.get().or(counted.err()));
        self.0.excess.get().is_none()
    }

    /// Waits until h2 has taken all that was received, and takes the empty buffer.
    async fn taken(&self) -> Buffer {
        std::future::poll_fn(|context| {
            let mut inbox = self.0.inbox.borrow_mut();
            if inbox.received.data().is_empty() {
                return Poll::Ready(std::mem::replace(&mut inbox.received, Buffer::placeholder()));
            }
            inbox.pump = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Sends what h2 says until it has said its last and all of it is sent, or the peer takes nothing for `idle_ns`.
    pub async fn send(&self, write: &mut WriteHalf, deadline: &Deadline, idle_ns: u64) {
        while let Some(bytes) = self.to_send().await {
            deadline.arm(Phase::Send, coarse_ns().saturating_add(idle_ns));
            let count = bytes.len();
            let (sent, mut bytes) = write.write_all(bytes).await;
            deadline.disarm();
            bytes.clear();
            self.0.tally.borrow_mut().sent(count);
            let mut outbox = self.0.outbox.borrow_mut();
            outbox.sending = false;
            outbox.broken |= sent.is_err();
            if outbox.bytes.is_empty() && !outbox.finished {
                bytes.shrink_to(OUTBOX_KEPT_BYTES);
                outbox.bytes = bytes;
            }
            wake(&mut outbox.writer);
            if outbox.broken {
                break;
            }
        }
    }

    /// Waits for something to send; none: h2 has said its last.
    async fn to_send(&self) -> Option<Vec<u8>> {
        std::future::poll_fn(|context| {
            let mut outbox = self.0.outbox.borrow_mut();
            if !outbox.bytes.is_empty() {
                outbox.sending = true;
                return Poll::Ready(Some(std::mem::take(&mut outbox.bytes)));
            }
            if outbox.finished {
                return Poll::Ready(None);
            }
            outbox.pump = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut inbox = self.0.inbox.borrow_mut();
        let bytes = inbox.received.data();
        if bytes.is_empty() {
            if inbox.ended {
                return Poll::Ready(Ok(()));
            }
            inbox.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        let count = bytes.len().min(out.remaining());
        out.put_slice(bytes.get(..count).unwrap_or_default());
        inbox.received.consume(count);
        if inbox.received.data().is_empty() {
            wake(&mut inbox.pump);
        }
        Poll::Ready(Ok(()))
    }
}

impl Wire {
    /// Lets `write` add to what is to be sent, where there is room.
    fn poll_add(
        &self,
        context: &mut Context<'_>,
        write: impl FnOnce(&mut Vec<u8>) -> usize,
    ) -> Poll<io::Result<usize>> {
        let mut outbox = self.0.outbox.borrow_mut();
        if outbox.broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if outbox.bytes.len() >= OUTBOX_BYTES_MAX {
            outbox.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let count = write(&mut outbox.bytes);
        wake(&mut outbox.pump);
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_add(context, |out| {
            out.extend_from_slice(bytes);
            bytes.len()
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_add(context, |out| {
            let before = out.len();
            for slice in slices {
                out.extend_from_slice(slice);
            }
            out.len() - before
        })
    }

    /// What was written is on its way; [`OUTBOX_BYTES_MAX`] bounds how much that is.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(if self.0.outbox.borrow().broken {
            Err(io::ErrorKind::BrokenPipe.into())
        } else {
            Ok(())
        })
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut outbox = self.0.outbox.borrow_mut();
        if outbox.broken || (outbox.bytes.is_empty() && !outbox.sending) {
            return Poll::Ready(Ok(()));
        }
        outbox.writer = Some(context.waker().clone());
        Poll::Pending
    }
}

/// Whatever became of h2: it says no more, and takes no more.
impl Drop for Wire {
    fn drop(&mut self) {
        let mut outbox = self.0.outbox.borrow_mut();
        outbox.finished = true;
        wake(&mut outbox.pump);
        drop(outbox);
        let mut inbox = self.0.inbox.borrow_mut();
        inbox.is_abandoned = true;
        inbox.received.clear();
        wake(&mut inbox.pump);
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}
