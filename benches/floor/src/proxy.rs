//! The loop: completions in, operations out.

use std::{
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd, IntoRawFd, RawFd},
};

use io_uring::{IoUring, cqueue, opcode, squeue, types::Fd};

use crate::{
    buffers::{Buffers, GROUP},
    message,
};

const SUBMISSIONS: u32 = 4096;
const COMPLETIONS: u32 = 16_384;
/// Descriptors above this are closed at once.
const DESCRIPTORS_MAX: usize = 16_384;

/// What a completion is about, in the upper byte of its user data.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Operation {
    Accept = 1,
    Receive = 2,
    Send = 3,
}

/// The user data: operation, the connection's generation (a descriptor's number is used again), descriptor.
fn user_data(operation: Operation, generation: u16, descriptor: RawFd) -> u64 {
    (operation as u64) << 56 | u64::from(generation) << 32 | u64::from(descriptor.cast_unsigned())
}

/// One end of an exchange.
#[derive(Default)]
struct Connection {
    is_open: bool,
    is_upstream: bool,
    generation: u16,
    /// The other end while a request is under way.
    partner: Option<RawFd>,
    /// What is being sent. The kernel reads it until the send completes.
    out: Vec<u8>,
    is_sending: bool,
    /// Bytes of an answer's body that have not come yet.
    body_left: usize,
}

pub(crate) struct Proxy {
    ring: IoUring,
    buffers: Buffers,
    listener: TcpListener,
    upstream: SocketAddr,
    connections: Vec<Connection>,
    /// Idle connections to the upstream, the last used first.
    pool: Vec<RawFd>,
}

impl Proxy {
    pub(crate) fn new(listener: TcpListener, upstream: SocketAddr) -> io::Result<Self> {
        let mut builder = IoUring::builder();
        builder.setup_single_issuer().setup_defer_taskrun().setup_cqsize(COMPLETIONS);
        let ring = builder.build(SUBMISSIONS)?;
        let buffers = Buffers::register(&ring)?;
        let connections = (0..DESCRIPTORS_MAX).map(|_| Connection::default()).collect();
        Ok(Self { ring, buffers, listener, upstream, connections, pool: Vec::new() })
    }

