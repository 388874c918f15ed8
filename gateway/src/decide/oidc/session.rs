//! What a browser's session holds, as it is sealed into a cookie.
//!
//! It holds tokens and not what is read from them: who is asking is what the ID token says, also after a refresh. The
//! ID token is not verified again, since nobody but us can have sealed it.

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::decide::claims::{self, Claims};

/// A refresh is due this long before the session's tokens end, in seconds, or when three quarters of their time have
/// passed, whichever is later.
const RENEW_AHEAD_S: u64 = 60;

/// One login and what came of it since.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Random: what it is revoked by when its browser logs out.
    #[serde(rename = "i")]
    pub id: String,
    /// Who is asking, and the hint by which the issuer knows whom to log out.
    #[serde(rename = "t")]
    pub id_token: String,
    /// What the issuer calls its own session; later ID tokens may leave it out.
    #[serde(rename = "s", skip_serializing_if = "Option::is_none", default)]
    pub sid: Option<String>,
    /// What the next tokens are got with.
    #[serde(rename = "r", skip_serializing_if = "Option::is_none", default)]
    pub refresh_token: Option<String>,
    /// When its browser has logged in, in ms since the epoch.
    #[serde(rename = "b")]
    pub begun_ms: u64,
    /// When the next tokens are due, in seconds since the epoch; at its end where there will be none.
    #[serde(rename = "n")]
    pub renew_at_s: u64,
    /// When its tokens end.
    #[serde(rename = "e")]
    pub ends_at_s: u64,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.id_token.zeroize();
        self.refresh_token.zeroize();
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { begun_ms, renew_at_s, ends_at_s, .. } = self;
        f.debug_struct("Session")
            .field("begun_ms", begun_ms)
            .field("renew_at_s", renew_at_s)
            .field("ends_at_s", ends_at_s)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// With tokens that live for so long from `now_s` on; no session is older than `session_s`.
    #[must_use]
    pub fn until(mut self, now_s: u64, tokens_s: u64, session_s: u64) -> Self {
        let end_s = (self.begun_ms / 1000).saturating_add(session_s);
        self.ends_at_s = now_s.saturating_add(tokens_s).min(end_s);
        let left_s = self.ends_at_s.saturating_sub(now_s);
        self.renew_at_s = match self.refresh_token {
            // What ends by its age is not renewed.
            Some(_) if self.ends_at_s < end_s => self.ends_at_s - RENEW_AHEAD_S.min(left_s / 4),
            _ => self.ends_at_s,
        };
        self
    }

    /// Whether new tokens are to be had, now that it is not fresh any more.
    pub fn is_renewable(&self) -> bool {
        self.refresh_token.is_some() && self.renew_at_s < self.ends_at_s
    }

    /// As it is sealed.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        // Strings and numbers always become JSON.
        Zeroizing::new(serde_json::to_vec(self).unwrap_or_default())
    }

    /// As it was sealed.
    pub fn decode(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }

    /// What the ID token says.
    pub(in crate::decide) fn claims(&self) -> Option<Claims> {
        let payload = self.id_token.split('.').nth(1)?;
        claims::parse(&crate::decide::jwt::decode(payload.as_bytes())?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn session(refresh_token: Option<&str>) -> Session {
        Session {
            id: "id".to_owned(),
            id_token: "e30.eyJzdWIiOiJib2IifQ.c2ln".to_owned(),
            sid: None,
            refresh_token: refresh_token.map(str::to_owned),
            begun_ms: 1_000_000,
            renew_at_s: 0,
            ends_at_s: 0,
        }
    }

    #[track_caller]
    fn check(
        refresh_token: Option<&str>,
        (now_s, tokens_s, session_s): (u64, u64, u64),
        expected: (u64, u64),
    ) {
        let session = session(refresh_token).until(now_s, tokens_s, session_s);
        assert_eq!((session.renew_at_s, session.ends_at_s), expected);
    }

    #[test]
    fn tokens_are_renewed_in_time_and_a_session_ends() {
        check(Some("r"), (1000, 3600, 36_000), (4540, 4600));
        check(Some("r"), (1000, 40, 36_000), (1030, 1040));
        check(Some("r"), (1000, 0, 36_000), (1000, 1000));
        check(None, (1000, 3600, 36_000), (4600, 4600));
        // The last tokens of a session are not renewed.
        check(Some("r"), (1000, 3600, 3600), (4600, 4600));
        check(Some("r"), (4000, 3600, 3600), (4600, 4600));
        check(Some("r"), (9000, 3600, 3600), (4600, 4600));
    }

    #[test]
    fn it_is_not_printed() {
        let printed = format!("{:?}", session(Some("s3cret")));
        assert!(!printed.contains("s3cret") && !printed.contains("e30"), "{printed}");
    }

    #[test]
    fn claims_are_those_of_the_id_token() {
        assert_eq!(session(None).claims().unwrap().get("sub").unwrap().text(), Some("bob"));
        let mut session = session(None);
        session.id_token = "e30".to_owned();
        assert_eq!(session.claims(), None);
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(id in ".{0,9}", token in ".{0,9}", refresh: Option<String>, sid: Option<String>, times: [u64; 3]) {
            let [begun_ms, renew_at_s, ends_at_s] = times;
            let session = Session { id, id_token: token, sid, refresh_token: refresh, begun_ms, renew_at_s, ends_at_s };
            prop_assert_eq!(Session::decode(&session.encode()), Some(session));
        }

        #[test]
        fn it_never_outlives_its_bounds(now_s in 0u64..1 << 40, tokens_s: u64, session_s: u64, has_refresh: bool) {
            let session = session(has_refresh.then_some("r")).until(now_s, tokens_s, session_s);
            prop_assert!(session.ends_at_s <= 1000u64.saturating_add(session_s));
            prop_assert!(session.ends_at_s <= now_s.saturating_add(tokens_s));
            prop_assert!(session.renew_at_s <= session.ends_at_s);
        }
    }
}
