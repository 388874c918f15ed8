//! A connection in two halves that may be used at the same time, in clear or under TLS, and what accepts and makes
//! connections.
//!
//! Operations own their buffer while the kernel has it and give it back with the result.

use std::{
    cell::RefCell,
    io,
    net::{SocketAddr, TcpListener},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd},
    rc::Rc,
};

use monoio::{
    buf::IoBuf,
    io::{
        AsyncReadRent, AsyncWriteRentExt, CancelableAsyncReadRent, OwnedReadHalf, OwnedWriteHalf, Splitable,
    },
    net::TcpStream,
};

use rustls::pki_types::CertificateDer;

use super::{
    Buffer, Buffers, Deadline, Deadlines, Phase, Waits, halves::bytes_of, liveness::notice_dead_peers,
    tls::Session,
};

/// Ciphertext memory that an idle TLS connection keeps: a small answer costs no allocation.
const CIPHERTEXT_KEPT_BYTES: usize = 4 * 1024;

/// Both halves of a connection.
pub struct Stream {
    /// What the peer says.
    pub read: ReadHalf,
    /// What the peer is told.
    pub write: WriteHalf,
}

/// The half that receives.
pub struct ReadHalf {
    socket: OwnedReadHalf<TcpStream>,
    session: Option<Rc<RefCell<Session>>>,
    /// Ciphertext that was received together with what has been read so far.
    ciphertext: Option<Box<Buffer>>,
}

/// The half that sends.
pub struct WriteHalf {
    socket: OwnedWriteHalf<TcpStream>,
    session: Option<Rc<RefCell<Session>>>,
    /// Ciphertext on its way; empty in clear.
    ciphertext: Vec<u8>,
}

impl Stream {
    fn from_tcp(socket: TcpStream) -> Self {
        // Small answers must not wait for an acknowledgement; a socket that refuses the option still works.
        let _ = socket.set_nodelay(true);
        let (read, write) = socket.into_split();
        Self {
            read: ReadHalf { socket: read, session: None, ciphertext: None },
            write: WriteHalf { socket: write, session: None, ciphertext: Vec::new() },
        }
    }

    /// Puts both halves under TLS; the handshake has been made through [`super::handshake`].
    pub(super) fn secure(&mut self, session: Session) {
        let session = Rc::new(RefCell::new(session));
        self.read.session = Some(Rc::clone(&session));
        self.write.session = Some(session);
    }

    /// The verified certificate of the peer, where TLS has asked for one and got it.
    pub fn peer_certificate(&self) -> Option<CertificateDer<'static>> {
        self.read.session.as_ref().and_then(|session| session.borrow().peer_certificate())
    }

    /// The protocol that TLS has settled (RFC 7301).
    pub fn has_alpn(&self, protocol: &[u8]) -> bool {
        self.read.session.as_ref().is_some_and(|session| session.borrow().has_alpn(protocol))
    }

    /// Puts back what was received before the handshake: it is the handshake's beginning.
    pub fn put_back(&mut self, received: Buffer) {
        if !received.data().is_empty() {
            self.read.ciphertext = Some(Box::new(received));
        }
    }

    /// Our own end. One system call.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        // SAFETY: the descriptor is ours while `self` lives.
        let socket = unsafe { BorrowedFd::borrow_raw(self.fd()) };
        let address = socket2::SockRef::from(&socket).local_addr()?;
        address.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    /// The descriptor, for deadlines.
    pub fn fd(&self) -> RawFd {
        self.read.fd()
    }

    /// Ends the connection with a reset, so that what was sent cannot be taken for whole.
    pub fn abort(&self) {
        // SAFETY: an all-zero sockaddr is AF_UNSPEC, with which connect(2) dissolves a TCP connection at once; a plain
        // close would be preceded by the FIN that the write half sends when it is dropped.
        unsafe {
            let unspecified: libc::sockaddr = std::mem::zeroed();
            let length = libc::socklen_t::try_from(size_of::<libc::sockaddr>()).unwrap_or(16);
            libc::connect(self.fd(), &raw const unspecified, length);
        }
    }

    /// Whether an idle connection is as it was left: open, and nothing has come that nobody asked for
    /// (RFC 9112 §9.3: such bytes belong to no response). One system call.
    pub fn is_quiet(&self) -> bool {
        // Under TLS something may have come already, together with the last response.
        if self.read.holds_something() {
            return false;
        }
        // Half of what a peek costs, which would lock the socket.
        let mut heard = libc::pollfd { fd: self.fd(), events: libc::POLLIN | libc::POLLRDHUP, revents: 0 };
        // SAFETY: one local entry; no wait. The descriptor is ours while `self` lives.
        let count = unsafe { libc::poll(&raw mut heard, 1, 0) };
        count == 0
    }
}

