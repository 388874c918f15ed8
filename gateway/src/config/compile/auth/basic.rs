//! `kind = "basic"`

use std::{path::Path, sync::Arc};

use argon2::{ARGON2ID_IDENT, Params, password_hash::phc::PasswordHash};
use zeroize::Zeroizing;

use super::refuse_all_but;
use crate::config::{
    auth::{AuthKind, Basic},
    files::{self, Holds},
    raw::RawAuth,
    report::{Report, Scope},
    types::Secret,
};

pub(super) fn compile(report: &mut Report, at: &Scope, raw: RawAuth) -> Option<AuthKind> {
    refuse_all_but(report, at, "basic", &["file"], &raw);
    let Some(file) = raw.file else {
        report.missing(at, "file", "\"passwords\", lines that `portcullis keys password` makes");
        return None;
    };
    let path = report.resolve_path(at.source, file.get_ref());
    match read(&path) {
        Ok(users) => Some(AuthKind::Basic(Basic { users: users.into() })),
        Err(problem) => {
            report.error(at.at(&file), format!("{} {problem}", path.display()));
            None
        }
    }
}

/// Lines `user:$argon2id$…`; empty ones and those that begin with `#` count for nothing.
fn read(path: &Path) -> Result<Vec<(Arc<str>, Secret)>, String> {
    let bytes = files::read(path, Holds::Secret)?;
    let text = str::from_utf8(&bytes).map_err(|_| "is not UTF-8".to_owned())?;
    let mut users: Vec<(Arc<str>, Secret)> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let entry = line.split_once(':').filter(|(user, _)| !user.is_empty());
        let (user, hash) = entry.ok_or_else(|| format!("has no `user:hash` in line {number}"))?;
        check_hash(hash).map_err(|problem| format!("has {problem} in line {number}"))?;
        users.push((user.into(), Secret(Zeroizing::new(hash.into()))));
    }
    users.sort_by(|(a, _), (b, _)| a.cmp(b));
    let twice = |pair: &[(Arc<str>, Secret)]| match pair {
        [(a, _), (b, _)] if a == b => Some(a.clone()),
        _ => None,
    };
    match users.windows(2).find_map(twice) {
        Some(user) => Err(format!("has the user {user:?} twice")),
        None if users.is_empty() => Err("holds no users".to_owned()),
        None => Ok(users),
    }
}

/// Only what is slow to guess, and not too slow to check.
fn check_hash(text: &str) -> Result<(), &'static str> {
    /// Memory of one check, in KiB.
    const MEMORY_KIB_MAX: u32 = 256 << 10;
    /// Memory times passes.
    const WORK_KIB_MAX: u64 = 1 << 20;
    let hash = PasswordHash::new(text).map_err(|_| "a hash that `portcullis keys password` has not made")?;
    if hash.algorithm != ARGON2ID_IDENT {
        return Err("a hash that is not argon2id's");
    }
    let params = Params::try_from(&hash).map_err(|_| "a hash whose parameters cannot be read")?;
    let work_kib = u64::from(params.m_cost()) * u64::from(params.t_cost());
    if params.m_cost() > MEMORY_KIB_MAX || work_kib > WORK_KIB_MAX {
        return Err("a hash that takes too long to check");
    }
    Ok(())
}
