//! The filter at the NIC, seen from user space.
//!
//! Comes in: `[prefilter]` and blocks. Goes out: a program on every interface, its maps kept to the configuration,
//! counters and samples read back. Maps and links are pinned, so that the filter outlives the process and the next
//! start takes it over without a gap. It never decides whom to block, runs on the control thread only and never on a
//! worker: some of its calls take milliseconds.

mod area;
mod allowed;
mod bans;
mod bpffs;
mod classes;
mod cookies;
mod error;
mod feeds;
pub mod features;
mod filter;
mod front;
mod heritage;
mod json;
mod known;
mod link;
mod listed;
mod maps;
mod memory;
mod netlink;
mod orders;
pub mod peers;
mod prefix;
mod settings;
pub mod survey;
mod sys;
mod transfer;
mod upkeep;
mod walk;
mod xdp;

pub use allowed::Allowed;
pub use bans::{BanAction, BanEntry, BanNote, BanRecord, Bans, Explanation};
pub use cookies::SynAnswers;
pub use error::{NicError, way_out};
pub use feeds::{Feeds, List, Listing, NAME_BYTES_MAX, Published, Ranges};
pub use filter::{BUILT, Counter, DropSample, Filter, LogSource, detach};
pub use gateway_ebpf::{BanKind, BanOrigin, Reason, Verdict, layout::Strikes};
pub use listed::Put;
pub use sys::{monotonic_ns, nanos};
pub use transfer::{ListError, Listed, read_list};
