//! The stage of these tests: an edge host with its filter on one end of a veth pair, clients on the other.
//!
//! Comes in: what of the configuration a test is about. Goes out: clients by address, a gateway that can be killed and
//! started again, the command line.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Output,
    sync::mpsc::{RecvTimeoutError, Sender, channel},
    thread::JoinHandle,
    time::Duration,
};

use portcullis::nic::{self, BanRecord};
use xtask::lab::{
    self,
    client::{ClientError, Connection, Request},
    gateway::{Ban, Gateway, Start, create_key},
    netns::{EDGE_V4, EDGE_V6, Lab},
    place::Place,
    scratch::{PinDir, Scratch},
    scripted::{Scripted, Step},
    wait,
};

use crate::support::{BINARY, HELLO, TIME_MAX};

/// A client that hears nothing for so long takes itself for blocked.
pub(super) const SILENCE: Duration = Duration::from_millis(400);
/// Between two requests of a client that goes on in the background.
const ASK_EVERY: Duration = Duration::from_millis(10);
/// An offender that is not blocked after so many offences never is.
const OFFENCES_MAX: usize = 200;

pub(super) const PORT: u16 = 8080;
const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9901);
const UPSTREAM: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9000);

/// The keys of each section that a test is about, as TOML; nothing: the defaults.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sections<'a> {
    pub(super) prefilter: &'a str,
    pub(super) escalation: &'a str,
    pub(super) listener: &'a str,
    /// Addresses of more upstream servers, which no route uses.
    pub(super) servers: &'a [IpAddr],
}

/// Everything that runs. The gateway ends first, the namespaces go last.
pub(super) struct Stage {
    gateway: Option<Gateway>,
    _upstream: Scripted,
    directory: Scratch,
    pins: PinDir,
    pub(super) lab: Lab,
    key: String,
}

impl Stage {
    /// Sets it and starts the gateway; `None`: `test` cannot run here, and has said so.
    pub(super) fn set(test: &str, sections: Sections<'_>) -> Option<Self> {
        let missing = lab::privileges().err();
        let missing = missing.or_else(|| (!nic::BUILT).then(|| "built without the NIC filter".into()));
        if let Some(why) = missing {
            lab::skip(test, &why);
            return None;
        }
        let (lab, pins, directory) = (Lab::new().unwrap(), PinDir::new().unwrap(), Scratch::new().unwrap());
        let answers = [Step::ReadHead, Step::Send(HELLO.into())];
        let script = std::iter::repeat_n(answers, 1000).flatten().collect();
        let upstream = Scripted::start(&lab.edge.place(), UPSTREAM, vec![script]).unwrap();
        let store = directory.path().join("keys.db");
        let key = create_key(Path::new(BINARY), &store, "acme", "reader").unwrap();
        let mut stage = Self { gateway: None, _upstream: upstream, directory, pins, lab, key };
        stage.start(sections);
        Some(stage)
    }

    /// Starts the gateway, the first time or again.
    pub(super) fn start(&mut self, sections: Sections<'_>) {
        let config = self.config(sections);
        let gateway = self.try_start(&config).unwrap_or_else(|error| panic!("{error}\n{config}"));
        self.gateway = Some(gateway);
    }

    /// Starts a gateway with this very configuration; the error holds what it wrote.
    pub(super) fn try_start(&self, config: &str) -> Result<Gateway, String> {
        let started = Gateway::start(&Start {
            binary: Path::new(BINARY),
            place: self.lab.edge.place(),
            directory: self.directory.path(),
            config,
            listener: server_for(EDGE_V4.into()),
            admin: Some(ADMIN),
        });
        started.map_err(|error| format!("{error:#}"))
    }

    /// The configuration with these keys in it.
    pub(super) fn config(&self, sections: Sections<'_>) -> String {
        let Sections { prefilter, escalation, listener, servers } = sections;
        let pins = self.pin_dir();
        let server = |(n, address): (usize, &IpAddr)| {
            let server = SocketAddr::new(*address, 9000);
            format!("[upstreams.more{n}]\nservers = [\"{server}\"]\nhealth = \"off\"\n")
        };
        let servers = servers.iter().enumerate().map(server).collect::<Vec<_>>().concat();
        format!(
            r#"
[runtime]
drain_timeout = "1s"
[prefilter]
interfaces = ["edge0"]
pin_dir = "{pins}"
entries_max = 1000
sources_max = 1000
{prefilter}
[escalation]
{escalation}
[listeners.public]
address = "{EDGE_V4}:{PORT}"
{listener}
[listeners.public6]
address = "[{EDGE_V6}]:{PORT}"
[listeners.admin]
kind = "admin"
address = "{ADMIN}"
[upstreams.app]
servers = ["{UPSTREAM}"]
health = "off"
{servers}
[auth.keys]
kind = "api_key"
store = "keys.db"
[roles.reader]
permissions = ["read"]
[limits.one]
per = "source"
rate = "1/s"
burst = 1
[routes.open]
path = "/open"
upstream = "app"
public = true
[routes.keyed]
path = "/keyed"
upstream = "app"
auth = ["keys"]
permission = "read"
[routes.limited]
path = "/limited"
upstream = "app"
public = true
limits = ["one"]
"#,
            pins = pins.display(),
        )
    }

