//! `kind = "api_key"`

use std::sync::Arc;

use toml::Spanned;

use super::{header_name, refuse_all_but};
use crate::config::{
    auth::{ApiKey, AuthKind, Carrier},
    raw::RawAuth,
    report::{Report, Scope},
};

/// What the store holds is nobody's business here: it changes while the configuration stays.
pub(super) fn compile(report: &mut Report, at: &Scope, raw: RawAuth) -> Option<AuthKind> {
    refuse_all_but(report, at, "api_key", &["store", "header", "query"], &raw);
    let carrier = match (raw.header, raw.query) {
        (None, None) => Some(Carrier::Header("x-api-key".into())),
        (Some(header), None) => header_name(report, at, &header).map(Carrier::Header),
        (None, Some(query)) => parameter(report, at, &query).map(Carrier::Query),
        (Some(_), Some(query)) => {
            report.error(at.at(&query), format!("`{}` has both `header` and `query`: choose one", at.path));
            None
        }
    };
    let Some(store) = raw.store else {
        report.missing(at, "store", "\"keys.db\", a file that `portcullis keys` writes");
        return None;
    };
    let store = report.resolve_path(at.source, store.get_ref());
    Some(AuthKind::ApiKey(ApiKey { carrier: carrier?, store }))
}

/// The name of a parameter, which needs no escape (RFC 3986 §2.3).
fn parameter(report: &mut Report, at: &Scope, name: &Spanned<String>) -> Option<Arc<str>> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    if name.get_ref().is_empty() || !name.get_ref().bytes().all(is_plain) {
        let message = format!(
            "`{}.query` is {:?}, not the name of a parameter such as \"api_key\"",
            at.path,
            name.get_ref()
        );
        report.error(at.at(name), message);
        return None;
    }
    Some(name.get_ref().as_str().into())
}
