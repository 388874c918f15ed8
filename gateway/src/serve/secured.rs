//! A client's connection under TLS: the handshake with the certificate of the name that it asks for, and what the rest
//! has to know of it.

use std::{io, rc::Rc, sync::Arc};

use arc_swap::ArcSwap;

use super::{LINGER_BYTES_MAX, LINGER_NS, introduce::Ends, offence, worker::Worker};
use crate::{
    net::{self, Buffers, Deadline, Phase, Stream, monotonic_ns, unix_s},
    respond::OffenceKind,
    telemetry::{HandshakeFailure, RefusedHandshake},
    tls::{self, ClientCertificate},
};

/// What a handshake has settled.
pub(super) struct Secured {
    /// What we have shown.
    certificate: Arc<tls::Certificate>,
    /// The name that the client asked for.
    sni: Option<Box<str>>,
    /// What the client has shown, verified.
    client: Option<Box<ClientCertificate>>,
}

/// A handshake that came to nothing.
pub(super) struct Unsecured {
    error: io::Error,
    /// The name that the client asked for.
    sni: Option<Box<str>>,
    /// What the client has shown, where that was refused.
    client: Option<Box<ClientCertificate>>,
}

impl Secured {
    /// Makes the handshake with the listener's certificates of this moment. The caller arms the deadline.
    pub(super) async fn handshake(
        stream: &mut Stream,
        certificates: &ArcSwap<tls::Server>,
        buffers: &Buffers,
    ) -> Result<Self, Unsecured> {
        let (mut sni, mut refused) = (None, None);
        let choose = |name: Option<&str>| {
            sni = name.map(Box::from);
            let certificate = Arc::clone(certificates.load().choose(name)?);
            Some((certificate.config(), certificate))
        };
        match net::handshake(stream, choose, || refused = tls::take_refused(), buffers).await {
            Ok(certificate) => {
                let client = stream.peer_certificate().map(|shown| Box::new(ClientCertificate::of(&shown)));
                Ok(Self { certificate, sni, client })
            }
            Err(error) => Err(Unsecured { error, sni, client: refused }),
        }
    }

    /// Whether a request for `host` may come on this connection (RFC 9110 §15.5.20).
    pub(super) fn may_serve(&self, host: &str) -> bool {
        self.certificate.may_serve(self.sni.as_deref(), host)
    }

    /// The verified certificate of the client.
    pub(super) fn client_certificate(&self) -> Option<&ClientCertificate> {
        self.client.as_deref()
    }
}

/// Counts a handshake that failed, and reports who is to blame for it. Who was refused for what they are is told to the
/// audit log as well. Whoever should hear why gets time for it: a close with unread bytes would reset the connection
/// under the alert.
pub(super) async fn failed(
    (worker, listener): (&Rc<Worker>, &str),
    unsecured: &Unsecured,
    ends: &Ends,
    (stream, deadline): (&mut Stream, &Deadline),
) {
    let (failure, kind) = blame(&unsecured.error);
    worker.cells.handshake_failed(failure);
    if let Some(kind) = kind {
        let request_id = worker.next_request_id();
        if failure == HandshakeFailure::ClientCertificate {
            let client = unsecured.client.as_deref();
            worker.refusals.borrow_mut().write_handshake(&RefusedHandshake {
                unix_s: unix_s(),
                refusal: failure.label(),
                why: &unsecured.error,
                source: ends.peer,
                certificate: client.map(|client| &client.sha256),
                certificate_name: client.and_then(|client| client.names.first()).map(|(_, name)| &**name),
                listener,
                server_name: unsecured.sni.as_deref(),
                request_id: request_id.as_str(),
            });
        }
        worker.report(offence(kind, ends.peer, ends.is_told, request_id));
    }
    if matches!(failure, HandshakeFailure::UnrecognizedName | HandshakeFailure::ClientCertificate) {
        deadline.arm(Phase::Linger, monotonic_ns().saturating_add(LINGER_NS));
        drain(stream, &worker.tools.buffers).await;
    }
}

/// Ends our direction and reads what still comes, within bounds.
async fn drain(stream: &mut Stream, buffers: &Buffers) {
    if stream.write.finish().await.is_err() {
        return;
    }
    let (mut buffer, mut drained_bytes) = (buffers.take(), 0);
    while drained_bytes < LINGER_BYTES_MAX {
        buffer.clear();
        let received;
        (received, buffer) = stream.read.read(buffer, buffers).await;
        match received {
            Ok(0) | Err(_) => break,
            Ok(count) => drained_bytes += count,
        }
    }
    buffers.give(buffer);
}

/// What went wrong, and what it counts as. An old client, or one that does not trust our certificate, has done nothing.
fn blame(error: &io::Error) -> (HandshakeFailure, Option<OffenceKind>) {
    use HandshakeFailure::{Alert, ClientCertificate, Incompatible, Left, Malformed, UnrecognizedName};
    if error.kind() == io::ErrorKind::NotFound {
        return (UnrecognizedName, Some(OffenceKind::NotFound));
    }
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        None => (Left, None),
        Some(rustls::Error::AlertReceived(_)) => (Alert, None),
        Some(rustls::Error::PeerIncompatible(_)) => (Incompatible, None),
        Some(
            rustls::Error::NoCertificatesPresented
            | rustls::Error::InvalidCertificate(_)
            | rustls::Error::InvalidCertRevocationList(_),
        ) => (ClientCertificate, Some(OffenceKind::Unauthorized)),
        Some(_) => (Malformed, Some(OffenceKind::Malformed)),
    }
}

#[cfg(test)]
mod tests {
    use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};

    use super::*;

    #[track_caller]
    fn check(error: Error, expected: Option<OffenceKind>) {
        let error = io::Error::new(io::ErrorKind::InvalidData, error);
        assert_eq!(blame(&error).1, expected, "{error}");
    }

    #[test]
    fn only_who_means_it_offends() {
        check(Error::InvalidMessage(InvalidMessage::InvalidContentType), Some(OffenceKind::Malformed));
        check(Error::NoCertificatesPresented, Some(OffenceKind::Unauthorized));
        check(Error::InvalidCertificate(CertificateError::Expired), Some(OffenceKind::Unauthorized));
        check(Error::AlertReceived(AlertDescription::UnknownCA), None);
        check(Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered), None);
        assert_eq!(blame(&io::ErrorKind::NotFound.into()).1, Some(OffenceKind::NotFound));
        assert_eq!(blame(&io::ErrorKind::UnexpectedEof.into()).1, None);
    }
}
