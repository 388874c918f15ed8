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

#[cfg(test)]
mod tests {
    use std::{
        cell::{Cell, RefCell},
        pin::pin,
        rc::Rc,
        task::Waker,
        time::Duration,
    };

    use super::*;
    use crate::net;

    #[test]
    fn what_does_not_panic_comes_through() {
        let done = net::run_on_ring(async { contain(pin!(async { 7 })).await }).unwrap();
        assert_eq!(done, Some(7));
    }

    /// Fault row 18: a task that panics, be it after a wait, ends alone; the thread and its other tasks go on, and what
    /// it held is given back.
    #[test]
    fn a_panic_ends_its_task_and_no_other() {
        struct Held(Rc<Cell<bool>>);
        impl Drop for Held {
            fn drop(&mut self) {
                self.0.set(true);
            }
        }
        let (ended, other_waits) = net::run_on_ring(async {
            let given_back = Rc::new(Cell::new(false));
            let ended = Rc::new(RefCell::new(None));
            let (held, seen) = (Held(Rc::clone(&given_back)), Rc::clone(&ended));
            net::spawn(async move {
                let outcome = {
                    let task = async move {
                        let _held = held;
                        net::sleep(Duration::from_millis(1)).await;
                        panic!("as a bug would");
                    };
                    contain(pin!(task)).await.is_none()
                };
                *seen.borrow_mut() = Some((outcome, given_back.get()));
            });
            let mut other_waits = 0;
            while ended.borrow().is_none() {
                net::sleep(Duration::from_millis(1)).await;
                other_waits += 1;
            }
            (ended.take(), other_waits)
        })
        .unwrap();
        assert_eq!(ended, Some((true, true)));
        assert!(other_waits > 0);
    }

    #[test]
    fn it_is_not_polled_after_a_panic() {
        let polls = Rc::new(Cell::new(0));
        let counted = Rc::clone(&polls);
        let mut task = pin!(std::future::poll_fn(move |_| -> Poll<()> {
            counted.set(counted.get() + 1);
            panic!("as a bug would");
        }));
        let mut contained = pin!(contain(task.as_mut()));
        let polled = contained.as_mut().poll(&mut std::task::Context::from_waker(Waker::noop()));
        assert_eq!((polled, polls.get()), (Poll::Ready(None), 1));
    }
}
