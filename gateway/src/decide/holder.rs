//! Whom the claims of a token speak of: consumer, roles, scopes, and headers for the upstream.
//!
//! Comes in: claims that are to be believed, and the rules of an auth. Goes out: an [`Identity`], or the fault. It knows
//! neither signatures nor times.

use std::sync::Arc;

use super::{
    Identity,
    authz::RoleId,
    binding::Binding,
    claims::{self, Claims, Json},
    jwt::TokenFault,
};
use crate::config::{ClaimRules, is_consumer};

/// Longest `jti` that is told.
const CREDENTIAL_BYTES_MAX: usize = 128;

/// Whose token it is; how long it is good is left open.
///
/// # Errors
/// The claims name nobody, or a header upstream could not carry one of them.
pub(super) fn read(
    rules: &ClaimRules,
    claims: Claims,
    role: &dyn Fn(&str) -> Option<RoleId>,
) -> Result<Identity, TokenFault> {
    Ok(Identity {
        consumer: consumer(rules, &claims)?,
        credential: claims.get("jti").and_then(Json::text).filter(|jti| is_told(jti)).map(Arc::from),
        roles: names(rules.roles.as_deref(), &claims).into_iter().filter_map(role).collect(),
        scopes: names(rules.scopes.as_deref(), &claims).into_iter().map(Box::from).collect(),
        set: headers(rules, &claims)?.into(),
        binding: Binding::of(&claims)?,
        claims,
        ..Identity::default()
    })
}

/// # Errors
/// `aud` holds none of the configured audiences, where there are any.
pub(super) fn check_audience(rules: &ClaimRules, claims: &Claims) -> Result<(), TokenFault> {
    if rules.audiences.is_empty() {
        return Ok(());
    }
    let named = claims.get("aud").and_then(Json::texts).ok_or(TokenFault::Audience)?;
    let is_ours = |name: &&str| rules.audiences.iter().any(|ours| **ours == **name);
    if named.iter().any(is_ours) { Ok(()) } else { Err(TokenFault::Audience) }
}

fn consumer(rules: &ClaimRules, claims: &Claims) -> Result<Arc<str>, TokenFault> {
    let name = claims::at(claims, &rules.consumer).and_then(Json::text).ok_or(TokenFault::Consumer)?;
    if is_consumer(name) { Ok(name.into()) } else { Err(TokenFault::Consumer) }
}

fn is_told(jti: &str) -> bool {
    jti.len() <= CREDENTIAL_BYTES_MAX && is_visible(jti)
}

/// A string of names between spaces (as `scope` is written, RFC 8693 §4.2) or an array of names. What is neither grants
/// nothing.
fn names<'c>(path: Option<&str>, claims: &'c Claims) -> Vec<&'c str> {
    match path.and_then(|path| claims::at(claims, path)) {
        Some(Json::Text(names)) => names.split(' ').filter(|name| !name.is_empty()).collect(),
        Some(Json::List(names)) => names.iter().filter_map(Json::text).collect(),
        _ => Vec::new(),
    }
}

fn headers(rules: &ClaimRules, claims: &Claims) -> Result<Vec<(Arc<str>, String)>, TokenFault> {
    let mut set = Vec::new();
    for (header, path) in &rules.forward {
        let value = match claims::at(claims, path) {
            None | Some(Json::Null) => continue,
            Some(Json::Text(text)) => text.clone(),
            Some(Json::Whole(number)) => number.to_string(),
            Some(Json::Bool(truth)) => truth.to_string(),
            Some(Json::Number | Json::List(_) | Json::Object(_)) => return Err(TokenFault::Forward),
        };
        if !is_visible(&value) {
            return Err(TokenFault::Forward);
        }
        set.push((header.clone(), value));
    }
    Ok(set)
}

/// Visible ASCII with single words or spaces inside (RFC 9110 §5.5), at least one character.
fn is_visible(value: &str) -> bool {
    let inside = value.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    inside && !value.is_empty() && value.trim_matches(' ').len() == value.len()
}
