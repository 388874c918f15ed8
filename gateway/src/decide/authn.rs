//! Who is asking: the credentials of a request against the auths of a route.
//!
//! Comes in: the route's auths and what the request presents. Goes out: the caller, or why nobody is known.
//! Auths are tried in the order of the route; a bad credential of one kind does not stop the next kind from being
//! tried, and the first that is good decides. A field that stands twice is no credential at all: upstream might
//! read the other one. It never says to the outside which part of a credential was wrong.

use std::{borrow::Cow, sync::Arc};

use super::{
    api_key::{ApiKeys, KeyFault},
    authz::RoleId,
    jwt::{TokenFault, Tokens},
};
use crate::config;

/// One `[auth.*]`, compiled.
pub struct Auth {
    name: Arc<str>,
    /// Lower-case name of the header that carries the credential.
    header: Arc<str>,
    kind: Kind,
}

enum Kind {
    ApiKey(Box<ApiKeys>),
    Jwt(Box<Tokens>),
}

/// What stands in one header of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presented<'h> {
    /// No such field.
    Absent,
    /// One field with this value.
    One(&'h [u8]),
    /// Several fields.
    Repeated,
}

impl<'h> Presented<'h> {
    /// From the values of all fields of one name.
    pub fn of(mut values: impl Iterator<Item = &'h [u8]>) -> Presented<'h> {
        match (values.next(), values.next()) {
            (None, _) => Presented::Absent,
            (Some(value), None) => Presented::One(value),
            (Some(_), Some(_)) => Presented::Repeated,
        }
    }
}

/// Somebody who is known.
#[derive(Debug, PartialEq, Eq)]
pub struct Caller<'p> {
    /// Who holds the credential.
    pub consumer: Arc<str>,
    /// Index of the auth that knew them.
    pub auth: u16,
    /// What the credential itself carries.
    pub roles: Cow<'p, [RoleId]>,
    /// Headers to be set upstream.
    pub set: Vec<(Arc<str>, String)>,
}

/// Why nobody is known: the first token that was presented and not good, else the first other credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthFailure {
    /// Nothing that the route takes was presented.
    Absent,
    /// The credential's header stands more than once.
    Repeated,
    /// An API key that is not good.
    Key(KeyFault),
    /// A token that is not good.
    Token(TokenFault),
}

impl Auth {
    /// From the configuration; `role` finds a role by its name.
    ///
    /// # Errors
    /// Its keys can't be used.
    pub fn compile(auth: &config::Auth, role: &dyn Fn(&str) -> Option<RoleId>) -> Result<Auth, &'static str> {
        let (header, kind) = match &auth.kind {
            config::AuthKind::ApiKey { header, store } => {
                (header.to_ascii_lowercase().into(), Kind::ApiKey(Box::new(ApiKeys::compile(store, role)?)))
            }
            config::AuthKind::Jwt(rules) => {
                ("authorization".into(), Kind::Jwt(Box::new(Tokens::compile(rules)?)))
            }
        };
        Ok(Auth { name: auth.name.clone(), header, kind })
    }

    /// Lower-case name of the header that carries its credential.
    pub fn header(&self) -> &Arc<str> {
        &self.header
    }

    /// Its part of `WWW-Authenticate` (RFC 9110 §11.6.1); `invalid_token` as RFC 6750 §3.1 has it, where a token was
    /// presented.
    fn challenge(&self, after: AuthFailure) -> String {
        let realm: String =
            self.name.chars().filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c)).collect();
        match (&self.kind, after) {
            (Kind::ApiKey(_), _) => format!("ApiKey realm=\"{realm}\", header=\"{}\"", self.header),
            (Kind::Jwt(_), AuthFailure::Token(_)) => {
                format!("Bearer realm=\"{realm}\", error=\"invalid_token\"")
            }
            (Kind::Jwt(_), _) => format!("Bearer realm=\"{realm}\""),
        }
    }
}

impl AuthFailure {
    /// A bad token changes the answer (RFC 6750 §3.1), so it is told before a bad key, and that before nothing.
    fn tells_more_than(self, other: AuthFailure) -> bool {
        match self {
            AuthFailure::Absent => false,
            AuthFailure::Repeated | AuthFailure::Key(_) => other == AuthFailure::Absent,
            AuthFailure::Token(_) => !matches!(other, AuthFailure::Token(_)),
        }
    }
}

/// The value of `WWW-Authenticate` that names all these auths.
pub fn challenge<'a>(auths: impl Iterator<Item = &'a Auth>, after: AuthFailure) -> Arc<str> {
    auths.map(|auth| auth.challenge(after)).collect::<Vec<_>>().join(", ").into()
}

/// The caller that one of `auths` (with their indices) knows.
///
/// # Errors
/// None of them does.
pub fn authenticate<'p, 'h>(
    auths: impl Iterator<Item = (u16, &'p Auth)>,
    presented: impl Fn(&str) -> Presented<'h>,
    role: &dyn Fn(&str) -> Option<RoleId>,
    unix_s: u64,
) -> Result<Caller<'p>, AuthFailure> {
    let mut failure = AuthFailure::Absent;
    for (id, auth) in auths {
        let known = match presented(&auth.header) {
            Presented::Absent => Err(AuthFailure::Absent),
            Presented::Repeated => Err(AuthFailure::Repeated),
            Presented::One(value) => auth.check(id, value, role, unix_s),
        };
        match known {
            Ok(caller) => return Ok(caller),
            Err(next) if next.tells_more_than(failure) => failure = next,
            Err(_) => {}
        }
    }
    Err(failure)
}

