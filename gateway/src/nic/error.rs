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
    /// No interface has this name.
    #[error("there is no interface {0:?}")]
    NoInterface(String),
    /// Another XDP program is attached.
    #[error(
        "{interface} already carries the XDP program {name:?} (id {id}); \
         look at it with `bpftool net show dev {interface}`, detach it with `ip link set dev {interface} xdp off` \
         or by whoever attached it"
    )]
    Busy {
        /// The interface.
        interface: String,
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
