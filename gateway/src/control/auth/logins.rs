//! Logins at an OpenID provider: where browsers are sent, what they bring back, and how their sessions go on and end.
//!
//! Comes in: visits of browsers and of issuers, sessions whose tokens are due. Goes out: what they are told. All that is
//! known of a session is in its browser's cookie; what is kept here is how a renewal went, for a moment, so that the
//! requests of one browser share it (`renewals`).

use std::{path::Path, rc::Rc, sync::Arc};

use aws_lc_rs::rand;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use tokio::task::spawn_local;

use super::{
    issuers::Issuers,
    renewals::{Outcome, Renewals},
    revocations::Revocations,
    session_ms,
    token_endpoint::{Granted, NotGranted, TokenEndpoint},
    unix_ms, unix_s,
};
use crate::{
    config::{AuthKind, Oidc},
    decide::{
        Answer, AuthFailure, Identity, Snapshot,
        issuer::{Outlook, Said},
        jwt::TokenFault,
        oidc::{
            Binding, Proven, RENEWED_S, SessionFault, Sessions,
            login::{self, Asking, Login, RANDOM_BYTES},
            revoked::{MarkId, Revocation},
            seal::NONCE_BYTES,
            session::Session,
            visit::{Errand, Told, Visit},
        },
    },
};

/// With what a page says: whoever shares it among browsers does not share this (RFC 9111 §5.2.2.4).
const NOT_SHARED: &str = "Cache-Control: no-cache=\"Set-Cookie\"\r\n";
/// Sessions that follow one another, from one that is shown to the one that counts.
const STEPS_MAX: usize = 8;

/// Everybody who logs in.
#[derive(Default)]
pub(super) struct Logins {
    token_endpoint: TokenEndpoint,
    renewals: Rc<Renewals>,
    revocations: Rc<Revocations>,
}

/// One auth of a snapshot.
struct Desk<'d> {
    name: &'d str,
    rules: &'d Oidc,
    sessions: &'d Sessions,
    issuers: &'d Issuers,
    token_endpoint: &'d TokenEndpoint,
    revocations: &'d Rc<Revocations>,
    state_dir: &'d Path,
    session_ms: u64,
}

impl Logins {
    /// What a visitor is told.
    pub(super) async fn tell(&self, issuers: &Issuers, snapshot: &Snapshot, visit: &Visit) -> Told {
        let Some(desk) = self.desk(issuers, snapshot, visit.auth) else { return Told::unavailable() };
        match &visit.errand {
            Errand::Login(page) => desk.begin(visit, page).await,
            Errand::Callback(query) => desk.finish(visit, query).await,
            Errand::Logout => desk.log_out(visit).await,
            Errand::BackChannel(form) => desk.hear(form).await,
        }
    }

    /// Whose a session is whose tokens were due: with new ones, which its browser is to keep instead.
    pub(super) async fn renew(
        self: &Rc<Self>,
        issuers: &Rc<Issuers>,
        snapshot: &Arc<Snapshot>,
        (auth, sealed): (u16, &[u8]),
    ) -> Answer {
        let desk = self.desk(issuers, snapshot, auth).ok_or(AuthFailure::Unavailable)?;
        let old = desk.sessions.open(sealed, unix_s()).map_err(AuthFailure::Session)?;
        let (mut session, mut lines) = self.renew_once(issuers, snapshot, auth, &old).await?;
        // Whoever shows a very old one gets the latest that came of it.
        for _ in 1..STEPS_MAX {
            if unix_s() < session.renew_at_s || !session.is_renewable() {
                break;
            }
            (session, lines) = self.renew_once(issuers, snapshot, auth, &session).await?;
        }
        let good_until_s = session.renew_at_s.min(unix_s() + RENEWED_S);
        let identity = desk.sessions.identity(&session, good_until_s, &|name| snapshot.policy.role(name))?;
        Ok(Identity { renewed: Some(lines), ..identity })
    }

