//! Renewals of sessions, each done once: a browser that asks for many things at once shows one session many times, and
//! an issuer that gives a new refresh token with each renewal takes a second use of the old one for theft.

use std::{cell::RefCell, collections::HashMap, future::Future, rc::Rc, sync::Arc};

use aws_lc_rs::digest;
use tokio::{sync::Notify, task::spawn_local};

use crate::decide::{AuthFailure, oidc::session::Session};

/// How long an outcome is kept for whoever still shows the old session, in seconds.
const KEPT_S: u64 = 300;
/// The same where there was none, since the issuer was away.
const KEPT_AWAY_S: u64 = 5;
/// Renewals that are under way or kept.
const RENEWALS_MAX: usize = 8192;

/// The session that replaces the old one, and the fields that give it to its browser.
pub(super) type Outcome = Result<(Session, Arc<str>), AuthFailure>;

/// All that are under way or were lately.
#[derive(Default)]
pub(super) struct Renewals {
    /// By the hash of the session: issuers may give the same refresh token again and again.
    all: RefCell<HashMap<[u8; 32], Rc<Renewal>>>,
}

#[derive(Default)]
struct Renewal {
    /// And until when it is kept.
    outcome: RefCell<Option<(Outcome, u64)>>,
    is_over: Notify,
}

impl Renewals {
    /// What comes of `renew`, which is called unless somebody has called it for this session already. Once begun it is
    /// brought to its end, whoever still waits for it.
    pub(super) async fn share<F>(
        &self,
        session: &Session,
        now_s: u64,
        renew: impl FnOnce(Session) -> F + 'static,
    ) -> Outcome
    where
        F: Future<Output = Outcome> + 'static,
    {
        let key = key_of(session);
        let known = self.all.borrow().get(&key).filter(|known| !known.is_stale(now_s)).cloned();
        let renewal = match known {
            Some(known) => known,
            None => self.begin(key, session, now_s, renew)?,
        };
        loop {
            let over = renewal.is_over.notified();
            if let Some((outcome, _)) = &*renewal.outcome.borrow() {
                return outcome.clone();
            }
            over.await;
        }
    }

    fn begin<F>(
        &self,
        key: [u8; 32],
        session: &Session,
        now_s: u64,
        renew: impl FnOnce(Session) -> F + 'static,
    ) -> Result<Rc<Renewal>, AuthFailure>
    where
        F: Future<Output = Outcome> + 'static,
    {
        let mut all = self.all.borrow_mut();
        if all.len() >= RENEWALS_MAX {
            all.retain(|_, known| !known.is_stale(now_s));
        }
        if all.len() >= RENEWALS_MAX {
            return Err(AuthFailure::Unavailable);
        }
        let renewal = Rc::new(Renewal::default());
        all.insert(key, Rc::clone(&renewal));
        let (begun, session) = (Rc::clone(&renewal), session.clone());
        spawn_local(async move {
            let outcome = renew(session).await;
            let kept_s = match &outcome {
                Err(AuthFailure::Unavailable) => KEPT_AWAY_S,
                Ok(_) | Err(_) => KEPT_S,
            };
            *begun.outcome.borrow_mut() = Some((outcome, now_s.saturating_add(kept_s)));
            begun.is_over.notify_waiters();
        });
        Ok(renewal)
    }
}

impl Renewal {
    fn is_stale(&self, now_s: u64) -> bool {
        self.outcome.borrow().as_ref().is_some_and(|(_, until_s)| now_s >= *until_s)
    }
}

fn key_of(session: &Session) -> [u8; 32] {
    let hash = digest::digest(&digest::SHA256, &session.encode());
    hash.as_ref().try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::{sync::oneshot, task::LocalSet};

    use super::*;

    fn session(refresh_token: &str, renew_at_s: u64) -> Session {
        Session {
            id: "id".to_owned(),
            id_token: String::new(),
            sid: None,
            refresh_token: Some(refresh_token.to_owned()),
            begun_ms: 1,
            renew_at_s,
            ends_at_s: renew_at_s,
        }
    }

    fn renewed() -> (Session, Arc<str>) {
        (session("next", 2000), "Set-Cookie: a=b\r\n".into())
    }

    #[tokio::test]
    async fn many_share_one_and_who_comes_later_hears_of_it() {
        let work = async {
            let (renewals, count) = (Renewals::default(), Rc::new(Cell::new(0)));
            let one = session("one", 1000);
            let ask = |now_s, answer: Outcome| {
                let count = Rc::clone(&count);
                renewals.share(&one, now_s, move |_| async move {
                    count.set(count.get() + 1);
                    answer
                })
            };
            let (first, second) = tokio::join!(ask(1000, Ok(renewed())), ask(1000, Ok(renewed())));
            assert_eq!((&first, &second), (&Ok(renewed()), &Ok(renewed())));
            assert_eq!(ask(1000 + KEPT_S - 1, Ok(renewed())).await, Ok(renewed()));
            assert_eq!(count.get(), 1);
            assert_eq!(
                ask(1000 + KEPT_S, Err(AuthFailure::Unavailable)).await,
                Err(AuthFailure::Unavailable)
            );
            let again_s = 1000 + KEPT_S + KEPT_AWAY_S;
            assert_eq!(ask(again_s - 1, Ok(renewed())).await, Err(AuthFailure::Unavailable));
            assert_eq!(ask(again_s, Ok(renewed())).await, Ok(renewed()));
            assert_eq!(count.get(), 3);
        };
        LocalSet::new().run_until(work).await;
    }

    #[tokio::test]
    async fn it_comes_to_its_end_though_nobody_waits() {
        let work = async {
            let renewals = Renewals::default();
            let one = session("one", 1000);
            let (begun, has_begun) = oneshot::channel();
            let (go, may_go) = oneshot::channel::<()>();
            let asked = renewals.share(&one, 1000, |_| async move {
                begun.send(()).unwrap();
                may_go.await.unwrap();
                Ok(renewed())
            });
            tokio::select! { biased; _ = asked => panic!("it waits"), begun = has_begun => begun.unwrap() }
            go.send(()).unwrap();
            let again = renewals.share(&one, 1000, |_| async { panic!("it is under way") });
            assert_eq!(again.await, Ok(renewed()));
        };
        LocalSet::new().run_until(work).await;
    }

    #[tokio::test]
    async fn what_came_of_one_is_renewed_itself_though_its_refresh_token_is_the_same() {
        let work = async {
            let renewals = Renewals::default();
            let next = session("one", 2000);
            let answer: Outcome = Ok((next.clone(), "".into()));
            renewals.share(&session("one", 1000), 1000, |_| async { answer }).await.unwrap();
            let last = renewals.share(&next, 1001, |_| async { Ok(renewed()) }).await;
            assert_eq!(last, Ok(renewed()));
        };
        LocalSet::new().run_until(work).await;
    }

    #[tokio::test]
    async fn they_are_bounded() {
        let work = async {
            let renewals = Renewals::default();
            for count in 0..=RENEWALS_MAX {
                let session = session(&count.to_string(), 1000);
                let answer = renewals.share(&session, 1000, |_| async { Ok(renewed()) }).await;
                assert_eq!(answer.is_ok(), count < RENEWALS_MAX, "{count}");
            }
            let session = session("later", 1000);
            assert!(renewals.share(&session, 1000 + KEPT_S, |_| async { Ok(renewed()) }).await.is_ok());
        };
        LocalSet::new().run_until(work).await;
    }
}
