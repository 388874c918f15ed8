//! Which XDP program an interface carries: one question to the kernel by rtnetlink.
//!
//! Source: `include/uapi/linux/if_link.h` (`IFLA_XDP`), RFC 3549 for the framing.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

/// What the kernel says about an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Attached {
    /// Runs in the generic hook, not in the driver.
    pub(super) generic: bool,
    /// The program's id; 0: none.
    pub(super) program: u32,
}

const IFLA_XDP: u16 = 43;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_PROG_ID: u16 = 4;
const XDP_ATTACHED_SKB: u8 = 2;
const NESTED: u16 = 1 << 15;

/// Netlink message header and `ifinfomsg`.
const HEADER_BYTES: usize = 16 + 16;
/// An answer about one interface; with many virtual functions it is some kilobytes.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Asks the kernel.
pub(super) fn attached(ifindex: u32) -> io::Result<Attached> {
    // SAFETY: a new descriptor or an error; nothing else is touched.
    let socket =
        unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let question = question(ifindex);
    // SAFETY: the kernel reads the buffer, whose length is given, before the call returns.
    let sent = unsafe { libc::send(socket.as_raw_fd(), question.as_ptr().cast(), question.len(), 0) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut answer = vec![0_u8; ANSWER_BYTES_MAX];
    // SAFETY: the kernel writes at most the buffer's length, which is given, before the call returns.
    let received = unsafe { libc::recv(socket.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0) };
    let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    read_answer(answer.get(..received).unwrap_or_default())
}

/// `RTM_GETLINK` for one interface.
fn question(ifindex: u32) -> Vec<u8> {
    let mut question = Vec::with_capacity(HEADER_BYTES);
    question.extend(u32::try_from(HEADER_BYTES).unwrap_or_default().to_ne_bytes());
    question.extend(libc::RTM_GETLINK.to_ne_bytes());
    #[expect(clippy::cast_possible_truncation, reason = "NLM_F_REQUEST is 1")]
    question.extend((libc::NLM_F_REQUEST as u16).to_ne_bytes());
    question.extend([0; 8]);
    // Family, type and flags say nothing; the index says which.
    question.extend([0; 4]);
    question.extend(ifindex.to_ne_bytes());
    question.extend([0; 8]);
    question
}

fn read_answer(answer: &[u8]) -> io::Result<Attached> {
    const ERROR: u16 = 2;
    if number::<2>(answer, 4).map(u16::from_ne_bytes) == Some(ERROR) {
        let code = number::<4>(answer, 16).map_or(0, i32::from_ne_bytes);
        return Err(io::Error::from_raw_os_error(-code));
    }
    let mut attached = Attached::default();
    for (kind, value) in attributes(answer.get(HEADER_BYTES..).unwrap_or_default()) {
        if kind == IFLA_XDP {
            for (kind, value) in attributes(value) {
                match kind {
                    IFLA_XDP_ATTACHED => attached.generic = value.first() == Some(&XDP_ATTACHED_SKB),
                    IFLA_XDP_PROG_ID => attached.program = number(value, 0).map_or(0, u32::from_ne_bytes),
                    _ => {}
                }
            }
        }
    }
    Ok(attached)
}

/// Length, type, value, padded to four bytes; what does not add up ends the walk.
fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(number(rest, 0).map(u16::from_ne_bytes)?);
        let kind = number(rest, 2).map(u16::from_ne_bytes)?;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & !NESTED, value))
    })
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_known_and_an_index_of_none_is_not() {
        assert!(attached(1).is_ok());
        assert!(attached(0x7fff_ffff).is_err());
    }

    #[test]
    fn attributes_are_walked_within_their_bounds() {
        let mut answer = vec![0; HEADER_BYTES];
        let nested = [5, 0, 2, 0, 2, 0, 0, 0, 8, 0, 4, 0, 77, 0, 0, 0];
        answer.extend([20, 0, 43, 128]);
        answer.extend(nested);
        assert_eq!(read_answer(&answer).unwrap(), Attached { generic: true, program: 77 });
        for cut in 0..answer.len() {
            assert_eq!(read_answer(&answer[..cut]).unwrap(), Attached::default(), "cut at {cut}");
        }
    }
}
