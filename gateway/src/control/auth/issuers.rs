//! Issuers and their keys: asked at the start, in time, and again when a token names a key that nobody knows.
//!
//! Comes in: the issuers of the snapshot in force. Goes out: what they say, to [`Issuer`], from where all workers read
//! it. Each is asked by one task, so that a thousand tokens with an unknown key lead to one question, and the next one
//! no sooner than [`Issuer::outlook`] allows. What counted before goes on counting while an issuer is away or sends
//! garbage, but no longer than [`KEYS_AGE_MAX`].

use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode,
    body::Bytes,
    header::{ACCEPT, CACHE_CONTROL, HeaderMap},
};
use tokio::{
    sync::{Notify, Semaphore},
    task::{AbortHandle, spawn_local},
    time::{Instant, sleep},
};

use super::unix_s;
use crate::{
    config::{Endpoint, KeySource},
    control::client::{Bounds, Client},
    decide::{
        Snapshot,
        issuer::{self, Claims, Issuer},
    },
};

/// Three documents in a row take less than an inquiry may.
const DOCUMENT: Bounds = Bounds { time_max: Duration::from_secs(3), bytes_max: 256 << 10 };
/// How long keys count that cannot be fetched again.
const KEYS_AGE_MAX: Duration = Duration::from_hours(24);
/// Keys are fetched again after what `Cache-Control` says, within bounds; where it says nothing, after the default.
const REFRESH_MIN: Duration = Duration::from_mins(1);
const REFRESH_DEFAULT: Duration = Duration::from_mins(10);
const REFRESH_MAX: Duration = Duration::from_hours(1);
/// After failures in a row the pause doubles, from a second up to this.
const PAUSE_MAX: Duration = Duration::from_mins(5);
/// Requests that wait for an issuer's keys; others are told at once that nobody can tell.
const WAITING_MAX: usize = 1024;

/// All issuers that are asked.
pub(super) struct Issuers {
    followed: RefCell<Vec<Followed>>,
    places: Semaphore,
}

/// An issuer that is asked, as long as this lives.
struct Followed {
    state: Rc<State>,
    task: AbortHandle,
}

/// What the task that asks shares with those who wait for it.
struct State {
    issuer: Arc<Issuer>,
    /// It is being asked, or about to be.
    is_asking: Cell<bool>,
    wanted: Notify,
    asked: Notify,
}

