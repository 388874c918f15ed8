//! TLS over a stream: rustls drives the records, the stream's halves move the bytes. One send per answer: what the
//! session has to say of itself (tickets, key updates) rides along with the next plaintext.

use std::{
    io::{self, Read, Write},
    sync::Arc,
};

use rustls::{
    ClientConfig, ClientConnection, Connection, ProtocolVersion, ServerConfig, ServerConnection,
    pki_types::ServerName,
};

use super::{Buffers, Stream};

/// A TLS session in either role; plaintext on one side, ciphertext on the other, no socket.
pub(super) struct Session {
    tls: Connection,
    /// Plaintext was decrypted that nobody has read yet.
    plaintext_waits: bool,
    /// The peer has ended its direction.
    ended: bool,
}

impl Session {
    fn new(tls: Connection) -> Self {
        Self { tls, plaintext_waits: false, ended: false }
    }

    /// What the session still has to say when the handshake is over rides along with our next plaintext: a server's
    /// tickets with the first answer, a client's Finished with the first request. A server of TLS 1.2 is waited for.
    fn may_keep_its_last_words(&self) -> bool {
        match &self.tls {
            Connection::Client(_) => true,
            Connection::Server(tls) => tls.protocol_version() == Some(ProtocolVersion::TLSv1_3),
        }
    }

    pub(super) fn has_plaintext(&self) -> bool {
        self.plaintext_waits
    }

    /// Decrypted bytes into `room`; `None`: more ciphertext is needed. `Some(0)`: the peer closed in order.
    pub(super) fn read_plaintext(&mut self, room: &mut [u8]) -> io::Result<Option<usize>> {
        match self.tls.reader().read(room) {
            Ok(count) => {
                self.plaintext_waits = count == room.len();
                Ok(Some(count))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.plaintext_waits = false;
                if self.ended { Ok(Some(0)) } else { Ok(None) }
            }
            Err(error) => Err(error),
        }
    }

    /// Takes ciphertext up to the point where plaintext can be read, and returns how much that was.
    /// None at all means that the peer ended its direction.
    pub(super) fn feed(&mut self, ciphertext: &[u8]) -> io::Result<usize> {
        let mut rest = ciphertext;
        if rest.is_empty() {
            self.ended = true;
            self.tls.read_tls(&mut rest)?;
        }
        while !rest.is_empty() && !self.plaintext_waits {
            // Behind a close_notify nothing is taken any more, nor does it mean anything (RFC 8446 §6.1).
            if self.tls.read_tls(&mut rest)? == 0 {
                return Ok(ciphertext.len());
            }
            let state = self
                .tls
                .process_new_packets()
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            self.plaintext_waits = state.plaintext_bytes_to_read() > 0;
        }
        Ok(ciphertext.len() - rest.len())
    }

    /// Encrypts a part of `plaintext` into `ciphertext` and returns how much it was.
    pub(super) fn write_plaintext(
        &mut self,
        plaintext: &[u8],
        ciphertext: &mut Vec<u8>,
    ) -> io::Result<usize> {
        let count = self.tls.writer().write(plaintext)?;
        self.drain(ciphertext)?;
        Ok(count)
    }

    /// Says `close_notify`.
    pub(super) fn close(&mut self, ciphertext: &mut Vec<u8>) -> io::Result<()> {
        self.tls.send_close_notify();
        self.drain(ciphertext)
    }

    fn drain(&mut self, ciphertext: &mut Vec<u8>) -> io::Result<()> {
        while self.tls.wants_write() {
            self.tls.write_tls(ciphertext)?;
        }
        Ok(())
    }
}

/// Makes the handshake as a server and puts the stream under TLS. The caller arms the deadline.
///
/// Errors: `InvalidData` for bytes that are not TLS or a refused handshake (the alert has been sent), `UnexpectedEof`
/// when the peer leaves, else what the kernel says.
pub async fn handshake(stream: &mut Stream, config: Arc<ServerConfig>, buffers: &Buffers) -> io::Result<()> {
    let tls = ServerConnection::new(config).map_err(io::Error::other)?;
    negotiate(stream, Session::new(tls.into()), buffers).await
}

/// Makes the handshake as a client that wants to speak to `name`; the rest is as in [`handshake`].
pub async fn handshake_as_client(
    stream: &mut Stream,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    buffers: &Buffers,
) -> io::Result<()> {
    let tls = ClientConnection::new(config, name).map_err(io::Error::other)?;
    negotiate(stream, Session::new(tls.into()), buffers).await
}

async fn negotiate(stream: &mut Stream, mut session: Session, buffers: &Buffers) -> io::Result<()> {
    let mut ciphertext = Vec::with_capacity(4096);
    // A client speaks first.
    session.drain(&mut ciphertext)?;
    stream.write.send_raw(&mut ciphertext).await?;
    while session.tls.is_handshaking() {
        let (received, mut buffer) = stream.read.read(buffers.take(), buffers).await;
        let fed = match received {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => session.feed(buffer.data()),
            Err(error) => Err(error),
        };
        if let Ok(count) = fed {
            buffer.consume(count);
        }
        stream.read.keep_ciphertext(buffer, buffers);
        // The session may have an alert to tell also when it failed.
        let over = !session.tls.is_handshaking() && session.may_keep_its_last_words();
        if fed.is_err() || !over {
            session.drain(&mut ciphertext)?;
            stream.write.send_raw(&mut ciphertext).await?;
        }
        fed?;
    }
    stream.secure(session);
    Ok(())
}
