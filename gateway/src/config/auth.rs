//! `[auth.*]`, compiled: how credentials of each kind are checked.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::types::Secret;

/// `[auth.NAME]`
#[derive(Debug, Clone, PartialEq)]
pub struct Auth {
    /// Its name.
    pub name: Arc<str>,
    /// What it checks.
    pub kind: AuthKind,
}

/// `auth.NAME.kind`
#[derive(Debug, Clone, PartialEq)]
pub enum AuthKind {
    /// `api_key`
    ApiKey {
        /// Header that carries the key, in lower case.
        header: Arc<str>,
        /// The key store, as read.
        store: Arc<KeyStore>,
    },
    /// `jwt`
    Jwt(Box<Jwt>),
    /// `basic`
    Basic(Basic),
}

/// `kind = "basic"`: user → hash of the password, as a PHC string of argon2id; in order of the users.
#[derive(Debug, Clone, PartialEq)]
pub struct Basic {
    /// What `auth.NAME.file` holds.
    pub users: Arc<[(Arc<str>, Secret)]>,
}

/// The file of `auth.NAME.store`, read: keys by id, and the key that their secrets are hashed with.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyStore {
    /// Where it was read from.
    pub path: PathBuf,
    /// HMAC-SHA-256 key of the hashes below.
    pub hash_key: Secret,
    /// Keys, in order of their ids.
    pub keys: Vec<StoredKey>,
}

/// One API key; its secret is only known as a hash.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredKey {
    /// Public id, part of the key's text.
    pub id: Arc<str>,
    /// Who holds it.
    pub consumer: Arc<str>,
    /// Names of roles that it carries.
    pub roles: Vec<Arc<str>>,
    /// HMAC-SHA-256 of its secret.
    pub hash: [u8; 32],
    /// Seconds since the epoch after which it is refused.
    pub expires_at_s: Option<u64>,
}

/// `kind = "jwt"`
#[derive(Debug, Clone, PartialEq)]
pub struct Jwt {
    /// `iss` must be this, when given.
    pub issuer: Option<Arc<str>>,
    /// `aud` must hold one of these, when any are given.
    pub audiences: Vec<Arc<str>>,
    /// Accepted algorithms by their JOSE names: RS256 … PS512, ES256, ES384, `EdDSA`, HS256 ….
    pub algorithms: Vec<Arc<str>>,
    /// Clock skew that is forgiven.
    pub leeway: Duration,
    /// Claim path that names the consumer.
    pub consumer: Arc<str>,
    /// Claim path that lists roles, when given.
    pub roles: Option<Arc<str>>,
    /// Header → claim path: set on what goes upstream; removed from what clients send.
    pub forward: Vec<(Arc<str>, Arc<str>)>,
    /// The keys.
    pub keys: JwtKeys,
}

/// Where a JWT's key comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum JwtKeys {
    /// `jwks_file`: the JSON text.
    Jwks(Arc<str>),
    /// `key_file`: a PEM public key, or the octets of an HMAC secret.
    Key(Secret),
}
