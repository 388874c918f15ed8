//! Deadlines without a timer per operation: a table of (descriptor, phase, tick) per worker, swept ten times a second.
//! What is late is shut down with `shutdown(2)`; the pending operation then returns with its buffer and the owner asks
//! [`Deadline::expired`] what happened.

use std::{
    cell::{Cell, RefCell},
    os::fd::RawFd,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

/// How often [`Deadlines::sweep`] is to be called; every deadline is late by at most this.
pub const SWEEP_INTERVAL: Duration = Duration::from_millis(100);
const TICK_NS: u64 = 100_000_000;
/// The tick of a slot that waits for nothing.
const UNARMED: u64 = u64::MAX;

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The end of a TLS handshake.
    Handshake,
    /// The next request on a kept-alive connection.
    KeepAlive,
    /// The end of a request head.
    Head,
    /// The next bytes of a request body.
    Body,
    /// The peer to take what we send.
    Send,
    /// The same, but nothing is shut down: the task that sends is woken to look at how far it is.
    Look,
    /// A TCP connection to a server.
    Connect,
    /// The head of a response.
    ResponseHead,
    /// The rest of a response.
    ResponseBody,
    /// Anything at all in a tunnel; the reset that follows is to come before an end.
    Tunnel,
    /// The peer to close after our last byte.
    Linger,
    /// The end of the process: no time limit, but a connection with work under way has to be told.
    Drain,
}

impl Phase {
    /// Whether what is late here leaves nothing to be sent any more.
    pub fn ends_sending(self) -> bool {
        self.shutdown_how() != libc::SHUT_RD
    }

    /// While we wait for the client to speak, only its direction is closed: something can still be told.
    fn shutdown_how(self) -> libc::c_int {
        match self {
            Self::Head | Self::Body | Self::Tunnel => libc::SHUT_RD,
            _ => libc::SHUT_RDWR,
        }
    }
}

/// The descriptor of a slot whose wait is not for a socket of its own: expiry wakes a task instead.
const NO_FD: RawFd = -1;

struct Slot {
    fd: RawFd,
    phase: Phase,
    expired: Option<Phase>,
    /// It is time for a look.
    look_due: bool,
    /// Who is woken on expiry, where there is no descriptor, and for a look.
    waker: Option<Waker>,
}

