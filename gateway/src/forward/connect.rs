//! A new connection to a server: TCP, then TLS where the upstream has it, both before one deadline.

use std::{io, net::SocketAddr, rc::Rc};

use super::pool::{CheckoutError, Connection};
use crate::{
    net::{self, Buffers, Deadlines, Phase},
    tls,
};

/// Connects to the server at `address` before `at_ns`.
pub(super) async fn connect(
    address: SocketAddr,
    tls: Option<&tls::Client>,
    (deadlines, buffers): (&Rc<Deadlines>, &Buffers),
    at_ns: u64,
) -> Result<Connection, CheckoutError> {
    let unreachable = |error: io::Error| match error.kind() {
        io::ErrorKind::TimedOut => CheckoutError::Timeout,
        _ => CheckoutError::Unreachable(error),
    };
    let (stream, deadline) = net::connect(address, deadlines, at_ns).await.map_err(unreachable)?;
    let mut connection = Connection { deadline, stream, reused: false };
    if let Some(tls) = tls {
        connection.deadline.arm(Phase::Connect, at_ns);
        let name = tls.name_of(address.ip());
        let shaken = net::handshake_as_client(&mut connection.stream, tls.config(), name, buffers).await;
        if connection.deadline.expired().is_some() {
            return Err(CheckoutError::Timeout);
        }
        connection.deadline.disarm();
        shaken.map_err(CheckoutError::Tls)?;
    }
    Ok(connection)
}
