//! The floor: the least HTTP/1.1 proxy that io_uring allows, to see how far the gateway is from it.
//!
//! Comes in: `LISTENER UPSTREAM`, two addresses. It takes a request that fits into one buffer, drops the fields that
//! belong to a hop, sends it over a pooled connection and the answer back. No routing, no limits, no deadlines, no
//! metrics, no large bodies: a request or an answer that is not what `bench floor` sends ends its connections.
//!
//! What makes it cheap: multishot accept and receive into provided buffers (a system call per turn of the loop and
//! not per operation), SINGLE_ISSUER with DEFER_TASKRUN (completions are run where they are wanted), one send per
//! message.

mod buffers;
mod message;
mod proxy;

use std::{
    io,
    net::{SocketAddr, TcpListener},
    process::ExitCode,
};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let addresses: Option<Vec<SocketAddr>> = arguments.iter().map(|word| word.parse().ok()).collect();
    let Some([listener, upstream]) = addresses.as_deref() else {
        eprintln!("usage: floor LISTENER UPSTREAM");
        return ExitCode::from(2);
    };
    match run(*listener, *upstream) {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("floor: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(listener: SocketAddr, upstream: SocketAddr) -> io::Result<std::convert::Infallible> {
    let listener = TcpListener::bind(listener)?;
    proxy::Proxy::new(listener, upstream)?.run()
}
