//! Credentials that cannot be judged where requests are served: what is asked of others, and what they say.
//!
//! A worker hands an [`Inquiry`] to whoever may wait for a disk, a network or a slow hash, serves other requests
//! meanwhile, and decides again with the [`Answered`] in hand. Every inquiry is answered: one that is dropped says
//! that nobody could tell.

use std::{fmt, rc::Rc, sync::Arc};

use zeroize::Zeroizing;

use super::{
    AuthFailure, Identity, Snapshot,
    oidc::visit::{Told, Visit},
};

/// What a decision lacks.
#[derive(Clone, PartialEq, Eq)]
pub struct Question {
    /// Index into the configuration's auths.
    pub auth: u16,
    /// Which keys of the auth it concerns, see [`super::memory`].
    pub generation: u64,
    /// What was presented.
    pub credential: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { auth, generation, credential: _ } = self;
        f.debug_struct("Question").field("auth", auth).field("generation", generation).finish_non_exhaustive()
    }
}

/// What is said of a credential: whose it is, or why it is nobody's.
pub type Answer = Result<Identity, AuthFailure>;

/// The answer to a [`Question`], as a decision takes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Answered {
    /// The auth that was asked about.
    pub auth: u16,
    /// What was said.
    pub answer: Result<Rc<Identity>, AuthFailure>,
}

/// A question on its way.
pub struct Inquiry {
    /// What the worker goes by that asks: roles and auths are indices into it.
    pub snapshot: Arc<Snapshot>,
    /// What it asks.
    pub asks: Asks,
    /// Where the answer goes.
    pub reply: Reply,
}

/// What is asked.
pub enum Asks {
    /// Whose a credential is.
    Whose(Question),
    /// What a visitor of the gateway itself is told.
    Tell(Box<Visit>),
}

/// What is said to what was asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    /// Whose a credential is.
    Whose(Answer),
    /// What a visitor is told.
    Tell(Told),
}

/// Takes an answer to whoever waits for it.
pub struct Reply(Option<Box<dyn FnOnce(Said) + Send>>);

impl Reply {
    /// `take` is called once, on whatever thread answers; it must not wait.
    pub fn new(take: impl FnOnce(Said) + Send + 'static) -> Self {
        Self(Some(Box::new(take)))
    }

    /// Answers.
    pub fn say(mut self, said: Said) {
        if let Some(take) = self.0.take() {
            take(said);
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(take) = self.0.take() {
            take(Said::Whose(Err(AuthFailure::Unavailable)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn every_inquiry_is_answered_once() {
        let (sender, answers) = mpsc::channel();
        let reply = || {
            let sender = sender.clone();
            Reply::new(move |answer| sender.send(answer).unwrap())
        };
        reply().say(Said::Whose(Err(AuthFailure::Absent)));
        drop(reply());
        drop(sender);
        let all: Vec<Said> = answers.iter().collect();
        let none = [AuthFailure::Absent, AuthFailure::Unavailable].map(|failure| Said::Whose(Err(failure)));
        assert_eq!(all, none);
    }

    #[test]
    fn a_credential_is_not_printed() {
        let question = Question { auth: 1, generation: 2, credential: Zeroizing::new(b"s3cret".to_vec()) };
        let printed = format!("{question:?}");
        assert!(!printed.contains("115") && !printed.contains("s3cret"), "{printed}");
    }
}
