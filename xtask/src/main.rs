//! `cargo xtask`: builds, tests, demonstrates and measures Portcullis.
//!
//! Comes in: a subcommand. Goes out: lines on the terminal and an exit code, which is cargo's own where cargo does
//! the work. Each subcommand is a module; what they share with the tests is the library's `lab`.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use project::Project;

mod setup;
mod build;
mod run;
mod demo;
mod test;
mod fuzz;
mod bench;
mod lint;
mod tidy;
mod interrupt;
mod toolchain;
mod object;
mod apt;
mod process;
mod project;

/// Builds, tests, demonstrates and measures Portcullis.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Find what building, testing and the demo need, and install what is missing.
    Setup(setup::Options),
    /// Build the eBPF object, then the gateway with the object embedded.
    Build(build::Options),
    /// Build, then run the gateway with the arguments after `--`.
    Run(run::Options),
    /// Show honest traffic served and hostile traffic dropped at the NIC.
    Demo(demo::Options),
    /// Build with every eBPF compiler that is here, then run all tests.
    Test(test::Options),
    /// Run libFuzzer on everything that untrusted bytes reach.
    Fuzz(fuzz::Options),
    /// Check format, clippy, dependencies and the direction of imports.
    Lint,
    /// Measure against peers.
    Bench(bench::Options),
}

fn main() -> ExitCode {
    match perform(Arguments::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> Result<ExitCode> {
    let project = Project::find()?;
    match task {
        Task::Setup(options) => setup::run(&project, options),
        Task::Build(options) => build::run(&project, options),
        Task::Run(options) => run::run(&project, &options),
        Task::Demo(options) => {
            install_programs(false);
            demo::run(&project, &options)
        }
        Task::Test(options) => test::run(&project, options),
        Task::Fuzz(options) => {
            install_programs(false);
            fuzz::run(&project, &options)
        }
        Task::Lint => lint::run(&project),
        Task::Bench(options) => {
            install_programs(true);
            bench::run(&project, &options)
        }
    }
}

/// What can't be installed is told and may not be needed: who starts a program says best that it is missing.
fn install_programs(for_bench: bool) {
    if let Err(error) = setup::programs(for_bench) {
        eprintln!("{error:#}");
    }
}
