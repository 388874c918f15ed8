//! Whether a client takes its response fast enough.
//!
//! A send ends when the socket has room for all of it, which says little about a client that is slow: a large one may
//! last longer than any silence that is borne, and a socket that was full has no room before a third of it is empty.
//! So a send that lasts is looked at, a few times within that silence: what the client's TCP has acknowledged
//! meanwhile is what it has taken. Sends that do not last cost nothing but the clock.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    rc::Rc,
    task::Poll,
};

use crate::net::{Deadline, Meter, Pace, Patience, Phase, coarse_ns};

use super::upload::UploadState;

/// Looks within the silence that is borne: by so much of it, at most, is a client's end late.
const LOOKS: u64 = 8;

/// The patience with a client that is to take a response, over all of its sends.
pub(super) struct Taking<'a> {
    deadline: &'a Deadline,
    /// Of the whole exchange.
    deadline_ns: u64,
    /// Where a request body is awaited of the same client, the upload holds the deadline, and hands it over when that
    /// wait ends.
    upload: Rc<UploadState>,
    patience: Patience,
    look_ns: u64,
    /// What the client had taken at the last look; none before the first, which only sees where it stands.
    taken_bytes: Option<u64>,
    /// It has been waited for so long since then.
    waited_ns: u64,
    /// Its time is over, and that because it was slow.
    was_slow: bool,
}

impl<'a> Taking<'a> {
    pub(super) fn new(deadline: &'a Deadline, pace: Pace, deadline_ns: u64, upload: Rc<UploadState>) -> Self {
        Self {
            deadline,
            deadline_ns,
            upload,
            patience: Patience::new(pace),
            look_ns: pace.idle_ns / LOOKS,
            taken_bytes: None,
            waited_ns: 0,
            was_slow: false,
        }
    }

    /// The client was cut because it took its response slower than it may.
    pub(super) fn was_slow(&self) -> bool {
        self.was_slow
    }

    /// Drives a send of `bytes` to its end, which comes early when the client's time is over.
    pub(super) async fn watch<F: Future>(
        &mut self,
        bytes: u64,
        meter: Meter,
        mut sending: Pin<&mut F>,
    ) -> F::Output {
        let mut from_ns = coarse_ns();
        self.upload.sending.set(true);
        self.arm(from_ns);
        let output = poll_fn(|context| {
            if let Poll::Ready(output) = sending.as_mut().poll(context) {
                return Poll::Ready(output);
            }
            while self.deadline.poll_look(context).is_ready() {
                let now_ns = coarse_ns();
                self.waited_ns = self.waited_ns.saturating_add(now_ns.saturating_sub(from_ns));
                from_ns = now_ns;
                self.look(now_ns, meter.taken_bytes());
            }
            Poll::Pending
        })
        .await;
        self.waited_ns = self.waited_ns.saturating_add(coarse_ns().saturating_sub(from_ns));
        if self.taken_bytes.is_none() && meter.is_blind() {
            // What was sent is all that can be seen.
            self.patience.spend(std::mem::take(&mut self.waited_ns), bytes);
        }
        self.upload.sending.set(false);
        if !self.upload.receiving.get() {
            self.deadline.disarm();
        }
        output
    }

    fn arm(&self, now_ns: u64) {
        if !self.upload.receiving.get() {
            let wait_ns = self.look_ns.min(self.patience.left_ns()).saturating_sub(self.waited_ns);
            self.deadline.arm(Phase::Look, now_ns.saturating_add(wait_ns).min(self.deadline_ns));
        }
    }

    fn look(&mut self, now_ns: u64, taken_bytes: Option<u64>) {
        let waited_ns = std::mem::take(&mut self.waited_ns);
        match (taken_bytes, self.taken_bytes) {
            (Some(taken), Some(before)) => self.patience.spend(waited_ns, taken.saturating_sub(before)),
            (Some(_), None) => {}
            (None, _) => self.patience.spend(waited_ns, 0),
        }
        self.taken_bytes = taken_bytes;
        if self.patience.left_ns() == 0 {
            self.was_slow = self.patience.was_slow();
            self.deadline.fire(Phase::Send);
        } else if now_ns >= self.deadline_ns {
            self.deadline.fire(Phase::Send);
        } else {
            self.arm(now_ns);
        }
    }
}
