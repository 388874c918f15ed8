//! A panic costs one connection, not the worker.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::Poll,
};

/// Drives `task` to its end; `None` when it panicked, after which it must not be polled again.
///
/// It takes it pinned where it stands: what it took by value, it would hold twice, for every connection.
pub async fn contain<F: Future>(mut task: Pin<&mut F>) -> Option<F::Output> {
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
