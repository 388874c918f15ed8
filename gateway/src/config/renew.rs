//! The files of a listener's TLS once more: certificates are renewed while the gateway runs.

use std::path::Path;

use super::{
    files::{self, Holds},
    types::{CertificatePem, ClientAuth, Secret, Tls},
};

impl Tls {
    /// Every file that it was read from.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let certificates = self.certificates.iter().flat_map(|c| [&c.chain_file, &c.key_file]);
        let clients = self.clients.iter();
        let clients = clients.flat_map(|c| std::iter::once(&c.authorities_file).chain(&c.revoked_file));
        certificates.chain(clients).map(std::path::PathBuf::as_path)
    }

    /// The same settings with what the files hold now. The error names the file that is of no use.
    pub fn read_again(&self) -> Result<Self, String> {
        let certificates =
            self.certificates.iter().map(CertificatePem::read_again).collect::<Result<_, _>>()?;
        let clients = self.clients.as_ref().map(ClientAuth::read_again).transpose()?;
        Ok(Self { protocols: self.protocols, tls12: self.tls12, certificates, clients })
    }
}

impl CertificatePem {
    fn read_again(&self) -> Result<Self, String> {
        let chain = read(&self.chain_file, Holds::Public, files::holds_certificates)?;
        let key = read(&self.key_file, Holds::Secret, files::holds_private_key)?;
        Ok(Self { chain: chain.to_vec(), key: Secret(key), ..self.clone() })
    }
}

impl ClientAuth {
    fn read_again(&self) -> Result<Self, String> {
        let authorities = read(&self.authorities_file, Holds::Public, files::holds_certificates)?;
        let revoked = match &self.revoked_file {
            Some(file) => files::revocation_lists(&read(file, Holds::Public, files::holds_revocation_lists)?),
            None => None,
        };
        Ok(Self {
            authorities: files::certificates(&authorities).unwrap_or_default(),
            revoked: revoked.unwrap_or_default(),
            ..self.clone()
        })
    }
}

fn read(file: &Path, holds: Holds, is_pem: fn(&[u8]) -> bool) -> Result<zeroize::Zeroizing<Vec<u8>>, String> {
    let told = |problem: &str| format!("{} {problem}", file.display());
    let pem = files::read(file, holds).map_err(|problem| told(&problem))?;
    if is_pem(&pem) { Ok(pem) } else { Err(told("does not hold what it held, in PEM")) }
}
