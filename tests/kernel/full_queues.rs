//! SYN cookies where things are not as they should be: listeners whose queues are full, a host whose setting cannot be
//! changed, a kernel without the helpers.

use std::{
    fs, io,
    net::{Ipv6Addr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    ptr,
    time::Duration,
};

use portcullis::{
    config::Prefilter,
    nic::{Filter, Reason, SynAnswers, Verdict},
};
use xtask::lab::{
    self,
    flood::{Flood, from_spoofed},
    frames::Segment,
    netns::{EDGE_V4, Lab as Network, WORLD_INTERFACE},
    wait,
};

use super::{
    Lab, prefilter, skipped,
    syn_cookies::{run, segment},
    table::{
        cases::CLIENT4,
        frames::{ACK, SYN, ipv4},
        world::PORTS,
    },
};

const TIME_MAX: Duration = Duration::from_secs(10);

/// Runs `test` in a namespace of its own with a listener on port 443 that queues so many connections and one more.
fn with_backlog(name: &str, backlog: i32, test: impl FnOnce(&Network, &TcpListener) + Send) {
    if skipped(name) {
        return;
    }
    if let Err(why) = lab::privileges() {
        return lab::skip(name, &why);
    }
    let network = Network::new().expect("namespaces");
    let play = || {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 443)).expect("a listener");
        // SAFETY: listen(2) takes no pointer; a second call changes the backlog.
        assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), backlog) }, 0);
        test(&network, &listener);
    };
    network.edge.enter(play).expect("the namespace");
}

fn syn() -> Vec<u8> {
    ipv4(CLIENT4, 6, &[], &segment(SYN, 70, 0, &[]))
}

#[test]
fn a_listener_without_room_gets_no_handshakes() {
    let name = "kernel::full_queues::a_listener_without_room_gets_no_handshakes";
    with_backlog(name, 0, |_, listener| {
        let mut lab = Lab::open(prefilter());
        assert_eq!(lab.filter.set_syn_cookies(true).expect("cookies"), SynAnswers::Filter);
        assert_eq!(run(&mut lab, &syn()).0, Reason::SynCookie);
        let client = TcpStream::connect("127.0.0.1:443").expect("a connection");
        lab.check(&syn(), Reason::ListenerFull);
        drop(listener.accept().expect("accepted"));
        assert_eq!(run(&mut lab, &syn()).0, Reason::SynCookie);
        drop(client);
    });
}

/// Makes the host's settings those that nobody can change, for this thread.
fn forbid_settings() -> io::Result<()> {
    let settings = c"/proc/sys";
    let mount = |flags: libc::c_ulong| {
        // SAFETY: the strings end with a NUL, and the kernel keeps neither; what is absent is null.
        let result =
            unsafe { libc::mount(settings.as_ptr(), settings.as_ptr(), ptr::null(), flags, ptr::null()) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: only this thread's view of the mounts changes; the strings are as above.
    unsafe {
        if libc::unshare(libc::CLONE_NEWNS) != 0
            || libc::mount(
                ptr::null(),
                c"/".as_ptr(),
                ptr::null(),
                libc::MS_REC | libc::MS_PRIVATE,
                ptr::null(),
            ) != 0
        {
            return Err(io::Error::last_os_error());
        }
    }
    mount(libc::MS_BIND)?;
    mount(libc::MS_BIND | libc::MS_REMOUNT | libc::MS_RDONLY)
}

/// Connections of this namespace that have only begun (`TCP_SYN_RECV`).
fn half_open() -> usize {
    let table = fs::read_to_string("/proc/thread-self/net/tcp6").expect("a table");
    let v4 = fs::read_to_string("/proc/thread-self/net/tcp").expect("a table");
    let state = |line: &str| line.split_whitespace().nth(3) == Some("03");
    table.lines().chain(v4.lines()).filter(|line| state(line)).count()
}

#[test]
fn where_the_setting_stays_the_filter_answers_for_full_queues_alone() {
    let name = "kernel::full_queues::where_the_setting_stays_the_filter_answers_for_full_queues_alone";
    with_backlog(name, 0, |network, _| {
        if let Err(why) = forbid_settings() {
            return lab::skip(name, &format!("no mounts: {why}"));
        }
        let mut lab = Lab::open(prefilter());
        assert_eq!(lab.filter.set_syn_cookies(true).expect("cookies"), SynAnswers::FilterWhenFull);
        // The kernel's own queue takes it.
        lab.check(&syn(), Reason::NotLimited);
        let frames = from_spoofed((EDGE_V4, 443).into(), 1, 1, Segment::syn).expect("a SYN");
        let once = Flood {
            interface: WORLD_INTERFACE.to_owned(),
            frames,
            count_max: 1,
            rate_per_s: 1_000,
            time_max: TIME_MAX,
        };
        let running = once.start(&network.world.place()).expect("sent");
        assert!(wait::until(TIME_MAX, || (half_open() > 0).then_some(())).is_some(), "no SYN has come");
        running.stop().expect("stopped");
        let (reason, verdict, _) = run(&mut lab, &syn());
        assert_eq!((reason, verdict), (Reason::SynCookie, Verdict::Tx));
        // A guess is no more worth than where the filter answers everybody.
        lab.check(&ipv4(CLIENT4, 6, &[], &segment(ACK, 71, 9, &[])), Reason::CookieRefused);
    });
}

#[test]
fn without_the_helpers_the_kernel_answers_and_all_else_holds() {
    let name = "kernel::full_queues::without_the_helpers_the_kernel_answers_and_all_else_holds";
    with_backlog(name, 8, |_, _| {
        let mut whole =
            Lab::open(Prefilter { block: vec!["203.0.113.0/24".parse().expect("a prefix")], ..prefilter() });
        whole.filter.set_syn_cookies(true).expect("cookies");
        assert_eq!(run(&mut whole, &syn()).0, Reason::SynCookie);
        // It takes over from one that had them, whose settings still say so.
        let filter = Filter::open_without_cookies(&whole.config, &PORTS).expect("loaded without the helpers");
        let counters = filter.counters().expect("counters");
        whole.filter = filter;
        whole.counters = counters;
        assert!(whole.filter.has_syn_cookies().expect("settings"));
        let forged = ipv4(CLIENT4, 6, &[], &segment(ACK, 71, 9, &[]));
        for packet in [syn(), forged] {
            whole.check(&packet, Reason::NotLimited);
        }
        assert_eq!(whole.filter.set_syn_cookies(true).expect("told"), SynAnswers::Kernel);
        assert!(!whole.filter.has_syn_cookies().expect("settings"));
        whole.check(&syn(), Reason::NotLimited);
        whole.check(&ipv4("203.0.113.9", 6, &[], &segment(SYN, 70, 0, &[])), Reason::BlockedPrefix);
    });
}
