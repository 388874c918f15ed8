//! Who may come in: client certificates and who vouches for them.

use std::{cell::Cell, sync::Arc};

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, UnixTime},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use super::{ClientCertificate, TlsError};
use crate::config::ClientAuth;

thread_local! {
    /// The certificate that was refused last on this thread, until it is asked for.
    static REFUSED: Cell<Option<CertificateDer<'static>>> = const { Cell::new(None) };
}

/// The certificate for whose sake the handshake that has just failed was refused; none: it showed none, or it was not
/// that. To be asked on the same thread before any other handshake goes on: rustls tells why, but not whom.
pub fn take_refused() -> Option<Box<ClientCertificate>> {
    REFUSED.take().map(|shown| Box::new(ClientCertificate::of(&shown)))
}

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
    Ok(Arc::new(Witness(verifier.build().map_err(TlsError::Clients)?)))
}

/// Keeps what was refused: see [`take_refused`].
#[derive(Debug)]
struct Witness(Arc<dyn ClientCertVerifier>);

impl Witness {
    fn saw<T>(shown: &CertificateDer<'_>, verdict: Result<T, Error>) -> Result<T, Error> {
        verdict.inspect_err(|_| REFUSED.set(Some(shown.clone().into_owned())))
    }
}

impl ClientCertVerifier for Witness {
    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        shown: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Self::saw(shown, self.0.verify_client_cert(shown, intermediates, now))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::saw(shown, self.0.verify_tls12_signature(message, shown, signature))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::saw(shown, self.0.verify_tls13_signature(message, shown, signature))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.0.requires_raw_public_keys()
    }
}
