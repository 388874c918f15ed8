//! Opaque tokens, of which only an authorization server knows what they are worth (RFC 7662).
//!
//! Comes in: what follows `Bearer`, and what the server has said of it. Goes out: whether it is worth a question, and
//! whose it is. Asking is the business of `control::auth`. A token is opaque also where it looks like a JWT: nothing in
//! it is looked at.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64},
};

use super::{
    Answer, AuthFailure, Identity,
    authz::RoleId,
    claims::{self, Claims, Json},
    holder,
    jwt::{TIME_S_MAX, TOKEN_BYTES_MAX, TokenFault},
};
use crate::config;

/// What is counted of one `kind = "introspection"`, whatever its configuration is at the moment.
#[derive(Debug, Default)]
pub struct Tally {
    /// Tokens that the server has called active.
    pub active: AtomicU64,
    /// Those that it has not.
    pub inactive: AtomicU64,
    /// Questions without an answer of use.
    pub failed: AtomicU64,
    /// Questions that what was said lately has answered.
    pub cached: AtomicU64,
    /// Questions that were not asked: the breaker was open, or too many were waiting.
    pub rejected: AtomicU64,
    /// Nobody is asked for a while.
    pub is_open: AtomicBool,
}

/// One `kind = "introspection"`, compiled.
#[derive(Default)]
pub struct Opaque {
    /// What is counted of it.
    pub tally: Arc<Tally>,
}

/// Whether nobody has to be asked about `token`: RFC 6750 §2.1 says what one looks like.
pub(super) fn check_shape(token: &[u8]) -> Result<(), TokenFault> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(TokenFault::TooLong);
    }
    let padding = token.iter().rev().take_while(|byte| **byte == b'=').count();
    let body = token.get(..token.len() - padding).unwrap_or_default();
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(byte);
    if body.is_empty() || !body.iter().all(is_plain) { Err(TokenFault::Malformed) } else { Ok(()) }
}

/// What an authorization server says of a token.
#[derive(Debug, PartialEq)]
pub(crate) enum Said {
    /// It is good, and this is what there is to know.
    Active(Claims),
    /// It is not, and nobody has to know why.
    Inactive,
}

impl Said {
    /// Reads an answer (RFC 7662 §2.2); none: it is no such thing.
    pub(crate) fn read(body: &[u8]) -> Option<Self> {
        let claims = claims::parse(body)?;
        match claims.get("active")? {
            Json::Bool(true) => Some(Self::Active(claims)),
            Json::Bool(false) => Some(Self::Inactive),
            _ => None,
        }
    }

    /// The same of an answer that calls the question bad: none, unless it is because of what the token is. Servers that
    /// give out signed tokens, too, say so of those (RFC 7009 §2.2.1 has the word).
    pub(crate) fn read_error(body: &[u8]) -> Option<Self> {
        let error = claims::parse(body)?;
        (error.get("error")?.text()? == "unsupported_token_type").then_some(Self::Inactive)
    }

    /// Whose token it is, at `unix_s`, by the rules of an auth; what was said counts for `good_for_s` from then on.
    pub(crate) fn judge(
        &self,
        (rules, good_for_s): (&config::Introspection, u64),
        role: &dyn Fn(&str) -> Option<RoleId>,
        unix_s: u64,
    ) -> Answer {
        self.identity((rules, good_for_s), role, unix_s).map_err(AuthFailure::Token)
    }

