//! A connection to whichever of several addresses answers first (RFC 8305 §5).
//!
//! Each attempt is a task of its own, which ends by itself: it connects, fails, or is late. The losers' sockets are
//! shut down when one has won, which ends their wait; no attempt is ever dropped with an operation under way.

use std::{
    cell::{Cell, RefCell},
    future::Future as _,
    io,
    net::SocketAddr,
    os::fd::RawFd,
    pin::pin,
    rc::Rc,
    task::{Poll, Waker},
    time::Duration,
};

use super::{Deadline, Deadlines, Stream, ring, stream};

/// The head start that an address has before the next one is tried as well (RFC 8305 §8).
const HEAD_START: Duration = Duration::from_millis(250);

/// Connects to one of `addresses` before `at_ns`: to the first, and if it has not answered after a quarter of a
/// second, or has refused, to the next as well, and so on. What answers first is taken.
pub async fn connect(
    addresses: &[SocketAddr],
    deadlines: &Rc<Deadlines>,
    at_ns: u64,
) -> io::Result<(Stream, Deadline, SocketAddr)> {
    if let [address] = addresses {
        let (stream, deadline) = stream::connect(*address, deadlines, at_ns, |_| {}).await?;
        return Ok((stream, deadline, *address));
    }
    let race = Rc::new(Race::default());
    let mut not_tried = addresses.iter();
    loop {
        let started = not_tried.next();
        if let Some(address) = started {
            race.running.set(race.running.get() + 1);
            ring::spawn(Rc::clone(&race).attempt(*address, Rc::clone(deadlines), at_ns));
        }
        let all_failed = || race.error.take().unwrap_or_else(|| io::ErrorKind::NotFound.into());
        match race.next_event(!not_tried.as_slice().is_empty()).await {
            Event::Won(won) => return Ok(won),
            Event::Failed if started.is_none() && race.running.get() == 0 => return Err(all_failed()),
            Event::Failed | Event::Late => {}
        }
    }
}

type Won = (Stream, Deadline, SocketAddr);

enum Event {
    /// An attempt has a connection.
    Won(Won),
    /// An attempt has failed since the last event, or none is under way.
    Failed,
    /// The head start of the last attempt is over.
    Late,
}

#[derive(Default)]
struct Race {
    won: RefCell<Option<Won>>,
    decided: Cell<bool>,
    running: Cell<usize>,
    /// Attempts that have failed and were not told yet.
    failed: Cell<usize>,
    /// Of the attempt that failed last.
    error: Cell<Option<io::Error>>,
    /// Sockets that wait for an answer.
    waiting: RefCell<Vec<RawFd>>,
    waker: RefCell<Option<Waker>>,
}

impl Race {
    async fn attempt(self: Rc<Self>, address: SocketAddr, deadlines: Rc<Deadlines>, at_ns: u64) {
        let own = Cell::new(-1);
        let connected = stream::connect(address, &deadlines, at_ns, |fd| {
            own.set(fd);
            self.waiting.borrow_mut().push(fd);
        })
        .await;
        self.waiting.borrow_mut().retain(|fd| *fd != own.get());
        self.running.set(self.running.get() - 1);
        match connected {
            // Too late: it is closed.
            Ok(_) if self.decided.get() => {}
            Ok((stream, deadline)) => {
                self.decided.set(true);
                for fd in self.waiting.borrow().iter() {
                    // SAFETY: touches no memory; an attempt closes its descriptor in the same turn in which it takes
                    // it out of the list, so those that stand there are open and its own.
                    unsafe { libc::shutdown(*fd, libc::SHUT_RDWR) };
                }
                self.won.replace(Some((stream, deadline, address)));
            }
            Err(error) => {
                self.failed.set(self.failed.get() + 1);
                self.error.set(Some(error));
            }
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    async fn next_event(&self, more_can_be_tried: bool) -> Event {
        let mut head_start = pin!(ring::sleep(HEAD_START));
        std::future::poll_fn(|context| {
            if let Some(won) = self.won.take() {
                return Poll::Ready(Event::Won(won));
            }
            if self.failed.replace(0) > 0 || self.running.get() == 0 {
                return Poll::Ready(Event::Failed);
            }
            if more_can_be_tried && head_start.as_mut().poll(context).is_ready() {
                return Poll::Ready(Event::Late);
            }
            self.waker.replace(Some(context.waker().clone()));
            Poll::Pending
        })
        .await
    }
}
