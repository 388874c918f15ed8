//! How much a peer has taken: what its TCP has acknowledged, which a send under way does not tell.
//!
//! A send ends when the socket has taken all of it, and a socket that is full has room again when a third of it is
//! empty. In between nothing can be seen of a slow peer but by asking; it costs a system call and is for sends that
//! last.

use std::{cell::Cell, mem::offset_of, os::fd::RawFd, rc::Rc};

/// Tells what a peer has taken.
#[derive(Debug, Clone, Default)]
pub struct Meter(Source);

#[derive(Debug, Clone, Default)]
enum Source {
    /// Nothing will be told.
    #[default]
    None,
    /// A connection of its own.
    Socket(RawFd),
    /// One stream of many: what its window has had room for.
    Stream(Rc<Cell<u64>>),
}

impl Meter {
    /// Of a socket that outlives it.
    pub(super) fn of(fd: RawFd) -> Self {
        Self(Source::Socket(fd))
    }

    /// Of a stream that counts its bytes there.
    pub fn of_stream(taken_bytes: &Rc<Cell<u64>>) -> Self {
        Self(Source::Stream(Rc::clone(taken_bytes)))
    }

    /// Whether it will never tell anything.
    pub fn is_blind(&self) -> bool {
        matches!(self.0, Source::None)
    }

    /// Bytes that the peer has taken since the connection or stream was made. One system call, for a connection.
    pub fn taken_bytes(&self) -> Option<u64> {
        let fd = match &self.0 {
            Source::None => return None,
            Source::Socket(fd) => *fd,
            Source::Stream(taken_bytes) => return Some(taken_bytes.get()),
        };
        // SAFETY: `tcp_info` is plain data, for which zero is a value of every field.
        let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
        let mut length = libc::socklen_t::try_from(size_of_val(&info)).ok()?;
        // SAFETY: both pointers are to locals of the sizes told.
        let result = unsafe {
            libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut length)
        };
        // An older kernel fills in less.
        let is_told = length as usize
            >= offset_of!(libc::tcp_info, tcpi_bytes_acked) + size_of_val(&info.tcpi_bytes_acked);
        (result == 0 && is_told).then_some(info.tcpi_bytes_acked)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        os::fd::AsRawFd,
    };

    use super::*;

    #[test]
    #[expect(clippy::disallowed_types, reason = "blocking sockets are all that this needs")]
    fn it_counts_what_the_peer_has_acknowledged() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut client =
            std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("loopback");
        let (mut accepted, _) = listener.accept().expect("a connection");
        let meter = Meter::of(client.as_raw_fd());
        let before = meter.taken_bytes().expect("a TCP socket");
        client.write_all(&[1; 1000]).expect("room");
        accepted.read_exact(&mut [0; 1000]).expect("what was sent");
        // An answer acknowledges what it answers.
        accepted.write_all(&[2; 10]).expect("room");
        client.read_exact(&mut [0; 10]).expect("what was sent");
        assert_eq!(meter.taken_bytes().expect("a TCP socket") - before, 1000);
    }

    #[test]
    fn what_is_no_socket_of_its_own_tells_nothing() {
        assert_eq!(Meter::default().taken_bytes(), None);
        assert_eq!(Meter::of(-1).taken_bytes(), None);
    }
}