impl ReadHalf {
    /// Bytes arrive as the peer's application sent them: not under TLS.
    pub fn is_clear(&self) -> bool {
        self.session.is_none()
    }

    pub(super) fn fd(&self) -> RawFd {
        // SAFETY: nobody holds a `&mut TcpStream` outside of a poll, and this worker polls one task at a time.
        unsafe { (*self.socket.0.get()).as_raw_fd() }
    }

    /// Waits until something can be received, holding no buffer. An operation of its own: for idle connections.
    pub async fn readable(&self) -> io::Result<()> {
        if self.holds_something() {
            return Ok(());
        }
        // SAFETY: as in `fd`; `readable` takes the stream by shared reference and keeps only its descriptor.
        unsafe { &*self.socket.0.get() }.readable(true).await
    }

    /// Whether there is something to read without the kernel.
    fn holds_something(&self) -> bool {
        let plaintext_waits = self.session.as_ref().is_some_and(|session| session.borrow().has_plaintext());
        plaintext_waits || self.ciphertext.is_some()
    }

    /// Receives into the room behind the buffer's data. `Ok(0)`: the peer (or a deadline) has ended its direction.
    ///
    /// Errors: what the kernel says; `InvalidData` for bytes that are not TLS; `UnexpectedEof` for a TLS stream that
    /// ends without `close_notify`.
    pub async fn read(&mut self, buffer: Buffer, buffers: &Buffers) -> (io::Result<usize>, Buffer) {
        self.receive(buffer, buffers, None).await
    }

    /// The same, but it is called back when it lasts: an error that [`was_called_back`](super::was_called_back).
    pub async fn wait(
        &mut self,
        buffer: Buffer,
        buffers: &Buffers,
        waits: &Waits,
    ) -> (io::Result<usize>, Buffer) {
        self.receive(buffer, buffers, Some(waits)).await
    }

    async fn receive(
        &mut self,
        mut buffer: Buffer,
        buffers: &Buffers,
        waits: Option<&Waits>,
    ) -> (io::Result<usize>, Buffer) {
        let Some(session) = self.session.clone() else {
            // What was put back comes first; in one piece, since buffers have one size.
            if let Some(kept) = self.ciphertext.take() {
                let count = buffer.append(kept.data());
                buffers.give(*kept);
                return (Ok(count), buffer);
            }
            return receive_from(&mut self.socket, buffer, waits).await;
        };
        loop {
            match session.borrow_mut().read_plaintext(buffer.room()) {
                Ok(Some(count)) => {
                    buffer.filled(count);
                    return (Ok(count), buffer);
                }
                Ok(None) => {}
                Err(error) => return (Err(error), buffer),
            }
            let mut ciphertext = match self.ciphertext.take() {
                Some(kept) => *kept,
                None => match receive_from(&mut self.socket, buffers.take(), waits).await {
                    (Ok(_), received) => received,
                    (Err(error), unused) => {
                        buffers.give(unused);
                        return (Err(error), buffer);
                    }
                },
            };
            let fed = session.borrow_mut().feed(ciphertext.data());
            match fed {
                Ok(count) => ciphertext.consume(count),
                Err(error) => {
                    buffers.give(ciphertext);
                    return (Err(error), buffer);
                }
            }
            self.keep_ciphertext(ciphertext, buffers);
        }
    }

    /// Keeps what is left of received ciphertext for the next read; an empty buffer goes back.
    pub(super) fn keep_ciphertext(&mut self, ciphertext: Buffer, buffers: &Buffers) {
        if ciphertext.data().is_empty() {
            buffers.give(ciphertext);
        } else {
            self.ciphertext = Some(Box::new(ciphertext));
        }
    }
}

