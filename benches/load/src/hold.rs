//! Idle keep-alive connections, each with one request behind it.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    thread,
    time::Duration,
};

use rustix::net::{self, AddressFamily, SocketType};

use crate::{Target, message, stream::Connector};

/// Connections from one source: below the limits that gateways set by default.
const PER_SOURCE: u32 = 200;
/// Nobody holds connections for longer than this, whatever becomes of who started us.
const TIME_MAX: Duration = Duration::from_secs(600);

pub(crate) fn run(target: &Target) -> io::Result<()> {
    let connector = Connector::new(target)?;
    let request = message::request(target, true);
    let mut buffer = Vec::new();
    let mut held = Vec::new();
    for i in 0..target.connections {
        let mut stream = connector.connect(socket(target.address, i / PER_SOURCE)?)?;
        let answer = stream.exchange(&request, &mut buffer)?;
        if answer.status != 200 {
            return Err(io::Error::other(format!("connection {i} was answered with {}", answer.status)));
        }
        held.push(stream);
    }
    println!("holding");
    thread::sleep(TIME_MAX);
    Ok(())
}

/// Connects from one of the addresses of the loopback network: 127.0.0.1, 127.0.0.2 and so on.
fn socket(server: SocketAddr, source: u32) -> io::Result<std::net::TcpStream> {
    let family = if server.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = net::socket(family, SocketType::STREAM, None)?;
    if let IpAddr::V4(address) = server.ip()
        && address.is_loopback()
    {
        let source = Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() + source);
        net::bind(&socket, &SocketAddr::from((source, 0)))?;
    }
    net::connect(&socket, &server)?;
    Ok(socket.into())
}
