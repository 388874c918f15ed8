//! What a user meets, one file per promise.

mod command;
mod proxy;
mod framing;
mod access;
mod semantics;
mod clients;
mod faults;
mod names;
mod pools;
mod retries;
mod exchange;
mod bodies;
mod own_answers;
mod reshape;
mod cors;
mod compress;
mod tls;
mod certificates;
mod client_certificates;
mod tls_conformance;
mod upstream_tls;
mod streaming;
mod resources;
mod websocket;
mod operation;
mod nic;
