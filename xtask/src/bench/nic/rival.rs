//! xdp-filter of xdp-tools, loaded by itself onto a veth in a namespace.
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
use xtask::lab::{
    netns::{EDGE_INTERFACE, Lab},
    place::Place,
};

/// What it is called.
pub(in crate::bench) const NAME: &str = "xdp-filter";

/// The running filter; taken off its interface when dropped.
pub(in crate::bench) struct Rival {
    edge: Place,
    /// What the interface carries.
    pub(in crate::bench) program: OwnedFd,
}

impl Rival {
    /// Loads it onto the edge's interface; it drops nobody yet.
    pub(in crate::bench) fn on(lab: &Lab) -> Result<Self> {
        ensure!(process::find(NAME).is_some(), "it is not here; run: cargo xtask setup --bench");
        let edge = lab.edge.place();
        run(edge.command(NAME).args(["load", "--features", "ipv4,ipv6", EDGE_INTERFACE]))?;
        let program = program_on(&edge).inspect_err(|_| unload(&edge))?;
        Ok(Self { edge, program })
    }

    /// Has it drop a source, or no longer.
    pub(in crate::bench) fn block(&self, source: Ipv4Addr, block: bool) -> Result<()> {
        let source = source.to_string();
        let command = |more: &[&str]| {
            run(self.edge.command(NAME).args(["ip", "--mode", "src"]).args(more).arg(&source))
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
        unload(&self.edge);
    }
}

fn unload(edge: &Place) {
    // With the namespace the interface goes, and with that the program.
    let _ = run(edge.command(NAME).args(["unload", EDGE_INTERFACE]));
}

/// The program that the interface carries.
fn program_on(edge: &Place) -> Result<OwnedFd> {
    let shown = process::output(edge.command("ip").args(["link", "show", "dev", EDGE_INTERFACE]))?;
    let id = shown.split("prog/xdp id ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
    let id: u32 = id.context("it has left no program on its interface")?;
    let mut programs = loaded_programs().flatten();
    let program = programs.find(|program| program.id() == id).context("its program is gone")?;
    Ok(program.fd()?.as_fd().try_clone_to_owned()?)
}

fn run(command: &mut Command) -> Result<()> {
    process::quiet(command)
}
