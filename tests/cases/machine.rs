//! What the machine does to the gateway: no descriptors, no time, no `io_uring`, a clock that jumps.

use std::{
    collections::HashSet,
    fs, io,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::Command,
    ptr,
    time::{Duration, Instant},
};

use xtask::lab::{
    self,
    client::{ClientError, Connection, Request, Response},
    place::Place,
    process::Process,
    scratch::Scratch,
    scripted::Step,
    wait,
};

use crate::support::{BINARY, Edge, HELLO, OPEN, TIME_MAX, answering, free_address, scripted, stand_still};

fn one_worker() -> String {
    format!("[runtime]\nworkers = 1\n{OPEN}")
}

/// From now on a process can open so many descriptors more.
fn leave_descriptors(pid: u32, more: usize) {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let open: HashSet<u64> =
        open.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect();
    // The limit is one of their numbers, and the lowest free one is taken.
    let max = (0..).filter(|number| !open.contains(number)).nth(more).unwrap();
    let pid = i32::try_from(pid).unwrap();
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: each call gets a null pointer and one to a local of the right type.
    let done = unsafe {
        libc::prlimit(pid, libc::RLIMIT_NOFILE, ptr::null(), &raw mut limit);
        limit.rlim_cur = max;
        libc::prlimit(pid, libc::RLIMIT_NOFILE, &raw const limit, ptr::null_mut())
    };
    assert_eq!(done, 0, "{}", io::Error::last_os_error());
}

/// CPU time that a process has used, of all its threads.
fn cpu_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name before them may hold spaces: proc_pid_stat(5).
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks: u64 =
        fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    // SAFETY: takes no pointer.
    let ticks_per_s = u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).unwrap();
    Duration::from_millis(ticks * 1000 / ticks_per_s)
}

fn ask(client: &mut Connection) -> Result<Response, ClientError> {
    client.request(&Request::get("/"))
}

/// Fault row 12.
#[test]
#[expect(clippy::disallowed_methods, reason = "CPU time is measured over a time")]
fn without_a_descriptor_connections_are_shed_without_a_spin_and_served_again_later() {
    let upstream = answering(HELLO);
    let edge = Edge::start(upstream.address(), &one_worker());
    let pid = edge.gateway.pid();
    let mut held = vec![edge.connect()];
    assert_eq!(ask(&mut held[0]).unwrap().status, 200, "it has a connection to its server");
    leave_descriptors(pid, 16);
    loop {
        assert!(held.len() < 100, "nothing is shed");
        let mut client = edge.connect();
        match ask(&mut client) {
            Ok(response) => assert_eq!(response.status, 200),
            Err(ClientError::Reset | ClientError::ClosedEarly(0)) => break,
            Err(error) => panic!("{error}"),
        }
        held.push(client);
    }
    assert!(held.len() > 10, "{}", held.len());
    let (begun, before) = (Instant::now(), cpu_time(pid));
    for _ in 0..10 {
        assert!(ask(&mut edge.connect()).is_err());
        assert_eq!(ask(&mut held[0]).unwrap().status, 200, "who is in is served");
        std::thread::sleep(Duration::from_millis(100));
    }
    let (time, used) = (begun.elapsed(), cpu_time(pid).saturating_sub(before));
    assert!(used < time / 4, "{used:?} of CPU within {time:?}");
    let output = edge.gateway.output();
    assert!(output.lines().count() < 20, "it must not fill the log: {output}");

    held.clear();
    check_serves_again(&edge);
    let metrics = edge.gateway.metrics().unwrap();
    assert!(metrics.sum("portcullis_bounds_hit_total", &[("bound", "descriptors")]) > 10.0);
}

#[track_caller]
fn check_serves_again(edge: &Edge) {
    let again =
        wait::until(TIME_MAX, || ask(&mut edge.connect()).ok().filter(|response| response.status == 200));
    assert!(again.is_some(), "{}", edge.gateway.output());
}

