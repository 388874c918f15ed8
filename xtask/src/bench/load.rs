//! The load: short bursts from the load's own CPUs, and one curl(1) before them.
//!
//! Comes in: an address, a protocol, header fields, how many connections, how long a body has to be, how the requests
//! are paced. Goes out: what was counted ([`Answers`]), with every answer and connection that failed. It decides
//! nothing about them.
//!
//! | pace | who drives it |
//! |---|---|
//! | closed loop, HTTP/1.1 | wrk(1) |
//! | closed loop, HTTP/2 | h2load(1) |
//! | a connection each, constant rate, idle connections | `benches/load`, our own: no other does them without hiding something |

mod h2load;
mod own;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;

use super::{
    cpu,
    subject::{HOST, Protocol},
};
use crate::interrupt;
pub(super) use own::Held;
use xtask::lab::{place::Place, process::Process, scratch::Scratch};

/// Prints the line that [`Answers`] is read from.
const SCRIPT: &str = include_str!("../../../benches/wrk.lua");
/// What it has besides where each request goes elsewhere.
const SPREAD: &str = include_str!("../../../benches/wrk-spread.lua");
/// And where each shows another credential.
const SHOWN: &str = include_str!("../../../benches/wrk-shown.lua");
/// How long a tool may take beyond the burst itself.
const OVERTIME_MAX: Duration = Duration::from_secs(10);
/// For the one request of [`check`].
const CHECK_TIME_MAX_S: &str = "5";

/// When a client sends its next request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Pace {
    /// As soon as the last one is answered, on the same connection.
    Closed,
    /// The same with so many at once on each connection.
    Streams(u32),
    /// The same on a new connection each, never with a resumed session.
    Fresh,
    /// So many per second, whether or not the last one is answered; latency counts from when each was due.
    Constant(f64),
    /// Closed loop over the targets `/many/I/x`, with I from 0 to this, in no order.
    Spread(u32),
}

/// What is asked, and by how many at once.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Load {
    /// What is spoken.
    pub(super) protocol: Protocol,
    /// With whom.
    pub(super) address: SocketAddr,
    /// Such as `/files/128`.
    pub(super) target: String,
    /// Header fields, `name: value`.
    pub(super) headers: Vec<String>,
    /// A file of more of them, of which each request carries the next. In a closed loop only.
    pub(super) shown: Option<PathBuf>,
    /// Clients at once.
    pub(super) connections: u32,
    /// Length of every answer's body.
    pub(super) body_bytes: u32,
    /// When each sends.
    pub(super) pace: Pace,
}

impl Load {
    fn url(&self) -> String {
        format!("{}://{}{}", self.protocol.scheme(), self.address, self.target)
    }
}

/// What was counted in one burst.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Answers {
    /// Answers of any status.
    pub(super) requests: u32,
    /// From the first request to the end.
    pub(super) duration_us: f64,
    /// Median time from request to answer.
    pub(super) p50_us: f64,
    /// 99th percentile of the same.
    pub(super) p99_us: f64,
    /// Connections that failed, answers that did not come, answers of status 400 and above.
    pub(super) failures: u32,
}

/// The line of JSON that `benches/wrk.lua` and our own client end with.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
struct Line {
    requests: u32,
    duration_us: f64,
    /// Heads and bodies.
    bytes: f64,
    p50_us: f64,
    p99_us: f64,
    errors: Errors,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
struct Errors {
    connect: u32,
    read: u32,
    write: u32,
    timeout: u32,
    status: u32,
}

impl Line {
    fn answers(self, load: &Load) -> anyhow::Result<Answers> {
        let Errors { connect, read, write, timeout, status } = self.errors;
        let failures = [connect, read, write, timeout, status]
            .iter()
            .fold(0_u32, |sum, errors| sum.saturating_add(*errors));
        ensure!(self.requests > 0, "no request was answered: {self:?}");
        if failures == 0 {
            let expected = f64::from(self.requests) * f64::from(load.body_bytes);
            ensure!(self.bytes >= expected, "bodies were too short: {self:?}");
        }
        let Self { requests, duration_us, p50_us, p99_us, .. } = self;
        Ok(Answers { requests, duration_us, p50_us, p99_us, failures })
    }
}

/// Drives load from its own CPUs.
#[derive(Debug)]
pub(super) struct Generator {
    /// Where its clients stand.
    pub(super) place: Place,
    cpus: Vec<usize>,
    script: PathBuf,
    spread: PathBuf,
    shown: PathBuf,
    /// Our own client, where it could be built.
    client: Option<PathBuf>,
    scratch: Scratch,
}

impl Generator {
    /// Looks for the tools. `client` is the built `benches/load`.
    pub(super) fn new(cpus: Vec<usize>, client: Option<PathBuf>) -> anyhow::Result<Self> {
        // wrk has no way to say its version and succeed.
        tool("wrk", "-v", "wrk")?;
        tool("curl", "--version", "curl")?;
        let scratch = Scratch::new()?;
        let script = scratch.write("wrk.lua", SCRIPT)?;
        let spread = scratch.write("wrk-spread.lua", format!("{SCRIPT}{SPREAD}"))?;
        let shown = scratch.write("wrk-shown.lua", format!("{SCRIPT}{SHOWN}"))?;
        Ok(Self { place: Place::here(), cpus, script, spread, shown, client, scratch })
    }

