//! A panic costs one connection, not the worker.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    task::Poll,
};

/// Drives `task` to its end; `None` when it panicked, after which it is dropped and never polled again.
pub(super) async fn contain<F: Future>(task: F) -> Option<F::Output> {
    let mut task = pin!(task);
    std::future::poll_fn(move |context| {
        // What the panic left half-done dies with the connection; what outlives it (counters, pools) holds no
        // invariant across an await.
        match catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(context))) {
            Ok(Poll::Ready(output)) => Poll::Ready(Some(output)),
            Ok(Poll::Pending) => Poll::Pending,
            Err(_) => Poll::Ready(None),
        }
    })
    .await
}
