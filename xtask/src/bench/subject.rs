//! The subjects: proxies before one upstream, each a process tree on the same CPU, with a plain and a TLS listener.
//!
//! Comes in: the CPUs, a built gateway. Goes out: running proxies and where they listen. Their configurations stand in
//! `benches/`, to be read and criticised; what differs from run to run is filled in between at signs.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, bail, ensure};

use super::{
    cpu::{self, Cores},
    load,
};
use xtask::lab::{
    client::Connection,
    gateway::{Gateway, Start, create_key},
    place::Place,
    process::Process,
    scratch::Scratch,
    upstream::{NGINX, Nginx},
    wait,
};

/// The value of `host` in every request: what our route asks for.
pub(super) const HOST: &str = "api.example.com";

const GATEWAY: &str = include_str!("../../../benches/portcullis.toml");
const PEER_NGINX: &str = include_str!("../../../benches/peers/nginx.conf");
const UPSTREAM: &str = include_str!("../../../benches/upstream.conf");

/// How long a peer may take until it accepts.
const START_TIME_MAX: Duration = Duration::from_secs(10);
/// For one try.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(1);

/// A running proxy; stopped when dropped.
#[derive(Debug)]
pub(super) struct Subject {
    /// What reports call it.
    pub(super) name: &'static str,
    /// Whether it is what the goals are for.
    pub(super) own: bool,
    /// Fields that each of its requests carries, `name: value`.
    pub(super) headers: Vec<String>,
    listeners: Listeners,
    // Stopped before its directory goes away.
    running: Running,
    _scratch: Scratch,
}

#[derive(Debug)]
enum Running {
    Gateway(Gateway),
    Peer(Process),
}

/// Where a subject listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Listeners {
    plain: SocketAddr,
    tls: SocketAddr,
}

impl Subject {
    /// `scheme://address` of the listener for `http` or `https`.
    pub(super) fn origin(&self, scheme: Scheme) -> String {
        match scheme {
            Scheme::Http => format!("http://{}", self.listeners.plain),
            Scheme::Https => format!("https://{}", self.listeners.tls),
        }
    }

    /// The root of its process tree.
    pub(super) fn pid(&self) -> u32 {
        match &self.running {
            Running::Gateway(gateway) => gateway.pid(),
            Running::Peer(process) => process.pid(),
        }
    }

    /// The end of what it wrote to standard output and error.
    pub(super) fn output(&self) -> String {
        match &self.running {
            Running::Gateway(gateway) => gateway.output(),
            Running::Peer(process) => process.output(),
        }
    }
}

/// With or without TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    /// Plain.
    Http,
    /// TLS, certificate with a P-256 key.
    Https,
}

/// What all subjects stand before and share.
#[derive(Debug)]
pub(super) struct Stage {
    cores: Cores,
    upstream: Nginx,
    // The directory of the certificate.
    _scratch: Scratch,
    chain: PathBuf,
    key: PathBuf,
}

impl Stage {
    /// Starts the upstream on the load's CPUs and makes a certificate.
    pub(super) fn new(cores: Cores) -> anyhow::Result<Self> {
        let scratch = Scratch::new()?;
        let [address] = Place::here().free_addresses(Ipv4Addr::LOCALHOST.into())?;
        let block = replace(UPSTREAM, "address", &address.to_string());
        let block = replace(&block, "body128", &"x".repeat(128));
        let upstream = cpu::on(&cores.load, || {
            Nginx::start_with(&Place::here(), address, |directory| {
                replace(&block, "directory", &directory.display().to_string())
            })
        })
        .context("the upstream")?;
        let (chain, key) = make_certificate(scratch.path())?;
        Ok(Self { cores, upstream, _scratch: scratch, chain, key })
    }

    /// Starts Debian's nginx as a proxy.
    pub(super) fn nginx(&self, name: &'static str, own: bool) -> anyhow::Result<Subject> {
        let scratch = Scratch::new()?;
        let [plain, tls] = Place::here().free_addresses(Ipv4Addr::LOCALHOST.into())?;
        let config = self.fill(
            PEER_NGINX,
            Listeners { plain, tls },
            &[("directory", scratch.path().display().to_string())],
        )?;
        let config = scratch.write("nginx.conf", config)?;
        let process = cpu::on(&[self.cores.proxy], || {
            let mut command = Place::here().command(NGINX);
            command.arg("-p").arg(scratch.path()).arg("-c").arg(config);
            start_peer(command, scratch.path().join("output"), plain)
        })
        .context(name)?;
        let listeners = Listeners { plain, tls };
        Ok(Subject {
            name,
            own,
            headers: host(),
            listeners,
            running: Running::Peer(process),
            _scratch: scratch,
        })
    }

    /// Starts the gateway with a key that may read.
    pub(super) fn gateway(&self, name: &'static str, binary: &Path) -> anyhow::Result<Subject> {
        let scratch = Scratch::new()?;
        let [plain, tls, admin] = Place::here().free_addresses(Ipv4Addr::LOCALHOST.into())?;
        let store = scratch.path().join("keys.db");
        let api_key = create_key(binary, &store, "bench", "reader")?;
        let config = self.fill(
            GATEWAY,
            Listeners { plain, tls },
            &[
                ("cpu", self.cores.proxy.to_string()),
                ("admin", admin.to_string()),
                ("store", store.display().to_string()),
            ],
        )?;
        let gateway = cpu::on(&[self.cores.proxy], || {
            Gateway::start(&Start {
                binary,
                place: Place::here(),
                directory: scratch.path(),
                config: &config,
                listener: plain,
                admin: Some(admin),
            })
        })?;
        let mut headers = host();
        headers.push(format!("x-api-key: {api_key}"));
        let listeners = Listeners { plain, tls };
        Ok(Subject {
            name,
            own: true,
            headers,
            listeners,
            running: Running::Gateway(gateway),
            _scratch: scratch,
        })
    }

