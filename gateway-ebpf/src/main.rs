//! The XDP shell around the verdict logic; on the host only a stub.
//!
//! Comes in: a frame, before the kernel has seen it. Goes out: pass or drop, one counter, now and then a sample.
//! What it knows stands in the maps below, which user space writes; it keeps nothing else.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
mod shell;
#[cfg(target_arch = "bpf")]
mod handshake;
