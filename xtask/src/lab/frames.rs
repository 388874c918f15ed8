//! Ethernet frames with right checksums, byte by byte: what floods send and what verdict tests are fed.
//!
//! Comes in: addresses, VLAN tags and a transport segment. Goes out: the octets on the wire, without padding and
//! without frame check sequence. It never fragments and never sends. IEEE 802.3, 802.1Q; RFC 791, 8200, 9293, 768,
//! 1071.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use anyhow::bail;

/// TCP control bits, RFC 9293 §3.1.
pub mod flags {
    /// No more data.
    pub const FIN: u8 = 0x01;
    /// Synchronize sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement number is valid.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer is valid.
    pub const URG: u8 = 0x20;
}

/// 802.1Q customer tag.
pub const TPID_CUSTOMER: u16 = 0x8100;
/// 802.1ad service tag: the outer one of `QinQ`.
pub const TPID_SERVICE: u16 = 0x88a8;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;
const HOP_LIMIT: u8 = 64;
const WINDOW: u16 = 64_240;
/// Maximum segment size 1460: the option that every real SYN carries.
const MSS_OPTION: [u8; 4] = [2, 4, 0x05, 0xb4];

/// The Ethernet header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Hardware address of the sender.
    pub source: [u8; 6],
    /// Hardware address of the receiver.
    pub destination: [u8; 6],
    /// Tags, outermost first: protocol identifier and VLAN.
    pub tags: Vec<(u16, u16)>,
}

/// From where to where; both of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoints {
    /// IPv4
    V4 {
        /// Sender.
        source: SocketAddrV4,
        /// Receiver.
        destination: SocketAddrV4,
    },
    /// IPv6
    V6 {
        /// Sender.
        source: SocketAddrV6,
        /// Receiver.
        destination: SocketAddrV6,
    },
}

impl Endpoints {
    /// Refuses two addresses of different families.
    pub fn between(source: SocketAddr, destination: SocketAddr) -> anyhow::Result<Self> {
        match (source, destination) {
            (SocketAddr::V4(source), SocketAddr::V4(destination)) => Ok(Self::V4 { source, destination }),
            (SocketAddr::V6(source), SocketAddr::V6(destination)) => Ok(Self::V6 { source, destination }),
            _ => bail!("{source} and {destination} are of different families"),
        }
    }

    fn ports(self) -> (u16, u16) {
        match self {
            Self::V4 { source, destination } => (source.port(), destination.port()),
            Self::V6 { source, destination } => (source.port(), destination.port()),
        }
    }
}

/// What the IP packet carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// TCP; with SYN set it carries a maximum segment size.
    Tcp {
        /// See [`flags`].
        flags: u8,
        /// Sequence number.
        sequence: u32,
        /// Acknowledgement number.
        acknowledgement: u32,
        /// Payload.
        data: Vec<u8>,
    },
    /// UDP
    Udp {
        /// Payload.
        data: Vec<u8>,
    },
}

impl Segment {
    /// The first packet of a handshake.
    pub fn syn(sequence: u32) -> Self {
        Self::tcp(flags::SYN, sequence, 0)
    }

    /// A packet of an established connection, or one that claims to be.
    pub fn ack(sequence: u32, acknowledgement: u32) -> Self {
        Self::tcp(flags::ACK, sequence, acknowledgement)
    }

    /// Any flags, no payload.
    pub fn tcp(flags: u8, sequence: u32, acknowledgement: u32) -> Self {
        Self::Tcp { flags, sequence, acknowledgement, data: Vec::new() }
    }

    /// A datagram.
    pub fn udp(data: impl Into<Vec<u8>>) -> Self {
        Self::Udp { data: data.into() }
    }
}

/// One frame before it is laid out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Layer 2.
    pub link: Link,
    /// Layer 3 addresses and layer 4 ports.
    pub endpoints: Endpoints,
    /// Layer 4.
    pub segment: Segment,
}

