//! A gateway on loopback with what it needs around it, so that a test says only what it is about.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use xtask::lab::{
    client::{Connection, Request, Response},
    gateway::{Gateway, Start},
    place::Place,
    scratch::Scratch,
    scripted::{Scripted, Step},
    wait,
};

/// The binary under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");
/// How long any single answer may take before a test fails.
pub(crate) const TIME_MAX: Duration = Duration::from_secs(20);

/// A loopback address that nobody listens on. Each is given out once per test run.
pub(crate) fn free_address() -> SocketAddr {
    let [free] = Place::here().free_addresses(Ipv4Addr::LOCALHOST.into()).unwrap();
    free
}

/// A running gateway on loopback and the directory that its files are in.
pub(crate) struct Edge {
    pub(crate) gateway: Gateway,
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) directory: Scratch,
}

impl Edge {
    /// Starts one whose configuration is a listener, an admin listener and `sections`, in which `{upstream}` stands
    /// for `upstream`'s address.
    pub(crate) fn start(upstream: SocketAddr, sections: &str) -> Self {
        Self::start_with(Scratch::new().unwrap(), upstream, "", sections)
    }

    /// The same with files already written to `directory`, and `listener` keys of the public listener.
    pub(crate) fn start_with(
        directory: Scratch,
        upstream: SocketAddr,
        listener: &str,
        sections: &str,
    ) -> Self {
        Self::start_binary(Path::new(BINARY), directory, upstream, listener, sections)
    }

    /// The same with something that becomes the binary.
    pub(crate) fn start_binary(
        binary: &Path,
        directory: Scratch,
        upstream: SocketAddr,
        listener: &str,
        sections: &str,
    ) -> Self {
        let (address, admin) = (free_address(), free_address());
        let config = format!(
            "[listeners.public]\naddress = \"{address}\"\n{listener}\n\
             [listeners.admin]\nkind = \"admin\"\naddress = \"{admin}\"\n\
             {}",
            sections.replace("{upstream}", &upstream.to_string())
        );
        let gateway = start(binary, &directory, &config, address, admin);
        Self {
            gateway: gateway.unwrap_or_else(|error| panic!("{error}\n{config}")),
            address,
            admin,
            directory,
        }
    }

    /// Kills it, as a crash would; what comes of another start with the same files.
    pub(crate) fn restart(self) -> Result<Self, String> {
        let Self { gateway, address, admin, directory } = self;
        let config = fs::read_to_string(gateway.config_file()).unwrap();
        gateway.kill().unwrap();
        let gateway = start(Path::new(BINARY), &directory, &config, address, admin)?;
        Ok(Self { gateway, address, admin, directory })
    }

    /// A connection to it.
    #[track_caller]
    pub(crate) fn connect(&self) -> Connection {
        Connection::open(self.address, None, TIME_MAX).unwrap()
    }

    /// One request on a connection of its own.
    #[track_caller]
    pub(crate) fn get(&self, target: &str, headers: &[(&str, &str)]) -> Response {
        self.connect().request(&Request::get(target).with(headers)).unwrap()
    }
}

fn start(
    binary: &Path,
    directory: &Scratch,
    config: &str,
    listener: SocketAddr,
    admin: SocketAddr,
) -> Result<Gateway, String> {
    let (place, directory) = (Place::here(), directory.path());
    let started = Gateway::start(&Start { binary, place, directory, config, listener, admin: Some(admin) });
    started.map_err(|error| format!("{error:#}"))
}

/// Stops a gateway, as if it had no CPU, until it is sent SIGCONT; it stands still when this returns.
pub(crate) fn stand_still(gateway: &mut Gateway) {
    gateway.process().signal(libc::SIGSTOP).unwrap();
    let tasks = format!("/proc/{}/task", gateway.pid());
    let is_stopped = |task: std::io::Result<fs::DirEntry>| {
        let stat = fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
        // Behind the name, which may hold anything: proc_pid_stat(5).
        stat.rsplit_once(')').unwrap().1.starts_with(" T")
    };
    let stopped = wait::until(TIME_MAX, || fs::read_dir(&tasks).unwrap().all(is_stopped).then_some(()));
    assert!(stopped.is_some(), "SIGSTOP cannot be ignored");
}

/// One upstream and a public route to it for everything.
pub(crate) const OPEN: &str = "\
[upstreams.app]\nservers = [\"{upstream}\"]\nbalance = \"round_robin\"\nhealth = \"off\"\n\
[routes.all]\npath = \"/{*rest}\"\npublic = true\nupstream = \"app\"\n";

/// An upstream that does `script` on each connection.
pub(crate) fn scripted(script: &[Step]) -> Scripted {
    let any = "127.0.0.1:0".parse().unwrap();
    Scripted::start(&Place::here(), any, vec![script.to_vec()]).unwrap()
}

/// Reads one request head and sends `response`, again and again on a kept-alive connection.
pub(crate) fn answering(response: &str) -> Scripted {
    answering_times(response, 256)
}

/// So many times on each connection.
pub(crate) fn answering_times(response: &str, times: usize) -> Scripted {
    let step = [Step::ReadHead, Step::Send(response.as_bytes().to_vec())];
    let script: Vec<Step> = std::iter::repeat_n(step, times).flatten().collect();
    scripted(&script)
}

/// A response of 200 with `hello`.
pub(crate) const HELLO: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
