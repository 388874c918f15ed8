//! The configuration: checked, compiled and immutable.
//!
//! Comes in: a TOML file and the files it names (keys, certificates, stores). Goes out: a [`Config`] in which every
//! name is resolved to an index, every unit is a number and every secret has been read. `raw` says what TOML says
//! and is the only place that derives serde; nothing outside this module sees a string that still wants parsing.
//! It never opens a socket, never touches the NIC and never changes after it was built.

use std::path::{Path, PathBuf};

mod types;
mod auth;
mod escalation;
mod under_attack;
mod edits;
mod feeds;
mod endpoint;
mod cors;
mod compress;
mod logs;
mod template;
mod report;
mod units;
mod env;
mod values;
mod raw;
mod read;
mod files;
mod renew;
mod compile;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod manual_tests;

pub use auth::*;
pub use compress::Coding;
pub use cors::{Cors, OriginPattern, Origins};
pub use edits::{FieldEdits, Redirect, Respond, Rewrite};
pub use endpoint::{Endpoint, Url};
pub use escalation::{AdminPorts, Escalation, OFFENCE_COUNT_MAX, Threshold};
pub use feeds::{CrowdSec, FEEDS_MAX, Feed, FeedSource};
pub use logs::{AccessLog, Audit, AuditFile, Log};
pub use report::{ConfigError, ConfigWarning};
pub use template::{Piece, Placeholder, Template};
pub use types::*;
pub use under_attack::{Signs, UnderAttack};

pub use units::duration;

use report::Report;

/// A configuration that may be used, and what is odd about it.
#[derive(Debug)]
pub struct Loaded {
    /// The compiled configuration.
    pub config: Config,
    /// What works but is probably not meant, in order of place.
    pub warnings: Vec<ConfigWarning>,
}

/// Reads, checks and compiles the file at `path` and every file that it includes or names.
///
/// `env` answers `${VAR}`. The error holds every mistake found, in order of place. A file that would serve nothing
/// and filter nothing is refused: it is most likely a generated file that went wrong.
pub fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, Vec<ConfigError>> {
    let mut report = Report::default();
    if let Some(main) = read::open(&mut report, path, None) {
        let config = compile::config(&mut report, main, env);
        if config.as_ref().is_some_and(|c| c.listeners.is_empty() && c.prefilter.interfaces.is_empty()) {
            let start = report.place(main, 0..0);
            report.error(start, "there is nothing to do: no listener and no prefilter interface");
        }
        finish(report, config)
    } else {
        finish(report, None)
    }
}

/// Like [`load`], for text that is not in a file yet. Relative paths in it are relative to `dir`, its mistakes are
/// placed in `portcullis.toml`, and it may hold nothing to serve.
pub fn parse(
    text: &str,
    dir: &Path,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Loaded, Vec<ConfigError>> {
    let mut report = Report::default();
    let main = report.add_source(PathBuf::from("portcullis.toml"), dir.to_path_buf(), text.to_owned());
    let config = compile::config(&mut report, main, env);
    finish(report, config)
}

fn finish(report: Report, config: Option<Config>) -> Result<Loaded, Vec<ConfigError>> {
    let (errors, warnings) = report.into_parts();
    match config {
        Some(config) if errors.is_empty() => Ok(Loaded { config, warnings }),
        _ => Err(errors),
    }
}
