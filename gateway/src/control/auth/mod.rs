//! What workers ask about credentials: all that waits for a network or takes long.
//!
//! Comes in: inquiries of the workers. Goes out: an answer to each, within a deadline. It runs on a thread of its own,
//! so that neither workers nor the control loop ever wait for it; what fails makes nobody known.

mod passwords;

use std::{
    io,
    sync::Arc,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{sync::mpsc, task::spawn_local, time::timeout};

use crate::{
    config::AuthKind,
    decide::{Answer, Asks, AuthFailure, Inquiry, Snapshot, oidc::visit::Told},
};
use passwords::Passwords;

/// Inquiries that wait for the thread, over all workers.
pub const INQUIRIES_MAX: usize = 4096;
/// An answer that takes longer is none. Less than what a worker waits for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Starts the thread. It ends with the last worker.
pub fn spawn(inquiries: mpsc::Receiver<Inquiry>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("auth".to_owned()).spawn(move || {
        tokio::task::LocalSet::new().block_on(&runtime, answer_all(inquiries));
    })?;
    Ok(())
}

async fn answer_all(mut inquiries: mpsc::Receiver<Inquiry>) {
    let desk = Arc::new(Desk::default());
    while let Some(Inquiry { snapshot, asks, reply }) = inquiries.recv().await {
        let desk = Arc::clone(&desk);
        spawn_local(async move {
            match asks {
                Asks::Whose(question) => {
                    let answer = desk.answer(&snapshot, question.auth, &question.credential);
                    reply
                        .send(timeout(ANSWER_TIMEOUT, answer).await.unwrap_or(Err(AuthFailure::Unavailable)));
                }
                Asks::Tell(_) => reply.tell(Told::unavailable()),
            }
        });
    }
}

/// Who knows what.
#[derive(Default)]
struct Desk {
    passwords: Passwords,
}

impl Desk {
    async fn answer(&self, snapshot: &Arc<Snapshot>, auth: u16, credential: &[u8]) -> Answer {
        match snapshot.config.auths.get(usize::from(auth)).map(|auth| &auth.kind) {
            Some(AuthKind::Basic(basic)) => self.passwords.check(basic, credential).await,
            // These are judged on the worker.
            Some(AuthKind::ApiKey { .. } | AuthKind::Jwt(_)) | None => Err(AuthFailure::Unavailable),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the control side's clock")]
fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
