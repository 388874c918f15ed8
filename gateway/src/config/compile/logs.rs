//! `[log]`.

use std::time::Duration;

use toml::Spanned;

use super::edge::{absent, choose_or};
use crate::config::{
    logs::{AccessLog, Audit, AuditFile, Log},
    raw::{Field, RawAccessFile, RawAuditFile, RawLog},
    report::{Choice::Works, Report, Scope},
    values::{OrOff, TextOr},
};

/// How long a line waits until it is signed.
const CHECKPOINT_DEFAULT: Duration = Duration::from_mins(1);
/// When the audit log is moved aside.
const ROTATE_BYTES_DEFAULT: u64 = 64 << 20;
/// A directory is no place for a file a second.
const ROTATE_BYTES_MIN: u64 = 1 << 20;

pub(super) fn log(report: &mut Report, section: Option<(Scope, RawLog)>) -> Log {
    use log::LevelFilter;
    let (at, raw) = section.unwrap_or_else(|| absent("log"));
    let levels = [
        ("off", Works(LevelFilter::Off)),
        ("error", Works(LevelFilter::Error)),
        ("warn", Works(LevelFilter::Warn)),
        ("info", Works(LevelFilter::Info)),
        ("debug", Works(LevelFilter::Debug)),
        ("trace", Works(LevelFilter::Trace)),
    ];
    Log {
        level: choose_or(report, &at, "level", raw.level, &levels, LevelFilter::Info),
        access: access_log(report, &at, raw.access),
        audit: audit(report, &at, raw.audit),
    }
}

fn access_log(report: &mut Report, at: &Scope, value: Field<TextOr<RawAccessFile>>) -> AccessLog {
    let Some(value) = value else { return AccessLog::Off };
    let inner = at.inner("access", &value);
    let span = value.span();
    match value.into_inner() {
        TextOr::Text(word) => {
            let stdout = [("off", Works(AccessTo::Nothing)), ("stdout", Works(AccessTo::Stdout))];
            match report.choose(at, "access", &Spanned::new(span, word), &stdout) {
                Some(AccessTo::Stdout) => AccessLog::Stdout,
                Some(AccessTo::Nothing) | None => AccessLog::Off,
            }
        }
        TextOr::More(raw) => {
            report.later(&inner, &[("fields", &raw.fields), ("sample", &raw.sample)]);
            let Some(file) = raw.file else {
                report.missing(&inner, "file", "\"access.jsonl\"");
                return AccessLog::Off;
            };
            AccessLog::File(report.resolve_path(at.source, file.get_ref()))
        }
    }
}

fn audit(report: &mut Report, at: &Scope, value: Field<TextOr<RawAuditFile>>) -> Audit {
    let Some(value) = value else { return Audit::Off };
    let inner = at.inner("audit", &value);
    let span = value.span();
    let raw = match value.into_inner() {
        TextOr::Text(word) => {
            report.choose(at, "audit", &Spanned::new(span, word), &[("off", Works(()))]);
            return Audit::Off;
        }
        TextOr::More(raw) => raw,
    };
    let on_failure = [("refuse", Works(true)), ("continue", Works(false))];
    let refuse = choose_or(report, &inner, "on_failure", raw.on_failure, &on_failure, true);
    let checkpoint = report.duration(&inner, "checkpoint", raw.checkpoint.as_ref(), CHECKPOINT_DEFAULT);
    let rotate_bytes = match raw.rotate {
        None => Some(ROTATE_BYTES_DEFAULT),
        Some(rotate) => match *rotate.get_ref() {
            OrOff::Off => None,
            OrOff::On(size) => {
                if size.0 < ROTATE_BYTES_MIN {
                    let message = format!("`{}.rotate` is below {} MiB", inner.path, ROTATE_BYTES_MIN >> 20);
                    report.error(inner.at(&rotate), message);
                }
                Some(size.0)
            }
        },
    };
    let Some(file) = raw.file else {
        report.missing(&inner, "file", "\"audit.jsonl\"");
        return Audit::Off;
    };
    let path = report.resolve_path(at.source, file.get_ref());
    let sign_key_file = match raw.sign_key_file {
        Some(key) => report.resolve_path(at.source, key.get_ref()),
        None => path.with_extension("key"),
    };
    if sign_key_file == path {
        report.error(inner.at(&file), format!("`{}.file` and its key are one file", inner.path));
    }
    Audit::File(AuditFile { path, sign_key_file, checkpoint, rotate_bytes, refuse })
}

/// The words that `log.access` may be.
#[derive(Debug, Clone, Copy)]
enum AccessTo {
    Nothing,
    Stdout,
}
