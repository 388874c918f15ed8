//! A constant rate, whatever the server does.
//!
//! Each request is due at a time that was fixed before the first was sent. When every connection is taken, those that
//! are due wait here, and their latency counts from when they were due: a server that stalls for 10 ms has made all
//! of these late, not one (what is called coordinated omission leaves them out).

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use rustix::{
    event::{Timespec, epoll},
    thread,
};

use crate::{Target, message, report::Report};

/// After the last request was due, so much longer is waited for answers.
const PATIENCE: Duration = Duration::from_secs(2);
/// Connections at once, at most: a token is an index.
const CONNECTIONS_MAX: u32 = 10_000;
const EVENTS_MAX: usize = 256;

struct Client {
    stream: TcpStream,
    received: Vec<u8>,
    /// When the request that is under way was due.
    due: Option<Instant>,
}

pub(crate) fn run(target: &Target, rate: f64, seconds: u32) -> io::Result<Report> {
    if target.tls || target.connections > CONNECTIONS_MAX || !(rate.is_finite() && rate >= 1.0) {
        return Err(io::Error::other(
            "paced: without TLS, at most 10000 connections, at least one request per second",
        ));
    }
    // A wait of 20 µs must not become one of 70: by default the kernel may be 50 late.
    thread::set_current_timer_slack(std::num::NonZeroU64::new(1))?;
    let mut run = Run::new(target)?;
    let interval = Duration::from_secs_f64(1.0 / rate);
    let start = Instant::now();
    let end = start + Duration::from_secs(seconds.into());
    let mut next = start;
    loop {
        let now = Instant::now();
        while next < end && next <= now {
            run.waiting.push_back(next);
            next += interval;
        }
        run.send()?;
        let is_over = next >= end && run.is_done();
        if is_over || now >= end + PATIENCE {
            break;
        }
        let until = if next < end { next } else { end + PATIENCE };
        run.receive(until.saturating_duration_since(Instant::now()))?;
    }
    run.report.duration = start.elapsed();
    run.report.unanswered = (run.waiting.len() + run.under_way) as u64;
    Ok(run.report)
}

struct Run {
    epoll: rustix::fd::OwnedFd,
    request: Vec<u8>,
    clients: Vec<Client>,
    /// Indices of clients without a request under way.
    idle: Vec<usize>,
    /// When each request that is due and not sent was due, in order.
    waiting: VecDeque<Instant>,
    under_way: usize,
    report: Report,
}

impl Run {
    fn new(target: &Target) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut clients = Vec::new();
        for i in 0..target.connections {
            let stream = TcpStream::connect(target.address)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            epoll::add(&epoll, &stream, epoll::EventData::new_u64(i.into()), epoll::EventFlags::IN)?;
            clients.push(Client { stream, received: Vec::new(), due: None });
        }
        Ok(Self {
            epoll,
            request: message::request(target, true),
            idle: (0..clients.len()).collect(),
            clients,
            waiting: VecDeque::new(),
            under_way: 0,
            report: Report::default(),
        })
    }

    fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.under_way == 0
    }

    /// Sends what is due on the connections that are free.
    fn send(&mut self) -> io::Result<()> {
        while let (Some(&due), Some(&index)) = (self.waiting.front(), self.idle.last()) {
            self.waiting.pop_front();
            self.idle.pop();
            let client = &mut self.clients[index];
            // A request is far smaller than a socket's buffer, and no other is under way.
            if client.stream.write(&self.request)? != self.request.len() {
                return Err(io::Error::other("a request did not fit into the socket"));
            }
            client.due = Some(due);
            self.under_way += 1;
        }
        Ok(())
    }

    /// Waits for answers, but no longer than this.
    fn receive(&mut self, time_max: Duration) -> io::Result<()> {
        let timeout = Timespec {
            tv_sec: i64::try_from(time_max.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: time_max.subsec_nanos().into(),
        };
        let mut events = Vec::with_capacity(EVENTS_MAX);
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => return Ok(()),
            result => result?,
        };
        for event in events {
            let index = usize::try_from(event.data.u64()).expect("an index that we gave");
            self.read(index)?;
        }
        Ok(())
    }

    fn read(&mut self, index: usize) -> io::Result<()> {
        let mut piece = [0; 16 * 1024];
        let client = &mut self.clients[index];
        let read = match client.stream.read(&mut piece) {
            Ok(0) => return Err(io::Error::other("the server closed a connection")),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        client.received.extend_from_slice(&piece[..read]);
        let Some(answer) = message::answer(&client.received)? else { return Ok(()) };
        if client.received.len() >= answer.bytes
            && let Some(due) = client.due.take()
        {
            client.received.clear();
            self.report.answered(answer.status, answer.bytes, due.elapsed());
            self.under_way -= 1;
            self.idle.push(index);
        }
        Ok(())
    }
}
