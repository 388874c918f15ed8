//! The subjects: proxies before one upstream, each a process tree on the same CPU, with a plain, a TLS and an h2c
//! listener.
//!
//! Comes in: the CPUs, a built gateway. Goes out: running proxies and where they listen. Their configurations stand in
//! `benches/`, to be read and criticised; what differs from run to run is filled in between at signs.

use std::{
    ffi::OsStr,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, bail, ensure};

use super::{
    cpu::{self, Cores},
    load,
    peers::Peer,
    report::NOT_BUILT,
};
use xtask::lab::{
    client::Connection,
    gateway::{Gateway, Start, create_key, names},
    metrics::Metrics,
    netns::{EDGE_V4, Lab},
    place::Place,
    process::Process,
    scratch::Scratch,
    upstream::Nginx,
    wait,
};

/// The value of `host` in every request: what our route asks for.
pub(super) const HOST: &str = "api.example.com";

const GATEWAY: &str = include_str!("../../../benches/portcullis.toml");
/// What our listeners speak, and what they speak in a build that has no HTTP/2 yet.
const PROTOCOLS: &str = r#""h2", "http/1.1""#;
const PROTOCOLS_WITHOUT_H2: &str = r#""http/1.1""#;
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
    has_h2: bool,
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
    h2c: SocketAddr,
}

impl Listeners {
    fn free(ground: &Ground) -> anyhow::Result<Self> {
        let [plain, tls, h2c] = ground.place.free_addresses(ground.host.into())?;
        Ok(Self { plain, tls, h2c })
    }

    fn all(&self) -> [SocketAddr; 3] {
        [self.plain, self.tls, self.h2c]
    }
}

impl Subject {
    /// The same as what the goals are for, or not.
    pub(super) fn with_own(self, own: bool) -> Self {
        Self { own, ..self }
    }

    /// Where it listens for this.
    pub(super) fn address(&self, protocol: Protocol) -> SocketAddr {
        match protocol {
            Protocol::Http1 => self.listeners.plain,
            Protocol::Http1Tls | Protocol::Http2Tls => self.listeners.tls,
            Protocol::Http2 => self.listeners.h2c,
        }
    }

    /// Why it cannot speak this, when that is known beforehand.
    pub(super) fn lacks(&self, protocol: Protocol) -> Option<String> {
        (protocol.is_h2() && !self.has_h2).then(|| format!("{NOT_BUILT}: its configuration refuses h2"))
    }

    /// The root of its process tree.
    pub(super) fn pid(&self) -> u32 {
        match &self.running {
            Running::Gateway(gateway) => gateway.pid(),
            Running::Peer(process) => process.pid(),
        }
    }

    /// What it counts, where it is the gateway.
    pub(super) fn metrics(&self) -> anyhow::Result<Metrics> {
        self.gateway()?.metrics()
    }

    /// It, where it is ours.
    pub(super) fn gateway(&self) -> anyhow::Result<&Gateway> {
        match &self.running {
            Running::Gateway(gateway) => Ok(gateway),
            Running::Peer(_) => bail!("{} is not ours", self.name),
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

/// What a client speaks to a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// HTTP/1.1 in the clear.
    Http1,
    /// HTTP/1.1 over TLS, certificate with a P-256 key.
    Http1Tls,
    /// HTTP/2 in the clear, by prior knowledge.
    Http2,
    /// HTTP/2 over the same TLS, by ALPN.
    Http2Tls,
}

impl Protocol {
    /// `http` or `https`.
    pub(super) fn scheme(self) -> &'static str {
        if self.is_tls() { "https" } else { "http" }
    }

    /// Whether there is TLS below.
    pub(super) fn is_tls(self) -> bool {
        matches!(self, Self::Http1Tls | Self::Http2Tls)
    }

    /// Whether it is HTTP/2.
    pub(super) fn is_h2(self) -> bool {
        matches!(self, Self::Http2 | Self::Http2Tls)
    }
}

/// Where subjects run and which address they listen on.
#[derive(Debug, Clone)]
pub(super) struct Ground {
    place: Place,
    host: Ipv4Addr,
}

impl Ground {
    /// This machine's own loopback.
    pub(super) fn loopback() -> Self {
        Self { place: Place::here(), host: Ipv4Addr::LOCALHOST }
    }

