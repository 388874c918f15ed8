//! One `SO_REUSEPORT` group per address, a socket per worker in it.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use thiserror::Error;

use crate::net::notice_dead_peers;

/// Connections that wait to be accepted, per worker; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// A listener's address could not be had.
#[derive(Debug, Error)]
#[error("cannot listen on {address}: {error}{}", hint(.error))]
pub struct BindError {
    address: SocketAddr,
    #[source]
    error: io::Error,
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => " (another program holds it: `ss -ltnp` names it)",
        io::ErrorKind::PermissionDenied => " (ports below 1024 need CAP_NET_BIND_SERVICE)",
        io::ErrorKind::AddrNotAvailable => " (no interface has this address: `ip address`)",
        _ => "",
    }
}

/// Binds one socket per worker CPU. The kernel prefers the socket of the CPU that took the interrupt
/// (`SO_INCOMING_CPU`, socket(7)), so that a connection is served where its packets arrive.
pub fn bind(address: SocketAddr, cpus: &[usize]) -> Result<Vec<TcpListener>, BindError> {
    cpus.iter().map(|&cpu| bind_one(address, cpu).map_err(|error| BindError { address, error })).collect()
}

fn bind_one(address: SocketAddr, cpu: usize) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.cloexec(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // A kernel that refuses costs nothing but this: every wait has a deadline besides.
    let _ = notice_dead_peers(&SockRef::from(&socket));
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    // Data in a SYN is no proof of an address, and offences need one. Whoever has the kernel accept it on every socket
    // (`net.ipv4.tcp_fastopen`) has it accepted from listening on.
    refuse_data_in_syns(&socket)?;
    // A hint for locality: a kernel without it spreads connections by hash.
    if let Ok(cpu) = libc::c_int::try_from(cpu) {
        let _ = set_incoming_cpu(&socket, cpu);
    }
    Ok(socket.into())
}

fn set_incoming_cpu(socket: &Socket, cpu: libc::c_int) -> io::Result<()> {
    set_option(socket, (libc::SOL_SOCKET, libc::SO_INCOMING_CPU), cpu)
}

/// A queue of no length for connections that begin with data (RFC 7413). A kernel without knows of no such thing.
fn refuse_data_in_syns(socket: &Socket) -> io::Result<()> {
    match set_option(socket, (libc::IPPROTO_TCP, libc::TCP_FASTOPEN), 0) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOPROTOOPT | libc::EOPNOTSUPP)) => Ok(()),
        set => set,
    }
}

fn set_option(
    socket: &Socket,
    (level, name): (libc::c_int, libc::c_int),
    value: libc::c_int,
) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let length = libc::socklen_t::try_from(size_of_val(&value)).unwrap_or(4);
    // SAFETY: the pointer is to a local of the length told.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn no_connection_may_begin_with_data() {
        for socket in bind("127.0.0.1:0".parse().unwrap(), &[0, 1]).unwrap() {
            let (mut length, mut bytes) = (-1_i32, 4_u32);
            // SAFETY: both pointers are to locals, the second one tells the size of the first.
            let result = unsafe {
                libc::getsockopt(
                    socket.as_raw_fd(),
                    libc::IPPROTO_TCP,
                    libc::TCP_FASTOPEN,
                    (&raw mut length).cast(),
                    &raw mut bytes,
                )
            };
            assert_eq!((result, length), (0, 0));
        }
    }
}
