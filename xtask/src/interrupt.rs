//! Ctrl-C and its kin: a signal sets a flag, and whoever waits finds out and unwinds, so that every guard runs.

use std::{
    fmt, io, mem,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use xtask::lab::wait;

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// The work was broken off by a signal.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Takes SIGINT, SIGTERM and SIGHUP over.
pub(crate) fn catch() -> io::Result<()> {
    extern "C" fn request(_signal: libc::c_int) {
        REQUESTED.store(true, Ordering::Relaxed);
    }
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: sigaction is plain data, for which zero is a value of every field: no flags, an empty mask.
        let mut action: libc::sigaction = unsafe { mem::zeroed() };
        action.sa_sigaction = request as extern "C" fn(libc::c_int) as usize;
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe, and `action` outlives the call.
        if unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Whether a signal has come.
pub(crate) fn came() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// Fails with [`Interrupted`] once a signal has come.
pub(crate) fn check() -> anyhow::Result<()> {
    if came() { Err(Interrupted.into()) } else { Ok(()) }
}

/// Waits for so long, or fails with [`Interrupted`].
pub(crate) fn pause(time: Duration) -> anyhow::Result<()> {
    await_event(time, || None::<()>).map(|_| ())
}

/// Waits until `probe` finds something or the time is up (`None`), or fails with [`Interrupted`].
pub(crate) fn await_event<T>(
    time_max: Duration,
    mut probe: impl FnMut() -> Option<T>,
) -> anyhow::Result<Option<T>> {
    let event = wait::until(time_max, || {
        if came() {
            return Some(Err(Interrupted));
        }
        probe().map(Ok)
    });
    Ok(event.transpose()?)
}

/// Waits for the signal.
pub(crate) fn wait() {
    while pause(Duration::from_mins(1)).is_ok() {}
}
