//! Certificates and keys that a section names by file.

use crate::config::{
    files::{self, Holds},
    raw::Field,
    report::{Report, Scope},
    types::{CertificatePem, Secret},
};

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
    let path = chain_file.as_ref().map(|file| report.resolve_path(at.source, file.get_ref()));
    let is_chain: fn(&[u8]) -> bool = files::holds_certificates;
    let chain = read(report, at, chain_file, (Holds::Public, is_chain, "a certificate chain"));
    let key = read(report, at, key_file, (Holds::Secret, files::holds_private_key, "a private key"));
    Some(CertificatePem { chain: chain?.to_vec(), key: Secret(key?), chain_file: path? })
}

/// A file of PEM that holds `what`, or a mistake.
pub(super) fn read(
    report: &mut Report,
    at: &Scope,
    file: Field<String>,
    (holds, is_pem, what): (Holds, fn(&[u8]) -> bool, &str),
) -> Option<zeroize::Zeroizing<Vec<u8>>> {
    let file = file?;
    let path = report.resolve_path(at.source, file.get_ref());
    let read = files::read(&path, holds)
        .and_then(|pem| if is_pem(&pem) { Ok(pem) } else { Err(format!("does not hold {what} in PEM")) });
    match read {
        Ok(pem) => Some(pem),
        Err(problem) => {
            report.error(at.at(&file), format!("{} {problem}", path.display()));
            None
        }
    }
}
