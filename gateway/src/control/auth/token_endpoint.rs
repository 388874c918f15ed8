//! The token endpoint of an issuer (RFC 6749 §3.2): a form for tokens.
//!
//! One that is away or slow is left alone for a moment, and then asked by one browser's request alone, so that a thousand
//! browsers do not wait for it one after the other.

use std::{cell::RefCell, rc::Rc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http_body_util::Full;
use hyper::{
    Request, StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue},
};
use serde::Deserialize;
use tokio::{sync::Semaphore, time::Instant};
use zeroize::{Zeroize as _, Zeroizing};

use super::breaker::Breaker;
use crate::{
    config::{Endpoint, JwtKeys, KeySource, Oidc, Url},
    control::client::{Bounds, Client},
    decide::issuer::Said,
};

/// The largest answer.
const ANSWER_BYTES_MAX: usize = 128 << 10;
/// After so many failures in a row nobody asks for [`LEFT_ALONE`].
const FAILURES_MAX: u32 = 1;
const LEFT_ALONE: Duration = Duration::from_secs(2);
/// Questions at once to one endpoint; further ones wait for their turn, as long as a request does.
const AT_ONCE: usize = 64;
/// Endpoints that connections are kept to.
const ENDPOINTS_MAX: usize = 16;

/// All token endpoints that are asked.
#[derive(Default)]
pub(super) struct TokenEndpoint {
    known: RefCell<Vec<Rc<Known>>>,
}

struct Known {
    endpoint: Endpoint,
    client: Client,
    breaker: Breaker,
    turns: Semaphore,
}

/// What was granted.
#[derive(Deserialize)]
pub(super) struct Granted {
    #[serde(default)]
    pub(super) id_token: Option<String>,
    #[serde(default)]
    pub(super) refresh_token: Option<String>,
    /// How long the tokens live, in seconds.
    #[serde(default)]
    pub(super) expires_in: Option<u64>,
}

impl Drop for Granted {
    fn drop(&mut self) {
        self.id_token.zeroize();
        self.refresh_token.zeroize();
    }
}

/// RFC 6749 §5.2
#[derive(Deserialize)]
struct Refused {
    error: String,
}

/// Why nothing was.
#[derive(Debug)]
pub(super) enum NotGranted {
    /// The code or the refresh token is not good, or no longer (RFC 6749 §5.2 `invalid_grant`).
    Refused,
    /// The issuer is away, or does not know us.
    Away(String),
    /// It was away a moment ago, and was not asked.
    LeftAlone,
}

impl From<&str> for NotGranted {
    fn from(why: &str) -> Self {
        Self::Away(why.to_owned())
    }
}

impl TokenEndpoint {
    /// Asks for tokens.
    pub(super) async fn ask(
        &self,
        rules: &Oidc,
        said: &Said,
        form: &[(&str, &str)],
    ) -> Result<Granted, NotGranted> {
        let known = self.known(rules, said)?;
        let request = request(rules, said, form)?;
        let bounds = Bounds { time_max: rules.timeout, bytes_max: ANSWER_BYTES_MAX };
        let may_ask = || known.breaker.lets_pass(Instant::now()).then_some(()).ok_or(NotGranted::LeftAlone);
        may_ask()?;
        let _turn = known.turns.acquire().await.map_err(|_| NotGranted::LeftAlone)?;
        // It may have opened while this one waited.
        may_ask()?;
        let _trial = known.breaker.begin();
        let answer = known.client.ask(&known.endpoint.url.target, request, bounds).await;
        let is_there = answer.as_ref().is_ok_and(|answer| !answer.status().is_server_error());
        known.breaker.note(is_there, Instant::now());
        let answer = answer.map_err(|error| NotGranted::Away(error.to_string()))?;
        if answer.status() == StatusCode::OK {
            return serde_json::from_slice(answer.body()).map_err(|_| "its answer holds no tokens".into());
        }
        match serde_json::from_slice(answer.body()) {
            Ok(Refused { error }) if error == "invalid_grant" => Err(NotGranted::Refused),
            Ok(Refused { error }) => Err(NotGranted::Away(format!("{} {error:?}", answer.status()))),
            Err(_) => Err(NotGranted::Away(format!("it answers {}", answer.status()))),
        }
    }

    fn known(&self, rules: &Oidc, said: &Said) -> Result<Rc<Known>, NotGranted> {
        let JwtKeys::Fetched(source) = &rules.id_token.keys else { return Err("there is no issuer".into()) };
        let KeySource::Issuer { at, .. } = &**source else { return Err("there is no issuer".into()) };
        let url = said.text_of("token_endpoint").ok_or("its discovery document has no `token_endpoint`")?;
        let url = Url::parse(url).map_err(|_| "its `token_endpoint` is no URL that can be asked")?;
        // What is asked in private does not lead to what anybody can hear on the way.
        if url.is_secure != at.url.is_secure || !url.is_private() {
            return Err("its `token_endpoint` leads elsewhere than to https".into());
        }
        let endpoint = Endpoint { url, tls: at.tls.clone() };
        let mut all = self.known.borrow_mut();
        if let Some(known) = all.iter().find(|known| known.endpoint == endpoint) {
            return Ok(Rc::clone(known));
        }
        let client = Client::new(&endpoint).map_err(|error| NotGranted::Away(error.to_string()))?;
        if all.len() >= ENDPOINTS_MAX {
            all.remove(0);
        }
        let breaker = Breaker::new(FAILURES_MAX, LEFT_ALONE);
        let known = Rc::new(Known { endpoint, client, breaker, turns: Semaphore::new(AT_ONCE) });
        all.push(Rc::clone(&known));
        Ok(known)
    }
}

