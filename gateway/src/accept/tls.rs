//! PEM files → rustls settings.

use std::sync::Arc;

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs::{Ticketer, default_provider},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    version::{TLS12, TLS13},
};
use thiserror::Error;

use crate::config::{CertificatePem, Tls};

/// Why a listener has no TLS.
#[derive(Debug, Error)]
pub enum TlsError {
    /// More than one certificate waits for selection by SNI.
    #[error("several certificates on one listener: not supported yet; give one")]
    SeveralCertificates,
    /// The chain or key is not PEM.
    #[error("{file}: not a PEM certificate chain and key: {error}")]
    Pem {
        /// The chain's file.
        file: String,
        /// What the reader says.
        error: rustls::pki_types::pem::Error,
    },
    /// The key does not fit the certificate, or is of a kind that is refused.
    #[error("{file}: {error}")]
    Unusable {
        /// The chain's file.
        file: String,
        /// What rustls says.
        error: rustls::Error,
    },
    /// No randomness for the ticket key.
    #[error("session ticket key: {0}")]
    Ticketer(rustls::Error),
}

/// Settings for one listener, shared by its workers: the ticket key too, so that a session resumes on any of them.
pub fn server_config(tls: &Tls) -> Result<Arc<ServerConfig>, TlsError> {
    let [certificate] = tls.certificates.as_slice() else { return Err(TlsError::SeveralCertificates) };
    let versions: &[_] = if tls.tls12 { &[&TLS13, &TLS12] } else { &[&TLS13] };
    let unusable = |error| TlsError::Unusable { file: certificate.chain_file.display().to_string(), error };
    let (chain, key) = parse(certificate)?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(versions)
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(unusable)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.ticketer = Ticketer::new().map_err(TlsError::Ticketer)?;
    Ok(Arc::new(config))
}

fn parse(
    certificate: &CertificatePem,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let pem = |error| TlsError::Pem { file: certificate.chain_file.display().to_string(), error };
    let chain =
        CertificateDer::pem_slice_iter(&certificate.chain).collect::<Result<Vec<_>, _>>().map_err(pem)?;
    let key = PrivateKeyDer::from_pem_slice(&certificate.key.0).map_err(pem)?;
    Ok((chain, key))
}