    async fn renew_once(
        self: &Rc<Self>,
        issuers: &Rc<Issuers>,
        snapshot: &Arc<Snapshot>,
        auth: u16,
        session: &Session,
    ) -> Outcome {
        let (logins, issuers, snapshot) = (Rc::clone(self), Rc::clone(issuers), Arc::clone(snapshot));
        let renew = move |session| async move {
            match logins.desk(&issuers, &snapshot, auth) {
                Some(desk) => desk.renew(&session).await,
                None => Err(AuthFailure::Unavailable),
            }
        };
        self.renewals.share(session, unix_s(), renew).await
    }

    fn desk<'d>(&'d self, issuers: &'d Issuers, snapshot: &'d Snapshot, auth: u16) -> Option<Desk<'d>> {
        let settings = snapshot.config.auths.get(usize::from(auth))?;
        let AuthKind::Oidc(rules) = &settings.kind else { return None };
        let sessions = snapshot.policy.auth(auth)?.sessions()?;
        Some(Desk {
            name: &settings.name,
            rules,
            sessions,
            issuers,
            token_endpoint: &self.token_endpoint,
            revocations: &self.revocations,
            state_dir: &snapshot.config.runtime.state_dir,
            session_ms: session_ms(&snapshot.config),
        })
    }

    /// Tries once more where a disk was full, or away.
    pub(super) fn write_what_is_left(&self, snapshot: &Snapshot) {
        if let Some(revoked) = snapshot.policy.revoked().filter(|_| self.revocations.has_left()) {
            let directory = snapshot.config.runtime.state_dir.clone();
            spawn_local(Rc::clone(&self.revocations).settle(directory, Arc::clone(revoked)));
        }
    }
}