impl Auth {
    fn check(
        &self,
        id: u16,
        value: &[u8],
        role: &dyn Fn(&str) -> Option<RoleId>,
        unix_s: u64,
    ) -> Result<Caller<'_>, AuthFailure> {
        let (consumer, roles, set) = match &self.kind {
            Kind::ApiKey(keys) => {
                let key = keys.check(value, unix_s).map_err(AuthFailure::Key)?;
                (key.consumer.clone(), Cow::Borrowed(&*key.roles), Vec::new())
            }
            Kind::Jwt(tokens) => {
                let token = bearer(value).ok_or(AuthFailure::Absent)?;
                let said = tokens.check(token, unix_s, role).map_err(AuthFailure::Token)?;
                (said.consumer, Cow::Owned(said.roles), said.set)
            }
        };
        Ok(Caller { consumer, auth: id, roles, set })
    }
}

/// The token in `Bearer TOKEN` (RFC 6750 §2.1, the scheme in any case); none: another scheme.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked("bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii_start())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::testing::{self, NOW_S, key_auth, minted, token_auth};

    /// Headers as `(name, value)`; expected: consumer and auth, or the failure.
    #[track_caller]
    fn check(auths: &[config::Auth], headers: &[(&str, &str)], expected: Result<(&str, u16), AuthFailure>) {
        let auths: Vec<Auth> = auths.iter().map(|a| Auth::compile(a, &|_| None).ok().unwrap()).collect();
        let presented = |name: &str| {
            Presented::of(
                headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_bytes()),
            )
        };
        let caller = authenticate((0..).zip(&auths), presented, &|_| None, NOW_S);
        assert_eq!(caller.as_ref().map(|c| (&*c.consumer, c.auth)).map_err(|e| *e), expected);
    }

    #[test]
    fn the_first_good_credential_decides() {
        let (key, token) = (minted(1).text, format!("Bearer {}", testing::token("bob")));
        let auths = [key_auth(), token_auth()];
        let bad = AuthFailure::Key(KeyFault::Malformed);
        check(&auths, &[], Err(AuthFailure::Absent));
        check(&auths, &[("x-api-key", &key)], Ok(("acme", 0)));
        check(&auths, &[("X-API-Key", &key)], Ok(("acme", 0)));
        check(&auths, &[("authorization", &token)], Ok(("bob", 1)));
        check(&auths, &[("authorization", &token), ("x-api-key", &key)], Ok(("acme", 0)));
        check(&auths, &[("authorization", &token), ("x-api-key", "junk")], Ok(("bob", 1)));
        check(&auths, &[("x-api-key", "junk")], Err(bad));
        let bad_token = Err(AuthFailure::Token(TokenFault::Malformed));
        check(&auths, &[("authorization", "Bearer junk"), ("x-api-key", "junk")], bad_token);
        check(
            &[token_auth(), key_auth()],
            &[("authorization", "Bearer junk"), ("x-api-key", "junk")],
            bad_token,
        );
        check(&[], &[("x-api-key", &key)], Err(AuthFailure::Absent));
    }

    #[test]
    fn a_credential_that_stands_twice_is_none() {
        let (key, token) = (minted(1).text, format!("Bearer {}", testing::token("bob")));
        check(&[key_auth()], &[("x-api-key", &key), ("X-Api-Key", &key)], Err(AuthFailure::Repeated));
        check(
            &[token_auth()],
            &[("authorization", &token), ("authorization", "x")],
            Err(AuthFailure::Repeated),
        );
    }

    #[test]
    fn other_schemes_are_not_tokens() {
        let token = testing::token("bob");
        check(&[token_auth()], &[("authorization", &format!("bEARER  {token}"))], Ok(("bob", 0)));
        for value in
            ["", "Bearer", "Basic YTpi", &token, &format!("Bearer\t{token}"), &format!("Bearerx {token}")]
        {
            check(&[token_auth()], &[("authorization", value)], Err(AuthFailure::Absent));
        }
        let malformed = Err(AuthFailure::Token(TokenFault::Malformed));
        check(&[token_auth()], &[("authorization", &format!("Bearer {token}, {token}"))], malformed);
    }

    #[test]
    fn the_challenge_names_every_auth() {
        let auths = [key_auth(), token_auth()].map(|auth| Auth::compile(&auth, &|_| None).ok().unwrap());
        assert_eq!(
            &*challenge(auths.iter(), AuthFailure::Absent),
            r#"ApiKey realm="keys", header="x-api-key", Bearer realm="staff""#,
        );
        assert_eq!(
            &*challenge(auths.iter().skip(1), AuthFailure::Token(TokenFault::Expired)),
            r#"Bearer realm="staff", error="invalid_token""#,
        );
    }
}
