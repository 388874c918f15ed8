//! What is read from claims, whatever kind of auth has them.

use std::sync::Arc;

use toml::Spanned;

use super::header_name;
use crate::config::{
    auth::ClaimRules,
    raw::RawAuth,
    report::{Report, Scope},
};

/// Takes them out of `raw`; who is asking is `consumer` by default.
pub(super) fn rules(
    report: &mut Report,
    at: &Scope,
    raw: &mut RawAuth,
    consumer: &str,
) -> Option<ClaimRules> {
    let forward = raw.forward.take().map(Spanned::into_inner).unwrap_or_default();
    let forward = forward.into_iter().filter_map(|(header, claim)| {
        let header = header_name(report, at, &header)?;
        Some((header, claim_path(report, at, "forward", claim)?))
    });
    let forward = forward.collect();
    let named = raw.consumer.take();
    let consumer =
        named.map_or_else(|| Some(consumer.into()), |path| claim_path(report, at, "consumer", path));
    let audiences = raw.audiences.take().map(Spanned::into_inner).unwrap_or_default();
    Some(ClaimRules {
        audiences: audiences.into_iter().map(|audience| audience.into_inner().into()).collect(),
        consumer: consumer?,
        roles: raw.roles.take().and_then(|path| claim_path(report, at, "roles", path)),
        scopes: raw.scopes.take().and_then(|path| claim_path(report, at, "scopes", path)),
        forward,
    })
}

/// A path of claims, with dots between.
fn claim_path(report: &mut Report, at: &Scope, key: &str, path: Spanned<String>) -> Option<Arc<str>> {
    if path.get_ref().split('.').all(|part| !part.is_empty()) {
        return Some(path.into_inner().into());
    }
    report.error(
        at.at(&path),
        format!("`{}.{key}` is {:?}, not a claim such as `sub`", at.path, path.get_ref()),
    );
    None
}
