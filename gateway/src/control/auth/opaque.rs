//! Opaque tokens: what an authorization server says of them (RFC 7662), asked as seldom as can be.
//!
//! Comes in: tokens of requests, each with the rules of its auth. Goes out: whose they are. What was said of one counts
//! for `cache`, good or bad, over all workers and reloads. A token that many requests show at once is asked about once.
//! A server that fails is left alone for a while: then nobody can tell, and nobody passes.

use std::{
    cell::RefCell,
    collections::HashMap,
    io,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use form_urlencoded::byte_serialize;
use http_body_util::Full;
use hyper::{
    Request, StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue},
};
use tokio::{
    sync::{OnceCell, Semaphore},
    time::Instant,
};
use zeroize::Zeroizing;

use super::{breaker::Breaker, unix_s};
use crate::{
    config::{AuthKind, Introspection},
    control::client::{Bounds, Client},
    decide::{
        Answer, AuthFailure, Policy, Snapshot, authn,
        introspection::{Said, Tally},
    },
};

/// The largest answer.
const ANSWER_BYTES_MAX: usize = 16 << 10;
/// Questions at once to one server.
const AT_ONCE: usize = 64;
/// Questions that wait for their turn, beside those.
const WAITING_MAX: usize = 1024;
/// What was said lately is kept for so many tokens, twice.
const KEPT_MAX: usize = 16_384;
/// After so many failures in a row nobody is asked for [`OPEN_FOR`]; then one question tries.
const FAILURES_MAX: u32 = 5;
const OPEN_FOR: Duration = Duration::from_secs(5);

/// All authorization servers that were asked something.
#[derive(Default)]
pub(super) struct Servers(RefCell<Vec<Rc<Server>>>);

/// One that is asked by the rules of one auth.
struct Server {
    auth: String,
    rules: Introspection,
    client: Client,
    tally: Arc<Tally>,
    kept: RefCell<Kept>,
    /// Questions that are being asked.
    open: RefCell<HashMap<TokenId, Question>>,
    turns: Semaphore,
    places: Semaphore,
    breaker: Breaker,
}

/// The hash of a token: nobody who reads this memory has a token.
type TokenId = [u8; SHA256_OUTPUT_LEN];

/// What comes of asking about one token; none: nobody can tell.
type Question = Rc<OnceCell<Option<Heard>>>;

/// What was said of a token, and until when that counts.
#[derive(Debug, Clone, PartialEq)]
struct Heard {
    said: Rc<Said>,
    until: Instant,
}

/// Somebody who waits for an answer.
struct Waiting<'s> {
    server: &'s Server,
    id: TokenId,
    question: Question,
}

impl Drop for Waiting<'_> {
    /// The last one to leave takes the question along, answered or not.
    fn drop(&mut self) {
        if Rc::strong_count(&self.question) <= 2 {
            self.server.open.borrow_mut().remove(&self.id);
        }
    }
}

impl Servers {
    /// Forgets those that no auth of `snapshot` asks any more, or not so.
    pub(super) fn keep_those_of(&self, snapshot: &Snapshot) {
        let is_wanted = |server: &Rc<Server>| {
            snapshot.config.auths.iter().any(
                |auth| matches!(&auth.kind, AuthKind::Introspection(rules) if server.is_of(&auth.name, rules)),
            )
        };
        self.0.borrow_mut().retain(is_wanted);
    }

    /// Whose `token` is, by the rules of one auth.
    pub(super) async fn judge(
        &self,
        policy: &Policy,
        auth: &authn::Auth,
        rules: &Introspection,
        token: &[u8],
    ) -> Answer {
        let heard = self.server(auth, rules)?.ask(token).await.ok_or(AuthFailure::Unavailable)?;
        // Workers remember it as well, but no longer than from when it was said.
        let good_for = heard.until.saturating_duration_since(Instant::now());
        heard.said.judge((rules, good_for.as_secs()), &|name| policy.role(name), unix_s())
    }

    fn server(&self, auth: &authn::Auth, rules: &Introspection) -> Result<Rc<Server>, AuthFailure> {
        let mut servers = self.0.borrow_mut();
        if let Some(known) = servers.iter().find(|server| server.is_of(auth.name(), rules)) {
            return Ok(Rc::clone(known));
        }
        let tally = auth.opaque().map(|opaque| Arc::clone(&opaque.tally)).unwrap_or_default();
        match Server::new(auth.name(), rules, tally) {
            Ok(server) => {
                let server = Rc::new(server);
                servers.push(Rc::clone(&server));
                Ok(server)
            }
            Err(problem) => {
                log::error!("auth {}: {problem}", auth.name());
                Err(AuthFailure::Unavailable)
            }
        }
    }
}

impl Server {
    fn new(auth: &str, rules: &Introspection, tally: Arc<Tally>) -> io::Result<Self> {
        Ok(Self {
            auth: auth.to_owned(),
            rules: rules.clone(),
            client: Client::new(&rules.endpoint)?,
            tally,
            kept: RefCell::default(),
            open: RefCell::default(),
            turns: Semaphore::new(AT_ONCE),
            places: Semaphore::new(AT_ONCE + WAITING_MAX),
            breaker: Breaker::new(FAILURES_MAX, OPEN_FOR),
        })
    }

    fn is_of(&self, auth: &str, rules: &Introspection) -> bool {
        self.auth == auth && self.rules == *rules
    }

    /// What is said of a token; none: nobody can tell.
    async fn ask(&self, token: &[u8]) -> Option<Heard> {
        let mut id = TokenId::default();
        id.copy_from_slice(digest(&SHA256, token).as_ref());
        if let Some(heard) = self.kept.borrow().find(&id, Instant::now()) {
            self.tally.cached.fetch_add(1, Relaxed);
            return Some(heard);
        }
        let question = Rc::clone(self.open.borrow_mut().entry(id).or_default());
        let waiting = Waiting { server: self, id, question };
        // Whoever gives up leaves the question to the next who waits for it.
        waiting.question.get_or_init(|| self.ask_once(id, token)).await.clone()
    }

