//! Debian packages: installed when this is possible, otherwise named with the command to run.

use std::{env, os::unix::fs::MetadataExt as _, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::process;

/// The package manager; remembers whether its lists are fresh.
pub(crate) struct Apt {
    updated: bool,
}

impl Apt {
    /// Touches nothing yet.
    pub(crate) fn new() -> Self {
        Self { updated: false }
    }

    /// Installs the packages; fetches the lists once, and only when the packages can't be found without.
    pub(crate) fn install(&mut self, packages: &[&str]) -> Result<()> {
        if !is_usable() {
            bail!("{}", advice(packages));
        }
        let first = install(packages);
        if first.is_ok() || self.updated {
            return first;
        }
        process::quiet(apt_get().arg("update"))?;
        self.updated = true;
        install(packages)
    }
}

/// What to type where this tool may not or can't install.
pub(crate) fn advice(packages: &[&str]) -> String {
    let packages = packages.join(" ");
    match process::find("apt-get") {
        Some(_) => {
            let sudo = if is_root() { "" } else { "sudo " };
            format!("run: {sudo}apt-get update && {sudo}apt-get install -y {packages}")
        }
        None => format!("install what Debian calls {packages}"),
    }
}

fn is_usable() -> bool {
    process::find("apt-get").is_some() && is_root()
}

/// Whether this process acts as root, which owns the `/proc` entry of its own.
pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|entry| entry.uid() == 0)
}

fn install(packages: &[&str]) -> Result<()> {
    process::quiet(apt_get().args(["install", "-y", "--no-install-recommends"]).args(packages))
        .with_context(|| advice(packages))
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").env("PATH", path_with_sbin());
    command
}

/// dpkg refuses to work when the sbin directories are not on the path.
fn path_with_sbin() -> String {
    let path = env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/local/sbin:/usr/sbin:/sbin")
}
