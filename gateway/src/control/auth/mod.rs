//! What workers ask about credentials: all that waits for a network or takes long.
//!
//! Comes in: inquiries of the workers. Goes out: an answer to each, within a deadline. It runs on a thread of its own,
//! so that neither workers nor the control loop ever wait for it; what fails makes nobody known.

mod breaker;
mod issuers;
mod logins;
mod opaque;
mod passwords;
mod renewals;
pub(super) mod revocations;
mod token_endpoint;

use std::{
    io,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    thread,
    time::Duration,
};

use arc_swap::ArcSwap;
use metrics::{counter, gauge};
use tokio::{
    sync::mpsc,
    task::spawn_local,
    time::{MissedTickBehavior, interval, timeout},
};

use super::{float, since_epoch, unix_s};
use crate::{
    config::{AuthKind, Config},
    decide::{Answer, Asks, AuthFailure, Inquiry, Policy, Reply, Said, Snapshot},
};
use issuers::Issuers;
use logins::Logins;
use opaque::Servers;
use passwords::Passwords;

/// Inquiries that wait for the thread, over all workers.
pub const INQUIRIES_MAX: usize = 4096;
/// An answer that takes longer is none. Less than what a worker waits for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How often it is seen that another configuration is in force.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Starts the thread. It ends with the last worker.
pub fn spawn(published: Arc<ArcSwap<Snapshot>>, inquiries: mpsc::Receiver<Inquiry>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("auth".to_owned()).spawn(move || {
        tokio::task::LocalSet::new().block_on(&runtime, answer_all(&published, inquiries));
    })?;
    Ok(())
}

async fn answer_all(published: &ArcSwap<Snapshot>, mut inquiries: mpsc::Receiver<Inquiry>) {
    let desk = Rc::new(Desk::default());
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut generation = 0;
    loop {
        let inquiry = tokio::select! {
            inquiry = inquiries.recv() => Some(inquiry),
            _ = look.tick() => None,
        };
        // Also before a question: it may be of a configuration that has just come into force.
        if published.load().generation != generation {
            let snapshot = published.load();
            generation = snapshot.generation;
            desk.issuers.follow(&snapshot);
            desk.servers.keep_those_of(&snapshot);
        }
        match inquiry {
            None => desk.logins.write_what_is_left(&published.load()),
            Some(None) => break,
            Some(Some(Inquiry { snapshot, asks, reply })) => {
                let desk = Rc::clone(&desk);
                spawn_local(async move {
                    desk.reply(&snapshot, asks, reply).await;
                });
            }
        }
    }
}

/// Who knows what.
#[derive(Default)]
struct Desk {
    issuers: Rc<Issuers>,
    servers: Servers,
    logins: Rc<Logins>,
    passwords: Passwords,
}

impl Desk {
    /// Within [`ANSWER_TIMEOUT`], come what may: a reply that is dropped says that nobody could tell.
    async fn reply(&self, snapshot: &Arc<Snapshot>, asks: Asks, reply: Reply) {
        let said = async {
            match asks {
                Asks::Whose(question) => {
                    Said::Whose(self.answer(snapshot, question.auth, &question.credential).await)
                }
                Asks::Tell(visit) => Said::Tell(self.logins.tell(&self.issuers, snapshot, &visit).await),
            }
        };
        if let Ok(said) = timeout(ANSWER_TIMEOUT, said).await {
            reply.say(said);
        }
    }

    async fn answer(&self, snapshot: &Arc<Snapshot>, auth: u16, credential: &[u8]) -> Answer {
        match snapshot.config.auths.get(usize::from(auth)).map(|auth| &auth.kind) {
            Some(AuthKind::Basic(basic)) => self.passwords.check(basic, credential).await,
            Some(AuthKind::Introspection(rules)) => {
                let policy = &snapshot.policy;
                let auth = policy.auth(auth).ok_or(AuthFailure::Unavailable)?;
                self.servers.judge(policy, auth, rules, credential).await
            }
            Some(AuthKind::Jwt(_)) => self.judge_again(&snapshot.policy, auth, credential).await,
            Some(AuthKind::Oidc(_)) => self.logins.renew(&self.issuers, snapshot, (auth, credential)).await,
            // These are judged on the worker.
            Some(AuthKind::ApiKey(_) | AuthKind::Mtls(_)) | None => Err(AuthFailure::Unavailable),
        }
    }

    /// A token whose key nobody knows: its issuer may have said more since.
    async fn judge_again(&self, policy: &Policy, auth: u16, token: &[u8]) -> Answer {
        let auth = policy.auth(auth).ok_or(AuthFailure::Unavailable)?;
        let issuer = auth.issuer().ok_or(AuthFailure::Unavailable)?;
        let judge = || auth.judge(token, None, &|name| policy.role(name), unix_s());
        match judge() {
            None if self.issuers.ask_again(issuer).await => judge().unwrap_or(Err(AuthFailure::Unavailable)),
            None => Err(AuthFailure::Unavailable),
            Some(answer) => answer,
        }
    }
}

/// Tells the metrics.
pub(super) fn fold(snapshot: &Snapshot) {
    let now_s = unix_s();
    if let Some(revoked) = snapshot.policy.revoked() {
        for (result, count) in [("kept", &revoked.tally.kept), ("failed", &revoked.tally.failed)] {
            counter!("portcullis_session_revocations_total", "result" => result)
                .absolute(count.load(Relaxed));
        }
    }
    for auth in snapshot.policy.auths() {
        let name = || auth.name().to_owned();
        if let Some(opaque) = auth.opaque() {
            let tally = &opaque.tally;
            let results = [
                ("active", &tally.active),
                ("inactive", &tally.inactive),
                ("failed", &tally.failed),
                ("cached", &tally.cached),
                ("rejected", &tally.rejected),
            ];
            for (result, count) in results {
                counter!("portcullis_auth_introspections_total", "auth" => name(), "result" => result)
                    .absolute(count.load(Relaxed));
            }
            let is_open = f64::from(u8::from(tally.is_open.load(Relaxed)));
            gauge!("portcullis_auth_breaker_open", "auth" => name()).set(is_open);
        }
        let Some(issuer) = auth.issuer() else { continue };
        let tally = &issuer.tally;
        let results =
            [("changed", &tally.changed), ("unchanged", &tally.unchanged), ("failed", &tally.failed)];
        for (result, count) in results {
            counter!("portcullis_auth_key_fetches_total", "auth" => name(), "result" => result)
                .absolute(count.load(Relaxed));
        }
        let keys = issuer.said().map_or(0, |said| said.keys_len());
        gauge!("portcullis_auth_keys", "auth" => name()).set(float(keys as u64));
        let heard_at_s = tally.heard_at_s.load(Relaxed);
        if heard_at_s != 0 {
            gauge!("portcullis_auth_keys_age_seconds", "auth" => name())
                .set(float(now_s.saturating_sub(heard_at_s)));
        }
    }
}

/// No session of any auth is older.
pub(super) fn session_ms(config: &Config) -> u64 {
    let sessions = config.auths.iter().filter_map(|auth| match &auth.kind {
        AuthKind::Oidc(rules) => Some(rules.session),
        _ => None,
    });
    u64::try_from(sessions.max().unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn unix_ms() -> u64 {
    u64::try_from(since_epoch().as_millis()).unwrap_or(u64::MAX)
}
