//! The access log: one JSON object a line, gathered per worker and written by a thread of its own.
//!
//! A worker formats into a buffer that it owns and hands it over whole; a full queue or a slow disk costs lines,
//! which are counted, never a worker's time. Every text is escaped, so that a line can't be forged.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};

use super::{Exchange, cells::Bound, cells::Cells};
use crate::config;

/// A buffer is handed over when it holds so much, or at the next sweep.
const HANDOVER_BYTES: usize = 16 * 1024;
/// Buffers under way between the workers and the writer.
const QUEUE_MAX: usize = 256;

/// A worker's end.
pub struct AccessLog {
    queue: Option<SyncSender<Vec<u8>>>,
    lines: Vec<u8>,
    cells: Arc<Cells>,
}

/// What the control thread may ask of the writer.
#[derive(Clone, Default)]
pub struct AccessWriter {
    reopen: Arc<AtomicBool>,
    write_errors: Arc<AtomicU64>,
}

impl AccessWriter {
    /// Opens the file again before the next line: the old one was rotated away.
    pub fn reopen(&self) {
        self.reopen.store(true, Relaxed);
    }

    /// Buffers that could not be written.
    pub fn write_errors(&self) -> u64 {
        self.write_errors.load(Relaxed)
    }
}

/// An end per worker, and the writer's thread behind them, which ends when the last worker's end is dropped.
pub fn access_log(
    settings: &config::AccessLog,
    workers: &[Arc<Cells>],
) -> io::Result<(Vec<AccessLog>, AccessWriter)> {
    let writer = AccessWriter::default();
    let path = match settings {
        config::AccessLog::Off => {
            let silent =
                |cells: &Arc<Cells>| AccessLog { queue: None, lines: Vec::new(), cells: Arc::clone(cells) };
            return Ok((workers.iter().map(silent).collect(), writer));
        }
        config::AccessLog::Stdout => None,
        config::AccessLog::File(path) => Some(path.clone()),
    };
    let sink = Sink::open(path)?;
    let (sender, receiver) = sync_channel(QUEUE_MAX);
    let thread_writer = writer.clone();
    std::thread::Builder::new()
        .name("access-log".to_owned())
        .spawn(move || write_all(&receiver, sink, &thread_writer))?;
    let end = |cells: &Arc<Cells>| AccessLog {
        queue: Some(sender.clone()),
        lines: Vec::with_capacity(2 * HANDOVER_BYTES),
        cells: Arc::clone(cells),
    };
    Ok((workers.iter().map(end).collect(), writer))
}

impl AccessLog {
    /// Whether lines are wanted.
    pub fn is_on(&self) -> bool {
        self.queue.is_some()
    }

    /// Adds a line.
    pub fn write(&mut self, exchange: &Exchange<'_>) {
        if self.queue.is_none() {
            return;
        }
        write_line(&mut self.lines, exchange);
        if self.lines.len() >= HANDOVER_BYTES {
            self.flush();
        }
    }

    /// Hands over what has been gathered.
    pub fn flush(&mut self) {
        let Some(queue) = &self.queue else { return };
        if self.lines.is_empty() {
            return;
        }
        let full = std::mem::replace(&mut self.lines, Vec::with_capacity(2 * HANDOVER_BYTES));
        if queue.try_send(full).is_err() {
            self.cells.bound_hit(Bound::AccessQueue);
        }
    }
}

/// One line. The order of the keys is fixed, so that lines can be read by eye.
fn write_line(out: &mut Vec<u8>, exchange: &Exchange<'_>) {
    // Writing to a Vec does not fail.
    let _ = write!(out, "{{\"time\":{},\"source\":\"{}\",\"method\":", exchange.unix_s, exchange.source);
    push_json(out, exchange.method);
    out.extend_from_slice(b",\"path\":");
    push_json(out, exchange.path);
    let _ = write!(out, ",\"protocol\":\"{}\"", exchange.protocol);
    let _ = write!(out, ",\"status\":{},\"refusal\":", exchange.status);
    push_optional(out, Some(exchange.refusal).filter(|refusal| !refusal.is_empty()));
    out.extend_from_slice(b",\"route\":");
    push_optional(out, exchange.route);
    out.extend_from_slice(b",\"consumer\":");
    push_optional(out, exchange.consumer);
    match exchange.server {
        Some(server) => {
            let _ = write!(out, ",\"server\":\"{server}\"");
        }
        None => out.extend_from_slice(b",\"server\":null"),
    }
    let _ = writeln!(
        out,
        ",\"duration_us\":{},\"upstream_us\":{},\"bytes_in\":{},\"bytes_out\":{},\"tls\":{},\"pressure\":\"{}\",\
         \"request_id\":\"{}\",\"trace_id\":\"{}\"}}",
        exchange.duration_ns / 1000,
        exchange.upstream_ns / 1000,
        exchange.bytes_in,
        exchange.bytes_out,
        exchange.tls,
        exchange.pressure,
        exchange.request_id,
        exchange.trace_id,
    );
}

