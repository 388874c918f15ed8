//! The key that signs checkpoints, and the one that others check them with: Ed25519 (RFC 8032).
//!
//! Comes in: a file, made when it is first needed, that only its owner may read. Goes out: signatures, and the public
//! key in PEM, to be kept elsewhere: whoever can change the log on this host may be able to read this key as well.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use aws_lc_rs::{
    digest,
    signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer, pem::PemObject as _};
use zeroize::Zeroizing;

use super::chain::hex;

/// What goes before the 32 bytes of a key in its `SubjectPublicKeyInfo` (RFC 8410 §4).
const PUBLIC_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// Permission bits of everybody but the owner.
const MODE_REST: u32 = 0o077;

/// Signs.
pub struct Signer(Ed25519KeyPair);

/// Checks what a [`Signer`] has signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(pub(super) [u8; 32]);

impl Signer {
    /// The key in a file; a new one where there is none yet.
    pub fn open(path: &Path) -> io::Result<Self> {
        match Self::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            read => return read,
        }
        let new = Self::generate()?;
        match new.write(path) {
            // Another process was faster: its key is the one.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Self::read(path),
            written => written.map(|()| new),
        }
    }

    /// A new key that is nowhere else.
    pub(super) fn generate() -> io::Result<Self> {
        Ed25519KeyPair::generate().map(Self).map_err(|_| io::Error::other("no key can be made"))
    }

    fn read(path: &Path) -> io::Result<Self> {
        let refused = |why| io::Error::new(io::ErrorKind::InvalidData, why);
        let mode = fs::metadata(path)?.permissions().mode();
        if mode & MODE_REST != 0 {
            return Err(refused("others than its owner may read this key: chmod 600 it"));
        }
        let pem = Zeroizing::new(fs::read(path)?);
        let key = PrivatePkcs8KeyDer::from_pem_slice(&pem)
            .map_err(|_| refused("it holds no private key in PEM"))?;
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(key.secret_pkcs8_der());
        pair.map(Self).map_err(|_| refused("it holds no Ed25519 key"))
    }

    /// Whole or not at all, and never over another one.
    fn write(&self, path: &Path) -> io::Result<()> {
        let der = self.0.to_pkcs8v1().map_err(|_| io::Error::other("the key cannot be written"))?;
        let text = Zeroizing::new(pem("PRIVATE KEY", der.as_ref()));
        let beside = path.with_extension(format!("new-{}", std::process::id()));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
        let written = written.and_then(|()| fs::hard_link(&beside, path));
        fs::remove_file(&beside)?;
        written
    }

    /// What others need to check it.
    pub fn public(&self) -> PublicKey {
        // An Ed25519 key has so many bytes.
        PublicKey(self.0.public_key().as_ref().try_into().unwrap_or_default())
    }

    pub(super) fn sign(&self, bytes: &[u8]) -> [u8; 64] {
        // And a signature so many.
        self.0.sign(bytes).as_ref().try_into().unwrap_or([0; 64])
    }
}

impl PublicKey {
    /// From PEM; none: it holds no Ed25519 key.
    pub fn from_pem(pem: &[u8]) -> Option<Self> {
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem).ok()?;
        der.strip_prefix(&PUBLIC_PREFIX)?.try_into().map(Self).ok()
    }

    /// As PEM, which OpenSSL reads as well.
    pub fn to_pem(self) -> String {
        pem("PUBLIC KEY", &[&PUBLIC_PREFIX[..], &self.0].concat())
    }

    /// For people to compare: the first bytes of its SHA-256.
    pub fn fingerprint(self) -> String {
        let digest = digest::digest(&digest::SHA256, &self.0);
        hex(digest.as_ref().get(..8).unwrap_or_default())
    }

    pub(super) fn has_signed(self, bytes: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(bytes, signature).is_ok()
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    // An Ed25519 key in base64 is shorter than the 64 characters of a line (RFC 7468 §2).
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}
