//! Nobody who administers the host is locked out of it.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    process::Command,
};

use xtask::lab::{
    client::{ClientError, Connection},
    flood::Flood,
    frames::{Endpoints, Frame, Link, Segment},
    gateway::names,
    netns::{
        EDGE_INTERFACE, EDGE_MAC, EDGE_V4, EDGE_V6, GUESSER_V4, HONEST_V4, HONEST_V6, WORLD_INTERFACE,
        WORLD_MAC, ipv6,
    },
    wait,
};

use super::stage::{SILENCE, Sections, Stage, get};
use crate::support::TIME_MAX;

/// What stands for sshd, on a port of its own.
pub(super) const SSH: u16 = 2222;
const UNAUTHORIZED: &str = "block_for = \"10m\"\nunauthorized = { count = 5, within = \"1m\" }";
const COUNT: usize = 5;

fn guess() -> Vec<u8> {
    get("/keyed", &[("x-api-key", "wrong")])
}

/// Something that listens on the edge host; the kernel completes the handshakes.
pub(super) fn listen(stage: &Stage, port: u16) -> TcpListener {
    stage.lab.edge.enter(|| TcpListener::bind((EDGE_V4, port))).unwrap().unwrap()
}

pub(super) fn connect(stage: &Stage, source: IpAddr, port: u16) -> Result<Connection, ClientError> {
    Connection::open_in(&stage.lab.world.place(), (EDGE_V4, port).into(), Some(source), SILENCE)
}

#[track_caller]
fn offend(stage: &Stage, source: IpAddr) {
    let mut connection = None;
    for _ in 0..3 * COUNT {
        stage.offend(&mut connection, source, &guess()).unwrap();
    }
}

#[test]
fn an_administrators_connection_is_not_cut() {
    let test = "nic::an_administrators_connection_is_not_cut";
    let sections = Sections { escalation: UNAUTHORIZED, ..Sections::default() };
    let Some(mut stage) = Stage::set(test, sections) else { return };
    let [admin, late, ..] = HONEST_V4.map(IpAddr::from);
    let sshd = listen(&stage, SSH);
    stage.take_gateway().kill().unwrap();
    let session = connect(&stage, admin, SSH).unwrap();
    stage.start(sections);

    offend(&stage, admin);
    stage.check_served(admin);
    // One who connects now has not logged in yet, as far as anybody can tell.
    let knock = connect(&stage, late, SSH).unwrap();
    stage.offend_until_dropped(late, &guess());
    assert_eq!(stage.blocked(), [format!("{late}/32")]);
    let metrics = stage.gateway().metrics().unwrap();
    assert_eq!(metrics.sum("portcullis_admins", &[]).to_string(), "1");

    // Whoever has left is like anybody else.
    drop((session, knock, sshd));
    let left = wait::until(TIME_MAX, || {
        let metrics = stage.gateway().metrics().unwrap();
        (metrics.sum("portcullis_admins", &[]) == 0.0).then_some(())
    });
    assert!(left.is_some(), "the administrator has left");
    stage.offend_until_dropped(admin, &guess());
}

#[test]
fn where_administrators_come_in_can_be_told() {
    let test = "nic::where_administrators_come_in_can_be_told";
    let escalation = format!("admin_ports = [22]\n{UNAUTHORIZED}");
    let sections = Sections { escalation: &escalation, ..Sections::default() };
    let Some(mut stage) = Stage::set(test, sections) else { return };
    let source = HONEST_V4[0].into();
    let _other = listen(&stage, SSH);
    stage.take_gateway().kill().unwrap();
    let _session = connect(&stage, source, SSH).unwrap();
    stage.start(sections);
    stage.offend_until_dropped(source, &guess());
}

#[test]
fn ports_without_limits_have_none() {
    let test = "nic::ports_without_limits_have_none";
    let sections = Sections {
        prefilter: "syns = { rate = \"1/s\", burst = 3 }\npackets = \"off\"",
        ..Sections::default()
    };
    let Some(stage) = Stage::set(test, sections) else { return };
    let _sshd = listen(&stage, SSH);
    let source = GUESSER_V4.into();
    let over = wait::until(TIME_MAX, || stage.connect(source, SILENCE).is_err().then_some(()));
    assert!(over.is_some(), "the limit holds on the listener's port");
    for _ in 0..20 {
        connect(&stage, source, SSH).unwrap();
    }
}