    /// Where the filter is pinned.
    pub(super) fn pin_dir(&self) -> PathBuf {
        self.pins.path()
    }

    /// Writes a file beside the configuration, and says where.
    pub(super) fn write(&self, name: &str, content: &str) -> String {
        self.directory.write(name, content).unwrap().display().to_string()
    }

    /// Where a file beside the configuration is.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Whether a file beside the configuration holds this, now or soon.
    pub(super) fn await_in_file(&self, name: &str, text: &str) -> bool {
        let holds = || std::fs::read_to_string(self.file(name)).ok()?.contains(text).then_some(());
        wait::until(TIME_MAX, holds).is_some()
    }

    /// The running gateway.
    pub(super) fn gateway(&mut self) -> &mut Gateway {
        self.gateway.as_mut().expect("the gateway runs")
    }

    /// Takes the gateway, to end it.
    pub(super) fn take_gateway(&mut self) -> Gateway {
        self.gateway.take().expect("the gateway runs")
    }

    /// Writes another configuration and has it read.
    pub(super) fn reload(&mut self, sections: Sections<'_>) {
        let config = self.config(sections);
        let gateway = self.gateway();
        gateway.write_config(&config).unwrap();
        gateway.process().signal(libc::SIGHUP).unwrap();
    }

    /// A connection from `source`, on which an answer may take `time_max`.
    pub(super) fn connect(&self, source: IpAddr, time_max: Duration) -> Result<Connection, ClientError> {
        Connection::open_in(&self.lab.world.place(), server_for(source), Some(source), time_max)
    }

    /// The status of one request to the open route, on a connection of its own.
    pub(super) fn ask(&self, source: IpAddr, time_max: Duration) -> Result<u16, ClientError> {
        Ok(self.connect(source, time_max)?.request(&Request::get("/open"))?.status)
    }

    #[track_caller]
    pub(super) fn await_dropped(&self, source: IpAddr) {
        let is_dropped = || matches!(self.ask(source, SILENCE), Err(ClientError::TimedOut));
        let dropped = wait::until(TIME_MAX, || is_dropped().then_some(()));
        assert!(dropped.is_some(), "{source} is never dropped");
    }

    #[track_caller]
    pub(super) fn check_served(&self, source: IpAddr) {
        let answer = self.ask(source, TIME_MAX);
        assert!(matches!(answer, Ok(200)), "{source} is not served: {answer:?}");
    }

    #[track_caller]
    pub(super) fn check_dropped(&self, source: IpAddr) {
        let answer = self.ask(source, SILENCE);
        assert!(matches!(answer, Err(ClientError::TimedOut)), "{source} is not dropped: {answer:?}");
    }

    /// A consumer who proves who it is is served from there.
    #[track_caller]
    pub(super) fn check_keyed(&self, source: IpAddr) {
        let headers = [("x-api-key", self.key.as_str())];
        let asked =
            || Ok(self.connect(source, TIME_MAX)?.request(&Request::get("/keyed").with(&headers))?.status);
        let answer: Result<u16, ClientError> = asked();
        assert!(matches!(answer, Ok(200)), "{source} is not served: {answer:?}");
    }

    /// Packets come through, and nobody listens.
    #[track_caller]
    pub(super) fn check_refused(&self, source: IpAddr) {
        let answer = self.ask(source, TIME_MAX);
        assert!(matches!(answer, Err(ClientError::Refused)), "{source} is not refused: {answer:?}");
    }

    /// Asks until there is an answer.
    #[track_caller]
    pub(super) fn await_served(&self, source: IpAddr) {
        let served = wait::until(TIME_MAX, || self.ask(source, SILENCE).is_ok().then_some(()));
        assert!(served.is_some(), "{source} is never served again");
    }

    /// Sends requests like `offence` until nothing comes back, each as soon as the one before is answered, on one
    /// connection while it lasts; how many were answered.
    #[track_caller]
    pub(super) fn offend_until_dropped(&self, source: IpAddr, offence: &[u8]) -> usize {
        self.offend_until_dropped_within(source, offence, OFFENCES_MAX)
    }

    /// The same, where a block may take so many offences.
    #[track_caller]
    pub(super) fn offend_until_dropped_within(
        &self,
        source: IpAddr,
        offence: &[u8],
        offences_max: usize,
    ) -> usize {
        let mut connection = None;
        for answered in 0..offences_max {
            match self.offend(&mut connection, source, offence) {
                Ok(()) => {}
                Err(ClientError::TimedOut) => return answered,
                Err(error) => panic!("{source}, offence {answered}: {error}"),
            }
        }
        panic!("{source} is not blocked after {offences_max} offences")
    }

