//! `kind = "api_key"`

use std::sync::Arc;

use super::{header_name, refuse_all_but};
use crate::config::{
    auth::{AuthKind, KeyStore},
    compile::Names,
    raw::RawAuth,
    report::{Report, Scope},
};

pub(super) fn compile(report: &mut Report, names: &Names, at: &Scope, raw: RawAuth) -> Option<AuthKind> {
    report.later(at, &[("query", &raw.query)]);
    refuse_all_but(report, at, "api_key", &["store", "header", "query"], &raw);
    let header = raw.header.map_or_else(|| Some("x-api-key".into()), |name| header_name(report, at, &name));
    let Some(store) = raw.store else {
        report.missing(at, "store", "\"keys.db\", a file that `portcullis keys` writes");
        return None;
    };
    let path = report.resolve_path(at.source, store.get_ref());
    let store = KeyStore::read_into(report, &path, &at.at(&store), &names.roles)?;
    Some(AuthKind::ApiKey { header: header?, store: Arc::new(store) })
}
