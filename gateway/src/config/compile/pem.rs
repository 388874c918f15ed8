//! Certificates and keys that a section names by file.

use crate::config::{
    files::{self, Holds},
    raw::Field,
    report::{Report, Scope},
    types::{CertificatePem, Secret},
};

/// What a file of PEM is for.
pub(super) struct Kind {
    holds: Holds,
    is_it: fn(&[u8]) -> bool,
    what: &'static str,
}

/// Authorities.
pub(super) const AUTHORITIES: Kind =
    Kind { holds: Holds::Public, is_it: files::holds_certificates, what: "certificates" };
/// Revocation lists.
pub(super) const REVOKED: Kind =
    Kind { holds: Holds::Public, is_it: files::holds_revocation_lists, what: "revocation lists" };
const CHAIN: Kind =
    Kind { holds: Holds::Public, is_it: files::holds_certificates, what: "a certificate chain" };
const KEY: Kind = Kind { holds: Holds::Secret, is_it: files::holds_private_key, what: "a private key" };

/// A certificate chain and its key, each under the key that names its file; a key that everybody may read is refused.
pub(super) fn certificate(
    report: &mut Report,
    at: &Scope,
    (chain_key, chain_file): (&str, Field<String>),
    (key_key, key_file): (&str, Field<String>),
) -> Option<CertificatePem> {
    if chain_file.is_none() {
        report.missing(at, chain_key, "\"api.crt\"");
    }
    if key_file.is_none() {
        report.missing(at, key_key, "\"api.key\"");
    }
    let path =
        |file: &Field<String>| file.as_ref().map(|file| report.resolve_path(at.source, file.get_ref()));
    let (chain_path, key_path) = (path(&chain_file), path(&key_file));
    let chain = read(report, at, chain_file, &CHAIN);
    let key = read(report, at, key_file, &KEY);
    Some(CertificatePem {
        chain: chain?.to_vec(),
        key: Secret(key?),
        chain_file: chain_path?,
        key_file: key_path?,
    })
}

/// The PEM in a file, or a mistake.
pub(super) fn read(
    report: &mut Report,
    at: &Scope,
    file: Field<String>,
    kind: &Kind,
) -> Option<zeroize::Zeroizing<Vec<u8>>> {
    let file = file?;
    let path = report.resolve_path(at.source, file.get_ref());
    let read = files::read(&path, kind.holds).and_then(|pem| {
        if (kind.is_it)(&pem) { Ok(pem) } else { Err(format!("does not hold {} in PEM", kind.what)) }
    });
    match read {
        Ok(pem) => Some(pem),
        Err(problem) => {
            report.error(at.at(&file), format!("{} {problem}", path.display()));
            None
        }
    }
}