impl WriteHalf {
    /// Bytes go out as they are given: not under TLS.
    pub fn is_clear(&self) -> bool {
        self.session.is_none()
    }

    pub(super) fn fd(&self) -> RawFd {
        // SAFETY: as in `ReadHalf::fd`.
        unsafe { (*self.socket.0.get()).as_raw_fd() }
    }

    /// Waits until the socket has room.
    pub(super) async fn writable(&self) -> io::Result<()> {
        // SAFETY: as in `ReadHalf::readable`.
        unsafe { &*self.socket.0.get() }.writable(true).await
    }

    /// Sends all of `bytes`.
    pub async fn write_all<B: IoBuf>(&mut self, bytes: B) -> (io::Result<()>, B) {
        let Some(session) = &self.session else {
            let (sent, bytes) = self.socket.write_all(bytes).await;
            return (sent.map(drop), bytes);
        };
        let mut rest = bytes_of(&bytes);
        while !rest.is_empty() {
            let taken = session.borrow_mut().write_plaintext(rest, &mut self.ciphertext);
            match taken {
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(error) => return (Err(error), bytes),
            }
            if let Err(error) = send(&mut self.socket, &mut self.ciphertext).await {
                return (Err(error), bytes);
            }
        }
        (Ok(()), bytes)
    }

    /// Gives back memory that only a large answer needs: for a connection that goes idle.
    pub fn forget_memory(&mut self) {
        self.ciphertext.shrink_to(CIPHERTEXT_KEPT_BYTES);
    }

    /// Ends our direction: `close_notify` under TLS, then FIN. What the peer still says can be read.
    pub async fn finish(&mut self) -> io::Result<()> {
        if let Some(session) = &self.session {
            session.borrow_mut().close(&mut self.ciphertext)?;
            send(&mut self.socket, &mut self.ciphertext).await?;
        }
        // SAFETY: shutdown touches no memory; the descriptor is ours while `self` lives.
        let result = unsafe { libc::shutdown(self.fd(), libc::SHUT_WR) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Sends what the TLS session has to say of itself (handshake, alerts).
    pub(super) async fn send_raw(&mut self, ciphertext: &mut Vec<u8>) -> io::Result<()> {
        send(&mut self.socket, ciphertext).await
    }
}

async fn receive_from(
    socket: &mut OwnedReadHalf<TcpStream>,
    buffer: Buffer,
    waits: Option<&Waits>,
) -> (io::Result<usize>, Buffer) {
    match waits {
        None => socket.read(buffer).await,
        Some(waits) => socket.cancelable_read(buffer, waits.handle()).await,
    }
}

/// Sends and empties `bytes`, keeping its memory.
async fn send(socket: &mut OwnedWriteHalf<TcpStream>, bytes: &mut Vec<u8>) -> io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let (sent, mut returned) = socket.write_all(std::mem::take(bytes)).await;
    returned.clear();
    *bytes = returned;
    sent.map(drop)
}

/// Connects to `address` before `at_ns`. The descriptor has a deadline from its first moment, which is why the socket
/// is made here and not by the runtime. `waits` hears of it where the connection is not there at once: until this
/// ends, a `shutdown(2)` of it ends the wait.
pub(super) async fn connect(
    address: SocketAddr,
    deadlines: &Rc<Deadlines>,
    at_ns: u64,
    waits: impl FnOnce(RawFd),
) -> io::Result<(Stream, Deadline)> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM.nonblocking().cloexec(),
        Some(socket2::Protocol::TCP),
    )?;
    // A socket that refuses still works: every wait has a deadline besides.
    let _ = notice_dead_peers(&socket2::SockRef::from(&socket));
    let pending = match socket.connect(&address.into()) {
        Ok(()) => false,
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => true,
        Err(error) => return Err(error),
    };
    let tcp = TcpStream::from_std(socket.into())?;
    let deadline = deadlines.watch(tcp.as_raw_fd());
    if pending {
        deadline.arm(Phase::Connect, at_ns);
        waits(tcp.as_raw_fd());
        tcp.writable(true).await?;
        deadline.disarm();
        if deadline.expired().is_some() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if let Some(error) = socket_error(tcp.as_raw_fd())? {
            return Err(error);
        }
    }
    set_blocking(tcp.as_raw_fd())?;
    Ok((Stream::from_tcp(tcp), deadline))
}

