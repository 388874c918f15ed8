//! A child process as a guard: its output goes to a file, it is stopped in order, and it never outlives its guard.
//!
//! Waiting is done on a pidfd (`pidfd_open(2)`), so that an exit is an event and a process id is never mistaken.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context;

/// How long a process may take to end after SIGTERM when its guard is dropped; then it is killed.
const STOP_TIME_MAX: Duration = Duration::from_secs(3);
/// The end of the output that messages show.
const SHOWN_BYTES_MAX: usize = 4096;

/// A running child.
#[derive(Debug)]
pub struct Process {
    child: Child,
    exit: OwnedFd,
    output: PathBuf,
}

impl Process {
    /// Starts it; standard output and error both go to the file `output`, which is appended to.
    pub fn start(mut command: Command, output: PathBuf) -> anyhow::Result<Self> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(&output)
            .with_context(|| output.display().to_string())?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| command.get_program().to_string_lossy().into_owned())?;
        match exit_descriptor(child.id()) {
            Ok(exit) => Ok(Self { child, exit, output }),
            Err(error) => {
                // Without the descriptor it could not be waited for: it must not stay.
                child.kill().and_then(|()| child.wait()).context("stopping a child without pidfd")?;
                Err(error).context("pidfd_open")
            }
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, such as `libc::SIGTERM`.
    pub fn signal(&self, signal: i32) -> anyhow::Result<()> {
        // SAFETY: the descriptor is open, and a null siginfo asks for that of kill(2).
        let sent = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.exit.as_raw_fd(),
                signal,
                std::ptr::null::<u8>(),
                0,
            )
        };
        if sent == 0 { Ok(()) } else { Err(io::Error::last_os_error()).context("pidfd_send_signal") }
    }

    /// Waits for its end, but no longer than `time_max`; `None` when it still runs.
    pub fn wait(&mut self, time_max: Duration) -> anyhow::Result<Option<ExitStatus>> {
        let end = Instant::now() + time_max;
        loop {
            let left_ms = end.saturating_duration_since(Instant::now()).as_millis();
            let mut poll = libc::pollfd { fd: self.exit.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: `poll` is one pollfd and outlives the call.
            unsafe { libc::poll(&raw mut poll, 1, i32::try_from(left_ms).unwrap_or(i32::MAX)) };
            let status = self.child.try_wait()?;
            // A signal to this process ends poll(2) early.
            if status.is_some() || Instant::now() >= end {
                return Ok(status);
            }
        }
    }

    /// What it has written so far, or the last 4 KiB of it.
    pub fn output(&self) -> String {
        let bytes = fs::read(&self.output).unwrap_or_default();
        let start = bytes.len().saturating_sub(SHOWN_BYTES_MAX);
        String::from_utf8_lossy(bytes.get(start..).unwrap_or_default()).into_owned()
    }

    /// The file that it writes to.
    pub fn output_file(&self) -> &Path {
        &self.output
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.wait(Duration::ZERO), Ok(Some(_))) {
            return;
        }
        let stopped = self.signal(libc::SIGTERM).and_then(|()| self.wait(STOP_TIME_MAX));
        if !matches!(stopped, Ok(Some(_))) {
            log::warn!("process {} did not end on SIGTERM", self.pid());
            if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
                log::warn!("process {}: {error}", self.pid());
            }
        }
    }
}

/// A descriptor that is readable once the child has ended.
fn exit_descriptor(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open(2) takes no pointer.
    let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    match i32::try_from(descriptor) {
        // SAFETY: the kernel has just given us this descriptor and nobody else owns it.
        Ok(descriptor) if descriptor >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::{place::Place, scratch::Scratch, wait};

    fn shell(scratch: &Scratch, script: &str) -> Process {
        let mut command = Place::here().command("sh");
        command.args(["-c", script]);
        Process::start(command, scratch.path().join("output")).unwrap()
    }

    #[test]
    fn its_end_and_output_are_known() {
        let scratch = Scratch::new().unwrap();
        let mut process = shell(&scratch, "echo out; echo err >&2; exit 3");
        let status = process.wait(Duration::from_secs(10)).unwrap().unwrap();
        assert_eq!(status.code(), Some(3));
        assert_eq!(process.output(), "out\nerr\n");
    }

    #[test]
    fn a_running_one_is_not_waited_for() {
        let scratch = Scratch::new().unwrap();
        let mut process = shell(&scratch, "read forever < /dev/zero; sleep 600");
        assert_eq!(process.wait(Duration::ZERO).unwrap(), None);
        process.signal(libc::SIGKILL).unwrap();
        assert!(process.wait(Duration::from_secs(10)).unwrap().is_some());
    }

    #[test]
    fn it_never_outlives_its_guard() {
        let scratch = Scratch::new().unwrap();
        let process = shell(&scratch, "trap '' TERM; echo deaf; while :; do sleep 0.1; done");
        wait::until(Duration::from_secs(10), || (process.output() == "deaf\n").then_some(())).unwrap();
        let pid = process.pid();
        drop(process);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }
}
