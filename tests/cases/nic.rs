//! What the filter promises, end to end: the real binary, the real program on a veth pair, packets of real clients.
//!
//! Each test has network namespaces, pins and a gateway of its own. Where the privileges or the filter are missing
//! it says so by name.

mod stage;
mod offences;
mod protected;
mod spoofed;
mod attack;
mod list;
mod lockout;
mod limits;
mod restart;
mod syn_flood;
mod feeds;
mod crowdsec;
mod audited;
