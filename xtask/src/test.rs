//! `cargo xtask test`: the eBPF object by every compiler that is here, then all tests with the object embedded.
//!
//! The exit code is cargo's. Tests that can't run on this machine say so through `lab::skip`, which
//! appends to the file that `PORTCULLIS_TEST_SKIPPED` names; they are listed at the end.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, ensure};
use xtask::lab::SKIPPED_ENV;

use crate::{
    build, process,
    project::{Project, write_if_changed},
    setup,
    toolchain::Toolchain,
};

/// What a copy of the workspace needs to build the eBPF object.
const SOURCES: [&str; 5] = ["Cargo.toml", "Cargo.lock", "gateway", "gateway-ebpf", "xtask"];

/// How much to test.
#[derive(clap::Args, Clone, Copy)]
pub(crate) struct Options {
    /// Build the eBPF object once per compiler only, without the proof that it is reproducible.
    #[arg(long)]
    quick: bool,
}

/// Runs everything.
pub(crate) fn run(project: &Project, options: Options) -> Result<ExitCode> {
    setup::programs(false)?;
    setup::clients(project)?;
    let objects = objects(project, options.quick)?;
    let object = build::embeddable(
        project,
        objects.first().context("no eBPF compiler works: run `cargo xtask setup`")?,
    )?;

    let skipped = project.target.join("tests-skipped.txt");
    write_if_changed(&skipped, b"")?;
    let status = process::status(
        project
            .cargo("test")
            .args(["--workspace", "--no-fail-fast"])
            .env(build::OBJECT_VARIABLE, object)
            .env(SKIPPED_ENV, &skipped),
    )?;
    let skipped = fs::read_to_string(&skipped).context("reading the list of skipped tests")?;
    print!("{}", skipped_report(&skipped));
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Builds the object with every working compiler; the kernel must take each of them.
fn objects(project: &Project, quick: bool) -> Result<Vec<PathBuf>> {
    let toolchains = setup::toolchains(project)?;
    let mut objects = Vec::new();
    for toolchain in &toolchains {
        let object = build::ebpf(project, toolchain)?;
        accept(&object, toolchain)?;
        if !quick {
            reproduce(project, toolchain, &object)?;
        }
        objects.push(object);
    }
    Ok(objects)
}

/// The object carries BTF, and where we may ask, the kernel's verifier lets it in.
fn accept(object: &Path, toolchain: &Toolchain) -> Result<()> {
    let label = toolchain.compiler.label();
    let bytes = fs::read(object).with_context(|| format!("reading {}", object.display()))?;
    build::check_btf(&bytes).with_context(|| format!("the object by {label}"))?;
    let verified =
        build::verify(&bytes).with_context(|| format!("the kernel refuses the object by {label}"))?;
    let Some(programs) = verified else {
        println!("eBPF by {label}: BTF present, not loaded: that needs root");
        return Ok(());
    };
    for program in programs {
        println!(
            "eBPF by {label}: BTF present, {} loads, {} instructions walked",
            program.name, program.instructions
        );
    }
    Ok(())
}

/// Builds the object again from a copy of the sources elsewhere: every byte must be the same.
fn reproduce(project: &Project, toolchain: &Toolchain, object: &Path) -> Result<()> {
    let label = toolchain.compiler.label();
    let elsewhere = project.ebpf().join(format!("again-{label}"));
    if elsewhere.exists() {
        fs::remove_dir_all(&elsewhere).with_context(|| format!("removing {}", elsewhere.display()))?;
    }
    let root = elsewhere.join("workspace");
    for source in SOURCES {
        copy(&project.root.join(source), &root.join(source))?;
    }
    let again = build::ebpf_at(&root, &elsewhere.join("target"), toolchain)?;
    let (first, second) = (build::sha256(object)?, build::sha256(&again)?);
    ensure!(
        first == second,
        "the object by {label} is not reproducible: {first} and {second}; compare {} and {}",
        object.display(),
        again.display()
    );
    println!("eBPF by {label}: built twice in different directories, both {first}");
    fs::remove_dir_all(&elsewhere).with_context(|| format!("removing {}", elsewhere.display()))
}

/// Copies a file, or a directory with everything below it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    if from.is_dir() {
        fs::create_dir_all(to).with_context(|| format!("creating {}", to.display()))?;
        for entry in fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
            let entry = entry?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
    }
    fs::copy(from, to).map(drop).with_context(|| format!("copying {}", from.display()))
}

/// The lines of `lab::skip`, once each and in order, under a line that counts them.
fn skipped_report(lines: &str) -> String {
    let skipped: BTreeSet<&str> = lines.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if skipped.is_empty() {
        return String::new();
    }
    let mut report = format!("\nskipped on this machine: {}\n", skipped.len());
    for line in skipped {
        report.push_str("  ");
        report.push_str(line.trim_start_matches("SKIPPED "));
        report.push('\n');
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_tests_are_listed_once_and_in_order() {
        #[track_caller]
        fn check(lines: &str, expected: &str) {
            assert_eq!(skipped_report(lines), expected);
        }
        check("", "");
        check("\n \n", "");
        check(
            "SKIPPED b: needs root\nSKIPPED a: no nginx\nSKIPPED b: needs root\n",
            "\nskipped on this machine: 2\n  a: no nginx\n  b: needs root\n",
        );
    }
}
