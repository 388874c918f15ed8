//! One login: authorization code with PKCE, state and nonce (OpenID Connect Core §3.1, RFC 7636, RFC 9700).
//!
//! ```text
//!   begin ──► to the issuer, with state, nonce and challenge ──► back with code and state ──► returned
//!     └─ the browser keeps this login, sealed, for ten minutes ────────────────────────────────┘
//! ```
//! Only the browser that holds the sealed login can come back from it, so that nobody is logged in with a code of
//! somebody else's; and it goes back to a page of the same host, since where to is sealed as well.

use aws_lc_rs::{constant_time::verify_slices_are_equal, digest};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// How long a login may take, in seconds.
pub const LOGIN_S_MAX: u64 = 600;
/// Logins of one browser at once: as many tabs may ask for one.
pub const LOGINS_MAX: u8 = 4;
/// Random bytes that make a login: 256 bits each for state, nonce and verifier.
pub const RANDOM_BYTES: usize = 96;
/// The longest page to go back to; from a longer one it is the start page.
const BACK_TO_BYTES_MAX: usize = 1024;
/// The longest code.
const CODE_BYTES_MAX: usize = 4096;

/// What the browser keeps while it is at the issuer's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    #[serde(rename = "s")]
    state: String,
    /// What the ID token has to say.
    #[serde(rename = "n")]
    pub nonce: String,
    /// What the code is redeemed with (RFC 7636 §4.1).
    #[serde(rename = "v")]
    pub verifier: String,
    /// Path and query of the page that was asked for.
    #[serde(rename = "p")]
    pub back_to: String,
    /// Where the issuer was told to send the browser.
    #[serde(rename = "u")]
    pub redirect_uri: String,
    #[serde(rename = "b")]
    begun_s: u64,
}

/// Where an issuer is asked for a code, and by whom.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    /// The authorization endpoint.
    pub endpoint: &'a str,
    /// Who asks.
    pub client_id: &'a str,
    /// For what, between spaces.
    pub scopes: &'a str,
}

/// Why a browser that comes back is not logged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallbackFault {
    /// Its query is not what an issuer sends.
    Malformed,
    /// This browser has not begun such a login, or it has lasted for too long.
    Unknown,
    /// It comes from another issuer (RFC 9207).
    Issuer,
    /// The issuer says no, or the user.
    Denied,
}

impl Login {
    /// From randomness, at `now_s`.
    pub fn begin(random: &[u8; RANDOM_BYTES], back_to: &str, redirect_uri: String, now_s: u64) -> Self {
        let [state, nonce, verifier] = [0, 1, 2]
            .map(|part| random.chunks_exact(32).nth(part).map(|bytes| URL_SAFE_NO_PAD.encode(bytes)));
        let is_page = is_page_of_the_host(back_to) && back_to.len() <= BACK_TO_BYTES_MAX;
        Self {
            state: state.unwrap_or_default(),
            nonce: nonce.unwrap_or_default(),
            verifier: verifier.unwrap_or_default(),
            back_to: if is_page { back_to.to_owned() } else { "/".to_owned() },
            redirect_uri,
            begun_s: now_s,
        }
    }