/// With the client's secret as the issuer wants it (OpenID Connect Core §9): in `Authorization` unless it takes it in the
/// form alone.
fn request(
    rules: &Oidc,
    said: &Said,
    form: &[(&str, &str)],
) -> Result<Request<Full<hyper::body::Bytes>>, NotGranted> {
    let methods = said.texts_of("token_endpoint_auth_methods_supported");
    let takes = |method: &str| methods.as_ref().is_some_and(|methods| methods.contains(&method));
    let in_form = takes("client_secret_post") && !takes("client_secret_basic");
    let secret = rules.client_secret.as_ref().and_then(|secret| str::from_utf8(&secret.0).ok());
    let mut body = form_urlencoded::Serializer::new(String::new());
    body.extend_pairs(form);
    let mut request = Request::post("/")
        .header(ACCEPT, "application/json")
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded");
    match secret {
        Some(secret) if !in_form => {
            let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
            let pair = Zeroizing::new(format!("{}:{}", encode(&rules.client_id), encode(secret)));
            let value = Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())));
            let mut value = HeaderValue::from_str(&value).map_err(|_| "the secret fits into no header")?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        Some(secret) => {
            body.append_pair("client_id", &rules.client_id).append_pair("client_secret", secret);
        }
        None => {
            body.append_pair("client_id", &rules.client_id);
        }
    }
    request.body(Full::from(body.finish())).map_err(|error| NotGranted::Away(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc};

    use tokio::{
        net::TcpListener,
        task::{LocalSet, spawn_local},
        time::sleep,
    };
    use xtask::lab::scratch::Scratch;

    use super::*;
    use crate::{
        config::{self, AuthKind},
        decide::issuer::{self, Issuer},
    };

    /// A login at an issuer there.
    fn rules(issuer: &str, directory: &Path) -> Oidc {
        let key = directory.join("cookie.key");
        fs::write(&key, "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n").unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        let text = format!(
            "[auth.web]\nkind = \"oidc\"\nissuer = \"{issuer}\"\nclient_id = \"web\"\ncookie_key_file = \"cookie.key\"\n"
        );
        let config = config::parse(&text, directory, &|_| None).unwrap().config;
        match &config.auths[0].kind {
            AuthKind::Oidc(rules) => Oidc { timeout: Duration::from_millis(200), ..(**rules).clone() },
            other => panic!("{other:?}"),
        }
    }

    /// What it says of itself; its key is that of RFC 7517, appendix A.1.
    fn said(rules: &Oidc, issuer: &str) -> Arc<Said> {
        let JwtKeys::Fetched(source) = &rules.id_token.keys else { panic!("{:?}", rules.id_token.keys) };
        let document = format!(
            r#"{{"issuer":"{issuer}","jwks_uri":"{issuer}/jwks","token_endpoint":"{issuer}/token"}}"#
        );
        let jwks = br#"{"keys":[{"kty":"EC","crv":"P-256","kid":"1",
            "x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}"#;
        let (document, _) =
            issuer::discovered(document.as_bytes(), issuer, &Url::parse(issuer).unwrap()).unwrap();
        let issuer = Issuer::new((**source).clone());
        issuer.take(document, jwks, 1).unwrap();
        issuer.said().unwrap()
    }

    #[tokio::test]
    async fn one_that_is_silent_is_asked_by_some_left_alone_by_all_and_then_tried_by_one() {
        let work = async {
            let scratch = Scratch::new().unwrap();
            // Whoever connects waits in its queue for ever.
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let issuer = format!("http://{}", listener.local_addr().unwrap());
            let rules = Rc::new(rules(&issuer, scratch.path()));
            let (said, endpoint) = (said(&rules, &issuer), Rc::new(TokenEndpoint::default()));
            // How many of so many at once are told that it is away, and how many are not let ask.
            let ask = async |count: usize| {
                let ask_one = || {
                    let (rules, said, endpoint) =
                        (Rc::clone(&rules), Arc::clone(&said), Rc::clone(&endpoint));
                    spawn_local(async move { endpoint.ask(&rules, &said, &[("grant_type", "a")]).await })
                };
                let asked: Vec<_> = std::iter::repeat_with(ask_one).take(count).collect();
                let (mut away, mut left_alone) = (0, 0);
                for asked in asked {
                    match asked.await.unwrap() {
                        Err(NotGranted::Away(_)) => away += 1,
                        Err(NotGranted::LeftAlone) => left_alone += 1,
                        Err(NotGranted::Refused) | Ok(_) => panic!("it says nothing"),
                    }
                }
                (away, left_alone)
            };
            assert_eq!(ask(AT_ONCE + 3).await, (AT_ONCE, 3));
            // Since the last failure at least so long has passed then, which is all that it waits for.
            sleep(LEFT_ALONE).await;
            assert_eq!(ask(5).await, (1, 4));
        };
        LocalSet::new().run_until(work).await;
    }
}
