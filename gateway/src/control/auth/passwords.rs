//! Passwords, hashed with argon2id (RFC 9106): slow on purpose, so only a few at once.
//!
//! A user that does not exist takes as long as a wrong password. Whoever floods it with guesses finds a short line;
//! those that find no place are told that nobody could tell, and the guesses that are answered count as offences.

use std::sync::LazyLock;

use argon2::{Argon2, PasswordVerifier as _, password_hash::phc::PasswordHash};
use tokio::{sync::Semaphore, task::spawn_blocking};
use zeroize::Zeroizing;

use crate::{
    config::{Basic, Secret},
    decide::{Answer, AuthFailure, Identity, basic},
};

/// Hashes at once, each on a thread of its own: workers need the other CPUs.
const AT_ONCE: usize = 1;
/// Guesses that wait for their turn.
const WAITING_MAX: usize = 64;
/// How long a password that was found good is remembered, in seconds.
const GOOD_FOR_S: u64 = 300;

/// Checks passwords.
pub(super) struct Passwords {
    turns: Semaphore,
    places: Semaphore,
}

impl Default for Passwords {
    fn default() -> Self {
        Self { turns: Semaphore::new(AT_ONCE), places: Semaphore::new(AT_ONCE + WAITING_MAX) }
    }
}

impl Passwords {
    /// Whose `credential` is: what stood behind `Basic`.
    pub(super) async fn check(&self, basic: &Basic, credential: &[u8]) -> Answer {
        let given = basic::parse(credential).ok_or(AuthFailure::Password)?;
        let _place = self.places.try_acquire().map_err(|_| AuthFailure::Unavailable)?;
        let _turn = self.turns.acquire().await.map_err(|_| AuthFailure::Unavailable)?;
        let found = basic.users.binary_search_by(|(user, _)| (**user).cmp(given.user()));
        let user = found.ok().and_then(|at| basic.users.get(at));
        let hash = user.map_or_else(|| NOBODY.clone(), |(_, hash)| hash.clone());
        let consumer = user.map(|(user, _)| user.clone());
        let is_right = spawn_blocking(move || is_right(&hash, given.password()));
        match (is_right.await, consumer) {
            (Ok(true), Some(consumer)) => {
                Ok(Identity { consumer, good_until_s: super::unix_s() + GOOD_FOR_S, ..Identity::default() })
            }
            (Ok(_), _) => Err(AuthFailure::Password),
            (Err(_), _) => Err(AuthFailure::Unavailable),
        }
    }
}

/// The hash of no password, with the parameters that `portcullis keys password` takes.
static NOBODY: LazyLock<Secret> = LazyLock::new(|| {
    let text = "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5bm9ib2R5MTIzNA$\
                AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    Secret(Zeroizing::new(text.into()))
});

fn is_right(hash: &Secret, password: &str) -> bool {
    let text = str::from_utf8(&hash.0).unwrap_or_default();
    PasswordHash::new(text)
        .is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_has_a_hash_that_can_be_checked_and_no_password() {
        let text = str::from_utf8(&NOBODY.0).unwrap();
        assert!(PasswordHash::new(text).is_ok());
        assert!(!is_right(&NOBODY, ""));
        assert!(!is_right(&NOBODY, "nobody"));
    }
}