/// Whether the world knows the edge's hardware address, which only an answer tells it.
fn resolves(stage: &Stage, address: IpAddr) -> bool {
    let shown = stage.lab.world.command("ip").args(["neigh", "show", &address.to_string()]).output().unwrap();
    String::from_utf8_lossy(&shown.stdout).contains("lladdr")
}

#[test]
fn neighbours_find_the_host_whoever_is_blocked() {
    let test = "nic::neighbours_find_the_host_whoever_is_blocked";
    let Some(stage) = Stage::set(test, Sections::default()) else { return };
    let mut cases = vec![(IpAddr::from(HONEST_V4[0]), IpAddr::from(EDGE_V4))];
    if ipv6() {
        cases.push((HONEST_V6[0].into(), EDGE_V6.into()));
    }
    for prefix in ["0.0.0.0/0", "::/0"] {
        stage.told(&["bans", "add", prefix, "--for", "10m"]);
    }
    for (source, edge) in cases {
        stage.lab.world.ip("neigh flush all").unwrap();
        let resolved = wait::until(TIME_MAX, || {
            stage.check_dropped(source);
            resolves(&stage, edge).then_some(())
        });
        assert!(resolved.is_some(), "{edge} cannot be found");
    }
}

#[test]
fn dhcp_passes_whoever_is_blocked() {
    let test = "nic::dhcp_passes_whoever_is_blocked";
    let Some(mut stage) = Stage::set(test, Sections::default()) else { return };
    let client = stage.lab.edge.enter(|| UdpSocket::bind((EDGE_V4, 68))).unwrap().unwrap();
    client.set_read_timeout(Some(TIME_MAX)).unwrap();
    stage.told(&["bans", "add", "192.0.2.0/24", "--for", "10m"]);
    let server = HONEST_V4[0];
    let link = Link { source: WORLD_MAC, destination: EDGE_MAC, tags: Vec::new() };
    let frame = |from: u16, data: &[u8]| {
        let endpoints = Endpoints::between((server, from).into(), (EDGE_V4, 68).into()).unwrap();
        Frame { link: link.clone(), endpoints, segment: Segment::udp(data) }.bytes().unwrap()
    };
    let frames = vec![frame(1067, b"forged"), frame(67, b"lease")];
    let flood = Flood {
        interface: WORLD_INTERFACE.to_owned(),
        count_max: frames.len() as u64,
        frames,
        rate_per_s: 1_000,
        time_max: TIME_MAX,
    };
    flood.start(&stage.lab.world.place()).unwrap().wait().unwrap();
    let mut data = [0; 16];
    let (bytes, from) = client.recv_from(&mut data).unwrap();
    assert_eq!((&data[..bytes], from), (&b"lease"[..], SocketAddr::from((server, 67))));
    let metrics = stage.gateway().metrics().unwrap();
    let dropped =
        metrics.sum(names::NIC_PACKETS, &[("reason", "blocked_prefix"), ("verdict", names::VERDICT_DROP)]);
    assert!(dropped >= 1.0, "what only looks like it is dropped");
}

#[test]
fn without_anybody_allowed_it_does_not_filter_unless_really() {
    let test = "nic::without_anybody_allowed_it_does_not_filter_unless_really";
    let Some(mut stage) = Stage::set(test, Sections::default()) else { return };
    stage.take_gateway().kill().unwrap();
    stage.told(&["panic-open"]);
    let refused = stage.run(&["run"]);
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success(), "{message}");
    for part in ["prefilter.allow is empty", "dry_run = true", "--yes-really"] {
        assert!(message.contains(part), "{message}");
    }
    let pinned = std::fs::read_dir(stage.pin_dir()).map_or(0, Iterator::count);
    assert_eq!(pinned, 0, "it was refused before anything was attached");
}

