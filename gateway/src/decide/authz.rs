//! Who may do it: roles hold permissions, a route asks for one.
//!
//! Comes in: the roles of a caller and the method. Goes out: allowed, or why not. Which role grants what is worked
//! out once, when the policy is compiled; a request only looks it up and never allocates.
//!
//! A permission is segments between colons. In what a role holds, `*` stands for one whole segment, a `*` at the end
//! for everything below, and a lone `*` for everything: `orders:*` grants `orders:read` and `orders:read:own`, not
//! `orders`; `*:read` grants `orders:read`. A `*` inside a segment is only a character.

use std::sync::Arc;

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
        let grant = match self {
            Need::Nothing => return Ok(()),
            Need::All(grant) => grant,
            Need::ByMethod(by_method) => {
                let listed =
                    |wanted: &str| by_method.iter().find(|(m, _)| **m == *wanted).map(|(_, grant)| grant);
                let as_get = || if method == "HEAD" { listed("GET") } else { None };
                listed(method).or_else(as_get).ok_or(Forbidden::MethodWithoutPermission)?
            }
        };
        if roles.any(|role| grant.granted.get(usize::from(role)).copied().unwrap_or(false)) {
            Ok(())
        } else {
            Err(Forbidden::MissingPermission(grant.permission.clone()))
        }
    }
}

impl Grant {
    fn compile(wanted: &Arc<str>, roles: &[config::Role]) -> Grant {
        let grants = |role: &config::Role| role.permissions.iter().any(|held| covers(held, wanted));
        Grant { permission: wanted.clone(), granted: roles.iter().map(grants).collect() }
    }
}

/// Whether a held permission covers a wanted one.
fn covers(held: &str, wanted: &str) -> bool {
    let mut held = held.split(':').peekable();
    let mut wanted = wanted.split(':');
    loop {
        match (held.next(), wanted.next()) {
            (None, None) => return true,
            (Some("*"), Some(_)) if held.peek().is_none() => return true,
            (Some("*"), Some(_)) => {}
            (Some(held), Some(wanted)) if held == wanted => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(held: &str, wanted: &str, expected: bool) {
        assert_eq!(covers(held, wanted), expected, "{held} / {wanted}");
    }

    #[test]
    fn permissions_match_by_segments() {
        check("orders:read", "orders:read", true);
        check("orders:read", "orders:write", false);
        check("orders:read", "orders:readonly", false);
        check("orders:read", "orders", false);
        check("orders", "orders:read", false);
        check("orders:*", "orders:read", true);
        check("orders:*", "orders:read:own", true);
        check("orders:*", "orders", false);
        check("orders:*", "ordersx:read", false);
        check("orders:*:own", "orders:read:own", true);
        check("orders:*:own", "orders:read:all", false);
        check("orders:*:own", "orders:own", false);
        check("*:read", "orders:read", true);
        check("*:read", "orders:write", false);
        check("*", "orders", true);
        check("*", "orders:read:own", true);
        check("ord*", "orders", false);
        check("orders:read", "*", false);
    }

    fn need(permission: &config::Permission) -> Need {
        let role = |name: &str, permissions: &[&str]| config::Role {
            name: name.into(),
            permissions: permissions.iter().map(|p| Arc::from(*p)).collect(),
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

    proptest! {
        #[test]
        fn a_permission_covers_itself_and_a_star_covers_all(p in "[a-z]{1,3}(:[a-z]{0,3}){0,4}") {
            prop_assert!(covers(&p, &p));
            prop_assert!(covers("*", &p));
            let (deeper, below) = (format!("{p}:x"), format!("{p}:*"));
            prop_assert!(!covers(&p, &deeper));
            prop_assert!(covers(&below, &deeper));
            prop_assert!(!covers(&below, &p));
        }
    }
}
