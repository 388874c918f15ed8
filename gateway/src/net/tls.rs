//! TLS over a stream: rustls drives the records, the stream's halves move the bytes. One send per answer: what the
//! session has to say of itself (tickets, key updates) rides along with the next plaintext.

use std::{
    io::{self, Read, Write},
    sync::Arc,
};

use rustls::{
    ClientConfig, ClientConnection, Connection, ProtocolVersion, ServerConfig,
    pki_types::{CertificateDer, ServerName},
    server::{Accepted, AcceptedAlert, Acceptor},
};

use super::{Buffer, Buffers, Stream};

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

    /// What the peer has proved to be; a server asks for it where its settings say so.
    pub(super) fn peer_certificate(&self) -> Option<CertificateDer<'static>> {
        self.tls.peer_certificates().and_then(<[_]>::first).cloned()
    }

    pub(super) fn has_alpn(&self, protocol: &[u8]) -> bool {
        self.tls.alpn_protocol() == Some(protocol)
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

/// A fatal alert in clear: `unrecognized_name` (RFC 8446 §6, RFC 6066 §3).
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// Makes the handshake as a server and puts the stream under TLS. `choose` is asked once, with the name that the client
/// asks for, for the settings of this connection; its second value comes back. `refused` is called when the session
/// refuses what the client says, before anything is awaited: what the settings have seen on this thread was this client's.
/// The caller arms the deadline.
///
/// Errors: `NotFound` where `choose` knows no such name, `InvalidData` for bytes that are not TLS or a refused
/// handshake (it holds a [`rustls::Error`]; in each case the alert has been sent), `UnexpectedEof` when the peer
/// leaves, else what the kernel says.
pub async fn handshake<T>(
    stream: &mut Stream,
    choose: impl FnOnce(Option<&str>) -> Option<(Arc<ServerConfig>, T)>,
    refused: impl FnMut(),
    buffers: &Buffers,
) -> io::Result<T> {
    let (accepted, received) = client_hello(stream, buffers).await?;
    let Some((config, chosen)) = choose(accepted.client_hello().server_name()) else {
        buffers.give(received);
        stream.write.send_raw(&mut UNRECOGNIZED_NAME.to_vec()).await?;
        return Err(io::ErrorKind::NotFound.into());
    };
    match accepted.into_connection(config) {
        Ok(tls) => negotiate(stream, (Session::new(tls.into()), refused), received, buffers).await?,
        Err((error, alert)) => {
            buffers.give(received);
            return Err(tell(stream, error, alert).await);
        }
    }
    Ok(chosen)
}

/// Makes the handshake as a client that wants to speak to `name`; the rest is as in [`handshake`].
pub async fn handshake_as_client(
    stream: &mut Stream,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    buffers: &Buffers,
) -> io::Result<()> {
    let tls = ClientConnection::new(config, name).map_err(io::Error::other)?;
    negotiate(stream, (Session::new(tls.into()), || ()), Buffer::placeholder(), buffers).await
}

/// Receives the client's first message, and maybe more behind it.
async fn client_hello(stream: &mut Stream, buffers: &Buffers) -> io::Result<(Accepted, Buffer)> {
    let mut acceptor = Acceptor::default();
    loop {
        let (received, mut buffer) = stream.read.read(buffers.take(), buffers).await;
        if !received.as_ref().is_ok_and(|count| *count > 0) {
            buffers.give(buffer);
            return Err(received.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into()));
        }
        while !buffer.data().is_empty() {
            let mut rest = buffer.data();
            acceptor.read_tls(&mut rest)?;
            let taken = buffer.data().len() - rest.len();
            if taken == 0 {
                return Err(io::ErrorKind::InvalidData.into());
            }
            buffer.consume(taken);
            match acceptor.accept() {
                Ok(Some(accepted)) => return Ok((accepted, buffer)),
                Ok(None) => {}
                Err((error, alert)) => {
                    buffers.give(buffer);
                    return Err(tell(stream, error, alert).await);
                }
            }
        }
        buffers.give(buffer);
    }
}

/// Sends what the client has to know of `error`.
async fn tell(stream: &mut Stream, error: rustls::Error, mut alert: AcceptedAlert) -> io::Error {
    let mut ciphertext = Vec::new();
    // Writing to a vector does not fail; whether the client still hears it changes nothing.
    let _ = alert.write_all(&mut ciphertext);
    let _ = stream.write.send_raw(&mut ciphertext).await;
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Brings the handshake to its end, beginning with what was `received` already.
async fn negotiate(
    stream: &mut Stream,
    (mut session, mut refused): (Session, impl FnMut()),
    mut received: Buffer,
    buffers: &Buffers,
) -> io::Result<()> {
    let mut ciphertext = Vec::with_capacity(4096);
    // A client speaks first, and a server has heard a client already.
    session.drain(&mut ciphertext)?;
    stream.write.send_raw(&mut ciphertext).await?;
    while session.tls.is_handshaking() {
        let mut outcome = Ok(received.data().len());
        if received.data().is_empty() {
            buffers.give(received);
            (outcome, received) = stream.read.read(buffers.take(), buffers).await;
        }
        let fed = match outcome {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => session.feed(received.data()).inspect_err(|_| refused()),
            Err(error) => Err(error),
        };
        if let Ok(count) = fed {
            received.consume(count);
        }
        // The session may have an alert to tell also when it failed.
        let over = !session.tls.is_handshaking() && session.may_keep_its_last_words();
        if fed.is_err() || !over {
            session.drain(&mut ciphertext)?;
            stream.write.send_raw(&mut ciphertext).await?;
        }
        if let Err(error) = fed {
            buffers.give(received);
            return Err(error);
        }
    }
    stream.read.keep_ciphertext(received, buffers);
    stream.secure(session);
    Ok(())
}
