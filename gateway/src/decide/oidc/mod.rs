//! Login with OpenID Connect, as far as it needs no network: who a browser's session says is asking, and what a request
//! is about that has to do with logging in or out.
//!
//! A session lives in the browser alone, sealed (`session`, `seal`, `cookie`): opening it is all that a worker does, once
//! while it is remembered. Who has none is sent to the issuer by `control::auth`, and so is what comes back from there
//! (`visit`, `login`). What ends before its time is in `revoked`.

pub mod seal;
pub mod cookie;
pub mod session;
pub mod login;
pub mod revoked;
pub mod visit;

use std::{borrow::Cow, hash::RandomState, sync::Arc};

use zeroize::Zeroizing;

use self::{
    login::{LOGIN_S_MAX, LOGINS_MAX, Login},
    revoked::{Mark, Revocation, Revoked},
    seal::{NONCE_BYTES, Seals},
    session::Session,
    visit::{Errand, Visit},
};
use super::{
    AuthFailure, Identity, Refusal,
    authz::RoleId,
    claims::{Claims, Json},
    issuer::Issuer,
    jwt::{TokenFault, Tokens},
    question::Answer,
};
use crate::{codec::RequestHead, config};

/// While the issuer is away, a session that should have been renewed is looked at again after so many seconds.
const AWAY_S: u64 = 10;
/// How long a browser's old session still counts beside the one that replaces it, in seconds: requests are under way.
pub const RENEWED_S: u64 = 60;
/// What an issuer's logout token is about (OpenID Connect Back-Channel Logout §2.4).
const LOGOUT_EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

/// Why a session is not good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionFault {
    /// Not sealed by us, or not for this.
    Seal,
    /// Its time is over, and no more is to be had.
    Ended,
    /// It was logged out.
    Revoked,
    /// What its ID token says makes nobody known.
    Claims,
}

/// The sessions of one `kind = "oidc"`, compiled.
pub struct Sessions {
    /// Of its cookies, without their prefix.
    name: Arc<str>,
    client_id: Arc<str>,
    tokens: Tokens,
    seals: Seals,
    /// What a seal is for: a session of this auth and client, a login of the same.
    session: Box<[u8]>,
    login: Box<[u8]>,
    revoked: Arc<Revoked>,
}

/// What an ID token has proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    /// When it ends, in seconds since the epoch.
    pub good_until_s: u64,
    /// What the issuer calls its own session.
    pub sid: Option<String>,
}

