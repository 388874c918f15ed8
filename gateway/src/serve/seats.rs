//! The tasks that serve streams of HTTP/2. Most of what a stream costs in memory is its task, so a worker keeps those
//! that have ended for the streams to come, of whichever connection.

use std::{
    cell::{Cell, RefCell},
    pin::pin,
    rc::Rc,
    task::{Poll, Waker},
};

use super::{
    multiplexed::{Incoming, OpenStream},
    stream::serve_stream,
    worker::Worker,
};
use crate::{
    net::{contain, spawn},
    telemetry::Bound,
};

/// Tasks that may wait for streams, per worker: some 10 KiB each.
const SEATS_MAX: usize = 1024;

/// A stream to serve.
pub(super) struct Work {
    pub(super) open: OpenStream,
    pub(super) incoming: Incoming,
}

/// The tasks of a worker that wait for a stream.
#[derive(Default)]
pub(super) struct Seats(RefCell<Vec<Rc<Seat>>>);

/// Where one of them waits.
#[derive(Default)]
struct Seat {
    work: Cell<Option<Work>>,
    waker: Cell<Option<Waker>>,
}

/// Has a stream served by a task that waits for one, or by a new one.
pub(super) fn serve(worker: &Rc<Worker>, work: Work) {
    if let Some(seat) = worker.seats.0.borrow_mut().pop() {
        seat.work.set(Some(work));
        if let Some(waker) = seat.waker.take() {
            waker.wake();
        }
        return;
    }
    let seat = Rc::new(Seat { work: Cell::new(Some(work)), waker: Cell::default() });
    spawn(serve_streams(Rc::clone(worker), seat));
}

/// One stream after the other. A panic costs the stream.
async fn serve_streams(worker: Rc<Worker>, seat: Rc<Seat>) {
    loop {
        let Work { open, incoming } = seat.work().await;
        let connection = open.connection();
        if contain(pin!(serve_stream(connection, incoming))).await.is_none() {
            worker.cells.bound_hit(Bound::Panics);
            log::error!("a stream of {} was dropped: its task panicked", connection.ends.peer);
        }
        drop(open);
        if !worker.seats.keep(&seat) {
            return;
        }
    }
}

impl Seats {
    /// False: enough of them wait already.
    fn keep(&self, seat: &Rc<Seat>) -> bool {
        let mut seats = self.0.borrow_mut();
        let has_room = seats.len() < SEATS_MAX;
        if has_room {
            seats.push(Rc::clone(seat));
        }
        has_room
    }
}

impl Seat {
    async fn work(&self) -> Work {
        std::future::poll_fn(|context| {
            if let Some(work) = self.work.take() {
                return Poll::Ready(work);
            }
            self.waker.set(Some(context.waker().clone()));
            Poll::Pending
        })
        .await
    }
}
