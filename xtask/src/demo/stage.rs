//! The stage: where the demo plays, what runs there, and the configuration that joins it.
//!
//! Comes in: the built gateway and a ground (namespaces, or loopback). Goes out: two upstreams and the gateway, all
//! answering, with a key and a token for those who mean well. Dropping it ends and removes all of it.

use std::{
    fs::File,
    io::Read,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use serde_json::json;
use xtask::lab::{
    gateway::{Gateway, Start, create_key, names},
    netns::{self, EDGE_INTERFACE, EDGE_V4, EDGE_V6, GUESSER_V4, HONEST_V4, HONEST_V6, Lab},
    place::Place,
    scratch::{PinDir, Scratch},
    upstream::Nginx,
};

use super::token;

/// SYNs per second and source that may pass: honest clients keep their connections and need one now and then.
pub(super) const SYNS_PER_S: u32 = 10;
/// Packets per second and source that may pass: an honest client here sends about 60.
pub(super) const PACKETS_PER_S: u32 = 200;
/// The offence that crosses the line.
pub(super) const OFFENCES: u32 = 10;
/// How long the first block of a source lasts.
pub(super) const BLOCK_S: u64 = 5;

const PUBLIC_PORT: u16 = 8080;
const ISSUER: &str = "https://id.example.com";
const TOKEN_VALID_S: u64 = 3600;

/// Two namespaces with the filter between them, or loopback without.
pub(super) struct Ground {
    namespaces: Option<(PinDir, Lab)>,
    /// The host that is protected.
    pub(super) edge: Place,
    /// Where clients live.
    pub(super) world: Place,
    /// Where the gateway listens, one address per family.
    pub(super) listeners: Vec<SocketAddr>,
    /// Its admin listener.
    admin: SocketAddr,
    /// Behind it.
    upstreams: [SocketAddr; 2],
    /// Addresses of those who mean well.
    pub(super) honest: Vec<IpAddr>,
    /// The address of the one that tries keys.
    pub(super) guesser: IpAddr,
}

impl Ground {
    /// Makes the namespaces; needs root.
    pub(super) fn namespaces() -> anyhow::Result<Self> {
        let lab = Lab::new()?;
        let pins = PinDir::new()?;
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut listeners = vec![SocketAddr::from((EDGE_V4, PUBLIC_PORT))];
        let mut honest: Vec<IpAddr> = HONEST_V4.into_iter().map(IpAddr::from).collect();
        if netns::ipv6() {
            listeners.push(SocketAddr::from((EDGE_V6, PUBLIC_PORT)));
            honest.extend(HONEST_V6.into_iter().map(IpAddr::from));
        }
        Ok(Self {
            edge: lab.edge.place(),
            world: lab.world.place(),
            namespaces: Some((pins, lab)),
            listeners,
            admin: local(9901),
            upstreams: [local(8081), local(8082)],
            honest,
            guesser: GUESSER_V4.into(),
        })
    }

    /// Takes free ports of this machine's loopback.
    pub(super) fn loopback() -> anyhow::Result<Self> {
        let [listener, admin, first, second] = Place::here().free_addresses(Ipv4Addr::LOCALHOST.into())?;
        let client = |last| IpAddr::from(Ipv4Addr::new(127, 0, 0, last));
        Ok(Self {
            namespaces: None,
            edge: Place::here(),
            world: Place::here(),
            listeners: vec![listener],
            admin,
            upstreams: [first, second],
            honest: [11, 12, 13, 14].map(client).to_vec(),
            guesser: client(66),
        })
    }

    /// Whether packets can be dropped here at all.
    pub(super) fn filtered(&self) -> bool {
        self.namespaces.is_some()
    }

    /// The listener that a client of this address reaches.
    pub(super) fn listener_for(&self, client: IpAddr) -> Option<SocketAddr> {
        self.listeners.iter().copied().find(|listener| listener.is_ipv4() == client.is_ipv4())
    }
}

/// Everything that runs. The gateway ends first, the ground goes last.
pub(super) struct Stage {
    /// The gateway under attack.
    pub(super) gateway: Gateway,
    _upstreams: [Nginx; 2],
    scratch: Scratch,
    /// Where it all stands.
    pub(super) ground: Ground,
    /// An API key that may read.
    pub(super) key: String,
    /// A token that may read.
    pub(super) token: String,
    binary: PathBuf,
}

impl Stage {
    /// Starts all of it and waits until it answers.
    pub(super) fn set(binary: PathBuf, ground: Ground) -> anyhow::Result<Self> {
        let scratch = Scratch::new()?;
        let [first, second] = ground.upstreams;
        let upstreams =
            [Nginx::start(&ground.edge, first, "blue")?, Nginx::start(&ground.edge, second, "green")?];
        let key = create_key(&binary, &scratch.path().join("keys.db"), "acme", "reader")?;
        let secret = secret()?;
        scratch.write("token.key", &secret)?;
        let token = token::sign(secret.as_bytes(), &claims()?)?;
        let config = config(&ground);
        let listener = *ground.listeners.first().context("a listener")?;
        let gateway = Gateway::start(&Start {
            binary: &binary,
            place: ground.edge.clone(),
            directory: scratch.path(),
            config: &config,
            listener,
            admin: Some(ground.admin),
        })?;
        Ok(Self { gateway, _upstreams: upstreams, scratch, ground, key, token, binary })
    }

    /// What can be tried by hand while it all stands.
    pub(super) fn to_try(&self) -> String {
        let (edge, world) = match &self.ground.namespaces {
            Some((_, lab)) => (enter(lab.edge.name()), enter(lab.world.name())),
            None => (String::new(), String::new()),
        };
        let binary = self.binary.display();
        let config = self.gateway.config_file().display();
        let mut lines = vec!["Still running; Ctrl-C ends and removes it. To try by hand:".to_owned()];
        for listener in &self.ground.listeners {
            lines.push(format!("  {world}curl -H 'x-api-key: {}' 'http://{listener}/v1/orders/7'", self.key));
        }
        if let Some(listener) = self.ground.listeners.first() {
            lines.push(format!(
                "  {world}curl -H 'authorization: Bearer {}' 'http://{listener}/v1/orders/7'",
                self.token
            ));
            lines.push(format!("  {world}curl -i -H 'x-api-key: wrong' 'http://{listener}/v1/orders/7'"));
        }
        lines.push(format!("  {edge}curl http://{}{}", self.ground.admin, names::METRICS));
        lines.push(format!("  {edge}{binary} {} {} {config}", names::BANS_LIST.join(" "), names::CONFIG));
        lines.push(format!("  less {}", self.scratch.path().join("portcullis.output").display()));
        lines.join("\n")
    }
}

/// Only the network namespace is entered: `ip netns exec` would hide the bpffs as well.
fn enter(namespace: &str) -> String {
    format!("nsenter --net=/run/netns/{namespace} ")
}

fn claims() -> anyhow::Result<serde_json::Value> {
    let now_s =
        SystemTime::now().duration_since(UNIX_EPOCH).context("the clock stands before 1970")?.as_secs();
    Ok(json!({
        "iss": ISSUER,
        "aud": "orders",
        "sub": "alice",
        "roles": ["reader"],
        "iat": now_s,
        "exp": now_s + TOKEN_VALID_S,
    }))
}

/// 256 random bits as hexadecimal digits: a text without a line's end, so that no reader can trim it.
fn secret() -> anyhow::Result<String> {
    let mut octets = [0; 32];
    File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut octets)).context("/dev/urandom")?;
    Ok(octets.map(|octet| format!("{octet:02x}")).concat())
}