    /// The edge host of a lab, where the world sees it.
    pub(super) fn edge(lab: &Lab) -> Self {
        Self { place: lab.edge.place(), host: EDGE_V4 }
    }
}

/// What all subjects stand before and share.
#[derive(Debug)]
pub(super) struct Stage {
    cores: Cores,
    ground: Ground,
    upstream: Nginx,
    // The directory of the certificate.
    _scratch: Scratch,
    chain: PathBuf,
    key: PathBuf,
    /// Both in one file, as HAProxy wants them.
    pem: PathBuf,
}

impl Stage {
    /// Starts the upstream on the load's CPUs and makes a certificate.
    pub(super) fn new(cores: Cores, ground: Ground) -> anyhow::Result<Self> {
        let scratch = Scratch::new()?;
        let [address] = ground.place.free_addresses(Ipv4Addr::LOCALHOST.into())?;
        let block = replace(UPSTREAM, "address", &address.to_string());
        let block = replace(&block, "body128", &"x".repeat(128));
        let upstream = cpu::on(&cores.load, || {
            Nginx::start_with(&ground.place, address, |directory| {
                replace(&block, "directory", &directory.display().to_string())
            })
        })
        .context("the upstream")?;
        let (chain, key) = make_certificate(scratch.path())?;
        let both = fs::read_to_string(&chain)? + &fs::read_to_string(&key)?;
        let pem = scratch.write("both.pem", both)?;
        Ok(Self { cores, ground, upstream, _scratch: scratch, chain, key, pem })
    }

    /// Where the upstream is.
    pub(super) fn upstream(&self) -> SocketAddr {
        self.upstream.address()
    }

    /// Starts a peer as its documentation recommends.
    pub(super) fn peer(&self, peer: Peer, program: &Path, name: &'static str) -> anyhow::Result<Subject> {
        self.peer_as(peer, program, name, peer.template(), &[])
    }

    /// The same with another template (its file's name, its text), and with what that has of its own.
    pub(super) fn peer_as(
        &self,
        peer: Peer,
        program: &Path,
        name: &'static str,
        template: Option<(&str, &str)>,
        own: &[(&str, String)],
    ) -> anyhow::Result<Subject> {
        let scratch = Scratch::new()?;
        let listeners = Listeners::free(&self.ground)?;
        let mut config = PathBuf::new();
        if let Some((file, template)) = template {
            let mut own = own.to_vec();
            own.push(("directory", scratch.path().display().to_string()));
            config = scratch.write(file, self.fill(template, listeners, &own)?)?;
        }
        let words = [
            listeners.plain.to_string(),
            listeners.tls.to_string(),
            listeners.h2c.to_string(),
            self.upstream.address().to_string(),
        ];
        let words: Vec<&OsStr> =
            words.iter().map(OsStr::new).chain([self.chain.as_os_str(), self.key.as_os_str()]).collect();
        let process = cpu::on(&[self.cores.proxy], || {
            let command = peer.command(&self.ground.place, program, &config, scratch.path(), &words);
            start_peer(&self.ground.place, command, scratch.path().join("output"), &listeners.all())
        })
        .context(name)?;
        Ok(Subject {
            name,
            own: false,
            headers: host(),
            has_h2: true,
            listeners,
            running: Running::Peer(process),
            _scratch: scratch,
        })
    }

