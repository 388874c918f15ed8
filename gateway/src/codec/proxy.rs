//! The PROXY protocol, versions 1 and 2: who a connection is from, told by whoever forwards it (the specification is
//! HAProxy's `doc/proxy-protocol.txt`).
//!
//! Comes in: the first bytes of a connection from a peer that must send a header, or what a server is to be told.
//! Goes out: nothing yet, what was told and how long the header is, or a refusal; and a header's bytes. Whether the
//! peer may be believed is not known here.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use thiserror::Error;

/// A header of version 1, with its CRLF (§2.1).
const V1_BYTES_MAX: usize = 107;
/// A header of version 2, with all that follows the addresses: what fits into the smallest first segment (§2.2).
pub const PROXY_HEADER_BYTES_MAX: usize = 536;
const V1_SIGNATURE: &[u8] = b"PROXY ";
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const V2_FIXED_BYTES: usize = 16;
const V2_LOCAL: u8 = 0x20;
const V2_PROXY: u8 = 0x21;
const V2_TCP4: u8 = 0x11;
const V2_TCP6: u8 = 0x21;

/// Which header is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// What a header tells of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// It is the forwarder's own, or of a kind that has no such addresses: the socket's hold.
    Nothing,
    /// Who opened it, and to where.
    Ends {
        /// Who.
        source: SocketAddr,
        /// To where.
        destination: SocketAddr,
    },
}

/// What is wrong with a header. Nothing that follows it can be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ProxyError {
    /// The connection begins with something else.
    #[error("there is no PROXY header")]
    Missing,
    /// It is longer than it may be.
    #[error("the PROXY header is too long")]
    TooLong,
    /// A version or command that does not exist.
    #[error("the PROXY header's version or command is unknown")]
    Unknown,
    /// Its parts are not what they should be.
    #[error("the PROXY header is malformed")]
    Malformed,
}

/// Reads the header that `bytes` start with: what it tells, and its length. `Ok(None)`: read more, and call again with
/// all of it.
pub fn proxy_header(bytes: &[u8]) -> Result<Option<(Told, usize)>, ProxyError> {
    let begins = |signature: &[u8]| bytes.iter().zip(signature).all(|(byte, expected)| byte == expected);
    if begins(V1_SIGNATURE) {
        return if bytes.len() < V1_SIGNATURE.len() { Ok(None) } else { v1(bytes) };
    }
    if begins(V2_SIGNATURE) { v2(bytes) } else { Err(ProxyError::Missing) }
}

fn v1(bytes: &[u8]) -> Result<Option<(Told, usize)>, ProxyError> {
    let within = bytes.get(..V1_BYTES_MAX).unwrap_or(bytes);
    let Some(end) = within.windows(2).position(|pair| pair == b"\r\n") else {
        let too_long = bytes.len() >= V1_BYTES_MAX;
        return if too_long { Err(ProxyError::TooLong) } else { Ok(None) };
    };
    let line = within.get(V1_SIGNATURE.len()..end).unwrap_or_default();
    let text = str::from_utf8(line).map_err(|_| ProxyError::Malformed)?;
    let parts: Vec<&str> = text.split(' ').collect();
    let told = match parts.as_slice() {
        // Whatever follows is to be ignored (§2.1).
        ["UNKNOWN", ..] => Told::Nothing,
        ["TCP4", rest @ ..] => v1_ends::<Ipv4Addr>(rest)?,
        ["TCP6", rest @ ..] => v1_ends::<Ipv6Addr>(rest)?,
        _ => return Err(ProxyError::Malformed),
    };
    Ok(Some((told, end + 2)))
}

fn v1_ends<A: FromStr + Into<IpAddr>>(parts: &[&str]) -> Result<Told, ProxyError> {
    let [source, destination, source_port, destination_port] = parts else {
        return Err(ProxyError::Malformed);
    };
    let end = |address: &str, port: &str| {
        let address: A = address.parse().map_err(|_| ProxyError::Malformed)?;
        // Digits alone, and none in front that says nothing: `parse` would take a sign.
        let plain = port.bytes().all(|b| b.is_ascii_digit()) && (port == "0" || !port.starts_with('0'));
        let port = port.parse().ok().filter(|_| plain).ok_or(ProxyError::Malformed)?;
        Ok(SocketAddr::new(address.into(), port))
    };
    Ok(Told::Ends { source: end(source, source_port)?, destination: end(destination, destination_port)? })
}

