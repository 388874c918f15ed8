//! `[auth.*]`, compiled: how credentials of each kind are checked.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::{endpoint::Endpoint, types::Secret};

/// `[auth.NAME]`
#[derive(Debug, Clone, PartialEq)]
pub struct Auth {
    /// Its name.
    pub name: Arc<str>,
    /// The credential goes upstream with the request.
    pub forward_credential: bool,
    /// What it checks.
    pub kind: AuthKind,
}

/// `auth.NAME.kind`
#[derive(Debug, Clone, PartialEq)]
pub enum AuthKind {
    /// `api_key`
    ApiKey(ApiKey),
    /// `jwt`
    Jwt(Box<Jwt>),
    /// `basic`
    Basic(Basic),
    /// `mtls`: what the consumer is called in a client's certificate.
    Mtls(CertificateName),
    /// `introspection`
    Introspection(Box<Introspection>),
    /// `oidc`
    Oidc(Box<Oidc>),
}

/// Longest name of a consumer, in bytes.
pub const CONSUMER_BYTES_MAX: usize = 256;

/// Whether a consumer may be called so.
pub fn is_consumer(name: &str) -> bool {
    !name.is_empty() && name.len() <= CONSUMER_BYTES_MAX && !name.contains(char::is_control)
}

/// What somebody is called in a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateName {
    /// The subject's first alternative name that is a host's.
    SanDns,
    /// Or a URI, such as a SPIFFE ID.
    SanUri,
    /// Or an address of mail.
    SanEmail,
    /// The subject's common name.
    Cn,
}

/// `kind = "basic"`: user → hash of the password, as a PHC string of argon2id; in order of the users.
#[derive(Debug, Clone, PartialEq)]
pub struct Basic {
    /// What `auth.NAME.file` holds.
    pub users: Arc<[(Arc<str>, Secret)]>,
}

/// `kind = "api_key"`
#[derive(Debug, Clone, PartialEq)]
pub struct ApiKey {
    /// Where a request carries it.
    pub carrier: Carrier,
    /// The key store: which keys there are may change at any time.
    pub store: PathBuf,
}

/// Which part of a request carries a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Carrier {
    /// A header, in lower case.
    Header(Arc<str>),
    /// A parameter of the query.
    Query(Arc<str>),
}

/// `kind = "jwt"`
#[derive(Debug, Clone, PartialEq)]
pub struct Jwt {
    /// `iss` must be this, when given.
    pub issuer: Option<Arc<str>>,
    /// Accepted algorithms by their JOSE names: RS256 … PS512, ES256, ES384, `EdDSA`, HS256 ….
    pub algorithms: Vec<Arc<str>>,
    /// Clock skew that is forgiven.
    pub leeway: Duration,
    /// What its claims mean.
    pub claims: ClaimRules,
    /// The keys.
    pub keys: JwtKeys,
}

/// What is read from the claims of a token that is good.
#[derive(Debug, Clone, PartialEq)]
pub struct ClaimRules {
    /// `aud` must hold one of these, when any are given.
    pub audiences: Vec<Arc<str>>,
    /// Claim path that names the consumer.
    pub consumer: Arc<str>,
    /// Claim path that lists roles, when given.
    pub roles: Option<Arc<str>>,
    /// Claim path that lists scopes, when given.
    pub scopes: Option<Arc<str>>,
    /// Header → claim path: set on what goes upstream; removed from what clients send.
    pub forward: Vec<(Arc<str>, Arc<str>)>,
}

/// Where a JWT's key comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum JwtKeys {
    /// `jwks_file`: the JSON text.
    Jwks(Arc<str>),
    /// `key_file`: a PEM public key, or the octets of an HMAC secret.
    Key(Secret),
    /// They are fetched, and may change at any time.
    Fetched(Box<KeySource>),
}

/// Where keys are fetched.
#[derive(Debug, Clone, PartialEq)]
pub enum KeySource {
    /// `issuer`: what it says of itself tells where they are.
    Issuer {
        /// As configured: what it has to call itself.
        name: Arc<str>,
        /// The same, as something to ask.
        at: Endpoint,
    },
    /// `jwks_url`
    Jwks(Endpoint),
}

/// `kind = "introspection"`
#[derive(Debug, Clone, PartialEq)]
pub struct Introspection {
    /// Where tokens are asked about.
    pub endpoint: Endpoint,
    /// Who asks.
    pub client_id: Arc<str>,
    /// What it is known by.
    pub client_secret: Secret,
    /// For how long an answer counts, at the most.
    pub cache: Duration,
    /// An answer that takes longer is none.
    pub timeout: Duration,
    /// What is read from an answer.
    pub claims: ClaimRules,
}

/// `kind = "oidc"`
#[derive(Debug, Clone, PartialEq)]
pub struct Oidc {
    /// What the issuer knows us by.
    pub client_id: Arc<str>,
    /// And by this, unless we are a public client.
    pub client_secret: Option<Secret>,
    /// The path to which the issuer sends browsers back.
    pub callback: Arc<str>,
    /// The path that ends a session: for browsers, and for the issuer.
    pub logout: Arc<str>,
    /// The path to which browsers come back after that.
    pub after_logout: Arc<str>,
    /// What sessions are sealed with: the first seals, all open.
    pub cookie_keys: Box<[Secret]>,
    /// Its token endpoint gives no answer that takes longer.
    pub timeout: Duration,
    /// What the issuer is asked for, between spaces.
    pub request_scopes: Arc<str>,
    /// No session is older.
    pub session: Duration,
    /// What an ID token has to be, and what it says.
    pub id_token: Jwt,
}

/// A page of the gateway itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnPage {
    /// `auth.NAME.callback`
    Callback,
    /// `auth.NAME.logout`
    Logout,
}

impl OwnPage {
    /// What metrics and logs call it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Callback => "callback",
            Self::Logout => "logout",
        }
    }
}
