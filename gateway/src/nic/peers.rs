//! Who has a connection to this host: TCP's own table, asked by `sock_diag`, which looks at ports inside the kernel, so
//! that a hundred thousand clients of ours cost nothing here.
//!
//! Source: `include/uapi/linux/inet_diag.h`; the little language of filters as `net/ipv4/inet_diag.c` audits it.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::netlink::{self, attribute, number};

/// A connection that somebody has made to this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Who.
    pub address: IpAddr,
    /// The port here.
    pub port: u16,
    /// The kernel's own name for this connection; no other one ever has it.
    pub cookie: u64,
}

/// Ports that are asked about at once.
pub const PORTS_MAX: usize = 1024;
/// Peers that are told at once.
pub const PEERS_MAX: usize = 4096;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const INET_DIAG_REQ_BYTECODE: u16 = 1;
/// States of TCP (`include/net/tcp_states.h`), as bits.
const ESTABLISHED: u32 = 1 << 1;
const LISTEN: u32 = 1 << 10;
/// Operations of the filters' language.
const JUMP: u8 = 1;
const PORT_IS: u8 = 11;

/// Every port that this host accepts TCP connections on.
pub fn listening_ports() -> io::Result<BTreeSet<u16>> {
    let mut ports = BTreeSet::new();
    sockets(LISTEN, &[], |socket| ports.extend(port(socket)))?;
    Ok(ports)
}

/// Established connections to these ports, at most [`PEERS_MAX`].
pub fn established(ports: &BTreeSet<u16>) -> io::Result<Vec<Peer>> {
    let mut peers = Vec::new();
    let ports: Vec<u16> = ports.iter().copied().take(PORTS_MAX).collect();
    if !ports.is_empty() {
        sockets(ESTABLISHED, &any_of(&ports), |socket| {
            if peers.len() < PEERS_MAX {
                peers.extend(peer(socket));
            }
        })?;
    }
    Ok(peers)
}

/// Hands over every TCP socket in one of these states that the filter accepts.
fn sockets(states: u32, filter: &[u8], mut each: impl FnMut(&[u8])) -> io::Result<()> {
    for family in [libc::AF_INET, libc::AF_INET6] {
        // `struct inet_diag_req_v2`: family, protocol, extensions, padding, states, and an id that says nothing.
        let mut body = vec![0_u8; 56];
        let octet = |number: libc::c_int| u8::try_from(number).unwrap_or_default();
        let head = [octet(family), octet(libc::IPPROTO_TCP), 0, 0];
        for (to, from) in body.iter_mut().zip(head.into_iter().chain(states.to_ne_bytes())) {
            *to = from;
        }
        if !filter.is_empty() {
            body.extend(attribute(INET_DIAG_REQ_BYTECODE, filter));
        }
        let question = (SOCK_DIAG_BY_FAMILY, netlink::DUMP);
        match netlink::ask(libc::NETLINK_SOCK_DIAG, question, &body, &mut each) {
            // A kernel without IPv6.
            Err(error) if family == libc::AF_INET6 && error.raw_os_error() == Some(libc::ENOENT) => {}
            asked => asked?,
        }
    }
    Ok(())
}

/// A filter that accepts sockets on any of these ports: each is compared; where it differs, the jump to the end is
/// jumped over, and behind the last one the socket is refused by leaping past the end.
fn any_of(ports: &[u16]) -> Vec<u8> {
    const COMPARE_BYTES: u16 = 8;
    const JUMP_BYTES: u16 = 4;
    let mut filter = Vec::new();
    for (place, port) in ports.iter().enumerate() {
        let operation = |code: u8, yes: u8, no: u16| {
            let [low, high] = no.to_ne_bytes();
            [code, yes, low, high]
        };
        #[expect(clippy::cast_possible_truncation, reason = "a length of 8")]
        filter.extend(operation(PORT_IS, COMPARE_BYTES as u8, COMPARE_BYTES + JUMP_BYTES));
        filter.extend(operation(0, 0, *port));
        let left = u16::try_from(ports.len() - 1 - place).unwrap_or_default();
        if left > 0 {
            let to_end = left * (COMPARE_BYTES + JUMP_BYTES);
            #[expect(clippy::cast_possible_truncation, reason = "a length of 4")]
            filter.extend(operation(JUMP, JUMP_BYTES as u8, to_end));
        }
    }
    filter
}

/// The port here: `struct inet_diag_msg` begins with four bytes, then come the ports in network byte order.
fn port(socket: &[u8]) -> Option<u16> {
    number(socket, 4).map(u16::from_be_bytes)
}

fn peer(socket: &[u8]) -> Option<Peer> {
    let address = match i32::from(*socket.first()?) {
        libc::AF_INET => IpAddr::V4(Ipv4Addr::from(number::<4>(socket, 24)?)),
        _ => IpAddr::V6(Ipv6Addr::from(number::<16>(socket, 24)?)).to_canonical(),
    };
    Some(Peer { address, port: port(socket)?, cookie: u64::from_ne_bytes(number(socket, 44)?) })
}

#[cfg(test)]
#[expect(clippy::disallowed_types, reason = "somebody has to connect")]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn connections_are_found_by_the_port_that_they_came_to() {
        let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let ports = listeners.each_ref().map(|listener| listener.local_addr().unwrap().port());
        let clients: Vec<TcpStream> = listeners
            .iter()
            .map(|listener| TcpStream::connect(listener.local_addr().unwrap()).unwrap())
            .collect();
        let listening = listening_ports().unwrap();
        assert!(ports.iter().all(|port| listening.contains(port)));

        let found = |asked: &[u16]| {
            let peers = established(&asked.iter().copied().collect()).unwrap();
            let mut found: Vec<u16> = peers.iter().map(|peer| peer.port).collect();
            assert!(peers.iter().all(|peer| peer.address == IpAddr::from([127, 0, 0, 1])));
            found.sort_unstable();
            found
        };
        let mut all = ports;
        all.sort_unstable();
        assert_eq!(found(&ports), all);
        for port in ports {
            assert_eq!(found(&[port]), [port]);
        }
        assert_eq!(found(&[]), [0; 0]);
        let before = established(&ports.into_iter().collect()).unwrap();
        assert_eq!(established(&ports.into_iter().collect()).unwrap(), before, "cookies are kept");
        drop(clients);
    }

    #[test]
    fn ipv6_and_mapped_peers_are_told_in_their_short_form() {
        let Ok(listener) = TcpListener::bind("[::]:0") else { return };
        let port = listener.local_addr().unwrap().port();
        let _clients = ["127.0.0.1", "::1"].map(|host| TcpStream::connect((host, port)).unwrap());
        let mut found: Vec<IpAddr> =
            established(&BTreeSet::from([port])).unwrap().iter().map(|peer| peer.address).collect();
        found.sort();
        assert_eq!(found, ["127.0.0.1", "::1"].map(|address| address.parse::<IpAddr>().unwrap()));
    }

    #[test]
    fn a_filter_of_many_ports_is_one_that_the_kernel_takes() {
        let ports: BTreeSet<u16> = (1..=u16::try_from(PORTS_MAX).unwrap() + 1).collect();
        established(&ports).unwrap();
    }
}
