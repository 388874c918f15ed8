//! xdp-filter of xdp-tools, loaded by itself onto a veth in a namespace: the program behind it is what is tested.
//!
//! It is loaded for addresses alone (`--features ipv4,ipv6`), the least that does what a block of ours does, and runs
//! behind libxdp's dispatcher, as it always does.

use std::{
    net::Ipv4Addr,
    os::fd::{AsFd, OwnedFd},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use aya::programs::loaded_programs;

use crate::process;
use xtask::lab::netns::{EDGE_INTERFACE, Lab};

/// What it is called.
pub(super) const NAME: &str = "xdp-filter";

/// The running filter; taken off its interface when dropped.
pub(super) struct Rival {
    lab: Lab,
    pub(super) program: OwnedFd,
}

impl Rival {
    /// Loads it; it drops nobody yet.
    pub(super) fn new() -> Result<Self> {
        ensure!(process::find(NAME).is_some(), "it is not here; run: cargo xtask setup --bench");
        let lab = Lab::new()?;
        run(lab.edge.command(NAME).args(["load", "--features", "ipv4,ipv6", EDGE_INTERFACE]))?;
        let program = program_on(&lab).inspect_err(|_| unload(&lab))?;
        Ok(Self { lab, program })
    }

    /// Has it drop a source, or no longer.
    pub(super) fn block(&self, source: Ipv4Addr, block: bool) -> Result<()> {
        let source = source.to_string();
        let command = |more: &[&str]| {
            run(self.lab.edge.command(NAME).args(["ip", "--mode", "src"]).args(more).arg(&source))
        };
        if block {
            return command(&[]);
        }
        // There may be nothing to remove.
        let _ = command(&["--remove"]);
        Ok(())
    }
}

impl Drop for Rival {
    fn drop(&mut self) {
        unload(&self.lab);
    }
}

fn unload(lab: &Lab) {
    // With the namespace the interface goes, and with that the program.
    let _ = run(lab.edge.command(NAME).args(["unload", EDGE_INTERFACE]));
}

/// The program that the interface carries.
fn program_on(lab: &Lab) -> Result<OwnedFd> {
    let shown = process::output(lab.edge.command("ip").args(["link", "show", "dev", EDGE_INTERFACE]))?;
    let id = shown.split("prog/xdp id ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
    let id: u32 = id.context("it has left no program on its interface")?;
    let mut programs = loaded_programs().flatten();
    let program = programs.find(|program| program.id() == id).context("its program is gone")?;
    Ok(program.fd()?.as_fd().try_clone_to_owned()?)
}

fn run(command: &mut Command) -> Result<()> {
    process::quiet(command)
}
