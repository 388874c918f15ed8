//! The record of one request.

use std::net::IpAddr;

use crate::config::ServerAddress;

/// What is known of a request when it has ended. Texts from the client are as it sent them.
#[derive(Debug)]
pub struct Exchange<'e> {
    /// Wall clock at its end, seconds since the epoch.
    pub unix_s: u64,
    /// From the first byte of its head to the last byte of its answer.
    pub duration_ns: u64,
    /// From the first byte sent to a server to its response head; 0 without one.
    pub upstream_ns: u64,
    /// Whom it counts as.
    pub source: IpAddr,
    /// Its method; empty where the head could not be read.
    pub method: &'e str,
    /// Its canonical path, without the query, which may hold secrets.
    pub path: &'e str,
    /// What the client spoke, such as `HTTP/1.1`.
    pub protocol: &'static str,
    /// The answer's status; 499 where the client left before there was one.
    pub status: u16,
    /// Why it was refused or failed; empty where it was not.
    pub refusal: &'static str,
    /// What the client is not told of that, where there is more to it.
    pub why: Option<&'e str>,
    /// The route's name, where one matched.
    pub route: Option<&'e str>,
    /// Who asked, where that is known.
    pub consumer: Option<&'e str>,
    /// The auth that knew them.
    pub auth: Option<&'e str>,
    /// What their credential is called where it may be told.
    pub credential: Option<&'e str>,
    /// The last server that was tried.
    pub server: Option<&'e ServerAddress>,
    /// Its id.
    pub request_id: &'e str,
    /// The trace that it belongs to: 32 hexadecimal digits.
    pub trace_id: &'e str,
    /// Body bytes from the client.
    pub bytes_in: u64,
    /// Bytes to the client.
    pub bytes_out: u64,
    /// Whether the client spoke TLS.
    pub tls: bool,
    /// How hard the NIC was pressed when it ended.
    pub pressure: &'static str,
}