impl Slot {
    fn wakes(&mut self, context: &Context<'_>) {
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            self.waker = Some(context.waker().clone());
        }
    }

    fn expire(&mut self, shut_down: fn(RawFd, libc::c_int)) {
        let is_look = self.phase == Phase::Look;
        if is_look {
            self.look_due = true;
        } else {
            self.expired = Some(self.phase);
        }
        if self.fd != NO_FD && !is_look {
            shut_down(self.fd, self.phase.shutdown_how());
        } else if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// The table of one worker. The ticks stand apart from the rest, so that a sweep reads little memory.
pub struct Deadlines {
    ticks: RefCell<Vec<u64>>,
    slots: RefCell<Vec<Slot>>,
    free: RefCell<Vec<usize>>,
    shut_down: fn(RawFd, libc::c_int),
    fired: Cell<u64>,
}

impl Deadlines {
    /// An empty table.
    pub fn new() -> Rc<Self> {
        Self::with_shutdown(|fd, how| {
            // SAFETY: shutdown touches no memory; a slot is freed before its descriptor is closed, so `fd` is ours.
            unsafe { libc::shutdown(fd, how) };
        })
    }

    fn with_shutdown(shut_down: fn(RawFd, libc::c_int)) -> Rc<Self> {
        Rc::new(Self {
            ticks: RefCell::default(),
            slots: RefCell::default(),
            free: RefCell::default(),
            shut_down,
            fired: Cell::new(0),
        })
    }

    /// A slot for `fd`. It has to be dropped before the descriptor is closed.
    pub fn watch(self: &Rc<Self>, fd: RawFd) -> Deadline {
        self.slot(Slot { fd, phase: Phase::Head, expired: None, look_due: false, waker: None })
    }

    /// A slot for a wait that shares its socket with others: [`Deadline::poll_expired`] ends it.
    pub fn watch_task(self: &Rc<Self>) -> Deadline {
        self.watch(NO_FD)
    }

    fn slot(self: &Rc<Self>, slot: Slot) -> Deadline {
        let (mut ticks, mut slots) = (self.ticks.borrow_mut(), self.slots.borrow_mut());
        let reused = self.free.borrow_mut().pop();
        let index = reused.unwrap_or(slots.len());
        if let (Some(free_slot), Some(free_tick)) = (slots.get_mut(index), ticks.get_mut(index)) {
            *free_slot = slot;
            *free_tick = UNARMED;
        } else {
            slots.push(slot);
            ticks.push(UNARMED);
        }
        Deadline { table: Rc::clone(self), index }
    }

    /// Shuts down whatever is late at `now_ns`.
    pub fn sweep(&self, now_ns: u64) {
        let now = now_ns / TICK_NS;
        for (tick, slot) in self.ticks.borrow_mut().iter_mut().zip(self.slots.borrow_mut().iter_mut()) {
            if *tick <= now {
                *tick = UNARMED;
                if slot.phase != Phase::Look {
                    self.fired.set(self.fired.get() + 1);
                }
                slot.expire(self.shut_down);
            }
        }
    }

    /// Makes every slot in `phase` late, whatever its deadline: drains idle connections.
    pub fn expire(&self, phase: Phase) {
        for (tick, slot) in self.ticks.borrow_mut().iter_mut().zip(self.slots.borrow().iter()) {
            if slot.phase == phase && *tick != UNARMED {
                *tick = 0;
            }
        }
    }

    /// How many deadlines have fired since this was last asked.
    pub fn take_fired(&self) -> u64 {
        self.fired.take()
    }
}

/// One connection's slot; at most one deadline is armed at a time.
pub struct Deadline {
    table: Rc<Deadlines>,
    index: usize,
}

impl Deadline {
    /// Waits for `phase` until `at_ns`; replaces what was armed.
    pub fn arm(&self, phase: Phase, at_ns: u64) {
        if let Some(slot) = self.table.slots.borrow_mut().get_mut(self.index) {
            slot.phase = phase;
            slot.look_due = false;
        }
        if let Some(tick) = self.table.ticks.borrow_mut().get_mut(self.index) {
            *tick = at_ns.div_ceil(TICK_NS);
        }
    }

    /// Waits for nothing.
    pub fn disarm(&self) {
        if let Some(tick) = self.table.ticks.borrow_mut().get_mut(self.index) {
            *tick = UNARMED;
        }
    }

    /// Ends the wait at once, as if its time were over: somebody knows that it is of no use.
    pub fn cut(&self, phase: Phase) {
        self.disarm();
        if let Some(slot) = self.table.slots.borrow_mut().get_mut(self.index) {
            slot.phase = phase;
            slot.expire(self.table.shut_down);
        }
    }

    /// The same, where it is its time that is over: it counts among those that have fired.
    pub fn fire(&self, phase: Phase) {
        self.table.fired.set(self.table.fired.get() + 1);
        self.cut(phase);
    }

    /// Ready once when it is time for a look; until then the task is woken when it is.
    pub fn poll_look(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut slots = self.table.slots.borrow_mut();
        let Some(slot) = slots.get_mut(self.index) else { return Poll::Pending };
        if std::mem::take(&mut slot.look_due) {
            return Poll::Ready(());
        }
        slot.wakes(context);
        Poll::Pending
    }

    /// Ready when a deadline has passed; until then the task is woken when one does.
    pub fn poll_expired(&self, context: &mut Context<'_>) -> Poll<Phase> {
        let mut slots = self.table.slots.borrow_mut();
        let Some(slot) = slots.get_mut(self.index) else { return Poll::Pending };
        // Also behind the first wait that has ended: another may follow.
        slot.wakes(context);
        slot.expired.map_or(Poll::Pending, Poll::Ready)
    }

    /// Forgets that a wait has ended: for one that only wakes its task and is armed again.
    pub fn rearm(&self) {
        if let Some(slot) = self.table.slots.borrow_mut().get_mut(self.index) {
            slot.expired = None;
        }
    }

    /// Which wait ended this connection, if one did.
    pub fn expired(&self) -> Option<Phase> {
        self.table.slots.borrow().get(self.index).and_then(|slot| slot.expired)
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.disarm();
        if let Some(slot) = self.table.slots.borrow_mut().get_mut(self.index) {
            slot.fd = NO_FD;
            slot.waker = None;
        }
        self.table.free.borrow_mut().push(self.index);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    thread_local! { static SHUT: RefCell<Vec<(RawFd, libc::c_int)>> = const { RefCell::new(Vec::new()) }; }

    fn table() -> Rc<Deadlines> {
        SHUT.with_borrow_mut(Vec::clear);
        Deadlines::with_shutdown(|fd, how| SHUT.with_borrow_mut(|shut| shut.push((fd, how))))
    }

    #[track_caller]
    fn check_shut(expected: &[(RawFd, libc::c_int)]) {
        SHUT.with_borrow(|shut| assert_eq!(shut, expected));
    }

    #[test]
    fn only_what_is_late_is_shut_down_and_only_once() {
        let table = table();
        let (early, late) = (table.watch(3), table.watch(4));
        early.arm(Phase::Head, 5 * TICK_NS);
        late.arm(Phase::Send, 9 * TICK_NS);
        table.sweep(5 * TICK_NS - 1);
        check_shut(&[]);
        table.sweep(5 * TICK_NS);
        table.sweep(6 * TICK_NS);
        check_shut(&[(3, libc::SHUT_RD)]);
        assert_eq!((early.expired(), late.expired()), (Some(Phase::Head), None));
        table.sweep(9 * TICK_NS);
        check_shut(&[(3, libc::SHUT_RD), (4, libc::SHUT_RDWR)]);
        assert_eq!((table.take_fired(), table.take_fired()), (2, 0));
    }

    #[test]
    fn a_dropped_or_disarmed_slot_never_fires() {
        let table = table();
        let (dropped, disarmed) = (table.watch(3), table.watch(4));
        dropped.arm(Phase::Head, TICK_NS);
        disarmed.arm(Phase::Head, TICK_NS);
        drop(dropped);
        disarmed.disarm();
        let reused = table.watch(5);
        table.sweep(u64::MAX);
        check_shut(&[]);
        assert_eq!(reused.expired(), None, "a reused slot has forgotten its past");
    }

    #[test]
    fn a_look_shuts_nothing_down_and_is_due_once() {
        let table = table();
        let sending = table.watch(3);
        let mut context = Context::from_waker(Waker::noop());
        sending.arm(Phase::Look, TICK_NS);
        assert!(sending.poll_look(&mut context).is_pending());
        table.sweep(TICK_NS);
        assert!(sending.poll_look(&mut context).is_ready());
        assert!(sending.poll_look(&mut context).is_pending());
        check_shut(&[]);
        assert_eq!((sending.expired(), table.take_fired()), (None, 0));
        sending.arm(Phase::Look, 2 * TICK_NS);
        table.sweep(2 * TICK_NS);
        sending.arm(Phase::Look, 9 * TICK_NS);
        assert!(sending.poll_look(&mut context).is_pending(), "that one was for the send before");
        sending.fire(Phase::Send);
        check_shut(&[(3, libc::SHUT_RDWR)]);
        assert_eq!((sending.expired(), table.take_fired()), (Some(Phase::Send), 1));
    }

    #[test]
    fn a_drain_ends_idle_connections_only() {
        let table = table();
        let (idle, busy) = (table.watch(3), table.watch(4));
        idle.arm(Phase::KeepAlive, 1000 * TICK_NS);
        busy.arm(Phase::Head, 1000 * TICK_NS);
        table.expire(Phase::KeepAlive);
        table.sweep(TICK_NS);
        check_shut(&[(3, libc::SHUT_RDWR)]);
        assert_eq!((idle.expired(), busy.expired()), (Some(Phase::KeepAlive), None));
    }
}
