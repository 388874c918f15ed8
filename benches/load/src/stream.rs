//! A blocking connection, in the clear or over TLS.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use crate::{
    Target,
    message::{self, Answer},
};

/// For each read and write.
const IO_TIME_MAX: Duration = Duration::from_secs(10);

/// A connection.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// What every connection of a run shares.
#[derive(Clone)]
pub(crate) struct Connector {
    address: SocketAddr,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

impl Connector {
    pub(crate) fn new(target: &Target) -> io::Result<Self> {
        let tls = match target.tls {
            true => Some((
                Arc::new(config()),
                ServerName::try_from(target.host.clone()).map_err(io::Error::other)?,
            )),
            false => None,
        };
        Ok(Self { address: target.address, tls })
    }

    /// Connects; with TLS the handshake is done by the first write.
    pub(crate) fn connect(&self, socket: TcpStream) -> io::Result<Stream> {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(IO_TIME_MAX))?;
        socket.set_write_timeout(Some(IO_TIME_MAX))?;
        Ok(match &self.tls {
            None => Stream::Plain(socket),
            Some((config, name)) => {
                let session =
                    ClientConnection::new(Arc::clone(config), name.clone()).map_err(io::Error::other)?;
                Stream::Tls(Box::new(StreamOwned::new(session, socket)))
            }
        })
    }

    pub(crate) fn open(&self) -> io::Result<Stream> {
        self.connect(TcpStream::connect(self.address)?)
    }
}

impl Stream {
    /// One request and its answer. `buffer` is only lent, to be used again.
    pub(crate) fn exchange(&mut self, request: &[u8], buffer: &mut Vec<u8>) -> io::Result<Answer> {
        match self {
            Self::Plain(stream) => exchange(stream, request, buffer),
            Self::Tls(stream) => exchange(stream.as_mut(), request, buffer),
        }
    }
}

fn exchange(stream: &mut (impl Read + Write), request: &[u8], buffer: &mut Vec<u8>) -> io::Result<Answer> {
    stream.write_all(request)?;
    stream.flush()?;
    buffer.clear();
    let mut piece = [0; 16 * 1024];
    loop {
        let read = stream.read(&mut piece)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buffer.extend_from_slice(&piece[..read]);
        if let Some(answer) = message::answer(buffer)?.filter(|answer| buffer.len() >= answer.bytes) {
            return Ok(answer);
        }
    }
}

/// TLS 1.2 and 1.3 with no memory of earlier sessions, and no check of certificates: the client's own cost is kept
/// small, since it shares a CPU with the upstream.
fn config() -> ClientConfig {
    let provider = Arc::new(ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("ring's defaults fit rustls's")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

/// The bench's own certificate is nobody's business.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