#[test]
fn an_operator_does_not_block_their_own_connection() {
    let test = "nic::an_operator_does_not_block_their_own_connection";
    let Some(stage) = Stage::set(test, Sections::default()) else { return };
    let _sshd = listen(&stage, SSH);
    let admin = IpAddr::from(HONEST_V4[0]);
    let session = connect(&stage, admin, SSH).unwrap();
    for prefix in ["192.0.2.0/24".to_owned(), admin.to_string()] {
        let refused = stage.run(&["bans", "add", &prefix]);
        let message = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && message.contains(&format!("holds {admin}")), "{message}");
    }
    stage.check_served(admin);
    stage.told(&["bans", "add", "192.0.2.0/24", "--yes-really"]);
    stage.check_dropped(admin);
    drop(session);
}

#[test]
fn the_removal_of_a_pin_opens_the_host() {
    let test = "nic::the_removal_of_a_pin_opens_the_host";
    let Some(mut stage) = Stage::set(test, Sections::default()) else { return };
    let blocked = IpAddr::from(GUESSER_V4);
    // A second interface, to see that it goes with the first.
    filter_a_second_interface(&mut stage);
    stage.told(&["bans", "add", &blocked.to_string(), "--for", "10m"]);
    stage.check_dropped(blocked);

    remove_pin(&stage, EDGE_INTERFACE).unwrap();
    stage.await_served(blocked);
    let open = wait::until(TIME_MAX, || (!carries(&stage, "extra0")).then_some(()));
    assert!(open.is_some(), "it is off everywhere");
    let told = wait::until(TIME_MAX, || stage.gateway().output().contains("THE FILTER IS OFF").then_some(()));
    assert!(told.is_some(), "{}", stage.gateway().output());

    stage.gateway().process().signal(libc::SIGHUP).unwrap();
    let again =
        wait::until(TIME_MAX, || (carries(&stage, "extra0") && carries(&stage, "edge0")).then_some(()));
    assert!(again.is_some(), "until a reload");
    stage.check_dropped(blocked);
    stage.take_gateway().kill().unwrap();
    remove_pin(&stage, EDGE_INTERFACE).unwrap();
    let open = wait::until(TIME_MAX, || (!carries(&stage, EDGE_INTERFACE)).then_some(()));
    assert!(open.is_some(), "nobody has to be there for it");
}

#[test]
fn an_interface_that_has_lost_the_filter_gets_it_again() {
    let test = "nic::an_interface_that_has_lost_the_filter_gets_it_again";
    let Some(mut stage) = Stage::set(test, Sections::default()) else { return };
    filter_a_second_interface(&mut stage);
    stage.lab.edge.ip("link del extra0").unwrap();
    stage.lab.edge.ip("link add extra0 type veth peer name extra1").unwrap();
    let again = wait::until(TIME_MAX, || carries(&stage, "extra0").then_some(()));
    assert!(again.is_some(), "another interface of this name has come");
    assert!(carries(&stage, EDGE_INTERFACE));
}

/// Adds `extra0` to the host and, by a reload, to what is filtered.
fn filter_a_second_interface(stage: &mut Stage) {
    stage.lab.edge.ip("link add extra0 type veth peer name extra1").unwrap();
    let two = "interfaces = [\"edge0\", \"extra0\"]";
    let config = stage.config(Sections::default()).replace("interfaces = [\"edge0\"]", two);
    stage.gateway().write_config(&config).unwrap();
    stage.gateway().process().signal(libc::SIGHUP).unwrap();
    let attached = wait::until(TIME_MAX, || carries(stage, "extra0").then_some(()));
    assert!(attached.is_some(), "the second interface is filtered as well");
}

fn carries(stage: &Stage, interface: &str) -> bool {
    let mut command: Command = stage.lab.edge.command("ip");
    let shown = command.args(["link", "show", "dev", interface]).output().unwrap();
    String::from_utf8_lossy(&shown.stdout).contains("prog/xdp")
}

fn remove_pin(stage: &Stage, interface: &str) -> io::Result<()> {
    let version = std::fs::read_dir(stage.pin_dir())?.next().ok_or(io::ErrorKind::NotFound)??;
    std::fs::remove_file(version.path().join(format!("link:{interface}")))
}