#[test]
fn without_a_descriptor_for_a_server_a_request_is_503_and_no_server_is_blamed() {
    let last = HELLO.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    let upstream = scripted(&[Step::ReadHead, Step::Send(last.into()), Step::Close]);
    let edge = Edge::start(upstream.address(), &one_worker());
    let mut held = edge.connect();
    assert_eq!(ask(&mut held).unwrap().status, 200);
    // Each request needs a new connection; that of the last one may be closed a moment later.
    let refused = wait::until(TIME_MAX, || {
        leave_descriptors(edge.gateway.pid(), 0);
        Some(ask(&mut held).unwrap()).filter(|response| response.status != 200)
    });
    let refused = refused.expect("it cannot connect");
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    assert!(refused.text().contains("\"overloaded\""), "{}", refused.text());
    leave_descriptors(edge.gateway.pid(), 16);
    assert_eq!(ask(&mut held).unwrap().status, 200, "its connection goes on");
    check_serves_again(&edge);
    let metrics = edge.gateway.metrics().unwrap();
    let failed = metrics.sum("portcullis_upstream_events_total", &[("event", "failed")]);
    let hits = metrics.sum("portcullis_bounds_hit_total", &[("bound", "descriptors")]);
    assert!(failed < 0.5 && hits > 0.5, "{failed} {hits}");
}

/// The timers of established TCP connections over loopback to or from `port`: `proc_net_tcp(5)`.
fn timers(port: u16) -> Vec<u8> {
    let table = fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    let port = format!(":{port:04X}");
    let rows = table.lines().skip(1).map(|row| row.split_whitespace().collect::<Vec<_>>());
    // Local address, remote address, state, timer and when it ends.
    let ours = rows.filter(|row| row[3] == "01" && (row[1].ends_with(&port) || row[2].ends_with(&port)));
    ours.map(|row| row[5].split(':').next().unwrap().parse().unwrap()).collect()
}

/// Fault row 9: where nothing is under way, the kernel asks whether the peer is still there.
#[test]
fn idle_connections_on_both_sides_have_keepalive() {
    const NONE: u8 = 0;
    const KEEPALIVE: u8 = 2;
    let upstream = answering(HELLO);
    let edge = Edge::start(upstream.address(), &one_worker());
    let mut client = edge.connect();
    assert_eq!(ask(&mut client).unwrap().status, 200);
    for port in [edge.address.port(), upstream.address().port()] {
        // One end is the gateway's, the other a test's that has none.
        let kept = wait::until(TIME_MAX, || {
            let mut timers = timers(port);
            timers.sort_unstable();
            (timers == [NONE, KEEPALIVE]).then_some(())
        });
        assert!(kept.is_some(), "{port}: {:?}", timers(port));
    }
}

/// Fault row 35: what came while it had no CPU is served when it has.
#[test]
fn who_came_while_it_stood_still_is_served_when_it_goes_on() {
    let upstream = answering(HELLO);
    let mut edge = Edge::start(upstream.address(), &one_worker());
    let mut old = edge.connect();
    assert_eq!(ask(&mut old).unwrap().status, 200);
    stand_still(&mut edge.gateway);
    let mut clients: Vec<_> = (0..200).map(|_| edge.connect()).chain([old]).collect();
    for client in &mut clients {
        client.send(&Request::get("/").bytes()).unwrap();
    }
    edge.gateway.process().signal(libc::SIGCONT).unwrap();
    for client in &mut clients {
        assert_eq!(client.receive("GET").unwrap().status, 200);
    }
}

/// Fault row 37: what a worker that is stuck holds cannot be saved, but the next start can.
#[test]
fn a_worker_that_is_stuck_ends_the_process() {
    let upstream = answering(HELLO);
    let mut edge = Edge::start(upstream.address(), &format!("[runtime]\nworkers = 2\n{OPEN}"));
    let Some(task) = thread_named(edge.gateway.pid(), "worker-1") else { panic!("workers have names") };
    // SAFETY: it is a thread of our own child; no pointer is given that is used.
    let stopped = unsafe {
        libc::ptrace(libc::PTRACE_SEIZE, task, 0, 0) == 0
            && libc::ptrace(libc::PTRACE_INTERRUPT, task, 0, 0) == 0
    };
    if !stopped {
        let why = format!("ptrace: {}", io::Error::last_os_error());
        return lab::skip("a_worker_that_is_stuck_ends_the_process", &why);
    }
    let mut status = 0;
    // SAFETY: the status is a local. Who traces a thread is told of its end first: it stops, then is killed.
    while unsafe { libc::waitpid(task, &raw mut status, libc::__WALL) } == task && libc::WIFSTOPPED(status) {}
    let status = edge.gateway.process().wait(TIME_MAX).unwrap().expect("it ends");
    let output = edge.gateway.output();
    assert!(!status.success() && output.contains("worker 1 is stuck"), "{status}: {output}");
}

fn thread_named(pid: u32, name: &str) -> Option<libc::pid_t> {
    let mut tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(Result::unwrap);
    let is_it = |task: &fs::DirEntry| fs::read_to_string(task.path().join("comm")).unwrap().trim() == name;
    tasks.find(is_it).map(|task| task.file_name().to_str().unwrap().parse().unwrap())
}

