//! Whether a request that failed is sent again: by what `retry` says, and by what the upstream's budget still has.

use super::{Event, ForwardError, Pool};
use crate::{config::Retry, net::monotonic_ns};

/// How often one request may still be sent again.
pub(super) struct Retries<'p> {
    pool: &'p Pool,
    upstream: usize,
    rules: Retry,
    left: u32,
}

impl<'p> Retries<'p> {
    /// For a request that has just come.
    pub(super) fn new(pool: &'p Pool, upstream: usize, rules: Retry, now_ns: u64) -> Self {
        pool.budget(upstream, |budget| budget.count_request(now_ns));
        Self { pool, upstream, rules, left: rules.attempts }
    }

    /// Whether another server may be asked, where there was no connection to one: nothing has been sent.
    pub(super) fn after_no_connection(&self, error: &ForwardError) -> bool {
        self.left > 0 && self.rules.on_connect && error.is_unreachable()
    }

    /// Whether a request may be sent again that a server has seen all of, or may have, and not a byte was answered.
    pub(super) fn after_reset(&self, error: &ForwardError, is_safe: bool) -> bool {
        let reset = matches!(error, ForwardError::ClosedBeforeResponse | ForwardError::Unprocessed);
        self.left > 0 && self.rules.on_reset_before_head && reset && is_safe
    }

    /// Sends again, where the budget allows it; tells either.
    pub(super) fn take(&mut self, server: usize, on_event: &impl Fn(Event, usize)) -> bool {
        let now_ns = monotonic_ns();
        let allowed = self.pool.budget(self.upstream, |budget| budget.take_retry(now_ns)).unwrap_or(false);
        self.left = self.left.saturating_sub(1);
        on_event(if allowed { Event::Retried } else { Event::OverBudget }, server);
        allowed
    }
}
