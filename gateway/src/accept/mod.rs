//! Where connections come in: one listening socket per worker and address, and the TLS that is spoken on them.
//!
//! Comes in: checked configuration. Goes out: bound sockets and TLS settings, made once by `boot` and handed to the
//! workers. It never reads a request.

mod listen;
mod tls;

pub use listen::{BindError, bind};
pub use tls::{TlsError, server_config};
