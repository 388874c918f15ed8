//! How many connections an upstream may have open at once, and who waits for one.
//!
//! Every connection holds a [`Slot`] from before it is opened until it is closed, whatever ends it. Where no slot is
//! left, requests wait in a line of bounded length, first come, first served: each connection that becomes free or is
//! closed calls the first in line that has not been called. It knows nothing of servers but their numbers.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::Future as _,
    pin::pin,
    rc::Rc,
    task::{Poll, Waker},
    time::Duration,
};

use crate::net;

/// The door to one upstream.
pub(super) struct Gate {
    open: Cell<usize>,
    open_max: usize,
    pending_max: usize,
    line: RefCell<VecDeque<Rc<Waiter>>>,
}

/// The right to hold one connection open.
pub(super) struct Slot(Rc<Gate>);

/// A request's place in the line; left when dropped.
pub(super) struct Place {
    gate: Rc<Gate>,
    waiter: Rc<Waiter>,
}

#[derive(Default)]
struct Waiter {
    called: Cell<bool>,
    /// The server whose connection has become free.
    server: Cell<Option<usize>>,
    waker: RefCell<Option<Waker>>,
}

impl Gate {
    pub(super) fn new(open_max: usize, pending_max: usize) -> Rc<Self> {
        Rc::new(Self { open: Cell::new(0), open_max, pending_max, line: RefCell::default() })
    }

    /// A slot, where one is left.
    pub(super) fn open(self: &Rc<Self>) -> Option<Slot> {
        if self.open.get() >= self.open_max {
            return None;
        }
        self.open.set(self.open.get() + 1);
        Some(Slot(Rc::clone(self)))
    }

    /// Whether others have come first.
    pub(super) fn is_waited_at(&self) -> bool {
        !self.line.borrow().is_empty()
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.line.borrow().len()
    }

    /// A place at the end of the line; none where the line is as long as it may be.
    pub(super) fn line_up(self: &Rc<Self>) -> Option<Place> {
        let mut line = self.line.borrow_mut();
        if line.len() >= self.pending_max {
            return None;
        }
        let waiter = Rc::new(Waiter::default());
        line.push_back(Rc::clone(&waiter));
        Some(Place { gate: Rc::clone(self), waiter })
    }

    /// There is something new for everybody in the line.
    pub(super) fn call_all(&self, server: Option<usize>) {
        for _ in 0..self.line.borrow().len() {
            self.call_next(server);
        }
    }

    /// A connection is free (that of `server`), or a slot: the first who has not been called yet may look.
    pub(super) fn call_next(&self, server: Option<usize>) {
        let line = self.line.borrow();
        let Some(waiter) = line.iter().find(|waiter| !waiter.called.get()) else { return };
        waiter.called.set(true);
        waiter.server.set(server);
        if let Some(waker) = waiter.waker.take() {
            waker.wake();
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.call_next(None);
    }
}

impl Place {
    /// Waits to be called, at most so long: with whose connection it was. `None`: it was too long.
    pub(super) async fn called(&self, time_max: Duration) -> Option<Option<usize>> {
        let mut late = pin!(net::sleep(time_max));
        std::future::poll_fn(|context| {
            if self.waiter.called.replace(false) {
                return Poll::Ready(Some(self.waiter.server.take()));
            }
            if late.as_mut().poll(context).is_ready() {
                return Poll::Ready(None);
            }
            self.waiter.waker.replace(Some(context.waker().clone()));
            Poll::Pending
        })
        .await
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gate.line.borrow_mut().retain(|waiter| !Rc::ptr_eq(waiter, &self.waiter));
        // Called, and gone without a look: the call is the next one's.
        if self.waiter.called.get() {
            self.gate.call_next(self.waiter.server.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn called(place: &Place) -> bool {
        place.waiter.called.get()
    }

    #[test]
    fn a_slot_is_free_again_however_it_is_lost() {
        let gate = Gate::new(1, 0);
        let slot = gate.open();
        assert!(slot.is_some() && gate.open().is_none());
        let inner = Rc::clone(&gate);
        drop(slot);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _slot = inner.open().expect("a slot");
            panic!("with a connection under way");
        }));
        assert!(panicked.is_err());
        assert!(gate.open().is_some());
    }

    #[test]
    fn the_line_is_bounded_and_each_release_calls_one_in_order() {
        let gate = Gate::new(1, 2);
        let slot = gate.open();
        let (first, second) = (gate.line_up().expect("room"), gate.line_up().expect("room"));
        assert!(gate.line_up().is_none(), "two may wait");
        drop(slot);
        assert!(called(&first) && !called(&second));
        gate.call_next(Some(7));
        assert!(called(&second));
        assert_eq!(second.waiter.server.get(), Some(7));
    }

    #[test]
    fn who_leaves_unserved_passes_the_call_on() {
        let gate = Gate::new(1, 2);
        let (first, second) = (gate.line_up().expect("room"), gate.line_up().expect("room"));
        gate.call_next(Some(3));
        drop(first);
        assert!(called(&second));
        assert_eq!(second.waiter.server.get(), Some(3));
        drop(second);
        assert!(!gate.is_waited_at());
    }
}
