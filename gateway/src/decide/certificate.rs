//! Who a client is by the certificate that it has shown (`kind = "mtls"`).
//!
//! Comes in: a certificate that the listener's authorities have vouched for when the connection was made. Goes out: its
//! identity. A connection may outlive its certificate; what is asked on it then comes from nobody.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use super::{Answer, AuthFailure, Identity};
use crate::{
    config::{CertificateName, is_consumer},
    tls::ClientCertificate,
};

/// Whose `certificate` is at `unix_s`; the identity's `auth` is left open.
pub(super) fn identity(
    name: CertificateName,
    certificate: Option<&ClientCertificate>,
    unix_s: u64,
) -> Answer {
    let certificate = certificate.ok_or(AuthFailure::Absent)?;
    let consumer = certificate.name(name).filter(|consumer| is_consumer(consumer));
    let consumer = consumer.ok_or(AuthFailure::Certificate)?;
    // RFC 5280 §4.1.2.5: the last second is within.
    let good_until_s = certificate.not_after_s.saturating_add(1);
    if unix_s >= good_until_s {
        return Err(AuthFailure::Certificate);
    }
    let fingerprint = URL_SAFE_NO_PAD.encode(certificate.sha256);
    Ok(Identity {
        consumer: consumer.into(),
        // As tokens call it that are bound to it (RFC 8705 §3.1).
        credential: Some(format!("x5t#S256:{fingerprint}").into()),
        good_until_s,
        ..Identity::default()
    })
}
