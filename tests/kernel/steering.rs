//! Connections land on the worker of the CPU that took the interrupt, over a veth pair with a queue for each CPU.

use std::{io, mem::MaybeUninit, net::SocketAddr, time::Duration};

use portcullis::{
    accept,
    config::{Prefilter, XdpMode},
    nic::Filter,
};
use xtask::lab::{client::Connection, netns::Lab, wait};

use super::{prefilter, remove_pins, skipped};

/// Connections from each CPU.
const CONNECTIONS: usize = 20;
const PORT: u16 = 8080;

/// Ties the calling thread to one CPU.
fn pin_to(cpu: usize) {
    // SAFETY: an all-zero set is a valid one, the macro-like functions stay within it for CPUs below its size, and the
    // kernel only reads it.
    let result = unsafe {
        let mut set = MaybeUninit::<libc::cpu_set_t>::zeroed().assume_init();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set)
    };
    assert_eq!(result, 0, "CPU {cpu}: {}", io::Error::last_os_error());
}

#[track_caller]
fn check(test: &str, filter: Option<XdpMode>) {
    if skipped(test) {
        return;
    }
    let cpus = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    if cpus < 2 {
        return xtask::lab::skip(test, "one CPU has no choice");
    }
    let lab = Lab::new().expect("namespaces");
    let queues = format!("numrxqueues {cpus} numtxqueues {cpus}");
    lab.edge
        .ip(&format!("link add st0 {queues} type veth peer name st1 {queues} netns {}", lab.world.name()))
        .expect("a pair");
    for (namespace, interface, address) in
        [(&lab.edge, "st0", "203.0.113.129/25"), (&lab.world, "st1", "203.0.113.130/25")]
    {
        namespace.ip(&format!("address add {address} dev {interface}")).expect("an address");
        namespace.ip(&format!("link set {interface} up")).expect("up");
    }
    let server = SocketAddr::from(([203, 0, 113, 129], PORT));
    let config = filter.map(|mode| Prefilter { interfaces: vec!["st0".into()], mode, ..prefilter() });
    let all: Vec<usize> = (0..cpus).collect();
    let sockets = lab
        .edge
        .enter(|| {
            if let Some(config) = &config {
                let filter = Filter::open(config, &[PORT]).expect("attached");
                assert_eq!(filter.attached().first().map(|(_, mode)| *mode), Some(config.mode));
            }
            accept::bind(server, &all).expect("bound")
        })
        .expect("a namespace");
    for socket in &sockets {
        socket.set_nonblocking(true).expect("a mode");
    }
    // The first packets ask for addresses, wherever they are answered.
    drop(Connection::open_in(&lab.world.place(), server, None, Duration::from_secs(5)).expect("connected"));
    let drain = || {
        sockets.iter().map(|socket| std::iter::from_fn(|| socket.accept().ok()).count()).collect::<Vec<_>>()
    };
    wait::until(Duration::from_secs(5), || drain().contains(&1).then_some(())).expect("accepted");
    for cpu in all {
        let clients = lab
            .world
            .enter(|| {
                pin_to(cpu);
                let open = || Connection::open(server, None, Duration::from_secs(5)).expect("connected");
                (0..CONNECTIONS).map(|_| open()).collect::<Vec<_>>()
            })
            .expect("a namespace");
        let mut landed = vec![0; cpus];
        let accepted = wait::until(Duration::from_secs(5), || {
            for (sum, count) in landed.iter_mut().zip(drain()) {
                *sum += count;
            }
            (landed.iter().sum::<usize>() == CONNECTIONS).then_some(())
        });
        assert!(accepted.is_some(), "{landed:?}");
        // A SYN that is sent again is sent by a timer, wherever that runs. By chance it would be every other connection.
        assert!(landed[cpu] + 1 >= CONNECTIONS, "{landed:?} of connections whose packets CPU {cpu} took");
        drop(clients);
    }
    if let Some(config) = config {
        remove_pins(&config.pin_dir);
    }
}

#[test]
fn a_connection_lands_on_the_cpu_that_took_its_packets() {
    check("kernel::steering::a_connection_lands_on_the_cpu_that_took_its_packets", None);
}

#[test]
fn also_behind_the_filter() {
    check("kernel::steering::also_behind_the_filter", Some(XdpMode::Native));
}

#[test]
fn also_behind_the_filter_in_the_generic_hook() {
    check("kernel::steering::also_behind_the_filter_in_the_generic_hook", Some(XdpMode::Generic));
}
