//! `portcullis audit`: what the audit log is worth; and what every command that changes something writes into it first.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::mpsc::channel,
    thread,
    time::Duration,
};

use clap::Subcommand;
use portcullis::{
    audit::{
        Entry, Head, Ledger, PublicKey, Signer,
        verify::{self, Findings, Trust},
    },
    config::{self, AuditFile},
    net,
};

use super::{CONFIG_DEFAULT, Told, load};

/// How long a command waits for the log.
const WAIT_MAX: Duration = Duration::from_secs(2);

#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// Find every line that was changed, left out, moved or put in; 1 when there is one
    Verify {
        /// A public key that may have signed, as `portcullis audit key` prints it; may be given several times
        #[arg(long = "public-key", value_name = "FILE")]
        public_keys: Vec<PathBuf>,
        /// A line that there was, as an earlier `verify` or the journal told it: shows whether the log was cut
        #[arg(long = "known", value_name = "NUMBER:HASH")]
        known: Vec<Head>,
        /// The log's files, in any order
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Print the public key that checkpoints are verified with: keep it on another host
    Key {
        /// The configuration
        #[arg(long, value_name = "FILE", default_value = CONFIG_DEFAULT)]
        config: PathBuf,
    },
}

impl Audit {
    pub(crate) fn run(self) -> Told<()> {
        match self {
            Self::Verify { public_keys, known, files } => {
                let keys = public_keys.iter().map(|file| public_key(file)).collect::<Told<_>>()?;
                let trust = Trust { keys, known };
                let (order, findings) = verify::files(&files, &trust).map_err(|error| error.to_string())?;
                print(&order, &findings, &trust)
            }
            Self::Key { config } => {
                let config = load(&config)?.config;
                let key = &settings(&config.log.audit).ok_or("log.audit is off")?.sign_key_file;
                let signer = Signer::open(key).map_err(|error| format!("{}: {error}", key.display()))?;
                print!("{}", signer.public().to_pem());
                Ok(())
            }
        }
    }
}

fn public_key(file: &Path) -> Told<PublicKey> {
    let pem = fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
    PublicKey::from_pem(&pem).ok_or_else(|| format!("{}: no Ed25519 public key in PEM", file.display()))
}

fn print(order: &[PathBuf], findings: &Findings, trust: &Trust) -> Told<()> {
    for fault in &findings.faults {
        let file = order.get(fault.file).map(|file| file.display().to_string()).unwrap_or_default();
        println!("{file}:{}: {}", fault.at, fault.kind);
    }
    if let (Some(first), Some(head)) = (findings.first, findings.head) {
        println!("lines {first} to {}, {} checkpoints", head.seq, findings.checkpoints);
        let keys = findings.keys.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        match (findings.signed_to, trust.keys.is_empty()) {
            (None, _) => {
                println!("nothing is signed: whoever can write here can have written all of it anew");
            }
            (Some(to), false) => println!("signed up to line {to} by {keys}"),
            (Some(to), true) => println!(
                "signed up to line {to} by {keys}: whether that is the gateway's key is for --public-key to say"
            ),
        }
        if findings.lost > 0 {
            println!("{} lines are not here: the gateway says that it could not write them", findings.lost);
        }
        println!(
            "head {head}: given to the next verify as --known, it shows whether lines were cut off behind it"
        );
    } else {
        println!("no line is here");
    }
    match findings.fault_count {
        0 => Ok(()),
        1 => Err("1 fault".to_owned()),
        count => Err(format!("{count} faults")),
    }
}

/// Does what changes something, after it has been written down; and writes down when it went wrong.
///
/// # Errors
/// It went wrong, or could not be written down and `log.audit` wants that it is.
pub(super) fn told_before<T>(
    config: &Path,
    command: &'static str,
    target: &str,
    change: impl FnOnce() -> Told<T>,
) -> Told<T> {
    let Some(settings) = settings_at(config)? else { return change() };
    match append(&settings, entry("command", command).text("target", target)) {
        Err(error) if settings.refuse => return Err(format!("log.audit: {error}; nothing changed")),
        Err(error) => eprintln!("log.audit: {error}; this change is not in the audit log"),
        Ok(()) => {}
    }
    change().inspect_err(|error| {
        let failed = entry("command_failed", command).text("target", target).text("why", error);
        if let Err(error) = append(&settings, failed) {
            eprintln!("log.audit: {error}");
        }
    })
}

/// Writes down what was done already: it must be, whatever becomes of the log.
pub(super) fn told_after<T>(
    config: &Path,
    command: &'static str,
    change: impl FnOnce() -> Told<T>,
) -> Told<T> {
    let done = change();
    let told = settings_at(config).and_then(|settings| {
        let Some(settings) = settings else { return Ok(()) };
        let event = if done.is_ok() { "command" } else { "command_failed" };
        append(&settings, entry(event, command).text_if("why", done.as_ref().err().map(String::as_str)))
    });
    if let Err(error) = told {
        eprintln!("log.audit: {error}");
    }
    done
}

/// A disk that does not answer, or whoever holds the log's lock, is not waited for without end.
fn append(settings: &AuditFile, entry: Entry) -> Told<()> {
    let mut ledger = Ledger::new(settings);
    let (done, written) = channel();
    thread::spawn(move || {
        let appended = ledger.append_signed(&entry.into_bytes(), net::unix_s());
        // Whoever asked may have given up.
        let _ = done.send(appended.map_err(|error| error.to_string()));
    });
    let late = |_| Err(format!("{}: no answer within {WAIT_MAX:?}", settings.path.display()));
    written.recv_timeout(WAIT_MAX).unwrap_or_else(late)
}

/// What was called, and by whom.
fn entry(event: &'static str, command: &'static str) -> Entry {
    // SAFETY: it takes nothing, touches no memory and always succeeds.
    let uid = unsafe { libc::geteuid() };
    Entry::new(net::unix_s(), event)
        .text("command", command)
        .number("uid", uid.into())
        .text_if("login_uid", login_uid().as_deref())
        .number("pid", std::process::id().into())
}

/// Who has logged in, whoever they became since: the kernel keeps it, see `proc_pid_loginuid`(5).
fn login_uid() -> Option<String> {
    let text = fs::read_to_string("/proc/self/loginuid").ok()?;
    Some(text.trim().to_owned()).filter(|uid| uid != "4294967295")
}

/// Where there is no configuration, nobody asks for a log.
fn settings_at(config: &Path) -> Told<Option<AuditFile>> {
    if !config.exists() {
        return Ok(None);
    }
    let loaded = config::load(config, &|name| std::env::var(name).ok())
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
    Ok(settings(&loaded.config.log.audit).cloned())
}

fn settings(audit: &config::Audit) -> Option<&AuditFile> {
    match audit {
        config::Audit::Off => None,
        config::Audit::File(settings) => Some(settings),
    }
}
