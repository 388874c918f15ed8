//! A connection for every request: each client opens one, asks once, reads the answer, closes, and starts again.

use std::{
    io, thread,
    time::{Duration, Instant},
};

use crate::{
    Target, message,
    report::Report,
    stream::{Connector, Stream},
};

/// A client whose connections fail again and again gives up.
const FAILURES_MAX: u64 = 100;

pub(crate) fn run(target: &Target, seconds: u32) -> io::Result<Report> {
    let connector = Connector::new(target)?;
    let request = message::request(target, false);
    let start = Instant::now();
    let end = start + Duration::from_secs(seconds.into());
    let mut report = Report::default();
    thread::scope(|scope| {
        let clients: Vec<_> =
            (0..target.connections).map(|_| scope.spawn(|| client(&connector, &request, end))).collect();
        for client in clients {
            report.add(client.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload)));
        }
    });
    report.duration = start.elapsed();
    Ok(report)
}

fn client(connector: &Connector, request: &[u8], end: Instant) -> Report {
    let mut report = Report::default();
    let mut buffer = Vec::new();
    while report.connect + report.read < FAILURES_MAX {
        let start = Instant::now();
        if start >= end {
            break;
        }
        match connector.open() {
            Err(_) => report.connect += 1,
            Ok(mut stream) => match stream.exchange(request, &mut buffer) {
                Ok(answer) => {
                    report.answered(answer.status, answer.bytes, start.elapsed());
                    close(&mut stream, &mut buffer);
                }
                Err(_) => report.read += 1,
            },
        }
    }
    report
}

/// The server closes first, as it was asked to: then the waiting state of the port is its own, and ours is free at once.
fn close(stream: &mut Stream, buffer: &mut Vec<u8>) {
    use std::io::Read;
    buffer.clear();
    // How it ends makes no difference any more.
    let _ = match stream {
        Stream::Plain(stream) => stream.read_to_end(buffer),
        Stream::Tls(stream) => stream.sock.read_to_end(buffer),
    };
}
