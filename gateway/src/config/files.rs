//! Files that the configuration names: secrets, certificates, includes.
//!
//! A file that holds a secret and that everybody may read is refused: the secret is no longer one.

use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem::PemObject as _};
use zeroize::Zeroizing;

/// Certificates, key sets and key stores are smaller than this.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Permission bits of "others".
const MODE_OTHERS: u32 = 0o007;

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    /// A secret: only the owner and the group may have access.
    Secret,
    /// Nothing secret.
    Public,
}

/// Reads a file whole. The error is the end of a sentence that began with the file's name.
pub(super) fn read(path: &Path, holds: Holds) -> Result<Zeroizing<Vec<u8>>, String> {
    let file = File::open(path).map_err(|e| format!("cannot be read: {e}"))?;
    let metadata = file.metadata().map_err(|e| format!("cannot be read: {e}"))?;
    let mode = metadata.permissions().mode();
    if holds == Holds::Secret && mode & MODE_OTHERS != 0 {
        return Err(format!(
            "holds a secret that everybody may read (mode {:04o}): chmod o= it",
            mode & 0o7777
        ));
    }
    // Reserved in one piece: a buffer that grows leaves copies of a secret behind.
    let capacity = usize::try_from(metadata.len().min(FILE_BYTES_MAX)).unwrap_or(0) + 1;
    let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|e| format!("cannot be read: {e}"))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("is larger than {} MiB", FILE_BYTES_MAX >> 20));
    }
    if bytes.is_empty() {
        return Err("is empty".to_owned());
    }
    Ok(bytes)
}

/// The certificates in PEM, all of them, at least one.
pub(super) fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    certificates.ok().filter(|certificates| !certificates.is_empty())
}

/// Whether PEM holds at least one certificate and nothing broken.
pub(super) fn holds_certificates(pem: &[u8]) -> bool {
    let mut certificates = CertificateDer::pem_slice_iter(pem).peekable();
    certificates.peek().is_some() && certificates.all(|certificate| certificate.is_ok())
}

/// The revocation lists in PEM, all of them, at least one.
pub(super) fn revocation_lists(pem: &[u8]) -> Option<Vec<CertificateRevocationListDer<'static>>> {
    let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(pem).collect();
    lists.ok().filter(|lists| !lists.is_empty())
}

/// Whether PEM holds at least one revocation list and nothing broken.
pub(super) fn holds_revocation_lists(pem: &[u8]) -> bool {
    revocation_lists(pem).is_some()
}

/// Whether PEM holds a private key.
pub(super) fn holds_private_key(pem: &[u8]) -> bool {
    PrivateKeyDer::from_pem_slice(pem).is_ok()
}

/// The files that a path stands for, in lexical order: itself, or with `*` and `?` in its last part all that match.
/// No match is no mistake: the directory may be filled later.
pub(super) fn matching(path: &Path) -> Result<Vec<PathBuf>, String> {
    let pattern = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let is_pattern = |text: &str| text.contains(['*', '?']);
    let dir = path.parent().unwrap_or(Path::new(""));
    if is_pattern(&dir.to_string_lossy()) {
        return Err("`*` and `?` work in the last part of a path only".to_owned());
    }
    if !is_pattern(pattern) {
        return Ok(vec![path.to_path_buf()]);
    }
    let here = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    let mut paths = Vec::new();
    for entry in
        fs::read_dir(here).map_err(|e| format!("cannot read the directory {}: {e}", here.display()))?
    {
        let name =
            entry.map_err(|e| format!("cannot read the directory {}: {e}", here.display()))?.file_name();
        // As in a shell, a hidden file is only meant by a pattern that begins with a dot.
        if let Some(name) = name.to_str()
            && name.starts_with('.') == pattern.starts_with('.')
            && wildcard(pattern.as_bytes(), name.as_bytes())
        {
            paths.push(dir.join(name));
        }
    }
    paths.sort();
    Ok(paths)
}

/// Whether a name matches a pattern; linear in the length of both, since a later `*` never needs an earlier one again.
fn wildcard(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while let Some(byte) = name.get(n) {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p + 1, n));
                p += 1;
            }
            Some(want) if *want == b'?' || want == byte => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((after_star, taken)) = retry else { return false };
                retry = Some((after_star, taken + 1));
                (p, n) = (after_star, taken + 1);
            }
        }
    }
    pattern.iter().skip(p).all(|b| *b == b'*')
}

#[cfg(test)]
mod tests {
    use super::wildcard;

    #[track_caller]
    fn check(pattern: &str, name: &str, expected: bool) {
        assert_eq!(wildcard(pattern.as_bytes(), name.as_bytes()), expected);
    }

    #[test]
    fn wildcards() {
        check("*.toml", "a.toml", true);
        check("*.toml", ".toml", true);
        check("*.toml", "a.toml~", false);
        check("a*b*c", "aXbXbc", true);
        check("a*b*c", "aXbXb", false);
        check("a?c", "abc", true);
        check("a?c", "ac", false);
        check("*", "", true);
        check("", "a", false);
    }
}
