//! `cargo xtask fuzz`: libFuzzer on every target under `tests/fuzz/targets`, each for a while.
//!
//! The stable compiler instruments through an LLVM pass of its own, so no nightly is needed; `tests/fuzz/README.md`
//! says what that leaves out. An input that fails is kept, named, and fails the command; so does one that takes
//! longer than [`INPUT_S_MAX`] or more memory than [`MEMORY_MIB_MAX`].

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    process,
    project::{Project, cargo},
};

/// Longest input that is tried: heads and bodies of the codec's targets have limits below it.
const INPUT_BYTES_MAX: u32 = 4096;
const INPUT_S_MAX: u32 = 10;
const MEMORY_MIB_MAX: u32 = 1024;

/// What makes a compiler leave traces for libFuzzer, and mistakes of arithmetic visible.
const INSTRUMENTATION: [&str; 8] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "--cfg=fuzzing",
    "-Cdebug-assertions",
    "-Coverflow-checks",
];

/// What to fuzz, and for how long.
#[derive(clap::Args, Clone)]
pub(crate) struct Options {
    /// Seconds for each target.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Only these; may be given more than once.
    #[arg(long)]
    target: Vec<String>,
}

/// Builds all targets, then runs each; fails after the last if any found something.
pub(crate) fn run(project: &Project, options: &Options) -> Result<ExitCode> {
    let home = project.root.join("tests/fuzz");
    let all = targets(&home.join("targets"))?;
    let chosen = if options.target.is_empty() { all.clone() } else { options.target.clone() };
    for name in &chosen {
        ensure!(all.contains(name), "no target `{name}`; there are: {}", all.join(", "));
    }
    let programs = build(project, &home)?;
    let mut failed = Vec::new();
    for name in &chosen {
        match fuzz(project, &home, &programs.join(name), name, options.seconds) {
            Ok(inputs) => {
                println!("fuzz: {name}: {inputs} inputs in {} s, no fault found", options.seconds);
            }
            Err(error) => {
                println!("fuzz: {name}: {error:#}");
                failed.push(name.as_str());
            }
        }
    }
    if !failed.is_empty() {
        bail!("faults found by: {}", failed.join(", "));
    }
    Ok(ExitCode::SUCCESS)
}

fn targets(sources: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(sources).with_context(|| format!("reading {}", sources.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

/// Builds them with instrumentation, apart from all other builds; returns where they lie.
fn build(project: &Project, home: &Path) -> Result<PathBuf> {
    let version = process::output(Command::new("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
    // The versions that are tested are those that are shipped.
    fs::copy(project.root.join("Cargo.lock"), home.join("Cargo.lock")).context("copying Cargo.lock")?;
    let target_dir = project.target.join("fuzz");
    let mut command = Command::new(cargo());
    command
        .current_dir(home)
        // A target is named so that build scripts and macros are compiled without the flags.
        .args(["build", "--quiet", "--release", "--bins", "--target", host, "--target-dir"])
        .arg(&target_dir)
        .env("RUSTFLAGS", INSTRUMENTATION.join(" "))
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    process::run(&mut command).context("building the targets (libFuzzer is C++ and needs g++)")?;
    Ok(target_dir.join(host).join("release"))
}

/// Runs one target; how many inputs were tried.
fn fuzz(project: &Project, home: &Path, program: &Path, name: &str, seconds: u32) -> Result<String> {
    let corpus = project.target.join("fuzz/corpus").join(name);
    let crashes = project.target.join("fuzz/crashes").join(name);
    for directory in [&corpus, &crashes] {
        fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
    }
    // The first directory takes what is found, the others are only read.
    let seeds = if name == "config" { project.root.join("config") } else { home.join("seeds").join(name) };
    let mut command = Command::new(program);
    command
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={INPUT_BYTES_MAX}"))
        .arg(format!("-timeout={INPUT_S_MAX}"))
        .arg(format!("-rss_limit_mb={MEMORY_MIB_MAX}"))
        .arg(format!("-artifact_prefix={}/", crashes.display()))
        .arg("-print_final_stats=1")
        .arg(&corpus)
        .arg(&seeds);
    let output = command.output().with_context(|| format!("starting {}", process::display(&command)))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        bail!("{}\n{}", output.status, findings(&said));
    }
    let inputs = said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    Ok(inputs.context("libFuzzer does not say what it did")?.trim().to_owned())
}

/// What is worth reading of libFuzzer's report: the panic, the input and where it was kept.
fn findings(said: &str) -> String {
    let is_progress =
        |line: &str| line.starts_with('#') || line.starts_with("INFO:") || line.starts_with("stat::");
    said.lines().filter(|line| !is_progress(line)).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_told_without_its_progress() {
        let said = "INFO: Seed: 1\n#2\tINITED cov: 3\nthread panicked at x:1\nTest unit written to crash-1\nstat::x: 1";
        assert_eq!(findings(said), "thread panicked at x:1\nTest unit written to crash-1");
    }

    #[test]
    fn every_target_has_its_binary_and_its_seeds() {
        let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz");
        let manifest = fs::read_to_string(home.join("Cargo.toml")).unwrap();
        let all = targets(&home.join("targets")).unwrap();
        assert!(!all.is_empty());
        for name in all {
            assert!(manifest.contains(&format!("path = \"targets/{name}.rs\"")), "{name}");
            let seeds =
                if name == "config" { home.join("../../config") } else { home.join("seeds").join(&name) };
            assert!(fs::read_dir(&seeds).is_ok_and(|mut files| files.next().is_some()), "{name}");
        }
    }
}
