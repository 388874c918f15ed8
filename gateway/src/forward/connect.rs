//! A new connection to a server: TCP, then TLS where the upstream has it, both before one deadline.

use std::{io, rc::Rc};

use super::{
    gate::Slot,
    pool::{CheckoutError, Connection},
};
use crate::{
    decide::ServerAddresses,
    net::{self, Buffers, Deadlines, Phase, monotonic_ns},
    tls,
};

/// Connects to one of the server's `addresses` before `at_ns`. An `introduction` goes ahead of everything else.
pub(super) async fn connect(
    addresses: &ServerAddresses,
    turn: usize,
    tls: Option<&tls::Client>,
    (deadlines, buffers): (&Rc<Deadlines>, &Rc<Buffers>),
    introduction: Option<&[u8]>,
    (slot, at_ns): (Slot, u64),
) -> Result<Connection, CheckoutError> {
    let unreachable = |error: io::Error| match error.kind() {
        io::ErrorKind::TimedOut => CheckoutError::Timeout,
        _ if net::is_out_of_descriptors(&error) => CheckoutError::NoDescriptor,
        _ => CheckoutError::Unreachable(error),
    };
    // Before the addresses: where they change meanwhile, the connection is looked for among the new ones.
    let version = addresses.version();
    let connecting = net::connect(&addresses.in_order(turn), deadlines, at_ns).await;
    let (stream, deadline, address) = connecting.map_err(unreachable)?;
    let mut connection = Connection {
        deadline,
        stream,
        address,
        version,
        reused: false,
        opened_ns: monotonic_ns(),
        _slot: slot,
    };
    if let Some(introduction) = introduction {
        // Into an empty socket: it does not wait for the server.
        let (told, _) = connection.stream.write.write_all(introduction.to_vec()).await;
        told.map_err(CheckoutError::Unreachable)?;
    }
    if let Some(tls) = tls {
        connection.deadline.arm(Phase::Connect, at_ns);
        let name =
            tls.name_of(addresses.server()).map_err(|error| CheckoutError::Tls(io::Error::other(error)))?;
        let shaken = net::handshake_as_client(&mut connection.stream, tls.config(), name, buffers).await;
        if connection.deadline.expired().is_some() {
            return Err(CheckoutError::Timeout);
        }
        connection.deadline.disarm();
        shaken.map_err(CheckoutError::Tls)?;
        if tls.speaks_http2() && !connection.stream.has_alpn(tls::ALPN_HTTP2) {
            return Err(CheckoutError::Tls(io::Error::other("the server did not agree to HTTP/2")));
        }
    }
    Ok(connection)
}
