//! Who may do it: roles hold permissions, a route asks for one, for scopes, and for what else it wants to hold.
//!
//! Comes in: the roles of a caller and the method. Goes out: allowed, or why not. Which role grants what is worked
//! out once, when the policy is compiled; a request only looks it up and never allocates.
//!
//! What a permission is, and which ones it covers, says `config::covers`.

use std::sync::Arc;

use super::condition::Unmet;
use crate::config;

/// Index into the policy's roles.
pub type RoleId = u16;

/// What a route asks for, compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// Being known, or nothing on a public route.
    Nothing,
    /// One permission for all methods.
    All(Grant),
    /// One permission for each method.
    ByMethod(Box<[(Arc<str>, Grant)]>),
}

/// A permission and who has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    permission: Arc<str>,
    /// By [`RoleId`].
    granted: Box<[bool]>,
}

/// Why a known caller may not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    /// None of its roles holds this permission.
    #[error("none of its roles holds the permission {0}")]
    MissingPermission(Arc<str>),
    /// The route lists permissions by method, and not for this one.
    #[error("the route has no permission for this method")]
    MethodWithoutPermission,
    /// Its credential lacks a scope.
    #[error("its credential lacks the scope {scope}")]
    MissingScope {
        /// Which.
        scope: Arc<str>,
        /// Value of `WWW-Authenticate` (RFC 6750 §3.1), where the route takes tokens.
        challenge: Option<Arc<str>>,
    },
    /// The route's condition does not hold.
    #[error(transparent)]
    Unmet(#[from] Unmet),
}

impl Need {
    /// From what a route asks for and all roles.
    pub fn compile(permission: &config::Permission, roles: &[config::Role]) -> Need {
        match permission {
            config::Permission::None => Need::Nothing,
            config::Permission::All(wanted) => Need::All(Grant::compile(wanted, roles)),
            config::Permission::ByMethod(by_method) => Need::ByMethod(
                by_method
                    .iter()
                    .map(|(method, wanted)| (method.clone(), Grant::compile(wanted, roles)))
                    .collect(),
            ),
        }
    }

    /// Whether a caller with these roles may use `method`. `HEAD` asks for what `GET` asks for, unless listed.
    ///
    /// # Errors
    /// It may not.
    pub fn check(&self, method: &str, mut roles: impl Iterator<Item = RoleId>) -> Result<(), Forbidden> {
        let Some(grant) = self.asked(method)? else { return Ok(()) };
        if roles.any(|role| grant.is_granted_by(role)) {
            Ok(())
        } else {
            Err(Forbidden::MissingPermission(grant.permission.clone()))
        }
    }

    /// What `method` asks for; none: nothing.
    pub(super) fn asked(&self, method: &str) -> Result<Option<&Grant>, Forbidden> {
        match self {
            Need::Nothing => Ok(None),
            Need::All(grant) => Ok(Some(grant)),
            Need::ByMethod(by_method) => {
                let listed =
                    |wanted: &str| by_method.iter().find(|(m, _)| **m == *wanted).map(|(_, grant)| grant);
                let as_get = || if method == "HEAD" { listed("GET") } else { None };
                listed(method).or_else(as_get).map(Some).ok_or(Forbidden::MethodWithoutPermission)
            }
        }
    }
}

impl Grant {
    /// What is granted.
    pub(super) fn permission(&self) -> &str {
        &self.permission
    }

    /// Whether this role holds it.
    pub(super) fn is_granted_by(&self, role: RoleId) -> bool {
        self.granted.get(usize::from(role)).copied().unwrap_or(false)
    }

    fn compile(wanted: &Arc<str>, roles: &[config::Role]) -> Grant {
        let grants = |role: &config::Role| role.permissions.iter().any(|held| config::covers(held, wanted));
        Grant { permission: wanted.clone(), granted: roles.iter().map(grants).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need(permission: &config::Permission) -> Need {
        let role = |name: &str, permissions: &[&str]| config::Role {
            name: name.into(),
            permissions: permissions.iter().map(|p| Arc::from(*p)).collect(),
            inherits: Vec::new(),
        };
        let roles = [role("none", &[]), role("reader", &["orders:read"]), role("admin", &["*"])];
        Need::compile(permission, &roles)
    }

    const NONE: RoleId = 0;
    const READER: RoleId = 1;
    const ADMIN: RoleId = 2;

    #[test]
    fn one_permission_for_all_methods() {
        let need = need(&config::Permission::All("orders:read".into()));
        let missing = Err(Forbidden::MissingPermission("orders:read".into()));
        assert_eq!(need.check("GET", [READER].into_iter()), Ok(()));
        assert_eq!(need.check("DELETE", [NONE, ADMIN].into_iter()), Ok(()));
        assert_eq!(need.check("GET", [NONE].into_iter()), missing);
        assert_eq!(need.check("GET", [].into_iter()), missing);
        assert_eq!(need.check("GET", [99].into_iter()), missing, "a role that is gone");
    }

    #[test]
    fn a_permission_by_method_refuses_what_is_not_listed() {
        let by = |list: &[(&str, &str)]| {
            need(&config::Permission::ByMethod(
                list.iter().map(|(m, p)| ((*m).into(), (*p).into())).collect(),
            ))
        };
        let get_only = by(&[("GET", "orders:read")]);
        assert_eq!(get_only.check("GET", [READER].into_iter()), Ok(()));
        assert_eq!(get_only.check("HEAD", [READER].into_iter()), Ok(()));
        assert_eq!(get_only.check("PUT", [ADMIN].into_iter()), Err(Forbidden::MethodWithoutPermission));
        let with_head = by(&[("GET", "orders:read"), ("HEAD", "orders:peek")]);
        assert!(with_head.check("HEAD", [READER].into_iter()).is_err());
        assert_eq!(with_head.check("HEAD", [ADMIN].into_iter()), Ok(()));
    }

    #[test]
    fn no_permission_asked_is_none_needed() {
        assert_eq!(need(&config::Permission::None).check("GET", [].into_iter()), Ok(()));
    }
}