impl Sessions {
    /// From the configuration. No session is over yet.
    ///
    /// # Errors
    /// Its keys can't be used.
    pub fn compile(name: &Arc<str>, rules: &config::Oidc) -> Result<Self, &'static str> {
        let tokens = Tokens::compile(&rules.id_token)?;
        let issuer = rules.id_token.issuer.as_deref().unwrap_or_default();
        let purpose = |what: &str| [what, name, issuer, &rules.client_id].join("\0").into_bytes().into();
        Ok(Self {
            name: name.clone(),
            client_id: rules.client_id.clone(),
            tokens,
            seals: Seals::compile(rules.cookie_keys.iter().map(|key| key.0.as_slice()))?,
            session: purpose("session"),
            login: purpose("login"),
            revoked: Arc::new(Revoked::new(1, RandomState::new())),
        })
    }

    /// Whose tokens these are; none only where the configuration has no such thing.
    pub fn issuer(&self) -> Option<&Arc<Issuer>> {
        self.tokens.issuer()
    }

    /// The same, to be replaced by one that knows its keys already.
    pub fn issuer_mut(&mut self) -> Option<&mut Arc<Issuer>> {
        self.tokens.issuer_mut()
    }

    /// Sessions that are over.
    pub fn revoked(&self) -> &Arc<Revoked> {
        &self.revoked
    }

    /// Goes on with what was revoked before.
    pub(super) fn keep_revoked(&mut self, revoked: &Arc<Revoked>) {
        self.revoked = Arc::clone(revoked);
    }

    /// The session that a request shows, sealed.
    pub(super) fn credential<'h>(&self, head: &RequestHead<'_, 'h>) -> Option<Cow<'h, [u8]>> {
        cookie::value_of(&self.name, head.headers.all("cookie"))
    }

    /// Whose session it is; none: new tokens are due, and have to be asked for.
    pub(super) fn judge(
        &self,
        sealed: &[u8],
        role: &dyn Fn(&str) -> Option<RoleId>,
        unix_s: u64,
    ) -> Option<Answer> {
        match self.open(sealed, unix_s) {
            Err(fault) => Some(Err(AuthFailure::Session(fault))),
            Ok(session) if session.is_renewable() && unix_s >= session.renew_at_s => None,
            Ok(session) => Some(self.identity(&session, session.renew_at_s, role)),
        }
    }

    /// The same while new tokens cannot be had: a session goes on until its tokens end.
    pub(super) fn judge_old(
        &self,
        sealed: &[u8],
        role: &dyn Fn(&str) -> Option<RoleId>,
        unix_s: u64,
    ) -> Answer {
        match self.open(sealed, unix_s) {
            Ok(session) if unix_s < session.ends_at_s => {
                self.identity(&session, (unix_s + AWAY_S).min(session.ends_at_s), role)
            }
            _ => Err(AuthFailure::Unavailable),
        }
    }

    /// What `sealed` holds, unless it is over.
    ///
    /// # Errors
    /// It is over, or not ours.
    pub fn open(&self, sealed: &[u8], unix_s: u64) -> Result<Session, SessionFault> {
        let session = self.open_any(sealed).ok_or(SessionFault::Seal)?;
        let claims = session.claims().ok_or(SessionFault::Claims)?;
        if self.revoked.is_over(session.begun_ms, &marks(&session, &claims)) {
            Err(SessionFault::Revoked)
        } else if unix_s >= session.ends_at_s && !session.is_renewable() {
            Err(SessionFault::Ended)
        } else {
            Ok(session)
        }
    }

    /// The same, also of one that is over.
    pub fn open_any(&self, sealed: &[u8]) -> Option<Session> {
        Session::decode(&self.seals.open(&self.session, sealed)?)
    }

    /// Who is asking by a session. The identity's `auth` is left open.
    ///
    /// # Errors
    /// Its ID token makes nobody known.
    pub fn identity(
        &self,
        session: &Session,
        good_until_s: u64,
        role: &dyn Fn(&str) -> Option<RoleId>,
    ) -> Answer {
        let claims = session.claims().ok_or(AuthFailure::Session(SessionFault::Claims))?;
        let identity =
            self.tokens.read(claims, role).map_err(|_| AuthFailure::Session(SessionFault::Claims))?;
        Ok(Identity { credential: Some(session.id.as_str().into()), good_until_s, ..identity })
    }

    /// Fields that give a browser this session; none: it is too large for cookies.
    pub fn seal(&self, session: &Session, nonce: [u8; NONCE_BYTES]) -> Option<String> {
        let sealed = self.seals.seal(&self.session, &session.encode(), nonce)?;
        let mut lines = String::new();
        cookie::push_value(&mut lines, &self.name, &sealed, None).then_some(lines)
    }

    /// Fields that let a browser keep a login, in a place of its own if there is one.
    pub fn seal_login(&self, login: &Login, cookies: &[u8], nonce: [u8; NONCE_BYTES]) -> Option<String> {
        let is_free = |slot: &u8| cookie::value_of(&self.login_name(*slot), [cookies].into_iter()).is_none();
        let slot = (0..LOGINS_MAX).find(is_free).unwrap_or(nonce.first()? % LOGINS_MAX);
        let sealed = self.seals.seal(&self.login, &login.encode(), nonce)?;
        let mut lines = String::new();
        cookie::push_value(&mut lines, &self.login_name(slot), &sealed, Some(LOGIN_S_MAX)).then_some(lines)
    }

    /// The logins that a browser has begun.
    pub fn logins<'c>(&'c self, cookies: &'c [u8]) -> impl Iterator<Item = Login> + 'c {
        (0..LOGINS_MAX).filter_map(|slot| self.login_in(slot, cookies))
    }

    fn login_in(&self, slot: u8, cookies: &[u8]) -> Option<Login> {
        let sealed = cookie::value_of(&self.login_name(slot), [cookies].into_iter())?;
        Login::decode(&self.seals.open(&self.login, &sealed)?)
    }

    /// Fields that make a browser forget a login, and whatever it has of an older session.
    pub fn forget_login(&self, login: &Login, cookies: &[u8]) -> String {
        let mut lines = String::new();
        for slot in (0..LOGINS_MAX).filter(|slot| self.login_in(*slot, cookies).as_ref() == Some(login)) {
            cookie::push_removal(&mut lines, &self.login_name(slot), [cookies].into_iter());
        }
        lines
    }

    /// Fields that make a browser forget its session and every login.
    pub fn forget_all(&self, cookies: &[u8]) -> String {
        let mut lines = String::new();
        cookie::push_removal(&mut lines, &self.name, [cookies].into_iter());
        for slot in 0..LOGINS_MAX {
            cookie::push_removal(&mut lines, &self.login_name(slot), [cookies].into_iter());
        }
        lines
    }

    /// The session among a browser's cookies, whatever has become of it.
    pub fn session_in(&self, cookies: &[u8]) -> Option<Session> {
        self.open_any(&cookie::value_of(&self.name, [cookies].into_iter())?)
    }

    fn login_name(&self, slot: u8) -> String {
        format!("{}.login{slot}", self.name)
    }

    /// Whether an ID token is good and for us (OpenID Connect Core §3.1.3.7), and belongs to a login with this nonce, or
    /// to the session that it renews (§12.2).
    ///
    /// # Errors
    /// It is not, or its key is not known.
    pub fn prove(&self, id_token: &str, binding: Binding<'_>, unix_s: u64) -> Result<Proven, TokenFault> {
        let (claims, good_until_s) = self.tokens.claims(id_token.as_bytes(), unix_s)?;
        let text = |name: &str| claims.get(name).and_then(Json::text);
        let audiences = claims.get("aud").and_then(Json::texts).unwrap_or_default();
        let party = text("azp");
        if party.is_some_and(|party| party != &*self.client_id) || (party.is_none() && audiences.len() > 1) {
            return Err(TokenFault::Audience);
        }
        let sub = text("sub").ok_or(TokenFault::Consumer)?;
        let is_bound = match binding {
            Binding::Nonce(nonce) => text("nonce") == Some(nonce),
            Binding::Session(session) => {
                session.claims().is_some_and(|old| old.get("sub").and_then(Json::text) == Some(sub))
            }
        };
        if !is_bound {
            return Err(TokenFault::Binding);
        }
        let sid = text("sid").map(str::to_owned);
        // It has to make somebody known.
        self.tokens.read(claims, &|_| None)?;
        Ok(Proven { good_until_s, sid })
    }

    /// Ends the sessions that an issuer's logout token names (OpenID Connect Back-Channel Logout §2.6). A token that comes
    /// twice changes nothing: only what began before it was issued is over.
    ///
    /// # Errors
    /// It is none of this issuer for us, or its key is not known.
    pub fn revoke_by(
        &self,
        token: &[u8],
        session_ms: u64,
        unix_s: u64,
    ) -> Result<Option<Revocation>, TokenFault> {
        let (claims, _) = self.tokens.claims(token, unix_s)?;
        let text = |name: &str| claims.get(name).and_then(Json::text);
        let is_logout = matches!(
            claims.get("events"),
            Some(Json::Object(events)) if matches!(events.get(LOGOUT_EVENT), Some(Json::Object(_)))
        );
        let Some(Json::Whole(issued_s)) = claims.get("iat") else { return Err(TokenFault::Time) };
        // An ID token is none, though it is signed by the same key.
        if !is_logout || claims.contains_key("nonce") {
            return Err(TokenFault::Binding);
        }
        let issuer = text("iss").unwrap_or_default();
        let mark = match (text("sid"), text("sub")) {
            (Some(sid), _) => Mark::Sid(issuer, sid),
            (None, Some(sub)) => Mark::User(issuer, sub),
            (None, None) => return Err(TokenFault::Binding),
        };
        let issued_ms = issued_s.min(&unix_s).saturating_mul(1000).saturating_add(999);
        Ok(self.revoked.revoke(mark, issued_ms, session_ms))
    }

    /// Ends one session, for whoever still has a copy of it; none: it was over already.
    pub fn revoke_session(&self, session: &Session, now_ms: u64, session_ms: u64) -> Option<Revocation> {
        let mark = Mark::Session(&session.id);
        if self.revoked.is_over(session.begun_ms, &[mark]) {
            return None;
        }
        self.revoked.revoke(mark, now_ms, session_ms)
    }
}

