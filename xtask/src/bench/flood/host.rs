//! The hosts under the flood: each in a namespace of its own, with what drops the flood's source there.
//!
//! Comes in: who it shall be. Goes out: a host that drops the source and, where it serves, answers everybody else. All
//! that a host does shares one CPU: its server, the server behind that, and who asks. Dropping it ends and removes all.

use std::{
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use anyhow::{Context, Result, ensure};
use xtask::lab::{
    netns::{EDGE_INTERFACE, EDGE_V4, Lab},
    scratch::{PinDir, Scratch},
    xdp,
};

use super::{
    intake::{Intake, as_a_driver},
    sender,
};
use crate::{
    bench::{
        cpu::Cores,
        kernel::{self, XDP_DROP},
        load::{Generator, Load, Pace, check},
        nic::rival::Rival,
        peers::Peer,
        proxy::OWN,
        subject::{Ground, Protocol, Stage, Subject, replace},
    },
    process,
};

/// An XDP program that drops everything unseen: no filter is faster.
pub(super) const CEILING: &str = "empty";
/// Our gateway without its filter.
pub(super) const UNFILTERED: &str = "unfiltered";
/// The packet filter of the kernel, alone or before nginx.
pub(super) const NFTABLES: &str = "nftables";

const RULES: &str = include_str!("../../../../benches/peers/nftables.conf");
/// Where nobody serves.
const PORT: u16 = 8080;
/// Clients at once.
const CONNECTIONS: u32 = 64;
const TARGET: &str = "/files/128";
const BODY_BYTES: u32 = 128;

/// A host in a namespace of its own.
pub(super) struct Host {
    /// What reports call it.
    pub(super) name: &'static str,
    // In the order in which it has to end.
    server: Option<Server>,
    _wall: Wall,
    pub(super) intake: Intake,
    pub(super) lab: Lab,
}

/// What drops the source.
#[expect(dead_code, reason = "they are kept for what happens when they are dropped")]
enum Wall {
    /// Nothing.
    None,
    /// A program that drops everything, by its link.
    Program(OwnedFd),
    /// Ours; its pins.
    Gateway(PinDir),
    XdpFilter(Rival),
    /// The rules go with the namespace.
    Nftables,
}

struct Server {
    subject: Subject,
    _stage: Stage,
    generator: Generator,
}

impl Host {
    /// The program that drops everything.
    pub(super) fn ceiling() -> Result<Self> {
        let lab = Lab::new()?;
        let program = kernel::constant(XDP_DROP).context("loading a program")?;
        let link = lab.edge.enter(|| xdp::attach(EDGE_INTERFACE, program.as_fd()))?;
        Self::behind(CEILING, lab, Wall::Program(link.context("XDP on the edge")?), None)
    }

    /// xdp-filter of xdp-tools.
    pub(super) fn xdp_filter() -> Result<Self> {
        let lab = Lab::new()?;
        let rival = Rival::on(&lab)?;
        rival.block(sender::source(), true)?;
        Self::behind(crate::bench::nic::rival::NAME, lab, Wall::XdpFilter(rival), None)
    }

    /// nginx as in `bench proxy`, behind nftables.
    pub(super) fn nftables(nginx: &Path, cpu: usize) -> Result<Self> {
        ensure!(process::find("nft").is_some(), "nft is not here; run: cargo xtask setup --bench");
        let lab = Lab::new()?;
        as_a_driver(&lab)?;
        let scratch = Scratch::new()?;
        let rules = replace(RULES, "blocked", &sender::source().to_string());
        let rules = scratch.write("nftables.conf", replace(&rules, "interface", EDGE_INTERFACE))?;
        process::quiet(lab.edge.command("nft").arg("-f").arg(rules))?;
        let stage = Stage::new(one(cpu), Ground::edge(&lab))?;
        let subject = stage.peer(Peer::Nginx, nginx, NFTABLES)?;
        let server = Server::new(subject, stage, &lab, cpu)?;
        Self::behind(NFTABLES, lab, Wall::Nftables, Some(server))
    }

    /// Our gateway, with its filter and the source blocked as an operator would.
    pub(super) fn gateway(binary: &Path, cpu: usize) -> Result<Self> {
        let lab = Lab::new()?;
        let pins = PinDir::new()?;
        let stage = Stage::new(one(cpu), Ground::edge(&lab))?;
        let subject = stage.gateway(OWN, binary, &[prefilter(&pins.path())])?;
        let source = sender::source().to_string();
        let output = subject.gateway()?.command(&["bans", "add", &source, "--for", "1h"])?;
        ensure!(output.status.success(), "bans add: {}", String::from_utf8_lossy(&output.stderr).trim());
        let server = Server::new(subject, stage, &lab, cpu)?;
        Self::behind(OWN, lab, Wall::Gateway(pins), Some(server))
    }

    /// The same without the filter: nothing drops anything.
    pub(super) fn unfiltered(binary: &Path, cpu: usize) -> Result<Self> {
        let lab = Lab::new()?;
        as_a_driver(&lab)?;
        let stage = Stage::new(one(cpu), Ground::edge(&lab))?;
        let subject = stage.gateway(UNFILTERED, binary, &[])?;
        let server = Server::new(subject, stage, &lab, cpu)?;
        Self::behind(UNFILTERED, lab, Wall::None, Some(server))
    }

    fn behind(name: &'static str, lab: Lab, wall: Wall, server: Option<Server>) -> Result<Self> {
        let intake = Intake::of(&lab)?;
        Ok(Self { name, server, _wall: wall, intake, lab })
    }

    /// Where the flood goes.
    pub(super) fn target(&self) -> SocketAddr {
        let served = self.server.as_ref().map(|server| server.subject.address(Protocol::Http1));
        served.unwrap_or_else(|| (EDGE_V4, PORT).into())
    }

    /// Who serves, and how it is asked.
    pub(super) fn served(&self) -> Result<(&Subject, &Generator, Load)> {
        let Server { subject, generator, .. } = self.server.as_ref().context("nobody serves here")?;
        let load = load(subject);
        Ok((subject, generator, load))
    }
}

impl Server {
    /// An error unless it answers as it should.
    fn new(subject: Subject, stage: Stage, lab: &Lab, cpu: usize) -> Result<Self> {
        let generator = Generator::new(vec![cpu], None)?.in_place(lab.world.place());
        check(&generator.place, &load(&subject))?;
        Ok(Self { subject, _stage: stage, generator })
    }
}

fn load(subject: &Subject) -> Load {
    Load {
        protocol: Protocol::Http1,
        address: subject.address(Protocol::Http1),
        target: TARGET.to_owned(),
        headers: subject.headers.clone(),
        connections: CONNECTIONS,
        body_bytes: BODY_BYTES,
        pace: Pace::Closed,
    }
}

/// Server, upstream and load on one CPU.
fn one(cpu: usize) -> Cores {
    Cores { proxy: cpu, load: vec![cpu] }
}

/// The filter as by default, but for a limit of packets that an honest load from one address does not reach.
fn prefilter(pin_dir: &Path) -> String {
    format!(
        "[prefilter]\ninterfaces = [\"{EDGE_INTERFACE}\"]\npin_dir = \"{}\"\n\
         packets = {{ rate = \"1000000/s\", burst = 1_000_000 }}\n",
        pin_dir.display()
    )
}
