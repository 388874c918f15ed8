//! What a server of an upstream with `proxy_protocol` is told first on a connection.

use std::net::SocketAddr;

use crate::{
    codec::{ProxyVersion, Told, write_proxy_header},
    config::ProxyProtocol,
};

/// As much as a header of ours takes.
const HEADER_BYTES_MAX: usize = 107;

/// The PROXY header for a connection on behalf of who is at the other end of (`peer`, `local`), or of nobody.
pub fn introduction(version: ProxyProtocol, ends: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    let version = match version {
        ProxyProtocol::V1 => ProxyVersion::V1,
        ProxyProtocol::V2 => ProxyVersion::V2,
    };
    let told = ends.map_or(Told::Nothing, |(source, destination)| Told::Ends { source, destination });
    let mut header = Vec::with_capacity(HEADER_BYTES_MAX);
    write_proxy_header(&mut header, version, &told);
    header
}
