//! What a user meets, one file per promise.

mod command;
mod proxy;
mod framing;
mod access;
mod faults;
mod names;
mod pools;
mod exchange;
mod bodies;
mod own_answers;
mod reshape;
mod cors;
mod tls;
mod upstream_tls;
mod operation;
mod nic;
