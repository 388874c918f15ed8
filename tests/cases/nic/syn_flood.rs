//! A flood of SYNs, with cookies at the NIC: clients connect throughout, and the listener never hears of it.

use std::{
    collections::HashMap,
    fs,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use xtask::lab::{
    client::Connection,
    flood::{Flood, Running, from_spoofed},
    frames::{Endpoints, Frame, Link, Segment},
    gateway::names,
    netns::{
        EDGE_MAC, EDGE_V4, EDGE_V6, GUESSER_V4, HONEST_V4, HONEST_V6, Namespace, WORLD_INTERFACE, WORLD_MAC,
    },
    wait,
};

use super::stage::{Background, PORT, Sections, Stage};
use crate::support::TIME_MAX;

/// A flood is taken for over after ten seconds; and then some.
const OVER_TIME_MAX: Duration = Duration::from_mins(1);
/// SYNs per second.
const RATE: u64 = 20_000;
/// Clients' connections that are tried meanwhile.
const CONNECTIONS: u32 = 100;
/// Frames that a flood has to have sent before what came of it is looked at.
const FRAMES_MIN: u64 = 40_000;

fn v4() -> SocketAddr {
    (EDGE_V4, PORT).into()
}

fn v6() -> SocketAddr {
    (EDGE_V6, PORT).into()
}

/// SYNs and ACKs from addresses that nobody has, over both families.
fn forged() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for target in [v4(), v6()] {
        frames.extend(from_spoofed(target, 5_000, 5_000, Segment::syn).unwrap());
        frames.extend(from_spoofed(target, 500, 500, |n| Segment::ack(n, n)).unwrap());
    }
    frames
}

/// SYNs in the name of a client.
fn in_the_name_of(victim: IpAddr) -> Vec<Vec<u8>> {
    let link = Link { source: WORLD_MAC, destination: EDGE_MAC, tags: Vec::new() };
    let frame = |port: u16| {
        let endpoints = Endpoints::between((victim, port).into(), v4()).unwrap();
        Frame { link: link.clone(), endpoints, segment: Segment::syn(7) }.bytes().unwrap()
    };
    // Not from where the client's own connections come.
    (1024..6024).map(frame).collect()
}

fn flood(stage: &Stage, frames: Vec<Vec<u8>>) -> Running {
    let flood = Flood {
        interface: WORLD_INTERFACE.to_owned(),
        count_max: u64::MAX,
        frames,
        rate_per_s: RATE,
        time_max: Duration::from_mins(5),
    };
    flood.start(&stage.lab.world.place()).unwrap()
}

/// What a namespace's TCP has counted (`/proc/net/netstat`).
fn counted(namespace: &Namespace) -> HashMap<String, u64> {
    let text = namespace.enter(|| fs::read_to_string("/proc/thread-self/net/netstat").unwrap()).unwrap();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let values = values.split_whitespace().map(|value| value.parse().unwrap_or(0));
    names.split_whitespace().map(str::to_owned).zip(values).collect()
}

/// Connections that the listener remembers as half open (`TCP_SYN_RECV` in `/proc/net/tcp`).
fn half_open(namespace: &Namespace) -> usize {
    let read =
        || ["tcp", "tcp6"].map(|file| fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap());
    let tables = namespace.enter(read).unwrap();
    let state = |line: &str| line.split_whitespace().nth(3).map(str::to_owned);
    tables.iter().flat_map(|table| table.lines()).filter(|line| state(line).as_deref() == Some("03")).count()
}

fn syncookies(stage: &Stage) -> String {
    let file = "/proc/sys/net/ipv4/tcp_syncookies";
    stage.lab.edge.enter(|| fs::read_to_string(file).unwrap()).unwrap().trim().to_owned()
}

#[test]
fn a_setting_that_may_not_change_is_told() {
    let test = "nic::a_setting_that_may_not_change_is_told";
    // Whoever only tries the filter changes nothing on the host.
    let sections = Sections { prefilter: "syn_cookies = \"always\"\ndry_run = true", ..Sections::default() };
    let Some(mut stage) = Stage::set(test, sections) else { return };
    await_state(&mut stage, "filter_when_full");
    assert_eq!(syncookies(&stage), "1");
    stage.check_served(HONEST_V4[0].into());
    assert!(stage.gateway().output().contains("only once a listener's queue is full"));
    // The host's own administrator may.
    stage.lab.edge.sysctl("net/ipv4/tcp_syncookies", "2").unwrap();
    await_state(&mut stage, "filter");
    stage.lab.edge.sysctl("net/ipv4/tcp_syncookies", "0").unwrap();
    await_state(&mut stage, "kernel");
    assert!(stage.gateway().output().contains("NO SYN COOKIES AT THE NIC"));
    stage.check_served(HONEST_V4[0].into());
}

