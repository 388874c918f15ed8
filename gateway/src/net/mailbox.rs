//! Letters from other threads to a worker.
//!
//! A worker is woken by its own ring only. So a letter lies in a queue, and a byte on a socket that the worker reads
//! says that there is one. Many letters may share one byte; none stays behind.

use std::{
    io::{self, Write as _},
    os::unix::net::UnixStream,
    sync::{Arc, mpsc},
};

use monoio::io::AsyncReadRent as _;

/// Bytes that are read at once; each stands for at least one letter.
const READ_BYTES: usize = 64;

/// Where letters arrive.
pub struct Mailbox<T> {
    letters: mpsc::Receiver<T>,
    bell: monoio::net::UnixStream,
    buffer: Option<Vec<u8>>,
}

/// Sends letters, from any thread. The queue has no bound of its own: whoever hands senders out bounds the letters.
pub struct Postman<T> {
    letters: mpsc::Sender<T>,
    bell: Arc<UnixStream>,
}

impl<T> Clone for Postman<T> {
    fn clone(&self) -> Self {
        Self { letters: self.letters.clone(), bell: Arc::clone(&self.bell) }
    }
}

impl<T> Mailbox<T> {
    /// For the worker whose ring runs on this thread.
    pub fn new() -> io::Result<(Postman<T>, Self)> {
        let (sender, letters) = mpsc::channel();
        let (rings, hears) = UnixStream::pair()?;
        rings.set_nonblocking(true)?;
        hears.set_nonblocking(true)?;
        let bell = monoio::net::UnixStream::from_std(hears)?;
        let mailbox = Self { letters, bell, buffer: Some(vec![0; READ_BYTES]) };
        Ok((Postman { letters: sender, bell: Arc::new(rings) }, mailbox))
    }

    /// Waits until something has come. None: nobody can send any more.
    pub async fn receive(&mut self) -> Option<impl Iterator<Item = T>> {
        let buffer = self.buffer.take().unwrap_or_else(|| vec![0; READ_BYTES]);
        let (heard, buffer) = self.bell.read(buffer).await;
        self.buffer = Some(buffer);
        matches!(heard, Ok(1..)).then(|| self.letters.try_iter())
    }
}

impl<T> Postman<T> {
    /// Never waits. A letter to a worker that has ended is lost.
    pub fn send(&self, letter: T) {
        // A full socket holds enough bytes to wake the worker.
        if self.letters.send(letter).is_ok() {
            let _ = (&*self.bell).write(&[0]);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::net::run_on_ring;

    #[test]
    fn every_letter_arrives_however_many_there_are() {
        const LETTERS: usize = 20_000;
        run_on_ring(async {
            let (postman, mut mailbox) = Mailbox::new().expect("a socket pair");
            let senders = [0, 1].map(|parity| {
                let postman = postman.clone();
                thread::spawn(move || (0..LETTERS).filter(|n| n % 2 == parity).for_each(|n| postman.send(n)))
            });
            drop(postman);
            let mut all = Vec::new();
            while let Some(letters) = mailbox.receive().await {
                all.extend(letters);
            }
            for sender in senders {
                sender.join().expect("sent");
            }
            all.sort_unstable();
            assert_eq!(all, (0..LETTERS).collect::<Vec<_>>());
        })
        .expect("a ring");
    }
}