    fn identity(
        &self,
        (rules, good_for_s): (&config::Introspection, u64),
        role: &dyn Fn(&str) -> Option<RoleId>,
        unix_s: u64,
    ) -> Result<Identity, TokenFault> {
        let Self::Active(claims) = self else { return Err(TokenFault::Inactive) };
        let time = |name: &str| match claims.get(name) {
            None | Some(Json::Null) => Ok(None),
            Some(Json::Whole(seconds)) if *seconds <= TIME_S_MAX => Ok(Some(*seconds)),
            Some(_) => Err(TokenFault::Time),
        };
        let ends_at_s = time("exp")?;
        if ends_at_s.is_some_and(|ends_at_s| unix_s >= ends_at_s) {
            return Err(TokenFault::Expired);
        }
        if time("nbf")?.is_some_and(|not_before_s| not_before_s > unix_s) {
            return Err(TokenFault::NotYetValid);
        }
        holder::check_audience(&rules.claims, claims)?;
        let good_until_s = match good_for_s {
            // Not for a moment, whatever a clock says that is a little behind.
            0 => 0,
            _ => unix_s.saturating_add(good_for_s).min(ends_at_s.unwrap_or(u64::MAX)),
        };
        Ok(Identity { good_until_s, ..holder::read(&rules.claims, claims.clone(), role)? })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::decide::testing::{NOW_S, introspection_rules};

    #[test]
    fn a_token_looks_like_one_or_nobody_is_asked() {
        #[track_caller]
        fn check(token: &str, expected: Result<(), TokenFault>) {
            assert_eq!(check_shape(token.as_bytes()), expected, "{token}");
        }
        check("mF_9.B5f-4.1JqM", Ok(()));
        check("a+b/c~d==", Ok(()));
        check("e30.e30.e30", Ok(()));
        for odd in ["", "=", "a b", "a=b", "a,b", "a\r\nb", "\u{e9}"] {
            check(odd, Err(TokenFault::Malformed));
        }
        check(&"a".repeat(TOKEN_BYTES_MAX), Ok(()));
        check(&"a".repeat(TOKEN_BYTES_MAX + 1), Err(TokenFault::TooLong));
    }

    #[test]
    fn an_answer_is_an_object_that_says_whether_the_token_is_active() {
        for garbage in [
            "",
            "<html>",
            "[]",
            "true",
            "{}",
            r#"{"active":"true"}"#,
            r#"{"active":1}"#,
            r#"{"active":null}"#,
            r#"{"active":false,"active":true}"#,
            r#"{"active":true}{}"#,
        ] {
            assert_eq!(Said::read(garbage.as_bytes()), None, "{garbage}");
        }
        assert_eq!(Said::read(br#"{"active":false,"sub":"bob"}"#), Some(Said::Inactive));
        let active = Said::read(br#"{"active":true,"sub":"bob"}"#);
        assert!(matches!(active, Some(Said::Active(claims)) if claims.contains_key("sub")));
        let error = Said::read_error(br#"{"error":"unsupported_token_type","error_description":"a JWT"}"#);
        assert_eq!(error, Some(Said::Inactive));
        for other in [r#"{"error":"invalid_request"}"#, r#"{"error":1}"#, r#"{"active":true}"#, "<html>"] {
            assert_eq!(Said::read_error(other.as_bytes()), None, "{other}");
        }
    }

    /// Expected: whose it is, and for how long from now.
    #[track_caller]
    fn check_said(said: &serde_json::Value, expected: Result<(&str, u64), TokenFault>) {
        let mut rules = introspection_rules();
        rules.claims.audiences = vec!["orders".into()];
        let identity = Said::read(said.to_string().as_bytes()).unwrap().judge((&rules, 30), &|_| None, NOW_S);
        let identity = identity.map(|known| (known.consumer.to_string(), known.good_until_s - NOW_S));
        let expected = expected.map(|(consumer, for_s)| (consumer.to_owned(), for_s));
        assert_eq!(identity, expected.map_err(AuthFailure::Token), "{said}");
    }

    #[test]
    fn what_counts_for_no_time_is_not_remembered() {
        let said = Said::read(br#"{"active":true,"sub":"bob"}"#).unwrap();
        let identity = said.judge((&introspection_rules(), 0), &|_| None, NOW_S).unwrap();
        assert_eq!(identity.good_until_s, 0);
    }

    #[test]
    fn an_active_token_is_good_until_it_ends_or_has_to_be_asked_about_again() {
        let with = |rest: serde_json::Value| {
            let mut said = json!({"active": true, "sub": "bob", "aud": "orders"});
            said.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
            said
        };
        check_said(&json!({"active": false}), Err(TokenFault::Inactive));
        check_said(&with(json!({})), Ok(("bob", 30)));
        check_said(&with(json!({"exp": NOW_S + 60})), Ok(("bob", 30)));
        check_said(&with(json!({"exp": NOW_S + 7, "nbf": NOW_S})), Ok(("bob", 7)));
        check_said(&with(json!({"exp": null})), Ok(("bob", 30)));
        check_said(&with(json!({"exp": NOW_S})), Err(TokenFault::Expired));
        check_said(&with(json!({"nbf": NOW_S + 1})), Err(TokenFault::NotYetValid));
        for odd in [json!("1900000000"), json!(1.5), json!(-1), json!(u64::MAX)] {
            check_said(&with(json!({ "exp": odd })), Err(TokenFault::Time));
        }
        check_said(&with(json!({"aud": ["stock", "orders"]})), Ok(("bob", 30)));
        check_said(&with(json!({"aud": "stock"})), Err(TokenFault::Audience));
        check_said(&json!({"active": true, "sub": "bob"}), Err(TokenFault::Audience));
        check_said(&json!({"active": true, "aud": "orders"}), Err(TokenFault::Consumer));
    }
}
