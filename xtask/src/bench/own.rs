//! What the benches build for themselves, from the workspace in `benches/`: on demand, into `target/tools/benches`.

use std::path::PathBuf;

use anyhow::Context;

use super::peers::benches_target;
use crate::{process, project::Project};

/// Our own load client.
pub(super) fn client(project: &Project) -> anyhow::Result<PathBuf> {
    build(project, "load")
}

/// The hand-written proxy that is the physical limit.
pub(super) fn floor(project: &Project) -> anyhow::Result<PathBuf> {
    build(project, "floor")
}

/// Signs tokens.
pub(super) fn tokens(project: &Project) -> anyhow::Result<PathBuf> {
    build(project, "tokens")
}

/// Builds one package of that workspace, optimised, and returns its program.
pub(crate) fn build(project: &Project, package: &str) -> anyhow::Result<PathBuf> {
    let target = benches_target(project);
    let mut cargo = project.cargo("build");
    cargo
        .args(["--release", "--locked", "--quiet", "--package", package, "--manifest-path"])
        .arg(project.root.join("benches/Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        // A shared target directory would make it wait for every other build.
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("RUSTFLAGS");
    process::quiet(&mut cargo).with_context(|| format!("building benches/{package}"))?;
    Ok(target.join("release").join(package))
}
