//! The load: wrk(1) in short closed-loop bursts over keep-alive connections, and one curl(1) before them.
//!
//! Comes in: a URL, header fields, how many connections, how long a body has to be. Goes out: what wrk counted
//! ([`Answers`]), with every answer and connection that failed. It decides nothing about them.

use std::{path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;

use super::cpu;
use crate::interrupt;
use xtask::lab::{place::Place, process::Process, scratch::Scratch};

/// Prints the line that [`Answers`] is read from.
const SCRIPT: &str = include_str!("../../../benches/wrk.lua");
/// How long wrk may take beyond the burst itself.
const OVERTIME_MAX: Duration = Duration::from_secs(10);
/// For the one request of [`check`].
const CHECK_TIME_MAX_S: &str = "5";

/// What is asked, and by how many at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Load {
    /// Such as `http://127.0.0.1:8080/files/128`.
    pub(super) url: String,
    /// Header fields, `name: value`.
    pub(super) headers: Vec<String>,
    /// Keep-alive connections, one request on each at a time.
    pub(super) connections: u32,
    /// Length of every answer's body.
    pub(super) body_bytes: u32,
}

/// What wrk counted in one burst.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub(super) struct Answers {
    /// Answers of any status.
    pub(super) requests: u32,
    /// From the first request to the end.
    pub(super) duration_us: f64,
    /// Heads and bodies.
    bytes: f64,
    /// Median time from request to answer.
    pub(super) p50_us: f64,
    /// 99th percentile of the same.
    pub(super) p99_us: f64,
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

impl Answers {
    /// Connections that failed, answers that did not come in 2 s, answers of status 400 and above.
    pub(super) fn failures(&self) -> u32 {
        let Errors { connect, read, write, timeout, status } = self.errors;
        [connect, read, write, timeout, status].iter().fold(0, |sum, errors| sum.saturating_add(*errors))
    }
}

/// Drives load from its own CPUs.
#[derive(Debug)]
pub(super) struct Generator {
    cpus: Vec<usize>,
    script: PathBuf,
    scratch: Scratch,
}

impl Generator {
    /// Looks for the tools.
    pub(super) fn new(cpus: Vec<usize>) -> anyhow::Result<Self> {
        // wrk has no way to say its version and succeed.
        tool("wrk", "-v", "wrk")?;
        tool("curl", "--version", "curl")?;
        let scratch = Scratch::new()?;
        let script = scratch.write("wrk.lua", SCRIPT)?;
        Ok(Self { cpus, script, scratch })
    }

    /// One burst that nobody measures; an error when any of it failed.
    pub(super) fn warm_up(&self, load: &Load, burst_s: u32) -> anyhow::Result<()> {
        let answers = self.burst(load, burst_s)?;
        ensure!(answers.failures() == 0, "requests failed while warming up: {answers:?}");
        Ok(())
    }

    /// One burst of `burst_s` seconds. An error when nothing was answered or bodies were too short.
    pub(super) fn burst(&self, load: &Load, burst_s: u32) -> anyhow::Result<Answers> {
        let output = self.scratch.path().join("wrk.output");
        if output.exists() {
            std::fs::remove_file(&output)?;
        }
        let mut wrk = cpu::on(&self.cpus, || Process::start(self.command(load, burst_s), output))?;
        let status = wrk.wait(Duration::from_secs(burst_s.into()) + OVERTIME_MAX)?;
        interrupt::check()?;
        match status {
            Some(status) if status.success() => {}
            Some(status) => bail!("wrk ended with {status}: {}", wrk.output()),
            None => bail!("wrk did not end: {}", wrk.output()),
        }
        let answers = parse(&wrk.output()).with_context(|| wrk.output())?;
        ensure!(answers.requests > 0, "no request was answered: {answers:?}");
        if answers.failures() == 0 {
            let expected = f64::from(answers.requests) * f64::from(load.body_bytes);
            ensure!(answers.bytes >= expected, "bodies were too short: {answers:?}");
        }
        Ok(answers)
    }

    fn command(&self, load: &Load, burst_s: u32) -> Command {
        let mut command = Place::here().command("wrk");
        command.args(["--threads", "1", "--connections", &load.connections.to_string()]);
        command.args(["--duration", &format!("{burst_s}s"), "--script"]).arg(&self.script);
        for header in &load.headers {
            command.args(["--header", header]);
        }
        command.arg(&load.url);
        command
    }
}

/// One request: an error unless it is answered with 200 and a body of the right length.
pub(super) fn check(load: &Load) -> anyhow::Result<()> {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--insecure", "--http1.1", "--noproxy", "*"]);
    command.args(["--max-time", CHECK_TIME_MAX_S, "--output", "/dev/null"]);
    command.args(["--write-out", "%{http_code} %{size_download}"]);
    for header in &load.headers {
        command.args(["--header", header]);
    }
    let output = command.arg(&load.url).output().context("curl")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let expected = format!("200 {}", load.body_bytes);
    ensure!(
        output.status.success() && said == expected,
        "{} answered {said:?} instead of {expected:?} (status, body bytes): {}",
        load.url,
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

/// The last line that is the script's.
fn parse(output: &str) -> Option<Answers> {
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
        let found = parse(output).map(|answers| (answers.requests, answers.failures()));
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
            bytes: 18_370_200.0,
            p50_us: 1480.0,
            p99_us: 2610.0,
            errors: Errors { connect: 0, read: 1, write: 0, timeout: 2, status: 4 },
        };
        assert_eq!(parse(LINE), Some(expected));
    }

    #[test]
    fn a_missing_tool_is_named_with_its_package() {
        let error = tool("wrk-that-nobody-has", "-v", "wrk").unwrap_err();
        assert!(error.to_string().contains("apt-get install wrk"), "{error}");
    }

    /// An upstream of the lab and what drives it, where they are installed.
    fn stage(test: &str) -> Option<(Nginx, Generator)> {
        let generator = cpu::Cores::divide().and_then(|cores| Generator::new(cores.load));
        match generator {
            Ok(generator) if std::path::Path::new(NGINX).exists() => {
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
        let headers = vec!["Host: api.example.com".to_owned()];
        Load { url: format!("http://{}{target}", nginx.address()), headers, connections: 2, body_bytes }
    }

    #[test]
    fn one_request_tells_what_is_wrong() {
        let Some((nginx, _)) = stage("one_request_tells_what_is_wrong") else { return };
        check(&load(&nginx, "/files/16k", 16 * 1024)).unwrap();
        for (target, body_bytes) in [("/files/16k", 16 * 1024 + 1), ("/files/128", 127), ("/status/503", 5)] {
            assert!(check(&load(&nginx, target, body_bytes)).is_err(), "{target} {body_bytes}");
        }
    }

    #[test]
    fn a_burst_counts_answers_and_failures() {
        let Some((nginx, generator)) = stage("a_burst_counts_answers_and_failures") else { return };
        let good = generator.burst(&load(&nginx, "/files/16k", 16 * 1024), 1).unwrap();
        assert_eq!(good.failures(), 0);
        assert!(good.requests > 0 && good.p50_us <= good.p99_us);
        let refused = load(&nginx, "/status/404", 9);
        assert!(generator.burst(&refused, 1).unwrap().failures() > 0);
        assert!(generator.warm_up(&refused, 1).is_err());
        // A head is shorter than the 16 KiB that are missing from each body.
        assert!(generator.burst(&load(&nginx, "/files/128", 16 * 1024), 1).is_err());
    }
}
