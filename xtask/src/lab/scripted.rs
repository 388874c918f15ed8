//! A TCP upstream that follows a script: for the faults that no real server commits on demand.
//!
//! Comes in: for each connection, a list of steps. Goes out: what was read, as events that a test can await. One
//! thread per connection; all of them end when it is dropped.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Context;
use socket2::SockRef;

use super::place::Place;

/// Octets of a request head that are kept.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// What it does next on a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Read a request head, up to its empty line, and report it.
    ReadHead,
    /// Read so many octets and forget them.
    ReadBody(usize),
    /// Read until these octets have come or the peer has closed, and report all that came, as a head is.
    ReadUntil(Vec<u8>),
    /// Send these octets.
    Send(Vec<u8>),
    /// Do nothing for so long.
    Pause(Duration),
    /// Read and forget until the peer closes.
    Stall,
    /// Close in order. So does the end of a script.
    Close,
    /// Close with a reset.
    Reset,
}

/// A running upstream.
#[derive(Debug)]
pub struct Scripted {
    address: SocketAddr,
    listener: TcpListener,
    shared: Arc<Shared>,
    heads: Receiver<Vec<u8>>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    accepted: AtomicUsize,
    open: Mutex<Open>,
}

/// Connections to shut down at the end, and whether the end has come.
#[derive(Debug, Default)]
struct Open {
    ended: bool,
    streams: Vec<TcpStream>,
    threads: Vec<JoinHandle<()>>,
}

impl Scripted {
    /// Listens on `address` in `place`; port 0 takes any. The n-th connection follows the n-th script, all further
    /// ones the last.
    pub fn start(place: &Place, address: SocketAddr, scripts: Vec<Vec<Step>>) -> anyhow::Result<Self> {
        let listener =
            place.enter(|| TcpListener::bind(address))?.with_context(|| format!("listening on {address}"))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let (sender, heads) = mpsc::channel();
        let acceptor = thread::Builder::new().name("scripted".into()).spawn({
            let (listener, shared) = (listener.try_clone()?, shared.clone());
            move || accept(&listener, &shared, &scripts, &sender)
        })?;
        Ok(Self { address, listener, shared, heads, acceptor: Some(acceptor) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections that it has accepted.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// The next request head, in the order in which they were read; `None` when none came in time.
    pub fn next_head(&self, time_max: Duration) -> Option<Vec<u8>> {
        self.heads.recv_timeout(time_max).ok()
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        // Shutting a listener down ends the accept(2) that waits on it.
        if let Err(error) = SockRef::from(&self.listener).shutdown(Shutdown::Both) {
            log::warn!("{}: {error}", self.address);
        }
        let (streams, mut threads) = {
            let mut open = self.shared.open.lock().unwrap_or_else(PoisonError::into_inner);
            open.ended = true;
            (std::mem::take(&mut open.streams), std::mem::take(&mut open.threads))
        };
        for stream in streams {
            // A peer that has gone already is as good.
            let _gone = stream.shutdown(Shutdown::Both);
        }
        threads.extend(self.acceptor.take());
        for thread in threads {
            if thread.join().is_err() {
                log::warn!("{}: a connection's thread panicked", self.address);
            }
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>, scripts: &[Vec<Step>], heads: &Sender<Vec<u8>>) {
    while let Ok((stream, _)) = listener.accept() {
        let n = shared.accepted.fetch_add(1, Ordering::Relaxed);
        let script = scripts.get(n).or(scripts.last()).cloned().unwrap_or_default();
        let Ok(again) = stream.try_clone() else { continue };
        let heads = heads.clone();
        let mut open = shared.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.ended {
            return;
        }
        open.streams.push(again);
        open.threads.push(thread::spawn(move || {
            if let Err(error) = follow(&script, &stream, &heads) {
                log::debug!("scripted upstream: {error}");
            }
            // The clone that waits for the end would keep the connection open.
            let _gone = stream.shutdown(Shutdown::Both);
        }));
    }
}

fn follow(script: &[Step], mut stream: &TcpStream, heads: &Sender<Vec<u8>>) -> io::Result<()> {
    for step in script {
        match step {
            Step::ReadHead => {
                // Nobody listens any more when the guard is being dropped.
                let _unheard = heads.send(read_head(stream)?);
            }
            Step::ReadUntil(end) => {
                let _unheard = heads.send(read_until(stream, end)?);
            }
            Step::ReadBody(bytes) => {
                io::copy(&mut stream.take(*bytes as u64), &mut io::sink())?;
            }
            Step::Send(bytes) => stream.write_all(bytes)?,
            Step::Pause(time) => thread::sleep(*time),
            Step::Stall => {
                io::copy(&mut stream, &mut io::sink())?;
            }
            Step::Close => return Ok(()),
            Step::Reset => return reset(stream),
        }
    }
    Ok(())
}

/// Octet by octet, so that nothing of what follows the head is taken.
fn read_head(mut stream: &TcpStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut octet = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut octet)?;
        head.extend(octet);
        if head.len() > HEAD_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "head too long"));
        }
    }
    Ok(head)
}

/// Octet by octet as well; a reset counts as an end.
fn read_until(mut stream: &TcpStream, end: &[u8]) -> io::Result<Vec<u8>> {
    let mut read = Vec::new();
    let mut octet = [0];
    while read.is_empty() || !read.ends_with(end) {
        match stream.read(&mut octet) {
            Ok(0) => break,
            Ok(_) => read.extend(octet),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break,
            Err(error) => return Err(error),
        }
        if read.len() > HEAD_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "too long to be reported"));
        }
    }
    Ok(read)
}

/// Connecting to "unspecified" dissolves a TCP association with a reset, whoever else holds the socket: connect(2).
fn reset(stream: &TcpStream) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: sockaddr is plain data, for which zero is a value of every field; AF_UNSPEC is zero.
    let nobody: libc::sockaddr = unsafe { std::mem::zeroed() };
    let length = libc::socklen_t::try_from(size_of_val(&nobody)).unwrap_or(0);
    // SAFETY: the address outlives the call, and its size is given.
    let done = unsafe { libc::connect(stream.as_raw_fd(), &raw const nobody, length) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::client::{Connection, Request};

    const TIME_MAX: Duration = Duration::from_secs(10);

    #[test]
    fn each_connection_has_its_script() {
        let answer = |status: &str| {
            vec![Step::ReadHead, Step::Send(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").into())]
        };
        let scripts = vec![answer("503 No"), answer("200 OK")];
        let upstream = Scripted::start(&Place::here(), "127.0.0.1:0".parse().unwrap(), scripts).unwrap();
        let statuses: Vec<_> = (0..3)
            .map(|_| {
                let mut connection = Connection::open(upstream.address(), None, TIME_MAX).unwrap();
                connection.request(&Request::get("/")).unwrap().status
            })
            .collect();
        assert_eq!(statuses, [503, 200, 200]);
        assert_eq!(upstream.accepted(), 3);
        let head = upstream.next_head(TIME_MAX).unwrap();
        assert!(head.starts_with(b"GET / HTTP/1.1\r\n"));
    }

    #[test]
    fn it_ends_with_a_peer_that_stays() {
        let upstream = Scripted::start(
            &Place::here(),
            "127.0.0.1:0".parse().unwrap(),
            vec![vec![Step::ReadHead, Step::Stall]],
        )
        .unwrap();
        let mut connection = Connection::open(upstream.address(), None, TIME_MAX).unwrap();
        connection.send(&Request::get("/").bytes()).unwrap();
        upstream.next_head(TIME_MAX).unwrap();
        drop(upstream);
        connection.expect_close().unwrap();
    }
}