#[track_caller]
fn await_state(stage: &mut Stage, state: &str) {
    let gateway = stage.gateway();
    let found = wait::until(OVER_TIME_MAX, || {
        let metrics = gateway.metrics().unwrap();
        (metrics.sum("portcullis_nic_syn_cookies", &[("state", state)]) > 0.0).then_some(())
    });
    assert!(found.is_some(), "SYN cookies never get to {state:?}: {}", gateway.output());
}

fn packets(stage: &mut Stage, reason: &str, verdict: &str) -> f64 {
    let metrics = stage.gateway().metrics().unwrap();
    metrics.sum(names::NIC_PACKETS, &[("reason", reason), ("verdict", verdict)])
}

/// Connects and asks again and again; the longest that a connection took, which is told and never judged.
#[track_caller]
#[expect(clippy::disallowed_methods, reason = "how long a client waits is what a flood is about")]
fn connect_often(stage: &Stage, source: IpAddr) -> Duration {
    let mut longest = Duration::ZERO;
    for _ in 0..CONNECTIONS {
        let start = Instant::now();
        let connection = stage.connect(source, TIME_MAX);
        longest = longest.max(start.elapsed());
        drop(connection.unwrap_or_else(|error| panic!("{source}: {error}")));
        stage.check_served(source);
    }
    longest
}

#[test]
fn the_listener_never_hears_of_a_flood_and_clients_connect_throughout() {
    let test = "nic::the_listener_never_hears_of_a_flood_and_clients_connect_throughout";
    let sections = Sections { prefilter: "syn_cookies = \"always\"", ..Sections::default() };
    let Some(mut stage) = Stage::set(test, sections) else { return };
    let _answers = stage.lab.take_what_xdp_sends().unwrap();
    await_state(&mut stage, "filter");
    let before = [counted(&stage.lab.edge), counted(&stage.lab.world)];
    let honest = stage.honest(&[HONEST_V4[0].into(), HONEST_V6[0].into()]);
    let flood = flood(&stage, forged());
    let (mut half_open_max, mut rounds) = (0, 0_u32);
    while rounds < 3 || flood.frames() < FRAMES_MIN {
        let sources = [HONEST_V4[1].into(), HONEST_V6[1].into(), GUESSER_V4.into()];
        for source in sources {
            let longest = connect_often(&stage, source);
            println!("{source}: the slowest of {CONNECTIONS} connections took {longest:?}");
            half_open_max = half_open_max.max(half_open(&stage.lab.edge));
        }
        rounds += 1;
    }
    let sent = flood.stop().unwrap();
    honest.into_iter().for_each(Background::check);
    let after = [counted(&stage.lab.edge), counted(&stage.lab.world)];
    let grown = |at: usize, name: &str| after[at][name] - before[at].get(name).copied().unwrap_or(0);
    println!("{sent:?}");
    assert_eq!(half_open_max, 0, "the listener remembers SYNs");
    // What it has sent went over loopback, to the upstream server and to the admin listener.
    assert!(grown(0, "SyncookiesSent") < sent.frames / 100, "the listener has answered SYNs");
    assert_eq!(grown(0, "SyncookiesFailed"), 0, "the listener has seen forged ACKs");
    // Each source connects twice in each turn.
    let connections = rounds * 3 * 2 * CONNECTIONS;
    assert!(grown(0, "SyncookiesRecv") >= connections.into());
    assert_eq!(grown(1, "TCPSynRetrans"), 0, "a client had to ask twice");
    assert!(packets(&mut stage, "syn_cookie", "tx") > 1_000.0);
    assert!(packets(&mut stage, "syn_cookie", "drop") < 1.0);
    assert!(packets(&mut stage, "cookie_accepted", "pass") >= connections.into());
    assert!(packets(&mut stage, "cookie_refused", "drop") > 100.0);
}