    /// Starts the gateway with a key that may read, and with `more` files that its configuration includes.
    pub(super) fn gateway(
        &self,
        name: &'static str,
        binary: &Path,
        more: &[String],
    ) -> anyhow::Result<Subject> {
        let scratch = Scratch::new()?;
        let listeners = Listeners::free(&self.ground)?;
        let [admin] = self.ground.place.free_addresses(Ipv4Addr::LOCALHOST.into())?;
        let store = scratch.path().join("keys.db");
        let api_key = create_key(binary, &store, "bench", "reader")?;
        for (i, text) in more.iter().enumerate() {
            scratch.write(&format!("more-{i}.toml"), text)?;
        }
        let include = if more.is_empty() { "" } else { r#""more-*.toml""# };
        let config = |protocols: &str| {
            let own = [
                ("cpu", self.cores.proxy.to_string()),
                ("admin", admin.to_string()),
                ("store", store.display().to_string()),
                ("protocols", protocols.to_owned()),
                ("include", include.to_owned()),
            ];
            self.fill(GATEWAY, listeners, &own)
        };
        let (has_h2, config) = match config(PROTOCOLS)? {
            config if accepts(binary, &scratch, &config)? => (true, config),
            _ => (false, config(PROTOCOLS_WITHOUT_H2)?),
        };
        let gateway = cpu::on(&[self.cores.proxy], || {
            Gateway::start(&Start {
                binary,
                place: self.ground.place.clone(),
                directory: scratch.path(),
                config: &config,
                listener: listeners.plain,
                admin: Some(admin),
            })
        })?;
        let mut headers = host();
        headers.push(format!("x-api-key: {api_key}"));
        Ok(Subject {
            name,
            own: true,
            headers,
            has_h2,
            listeners,
            running: Running::Gateway(gateway),
            _scratch: scratch,
        })
    }

    /// Starts the hand-written proxy, which has a plain listener only.
    pub(super) fn floor(&self, program: &Path, name: &'static str) -> anyhow::Result<Subject> {
        let scratch = Scratch::new()?;
        let listeners = Listeners::free(&self.ground)?;
        let process = cpu::on(&[self.cores.proxy], || {
            let mut command = self.ground.place.command(program);
            command.args([listeners.plain.to_string(), self.upstream.address().to_string()]);
            start_peer(&self.ground.place, command, scratch.path().join("output"), &[listeners.plain])
        })
        .context(name)?;
        Ok(Subject {
            name,
            own: false,
            headers: host(),
            has_h2: false,
            listeners,
            running: Running::Peer(process),
            _scratch: scratch,
        })
    }

    /// Fills in what all subjects share and what this one has of its own.
    fn fill(&self, template: &str, listeners: Listeners, own: &[(&str, String)]) -> anyhow::Result<String> {
        let mut values = vec![
            ("chain".to_owned(), self.chain.display().to_string()),
            ("key".to_owned(), self.key.display().to_string()),
            ("pem".to_owned(), self.pem.display().to_string()),
        ];
        let addresses = [
            ("upstream", self.upstream.address()),
            ("plain", listeners.plain),
            ("tls", listeners.tls),
            ("h2c", listeners.h2c),
        ];
        for (name, address) in addresses {
            values.push((name.to_owned(), address.to_string()));
            values.push((format!("{name}host"), address.ip().to_string()));
            values.push((format!("{name}port"), address.port().to_string()));
        }
        values.extend(own.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        fill(template, &values)
    }
}

/// Whether this build of the gateway takes the configuration.
fn accepts(binary: &Path, scratch: &Scratch, config: &str) -> anyhow::Result<bool> {
    let file = scratch.write("probe.toml", config)?;
    let mut command = Place::here().command(binary);
    let output =
        command.args([names::CHECK, names::CONFIG]).arg(file).current_dir(scratch.path()).output()?;
    Ok(output.status.success())
}

/// In this spelling wrk takes it for its own `Host`; in any other it would send two.
fn host() -> Vec<String> {
    vec![format!("Host: {HOST}")]
}

fn start_peer(
    place: &Place,
    command: Command,
    output: PathBuf,
    listeners: &[SocketAddr],
) -> anyhow::Result<Process> {
    let mut process = Process::start(command, output)?;
    let answer = wait::until(START_TIME_MAX, || {
        if let Ok(Some(status)) = process.wait(Duration::ZERO) {
            return Some(Err(status));
        }
        let accepts =
            |listener: &SocketAddr| Connection::open_in(place, *listener, None, CONNECT_TIME_MAX).is_ok();
        listeners.iter().all(accepts).then_some(Ok(()))
    });
    match answer {
        Some(Ok(())) => Ok(process),
        Some(Err(status)) => bail!("ended with {status}: {}", process.output()),
        None => bail!("does not accept on {listeners:?}: {}", process.output()),
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
pub(super) fn fill(template: &str, values: &[(String, String)]) -> anyhow::Result<String> {
    let text = values.iter().fold(template.to_owned(), |text, (name, value)| replace(&text, name, value));
    match placeholder(&text) {
        Some(name) => bail!("@{name}@ was not filled in"),
        None => Ok(text),
    }
}

pub(super) fn replace(text: &str, name: &str, value: &str) -> String {
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

    use crate::{
        bench::{
            cpu::Usage,
            load::{Load, Pace},
        },
        project::Project,
    };

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
        let values = [("plain".to_owned(), "127.0.0.1:80".to_owned())];
        assert_eq!(fill("listen @plain@;", &values).unwrap(), "listen 127.0.0.1:80;");
        let error = fill("listen @plain@ @tls@;", &values).unwrap_err();
        assert_eq!(error.to_string(), "@tls@ was not filled in");
    }

    fn stage(test: &str) -> Option<Stage> {
        let missing = load::tool("curl", "--version", "curl")
            .and_then(|()| load::tool(lab::upstream::NGINX, "-v", "nginx"))
            .and_then(|()| load::tool("openssl", "version", "openssl"));
        match missing.and_then(|()| Cores::divide()) {
            Ok(cores) => Some(Stage::new(cores, Ground::loopback()).unwrap()),
            Err(why) => {
                lab::skip(test, &why.to_string());
                None
            }
        }
    }

    #[track_caller]
    fn check_peer(peer: Peer, program: &Path) {
        let Some(stage) = stage("peers answer on every listener") else { return };
        let subject = stage.peer(peer, program, peer.name()).unwrap();
        for (protocol, target, body_bytes) in [
            (Protocol::Http1, "/files/128", 128),
            (Protocol::Http1, "/files/16k", 16 * 1024),
            (Protocol::Http1Tls, "/files/1m", 1024 * 1024),
            (Protocol::Http2Tls, "/files/128", 128),
            (Protocol::Http2, "/files/128", 128),
        ] {
            let load = Load {
                protocol,
                address: subject.address(protocol),
                target: target.to_owned(),
                headers: subject.headers.clone(),
                shown: None,
                connections: 1,
                body_bytes,
                pace: Pace::Closed,
            };
            load::check(&Place::here(), &load).unwrap();
        }
        assert!(Usage::of(subject.pid()).is_ok());
    }

    #[test]
    fn each_peer_that_is_here_answers_on_every_listener() {
        let project = Project::find().unwrap();
        for peer in Peer::ALL {
            match peer.program(&project) {
                Ok(program) => check_peer(peer, &program),
                Err(why) => lab::skip("each_peer_that_is_here_answers_on_every_listener", &why.to_string()),
            }
        }
    }

    #[test]
    fn our_configuration_is_filled_in() {
        let names = [
            "cpu",
            "plain",
            "tls",
            "h2c",
            "chain",
            "key",
            "admin",
            "upstream",
            "store",
            "protocols",
            "include",
        ];
        let values = names.map(|name| (name.to_owned(), format!("<{name}>")));
        let config = fill(GATEWAY, &values).unwrap();
        for name in names {
            assert!(config.contains(&format!("<{name}>")), "{name}");
        }
    }
}
