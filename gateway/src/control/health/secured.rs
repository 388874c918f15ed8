//! One question over TLS, on the control thread's runtime: what the workers do by `net`, in small.

use std::io::{self, Read as _, Write as _};

use rustls::{ClientConnection, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::tls;

/// Ciphertext that is received at once.
const RECEIVE_BYTES: usize = 4096;

/// Sends `request` to the server of this name and fills `answer` with the first bytes that it says.
///
/// Errors: `InvalidData` for a server that does not speak TLS or is not whom it should be, else what ended the
/// connection. The caller sets the deadline.
pub(super) async fn ask(
    stream: &mut TcpStream,
    (tls, name): (&tls::Client, ServerName<'static>),
    request: &[u8],
    answer: &mut [u8],
) -> io::Result<()> {
    let mut session = ClientConnection::new(tls.config(), name).map_err(io::Error::other)?;
    // Kept by the session until the handshake is over.
    session.writer().write_all(request)?;
    let mut room = answer;
    let mut received = [0; RECEIVE_BYTES];
    loop {
        let mut ciphertext = Vec::new();
        while session.wants_write() {
            session.write_tls(&mut ciphertext)?;
        }
        stream.write_all(&ciphertext).await?;
        match session.reader().read(room) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => room = room.get_mut(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        if room.is_empty() {
            return Ok(());
        }
        let count = stream.read(&mut received).await?;
        let mut rest = received.get(..count).unwrap_or_default();
        if rest.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while !rest.is_empty() {
            session.read_tls(&mut rest)?;
            let processed = session.process_new_packets();
            processed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
    }
}
