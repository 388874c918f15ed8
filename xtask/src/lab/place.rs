//! Where a thread, a process or a socket lives: in a network namespace, or in the caller's own.
//!
//! A namespace is entered by a fresh thread with `setns(2)`, or by a child before it executes; never with
//! `ip netns exec`, which mounts `/sys` anew and so hides the bpffs. A socket stays in the namespace it was made in,
//! whichever thread uses it later.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    ops::Range,
    os::{fd::AsRawFd, unix::process::CommandExt},
    panic,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

/// A network namespace by descriptor; cheap to clone, and it outlives the namespace's name.
#[derive(Debug, Clone)]
pub struct Place(Option<Arc<File>>);

impl Place {
    /// The namespace of whoever asks: loopback, as far as the lab is concerned.
    pub fn here() -> Self {
        Self(None)
    }

    /// The namespace that this file (`/run/netns/NAME`, `/proc/PID/ns/net`) stands for.
    pub(super) fn of(file: File) -> Self {
        Self(Some(Arc::new(file)))
    }

    /// Runs `work` on a fresh thread in this namespace and waits for it; a panic in it goes on here.
    /// The error is that of `setns(2)`.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        thread::scope(|scope| {
            let entered = scope.spawn(|| {
                self.join_calling_thread()?;
                Ok(work())
            });
            entered.join().unwrap_or_else(|payload| panic::resume_unwind(payload))
        })
    }

    /// Addresses of this host whose ports nobody listens on; none is given twice by one process until all have been.
    pub fn free_addresses<const N: usize>(&self, host: IpAddr) -> io::Result<[SocketAddr; N]> {
        self.enter(|| {
            let mut addresses = [SocketAddr::new(host, 0); N];
            for address in &mut addresses {
                *address = free_address(host)?;
            }
            Ok(addresses)
        })?
    }

    /// Starts a thread that lives in this namespace; its error is that of `setns(2)`.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<thread::JoinHandle<io::Result<T>>> {
        let place = self.clone();
        thread::Builder::new().name(name.into()).spawn(move || {
            place.join_calling_thread()?;
            Ok(work())
        })
    }

    /// Moves the calling thread for good.
    fn join_calling_thread(&self) -> io::Result<()> {
        match &self.0 {
            Some(file) => set_namespace(file.as_raw_fd()),
            None => Ok(()),
        }
    }

    /// A command whose process starts in this namespace, in a process group of its own: Ctrl-C in the terminal
    /// reaches only the tool, which then stops its children in order.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.process_group(0);
        if let Some(file) = self.0.clone() {
            // SAFETY: between fork and exec the closure makes one system call and allocates nothing; the descriptor
            // stays open because the closure owns the file.
            unsafe { command.pre_exec(move || set_namespace(file.as_raw_fd())) };
        }
        command
    }
}

/// Below the range of `net.ipv4.ip_local_port_range`: from within it the kernel gives ports to whoever connects or
/// binds to port 0, so that one found free there may be somebody's a moment later.
const PORTS: Range<u16> = 10_240..32_768;

fn free_address(host: IpAddr) -> io::Result<SocketAddr> {
    static TURN: AtomicUsize = AtomicUsize::new(0);
    // Processes side by side start apart.
    let first = std::process::id() as usize * 1009;
    for _ in PORTS {
        let turn = first.wrapping_add(TURN.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.clone().nth(turn % PORTS.len()).unwrap_or(PORTS.start);
        match TcpListener::bind((host, port)) {
            Ok(_) => return Ok(SocketAddr::new(host, port)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, format!("no free port on {host}")))
}

fn set_namespace(descriptor: i32) -> io::Result<()> {
    // SAFETY: setns(2) takes no pointer; a descriptor that is no namespace is refused by the kernel.
    if unsafe { libc::setns(descriptor, libc::CLONE_NEWNET) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, net::Ipv4Addr};

    use super::*;

    #[test]
    fn free_addresses_differ_and_can_be_taken() {
        let free: [SocketAddr; 16] = Place::here().free_addresses(Ipv4Addr::LOCALHOST.into()).unwrap();
        assert_eq!(free.iter().collect::<HashSet<_>>().len(), 16);
        assert!(TcpListener::bind(free[0]).is_ok());
        // Whoever connects or binds to port 0 meanwhile gets none of them.
        let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
        let first: u16 = range.split_whitespace().next().unwrap().parse().unwrap();
        assert!(free.iter().all(|address| address.port() < first), "{free:?} and {first}");
    }

    #[test]
    fn a_panic_inside_goes_on_outside() {
        let panicked = panic::catch_unwind(|| Place::here().enter(|| panic!("inside")));
        assert_eq!(*panicked.unwrap_err().downcast::<&str>().unwrap(), "inside");
    }
}
