//! What the tools share with the tests: the lab of network namespaces, frames, clients and upstreams.

pub mod lab;