fn v2(bytes: &[u8]) -> Result<Option<(Told, usize)>, ProxyError> {
    let Some(fixed) = bytes.get(..V2_FIXED_BYTES) else {
        // What is wrong already will not be mended by what follows.
        return match bytes.get(V2_SIGNATURE.len()) {
            Some(&(V2_LOCAL | V2_PROXY)) | None => Ok(None),
            Some(_) => Err(ProxyError::Unknown),
        };
    };
    let &[.., command, family, high, low] = fixed else { return Err(ProxyError::Malformed) };
    if !matches!(command, V2_LOCAL | V2_PROXY) {
        return Err(ProxyError::Unknown);
    }
    let header_bytes = V2_FIXED_BYTES + usize::from(u16::from_be_bytes([high, low]));
    if header_bytes > PROXY_HEADER_BYTES_MAX {
        return Err(ProxyError::TooLong);
    }
    // What follows the addresses (TLVs) is left out.
    let Some(block) = bytes.get(V2_FIXED_BYTES..header_bytes) else { return Ok(None) };
    let told = match (command, family) {
        (V2_PROXY, V2_TCP4) => {
            v2_ends::<4>(block, |octets| Ipv4Addr::from(octets).into()).ok_or(ProxyError::Malformed)?
        }
        (V2_PROXY, V2_TCP6) => {
            v2_ends::<16>(block, |octets| Ipv6Addr::from(octets).into()).ok_or(ProxyError::Malformed)?
        }
        // LOCAL, or no TCP over IP: taken, and without meaning (§2.2).
        _ => Told::Nothing,
    };
    Ok(Some((told, header_bytes)))
}

fn v2_ends<const N: usize>(block: &[u8], address: fn([u8; N]) -> IpAddr) -> Option<Told> {
    let (source, rest) = block.split_first_chunk::<N>()?;
    let (destination, rest) = rest.split_first_chunk::<N>()?;
    let (source_port, rest) = rest.split_first_chunk::<2>()?;
    let (destination_port, _) = rest.split_first_chunk::<2>()?;
    let end = |octets: &[u8; N], port: &[u8; 2]| SocketAddr::new(address(*octets), u16::from_be_bytes(*port));
    Some(Told::Ends { source: end(source, source_port), destination: end(destination, destination_port) })
}

/// Writes the header that tells a server who is asking.
pub fn write_proxy_header(out: &mut Vec<u8>, version: ProxyVersion, told: &Told) {
    match version {
        ProxyVersion::V1 => write_v1(out, told),
        ProxyVersion::V2 => write_v2(out, told),
    }
}

fn write_v1(out: &mut Vec<u8>, told: &Told) {
    let line = match told {
        Told::Nothing => "PROXY UNKNOWN\r\n".to_owned(),
        Told::Ends { source, destination } => {
            let (source, destination) = of_one_family(*source, *destination);
            let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
            let (from, to) = (source.ip(), destination.ip());
            format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port())
        }
    };
    out.extend_from_slice(line.as_bytes());
}

fn write_v2(out: &mut Vec<u8>, told: &Told) {
    out.extend_from_slice(V2_SIGNATURE);
    let Told::Ends { source, destination } = told else {
        out.extend_from_slice(&[V2_LOCAL, 0, 0, 0]);
        return;
    };
    let (source, destination) = of_one_family(*source, *destination);
    let (family, block_bytes) = if source.is_ipv4() { (V2_TCP4, 12) } else { (V2_TCP6, 36) };
    out.extend_from_slice(&[V2_PROXY, family, 0, block_bytes]);
    for end in [source, destination] {
        match end.ip() {
            IpAddr::V4(address) => out.extend_from_slice(&address.octets()),
            IpAddr::V6(address) => out.extend_from_slice(&address.octets()),
        }
    }
    out.extend_from_slice(&source.port().to_be_bytes());
    out.extend_from_slice(&destination.port().to_be_bytes());
}

/// Both as they are, in the short form where both have one, else in the long form of IPv6.
fn of_one_family(source: SocketAddr, destination: SocketAddr) -> (SocketAddr, SocketAddr) {
    let short = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
    let long = |end: SocketAddr| match end.ip() {
        IpAddr::V4(address) => SocketAddr::new(address.to_ipv6_mapped().into(), end.port()),
        IpAddr::V6(_) => end,
    };
    let (source, destination) = (short(source), short(destination));
    if source.is_ipv4() == destination.is_ipv4() {
        return (source, destination);
    }
    (long(source), long(destination))
}

#[cfg(test)]
mod tests;
