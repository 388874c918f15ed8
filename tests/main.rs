//! End-to-end and kernel tests: the real binary, real packets, real servers.
//!
//! `kernel` puts packets through the verdict code on the host and in the kernel; `cases` drive the built gateway as
//! its users would. What cannot run here (no privileges, no nginx) says so by name.
#![expect(clippy::disallowed_types, reason = "tests share what they know over threads of their own")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

mod support;
mod pki;
mod secured;
mod tls_client;
mod h2_peer;
mod openid;
mod issuer;
mod kernel;
mod cases;
