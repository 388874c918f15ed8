//! Two network namespaces joined by a veth pair: the edge host on one end, the world on the other.
//!
//! ```text
//!   ptc-edge-PID-N                                ptc-world-PID-N
//!   [ edge0  192.0.2.1  2001:db8::1 ] ◄── veth ──► [ world0  192.0.2.2  2001:db8::2, clients, the guesser ]
//! ```
//!
//! Every client of the world has an address of its own, and for IPv6 a /64 of its own, because that is what the
//! gateway takes for one source. The edge sends answers to spoofed prefixes back over the veth, where they end.
//! Nothing here routes to the machine's own network.

use std::{
    fs::{self, File},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, OwnedFd},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, bail};

use super::{
    place::Place,
    scratch::{self, Scratch, unique},
    xdp,
};

/// The edge's end of the veth pair: where the filter is attached.
pub const EDGE_INTERFACE: &str = "edge0";
/// The world's end: where raw frames are sent.
pub const WORLD_INTERFACE: &str = "world0";
/// Hardware address of [`EDGE_INTERFACE`].
pub const EDGE_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 1];
/// Hardware address of [`WORLD_INTERFACE`].
pub const WORLD_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 2];
/// Where the gateway listens.
pub const EDGE_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Where the gateway listens.
pub const EDGE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// The world's first address.
pub const WORLD_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// The world's first address.
pub const WORLD_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
/// Clients that mean well.
pub const HONEST_V4: [Ipv4Addr; 4] = [
    Ipv4Addr::new(192, 0, 2, 11),
    Ipv4Addr::new(192, 0, 2, 12),
    Ipv4Addr::new(192, 0, 2, 13),
    Ipv4Addr::new(192, 0, 2, 14),
];
/// Clients that mean well, each in a /64 of its own.
pub const HONEST_V6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0x2001, 0xdb8, 0, 0x11, 0, 0, 0, 1), Ipv6Addr::new(0x2001, 0xdb8, 0, 0x12, 0, 0, 0, 1)];
/// The client that tries passwords.
pub const GUESSER_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 66);
/// The client that tries passwords, in a /64 of its own.
pub const GUESSER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0x66, 0, 0, 0, 1);
/// Prefixes (/24) that no host of the lab has: sources of floods.
pub const SPOOFED_V4: [Ipv4Addr; 2] = [Ipv4Addr::new(198, 51, 100, 0), Ipv4Addr::new(203, 0, 113, 0)];
/// The prefix (/48) that no host of the lab has: sources of floods.
pub const SPOOFED_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x5, 0, 0, 0, 0, 0);

/// Names of namespaces begin with one of these.
const EDGE_NAME: &str = "ptc-edge";
const WORLD_NAME: &str = "ptc-world";
/// Where `ip netns` keeps its names.
const NAMES: &str = "/run/netns";

/// The pair; both namespaces go away when it is dropped.
#[derive(Debug)]
pub struct Lab {
    /// The host that the gateway protects.
    pub edge: Namespace,
    /// Everybody else.
    pub world: Namespace,
}

impl Lab {
    /// Makes namespaces, veth, addresses and routes; needs root. What was made before an error is removed again.
    pub fn new() -> anyhow::Result<Self> {
        let serial = unique();
        let edge = Namespace::add(format!("{EDGE_NAME}-{serial}"))?;
        let world = Namespace::add(format!("{WORLD_NAME}-{serial}"))?;
        let lab = Self { edge, world };
        lab.edge.ip(&format!(
            "link add {EDGE_INTERFACE} address {} type veth peer name {WORLD_INTERFACE} address {} netns {}",
            mac(EDGE_MAC),
            mac(WORLD_MAC),
            lab.world.name
        ))?;
        for (namespace, interface) in [(&lab.edge, EDGE_INTERFACE), (&lab.world, WORLD_INTERFACE)] {
            if ipv6() {
                // Duplicate address detection would hold every address back for a second.
                namespace.sysctl(&format!("net/ipv6/conf/{interface}/accept_dad"), "0")?;
            }
            namespace.ip("link set lo up")?;
            namespace.ip(&format!("link set {interface} up"))?;
        }
        lab.address()?;
        lab.route()?;
        Ok(lab)
    }