    /// Sends `offence` on the connection at hand or a new one, and waits for its answer.
    pub(super) fn offend(
        &self,
        connection: &mut Option<Connection>,
        source: IpAddr,
        offence: &[u8],
    ) -> Result<(), ClientError> {
        let mut open = match connection.take() {
            Some(open) => open,
            None => self.connect(source, SILENCE)?,
        };
        open.send(offence)?;
        if open.receive("GET")?.keep_alive {
            *connection = Some(open);
        }
        Ok(())
    }

    /// A ban of `source`, once it has dropped something.
    #[track_caller]
    pub(super) fn ban(&mut self, source: &str) -> Ban {
        let gateway = self.gateway();
        let found = wait::until(TIME_MAX, || {
            let bans = gateway.bans().unwrap();
            bans.into_iter().find(|ban| ban.source == source && ban.offence_to_first_drop_ms.is_some())
        });
        found.unwrap_or_else(|| panic!("no ban of {source}: {:?}", gateway.bans()))
    }

    /// Everyone who is blocked, as the pinned maps tell.
    pub(super) fn blocked(&self) -> Vec<String> {
        let bans = nic::Bans::open_pinned(&self.pin_dir()).unwrap().list(nic::monotonic_ns()).unwrap();
        bans.iter().map(|ban: &BanRecord| ban.prefix.to_string()).collect()
    }

    /// Runs `portcullis ARGUMENTS --config FILE` on the edge host.
    pub(super) fn run(&self, arguments: &[&str]) -> Output {
        let mut command = self.lab.edge.command(BINARY);
        command.args(arguments).arg("--config").arg(self.directory.path().join("portcullis.toml"));
        command.output().unwrap()
    }

    /// The same, which has to succeed; what it printed.
    #[track_caller]
    pub(super) fn told(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Starts clients that ask until they are told to stop, with a key and without, on kept-alive and fresh connections.
    pub(super) fn honest(&self, sources: &[IpAddr]) -> Vec<Background> {
        let start = |source: &IpAddr| {
            let (source, key) = (*source, self.key.clone());
            let mut kept = None;
            Background::start(&self.lab.world.place(), move || {
                let headers = [("x-api-key", key.as_str())];
                let keyed = Request::get("/keyed").with(&headers);
                let statuses = ask_on(&mut kept, source, &keyed)
                    .and_then(|kept| Ok((kept, ask_on(&mut None, source, &Request::get("/open"))?)));
                match statuses {
                    Ok((200, 200)) => Ok(()),
                    other => Err(format!("{source}: {other:?}")),
                }
            })
        };
        sources.iter().map(start).collect()
    }

    /// Starts a client that tries to connect and must never hear anything.
    pub(super) fn never_answered(&self, source: IpAddr) -> Background {
        Background::start(&self.lab.world.place(), move || {
            match Connection::open(server_for(source), Some(source), Duration::from_millis(20)) {
                Err(ClientError::TimedOut) => Ok(()),
                other => Err(format!("{source} heard something: {other:?}")),
            }
        })
    }
}

/// A GET of `target` with these header lines.
pub(super) fn get(target: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    Request::get(target).with(headers).bytes()
}

/// The listener of a client's address family.
fn server_for(source: IpAddr) -> SocketAddr {
    SocketAddr::new(if source.is_ipv4() { EDGE_V4.into() } else { EDGE_V6.into() }, PORT)
}

fn ask_on(
    connection: &mut Option<Connection>,
    source: IpAddr,
    request: &Request<'_>,
) -> Result<u16, ClientError> {
    let mut open = match connection.take() {
        Some(open) => open,
        None => Connection::open(server_for(source), Some(source), TIME_MAX)?,
    };
    let response = open.request(request)?;
    if response.keep_alive {
        *connection = Some(open);
    }
    Ok(response.status)
}

/// A client on a thread of its own that does the same thing again and again.
pub(super) struct Background {
    stop: Sender<()>,
    rounds: JoinHandle<std::io::Result<(usize, Vec<String>)>>,
}

impl Background {
    fn start(place: &Place, mut round: impl FnMut() -> Result<(), String> + Send + 'static) -> Self {
        let (stop, stopped) = channel();
        let rounds = place.spawn("client", move || {
            let (mut rounds, mut failures) = (0, Vec::new());
            while stopped.recv_timeout(ASK_EVERY) == Err(RecvTimeoutError::Timeout) {
                rounds += 1;
                failures.extend(round().err());
            }
            (rounds, failures)
        });
        Self { stop, rounds: rounds.unwrap() }
    }

    /// Stops it; it must have done something, and nothing in vain.
    #[track_caller]
    pub(super) fn check(self) {
        self.stop.send(()).unwrap();
        let (rounds, failures) = self.rounds.join().unwrap().unwrap();
        assert_eq!(failures, [""; 0], "{} of {rounds}", failures.len());
        assert!(rounds > 0);
    }
}
