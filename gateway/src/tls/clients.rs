//! Who may come in: client certificates and who vouches for them.

use std::sync::Arc;

use rustls::{
    RootCertStore,
    crypto::aws_lc_rs::default_provider,
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};

use super::TlsError;
use crate::config::ClientAuth;

/// The verifier of a listener that asks for certificates.
///
/// With a revocation list, the client's own certificate has to be on none of them and its authority has to have one.
/// A list that is out of date still says who is revoked.
pub(super) fn verifier(clients: &ClientAuth) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut authorities = RootCertStore::empty();
    for authority in &clients.authorities {
        authorities.add(authority.clone()).map_err(TlsError::Authority)?;
    }
    let mut verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), Arc::new(default_provider()));
    if !clients.revoked.is_empty() {
        verifier = verifier.with_crls(clients.revoked.iter().cloned()).only_check_end_entity_revocation();
    }
    if !clients.required {
        verifier = verifier.allow_unauthenticated();
    }
    verifier.build().map_err(TlsError::Clients)
}
