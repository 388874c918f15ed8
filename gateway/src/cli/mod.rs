//! The commands of `portcullis`: what they take, and a file for each that does more than hand over.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line speaks to a person")]

mod audit;
mod bans;
mod can;
mod doctor;
mod keys;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};
use portcullis::{
    boot,
    config::{self, Loaded},
    control::Enforcement,
    decide::Policy,
    nic,
};

/// Where the configuration is when nobody says.
const CONFIG_DEFAULT: &str = "/etc/portcullis/portcullis.toml";

/// An API gateway that drops abusers at the NIC.
#[derive(Debug, Parser)]
#[command(name = "portcullis", version)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until SIGTERM; SIGHUP reads the configuration again
    Run(Run),
    /// Say what is wrong with a configuration, and change nothing
    Check(ConfigFile),
    /// Show and change who is blocked at the NIC
    #[command(subcommand)]
    Bans(bans::Bans),
    /// Say whether a consumer may do something, and why; 0: yes, 1: no, 2: that cannot be told, 3: with one key and not with
    /// another
    Can(can::Can),
    /// Make API keys
    #[command(subcommand)]
    Keys(keys::Keys),
    /// Verify the audit log
    #[command(subcommand)]
    Audit(audit::Audit),
    /// Say what this machine's kernel and interfaces can do for the filter, and what is in its way; 1 when it would not run
    Doctor(doctor::Doctor),
    /// Detach the filter from every interface and forget its blocks: the way out when in doubt
    PanicOpen(ConfigFile),
}

#[derive(Debug, Args)]
struct Run {
    #[command(flatten)]
    file: ConfigFile,
    /// Filter although `prefilter.allow` is empty: nothing keeps whoever administers this host from being locked out
    #[arg(long)]
    yes_really: bool,
    /// Write the session keys of clients' connections to this file, for Wireshark: whoever reads it reads them all
    #[arg(long, value_name = "FILE")]
    tls_key_log: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = CONFIG_DEFAULT)]
    config: PathBuf,
}

/// What went wrong, already in words for a person.
type Told<T> = Result<T, String>;

impl Arguments {
    /// Does what was asked. 0: done, 1: it went wrong, 2 (from clap): the arguments are.
    pub(crate) fn run(self) -> ExitCode {
        let done = match self.command {
            Command::Run(Run { file, yes_really, tls_key_log }) => load(&file.config).and_then(|loaded| {
                let enforcement = if yes_really { Enforcement::Regardless } else { Enforcement::Careful };
                boot::run(&file.config, loaded.config, enforcement, tls_key_log.as_deref())
                    .map_err(|error| format!("portcullis: {error}"))
            }),
            Command::Check(file) => check(&file.config),
            Command::Bans(bans) => bans.run(),
            Command::Keys(keys) => keys.run(),
            Command::Audit(audit) => audit.run(),
            Command::Can(can) => return can.run(),
            Command::Doctor(doctor) => doctor.run(),
            Command::PanicOpen(file) => {
                audit::told_after(&file.config, "panic-open", || panic_open(&file.config))
            }
        };
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(message) => {
                eprintln!("{message}");
                ExitCode::FAILURE
            }
        }
    }
}

/// Reads a configuration; warnings go to standard error, every error into the message.
fn load(file: &Path) -> Told<Loaded> {
    let loaded = config::load(file, &|name| std::env::var(name).ok()).map_err(|errors| {
        let mut lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let plural = if errors.len() == 1 { "" } else { "s" };
        lines.push(format!("{}: {} error{plural}", file.display(), errors.len()));
        lines.join("\n")
    })?;
    for warning in &loaded.warnings {
        eprintln!("{warning}");
    }
    Ok(loaded)
}

fn check(file: &Path) -> Told<()> {
    let loaded = load(file)?;
    Policy::compile(&loaded.config).map_err(|errors| {
        errors.iter().map(|error| format!("{}: {error}", file.display())).collect::<Vec<_>>().join("\n")
    })?;
    let odd = boot::check(&loaded.config).map_err(|error| format!("{}: {error}", file.display()))?;
    for odd in odd {
        eprintln!("{}: warning: {odd}", file.display());
    }
    let config = &loaded.config;
    println!(
        "{}: ok ({} listeners, {} routes, {} upstreams)",
        file.display(),
        config.listeners.len(),
        config.routes.len(),
        config.upstreams.len()
    );
    Ok(())
}

fn panic_open(file: &Path) -> Told<()> {
    let pin_dir = pin_dir(file)?;
    nic::detach(&pin_dir).map_err(|error| error.to_string())?;
    println!(
        "{}: the filter is detached; a running gateway goes on unfiltered until it restarts",
        pin_dir.display()
    );
    Ok(())
}

fn pin_dir(file: &Path) -> Told<PathBuf> {
    Ok(load(file)?.config.prefilter.pin_dir)
}
