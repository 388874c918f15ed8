//! Where the workspace and its build products lie.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::process;

/// The workspace and its target directory; both absolute.
pub(crate) struct Project {
    /// The directory of the workspace's Cargo.toml.
    pub(crate) root: PathBuf,
    /// Cargo's target directory, wherever `CARGO_TARGET_DIR` or a configuration puts it.
    pub(crate) target: PathBuf,
}

impl Project {
    /// Asks cargo, so that every way to set the target directory counts.
    pub(crate) fn find() -> Result<Self> {
        // The variable of the running cargo comes first: a shared target directory may hold another clone's xtask.
        let manifest_dir =
            env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let metadata = process::output(
            Command::new(cargo())
                .args(["metadata", "--no-deps", "--format-version", "1", "--manifest-path"])
                .arg(Path::new(&manifest_dir).join("Cargo.toml")),
        )?;
        let metadata: serde_json::Value =
            serde_json::from_str(&metadata).context("reading cargo metadata")?;
        let path = |key: &str| {
            let value = metadata.get(key).and_then(serde_json::Value::as_str);
            value.map(PathBuf::from).with_context(|| format!("cargo metadata has no {key}"))
        };
        Ok(Self { root: path("workspace_root")?, target: path("target_directory")? })
    }

    /// Where `setup` puts the tools that belong to this project alone.
    pub(crate) fn tools(&self) -> PathBuf {
        self.target.join("tools")
    }

    /// Where the eBPF builds lie, one directory per compiler.
    pub(crate) fn ebpf(&self) -> PathBuf {
        self.target.join("ebpf")
    }

    /// A cargo command of the toolchain that runs this tool, at the root of the workspace.
    pub(crate) fn cargo(&self, subcommand: &str) -> Command {
        let mut command = Command::new(cargo());
        command.current_dir(&self.root).arg(subcommand);
        command
    }
}

/// The cargo that runs this tool.
pub(crate) fn cargo() -> PathBuf {
    env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from)
}

/// Writes `content` unless the file already holds it, so that cargo sees no change where there is none.
pub(crate) fn write_if_changed(path: &Path, content: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|held| held == content) {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
    }
    fs::write(path, content).with_context(|| format!("writing {}", path.display()))
}
