//! TLS settings for both sides: what a listener shows its clients, and what an upstream's servers must show us.
//!
//! Comes in: PEM that the configuration has read. Goes out: rustls settings, made when a configuration is compiled
//! and shared by the workers. It never opens a socket: `net` speaks with these settings.

mod client;
mod clients;
mod key_log;
mod names;
mod server;
mod x509;

use std::path::PathBuf;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use thiserror::Error;

use crate::config::CertificatePem;
pub use client::{ALPN_HTTP1, ALPN_HTTP2, Client, UpstreamTlsError, upstreams};
pub use clients::take_refused;
pub use key_log::key_log;
pub use server::{Certificate, Making, Server};
pub use x509::ClientCertificate;

/// Why there are no TLS settings.
#[derive(Debug, Error)]
pub enum TlsError {
    /// Two certificates hold one name.
    #[error("{second}: the name {name} is in {first} already")]
    SharedName {
        /// The name.
        name: String,
        /// The chain that came first.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// A certificate that nobody could ask for.
    #[error("{file}: none of its names is a host's; only the first certificate may be without")]
    Nameless {
        /// The chain's file.
        file: PathBuf,
    },
    /// Client certificates cannot be checked.
    #[error("client certificates: {0}")]
    Clients(rustls::client::VerifierBuilderError),
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
    /// An authority's certificate cannot be used.
    #[error("an authority's certificate is of no use: {0}")]
    Authority(rustls::Error),
    /// No randomness for the ticket key.
    #[error("session ticket key: {0}")]
    Ticketer(rustls::Error),
    /// rustls does not take what we ask of it.
    #[error("TLS settings: {0}")]
    Settings(rustls::Error),
}

/// A chain and its key, decoded.
fn parse(
    certificate: &CertificatePem,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let pem = |error| TlsError::Pem { file: certificate.chain_file.display().to_string(), error };
    let chain =
        CertificateDer::pem_slice_iter(&certificate.chain).collect::<Result<Vec<_>, _>>().map_err(pem)?;
    let key = PrivateKeyDer::from_pem_slice(&certificate.key.0).map_err(pem)?;
    Ok((chain, key))
}

/// An [`TlsError::Unusable`] that names the certificate's file.
fn unusable(certificate: &CertificatePem) -> impl Fn(rustls::Error) -> TlsError {
    move |error| TlsError::Unusable { file: certificate.chain_file.display().to_string(), error }
}
