//! Portcullis: an API gateway for Linux edge hosts. The modules stand in the order in which a request meets them.

pub mod config;
pub mod keys;
pub mod tls;
pub mod net;
pub mod accept;
pub mod codec;
pub mod http2;
pub mod decide;
pub mod forward;
pub mod respond;
pub mod serve;
pub mod audit;
pub mod telemetry;
pub mod nic;
pub mod control;
pub mod boot;
