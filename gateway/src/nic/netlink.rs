//! Questions to the kernel by netlink, each on a socket of its own, since they are rare.
//!
//! Comes in: a protocol, a kind of message and its body. Goes out: the bodies of the answers. Source: RFC 3549 §2.3,
//! `include/uapi/linux/netlink.h`.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

const HEADER_BYTES: usize = 16;
/// One datagram of answers; about an interface with many virtual functions it is some kilobytes.
const ANSWER_BYTES_MAX: usize = 64 << 10;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_MULTI: u16 = 2;
/// All that there are, instead of one.
pub(super) const DUMP: u16 = 0x300;
/// The type of an attribute that holds others.
const NESTED: u16 = 1 << 15;

/// Asks, and hands over the body of each answer.
///
/// Errors: the kernel's own, as it tells it.
pub(super) fn ask(
    protocol: libc::c_int,
    (kind, flags): (u16, u16),
    body: &[u8],
    mut each: impl FnMut(&[u8]),
) -> io::Result<()> {
    // SAFETY: a new descriptor or an error; nothing else is touched.
    let socket = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let question = question(kind, flags, body);
    // SAFETY: the kernel reads the buffer, whose length is given, before the call returns.
    let sent = unsafe { libc::send(socket.as_raw_fd(), question.as_ptr().cast(), question.len(), 0) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut answer = vec![0_u8; ANSWER_BYTES_MAX];
    // Ends: the kernel closes a list with a message of its own, and sends one answer where no list was asked for.
    loop {
        // SAFETY: the kernel writes at most the buffer's length, which is given, before the call returns.
        let received = unsafe { libc::recv(socket.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0) };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        if read(answer.get(..received).unwrap_or_default(), &mut each)? {
            return Ok(());
        }
    }
}

fn question(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = HEADER_BYTES + body.len();
    let mut question = Vec::with_capacity(length);
    question.extend(u32::try_from(length).unwrap_or_default().to_ne_bytes());
    question.extend(kind.to_ne_bytes());
    question.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    // Sequence and port: there is one question on this socket.
    question.extend([0; 8]);
    question.extend(body);
    question
}

/// Hands over what a datagram holds; true: it was the last one.
fn read(mut rest: &[u8], each: &mut impl FnMut(&[u8])) -> io::Result<bool> {
    while let Some(length) = number(rest, 0).map(u32::from_ne_bytes) {
        let length = length as usize;
        let (Some(kind), Some(flags), Some(body)) = (
            number(rest, 4).map(u16::from_ne_bytes),
            number(rest, 6).map(u16::from_ne_bytes),
            rest.get(HEADER_BYTES..length),
        ) else {
            return Ok(true);
        };
        match kind {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => {
                let code = number(body, 0).map_or(0, i32::from_ne_bytes);
                return if code == 0 { Ok(true) } else { Err(io::Error::from_raw_os_error(-code)) };
            }
            _ => each(body),
        }
        if flags & NLM_F_MULTI == 0 {
            return Ok(true);
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// Length, type, value, padded to four bytes; what does not add up ends the walk.
pub(super) fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(number(rest, 0).map(u16::from_ne_bytes)?);
        let kind = number(rest, 2).map(u16::from_ne_bytes)?;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & !NESTED, value))
    })
}

/// An attribute, padded.
pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut attribute = Vec::with_capacity(4 + value.len().next_multiple_of(4));
    attribute.extend(u16::try_from(4 + value.len()).unwrap_or_default().to_ne_bytes());
    attribute.extend(kind.to_ne_bytes());
    attribute.extend(value);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

/// The octets of a number that lies at `at`.
pub(super) fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
        let mut message = question(kind, flags, body);
        // An answer bears no request flag.
        message[6..8].copy_from_slice(&flags.to_ne_bytes());
        message.resize(message.len().next_multiple_of(4), 0);
        message
    }

    #[track_caller]
    fn check(datagram: &[u8], bodies: &[&[u8]], last: Result<bool, i32>) {
        let mut seen = Vec::new();
        let ended = read(datagram, &mut |body| seen.push(body.to_vec()));
        assert_eq!(seen, bodies);
        assert_eq!(ended.map_err(|error| error.raw_os_error().unwrap_or(0)), last);
    }

    #[test]
    fn a_list_goes_on_until_the_kernel_ends_it() {
        let part = |body: &[u8]| message(20, NLM_F_MULTI, body);
        check(&[part(b"one"), part(b"two")].concat(), &[b"one", b"two"], Ok(false));
        check(&[part(b"one"), message(NLMSG_DONE, NLM_F_MULTI, &[0; 4])].concat(), &[b"one"], Ok(true));
        check(&message(20, 0, b"only"), &[b"only"], Ok(true));
        check(&message(NLMSG_ERROR, 0, &(-19_i32).to_ne_bytes()), &[], Err(19));
        check(&message(NLMSG_ERROR, 0, &[0; 4]), &[], Ok(true));
        let whole = part(b"four");
        for cut in 1..whole.len() {
            assert!(read(&whole[..cut], &mut |_| panic!("cut at {cut}")).is_ok());
        }
    }

    #[test]
    fn an_attribute_is_read_as_it_was_written() {
        let written = [attribute(1, b"abc"), attribute(2 | NESTED, b"")].concat();
        assert_eq!(written.len(), 12);
        assert_eq!(attributes(&written).collect::<Vec<_>>(), [(1, &b"abc"[..]), (2, &b""[..])]);
    }
}
