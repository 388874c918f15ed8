//! The OpenID provider that tests log in at: npm's `oidc-provider`, as tests/oidc-provider/package-lock.json pins it.
//!
//! It belongs to this project alone. Where it can't be had, those tests say that they were skipped.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use super::{Outcome, Steps};
use crate::{process, project::Project};

/// What says which packages, in which versions and with which hashes.
const LOCKED: [&str; 2] = ["package.json", "package-lock.json"];

impl Steps {
    /// One line; nothing here is missing in the sense of the programs.
    pub(super) fn openid(&mut self, project: &Project) {
        let check = self.check;
        self.step("OpenID provider", |_| {
            let installed = install(project, check);
            Ok(installed
                .unwrap_or_else(|error| Outcome::Absent(format!("tests go on without it; {error:#}"))))
        });
    }
}

/// Whether it is there, in the version that is asked for.
pub(super) fn is_there(project: &Project) -> bool {
    let directory = directory(project);
    let same = |name: &str| {
        let read = |at: &Path| fs::read(at.join(name)).ok();
        read(&directory).is_some_and(|held| Some(held) == read(&locked(project)))
    };
    // npm writes this file when it is through.
    LOCKED.into_iter().all(same) && directory.join("node_modules/.package-lock.json").exists()
}

fn install(project: &Project, check: bool) -> Result<Outcome> {
    let directory = directory(project);
    if is_there(project) {
        return Ok(Outcome::Found(version(&directory)?));
    }
    ensure!(!check, "run: cargo xtask setup");
    fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    for name in LOCKED {
        let (from, to) = (locked(project).join(name), directory.join(name));
        fs::copy(&from, &to).with_context(|| from.display().to_string())?;
    }
    let mut npm = Command::new("npm");
    npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(&directory);
    process::quiet(&mut npm)?;
    Ok(Outcome::Installed(version(&directory)?))
}

fn version(directory: &Path) -> Result<String> {
    const VERSION: &str = "console.log(require('./node_modules/oidc-provider/package.json').version)";
    let mut node = Command::new("node");
    node.args(["-e", VERSION]).current_dir(directory);
    Ok(format!("oidc-provider {}", process::output(&mut node)?.trim()))
}

fn directory(project: &Project) -> PathBuf {
    project.tools().join("oidc-provider")
}

fn locked(project: &Project) -> PathBuf {
    project.root.join("tests/oidc-provider")
}