    async fn ask_once(&self, id: TokenId, token: &[u8]) -> Option<Heard> {
        let (Ok(_place), true) = (self.places.try_acquire(), self.breaker.lets_pass(Instant::now())) else {
            self.tally.rejected.fetch_add(1, Relaxed);
            return None;
        };
        let _turn = self.turns.acquire().await.ok()?;
        // It may have opened while this one waited.
        if !self.breaker.lets_pass(Instant::now()) {
            self.tally.rejected.fetch_add(1, Relaxed);
            return None;
        }
        let _trial = self.breaker.begin();
        let until = Instant::now() + self.rules.cache;
        let answered = self.exchange(token).await;
        self.note(answered.as_ref().err());
        if !matches!(answered, Ok(Some(_))) {
            self.tally.failed.fetch_add(1, Relaxed);
        }
        let heard = Heard { said: Rc::new(answered.ok()??), until };
        self.kept.borrow_mut().keep(id, heard.clone());
        Some(heard)
    }

    fn note(&self, problem: Option<&io::Error>) {
        match (problem, self.breaker.note(problem.is_none(), Instant::now())) {
            (Some(problem), 1) => log::warn!("auth {}: tokens cannot be asked about: {problem}", self.auth),
            (Some(problem), FAILURES_MAX) => {
                log::warn!("auth {}: nobody is asked for {OPEN_FOR:?} at a time: {problem}", self.auth);
            }
            (None, 1..) => log::info!("auth {}: tokens can be asked about again", self.auth),
            _ => {}
        }
        self.tally.is_open.store(self.breaker.is_open(), Relaxed);
    }

    /// RFC 7662 §2.1, by who knows the client's secret (RFC 6749 §2.3.1). None: the server is well, but can't tell of
    /// this token. Clients must not open the breaker by what they show.
    async fn exchange(&self, token: &[u8]) -> io::Result<Option<Said>> {
        let id = byte_serialize(self.rules.client_id.as_bytes());
        let secret = byte_serialize(&self.rules.client_secret.0);
        let pair: Zeroizing<String> = Zeroizing::new(id.chain([":"]).chain(secret).collect());
        let basic = Zeroizing::new(format!("Basic {}", BASE64_STANDARD.encode(&*pair)));
        let mut basic = HeaderValue::from_str(&basic).map_err(io::Error::other)?;
        basic.set_sensitive(true);
        let form =
            ["token="].into_iter().chain(byte_serialize(token)).chain(["&token_type_hint=access_token"]);
        let request = Request::post("/")
            .header(AUTHORIZATION, basic)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(ACCEPT, "application/json")
            .body(Full::from(form.collect::<String>()))
            .map_err(io::Error::other)?;
        let bounds = Bounds { time_max: self.rules.timeout, bytes_max: ANSWER_BYTES_MAX };
        let response = self.client.ask(&self.rules.endpoint.url.target, request, bounds).await?;
        let said = match response.status() {
            StatusCode::OK => Said::read(response.body()),
            StatusCode::BAD_REQUEST => match Said::read_error(response.body()) {
                None => return Ok(None),
                said => said,
            },
            StatusCode::UNAUTHORIZED => {
                return Err(io::Error::other(
                    "the server does not know this client, or another secret of it",
                ));
            }
            status => return Err(io::Error::other(format!("the server answers {status}"))),
        };
        let said = said.ok_or_else(|| io::Error::other("the server's answer makes no sense"))?;
        let count = match said {
            Said::Active(_) => &self.tally.active,
            Said::Inactive => &self.tally.inactive,
        };
        count.fetch_add(1, Relaxed);
        Ok(Some(said))
    }
}

/// What was said lately. What is new goes into the young half; when that is full it becomes the old one.
#[derive(Default)]
struct Kept {
    young: HashMap<TokenId, Heard>,
    old: HashMap<TokenId, Heard>,
}

impl Kept {
    fn find(&self, id: &TokenId, now: Instant) -> Option<Heard> {
        let heard = self.young.get(id).or_else(|| self.old.get(id))?;
        (now < heard.until).then(|| heard.clone())
    }

    fn keep(&mut self, id: TokenId, heard: Heard) {
        if self.young.len() >= KEPT_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(id, heard);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Row 82.
    #[test]
    fn what_was_said_is_kept_for_its_time_and_bounded() {
        let (mut kept, now) = (Kept::default(), Instant::now());
        let id = |n: usize| {
            let mut id = TokenId::default();
            id[..8].copy_from_slice(&n.to_be_bytes());
            id
        };
        let until = now + Duration::from_secs(30);
        let heard = || Heard { said: Rc::new(Said::Inactive), until };
        kept.keep(id(0), heard());
        assert_eq!(kept.find(&id(0), now), Some(heard()));
        assert_eq!((kept.find(&id(0), until), kept.find(&id(1), now)), (None, None));
        for n in 1..4 * KEPT_MAX {
            kept.keep(id(n), heard());
            assert!(kept.young.len() <= KEPT_MAX && kept.old.len() <= KEPT_MAX);
        }
        let last = id(4 * KEPT_MAX - 1);
        assert_eq!((kept.find(&id(0), now), kept.find(&last, now)), (None, Some(heard())));
        let active = Heard { said: Rc::new(Said::read(br#"{"active":true}"#).unwrap()), until };
        kept.keep(last, active.clone());
        assert_eq!(kept.find(&last, now), Some(active), "what was said last counts");
    }
}
