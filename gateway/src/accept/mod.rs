//! Where connections come in: one listening socket per worker and address.
//!
//! Comes in: checked configuration. Goes out: bound sockets, made once by `boot` and handed to the workers. It never
//! reads a request.

mod listen;

pub use listen::{BindError, bind};
