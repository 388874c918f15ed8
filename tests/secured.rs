//! A listener under TLS and a client that speaks it, byte by byte where a test wants that.

use std::{net::TcpStream, sync::Arc};

use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use xtask::lab::scratch::Scratch;

use crate::support::{Edge, TIME_MAX};

/// A client's session.
pub(crate) type TlsClient = rustls::StreamOwned<rustls::ClientConnection, TcpStream>;

/// The name in the certificate.
const NAME: &str = "edge.example";

/// Writes a certificate and its key to `directory`; the listener's keys that name them.
pub(crate) fn tls_keys(directory: &Scratch) -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec![NAME.to_owned()]).unwrap();
    directory.write("edge.crt", params.self_signed(&key).unwrap().pem()).unwrap();
    let key_file = directory.write("edge.key", key.serialize_pem()).unwrap();
    std::fs::set_permissions(&key_file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    "tls = { certificates = [{ chain_file = \"edge.crt\", key_file = \"edge.key\" }] }\n".to_owned()
}

/// A session with the public listener of an edge that was started with [`tls_keys`].
pub(crate) fn tls_connect(edge: &Edge) -> TlsClient {
    let tcp = TcpStream::connect(edge.address).unwrap();
    tcp.set_read_timeout(Some(TIME_MAX)).unwrap();
    tls_connect_over(edge, tcp)
}

/// The same over a connection that was made already.
pub(crate) fn tls_connect_over(edge: &Edge, tcp: TcpStream) -> TlsClient {
    tls_connect_as(edge, tcp, &[])
}

/// The same, offering these protocols by ALPN.
pub(crate) fn tls_connect_as(edge: &Edge, tcp: TcpStream, protocols: &[&str]) -> TlsClient {
    let mut roots = rustls::RootCertStore::empty();
    let certificate = edge.directory.path().join("edge.crt");
    roots.add(CertificateDer::from_pem_file(certificate).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let name = ServerName::try_from(NAME).unwrap();
    rustls::StreamOwned::new(rustls::ClientConnection::new(Arc::new(config), name).unwrap(), tcp)
}