impl Desk<'_> {
    /// Sends a browser to the issuer.
    async fn begin(&self, visit: &Visit, page: &str) -> Told {
        let Some(said) = self.said().await else { return Told::unavailable() };
        let Some(endpoint) = said.text_of("authorization_endpoint") else { return Told::unavailable() };
        let redirect_uri = format!("{}{}", visit.origin, self.rules.callback);
        let (Some(bytes), Some(nonce)) = (random::<RANDOM_BYTES>(), random::<NONCE_BYTES>()) else {
            return Told::unavailable();
        };
        let login = Login::begin(&bytes, page, redirect_uri, unix_s());
        let asking =
            Asking { endpoint, client_id: &self.rules.client_id, scopes: &self.rules.request_scopes };
        match self.sessions.seal_login(&login, &visit.cookies, nonce) {
            Some(cookies) => Told::redirect(&login.url(asking), &cookies),
            None => Told::unavailable(),
        }
    }

    /// Takes a browser back from the issuer, and gives it a session.
    async fn finish(&self, visit: &Visit, query: &str) -> Told {
        let issuer = self.rules.id_token.issuer.as_deref().unwrap_or_default();
        let returned = login::returned(query, self.sessions.logins(&visit.cookies), issuer, unix_s());
        let (login, code) = match returned {
            Ok(returned) => returned,
            Err(fault) => {
                log::debug!("auth {}: nobody is logged in: {fault:?}", self.name);
                return Told::failed("");
            }
        };
        let form = [
            ("grant_type", "authorization_code"),
            ("code", &code),
            ("redirect_uri", &login.redirect_uri),
            ("code_verifier", &login.verifier),
        ];
        let forget = self.sessions.forget_login(&login, &visit.cookies);
        match self.begin_session(&form, &login).await {
            Ok(cookies) => Told::redirect(&login.back_to, &(cookies + &forget)),
            // The browser keeps the login: it may try again.
            Err(AuthFailure::Unavailable) => Told::unavailable(),
            Err(_) => Told::failed(&forget),
        }
    }

    async fn begin_session(&self, form: &[(&str, &str)], login: &Login) -> Result<String, AuthFailure> {
        let granted = self.granted(form).await?;
        let id_token = granted.id_token.clone().ok_or(AuthFailure::Unavailable)?;
        let proven = self.prove(&id_token, Binding::Nonce(&login.nonce)).await?;
        let id = random::<16>().ok_or(AuthFailure::Unavailable)?;
        let session = Session {
            id: URL_SAFE_NO_PAD.encode(id),
            id_token,
            refresh_token: granted.refresh_token.clone(),
            sid: proven.sid,
            begun_ms: unix_ms(),
            renew_at_s: 0,
            ends_at_s: 0,
        };
        self.sealed(&self.timed(session, &granted, proven.good_until_s))
    }

    /// New tokens for a session, once; who wants it meanwhile shares the answer.
    async fn renew(&self, session: &Session) -> Outcome {
        let ended = AuthFailure::Session(SessionFault::Ended);
        let end_s = (session.begun_ms / 1000).saturating_add(self.rules.session.as_secs());
        let refresh_token = session.refresh_token.as_deref().filter(|_| unix_s() < end_s).ok_or(ended)?;
        let form = [("grant_type", "refresh_token"), ("refresh_token", refresh_token)];
        let granted = match self.granted(&form).await {
            // The issuer wants to hear no more of it.
            Err(AuthFailure::Session(_)) => return Err(ended),
            granted => granted?,
        };
        let mut next = session.clone();
        let mut proven_until_s = 0;
        if let Some(id_token) = &granted.id_token {
            proven_until_s = self.prove(id_token, Binding::Session(session)).await?.good_until_s;
            next.id_token.clone_from(id_token);
        }
        if let Some(token) = &granted.refresh_token {
            next.refresh_token = Some(token.clone());
        }
        let next = self.timed(next, &granted, proven_until_s);
        let lines = self.sealed(&next)? + NOT_SHARED;
        Ok((next, lines.into()))
    }

    /// Tokens live for as long as is said; where nothing is, as long as the ID token.
    fn timed(&self, session: Session, granted: &Granted, proven_until_s: u64) -> Session {
        let now_s = unix_s();
        let tokens_s = granted.expires_in.unwrap_or_else(|| proven_until_s.saturating_sub(now_s));
        session.until(now_s, tokens_s, self.rules.session.as_secs())
    }

    fn sealed(&self, session: &Session) -> Result<String, AuthFailure> {
        let nonce = random::<NONCE_BYTES>().ok_or(AuthFailure::Unavailable)?;
        self.sessions.seal(session, nonce).ok_or_else(|| {
            log::warn!("auth {}: a session is too large for cookies: ask for fewer scopes", self.name);
            AuthFailure::Unavailable
        })
    }

    /// What an ID token proves; the issuer is asked for its keys where they are not known.
    async fn prove(&self, id_token: &str, binding: Binding<'_>) -> Result<Proven, AuthFailure> {
        let prove = || self.sessions.prove(id_token, binding, unix_s());
        let proven = match prove() {
            Err(TokenFault::UnknownKey) if self.has_asked_again().await => prove(),
            proven => proven,
        };
        match proven {
            Ok(proven) => Ok(proven),
            Err(TokenFault::UnknownKey) => Err(AuthFailure::Unavailable),
            Err(fault) => {
                log::warn!("auth {}: the issuer has sent an ID token that is not good: {fault:?}", self.name);
                match fault {
                    // Somebody may have brought a code of another login.
                    TokenFault::Binding => Err(AuthFailure::Token(fault)),
                    // Nobody but the issuer could have made it so: that is no fault of who logs in or goes on.
                    _ => Err(AuthFailure::Unavailable),
                }
            }
        }
    }

    /// Ends a browser's session here and at the issuer's (OpenID Connect RP-Initiated Logout §2).
    async fn log_out(&self, visit: &Visit) -> Told {
        let forget = self.sessions.forget_all(&visit.cookies);
        let Some(session) = self.sessions.session_in(&visit.cookies) else {
            return Told::logged_out(&forget);
        };
        // It is over, whether that can be written down or not, and its browser forgets it.
        self.keep(self.sessions.revoke_session(&session, unix_ms(), self.session_ms)).await;
        let said = self.sessions.issuer().and_then(|issuer| issuer.said());
        let Some(endpoint) = said.as_ref().and_then(|said| said.text_of("end_session_endpoint")) else {
            return Told::logged_out(&forget);
        };
        let back_to = format!("{}{}", visit.origin, self.rules.after_logout);
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("id_token_hint", &session.id_token)
            .append_pair("client_id", &self.rules.client_id)
            .append_pair("post_logout_redirect_uri", &back_to)
            .finish();
        Told::redirect(&login::with_query(endpoint, &query), &forget)
    }

    /// The issuer says that sessions are over.
    async fn hear(&self, form: &[u8]) -> Told {
        let mut tokens = form_urlencoded::parse(form).filter(|(name, _)| name == "logout_token");
        let (Some((_, token)), None) = (tokens.next(), tokens.next()) else { return Told::not_believed() };
        let revoke = || self.sessions.revoke_by(token.as_bytes(), self.session_ms, unix_s());
        let revoked = match revoke() {
            Err(TokenFault::UnknownKey) if self.has_asked_again().await => revoke(),
            revoked => revoked,
        };
        match revoked {
            Ok(revocation) if self.keep(revocation).await => Told::heard(),
            Ok(_) => Told::not_heard(),
            Err(TokenFault::UnknownKey) if self.is_silent() => Told::not_heard(),
            Err(fault) => {
                // Anybody can send one.
                log::debug!("auth {}: a logout token is not good: {fault:?}", self.name);
                Told::not_believed()
            }
        }
    }

    /// Whether a restart will know of it.
    async fn keep(&self, revocation: Option<Revocation>) -> bool {
        if revocation.is_some_and(|revocation| revocation.id == MarkId::ALL) {
            log::warn!("auth {}: too many sessions were revoked at once, so all have ended", self.name);
        }
        self.revocations.keep(self.state_dir, self.sessions.revoked(), revocation).await
    }

    /// Whether the issuer was asked a moment ago, and said nothing of use.
    fn is_silent(&self) -> bool {
        self.sessions.issuer().is_some_and(|issuer| issuer.outlook(unix_s()) == Outlook::Silent)
    }

    /// What the issuer says of itself; none while it says nothing of use.
    async fn said(&self) -> Option<Arc<Said>> {
        let issuer = self.sessions.issuer()?;
        match (issuer.outlook(unix_s()), issuer.said()) {
            (Outlook::Silent, _) => None,
            (_, Some(said)) => Some(said),
            (_, None) => {
                self.issuers.ask_again(issuer).await;
                issuer.said()
            }
        }
    }

    async fn has_asked_again(&self) -> bool {
        match self.sessions.issuer() {
            Some(issuer) if issuer.outlook(unix_s()) == Outlook::MayHaveOthers => {
                self.issuers.ask_again(issuer).await
            }
            _ => false,
        }
    }

    /// What the token endpoint gives for a form.
    async fn granted(&self, form: &[(&str, &str)]) -> Result<Granted, AuthFailure> {
        let said = self.sessions.issuer().and_then(|issuer| issuer.said()).ok_or(AuthFailure::Unavailable)?;
        self.token_endpoint.ask(self.rules, &said, form).await.map_err(|error| match error {
            NotGranted::Refused => AuthFailure::Session(SessionFault::Ended),
            NotGranted::LeftAlone => AuthFailure::Unavailable,
            NotGranted::Away(why) => {
                log::warn!("auth {}: the issuer gives no tokens: {why}", self.name);
                AuthFailure::Unavailable
            }
        })
    }
}

fn random<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).ok()?;
    Some(bytes)
}