impl Default for Issuers {
    fn default() -> Self {
        Self { followed: RefCell::default(), places: Semaphore::new(WAITING_MAX) }
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Issuers {
    /// From now on those of `snapshot` are asked; those that are in both go on.
    pub(super) fn follow(&self, snapshot: &Snapshot) {
        let wanted: Vec<(&str, &Arc<Issuer>)> =
            snapshot.policy.auths().iter().filter_map(|auth| Some((auth.name(), auth.issuer()?))).collect();
        let mut followed = self.followed.borrow_mut();
        followed.retain(|known| wanted.iter().any(|(_, issuer)| known.is_of(issuer)));
        for (auth, issuer) in wanted {
            if !followed.iter().any(|known| known.is_of(issuer)) {
                followed.push(Followed::start(auth, issuer));
            }
        }
    }

    /// Waits until an issuer has been asked once more. False: too many wait for that already, or it is of no snapshot
    /// that is in force.
    pub(super) async fn ask_again(&self, issuer: &Arc<Issuer>) -> bool {
        let known = self.followed.borrow().iter().find(|known| known.is_of(issuer)).map(Followed::state);
        let (Some(state), Ok(_place)) = (known, self.places.try_acquire()) else { return false };
        // It hears of whatever ends from here on.
        let asked = state.asked.notified();
        if !state.is_asking.replace(true) {
            state.wanted.notify_one();
        }
        asked.await;
        true
    }
}

impl Followed {
    fn start(auth: &str, issuer: &Arc<Issuer>) -> Self {
        let state = Rc::new(State {
            issuer: Arc::clone(issuer),
            is_asking: Cell::new(true),
            wanted: Notify::new(),
            asked: Notify::new(),
        });
        let history = History { auth: auth.to_owned(), failures: 0, heard: Instant::now() };
        let task = spawn_local(ask_for_ever(Rc::clone(&state), history)).abort_handle();
        Self { state, task }
    }

    fn is_of(&self, issuer: &Arc<Issuer>) -> bool {
        Arc::ptr_eq(&self.state.issuer, issuer)
    }

    fn state(&self) -> Rc<State> {
        Rc::clone(&self.state)
    }
}

async fn ask_for_ever(state: Rc<State>, mut history: History) {
    loop {
        state.is_asking.set(true);
        let pause = ask(&state.issuer, &mut history).await;
        state.is_asking.set(false);
        state.asked.notify_waiters();
        tokio::select! { () = sleep(pause) => {}, () = state.wanted.notified() => {} }
    }
}

/// Asks once. Goes out: when to ask again.
async fn ask(issuer: &Issuer, history: &mut History) -> Duration {
    let fetched = fetch(issuer.source()).await.map_err(|error| error.to_string());
    let taken = fetched.and_then(|Fetched { document, jwks, refresh }| {
        issuer.take(document, &jwks, unix_s())?;
        Ok(refresh)
    });
    match taken {
        Ok(refresh) => history.answered(refresh),
        Err(problem) => {
            if history.heard.elapsed() > KEYS_AGE_MAX {
                issuer.forget();
            }
            issuer.failed(unix_s());
            history.failed(&problem)
        }
    }
}

/// How asking an issuer went lately.
struct History {
    /// Which auth is told of in the log.
    auth: String,
    /// In a row.
    failures: u32,
    /// When it last said something of use, or was first asked.
    heard: Instant,
}

impl History {
    fn answered(&mut self, refresh: Duration) -> Duration {
        if self.failures > 0 {
            log::info!("auth {}: the issuer answers again", self.auth);
        }
        self.failures = 0;
        self.heard = Instant::now();
        refresh
    }

    fn failed(&mut self, problem: &str) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let level = if self.failures == 1 { log::Level::Warn } else { log::Level::Debug };
        log::log!(level, "auth {}: its issuer's keys cannot be had: {problem}", self.auth);
        pause(self.failures)
    }
}

fn pause(failures: u32) -> Duration {
    Duration::from_secs(1 << failures.saturating_sub(1).min(16)).min(PAUSE_MAX)
}

struct Fetched {
    document: Claims,
    jwks: Bytes,
    refresh: Duration,
}

async fn fetch(source: &KeySource) -> io::Result<Fetched> {
    let (document, keys) = match source {
        KeySource::Jwks(at) => (Claims::new(), at.clone()),
        KeySource::Issuer { name, at } => {
            let (document, url) =
                issuer::discovered(&discover(at).await?, name, &at.url).map_err(io::Error::other)?;
            (document, Endpoint { url, tls: at.tls.clone() })
        }
    };
    let response = get(&Client::new(&keys)?, &keys.url.target).await?;
    let refresh = refresh_after(response.headers());
    Ok(Fetched { document, jwks: response.into_body(), refresh })
}

/// OpenID Connect Discovery §4, else RFC 8414 §3.
async fn discover(at: &Endpoint) -> io::Result<Bytes> {
    let client = Client::new(at)?;
    let path = at.url.path().trim_end_matches('/');
    let response = match get(&client, &format!("{path}/.well-known/openid-configuration")).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            get(&client, &format!("/.well-known/oauth-authorization-server{path}")).await?
        }
        response => response?,
    };
    Ok(response.into_body())
}

async fn get(client: &Client, target: &str) -> io::Result<Response<Bytes>> {
    let request = Request::get("/").header(ACCEPT, "application/json").body(Full::default());
    let response = client.ask(target, request.map_err(io::Error::other)?, DOCUMENT).await?;
    match response.status() {
        StatusCode::OK => Ok(response),
        StatusCode::NOT_FOUND => Err(io::Error::new(io::ErrorKind::NotFound, format!("no {target} there"))),
        status => Err(io::Error::other(format!("{target} is answered with {status}"))),
    }
}

/// RFC 9111 §5.2.2.1, within bounds.
fn refresh_after(headers: &HeaderMap) -> Duration {
    let values = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let max_age = values.flat_map(|value| value.split(',')).find_map(|directive| {
        let (name, seconds) = directive.trim().split_once('=')?;
        let seconds = seconds.trim_matches('"').parse().ok()?;
        name.eq_ignore_ascii_case("max-age").then(|| Duration::from_secs(seconds))
    });
    max_age.unwrap_or(REFRESH_DEFAULT).clamp(REFRESH_MIN, REFRESH_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_fetched_again_when_they_say_but_neither_at_once_nor_never() {
        #[track_caller]
        fn check(values: &[&'static str], expected: Duration) {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(CACHE_CONTROL, value.parse().unwrap());
            }
            assert_eq!(refresh_after(&headers), expected, "{values:?}");
        }
        check(&[], REFRESH_DEFAULT);
        check(&["no-store"], REFRESH_DEFAULT);
        check(&["public, max-age=900"], Duration::from_mins(15));
        check(&["public", "Max-Age=\"900\""], Duration::from_mins(15));
        check(&["s-maxage=900"], REFRESH_DEFAULT);
        check(&["max-age=0"], REFRESH_MIN);
        check(&["max-age=31536000"], REFRESH_MAX);
        check(&["max-age=soon"], REFRESH_DEFAULT);
    }

    #[test]
    fn pauses_grow_to_a_bound() {
        assert_eq!([1, 2, 5, u32::MAX].map(|failures| pause(failures).as_secs()), [1, 2, 16, 300]);
    }
}
