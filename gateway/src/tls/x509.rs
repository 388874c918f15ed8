//! What is read out of a certificate's DER (RFC 5280): when its time ends, and whom it names.
//!
//! Whether it is to be believed is for rustls to say, and has been said before anything here is asked.

use aws_lc_rs::digest::{SHA256, digest};
use x509_cert::{
    Certificate,
    der::Decode as _,
    ext::pkix::{SubjectAltName, name::GeneralName},
};

use crate::config::CertificateName;

/// The end of a certificate's validity in seconds since the epoch; none where the DER is not a certificate's.
pub(super) fn not_after_s(certificate: &[u8]) -> Option<u64> {
    Certificate::from_der(certificate).ok().as_ref().map(end_s)
}

fn end_s(certificate: &Certificate) -> u64 {
    certificate.tbs_certificate().validity().not_after.to_unix_duration().as_secs()
}

/// A certificate that a client has shown, as far as it says who that is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// SHA-256 of its DER: no other certificate has it.
    pub sha256: [u8; 32],
    /// Whom it names, in the order in which it does.
    pub names: Box<[(CertificateName, Box<str>)]>,
    /// When its time ends, in seconds since the epoch.
    pub not_after_s: u64,
}

impl ClientCertificate {
    /// Of a certificate that was verified, or refused. What cannot be read names nobody, and its time has ended.
    pub fn of(der: &[u8]) -> Self {
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(digest(&SHA256, der).as_ref());
        let read = Certificate::from_der(der).ok().and_then(|certificate| {
            let names = names(&certificate)?;
            Some((names.into(), end_s(&certificate)))
        });
        let (names, not_after_s) = read.unwrap_or_default();
        Self { sha256, names, not_after_s }
    }

    /// The first name of this kind.
    pub fn name(&self, wanted: CertificateName) -> Option<&str> {
        self.names.iter().find(|(kind, _)| *kind == wanted).map(|(_, name)| &**name)
    }
}

/// The subject's alternative names and its common name; none: it has a field that cannot be read.
fn names(certificate: &Certificate) -> Option<Vec<(CertificateName, Box<str>)>> {
    let certificate = certificate.tbs_certificate();
    let mut names = Vec::new();
    if let Some((_, alternative)) = certificate.get_extension::<SubjectAltName>().ok()? {
        names.extend(alternative.0.iter().filter_map(|name| match name {
            GeneralName::DnsName(name) => Some((CertificateName::SanDns, name.as_str().into())),
            GeneralName::UniformResourceIdentifier(uri) => {
                Some((CertificateName::SanUri, uri.as_str().into()))
            }
            GeneralName::Rfc822Name(address) => Some((CertificateName::SanEmail, address.as_str().into())),
            _ => None,
        }));
    }
    if let Some(name) = certificate.subject().common_name().ok()? {
        names.push((CertificateName::Cn, name.value().into()));
    }
    Some(names)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn certificate(change: impl FnOnce(&mut CertificateParams)) -> rcgen::Certificate {
        let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        change(&mut params);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap()
    }

    #[test]
    fn the_end_of_a_certificate_is_found_whatever_its_year() {
        for (year, seconds) in [(2031, 1_924_992_000), (2075, 3_313_526_400)] {
            let certificate = certificate(|params| params.not_after = rcgen::date_time_ymd(year, 1, 1));
            assert_eq!(not_after_s(certificate.der()), Some(seconds));
            assert_eq!(ClientCertificate::of(certificate.der()).not_after_s, seconds);
        }
    }

    #[test]
    fn what_is_cut_short_is_no_certificate_and_names_nobody() {
        let certificate = certificate(|_| {});
        for end in 0..certificate.der().len() {
            assert_eq!(not_after_s(&certificate.der()[..end]), None, "cut at {end}");
            let read = ClientCertificate::of(&certificate.der()[..end]);
            assert_eq!((read.names.len(), read.not_after_s), (0, 0), "cut at {end}");
        }
    }

    #[test]
    fn a_client_is_called_by_the_first_name_of_a_kind() {
        let email = |text: &str| SanType::Rfc822Name(text.try_into().unwrap());
        let uri = |text: &str| SanType::URI(text.try_into().unwrap());
        let made = certificate(|params| {
            params.distinguished_name.push(DnType::CommonName, "Ada Lovelace");
            let more = [email("ada@a.example"), uri("spiffe://a.example/ada"), email("al@a.example")];
            params.subject_alt_names.extend(more);
        });
        let read = ClientCertificate::of(made.der());
        assert_eq!(read.name(CertificateName::SanDns), Some("a.example"));
        assert_eq!(read.name(CertificateName::SanEmail), Some("ada@a.example"));
        assert_eq!(read.name(CertificateName::SanUri), Some("spiffe://a.example/ada"));
        assert_eq!(read.name(CertificateName::Cn), Some("Ada Lovelace"));
        let bare = certificate(|params| {
            params.subject_alt_names.clear();
            params.distinguished_name = rcgen::DistinguishedName::new();
        });
        assert_eq!(*ClientCertificate::of(bare.der()).names, []);
        assert_ne!(ClientCertificate::of(bare.der()).sha256, read.sha256);
    }
}
