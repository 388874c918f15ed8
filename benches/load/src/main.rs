//! A load client for what wrk(1) and h2load(1) cannot do, or not without hiding something.
//!
//! | command | what it does |
//! |---|---|
//! | `paced` | requests at a constant rate; latency counts from when each was due, so that a stall is not left out |
//! | `fresh` | a connection and, with `--tls`, a full handshake for every request; sessions are never resumed |
//! | `hold` | opens connections, makes one request on each, and keeps them idle until it is ended |
//!
//! Comes in: arguments. Goes out: one line of JSON, as from `benches/wrk.lua`; `hold` prints `holding` instead.

mod fresh;
mod hold;
mod message;
mod paced;
mod report;
mod stream;

use std::{net::SocketAddr, process::ExitCode};

use clap::{Parser, Subcommand};

/// HTTP/1.1 load that hides nothing.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    work: Work,
}

/// What is asked, and of whom.
#[derive(Debug, Clone, clap::Args)]
struct Target {
    /// Where to connect.
    #[arg(long)]
    address: SocketAddr,
    /// Value of `host` and of SNI.
    #[arg(long)]
    host: String,
    /// Such as `/files/128`.
    #[arg(long)]
    target: String,
    /// More fields, `name: value`.
    #[arg(long)]
    header: Vec<String>,
    /// Clients at once.
    #[arg(long, default_value_t = 1)]
    connections: u32,
    /// Speak TLS; the server's certificate is not checked.
    #[arg(long)]
    tls: bool,
}

#[derive(Debug, Subcommand)]
enum Work {
    /// A constant rate.
    Paced {
        /// Requests per second.
        #[arg(long)]
        rate: f64,
        /// For how long.
        #[arg(long)]
        seconds: u32,
    },
    /// A connection each.
    Fresh {
        /// For how long.
        #[arg(long)]
        seconds: u32,
    },
    /// Idle connections.
    Hold,
}

fn main() -> ExitCode {
    let Arguments { target, work } = Arguments::parse();
    let done = match work {
        Work::Paced { rate, seconds } => {
            paced::run(&target, rate, seconds).map(|report| println!("{report}"))
        }
        Work::Fresh { seconds } => fresh::run(&target, seconds).map(|report| println!("{report}")),
        Work::Hold => hold::run(&target),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}
