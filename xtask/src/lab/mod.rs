//! The lab: network namespaces, frames, floods, clients, upstreams and a running gateway, for tests, demo and benches.
//!
//! Everything here is a guard: what it made (namespaces, processes, directories, mounts) goes away when it is
//! dropped, also after a panic. Addresses come from the documentation prefixes alone (RFC 5737, RFC 3849), and no
//! packet leaves the machine. Tests that need root call [`privileges`] first and [`skip`] when it refuses.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the lab drives blocking sockets on its own threads and awaits other processes"
)]

pub mod place;
pub mod netns;
pub mod xdp;
pub mod frames;
pub mod flood;
pub mod client;
pub mod http2;
pub mod upstream;
pub mod scripted;
pub mod dns;
pub mod gateway;
pub mod metrics;
pub mod process;
pub mod scratch;
pub mod wait;

use std::{
    fs::OpenOptions,
    io::{self, Write},
    path::Path,
    process::{Command, Stdio},
    sync::OnceLock,
};

/// Names the file to which [`skip`] appends.
pub const SKIPPED_ENV: &str = "PORTCULLIS_TEST_SKIPPED";

/// Says that test `name` did not run, on standard error and in the file that [`SKIPPED_ENV`] names.
pub fn skip(name: &str, why: &str) {
    let line = format!("SKIPPED {name}: {}\n", why.replace('\n', " "));
    eprint!("{line}");
    let Some(file) = std::env::var_os(SKIPPED_ENV) else { return };
    if let Err(error) = append(Path::new(&file), &line) {
        eprintln!("{}: {error}", file.display());
    }
}

/// One write, so that lines of parallel tests do not mix.
fn append(file: &Path, line: &str) -> io::Result<()> {
    OpenOptions::new().create(true).append(true).open(file)?.write_all(line.as_bytes())
}

/// Whether this process may make namespaces with veth pairs and load XDP programs; the error says what is missing.
/// It tries each once, on a thread whose namespace is gone when the answer is known.
pub fn privileges() -> Result<(), String> {
    static ANSWER: OnceLock<Result<(), String>> = OnceLock::new();
    ANSWER
        .get_or_init(|| std::thread::spawn(try_privileges).join().unwrap_or(Err("the check panicked".into())))
        .clone()
}

fn try_privileges() -> Result<(), String> {
    // SAFETY: unshare(2) takes no pointer; it moves this thread alone, which ends with the check.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return Err(format!("no network namespaces: {}", io::Error::last_os_error()));
    }
    // The child is born in this thread's new namespace, and the pair goes away with it.
    let veth = Command::new("ip")
        .args(["link", "add", "try0", "type", "veth", "peer", "name", "try1"])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("`ip` (Debian: iproute2) does not start: {error}"))?;
    if !veth.status.success() {
        return Err(format!("no veth pairs: {}", String::from_utf8_lossy(&veth.stderr).trim()));
    }
    xdp::pass().map(drop).map_err(|error| format!("no XDP programs: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skips_are_appended() {
        let scratch = scratch::Scratch::new().unwrap();
        let file = scratch.path().join("skipped");
        append(&file, "SKIPPED one: no root\n").unwrap();
        append(&file, "SKIPPED two: no nginx\n").unwrap();
        assert_eq!(std::fs::read_to_string(file).unwrap(), "SKIPPED one: no root\nSKIPPED two: no nginx\n");
    }

    #[test]
    fn privileges_answer_the_same_twice() {
        assert_eq!(privileges(), privileges());
    }
}
