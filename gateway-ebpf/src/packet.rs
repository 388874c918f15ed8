//! A packet as the verdict reads it: big-endian loads that fail at its end.
//!
//! There are two implementations, slices here and the verifier's packet pointers in `main.rs`, because the verifier
//! does not follow a slice over packet memory. Nothing is loaded one byte at a time: the compiler turns the bounds
//! check of a single byte at offset 0 into a comparison that proves nothing to the verifier.

/// Read access to a packet from its first link-layer byte on.
pub trait Packet {
    /// Two bytes at `offset`, or `None` past the end.
    fn be16(&self, offset: usize) -> Option<u16>;
    /// Four bytes at `offset`, or `None` past the end.
    fn be32(&self, offset: usize) -> Option<u32>;
    /// Eight bytes at `offset`, or `None` past the end.
    fn be64(&self, offset: usize) -> Option<u64>;
    /// A header of so many bytes at `offset`, or `None` past the end: several loads behind one check.
    fn header(&self, offset: usize, bytes: usize) -> Option<impl Header>;
    /// Whether the packet has at least `bytes` bytes, those in further fragments of its buffer included.
    fn has(&self, bytes: usize) -> bool;
    /// All of its bytes, those in further fragments of its buffer included.
    fn bytes(&self) -> u64;
}

/// Bytes that are there. What is loaded has to lie within them; on the host anything else is zero.
pub trait Header {
    /// Two bytes from `AT` on.
    fn be16<const AT: usize>(&self) -> u16;
    /// Four bytes from `AT` on.
    fn be32<const AT: usize>(&self) -> u32;
    /// Eight bytes from `AT` on.
    fn be64<const AT: usize>(&self) -> u64;
}

impl Header for &[u8] {
    fn be16<const AT: usize>(&self) -> u16 {
        load(self, AT).map_or(0, u16::from_be_bytes)
    }

    fn be32<const AT: usize>(&self) -> u32 {
        load(self, AT).map_or(0, u32::from_be_bytes)
    }

    fn be64<const AT: usize>(&self) -> u64 {
        load(self, AT).map_or(0, u64::from_be_bytes)
    }
}

impl Packet for &[u8] {
    fn be16(&self, offset: usize) -> Option<u16> {
        load(self, offset).map(u16::from_be_bytes)
    }

    fn be32(&self, offset: usize) -> Option<u32> {
        load(self, offset).map(u32::from_be_bytes)
    }

    fn be64(&self, offset: usize) -> Option<u64> {
        load(self, offset).map(u64::from_be_bytes)
    }

    fn header(&self, offset: usize, bytes: usize) -> Option<impl Header> {
        self.get(offset..)?.get(..bytes)
    }

    fn has(&self, bytes: usize) -> bool {
        self.len() >= bytes
    }

    fn bytes(&self) -> u64 {
        self.len() as u64
    }
}

fn load<const N: usize>(packet: &[u8], offset: usize) -> Option<[u8; N]> {
    packet.get(offset..)?.first_chunk().copied()
}

/// Ethertype of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// Ethertype of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// Ethertype of an 802.1Q tag.
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// Ethertype of an 802.1ad service tag, the outer one of `QinQ`.
pub const ETHERTYPE_QINQ: u16 = 0x88a8;

/// IP protocol number of ICMP.
pub const PROTOCOL_ICMP: u8 = 1;
/// IP protocol number of TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// IP protocol number of UDP.
pub const PROTOCOL_UDP: u8 = 17;
/// IP protocol number of `ICMPv6`.
pub const PROTOCOL_ICMPV6: u8 = 58;

/// Bytes of an Ethernet header without tags.
pub const ETHERNET_BYTES: usize = 14;
/// Bytes of one 802.1Q tag.
pub const TAG_BYTES: usize = 4;

/// The network layer's ethertype and where it starts, behind at most two tags. `None`: too short for a header.
#[inline(always)]
pub fn network_layer(packet: &impl Packet) -> Option<(u16, usize)> {
    let outer = packet.be16(12)?;
    if outer != ETHERTYPE_VLAN && outer != ETHERTYPE_QINQ {
        return Some((outer, ETHERNET_BYTES));
    }
    let inner = packet.be16(16)?;
    if inner != ETHERTYPE_VLAN {
        return Some((inner, ETHERNET_BYTES + TAG_BYTES));
    }
    Some((packet.be16(20)?, ETHERNET_BYTES + 2 * TAG_BYTES))
}
