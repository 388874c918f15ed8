//! Frames by hand: honest ones, to be broken one field at a time.

use std::net::{Ipv4Addr, Ipv6Addr};

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const URG: u8 = 0x20;

/// Offsets into an untagged IPv4 frame.
pub(crate) const IPV4: usize = 14;
/// Offsets into an untagged IPv6 frame.
pub(crate) const IPV6: usize = 14;
/// TCP in an untagged IPv4 frame without options.
pub(crate) const TCP4: usize = IPV4 + 20;
/// TCP in an untagged IPv6 frame without extension headers.
pub(crate) const TCP6: usize = IPV6 + 40;

/// Ethernet, then whatever.
pub(crate) fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9];
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Puts tags between the addresses and the ethertype, outermost first.
pub(crate) fn tagged(frame: &[u8], ethertypes: &[u16]) -> Vec<u8> {
    let mut with_tags = frame[..12].to_vec();
    for ethertype in ethertypes {
        with_tags.extend(ethertype.to_be_bytes());
        with_tags.extend([0, 7]);
    }
    with_tags.extend(&frame[12..]);
    with_tags
}

pub(crate) const SERVER4: &str = "192.0.2.1";
pub(crate) const SERVER6: &str = "2001:db8::1";

/// IPv4 with `options`, whose length is a multiple of four.
pub(crate) fn ipv4(source: &str, protocol: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let header_bytes = 20 + options.len();
    let mut packet = vec![0x40 | (header_bytes / 4) as u8, 0];
    packet.extend(((header_bytes + payload.len()) as u16).to_be_bytes());
    packet.extend([0, 1, 0x40, 0, 64, protocol, 0, 0]);
    packet.extend(source.parse::<Ipv4Addr>().unwrap().octets());
    packet.extend(SERVER4.parse::<Ipv4Addr>().unwrap().octets());
    packet.extend(options);
    packet.extend(payload);
    ethernet(0x0800, &packet)
}

/// IPv6; `payload` starts with the header that `next` names.
pub(crate) fn ipv6(source: &str, next: u8, hop_limit: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, hop_limit]);
    packet.extend(source.parse::<Ipv6Addr>().unwrap().octets());
    packet.extend(SERVER6.parse::<Ipv6Addr>().unwrap().octets());
    packet.extend(payload);
    ethernet(0x86dd, &packet)
}

/// A TCP header and eight bytes.
pub(crate) fn tcp(port: u16, flags: u8) -> Vec<u8> {
    let mut segment = 40_000_u16.to_be_bytes().to_vec();
    segment.extend(port.to_be_bytes());
    segment.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(*b"8 bytes.");
    segment
}

/// A UDP header and eight bytes.
pub(crate) fn udp(port: u16) -> Vec<u8> {
    udp_from(40_000, port)
}

/// The same, from this port.
pub(crate) fn udp_from(source: u16, port: u16) -> Vec<u8> {
    let mut datagram = source.to_be_bytes().to_vec();
    datagram.extend(port.to_be_bytes());
    datagram.extend([0, 16, 0, 0]);
    datagram.extend(*b"8 bytes.");
    datagram
}

pub(crate) fn tcp4(source: &str, port: u16, flags: u8) -> Vec<u8> {
    ipv4(source, 6, &[], &tcp(port, flags))
}

pub(crate) fn udp4(source: &str, port: u16) -> Vec<u8> {
    ipv4(source, 17, &[], &udp(port))
}

pub(crate) fn tcp6(source: &str, port: u16, flags: u8) -> Vec<u8> {
    ipv6(source, 6, 64, &tcp(port, flags))
}

/// An extension header of `8 × (length + 1)` bytes.
pub(crate) fn extension(next: u8, length: u8) -> Vec<u8> {
    let mut header = vec![next, length, 1, 4];
    header.resize(8 * (usize::from(length) + 1), 0);
    header
}

/// A fragment header; `offset` in units of eight bytes.
pub(crate) fn fragment(next: u8, offset: u16, more: bool) -> Vec<u8> {
    let mut header = vec![next, 0];
    header.extend((offset << 3 | u16::from(more)).to_be_bytes());
    header.extend([0, 0, 0, 7]);
    header
}

/// The frame with `bytes` written at `at`.
pub(crate) fn with(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

/// The frame's first `bytes` bytes.
pub(crate) fn cut(mut frame: Vec<u8>, bytes: usize) -> Vec<u8> {
    frame.truncate(bytes);
    frame
}
