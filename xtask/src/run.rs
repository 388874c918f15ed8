//! `cargo xtask run -- ARGS`: builds, then becomes the gateway.

use std::{
    ffi::OsString,
    os::unix::process::CommandExt as _,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result};

use crate::{build, project::Project};

/// How to build and what to hand over.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Optimise the gateway.
    #[arg(long)]
    release: bool,
    /// Arguments of the gateway.
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

/// Returns only if the gateway can't be built or started: signals and exit code are its own.
pub(crate) fn run(project: &Project, options: &Options) -> Result<ExitCode> {
    let binary = build::gateway(project, options.release, &mut std::io::stderr())?;
    let error = Command::new(&binary).args(&options.arguments).exec();
    Err(error).with_context(|| format!("starting {}", binary.display()))
}