/// The pending error of a socket (`SO_ERROR`), which reading clears.
fn socket_error(fd: RawFd) -> io::Result<Option<io::Error>> {
    let (mut error, mut length) = (0_i32, libc::socklen_t::try_from(size_of::<i32>()).unwrap_or(4));
    // SAFETY: both pointers are to locals of the sizes told, and the descriptor is the caller's.
    let result = unsafe {
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_ERROR, (&raw mut error).cast(), &raw mut length)
    };
    match (result, error) {
        (0, 0) => Ok(None),
        (0, error) => Ok(Some(io::Error::from_raw_os_error(error))),
        _ => Err(io::Error::last_os_error()),
    }
}

/// `io_uring` waits for blocking descriptors by itself and answers EAGAIN for others.
fn set_blocking(fd: RawFd) -> io::Result<()> {
    // SAFETY: fcntl with F_GETFL and F_SETFL touches no memory; the descriptor is the caller's.
    let result = unsafe {
        let flags = libc::fcntl(fd, libc::F_GETFL);
        libc::fcntl(fd, libc::F_SETFL, flags & !libc::O_NONBLOCK)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// What [`Listener::accept`] found.
pub enum Accepted {
    /// A connection and where it comes from.
    Connection(Stream, SocketAddr),
    /// No descriptor was free: the connection was taken with the reserved one and closed, so that the backlog moves
    /// and the loop does not spin.
    Shed,
    /// No descriptor was free, and nobody waited who could be shed: to be asked again after a pause.
    Short,
    /// The listener was closed.
    Closed,
}

/// One worker's listening socket.
pub struct Listener {
    socket: monoio::net::TcpListener,
    /// Given up for a moment when the process has no other descriptor left.
    reserve: Option<OwnedFd>,
}

impl Listener {
    /// Takes over a bound and listening socket.
    pub fn new(socket: TcpListener) -> io::Result<Self> {
        Ok(Self { socket: monoio::net::TcpListener::from_std(socket)?, reserve: open_reserve().ok() })
    }

    /// Waits for a connection. Never drop the future unfinished: the connection would be lost.
    pub async fn accept(&mut self) -> io::Result<Accepted> {
        let error = match self.socket.accept().await {
            Ok((socket, peer)) => return Ok(Accepted::Connection(Stream::from_tcp(socket), peer)),
            Err(error) => error,
        };
        match error.raw_os_error() {
            // The kernel looks for a descriptor before it looks for a connection.
            _ if is_out_of_descriptors(&error) => {
                Ok(if self.shed() { Accepted::Shed } else { Accepted::Short })
            }
            // Answers of accept(2) to a socket on which shutdown(2) was called.
            Some(libc::EINVAL | libc::EBADF) => Ok(Accepted::Closed),
            _ => Err(error),
        }
    }

    /// Ends [`Listener::accept`] with [`Accepted::Closed`], from the sweep of the same worker.
    pub fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Takes a connection with the reserved descriptor and closes it; false: there was none, or no descriptor.
    fn shed(&mut self) -> bool {
        self.reserve = None;
        let mut ready = libc::pollfd { fd: self.socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one local entry; no wait. Without it accept4 could block the worker when nothing waits any more.
        if unsafe { libc::poll(&raw mut ready, 1, 0) } != 1 {
            self.reserve = open_reserve().ok();
            return false;
        }
        // SAFETY: accept4 with null pointers writes nothing; only this worker accepts on this socket.
        let accepted = unsafe {
            libc::accept4(
                self.socket.as_raw_fd(),
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
            )
        };
        if accepted >= 0 {
            // SAFETY: the descriptor was just returned to us and nobody else knows it.
            drop(unsafe { OwnedFd::from_raw_fd(accepted) });
        }
        self.reserve = open_reserve().ok();
        accepted >= 0
    }
}

/// Whether an error says that the process, or the machine, has no descriptor left.
pub fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

fn open_reserve() -> io::Result<OwnedFd> {
    let file = std::fs::File::open("/dev/null")?;
    // SAFETY: `into_raw_fd` hands the descriptor over.
    Ok(unsafe { OwnedFd::from_raw_fd(file.into_raw_fd()) })
}