#[test]
fn cookies_come_with_a_flood_and_go_with_it() {
    let test = "nic::cookies_come_with_a_flood_and_go_with_it";
    // So few SYNs that a flood in a client's name would shut it out at once.
    let prefilter = "syn_cookies = \"auto\"\nsyn_flood = \"1000/s\"\nsyns = { rate = \"20/s\", burst = 20 }";
    let sections = Sections { prefilter, ..Sections::default() };
    let Some(mut stage) = Stage::set(test, sections) else { return };
    let _answers = stage.lab.take_what_xdp_sends().unwrap();
    await_state(&mut stage, "off");
    assert_eq!(syncookies(&stage), "1");
    let victim = HONEST_V4[0].into();
    let flood = flood(&stage, in_the_name_of(victim));
    await_state(&mut stage, "filter");
    assert_eq!(syncookies(&stage), "2");
    // Its bucket was emptied before the cookies came; it fills again.
    stage.await_served(victim);
    stage.check_served(victim);

    // A restart in the middle of it: what the next process finds on, it keeps on.
    stage.take_gateway().kill().unwrap();
    assert_eq!(syncookies(&stage), "2");
    stage.start(sections);
    await_state(&mut stage, "filter");
    stage.check_served(victim);
    let syns = |stage: &mut Stage| packets(stage, "syn_cookie", "tx");
    let so_far = syns(&mut stage);
    assert!(wait::until(TIME_MAX, || (syns(&mut stage) > so_far).then_some(())).is_some());

    flood.stop().unwrap();
    await_state(&mut stage, "off");
    assert_eq!(syncookies(&stage), "1");
    stage.check_served(victim);
    assert!(stage.gateway().output().contains("SYN cookies are off"));
}

#[test]
fn a_reload_turns_cookies_on_and_off() {
    let test = "nic::a_reload_turns_cookies_on_and_off";
    let Some(mut stage) = Stage::set(test, Sections::default()) else { return };
    let _answers = stage.lab.take_what_xdp_sends().unwrap();
    let mut before = stage.connect(HONEST_V4[0].into(), TIME_MAX).unwrap();
    stage.reload(Sections { prefilter: "syn_cookies = \"always\"", ..Sections::default() });
    await_state(&mut stage, "filter");
    stage.check_served(HONEST_V4[1].into());
    stage.check_served(HONEST_V6[1].into());
    let ask = |connection: &mut Connection| {
        connection.request(&xtask::lab::client::Request::get("/open")).unwrap().status
    };
    assert_eq!(ask(&mut before), 200, "a connection from before goes on");
    let mut meanwhile = stage.connect(HONEST_V4[2].into(), TIME_MAX).unwrap();
    stage.reload(Sections::default());
    await_state(&mut stage, "off");
    assert_eq!(ask(&mut meanwhile), 200, "and so does one that began with a cookie");
    assert_eq!(syncookies(&stage), "1");
}

#[test]
fn where_timestamps_can_remember_it_windows_are_scaled_as_both_ends_believe() {
    let test = "nic::where_timestamps_can_remember_it_windows_are_scaled_as_both_ends_believe";
    let Some(mut stage) = Stage::set(test, Sections::default()) else { return };
    let _answers = stage.lab.take_what_xdp_sends().unwrap();
    stage.lab.edge.sysctl("net/ipv4/tcp_timestamps", "2").unwrap();
    stage.reload(Sections { prefilter: "syn_cookies = \"always\"", ..Sections::default() });
    await_state(&mut stage, "filter");
    for source in [HONEST_V4[0].into(), HONEST_V6[0].into()] {
        let mut connection = stage.connect(source, TIME_MAX).unwrap();
        let port = connection.local_addr().unwrap().port();
        let status = connection.request(&xtask::lab::client::Request::get("/open")).unwrap().status;
        assert_eq!(status, 200);
        let told = |namespace: &Namespace, filter: &str| {
            let output = namespace.command("ss").args(["-Htin", filter]).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        let client = told(&stage.lab.world, &format!("sport = :{port}"));
        let server = told(&stage.lab.edge, &format!("dport = :{port}"));
        let scales = |text: &str| -> (String, String) {
            let scales = text.split_whitespace().find_map(|word| word.strip_prefix("wscale:"));
            let (sent, received) =
                scales.unwrap_or_else(|| panic!("not scaled: {text}")).split_once(',').unwrap();
            (sent.to_owned(), received.to_owned())
        };
        let (sent, received) = scales(&client);
        assert_eq!(scales(&server), (received, sent), "client: {client}server: {server}");
    }
}