    /// Where the browser is sent.
    pub fn url(&self, asking: Asking<'_>) -> String {
        let challenge = digest::digest(&digest::SHA256, self.verifier.as_bytes());
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("client_id", asking.client_id)
            .append_pair("response_type", "code")
            .append_pair("scope", asking.scopes)
            .append_pair("redirect_uri", &self.redirect_uri)
            .append_pair("state", &self.state)
            .append_pair("nonce", &self.nonce)
            .append_pair("code_challenge", &URL_SAFE_NO_PAD.encode(challenge))
            .append_pair("code_challenge_method", "S256")
            .finish();
        with_query(asking.endpoint, &query)
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
}

/// What an issuer sends a browser back with: which of the browser's `logins` it ends, and the code.
///
/// # Errors
/// It ends none of them.
pub fn returned(
    query: &str,
    logins: impl Iterator<Item = Login>,
    issuer: &str,
    now_s: u64,
) -> Result<(Login, Zeroizing<String>), CallbackFault> {
    let [code, state, from, error] = parameters(query)?;
    let state = state.ok_or(CallbackFault::Malformed)?;
    let is_it = |login: &Login| {
        verify_slices_are_equal(login.state.as_bytes(), state.as_bytes()).is_ok()
            && now_s.saturating_sub(login.begun_s) <= LOGIN_S_MAX
    };
    let login = logins.take(usize::from(LOGINS_MAX)).find(is_it).ok_or(CallbackFault::Unknown)?;
    if from.is_some_and(|from| from != issuer) {
        return Err(CallbackFault::Issuer);
    }
    match (code, error) {
        (_, Some(_)) => Err(CallbackFault::Denied),
        (Some(code), None) if !code.is_empty() && code.len() <= CODE_BYTES_MAX => {
            Ok((login, Zeroizing::new(code)))
        }
        _ => Err(CallbackFault::Malformed),
    }
}

/// `code`, `state`, `iss` and `error` (RFC 6749 §4.1.2, RFC 9207): each at most once.
fn parameters(query: &str) -> Result<[Option<String>; 4], CallbackFault> {
    let mut known = [("code", None), ("state", None), ("iss", None), ("error", None)];
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if let Some((_, slot)) = known.iter_mut().find(|(known, _)| *known == name)
            && slot.replace(value.into_owned()).is_some()
        {
            return Err(CallbackFault::Malformed);
        }
    }
    Ok(known.map(|(_, value)| value))
}

/// `endpoint` may have a query already (OpenID Connect Core §3.1.2.1, RFC 6749 §3.1).
pub fn with_query(endpoint: &str, query: &str) -> String {
    let separator = if endpoint.contains('?') { '&' } else { '?' };
    format!("{endpoint}{separator}{query}")
}