    /// Lets the world take what an XDP program at the edge sends back, while the guard lives: a veth without a program
    /// of its own never looks at it.
    pub fn take_what_xdp_sends(&self) -> anyhow::Result<OwnedFd> {
        let link = self.world.enter(|| xdp::attach(WORLD_INTERFACE, xdp::pass()?.as_fd()))?;
        link.with_context(|| format!("XDP on {WORLD_INTERFACE}"))
    }

    fn address(&self) -> anyhow::Result<()> {
        self.edge.add_address(EDGE_INTERFACE, EDGE_V4.into())?;
        for address in [WORLD_V4, GUESSER_V4].into_iter().chain(HONEST_V4) {
            self.world.add_address(WORLD_INTERFACE, address.into())?;
        }
        if ipv6() {
            self.edge.add_address(EDGE_INTERFACE, EDGE_V6.into())?;
            for address in [WORLD_V6, GUESSER_V6].into_iter().chain(HONEST_V6) {
                self.world.add_address(WORLD_INTERFACE, address.into())?;
            }
        }
        Ok(())
    }

    fn route(&self) -> anyhow::Result<()> {
        for prefix in SPOOFED_V4 {
            self.edge.ip(&format!("route add {prefix}/24 via {WORLD_V4}"))?;
        }
        if ipv6() {
            // The clients' /64s, which the world's interface answers for; and what nobody has.
            self.edge.ip(&format!("-6 route add 2001:db8::/48 dev {EDGE_INTERFACE}"))?;
            self.edge.ip(&format!("-6 route add {SPOOFED_V6}/48 via {WORLD_V6}"))?;
        }
        Ok(())
    }
}

/// A namespace with a name below `/run/netns`, so that `ip -n NAME` and `nsenter` find it; deleted when dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    place: Place,
}

impl Namespace {
    fn add(name: String) -> anyhow::Result<Self> {
        ip(&["netns", "add", &name])?;
        match File::open(Path::new(NAMES).join(&name)) {
            Ok(file) => Ok(Self { name, place: Place::of(file) }),
            Err(error) => {
                delete(&name);
                Err(error).with_context(|| format!("{NAMES}/{name}"))
            }
        }
    }

    /// Its name for `ip -n` and `ip netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where things run that live here.
    pub fn place(&self) -> Place {
        self.place.clone()
    }

    /// See [`Place::enter`].
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        self.place.enter(work)
    }

    /// See [`Place::command`].
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.place.command(program)
    }

    /// `ip -n NAME arguments`; the arguments are split at blanks. The error holds what `ip` said.
    pub fn ip(&self, arguments: &str) -> anyhow::Result<()> {
        let mut all = vec!["-n", self.name.as_str()];
        all.extend(arguments.split_whitespace());
        ip(&all)
    }

    /// Adds one more address, for one more client; it can be used at once.
    pub fn add_address(&self, interface: &str, address: IpAddr) -> anyhow::Result<()> {
        match address {
            IpAddr::V4(address) => self.ip(&format!("address add {address}/24 dev {interface}")),
            IpAddr::V6(address) => self.ip(&format!("address add {address}/64 dev {interface} nodad")),
        }
    }

    /// Writes a setting such as `net/ipv4/tcp_syncookies`.
    pub fn sysctl(&self, key: &str, value: &str) -> anyhow::Result<()> {
        // /proc/sys/net shows the namespace of the thread that opens it.
        self.enter(|| fs::write(Path::new("/proc/sys").join(key), value))?
            .with_context(|| format!("{key} = {value}"))
    }

    /// Writes an attribute of an interface, such as `threaded`: a file below `/sys/class/net`.
    pub fn set_interface(&self, interface: &str, attribute: &str, value: &str) -> anyhow::Result<()> {
        let directory = Scratch::new()?;
        let file = directory.path().join("class/net").join(interface).join(attribute);
        // /sys shows the namespace of whoever mounted it.
        self.enter(|| {
            scratch::mount_sys(directory.path())?;
            fs::write(&file, value)
        })?
        .with_context(|| format!("{interface}/{attribute} = {value}"))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        delete(&self.name);
    }
}

