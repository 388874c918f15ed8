//! The clocks, read here and passed on as arguments.

use std::time::Duration;

/// `CLOCK_MONOTONIC` in nanoseconds: what deadlines, limits and the XDP program count in. About 23 ns.
pub fn monotonic_ns() -> u64 {
    read(libc::CLOCK_MONOTONIC)
}

/// The same as of the last tick, 1 to 10 ms ago, at a quarter of the cost: for deadlines, which are late by more.
pub fn coarse_ns() -> u64 {
    read(libc::CLOCK_MONOTONIC_COARSE)
}

/// Seconds since the epoch: what certificates and tokens count in.
pub fn unix_s() -> u64 {
    read(libc::CLOCK_REALTIME_COARSE) / 1_000_000_000
}

/// A duration in nanoseconds, or the most there can be.
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn read(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` outlives the call, which writes nothing else; these clocks always exist.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}
