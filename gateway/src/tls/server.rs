//! What a listener shows its clients.

use std::sync::Arc;

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs::{Ticketer, default_provider},
    version::{TLS12, TLS13},
};

use super::{TlsError, parse, unusable};
use crate::config::Tls;

/// Settings for one listener, shared by its workers: the ticket key too, so that a session resumes on any of them.
pub fn server_config(tls: &Tls) -> Result<Arc<ServerConfig>, TlsError> {
    let [certificate] = tls.certificates.as_slice() else { return Err(TlsError::SeveralCertificates) };
    let versions: &[_] = if tls.tls12 { &[&TLS13, &TLS12] } else { &[&TLS13] };
    let (chain, key) = parse(certificate)?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(versions)
        .map_err(TlsError::Settings)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(unusable(certificate))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.ticketer = Ticketer::new().map_err(TlsError::Ticketer)?;
    Ok(Arc::new(config))
}