    pub(crate) fn run(mut self) -> io::Result<Infallible> {
        self.accept()?;
        let mut completions: Vec<cqueue::Entry> = Vec::with_capacity(COMPLETIONS as usize);
        loop {
            match self.ring.submit_and_wait(1) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            };
            completions.extend(self.ring.completion());
            for completion in completions.drain(..) {
                self.complete(&completion)?;
            }
            self.buffers.publish();
        }
    }

    fn complete(&mut self, completion: &cqueue::Entry) -> io::Result<()> {
        let data = completion.user_data();
        let descriptor = RawFd::try_from(data & 0xffff_ffff).expect("a descriptor that we gave");
        let generation = (data >> 32 & 0xffff) as u16;
        if data >> 56 == Operation::Accept as u64 {
            return self.accepted(completion);
        }
        let is_current = self.at(descriptor).generation == generation && self.at(descriptor).is_open;
        if data >> 56 == Operation::Send as u64 {
            if is_current {
                self.at(descriptor).is_sending = false;
                if completion.result() < 0 {
                    self.close(descriptor);
                }
            }
            return Ok(());
        }
        let buffer = cqueue::buffer_select(completion.flags());
        if is_current {
            match (usize::try_from(completion.result()), buffer) {
                (Ok(length @ 1..), Some(buffer)) => self.received(descriptor, buffer, length)?,
                // No buffer was free: they will be by the next turn.
                _ if completion.result() == -libc::ENOBUFS => {}
                _ => self.close(descriptor),
            }
            if !cqueue::more(completion.flags()) && self.at(descriptor).is_open {
                self.receive(descriptor)?;
            }
        }
        if let Some(buffer) = buffer {
            self.buffers.give_back(buffer);
        }
        Ok(())
    }

    fn accepted(&mut self, completion: &cqueue::Entry) -> io::Result<()> {
        if completion.result() >= 0 {
            set_nodelay(completion.result())?;
            self.open(completion.result(), false)?;
        }
        if cqueue::more(completion.flags()) { Ok(()) } else { self.accept() }
    }

    fn received(&mut self, descriptor: RawFd, buffer: u16, length: usize) -> io::Result<()> {
        if self.at(descriptor).is_upstream {
            self.answer(descriptor, buffer, length)
        } else {
            self.request(descriptor, buffer, length)
        }
    }

    /// A whole request goes to an upstream connection; anything else ends the client's.
    fn request(&mut self, client: RawFd, buffer: u16, length: usize) -> io::Result<()> {
        let upstream = match self.pool.pop() {
            Some(upstream) => upstream,
            None => self.connect()?,
        };
        let mut out = std::mem::take(&mut self.at(upstream).out);
        out.clear();
        let head = message::rewrite_request(self.buffers.bytes(buffer, length), &mut out);
        self.at(upstream).out = out;
        let is_whole = head.is_some_and(|head| head.bytes == length && head.body_bytes == 0);
        if !is_whole || self.at(client).partner.is_some() || self.at(client).is_sending {
            self.pool.push(upstream);
            self.close(client);
            return Ok(());
        }
        self.at(client).partner = Some(upstream);
        self.at(upstream).partner = Some(client);
        self.send(upstream)
    }

    /// An answer is sent once all of it is there; then its connection is free for the next request.
    fn answer(&mut self, upstream: RawFd, buffer: u16, length: usize) -> io::Result<()> {
        let Some(client) = self.at(upstream).partner else {
            // Nobody asked: what it says on an idle connection can't be trusted.
            self.close(upstream);
            return Ok(());
        };
        if self.at(client).is_sending {
            self.close(upstream);
            return Ok(());
        }
        let mut out = std::mem::take(&mut self.at(client).out);
        let bytes = self.buffers.bytes(buffer, length);
        let left = match self.connections[index(upstream)].body_left {
            0 => {
                out.clear();
                message::rewrite_response(bytes, &mut out).and_then(|head| {
                    let body = &bytes[head.bytes..];
                    out.extend_from_slice(body);
                    head.body_bytes.checked_sub(body.len())
                })
            }
            left => {
                out.extend_from_slice(bytes);
                left.checked_sub(length)
            }
        };
        self.at(client).out = out;
        match left {
            None => self.close(upstream),
            Some(0) => {
                self.at(upstream).body_left = 0;
                self.at(upstream).partner = None;
                self.at(client).partner = None;
                self.pool.push(upstream);
                self.send(client)?;
            }
            Some(left) => self.at(upstream).body_left = left,
        }
        Ok(())
    }

    /// A connection more to the upstream. It blocks: this happens as often as there are clients, not requests.
    fn connect(&mut self) -> io::Result<RawFd> {
        let stream = TcpStream::connect(self.upstream)?;
        stream.set_nodelay(true)?;
        let descriptor = stream.into_raw_fd();
        self.open(descriptor, true)?;
        Ok(descriptor)
    }

    fn open(&mut self, descriptor: RawFd, is_upstream: bool) -> io::Result<()> {
        if index(descriptor) >= DESCRIPTORS_MAX {
            return Err(io::Error::other("more connections than it is made for"));
        }
        let connection = self.at(descriptor);
        let generation = connection.generation.wrapping_add(1);
        *connection = Connection { is_open: true, is_upstream, generation, ..Connection::default() };
        self.receive(descriptor)
    }

    /// Ends a connection, and the one that waits for it.
    fn close(&mut self, descriptor: RawFd) {
        let connection = self.at(descriptor);
        if !connection.is_open {
            return;
        }
        connection.is_open = false;
        if connection.is_sending {
            // The kernel may still read it.
            std::mem::forget(std::mem::take(&mut connection.out));
        }
        let partner = connection.partner.take();
        self.pool.retain(|pooled| *pooled != descriptor);
        // SAFETY: the descriptor is ours, and nothing names it any more: completions still to come have an old
        // generation. Shutdown ends the multishot receive that would keep the socket alive.
        unsafe {
            libc::shutdown(descriptor, libc::SHUT_RDWR);
            libc::close(descriptor);
        }
        if let Some(partner) = partner {
            self.close(partner);
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        let listener = self.listener.as_raw_fd();
        let entry = opcode::AcceptMulti::new(Fd(listener)).build();
        self.push(entry.user_data(user_data(Operation::Accept, 0, listener)))
    }

    fn receive(&mut self, descriptor: RawFd) -> io::Result<()> {
        let generation = self.at(descriptor).generation;
        let entry = opcode::RecvMulti::new(Fd(descriptor), GROUP).build();
        self.push(entry.user_data(user_data(Operation::Receive, generation, descriptor)))
    }

    fn send(&mut self, descriptor: RawFd) -> io::Result<()> {
        let connection = self.at(descriptor);
        connection.is_sending = true;
        let length = u32::try_from(connection.out.len()).expect("a few buffers at most");
        let data = user_data(Operation::Send, connection.generation, descriptor);
        let entry = opcode::Send::new(Fd(descriptor), connection.out.as_ptr(), length)
            .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
            .build();
        self.push(entry.user_data(data))
    }

    fn push(&mut self, entry: squeue::Entry) -> io::Result<()> {
        // SAFETY: what an entry points to outlives its operation: provided buffers are never freed, and `out` is not
        // touched while `is_sending`.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.ring.submit()?;
        }
        Ok(())
    }

    fn at(&mut self, descriptor: RawFd) -> &mut Connection {
        &mut self.connections[index(descriptor)]
    }
}

fn index(descriptor: RawFd) -> usize {
    usize::try_from(descriptor).expect("the kernel gives no negative descriptor")
}

fn set_nodelay(descriptor: RawFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option's value outlives the call and its size is given.
    let set = unsafe {
        libc::setsockopt(
            descriptor,
            libc::IPPROTO_TCP,
            libc::TCP_NODELAY,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
