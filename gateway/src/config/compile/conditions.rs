//! `routes.*.scopes` and `routes.*.when`: what has to hold beyond a permission.

use std::sync::Arc;

use toml::Spanned;

use super::Names;
use crate::config::{
    condition::{Condition, Surroundings},
    raw::Field,
    report::{Report, Scope},
};

/// More than a credential may hold is nobody's.
const SCOPES_MAX: usize = 64;

/// OAuth scopes (RFC 6749 §3.3), each once.
pub(super) fn scopes(
    report: &mut Report,
    at: &Scope,
    list: Field<Vec<Spanned<String>>>,
    public: bool,
) -> Vec<Arc<str>> {
    let Some(list) = list else { return Vec::new() };
    if public && !list.get_ref().is_empty() {
        report.error(at.at(&list), format!("`{}` is public, so nobody is asked for scopes", at.path));
    }
    if list.get_ref().len() > SCOPES_MAX {
        report.error(at.at(&list), format!("`{}.scopes` holds more than {SCOPES_MAX}", at.path));
    }
    let mut scopes: Vec<Arc<str>> = Vec::new();
    for scope in list.into_inner() {
        let text = scope.get_ref();
        let is_scope = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
        if text.is_empty() || !text.bytes().all(is_scope) {
            let message =
                format!("`{}.scopes` holds {text:?}, which is not a scope such as `orders:read`", at.path);
            report.error(at.at(&scope), message);
        } else if !scopes.iter().any(|known| **known == **text) {
            scopes.push(text.as_str().into());
        }
    }
    scopes
}

/// A condition; an empty one asks for nothing.
pub(super) fn when(
    report: &mut Report,
    names: &Names,
    at: &Scope,
    text: Field<String>,
    (pattern, is_public): (&str, bool),
) -> Option<Condition> {
    let text = text.filter(|text| !text.get_ref().trim().is_empty())?;
    let there = Surroundings { pattern, roles: &names.roles, is_public };
    match Condition::compile(text.get_ref(), there) {
        Ok(condition) => Some(condition),
        Err(faults) => {
            for fault in faults {
                let place = report.within(at, &text, fault.at);
                report.error_with_hint(place, format!("`{}.when` {}", at.path, fault.message), fault.hint);
            }
            None
        }
    }
}