/// Fault row 34.
#[test]
fn without_io_uring_it_does_not_start_and_says_what_to_change() {
    let directory = Scratch::new().unwrap();
    let config = format!("[listeners.public]\naddress = \"{}\"\n{OPEN}", free_address());
    let config = directory.write("portcullis.toml", config.replace("{upstream}", "127.0.0.1:1")).unwrap();
    let mut command = Place::here().command(BINARY);
    command.args(["run", "--config"]).arg(config);
    // SAFETY: between fork and exec it makes system calls only, with locals.
    unsafe { command.pre_exec(forbid_io_uring) };
    let mut process = Process::start(command, directory.path().join("output")).unwrap();
    let status = process.wait(TIME_MAX).unwrap().expect("it ends");
    let output = process.output();
    assert!(!status.success() && output.contains("kernel.io_uring_disabled"), "{status}: {output}");
}

/// As sandboxes do: `io_uring_setup` is refused with EPERM to this process for ever.
#[expect(clippy::cast_possible_truncation, reason = "constants of the kernel, and four steps")]
fn forbid_io_uring() -> io::Result<()> {
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let if_equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let answer = libc::BPF_RET | libc::BPF_K;
    let step =
        |code: u32, k: u32, when_not: u8| libc::sock_filter { code: code as u16, jt: 0, jf: when_not, k };
    let mut steps = [
        // The number of the system call is the first word of `seccomp_data`.
        step(load, 0, 0),
        step(if_equal, libc::SYS_io_uring_setup as u32, 1),
        step(answer, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32, 0),
        step(answer, libc::SECCOMP_RET_ALLOW, 0),
    ];
    let filter = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
    // SAFETY: the filter and its steps outlive the calls.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Moves the wall clock of whoever is started with it by as many seconds as the file says.
const CLOCK: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
int clock_gettime(clockid_t id, struct timespec *time) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(id, time);
    const char *name = getenv("CLOCK_MOVED_S");
    FILE *file = id == CLOCK_REALTIME && name ? fopen(name, "r") : NULL;
    if (file) {
        long moved_s = 0;
        if (fscanf(file, "%ld", &moved_s) == 1) time->tv_sec += moved_s;
        fclose(file);
    }
    return result;
}
"#;

/// Fault row 17: deadlines, blocks and limits do not go by the wall clock.
#[test]
fn a_wall_clock_that_jumps_by_a_day_moves_no_deadline() {
    let directory = Scratch::new().unwrap();
    let moved_s = directory.write("moved_s", "0").unwrap();
    let source = directory.write("clock.c", CLOCK).unwrap();
    let library = directory.path().join("clock.so");
    let compiled = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).status();
    if !compiled.is_ok_and(|status| status.success()) {
        return lab::skip("a_wall_clock_that_jumps_by_a_day_moves_no_deadline", "no C compiler");
    }
    let wrapper = format!(
        "#!/bin/sh\nCLOCK_MOVED_S='{}' LD_PRELOAD='{}' exec '{BINARY}' \"$@\"\n",
        moved_s.display(),
        library.display()
    );
    let wrapper = directory.write("portcullis", wrapper).unwrap();
    fs::set_permissions(&wrapper, PermissionsExt::from_mode(0o700)).unwrap();
    let upstream = answering(HELLO);
    let listener = "timeouts = { head = \"2s\", keep_alive = \"1h\" }";
    let edge = Edge::start_binary(&wrapper, directory, upstream.address(), listener, &one_worker());
    let date = |client: &mut Connection| ask(client).unwrap().header("date").unwrap().to_owned();
    let mut idle = edge.connect();
    let today = date(&mut idle);
    for jump_s in ["86400", "-86400"] {
        let mut slow = edge.connect();
        slow.send(b"GET / HTTP/1.1\r\n").unwrap();
        fs::write(&moved_s, jump_s).unwrap();
        let seen = wait::until(TIME_MAX, || (date(&mut idle) != today).then_some(()));
        assert!(seen.is_some(), "it sees the clock jump");
        slow.send(b"Host: a\r\n\r\n").unwrap();
        assert_eq!(slow.receive("GET").unwrap().status, 200, "its time was not over");
        let mut never = edge.connect();
        never.send(b"GET / HTTP/1.1\r\n").unwrap();
        assert_eq!(never.receive("GET").unwrap().status, 408, "its time does come");
        assert_eq!(ask(&mut idle).unwrap().status, 200);
    }
}
