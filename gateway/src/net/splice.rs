//! Bytes that move from one socket to another inside the kernel: splice(2) through a pipe. For bodies of known length
//! between two connections in clear, where user space would only copy.
//!
//! A worker lends each such body one pipe and takes it back empty.

use std::{
    cell::RefCell,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
};

use super::{Meter, ReadHalf, WriteHalf};

/// Room in a pipe: as many bytes as one turn of a task may move.
const PIPE_BYTES: libc::c_int = 256 * 1024;
/// Empty pipes kept per worker; two descriptors each.
const PIPES_MAX: usize = 32;

/// An empty pipe, on loan.
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

/// One worker's empty pipes.
#[derive(Default)]
pub struct Pipes(RefCell<Vec<Pipe>>);

impl Pipes {
    /// An empty pipe; none where the process has no descriptor left.
    pub fn take(&self) -> Option<Pipe> {
        self.0.borrow_mut().pop().or_else(|| Pipe::new().ok())
    }

    /// Takes back a pipe that everything was taken out of. One that is not empty has to be dropped instead: its bytes
    /// would reach somebody else.
    pub fn give(&self, pipe: Pipe) {
        let mut pipes = self.0.borrow_mut();
        if pipes.len() < PIPES_MAX {
            pipes.push(pipe);
        }
    }
}

impl Pipe {
    fn new() -> io::Result<Self> {
        let mut ends = [-1; 2];
        // SAFETY: the array is writable and of the size that pipe2(2) fills.
        if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let [read, write] = ends;
        // SAFETY: both descriptors were just made and nobody else knows them.
        let pipe = unsafe { Self { read: OwnedFd::from_raw_fd(read), write: OwnedFd::from_raw_fd(write) } };
        // SAFETY: touches no memory. Where a limit on pipe memory refuses, the default of 64 KiB serves as well.
        unsafe { libc::fcntl(pipe.write.as_raw_fd(), libc::F_SETPIPE_SZ, PIPE_BYTES) };
        Ok(pipe)
    }

    /// Waits for the socket, then moves at most `bytes_max` of what it has into the empty pipe. `Ok(0)`: the peer (or
    /// a deadline) has ended its direction.
    pub async fn fill(&self, from: &ReadHalf, bytes_max: u64) -> io::Result<usize> {
        // The wait is what lets the worker's other tasks run between two pipefuls; and with something to read, a
        // blocking socket answers at once.
        from.readable().await?;
        splice(from.fd(), self.write.as_raw_fd(), usize::try_from(bytes_max).unwrap_or(usize::MAX))
    }

    /// Moves the `bytes` that are in the pipe on to the socket, waiting as often as it has no room.
    pub async fn empty(&self, to: &Unblocked<'_>, mut bytes: usize) -> io::Result<()> {
        while bytes > 0 {
            match splice(self.read.as_raw_fd(), to.0.fd(), bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => bytes = bytes.saturating_sub(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => to.0.writable().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn splice(from: RawFd, to: RawFd, bytes_max: usize) -> io::Result<usize> {
    let flags = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK;
    // SAFETY: both offsets are null, as pipes and sockets want it; splice(2) touches no memory of ours.
    let moved =
        unsafe { libc::splice(from, std::ptr::null_mut(), to, std::ptr::null_mut(), bytes_max, flags) };
    usize::try_from(moved).map_err(|_| io::Error::last_os_error())
}

/// A half whose socket answers EAGAIN instead of waiting, for as long as this lives: splice(2) knows no other way, and
/// everything else of ours wants a socket that waits.
pub struct Unblocked<'w>(&'w WriteHalf);

impl<'w> Unblocked<'w> {
    /// Nothing may be under way on the connection in either direction.
    pub fn new(half: &'w WriteHalf) -> Self {
        set_nonblocking(half.fd(), true);
        Self(half)
    }

    /// What the peer has taken.
    pub fn meter(&self) -> Meter {
        Meter::of(self.0.fd())
    }
}

impl Drop for Unblocked<'_> {
    fn drop(&mut self) {
        set_nonblocking(self.0.fd(), false);
    }
}

fn set_nonblocking(fd: RawFd, nonblocking: bool) {
    let on = libc::c_int::from(nonblocking);
    // SAFETY: FIONBIO reads one integer, a local; the descriptor is open while its half lives.
    unsafe { libc::ioctl(fd, libc::FIONBIO, &raw const on) };
}
