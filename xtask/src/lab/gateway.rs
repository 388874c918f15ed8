//! The built gateway, started with a configuration of one's own, watched and stopped.
//!
//! Comes in: the binary, a place, a configuration. Goes out: a process that answers, its metrics and its bans. It is
//! only used as an operator would: command line, signals, admin listener. What it is called there stands in
//! [`names`].

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;

use super::{
    client::{ClientError, Connection, Request, Response},
    metrics::Metrics,
    place::Place,
    process::Process,
    wait,
};

/// How the gateway calls things: its command line, admin listener and metrics.
pub mod names {
    /// `portcullis run --config FILE`
    pub const RUN: &str = "run";
    /// `portcullis run --yes-really`: filter although nobody is allowed for certain.
    pub const YES_REALLY: &str = "--yes-really";
    /// `portcullis check --config FILE`
    pub const CHECK: &str = "check";
    /// The option that names the configuration.
    pub const CONFIG: &str = "--config";
    /// `portcullis bans list --json --config FILE`
    pub const BANS_LIST: [&str; 3] = ["bans", "list", "--json"];
    /// `portcullis keys create --store FILE --consumer NAME --role NAME`
    pub const KEYS_CREATE: [&str; 2] = ["keys", "create"];
    /// Answers 2xx once the gateway serves.
    pub const HEALTH: &str = "/health";
    /// The Prometheus scrape.
    pub const METRICS: &str = "/metrics";
    /// Packets at the NIC by `reason` and `verdict`.
    pub const NIC_PACKETS: &str = "portcullis_nic_packets_total";
    /// The verdict of packets that were dropped.
    pub const VERDICT_DROP: &str = "drop";
    /// Answers by `status`.
    pub const RESPONSES: &str = "portcullis_responses_total";
}

/// How long it may take until it answers.
const START_TIME_MAX: Duration = Duration::from_secs(20);
/// For one question to the admin listener.
const ADMIN_TIME_MAX: Duration = Duration::from_secs(5);

/// What to start, and where.
#[derive(Debug, Clone)]
pub struct Start<'a> {
    /// The built `portcullis`.
    pub binary: &'a Path,
    /// The namespace that it runs in.
    pub place: Place,
    /// Where its configuration and its output are written; relative paths in the configuration start here.
    pub directory: &'a Path,
    /// The configuration.
    pub config: &'a str,
    /// A listener to wait for.
    pub listener: SocketAddr,
    /// The admin listener, if the configuration has one: then its health is waited for as well.
    pub admin: Option<SocketAddr>,
}

/// A running gateway; stopped when dropped.
#[derive(Debug)]
pub struct Gateway {
    process: Process,
    binary: PathBuf,
    place: Place,
    config: PathBuf,
    admin: Option<SocketAddr>,
}

/// A block at the NIC, as `bans list --json` tells it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Ban {
    /// Address or prefix.
    pub source: String,
    /// Why.
    pub reason: String,
    /// Who said so: the configuration, an operator, an escalation.
    #[serde(default)]
    pub origin: Option<String>,
    /// How many times within the memory of the escalation.
    #[serde(default)]
    pub strikes: u64,
    /// Packets dropped on its account.
    #[serde(default)]
    pub drops: u64,
    /// Milliseconds until it ends.
    #[serde(default)]
    pub expires_in_ms: Option<f64>,
    /// From the offence that crossed the line to the first packet that was dropped, as the kernel stamped it.
    #[serde(default)]
    pub offence_to_first_drop_ms: Option<f64>,
    /// The route of that offence.
    #[serde(default)]
    pub route: Option<String>,
    /// Its request id.
    #[serde(default)]
    pub request_id: Option<String>,
}

impl Gateway {
    /// Starts it and waits until it answers. The error holds what it wrote.
    pub fn start(start: &Start<'_>) -> anyhow::Result<Self> {
        let config = start.directory.join("portcullis.toml");
        fs::write(&config, start.config).with_context(|| config.display().to_string())?;
        let mut command = start.place.command(start.binary);
        // Nobody administers a host of the lab, so nobody can be locked out of it.
        command
            .args([names::RUN, names::CONFIG])
            .arg(&config)
            .arg(names::YES_REALLY)
            .current_dir(start.directory);
        let process = Process::start(command, start.directory.join("portcullis.output"))?;
        let mut gateway = Self {
            process,
            binary: start.binary.to_owned(),
            place: start.place.clone(),
            config,
            admin: start.admin,
        };
        let answer = wait::until(START_TIME_MAX, || {
            if let Ok(Some(status)) = gateway.process.wait(Duration::ZERO) {
                return Some(Err(status));
            }
            gateway.answers(start.listener).then_some(Ok(()))
        });
        match answer {
            Some(Ok(())) => Ok(gateway),
            Some(Err(status)) => bail!("portcullis ended with {status}: {}", gateway.process.output()),
            None => bail!("portcullis does not answer on {}: {}", start.listener, gateway.process.output()),
        }
    }