impl Frame {
    /// The octets on the wire. Refuses a payload that does not fit a 16-bit length.
    pub fn bytes(&self) -> anyhow::Result<Vec<u8>> {
        let segment = self.segment_bytes()?;
        let mut frame = Vec::with_capacity(64 + segment.len());
        frame.extend(self.link.destination);
        frame.extend(self.link.source);
        for (protocol, vlan) in &self.link.tags {
            frame.extend(protocol.to_be_bytes());
            frame.extend(vlan.to_be_bytes());
        }
        match self.endpoints {
            Endpoints::V4 { source, destination } => {
                frame.extend(ETHERTYPE_IPV4.to_be_bytes());
                frame.extend(header_v4(*source.ip(), *destination.ip(), self.protocol(), segment.len())?);
            }
            Endpoints::V6 { source, destination } => {
                frame.extend(ETHERTYPE_IPV6.to_be_bytes());
                frame.extend(header_v6(*source.ip(), *destination.ip(), self.protocol(), segment.len())?);
            }
        }
        frame.extend(segment);
        Ok(frame)
    }

    fn protocol(&self) -> u8 {
        match self.segment {
            Segment::Tcp { .. } => PROTOCOL_TCP,
            Segment::Udp { .. } => PROTOCOL_UDP,
        }
    }

    /// Header and payload of layer 4, with the checksum over the pseudo-header in place.
    fn segment_bytes(&self) -> anyhow::Result<Vec<u8>> {
        let (source, destination) = self.endpoints.ports();
        let mut bytes = Vec::new();
        bytes.extend(source.to_be_bytes());
        bytes.extend(destination.to_be_bytes());
        let checksum_at = match &self.segment {
            Segment::Tcp { flags, sequence, acknowledgement, data } => {
                let options: &[u8] = if flags & flags::SYN == 0 { &[] } else { &MSS_OPTION };
                let words: u8 = if options.is_empty() { 5 } else { 6 };
                bytes.extend(sequence.to_be_bytes());
                bytes.extend(acknowledgement.to_be_bytes());
                bytes.extend([words << 4, *flags]);
                bytes.extend(WINDOW.to_be_bytes());
                bytes.extend([0; 4]);
                bytes.extend(options);
                bytes.extend(data);
                16
            }
            Segment::Udp { data } => {
                bytes.extend(u16::try_from(8 + data.len())?.to_be_bytes());
                bytes.extend([0; 2]);
                bytes.extend(data);
                6
            }
        };
        let sum = match checksum(&[&self.pseudo_header(bytes.len())?, &bytes]) {
            // RFC 768: a computed zero is sent as all ones, because zero says "none".
            0 if self.protocol() == PROTOCOL_UDP => 0xffff,
            sum => sum,
        };
        if let Some(field) = bytes.get_mut(checksum_at..checksum_at + 2) {
            field.copy_from_slice(&sum.to_be_bytes());
        }
        Ok(bytes)
    }

    fn pseudo_header(&self, length: usize) -> anyhow::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(40);
        match self.endpoints {
            // RFC 9293 §3.1
            Endpoints::V4 { source, destination } => {
                bytes.extend(source.ip().octets());
                bytes.extend(destination.ip().octets());
                bytes.extend([0, self.protocol()]);
                bytes.extend(u16::try_from(length)?.to_be_bytes());
            }
            // RFC 8200 §8.1
            Endpoints::V6 { source, destination } => {
                bytes.extend(source.ip().octets());
                bytes.extend(destination.ip().octets());
                bytes.extend(u32::try_from(length)?.to_be_bytes());
                bytes.extend([0, 0, 0, self.protocol()]);
            }
        }
        Ok(bytes)
    }
}

/// RFC 791 §3.1, no options, "don't fragment" set.
fn header_v4(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    payload: usize,
) -> anyhow::Result<Vec<u8>> {
    let mut header = vec![0x45, 0];
    header.extend(u16::try_from(20 + payload)?.to_be_bytes());
    header.extend([0, 0, 0x40, 0, HOP_LIMIT, protocol, 0, 0]);
    header.extend(source.octets());
    header.extend(destination.octets());
    let sum = checksum(&[&header]);
    if let Some(field) = header.get_mut(10..12) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
    Ok(header)
}

/// RFC 8200 §3
fn header_v6(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    protocol: u8,
    payload: usize,
) -> anyhow::Result<Vec<u8>> {
    let mut header = vec![0x60, 0, 0, 0];
    header.extend(u16::try_from(payload)?.to_be_bytes());
    header.extend([protocol, HOP_LIMIT]);
    header.extend(source.octets());
    header.extend(destination.octets());
    Ok(header)
}