/// The configuration, as an operator would write it.
fn config(ground: &Ground) -> String {
    let prefilter = ground.namespaces.as_ref().map(|(pins, _)| prefilter(&pins.path())).unwrap_or_default();
    let listener = |(address, name)| format!("[listeners.{name}]\naddress = \"{address}\"\n\n");
    let listeners =
        ground.listeners.iter().zip(["public", "public_v6"]).map(listener).collect::<Vec<_>>().concat();
    let admin = ground.admin;
    let [first, second] = ground.upstreams;
    format!(
        r#"version = 1

[runtime]
drain_timeout = "1s"

{prefilter}[escalation]
block_for = "{BLOCK_S}s"
unauthorized = {{ count = {OFFENCES}, within = "10s" }}

{listeners}[listeners.admin]
kind = "admin"
address = "{admin}"

[upstreams.orders]
servers = ["{first}", "{second}"]
balance = "round_robin"
health = {{ path = "/health", interval = "1s", timeout = "1s", healthy = 1, unhealthy = 3 }}

[auth.keys]
kind = "api_key"
store = "keys.db"
header = "x-api-key"

[auth.staff]
kind = "jwt"
issuer = "{ISSUER}"
audiences = ["orders"]
algorithms = ["HS256"]
key_file = "token.key"
consumer = "sub"
roles = "roles"
forward = {{ x-user = "sub" }}

[roles.reader]
permissions = ["orders:read"]

[routes.orders]
path = "/v1/orders/{{id}}"
methods = ["GET"]
upstream = "orders"
auth = ["keys", "staff"]
permission = "orders:read"
"#
    )
}

fn prefilter(pin_dir: &Path) -> String {
    format!(
        r#"[prefilter]
interfaces = ["{EDGE_INTERFACE}"]
pin_dir = "{}"
allow = []
packets = {{ rate = "{PACKETS_PER_S}/s", burst = {} }}
syns = {{ rate = "{SYNS_PER_S}/s", burst = {} }}

"#,
        pin_dir.display(),
        2 * PACKETS_PER_S,
        2 * SYNS_PER_S,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_not_filtered() {
        let ground = Ground::loopback().unwrap();
        let config = config(&ground);
        assert!(!config.contains("[prefilter]"));
        assert!(config.contains(&format!("[listeners.public]\naddress = \"{}\"", ground.listeners[0])));
        assert_eq!(ground.listener_for(ground.guesser), Some(ground.listeners[0]));
        assert_eq!(ground.listener_for("::1".parse().unwrap()), None);
    }

    #[test]
    fn the_prefilter_names_what_it_needs() {
        let prefilter = prefilter(Path::new("/pins"));
        assert!(prefilter.contains("interfaces = [\"edge0\"]\npin_dir = \"/pins\"\n"));
        assert!(prefilter.contains("syns = { rate = \"10/s\", burst = 20 }"));
    }

    #[test]
    fn secrets_differ() {
        let secrets = [secret().unwrap(), secret().unwrap()];
        assert_eq!(secrets[0].len(), 64);
        assert_ne!(secrets[0], secrets[1]);
    }
}