fn push_optional(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        Some(text) => push_json(out, text),
        None => out.extend_from_slice(b"null"),
    }
}

fn push_json(out: &mut Vec<u8>, text: &str) {
    // serde_json escapes quotes, backslashes and control characters (RFC 8259 §7); a Vec takes all that it writes.
    let _ = serde_json::to_writer(out, text);
}

enum Sink {
    Stdout,
    File(PathBuf, File),
}

impl Sink {
    fn open(path: Option<PathBuf>) -> io::Result<Self> {
        let Some(path) = path else { return Ok(Self::Stdout) };
        let file = append_to(&path).map_err(|error| {
            io::Error::new(error.kind(), format!("log.access: {}: {error}", path.display()))
        })?;
        Ok(Self::File(path, file))
    }

    fn reopen(&mut self) -> io::Result<()> {
        if let Self::File(path, file) = self {
            *file = append_to(path)?;
        }
        Ok(())
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => io::stdout().write_all(lines),
            Self::File(_, file) => file.write_all(lines),
        }
    }
}

fn append_to(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// The writer's thread. A full disk costs lines, which are counted; serving goes on.
fn write_all(queue: &Receiver<Vec<u8>>, mut sink: Sink, writer: &AccessWriter) {
    while let Ok(lines) = queue.recv() {
        let opened = if writer.reopen.swap(false, Relaxed) { sink.reopen() } else { Ok(()) };
        // Told at the first, second, fourth, … failure: a full disk must not fill the other log as well.
        if let Err(error) = opened.and_then(|()| sink.write(&lines))
            && (writer.write_errors.fetch_add(1, Relaxed) + 1).is_power_of_two()
        {
            log::error!("access log: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

    use super::*;
    use crate::config::ServerAddress;

    static SERVER: ServerAddress =
        ServerAddress::Fixed(SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 9), 80)));

    fn exchange<'e>(path: &'e str, consumer: Option<&'e str>) -> Exchange<'e> {
        Exchange {
            unix_s: 1_800_000_000,
            duration_ns: 1_234_567,
            upstream_ns: 1_000_000,
            source: [192, 0, 2, 7].into(),
            method: "GET",
            path,
            protocol: "HTTP/2.0",
            status: 200,
            refusal: "",
            why: None,
            route: Some("orders"),
            consumer,
            auth: None,
            credential: None,
            server: Some(&SERVER),
            request_id: "00",
            trace_id: "01",
            bytes_in: 1,
            bytes_out: 2,
            tls: true,
            pressure: "calm",
        }
    }

    #[track_caller]
    fn check(path: &str, consumer: Option<&str>) {
        let mut out = Vec::new();
        write_line(&mut out, &exchange(path, consumer));
        assert_eq!(out.split_inclusive(|&byte| byte == b'\n').count(), 1, "one line");
        let record: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
        assert_eq!(record["path"], path);
        assert_eq!(record["protocol"], "HTTP/2.0");
        assert_eq!(record["consumer"].as_str(), consumer);
        assert_eq!(record["duration_us"], 1234);
        assert_eq!(record["pressure"], "calm");
        assert_eq!(record["refusal"], serde_json::Value::Null);
    }

    #[test]
    fn no_text_breaks_out_of_its_line() {
        check("/", None);
        check("/a\",\"status\":500,\"x\":\"", Some("acme"));
        check("/\n{\"time\":0}", Some("a\\\r\n\u{7f}\u{2028}"));
    }

    #[test]
    fn a_full_queue_costs_lines_and_is_counted() {
        let cells = Arc::new(Cells::default());
        let (sender, receiver) = sync_channel(1);
        let mut access = AccessLog { queue: Some(sender), lines: Vec::new(), cells: Arc::clone(&cells) };
        for _ in 0..3 {
            access.write(&exchange("/", None));
            access.flush();
        }
        let snapshot = super::super::Snapshot::of(&std::iter::once(&*cells));
        assert!(snapshot.bounds.contains(&(Bound::AccessQueue, 2)));
        assert_eq!(receiver.iter().take(1).count(), 1);
    }
}
