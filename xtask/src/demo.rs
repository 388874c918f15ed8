//! `cargo xtask demo`: honest traffic served and hostile traffic dropped at the NIC, on one machine.
//!
//! Comes in: options. Goes out: a live view, a summary (or one JSON object) and an exit status that is 0 only if no
//! honest request failed and everything hostile was stopped. It makes its own namespaces, upstreams, keys and
//! configuration and removes them all, on errors and on Ctrl-C too. Without the privileges for that it plays on
//! loopback, where nothing can be dropped at a NIC, and says so.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a tool with threads of its own: it reads the clock and shares tallies under a lock"
)]

mod token;
mod stage;
mod cast;
mod story;
mod outcome;
mod watch;
mod view;

use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context, ensure};
use clap::Args;
use xtask::lab::{self, netns};

use crate::{build, interrupt, project::Project};

use self::{
    stage::{Ground, Stage},
    view::Screen,
};

/// What a shell reports for a program that ended on Ctrl-C.
const INTERRUPTED: u8 = 130;
/// The shortest play in which every act still has its time.
const SECONDS_MIN: u64 = 6;

/// Arguments of `cargo xtask demo`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Print nothing but one JSON object at the end
    #[arg(long)]
    pub json: bool,
    /// Leave everything running afterwards, with commands to try, until Ctrl-C
    #[arg(long)]
    pub keep: bool,
    /// How long the play is, about
    #[arg(long, default_value_t = 12)]
    pub seconds: u64,
    /// Build and run with optimizations
    #[arg(long)]
    pub release: bool,
    /// Use this gateway instead of building one
    #[arg(long, value_name = "FILE")]
    pub binary: Option<PathBuf>,
}

/// Builds, plays, tells. The exit status is 0 for success, 1 if somebody honest failed or somebody hostile was not
/// stopped, 130 after Ctrl-C.
pub(crate) fn run(project: &Project, options: &Options) -> anyhow::Result<ExitCode> {
    ensure!(options.seconds >= SECONDS_MIN, "--seconds must be at least {SECONDS_MIN}");
    interrupt::catch()?;
    let binary = gateway_binary(project, options)?;
    netns::remove_leftovers();
    match play(options, binary) {
        Err(error) if error.is::<interrupt::Interrupted>() => {
            eprintln!("interrupted; everything is removed");
            Ok(ExitCode::from(INTERRUPTED))
        }
        ended => ended,
    }
}

fn play(options: &Options, binary: PathBuf) -> anyhow::Result<ExitCode> {
    let began = Instant::now();
    let ground = match lab::privileges() {
        Ok(()) => Ground::namespaces()?,
        Err(why) => {
            eprintln!("Without the NIC filter, on loopback: {why}");
            Ground::loopback()?
        }
    };
    let stage = Stage::set(binary, ground)?;
    let screen = Screen::new(!options.json, io::stdout().is_terminal());
    let outcome = story::play(&stage, options.seconds, began, screen)?;

    let mut stdout = io::stdout().lock();
    if options.json {
        writeln!(stdout, "{}", serde_json::to_string(&outcome)?)?;
    } else {
        writeln!(stdout, "{}", view::summary(&outcome))?;
    }
    if options.keep {
        // JSON goes alone to standard output; what a human may try goes beside it.
        eprintln!("{}", stage.to_try());
        interrupt::wait();
    }
    Ok(if outcome.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds both halves with `xtask build`, unless a binary was given.
fn gateway_binary(project: &Project, options: &Options) -> anyhow::Result<PathBuf> {
    match &options.binary {
        Some(binary) => binary.canonicalize().with_context(|| binary.display().to_string()),
        // Standard output belongs to the view, or to the one JSON object.
        None => build::gateway(project, options.release, &mut io::stderr()),
    }
}