    /// The same with clients elsewhere.
    pub(super) fn in_place(self, place: Place) -> Self {
        Self { place, ..self }
    }

    /// One burst that nobody measures; an error when any of it failed.
    pub(super) fn warm_up(&self, load: &Load, burst_s: u32) -> anyhow::Result<()> {
        let answers = self.burst(load, burst_s)?;
        ensure!(answers.failures == 0, "requests failed while warming up: {answers:?}");
        Ok(())
    }

    /// One burst of `burst_s` seconds. An error when nothing was answered or bodies were too short.
    pub(super) fn burst(&self, load: &Load, burst_s: u32) -> anyhow::Result<Answers> {
        match load.pace {
            Pace::Closed | Pace::Spread(_) => self.line(self.wrk(load, burst_s), burst_s)?.answers(load),
            Pace::Fresh | Pace::Constant(_) => {
                self.line(own::command(&self.place, self.client()?, load, burst_s), burst_s)?.answers(load)
            }
            Pace::Streams(streams) => {
                let log = self.scratch.path().join("h2load.log");
                let output = self.run(h2load::command(&self.place, load, streams, burst_s, &log), burst_s)?;
                h2load::parse(&output, &log).with_context(|| output)
            }
        }
    }

    /// Opens idle connections that stay until the guard is dropped.
    pub(super) fn hold(&self, load: &Load) -> anyhow::Result<Held> {
        cpu::on(&self.cpus, || {
            own::hold(&self.place, self.client()?, load, self.scratch.path().join("hold.output"))
        })
    }

    fn client(&self) -> anyhow::Result<&Path> {
        self.client.as_deref().context("the load client of benches/load could not be built")
    }

    fn line(&self, command: Command, burst_s: u32) -> anyhow::Result<Line> {
        let output = self.run(command, burst_s)?;
        parse(&output).with_context(|| output)
    }

    /// Runs a tool to its end on the load's CPUs; what it wrote.
    fn run(&self, command: Command, burst_s: u32) -> anyhow::Result<String> {
        let output = self.scratch.path().join("output");
        if output.exists() {
            std::fs::remove_file(&output)?;
        }
        let name = command.get_program().to_string_lossy().into_owned();
        let mut process = cpu::on(&self.cpus, || Process::start(command, output))?;
        let status = process.wait(Duration::from_secs(burst_s.into()) + OVERTIME_MAX)?;
        interrupt::check()?;
        match status {
            Some(status) if status.success() => Ok(process.output()),
            Some(status) => bail!("{name} ended with {status}: {}", process.output()),
            None => bail!("{name} did not end: {}", process.output()),
        }
    }