/// Removes namespaces, processes in them, directories and mounts whose maker is gone, as after SIGKILL.
pub fn remove_leftovers() {
    if let Ok(names) = fs::read_dir(NAMES) {
        for name in names.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
            let ours = name.starts_with(EDGE_NAME) || name.starts_with(WORLD_NAME);
            if ours && scratch::dead_maker(&name).is_some() {
                kill_inhabitants(&name);
                delete(&name);
            }
        }
    }
    scratch::remove_leftovers();
}

/// Ends every process in a namespace that belongs to nobody any more.
fn kill_inhabitants(name: &str) {
    let Ok(pids) = Command::new("ip").args(["netns", "pids", name]).stdin(Stdio::null()).output() else {
        return;
    };
    for pid in String::from_utf8_lossy(&pids.stdout).lines().filter_map(|pid| pid.trim().parse().ok()) {
        // SAFETY: kill(2) takes no pointer.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
}

fn delete(name: &str) {
    if let Err(error) = ip(&["netns", "delete", name]) {
        log::warn!("{error:#}");
    }
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    let said = || format!("ip {}", arguments.join(" "));
    let output = Command::new("ip").args(arguments).stdin(Stdio::null()).output().with_context(said)?;
    if !output.status.success() {
        bail!("{}: {}", said(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Whether this kernel speaks IPv6 at all.
pub fn ipv6() -> bool {
    Path::new("/proc/net/if_inet6").exists()
}

fn mac(octets: [u8; 6]) -> String {
    octets.map(|octet| format!("{octet:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{SocketAddr, TcpListener},
        time::Duration,
    };

    use super::*;
    use crate::lab::{self, client::Connection};

    #[track_caller]
    fn check_tcp(lab: &Lab, server: IpAddr, client: IpAddr) {
        let listener = lab.edge.enter(|| TcpListener::bind(SocketAddr::new(server, 0)).unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let mut connection =
            Connection::open_in(&lab.world.place(), address, Some(client), Duration::from_secs(5)).unwrap();
        let (mut accepted, peer) = listener.accept().unwrap();
        assert_eq!(peer.ip(), client);
        connection.send(b"ping").unwrap();
        let mut received = [0; 4];
        accepted.read_exact(&mut received).unwrap();
        assert_eq!(&received, b"ping");
        accepted.write_all(b"pong").unwrap();
    }

    #[test]
    fn both_ends_talk_and_go_away() {
        if let Err(why) = lab::privileges() {
            return lab::skip("both_ends_talk_and_go_away", &why);
        }
        let lab = Lab::new().unwrap();
        check_tcp(&lab, EDGE_V4.into(), HONEST_V4[0].into());
        check_tcp(&lab, EDGE_V4.into(), GUESSER_V4.into());
        if ipv6() {
            check_tcp(&lab, EDGE_V6.into(), HONEST_V6[1].into());
            check_tcp(&lab, EDGE_V6.into(), GUESSER_V6.into());
        }
        let names = [lab.edge.name().to_owned(), lab.world.name().to_owned()];
        drop(lab);
        for name in names {
            assert!(!Path::new(NAMES).join(&name).exists(), "{name} is still there");
        }
    }

    #[test]
    fn a_panic_leaves_nothing() {
        if let Err(why) = lab::privileges() {
            return lab::skip("a_panic_leaves_nothing", &why);
        }
        let name = std::sync::OnceLock::new();
        let panicked = std::panic::catch_unwind(|| {
            let lab = Lab::new().unwrap();
            name.set(lab.edge.name().to_owned()).unwrap();
            lab.edge.enter(|| panic!("as a test would")).unwrap()
        });
        assert!(panicked.is_err());
        assert!(!Path::new(NAMES).join(name.get().unwrap()).exists());
    }

    #[test]
    fn children_live_in_the_namespace() {
        if let Err(why) = lab::privileges() {
            return lab::skip("children_live_in_the_namespace", &why);
        }
        let lab = Lab::new().unwrap();
        let links = lab.world.command("ip").args(["-o", "link"]).output().unwrap();
        assert!(String::from_utf8(links.stdout).unwrap().contains(WORLD_INTERFACE));
    }

    #[test]
    fn leftovers_of_the_living_stay() {
        if let Err(why) = lab::privileges() {
            return lab::skip("leftovers_of_the_living_stay", &why);
        }
        let lab = Lab::new().unwrap();
        remove_leftovers();
        lab.edge.ip("link show edge0").unwrap();
    }
}
