//! Packets and what must become of them under [`super::world`], without limits.

use gateway_ebpf::Reason::{
    self, Allowed, BadFlags, BadLength, BlockedFeed, BlockedPrefix, BlockedSource, Fragment, Neighbour,
    NotIp, NotLimited, SameAddress,
};

use super::frames::{
    ACK, FIN, IPV4, IPV6, PSH, RST, SYN, TCP4, TCP6, URG, cut, ethernet, extension, fragment, ipv4, ipv6,
    tagged, tcp, tcp4, tcp6, udp, udp_from, udp4, with,
};

/// A stranger.
pub(crate) const CLIENT4: &str = "198.51.100.7";
/// A stranger.
pub(crate) const CLIENT6: &str = "2001:db8:c::7";

/// Each packet with its name and the reason that it must be counted under.
pub(crate) fn cases() -> Vec<(&'static str, Vec<u8>, Reason)> {
    [link_layer(), policy(), feeds(), dhcp(), ipv4_sanity(), ipv6_sanity(), tcp_and_udp(), fragments()]
        .concat()
}

type Cases = Vec<(&'static str, Vec<u8>, Reason)>;

fn link_layer() -> Cases {
    let plain = tcp4(CLIENT4, 443, ACK);
    let banned = tcp4("198.51.100.66", 443, ACK);
    let banned6 = tcp6("2001:db8:66::9", 443, ACK);
    vec![
        ("IPv4", plain.clone(), NotLimited),
        ("IPv6", tcp6(CLIENT6, 443, ACK), NotLimited),
        ("ARP", ethernet(0x0806, &[0; 46]), NotIp),
        ("LLDP", ethernet(0x88cc, &[0; 46]), NotIp),
        ("an 802.3 length instead of an ethertype", ethernet(46, &[0; 46]), NotIp),
        ("802.1Q", tagged(&banned, &[0x8100]), BlockedSource),
        ("802.1ad alone", tagged(&banned, &[0x88a8]), BlockedSource),
        ("QinQ", tagged(&banned, &[0x88a8, 0x8100]), BlockedSource),
        ("802.1Q twice", tagged(&banned, &[0x8100, 0x8100]), BlockedSource),
        ("802.1Q, IPv6", tagged(&banned6, &[0x8100]), BlockedSource),
        ("QinQ, IPv6", tagged(&banned6, &[0x88a8, 0x8100]), BlockedSource),
        ("QinQ, honest", tagged(&plain, &[0x88a8, 0x8100]), NotLimited),
        ("three tags are not understood", tagged(&banned, &[0x88a8, 0x8100, 0x8100]), NotIp),
        ("cut in the tag", cut(tagged(&plain, &[0x8100]), 16), NotIp),
        ("cut in the second tag", cut(tagged(&plain, &[0x88a8, 0x8100]), 20), NotIp),
        ("802.1Q, ARP", tagged(&ethernet(0x0806, &[0; 46]), &[0x8100]), NotIp),
    ]
}

fn policy() -> Cases {
    vec![
        ("a banned source", tcp4("198.51.100.66", 443, ACK), BlockedSource),
        ("its neighbour", tcp4("198.51.100.65", 443, ACK), NotLimited),
        ("a banned source on a port without limits", tcp4("198.51.100.66", 22, SYN), BlockedSource),
        ("a banned source, ICMP", ipv4("198.51.100.66", 1, &[], &[8, 0, 0, 0, 0, 0, 0, 0]), BlockedSource),
        (
            "a banned source, malformed: the block counts",
            tcp4("198.51.100.66", 443, SYN | FIN),
            BlockedSource,
        ),
        ("an expired ban", tcp4("198.51.100.67", 443, ACK), NotLimited),
        ("a blocked prefix", tcp4("203.0.113.9", 443, ACK), BlockedPrefix),
        ("the first behind it", tcp4("203.0.114.0", 443, ACK), NotLimited),
        ("a /24 that is dropped whole", tcp4("100.68.15.1", 443, ACK), BlockedPrefix),
        ("a /24 that is dropped whole, malformed", tcp4("100.68.15.1", 443, SYN | FIN), BlockedPrefix),
        ("the first /24 behind it", tcp4("100.68.16.0", 443, ACK), NotLimited),
        ("allow beats a blocked prefix", tcp4("203.0.113.77", 443, ACK), Allowed),
        ("allow beats a blocked address", tcp4("198.51.100.200", 443, ACK), Allowed),
        ("allow beats a ban", tcp4("198.51.100.201", 443, ACK), Allowed),
        ("allow beats malformed", tcp4("198.51.100.200", 443, SYN | FIN), Allowed),
        ("four expired prefixes in front of a live one", tcp4("100.64.0.20", 443, ACK), BlockedPrefix),
        ("three", tcp4("100.64.0.65", 443, ACK), BlockedPrefix),
        ("five: not looked that far", tcp4("100.64.0.1", 443, ACK), NotLimited),
        ("one", tcp4("100.65.0.1", 443, ACK), BlockedPrefix),
        ("beside it", tcp4("100.65.1.1", 443, ACK), BlockedPrefix),
        ("an expired prefix alone", tcp4("100.66.0.1", 443, ACK), NotLimited),
        ("a banned /64", tcp6("2001:db8:66::1:2", 443, ACK), BlockedSource),
        ("the next /64", tcp6("2001:db8:66:1::1", 443, ACK), NotLimited),
        ("an expired /64", tcp6("2001:db8:67:0::1", 443, ACK), NotLimited),
        ("a banned IPv6 host", tcp6("2001:db8:68::1", 443, ACK), BlockedPrefix),
        ("its neighbour in the /64", tcp6("2001:db8:68::2", 443, ACK), NotLimited),
        ("a blocked IPv6 prefix", tcp6("2001:db8:bad:1::1", 443, ACK), BlockedPrefix),
        ("allow beats it", tcp6("2001:db8:bad::7", 443, ACK), Allowed),
        ("allow beats a banned /64", tcp6("2001:db8:a:66::1", 443, ACK), Allowed),
        ("IPv6, four expired in front of a live one", tcp6("2001:db8:70:2::1", 443, ACK), BlockedPrefix),
        ("IPv6, five", tcp6("2001:db8:70::1", 443, ACK), NotLimited),
        ("a throttled source within its burst", tcp4("198.51.100.90", 443, ACK), NotLimited),
        ("a throttled prefix", tcp4("192.0.2.161", 443, ACK), NotLimited),
        ("a throttled source, malformed", tcp4("198.51.100.90", 443, SYN | FIN), BadFlags),
        ("a throttled /64", tcp6("2001:db8:90::1", 443, ACK), NotLimited),
        ("a throttled /56", tcp6("2001:db8:91:80::1", 443, ACK), NotLimited),
        ("a throttle within a block", tcp4("100.65.0.33", 443, ACK), BlockedPrefix),
        ("a throttle within an IPv6 block", tcp6("2001:db8:bad:90::1", 443, ACK), BlockedPrefix),
        ("beside a block in its /24", tcp4("198.51.100.199", 443, ACK), Allowed),
        ("neighbour solicitation", ipv6("2001:db8:66::1", 58, 255, &[135, 0, 0, 0, 0, 0, 0, 0]), Neighbour),
        ("router advertisement", ipv6("2001:db8:66::1", 58, 255, &[134, 0, 0, 0, 0, 0, 0, 0]), Neighbour),
        ("redirect", ipv6("2001:db8:66::1", 58, 255, &[137, 0, 0, 0, 0, 0, 0, 0]), Neighbour),
        ("from afar", ipv6("2001:db8:66::1", 58, 254, &[135, 0, 0, 0, 0, 0, 0, 0]), BlockedSource),
        ("an echo is none", ipv6("2001:db8:66::1", 58, 255, &[128, 0, 0, 0, 0, 0, 0, 0]), BlockedSource),
        ("below the types", ipv6("2001:db8:66::1", 58, 255, &[132, 0, 0, 0, 0, 0, 0, 0]), BlockedSource),
        ("above the types", ipv6("2001:db8:66::1", 58, 255, &[138, 0, 0, 0, 0, 0, 0, 0]), BlockedSource),
        ("a link-local source", tcp6("fe80::1", 443, SYN | FIN), Neighbour),
        ("the end of link-local", tcp6("febf::1", 443, ACK), Neighbour),
        ("behind link-local", tcp6("fec0::1", 443, ACK), NotLimited),
    ]
}

fn feeds() -> Cases {
    vec![
        ("a listed /24", tcp4("100.67.0.1", 443, ACK), BlockedFeed),
        ("the last of a list's range", tcp4("100.67.1.255", 443, ACK), BlockedFeed),
        ("behind it", tcp4("100.67.2.0", 443, ACK), NotLimited),
        ("listed, malformed: the list counts", tcp4("100.67.0.1", 443, SYN | FIN), BlockedFeed),
        ("the first of a part of a /24", tcp4("100.67.7.64", 22, SYN), BlockedFeed),
        ("before it", tcp4("100.67.7.63", 443, ACK), NotLimited),
        ("its last", tcp4("100.67.7.79", 443, ACK), BlockedFeed),
        ("behind its last", tcp4("100.67.7.80", 443, ACK), NotLimited),
        ("a listed address", tcp4("100.67.7.200", 443, ACK), BlockedFeed),
        ("allow beats a list", tcp4("198.51.100.140", 443, ACK), Allowed),
        ("a listed /48", tcp6("2001:db8:feed:ffff::1", 443, ACK), BlockedFeed),
        ("the /48 behind it", tcp6("2001:db8:feee::1", 443, ACK), NotLimited),
        ("IPv6, a part of a /64", tcp6("2001:db8:fee::7", 443, ACK), BlockedFeed),
        ("IPv6, behind it", tcp6("2001:db8:fee::8", 443, ACK), NotLimited),
        ("IPv6, before it", tcp6("2001:db8:fee::3", 443, ACK), NotLimited),
        ("allow beats a listed /64", tcp6("2001:db8:a:fee::1", 443, ACK), Allowed),
    ]
}

fn dhcp() -> Cases {
    let banned = "198.51.100.66";
    let banned6 = "2001:db8:66::1";
    let dhcp4 = |from, to| ipv4(banned, 17, &[], &udp_from(from, to));
    let dhcp6 = |from, to| ipv6(banned6, 17, 64, &udp_from(from, to));
    vec![
        ("DHCP: a banned server answers", dhcp4(67, 68), Neighbour),
        ("DHCP: a banned client asks", dhcp4(68, 67), Neighbour),
        ("DHCP: a banned relay", dhcp4(67, 67), Neighbour),
        ("DHCP: behind options", ipv4(banned, 17, &[1; 8], &udp_from(67, 68)), Neighbour),
        ("DHCP: in a tag", tagged(&dhcp4(67, 68), &[0x8100]), Neighbour),
        ("DHCP: of a blocked prefix", ipv4("203.0.113.9", 17, &[], &udp_from(67, 68)), Neighbour),
        ("DHCP: of an allowed server", ipv4("203.0.113.77", 17, &[], &udp_from(67, 68)), Allowed),
        ("DHCP: of anybody", ipv4(CLIENT4, 17, &[], &udp_from(67, 68)), NotLimited),
        ("a banned source that says it were DHCP", dhcp4(67, 443), BlockedSource),
        ("a banned source to DHCP's port", dhcp4(40_000, 68), BlockedSource),
        ("DHCP by TCP is none", ipv4(banned, 6, &[], &tcp(68, ACK)), BlockedSource),
        ("DHCP in a fragment", with(dhcp4(67, 68), IPV4 + 6, &[0x20, 0]), BlockedSource),
        ("DHCP, cut", cut(dhcp4(67, 68), IPV4 + 23), BlockedSource),
        ("DHCPv6: a banned server answers", dhcp6(547, 546), Neighbour),
        ("DHCPv6: a banned client asks", dhcp6(546, 547), Neighbour),
        ("DHCPv6: a blocked host", ipv6("2001:db8:68::1", 17, 64, &udp_from(547, 546)), Neighbour),
        ("DHCPv6 by TCP is none", ipv6(banned6, 6, 64, &tcp(546, ACK)), BlockedSource),
        ("DHCPv6 to another port", dhcp6(547, 443), BlockedSource),
        ("DHCPv6, cut", cut(dhcp6(547, 546), IPV6 + 43), BlockedSource),
    ]
}

fn ipv4_sanity() -> Cases {
    let frame = || tcp4(CLIENT4, 443, ACK);
    let options = ipv4(CLIENT4, 6, &[1; 4], &tcp(443, ACK));
    let trailer = [frame(), vec![0; 6]].concat();
    vec![
        ("options", options.clone(), NotLimited),
        ("the most options", ipv4(CLIENT4, 6, &[1; 40], &tcp(443, ACK)), NotLimited),
        ("flags behind options", ipv4(CLIENT4, 6, &[1; 40], &tcp(443, SYN | FIN)), BadFlags),
        ("padding behind the packet", trailer, NotLimited),
        ("another version", with(frame(), IPV4, &[0x65]), BadLength),
        ("a header of 16 bytes", with(frame(), IPV4, &[0x44]), BadLength),
        ("a header longer than the packet", with(frame(), IPV4 + 2, &[0, 19]), BadLength),
        ("longer than the frame", with(frame(), IPV4 + 2, &[0, 49]), BadLength),
        ("exactly the frame", with(frame(), IPV4 + 2, &[0, 48]), NotLimited),
        ("cut in the header", cut(frame(), IPV4 + 19), BadLength),
        ("cut before the address", cut(frame(), IPV4 + 12), BadLength),
        ("nothing behind the ethertype", cut(frame(), IPV4), BadLength),
        ("land", tcp4(super::frames::SERVER4, 443, SYN), SameAddress),
        ("ICMP", ipv4(CLIENT4, 1, &[], &[8, 0, 0, 0, 0, 0, 0, 0]), NotLimited),
        ("GRE", ipv4(CLIENT4, 47, &[], &[0; 8]), NotLimited),
        ("nothing", ipv4(CLIENT4, 47, &[], &[]), NotLimited),
    ]
}

fn ipv6_sanity() -> Cases {
    let frame = || tcp6(CLIENT6, 443, ACK);
    let bad = tcp(443, SYN | FIN);
    let behind =
        |headers: &[Vec<u8>], first: u8| ipv6(CLIENT6, first, 64, &[headers.concat(), bad.clone()].concat());
    let options = |count: usize| {
        let mut headers = vec![extension(60, 0); count - 1];
        headers.push(extension(6, 0));
        behind(&headers, 60)
    };
    vec![
        ("hop-by-hop options", behind(&[extension(6, 0)], 0), BadFlags),
        ("routing", behind(&[extension(6, 2)], 43), BadFlags),
        (
            "hop-by-hop, routing, destination",
            behind(&[extension(43, 0), extension(60, 1), extension(6, 0)], 0),
            BadFlags,
        ),
        ("six extension headers", options(6), BadFlags),
        ("seven are not understood", options(7), NotLimited),
        ("472 bytes of extension headers", behind(&[extension(60, 28), extension(6, 29)], 60), BadFlags),
        ("more are not understood", behind(&[extension(60, 29), extension(6, 29)], 60), NotLimited),
        (
            "cut in an extension header",
            with(cut(behind(&[extension(6, 0)], 0), IPV6 + 41), IPV6 + 4, &[0, 1]),
            BadLength,
        ),
        ("another version", with(frame(), IPV6, &[0x40]), BadLength),
        ("longer than the frame", with(frame(), IPV6 + 4, &[0, 29]), BadLength),
        ("exactly the frame", with(frame(), IPV6 + 4, &[0, 28]), NotLimited),
        ("a jumbogram's zero", with(frame(), IPV6 + 4, &[0, 0]), NotLimited),
        ("cut in the header", cut(frame(), IPV6 + 39), BadLength),
        ("cut before the address", cut(frame(), IPV6 + 10), BadLength),
        ("land", tcp6(super::frames::SERVER6, 443, SYN), SameAddress),
        ("land but for the last bit", tcp6("2001:db8::", 443, SYN), NotLimited),
        ("ICMPv6 echo", ipv6(CLIENT6, 58, 64, &[128, 0, 0, 0, 0, 0, 0, 0]), NotLimited),
        ("no next header", ipv6(CLIENT6, 59, 64, &[]), NotLimited),
    ]
}

fn tcp_and_udp() -> Cases {
    let flags = |flags: u8| tcp4(CLIENT4, 443, flags);
    let frame = || tcp4(CLIENT4, 443, ACK);
    let datagram = || udp4(CLIENT4, 53);
    vec![
        ("SYN", flags(SYN), NotLimited),
        ("SYN and ACK", flags(SYN | ACK), NotLimited),
        ("SYN with ECN's bits", flags(SYN | 0xc0), NotLimited),
        ("FIN and ACK", flags(FIN | ACK), NotLimited),
        ("RST", flags(RST), NotLimited),
        ("RST and ACK", flags(RST | ACK), NotLimited),
        ("URG, PSH and ACK", flags(URG | PSH | ACK), NotLimited),
        ("no flags", flags(0), BadFlags),
        ("only ECN's bits", flags(0xc0), BadFlags),
        ("SYN and FIN", flags(SYN | FIN), BadFlags),
        ("SYN and RST", flags(SYN | RST), BadFlags),
        ("FIN and RST", flags(FIN | RST | ACK), BadFlags),
        ("FIN alone", flags(FIN), BadFlags),
        ("Xmas tree", flags(FIN | PSH | URG), BadFlags),
        ("every flag", flags(0xff), BadFlags),
        ("IPv6, SYN and FIN", tcp6(CLIENT6, 443, SYN | FIN), BadFlags),
        ("bad flags on a port without limits", tcp4(CLIENT4, 22, SYN | FIN), BadFlags),
        ("a TCP header of 16 bytes", with(frame(), TCP4 + 12, &[0x40]), BadLength),
        ("TCP options to the end", with(frame(), TCP4 + 12, &[0x70]), NotLimited),
        ("TCP options past the end", with(frame(), TCP4 + 12, &[0x80]), BadLength),
        ("IPv6, TCP options past the end", with(tcp6(CLIENT6, 443, ACK), TCP6 + 12, &[0x80]), BadLength),
        ("a packet that ends in its TCP header", with(frame(), IPV4 + 2, &[0, 39]), BadLength),
        ("UDP", datagram(), NotLimited),
        ("UDP's least length", with(datagram(), TCP4 + 4, &[0, 8]), NotLimited),
        ("below UDP's least length", with(datagram(), TCP4 + 4, &[0, 7]), BadLength),
        ("a datagram longer than its packet", with(datagram(), TCP4 + 4, &[0, 17]), BadLength),
        ("a datagram's zero", with(datagram(), TCP4 + 4, &[0, 0]), NotLimited),
        ("UDP cut", with(cut(datagram(), TCP4 + 5), IPV4 + 2, &[0, 25]), BadLength),
        ("IPv6 UDP", ipv6(CLIENT6, 17, 64, &udp(53)), NotLimited),
    ]
}

fn fragments() -> Cases {
    let with_bits = |frame: Vec<u8>, bits: u16| with(frame, IPV4 + 6, &bits.to_be_bytes());
    let part = |next: u8, offset: u16, more: bool, payload: Vec<u8>| {
        ipv6(CLIENT6, 44, 64, &[fragment(next, offset, more), payload].concat())
    };
    vec![
        ("don't fragment", with_bits(tcp4(CLIENT4, 443, ACK), 0x4000), NotLimited),
        ("first fragment to a limited port", with_bits(tcp4(CLIENT4, 443, ACK), 0x2000), Fragment),
        ("first fragment to another port", with_bits(tcp4(CLIENT4, 22, ACK), 0x2000), NotLimited),
        ("a later fragment shows no port", with_bits(tcp4(CLIENT4, 22, ACK), 0x2001), Fragment),
        ("the last fragment", with_bits(tcp4(CLIENT4, 22, ACK), 0x0001), Fragment),
        ("the last fragment that can be", with_bits(tcp4(CLIENT4, 22, ACK), 0x1fff), Fragment),
        ("first fragment of UDP", with(with_bits(udp4(CLIENT4, 53), 0x2000), TCP4 + 4, &[1, 0]), NotLimited),
        ("a later fragment of UDP", with_bits(udp4(CLIENT4, 53), 0x0001), NotLimited),
        ("a later fragment of ICMP", with_bits(ipv4(CLIENT4, 1, &[], &[0; 8]), 0x0001), NotLimited),
        ("IPv6, first fragment to a limited port", part(6, 0, true, tcp(443, ACK)), Fragment),
        ("IPv6, first fragment to another port", part(6, 0, true, tcp(22, ACK)), NotLimited),
        ("IPv6, atomic fragment", part(6, 0, false, tcp(443, ACK)), NotLimited),
        ("IPv6, atomic fragment, bad flags", part(6, 0, false, tcp(443, 0)), BadFlags),
        ("IPv6, a later fragment", part(6, 1, true, vec![0; 8]), Fragment),
        ("IPv6, the last fragment", part(6, 1, false, vec![0; 8]), Fragment),
        ("IPv6, a later fragment of UDP", part(17, 1, false, vec![0; 8]), NotLimited),
        (
            "IPv6, a later fragment whose payload looks like headers",
            part(60, 1, false, vec![6; 8]),
            NotLimited,
        ),
        ("IPv6, first fragment of UDP", part(17, 0, true, udp(53)), NotLimited),
    ]
}