    fn wrk(&self, load: &Load, burst_s: u32) -> Command {
        let mut command = self.place.command("wrk");
        command.args(["--threads", "1", "--connections", &load.connections.to_string()]);
        let script = match (&load.shown, load.pace) {
            (Some(_), _) => &self.shown,
            (None, Pace::Spread(_)) => &self.spread,
            (None, _) => &self.script,
        };
        command.args(["--duration", &format!("{burst_s}s"), "--script"]).arg(script);
        for header in &load.headers {
            command.args(["--header", header]);
        }
        command.arg(load.url());
        match (&load.shown, load.pace) {
            (Some(file), _) => command.arg("--").arg(file),
            (None, Pace::Spread(targets)) => command.args(["--", &targets.to_string()]),
            (None, _) => &mut command,
        };
        command
    }
}

/// One request: an error unless it is answered with 200, a body of the right length and in the right protocol.
pub(super) fn check(place: &Place, load: &Load) -> anyhow::Result<()> {
    let mut command = place.command("curl");
    command.args(["--silent", "--show-error", "--insecure", "--noproxy", "*"]);
    let version = match load.protocol {
        Protocol::Http1 | Protocol::Http1Tls => "--http1.1",
        Protocol::Http2Tls => "--http2",
        Protocol::Http2 => "--http2-prior-knowledge",
    };
    command.args([version, "--max-time", CHECK_TIME_MAX_S, "--output", "/dev/null"]);
    command.args(["--write-out", "%{http_code} %{size_download} %{http_version}"]);
    for header in &load.headers {
        command.args(["--header", header]);
    }
    if let Some(file) = &load.shown {
        let lines = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        command.args(["--header", lines.lines().next().unwrap_or_default()]);
    }
    // By name where it goes into SNI, as the load asks later.
    let Load { protocol, address, target, .. } = load;
    let url = format!("{}://{HOST}:{}{target}", protocol.scheme(), address.port());
    command.args(["--resolve", &format!("{HOST}:{}:{}", address.port(), address.ip())]);
    let output = command.arg(&url).output().context("curl")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let expected = format!("200 {} {}", load.body_bytes, if load.protocol.is_h2() { "2" } else { "1.1" });
    ensure!(
        output.status.success() && said == expected,
        "{url} answered {said:?} instead of {expected:?} (status, body bytes, HTTP version): {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// An error that says how to get it when `program` does not start.
pub(super) fn tool(program: &str, version: &str, package: &str) -> anyhow::Result<()> {
    let started = Command::new(program).arg(version).output();
    let hint = || format!("{program} does not start (Debian: apt-get install {package})");
    started.map(|_| ()).with_context(hint)
}

/// The last line that is JSON of ours.
fn parse(output: &str) -> Option<Line> {
    output.lines().rev().find_map(|line| serde_json::from_str(line).ok())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use xtask::lab::{
        self,
        upstream::{NGINX, Nginx},
    };

    const LINE: &str = r#"{"requests":61234,"duration_us":2000123,"bytes":18370200,"p50_us":1480,"p99_us":2610,"errors":{"connect":0,"read":1,"write":0,"timeout":2,"status":4}}"#;

    #[track_caller]
    fn check_line(output: &str, expected: Option<(u32, u32)>) {
        let load = Load { body_bytes: 1, ..any_load() };
        let found = parse(output).and_then(|line| line.answers(&load).ok());
        let found = found.map(|answers| (answers.requests, answers.failures));
        assert_eq!(found, expected, "{output:?}");
    }

    #[test]
    fn the_scripts_line_is_found() {
        check_line(LINE, Some((61_234, 7)));
        check_line(
            &format!("Running 2s test @ http://…\n  1 threads\nTransfer/sec: 1MB\n{LINE}\n"),
            Some((61_234, 7)),
        );
        check_line("Running 2s test @ http://…\n", None);
        check_line(&LINE.replace("\"status\"", "\"other\""), None);
        check_line(&LINE.replace("61234", "-1"), None);
        check_line("", None);
    }

    #[test]
    fn the_figures_are_read() {
        let expected = Answers {
            requests: 61_234,
            duration_us: 2_000_123.0,
            p50_us: 1480.0,
            p99_us: 2610.0,
            failures: 7,
        };
        assert_eq!(parse(LINE).unwrap().answers(&any_load()).unwrap(), expected);
    }

    #[test]
    fn a_missing_tool_is_named_with_its_package() {
        let error = tool("wrk-that-nobody-has", "-v", "wrk").unwrap_err();
        assert!(error.to_string().contains("apt-get install wrk"), "{error}");
    }

    fn any_load() -> Load {
        Load {
            protocol: Protocol::Http1,
            address: (Ipv4Addr::LOCALHOST, 1).into(),
            target: "/".to_owned(),
            headers: Vec::new(),
            shown: None,
            connections: 2,
            body_bytes: 0,
            pace: Pace::Closed,
        }
    }

    /// An upstream of the lab and what drives it, where they are installed.
    fn stage(test: &str) -> Option<(Nginx, Generator)> {
        let generator = cpu::Cores::divide().and_then(|cores| Generator::new(cores.load, None));
        match generator {
            Ok(generator) if Path::new(NGINX).exists() => {
                let [free] = Place::here().free_addresses(Ipv4Addr::LOCALHOST.into()).unwrap();
                Some((Nginx::start(&Place::here(), free, "blue").unwrap(), generator))
            }
            Ok(_) => {
                lab::skip(test, "nginx is not installed");
                None
            }
            Err(why) => {
                lab::skip(test, &why.to_string());
                None
            }
        }
    }

    fn load(nginx: &Nginx, target: &str, body_bytes: u32) -> Load {
        let headers = vec![format!("Host: {HOST}")];
        Load { address: nginx.address(), target: target.to_owned(), headers, body_bytes, ..any_load() }
    }

    #[test]
    fn one_request_tells_what_is_wrong() {
        let Some((nginx, _)) = stage("one_request_tells_what_is_wrong") else { return };
        let here = Place::here();
        check(&here, &load(&nginx, "/files/16k", 16 * 1024)).unwrap();
        for (target, body_bytes) in [("/files/16k", 16 * 1024 + 1), ("/files/128", 127), ("/status/503", 5)] {
            assert!(check(&here, &load(&nginx, target, body_bytes)).is_err(), "{target} {body_bytes}");
        }
    }

    #[test]
    fn a_burst_counts_answers_and_failures() {
        let Some((nginx, generator)) = stage("a_burst_counts_answers_and_failures") else { return };
        let good = generator.burst(&load(&nginx, "/files/16k", 16 * 1024), 1).unwrap();
        assert_eq!(good.failures, 0);
        assert!(good.requests > 0 && good.p50_us <= good.p99_us);
        let refused = load(&nginx, "/status/404", 9);
        assert!(generator.burst(&refused, 1).unwrap().failures > 0);
        assert!(generator.warm_up(&refused, 1).is_err());
        // A head is shorter than the 16 KiB that are missing from each body.
        assert!(generator.burst(&load(&nginx, "/files/128", 16 * 1024), 1).is_err());
    }
}