    /// Fills in what all subjects share and what this one has of its own.
    fn fill(&self, template: &str, listeners: Listeners, own: &[(&str, String)]) -> anyhow::Result<String> {
        let shared = [
            ("upstream", self.upstream.address().to_string()),
            ("plain", listeners.plain.to_string()),
            ("tls", listeners.tls.to_string()),
            ("chain", self.chain.display().to_string()),
            ("key", self.key.display().to_string()),
        ];
        fill(template, shared.iter().chain(own))
    }
}

/// In this spelling wrk takes it for its own `Host`; in any other it would send two.
fn host() -> Vec<String> {
    vec![format!("Host: {HOST}")]
}

fn start_peer(command: Command, output: PathBuf, listener: SocketAddr) -> anyhow::Result<Process> {
    let mut process = Process::start(command, output)?;
    let answer = wait::until(START_TIME_MAX, || {
        if let Ok(Some(status)) = process.wait(Duration::ZERO) {
            return Some(Err(status));
        }
        Connection::open(listener, None, CONNECT_TIME_MAX).is_ok().then_some(Ok(()))
    });
    match answer {
        Some(Ok(())) => Ok(process),
        Some(Err(status)) => bail!("ended with {status}: {}", process.output()),
        None => bail!("does not accept on {listener}: {}", process.output()),
    }
}

/// A self-signed certificate with a P-256 key, as PEM files: chain and key.
fn make_certificate(directory: &Path) -> anyhow::Result<(PathBuf, PathBuf)> {
    load::tool("openssl", "version", "openssl")?;
    let (chain, key) = (directory.join("chain.pem"), directory.join("key.pem"));
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
    command.args([
        "-days",
        "2",
        "-subj",
        &format!("/CN={HOST}"),
        "-addext",
        &format!("subjectAltName=DNS:{HOST}"),
    ]);
    let output = command.arg("-keyout").arg(&key).arg("-out").arg(&chain).output().context("openssl req")?;
    ensure!(output.status.success(), "openssl req: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok((chain, key))
}

/// Replaces each `@name@` by its value; an error names one that is left.
fn fill<'a>(
    template: &str,
    values: impl IntoIterator<Item = &'a (&'a str, String)>,
) -> anyhow::Result<String> {
    let text =
        values.into_iter().fold(template.to_owned(), |text, (name, value)| replace(&text, name, value));
    match placeholder(&text) {
        Some(name) => bail!("@{name}@ was not filled in"),
        None => Ok(text),
    }
}

fn replace(text: &str, name: &str, value: &str) -> String {
    text.replace(&format!("@{name}@"), value)
}

/// The first `@name@` of lower-case letters and digits.
fn placeholder(text: &str) -> Option<&str> {
    let is_name =
        |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    // Every part but the first and the last stands between two at signs.
    let mut parts = text.split('@').skip(1).peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_some() && is_name(&part) {
            return Some(part);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use xtask::lab;

    use crate::bench::{cpu::Usage, load::Load};

    #[track_caller]
    fn check_placeholder(text: &str, expected: Option<&str>) {
        assert_eq!(placeholder(text), expected, "{text}");
    }

    #[test]
    fn placeholders_are_lower_case_between_at_signs() {
        check_placeholder("listen @plain@;", Some("plain"));
        check_placeholder("a@b c@d@", Some("d"));
        check_placeholder("@body128@", Some("body128"));
        check_placeholder("@NAMES@ are", None);
        check_placeholder("@@", None);
        check_placeholder("one@example", None);
        check_placeholder("", None);
    }

    #[test]
    fn what_is_left_open_is_an_error() {
        let value = ("plain", "127.0.0.1:80".to_owned());
        assert_eq!(fill("listen @plain@;", [&value]).unwrap(), "listen 127.0.0.1:80;");
        let error = fill("listen @plain@ @tls@;", [&value]).unwrap_err();
        assert_eq!(error.to_string(), "@tls@ was not filled in");
    }

    fn stage(test: &str) -> Option<Stage> {
        let missing = load::tool("curl", "--version", "curl")
            .and_then(|()| load::tool(NGINX, "-v", "nginx"))
            .and_then(|()| load::tool("openssl", "version", "openssl"));
        match missing.and_then(|()| Cores::divide()) {
            Ok(cores) => Some(Stage::new(cores).unwrap()),
            Err(why) => {
                lab::skip(test, &why.to_string());
                None
            }
        }
    }

    #[test]
    fn the_peer_answers_plain_and_over_tls() {
        let Some(stage) = stage("the_peer_answers_plain_and_over_tls") else { return };
        let nginx = stage.nginx("nginx", false).unwrap();
        for (scheme, target, body_bytes) in [
            (Scheme::Http, "/files/128", 128),
            (Scheme::Http, "/files/16k", 16 * 1024),
            (Scheme::Https, "/files/1m", 1024 * 1024),
        ] {
            let url = format!("{}{target}", nginx.origin(scheme));
            load::check(&Load { url, headers: nginx.headers.clone(), connections: 1, body_bytes }).unwrap();
        }
        assert!(Usage::of(nginx.pid()).is_ok());
    }

    #[test]
    fn our_configuration_is_filled_in() {
        let names = ["cpu", "plain", "tls", "chain", "key", "admin", "upstream", "store"];
        let values = names.map(|name| (name, format!("<{name}>")));
        let config = fill(GATEWAY, &values).unwrap();
        for name in names {
            assert!(config.contains(&format!("<{name}>")), "{name}");
        }
    }
}
