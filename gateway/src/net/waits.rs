//! Reads that wait for a peer with a buffer in hand, and are called back when that lasts.
//!
//! A pending read holds its buffer and cannot be dropped; but the kernel can be asked to end it, and then it returns with
//! its buffer like any other. What is waited for comes first or the answer that it was called back, never both.

use std::{cell::RefCell, io};

use monoio::io::{CancelHandle, Canceller};

/// The waiting reads of a worker.
#[derive(Default)]
pub struct Waits {
    /// Begun since the last turn.
    young: RefCell<Canceller>,
    /// Begun before it.
    old: RefCell<Canceller>,
}

impl Waits {
    /// Calls back every read that has waited since before the last turn.
    pub fn turn(&self) {
        let empty = self.old.take().cancel();
        self.old.replace(self.young.replace(empty));
    }

    pub(super) fn handle(&self) -> CancelHandle {
        self.young.borrow().handle()
    }
}

/// Whether a read ended because it was called back: nothing was read, and the connection is as it was.
pub fn was_called_back(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ECANCELED)
}

#[cfg(test)]
mod tests {
    use std::{io::Write, rc::Rc, time::Duration};

    use super::*;
    use crate::net::{Accepted, Buffers, Listener, run_on_ring, sleep, spawn};

    #[test]
    fn a_read_that_lasts_is_called_back_and_loses_nothing() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        #[expect(clippy::disallowed_types, reason = "blocking sockets are all that this needs")]
        let mut client = std::net::TcpStream::connect(address).expect("loopback");
        run_on_ring(async move {
            let mut listener = Listener::new(listener).expect("a listener");
            let Ok(Accepted::Connection(mut stream, _)) = listener.accept().await else { panic!("nobody") };
            let (waits, buffers) = (Rc::new(Waits::default()), Buffers::default());
            let turn = |times: usize| {
                let waits = Rc::clone(&waits);
                spawn(async move {
                    for _ in 0..times {
                        sleep(Duration::from_millis(1)).await;
                        waits.turn();
                    }
                });
            };
            for round in 0..3 {
                turn(2);
                let (read, returned) = stream.read.wait(buffers.take(), &buffers, &waits).await;
                assert!(read.is_err_and(|error| was_called_back(&error)), "round {round}");
                assert_eq!(returned.data(), b"");
                client.write_all(b"late").expect("room");
                // What has come already is read, though the wait is about to be called back.
                turn(1);
                let (read, returned) = stream.read.wait(returned, &buffers, &waits).await;
                assert_eq!((read.ok(), returned.data()), (Some(4), &b"late"[..]));
            }
        })
        .expect("a ring");
    }

    #[test]
    fn an_end_is_an_end() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        #[expect(clippy::disallowed_types, reason = "blocking sockets are all that this needs")]
        let client = std::net::TcpStream::connect(address).expect("loopback");
        run_on_ring(async move {
            let mut listener = Listener::new(listener).expect("a listener");
            let Ok(Accepted::Connection(mut stream, _)) = listener.accept().await else { panic!("nobody") };
            drop(client);
            let (waits, buffers) = (Waits::default(), Buffers::default());
            let (read, _) = stream.read.wait(buffers.take(), &buffers, &waits).await;
            assert_eq!(read.ok(), Some(0));
        })
        .expect("a ring");
    }
}
