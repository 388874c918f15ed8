//! Who a good credential says is asking.

use std::sync::Arc;

use super::{authz::RoleId, binding::Binding, claims::Claims, key_table::ApiKey};

/// What a credential that was found good says of its holder, whatever its kind.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Identity {
    /// Name of the consumer.
    pub consumer: Arc<str>,
    /// Index into the configuration's auths.
    pub auth: u16,
    /// What the credential is called where it may be told: a key's id, a token's `jti`.
    pub credential: Option<Arc<str>>,
    /// Its own roles, those that exist.
    pub roles: Box<[RoleId]>,
    /// OAuth scopes.
    pub scopes: Box<[Box<str>]>,
    /// All that was said of its holder.
    pub(crate) claims: Claims,
    /// Headers to be set upstream.
    pub set: Box<[(Arc<str>, String)]>,
    /// Fields that give whoever shows this credential the one that replaces it.
    pub renewed: Option<Arc<str>>,
    /// The API key, whose uses are counted.
    pub key: Option<Arc<ApiKey>>,
    /// What whoever shows the credential has to prove each time.
    pub(crate) binding: Option<Binding>,
    /// Seconds since the epoch; later it has to be looked at anew.
    pub good_until_s: u64,
}