/// What an ID token has to belong to.
#[derive(Debug, Clone, Copy)]
pub enum Binding<'b> {
    /// A login.
    Nonce(&'b str),
    /// A session that is renewed.
    Session(&'b Session),
}

fn marks<'s>(session: &'s Session, claims: &'s Claims) -> [Mark<'s>; 3] {
    let text = |name: &str| claims.get(name).and_then(Json::text).unwrap_or_default();
    let issuer = text("iss");
    let sid = session.sid.as_deref().unwrap_or_default();
    [Mark::Session(&session.id), Mark::Sid(issuer, sid), Mark::User(issuer, text("sub"))]
}

/// A browser that goes to a page, and can be sent elsewhere; not a script of one, nor another program (Fetch Metadata
/// Request Headers §2.2, and `Accept` for browsers that do not say).
pub(super) fn is_navigation(head: &RequestHead<'_, '_>) -> bool {
    let wants_html = || {
        let accepted = head.headers.all("accept").flat_map(|value| value.split(|byte| *byte == b','));
        let mut types = accepted.map(|range| range.split(|byte| *byte == b';').next().unwrap_or_default());
        types.any(|range| range.trim_ascii().eq_ignore_ascii_case(b"text/html"))
    };
    head.method == "GET"
        && head.headers.get("upgrade").is_none()
        && head.headers.get("sec-fetch-mode").map_or_else(wants_html, |mode| mode == b"navigate")
}