/// Whether a browser that is sent there stays on its host: a path, and nothing that it could take for an authority.
fn is_page_of_the_host(page: &str) -> bool {
    let is_plain = page.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    page.starts_with('/') && !page.starts_with("//") && is_plain
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    const ASKING: Asking<'_> =
        Asking { endpoint: "https://id.example/auth", client_id: "web", scopes: "openid email" };

    fn login(seed: u8, back_to: &str) -> Login {
        let random: [u8; RANDOM_BYTES] =
            std::array::from_fn(|at| seed.wrapping_add(u8::try_from(at).unwrap_or_default()));
        Login::begin(&random, back_to, "https://shop.example/oauth2/callback".to_owned(), 1000)
    }

    #[test]
    fn the_issuer_is_asked_for_a_code_with_everything_that_binds_it() {
        let login = login(0, "/orders?page=2");
        let url = login.url(ASKING);
        let (endpoint, query) = url.split_once('?').unwrap();
        let query: HashMap<_, _> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        assert_eq!(endpoint, ASKING.endpoint);
        for (name, expected) in [
            ("client_id", "web"),
            ("response_type", "code"),
            ("scope", "openid email"),
            ("redirect_uri", "https://shop.example/oauth2/callback"),
            ("state", &login.state),
            ("nonce", &login.nonce),
            ("code_challenge_method", "S256"),
        ] {
            assert_eq!(query.get(name).map(String::as_str), Some(expected), "{name}");
        }
        assert!(!url.contains(&login.verifier), "only its hash is told");
        assert_eq!([&login.state, &login.nonce, &login.verifier].map(String::len), [43; 3]);
        let asking = Asking { endpoint: "https://id.example/auth?tenant=1", ..ASKING };
        assert!(login.url(asking).starts_with("https://id.example/auth?tenant=1&client_id=web&"));
    }

    #[test]
    fn the_challenge_is_that_of_rfc_7636() {
        let mut login = login(0, "/");
        login.verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk".to_owned();
        assert!(login.url(ASKING).contains("&code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&"));
    }

    #[track_caller]
    fn check_page(page: &str, expected: &str) {
        assert_eq!(login(0, page).back_to, expected, "{page}");
    }

    #[test]
    fn it_goes_back_to_pages_of_the_same_host_alone() {
        for page in ["/", "/a", "/a/b?c=d&e=//x", "/a//b", "/%2f%2fevil.example"] {
            check_page(page, page);
        }
        for page in [
            "",
            "a",
            "//evil.example",
            "///evil.example",
            "/\\evil.example",
            "\\\\evil.example",
            "https://evil.example/",
            "javascript:alert(1)",
            "/a\r\nSet-Cookie: a=b",
            "/a\tb",
            "/a b",
            "/ä",
            "*",
        ] {
            check_page(page, "/");
        }
        check_page(&format!("/{}", "a".repeat(BACK_TO_BYTES_MAX)), "/");
    }

    #[track_caller]
    fn check_return(query: &str, now_s: u64, expected: Result<(&str, &str), CallbackFault>) {
        let logins = [login(7, "/seven"), login(9, "/nine")];
        let query = query.replace("SEVEN", &logins[0].state).replace("NINE", &logins[1].state);
        let returned = returned(&query, logins.into_iter(), "https://id.example", now_s);
        let returned = returned.as_ref().map(|(login, code)| (login.back_to.as_str(), code.as_str()));
        assert_eq!(returned.map_err(|fault| *fault), expected, "{query}");
    }

    #[test]
    fn a_browser_returns_from_a_login_of_its_own_in_time() {
        use CallbackFault::{Denied, Issuer, Malformed, Unknown};
        check_return("code=c&state=SEVEN", 1000, Ok(("/seven", "c")));
        check_return("state=NINE&code=a%2Bb&iss=https%3A%2F%2Fid.example&more=x", 1600, Ok(("/nine", "a+b")));
        check_return("code=c&state=SEVEN", 1601, Err(Unknown));
        check_return("code=c&state=SEVENx", 1000, Err(Unknown));
        check_return("code=c&state=", 1000, Err(Unknown));
        check_return("code=c", 1000, Err(Malformed));
        check_return("state=SEVEN", 1000, Err(Malformed));
        check_return("code=&state=SEVEN", 1000, Err(Malformed));
        check_return("code=c&code=d&state=SEVEN", 1000, Err(Malformed));
        check_return("code=c&state=SEVEN&state=NINE", 1000, Err(Malformed));
        check_return("code=c&state=SEVEN&iss=https://evil.example", 1000, Err(Issuer));
        check_return("error=access_denied&state=SEVEN", 1000, Err(Denied));
        check_return("error=access_denied&code=c&state=SEVEN", 1000, Err(Denied));
        check_return("error=access_denied", 1000, Err(Malformed));
        check_return("", 1000, Err(Malformed));
        let long = format!("code={}&state=SEVEN", "c".repeat(CODE_BYTES_MAX + 1));
        check_return(&long, 1000, Err(Malformed));
    }

    proptest! {
        #[test]
        fn no_page_leaves_the_host(page in "[/\\\\a:.@?#%\t\r\n ]{0,12}") {
            let back_to = login(0, &page).back_to;
            prop_assert!(back_to == "/" || back_to == page);
            prop_assert!(back_to.starts_with('/') && !back_to.starts_with("//"));
            prop_assert!(!back_to.contains(['\\', '\r', '\n', '\t', ' ']));
        }

        #[test]
        fn what_was_encoded_is_decoded(seed: u8, page in "/[a-z?=&]{0,30}") {
            let login = login(seed, &page);
            prop_assert_eq!(Login::decode(&login.encode()), Some(login));
        }

        #[test]
        fn no_query_panics_and_none_returns_without_a_login(query in ".{0,80}") {
            let _ = returned(&query, [login(1, "/")].into_iter(), "i", 1000);
            prop_assert!(returned(&query, std::iter::empty(), "i", 1000).is_err());
        }
    }
}