    fn answers(&self, listener: SocketAddr) -> bool {
        let accepts = || Connection::open_in(&self.place, listener, None, ADMIN_TIME_MAX).is_ok();
        let healthy =
            || self.admin.is_none() || self.admin_get(names::HEALTH).is_ok_and(|answer| answer.status < 300);
        accepts() && healthy()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Its process, for signals and for waiting.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// What it has written to standard output and error; the last 4 KiB.
    pub fn output(&self) -> String {
        self.process.output()
    }

    /// The configuration file.
    pub fn config_file(&self) -> &Path {
        &self.config
    }

    /// Replaces the configuration file; what makes the gateway read it is the caller's business.
    pub fn write_config(&self, text: &str) -> io::Result<()> {
        fs::write(&self.config, text)
    }

    /// Asks it to drain (SIGTERM) and waits until it has ended; an error after `time_max`.
    pub fn terminate(mut self, time_max: Duration) -> anyhow::Result<std::process::ExitStatus> {
        self.process.signal(libc::SIGTERM)?;
        let ended = self.process.wait(time_max)?;
        ended.with_context(|| format!("portcullis did not end on SIGTERM: {}", self.process.output()))
    }

    /// Kills it (SIGKILL), as a crash would, and waits until it is gone.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.process.signal(libc::SIGKILL)?;
        self.process.wait(ADMIN_TIME_MAX)?.context("it did not end on SIGKILL")?;
        Ok(())
    }

    /// `GET target` from the admin listener.
    pub fn admin_get(&self, target: &str) -> Result<Response, ClientError> {
        let Some(admin) = self.admin else { return Err(ClientError::Refused) };
        let mut connection = Connection::open_in(&self.place, admin, None, ADMIN_TIME_MAX)?;
        let host = admin.to_string();
        connection.request(&Request { host: &host, ..Request::get(target).with(&[("connection", "close")]) })
    }

    /// Everything that it counts.
    pub fn metrics(&self) -> anyhow::Result<Metrics> {
        let response = self.admin_get(names::METRICS).context(names::METRICS)?;
        ensure!(response.status == 200, "{}: {} {}", names::METRICS, response.status, response.text());
        Ok(Metrics::parse(&response.text()))
    }

    /// Runs `portcullis ARGUMENTS --config FILE` where the gateway runs.
    pub fn command(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let mut command = self.place.command(&self.binary);
        command.args(arguments).arg(names::CONFIG).arg(&self.config);
        command.output().with_context(|| self.binary.display().to_string())
    }

    /// The blocks that hold now.
    pub fn bans(&self) -> anyhow::Result<Vec<Ban>> {
        let output = self.command(&names::BANS_LIST)?;
        let said = || names::BANS_LIST.join(" ");
        ensure!(output.status.success(), "{}: {}", said(), String::from_utf8_lossy(&output.stderr).trim());
        serde_json::from_slice(&output.stdout).with_context(said)
    }
}

/// Makes an API key in the store file `store` and returns the key.
pub fn create_key(binary: &Path, store: &Path, consumer: &str, role: &str) -> anyhow::Result<String> {
    let mut command = Place::here().command(binary);
    command.args(names::KEYS_CREATE).arg("--store").arg(store).args(["--consumer", consumer, "--role", role]);
    let output = command.output().with_context(|| binary.display().to_string())?;
    let said = || names::KEYS_CREATE.join(" ");
    ensure!(output.status.success(), "{}: {}", said(), String::from_utf8_lossy(&output.stderr).trim());
    let key = String::from_utf8(output.stdout).with_context(said)?.trim().to_owned();
    ensure!(!key.is_empty(), "{} printed no key", said());
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::scratch::Scratch;

    #[test]
    fn one_that_ends_at_once_is_quoted() {
        let scratch = Scratch::new().unwrap();
        let error = Gateway::start(&Start {
            binary: Path::new("/bin/ls"),
            place: Place::here(),
            directory: scratch.path(),
            config: "",
            listener: "127.0.0.1:1".parse().unwrap(),
            admin: None,
        })
        .unwrap_err();
        assert!(error.to_string().contains("--config"), "{error}");
    }

    #[test]
    fn a_ban_may_lack_what_is_not_known_yet() {
        let text = r#"[{"source": "192.0.2.66", "reason": "unauthorized", "offence_to_first_drop_ms": null},
            {"source": "192.0.2.67", "reason": "limited", "offence_to_first_drop_ms": 1.5, "drops": 3, "new": 1}]"#;
        let bans: Vec<Ban> = serde_json::from_str(text).unwrap();
        assert_eq!(bans[0].offence_to_first_drop_ms, None);
        assert_eq!((bans[1].offence_to_first_drop_ms, bans[1].drops), (Some(1.5), 3));
    }
}
