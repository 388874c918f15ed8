//! Login with OpenID Connect, as far as it needs no network.

pub mod seal;
pub mod cookie;
pub mod session;
pub mod login;
pub mod revoked;
pub mod visit;
