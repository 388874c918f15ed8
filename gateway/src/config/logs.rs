//! What is written down: the program's own log, the access log, the audit log.

use std::{path::PathBuf, time::Duration};

/// `[log]`
#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    /// The program's own log.
    pub level: log::LevelFilter,
    /// The access log.
    pub access: AccessLog,
    /// The audit log.
    pub audit: Audit,
}

/// `log.access`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLog {
    /// None.
    Off,
    /// JSON lines on standard output.
    Stdout,
    /// JSON lines in this file, opened again on SIGHUP.
    File(PathBuf),
}

/// `log.audit`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audit {
    /// None.
    Off,
    /// Chained lines in a file.
    File(AuditFile),
}

/// `log.audit` with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditFile {
    /// Where its lines go.
    pub path: PathBuf,
    /// The key that signs them; made when it is not there.
    pub sign_key_file: PathBuf,
    /// How long a line waits at most until it is signed.
    pub checkpoint: Duration,
    /// Larger, it is moved aside.
    pub rotate_bytes: Option<u64>,
    /// A change that cannot be told is not made.
    pub refuse: bool,
}