/// What a browser without a session asks of the auth that it could log in with.
pub(super) fn login(auth: u16, head: &RequestHead<'_, '_>) -> Visit {
    let query = head.query.map(|query| format!("?{query}")).unwrap_or_default();
    visit(auth, Errand::Login(format!("{}{query}", head.path)), head)
}

/// What a request to one of the gateway's own pages is about.
///
/// # Errors
/// The page does not take its method.
pub(super) fn own_page(
    (auth, page): (u16, config::OwnPage),
    head: &RequestHead<'_, '_>,
) -> Result<Visit, Refusal> {
    let query = || Zeroizing::new(head.query.unwrap_or_default().to_owned());
    let errand = match (page, head.method) {
        (config::OwnPage::Callback, "GET") => Errand::Callback(query()),
        (config::OwnPage::Logout, "GET") => Errand::Logout,
        (config::OwnPage::Logout, "POST") => Errand::BackChannel(Zeroizing::default()),
        (config::OwnPage::Callback, _) => return Err(Refusal::MethodNotAllowed { allow: "GET".into() }),
        (config::OwnPage::Logout, _) => return Err(Refusal::MethodNotAllowed { allow: "GET, POST".into() }),
    };
    Ok(visit(auth, errand, head))
}

fn visit(auth: u16, errand: Errand, head: &RequestHead<'_, '_>) -> Visit {
    let cookies: Vec<&[u8]> = head.headers.all("cookie").collect();
    Visit { auth, errand, cookies: Zeroizing::new(cookies.join(&b"; "[..])), origin: String::new() }
}

#[cfg(test)]
mod tests;