/// The Internet checksum (RFC 1071) over parts of which all but the last have an even length.
#[expect(clippy::cast_possible_truncation, reason = "the carries are folded into 16 bits just before")]
fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum: u32 = 0;
    for pair in parts.iter().flat_map(|part| part.chunks(2)) {
        // The longest input is 64 KiB and some: 33 000 words cannot overflow 32 bits.
        sum += match *pair {
            [high, low] => u32::from(u16::from_be_bytes([high, low])),
            [high] => u32::from(high) << 8,
            _ => 0,
        };
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(tags: &[(u16, u16)]) -> Link {
        Link { source: [2, 0, 0, 0, 0, 2], destination: [2, 0, 0, 0, 0, 1], tags: tags.to_vec() }
    }

    /// A second way to the same sum: one bit pattern, carried at once, as a receiver would check it.
    fn receiver_accepts(words: &[u8]) -> bool {
        let mut padded = words.to_vec();
        padded.resize(words.len().next_multiple_of(2), 0);
        let sum = padded.chunks_exact(2).fold(0u16, |sum, word| {
            let (sum, carry) = sum.overflowing_add(u16::from(word[0]) * 256 + u16::from(word[1]));
            sum + u16::from(carry)
        });
        sum == 0xffff
    }

    #[track_caller]
    fn check(tags: &[(u16, u16)], source: &str, destination: &str, segment: Segment, expected_bytes: usize) {
        let endpoints = Endpoints::between(source.parse().unwrap(), destination.parse().unwrap()).unwrap();
        let bytes = Frame { link: link(tags), endpoints, segment }.bytes().unwrap();
        assert_eq!(bytes.len(), expected_bytes);
        let packet = &bytes[14 + 4 * tags.len()..];
        let ethertype = [bytes[12 + 4 * tags.len()], bytes[13 + 4 * tags.len()]];
        let (mut pseudo, segment) = match ethertype {
            [0x08, 0x00] => {
                assert!(receiver_accepts(&packet[..20]), "IPv4 header checksum");
                assert_eq!(usize::from(u16::from_be_bytes([packet[2], packet[3]])), packet.len());
                ([&packet[12..20], &[0, packet[9]]].concat(), &packet[20..])
            }
            [0x86, 0xdd] => {
                assert_eq!(usize::from(u16::from_be_bytes([packet[4], packet[5]])), packet.len() - 40);
                ([&packet[8..40], &[0, packet[6]]].concat(), &packet[40..])
            }
            other => panic!("ethertype {other:x?}"),
        };
        pseudo.extend(u16::try_from(segment.len()).unwrap().to_be_bytes());
        pseudo.extend(segment);
        assert!(receiver_accepts(&pseudo), "transport checksum");
    }

    #[test]
    fn a_receiver_accepts_every_checksum() {
        let (near, far) = ("198.51.100.7:1024", "192.0.2.1:443");
        let (near6, far6) = ("[2001:db8:5::7]:1024", "[2001:db8::1]:443");
        check(&[], near, far, Segment::syn(1), 58);
        check(&[], near, far, Segment::ack(1, 2), 54);
        check(&[], near, far, Segment::tcp(0x3f, u32::MAX, u32::MAX), 58);
        check(&[], near, far, Segment::udp(*b"odd"), 45);
        check(&[(TPID_CUSTOMER, 7)], near, far, Segment::syn(1), 62);
        check(&[(TPID_SERVICE, 7), (TPID_CUSTOMER, 8)], near, far, Segment::udp(*b"even"), 54);
        check(&[], near6, far6, Segment::syn(1), 78);
        check(&[], near6, far6, Segment::udp(vec![0xff; 1001]), 1063);
    }

    #[test]
    fn families_do_not_mix() {
        let (v4, v6) = ("192.0.2.1:1".parse().unwrap(), "[2001:db8::1]:1".parse().unwrap());
        assert!(Endpoints::between(v4, v6).is_err());
        assert!(Endpoints::between(v4, v4).is_ok());
    }

    #[test]
    fn a_payload_must_fit_its_length_field() {
        let endpoints =
            Endpoints::between("192.0.2.2:1".parse().unwrap(), "192.0.2.1:2".parse().unwrap()).unwrap();
        let frame =
            |bytes| Frame { link: link(&[]), endpoints, segment: Segment::udp(vec![0; bytes]) }.bytes();
        assert!(frame(65_507).is_ok());
        assert!(frame(65_508).is_err());
    }
}
