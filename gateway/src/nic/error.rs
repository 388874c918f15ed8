//! What can go wrong between user space and the filter.

use std::{io, path::PathBuf};

use ipnet::IpNet;

/// Why the filter could not be opened, changed or asked.
#[derive(Debug, thiserror::Error)]
pub enum NicError {
    /// The binary carries no XDP object.
    #[error("built without the NIC filter: use `cargo xtask build`")]
    NotBuilt,
    /// Pins need a BPF file system, and `pin_dir` is not in one.
    #[error("{} is not in a BPF file system; put prefilter.pin_dir below /sys/fs/bpf", .0.display())]
    NotBpffs(PathBuf),
    /// Nothing is pinned there: no gateway has opened a filter.
    #[error("no filter is pinned in {}", .0.display())]
    NotPinned(PathBuf),
    /// Another version of the gateway has pinned its filter there.
    #[error(
        "the filter in {} is of version {version} and this is version {}: start this version's gateway, which takes it \
         over, or use the other version's command",
        .pin_dir.display(), gateway_ebpf::ABI
    )]
    OtherVersion {
        /// The directory.
        pin_dir: PathBuf,
        /// The version of its maps' layouts.
        version: u32,
    },
    /// A later version of the gateway has pinned its filter there: what it holds cannot be read, only thrown away.
    #[error(
        "{} holds the filter of a later version ({version}): start that one again, or `portcullis panic-open`, which \
         detaches it and forgets its blocks",
        .pin_dir.display()
    )]
    LaterVersion {
        /// The directory.
        pin_dir: PathBuf,
        /// The version of its maps' layouts.
        version: u32,
    },
    /// No interface has this name.
    #[error("there is no interface {0:?}")]
    NoInterface(String),
    /// Another XDP program is attached.
    #[error(
        "{interface} already carries the XDP program {name:?} (id {id}){}; {}",
        running(.runs), way_out(.interface, .name)
    )]
    Busy {
        /// The interface.
        interface: String,
        /// The kernel's id of the program.
        id: u32,
        /// The program's name.
        name: String,
        /// Where it is libxdp's dispatcher: the programs that it runs, by name and id.
        runs: Vec<(String, u32)>,
    },
    /// Another XDP program is attached to the bond that the interface is a port of.
    #[error(
        "{interface} is a port of {above}, which already carries the XDP program {name:?} (id {id}): the kernel runs \
         one or the other; name {above} in prefilter.interfaces, or detach that program"
    )]
    Above {
        /// The interface.
        interface: String,
        /// What it is a port of.
        above: String,
        /// The kernel's id of the program.
        id: u32,
        /// The program's name.
        name: String,
    },
    /// A map holds as many entries as it was made for.
    #[error("the filter's block list is full")]
    Full,
    /// The feeds list more than their tables hold.
    #[error("the feeds' tables are full: more than 2 097 152 /24s or ranges of IPv6 are listed in part")]
    FeedsFull,
    /// The prefix is one that `prefilter.block` names: only the configuration can take it away.
    #[error("{0} is blocked by prefilter.block")]
    ByConfiguration(IpNet),
    /// The kernel or the BPF file system refused.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Its answer.
        source: io::Error,
    },
    /// The object could not be loaded.
    #[error("the kernel did not load the filter: {0}")]
    Load(#[from] aya::EbpfError),
    /// The verifier refused the program.
    #[error("the kernel did not take the filter: {0}")]
    Program(#[from] aya::programs::ProgramError),
    /// A map could not be read or written.
    #[error("a map of the filter: {0}")]
    Map(#[from] aya::maps::MapError),
}

impl NicError {
    /// For `map_err`: what was tried, and what came of it.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what: what.into(), source }
    }
}

/// The name of libxdp's program that runs others one after the other (xdp-tools, `xdp-dispatcher.c.in`).
pub(super) const DISPATCHER: &str = "xdp_dispatcher";
/// Our own program's name.
const OWN: &str = "portcullis";

fn running(programs: &[(String, u32)]) -> String {
    let one = |(name, id): &(String, u32)| format!("{name:?} (id {id})");
    match programs {
        [] => String::new(),
        some => format!(", which runs {}", some.iter().map(one).collect::<Vec<_>>().join(", ")),
    }
}

/// What can be done about a program that is in the way.
pub fn way_out(interface: &str, name: &str) -> String {
    match name {
        DISPATCHER => format!(
            "it is libxdp's dispatcher, which runs the programs of other tools and cannot run this one: put this filter on \
             another interface, or take those off: `xdp-loader status {interface}` lists them, \
             `xdp-loader unload {interface} --all` ends them"
        ),
        OWN => {
            "it is another gateway's, from another prefilter.pin_dir: end that one and remove its pins, or \
                `portcullis panic-open` with its configuration"
                .to_owned()
        }
        _ => format!(
            "look at it with `bpftool net show dev {interface}`, detach it with `ip link set dev {interface} xdp off` \
             or by whoever attached it"
        ),
    }
}
