//! Python with the packages that clients in the tests need: httpx for HTTP/2, grpcio for gRPC.
//!
//! It belongs to this project alone. Where it can't be had, those tests say that they were skipped.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use super::{Outcome, Steps};
use crate::{apt::Apt, process, project::Project};

/// What is installed, and under which names Python finds it.
const PACKAGES: [&str; 2] = ["grpcio==1.85.3", "httpx[http2]==0.28.1"];
const MODULES: &str = "import grpc, httpx, h2; print('grpcio', grpc.__version__, 'httpx', httpx.__version__)";
const REPEAT: &str = "run: cargo xtask setup";

impl Steps {
    /// One line; nothing here is missing in the sense of the programs.
    pub(super) fn clients(&mut self, project: &Project) {
        let check = self.check;
        self.step("Python's clients", |apt| {
            let installed = install(project, apt, check);
            Ok(installed
                .unwrap_or_else(|error| Outcome::Absent(format!("tests go on without them; {error:#}"))))
        });
    }
}

/// Whether all of it is there.
pub(super) fn are_there(project: &Project) -> bool {
    versions(&python(&environment(project))).is_ok()
}

fn install(project: &Project, apt: &mut Apt, check: bool) -> Result<Outcome> {
    let environment = environment(project);
    let python = python(&environment);
    if let Ok(versions) = versions(&python) {
        return Ok(Outcome::Found(versions));
    }
    ensure!(!check, REPEAT);
    make_environment(&environment, apt)?;
    install_packages(&environment, &PACKAGES)?;
    Ok(Outcome::Installed(versions(&python)?))
}

fn environment(project: &Project) -> PathBuf {
    project.tools().join("python")
}

fn python(environment: &Path) -> PathBuf {
    environment.join("bin/python")
}

fn versions(python: &Path) -> Result<String> {
    Ok(process::output(Command::new(python).args(["-c", MODULES]))?.trim().to_owned())
}

/// A directory with a Python of its own.
pub(super) fn make_environment(environment: &Path, apt: &mut Apt) -> Result<()> {
    let make = || process::quiet(Command::new("python3").args(["-m", "venv", "--clear"]).arg(environment));
    if make().is_err() {
        // Debian ships the module apart from Python.
        apt.install(&["python3-venv"])?;
        make()?;
    }
    Ok(())
}

/// Puts packages into it.
pub(super) fn install_packages(environment: &Path, packages: &[&str]) -> Result<()> {
    let mut pip = Command::new(environment.join("bin/pip"));
    process::quiet(pip.args(["install", "--quiet", "--disable-pip-version-check"]).args(packages))
        .with_context(|| format!("installing {}", packages.join(", ")))
}
