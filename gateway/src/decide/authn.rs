//! Who is asking: the credentials of a request against the auths of a route.
//!
//! Comes in: the route's auths and the request's head. Goes out: whose it is, why nobody is known, or what has to be
//! asked first. Auths are tried in the order of the route; a bad credential of one kind does not stop the next kind
//! from being tried, and the first that is good decides. A field that stands twice is no credential at all: upstream
//! might read the other one. It never says to the outside which part of a credential was wrong.

use std::{borrow::Cow, rc::Rc, sync::Arc};

use zeroize::Zeroizing;

use super::{
    Identity, Peer, State,
    api_key::KeyFault,
    authz::RoleId,
    basic,
    binding::{self, Scheme},
    certificate,
    dpop::{self, ProofFault},
    introspection::{self, Opaque},
    issuer::Issuer,
    jwt::{TokenFault, Tokens},
    key_table::KeyTable,
    oidc::{SessionFault, Sessions},
    query,
    question::{Answer, Question},
};
use crate::{
    codec::RequestHead,
    config::{self, Carrier, CertificateName},
};

/// The field of RFC 9110 §11.6.2.
const AUTHORIZATION: &str = "authorization";

/// One `[auth.*]`, compiled.
pub struct Auth {
    name: Arc<str>,
    /// Lower-case names of the fields that carry the credential, itself in the first one; none: the query does, or the
    /// connection.
    fields: Box<[Arc<str>]>,
    /// The parameter of the query that carries it.
    query: Option<Arc<str>>,
    /// The credential goes upstream with the request.
    forward_credential: bool,
    kind: Kind,
}

enum Kind {
    ApiKey,
    Jwt(Box<Tokens>),
    Basic,
    Mtls(CertificateName),
    Introspection(Opaque),
    Oidc(Box<Sessions>),
}

/// What stands in one header of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presented<'h> {
    /// No such field.
    Absent,
    /// One field with this value.
    One(&'h [u8]),
    /// Several fields.
    Repeated,
}

impl<'h> Presented<'h> {
    /// From the values of all fields of one name.
    pub fn of(mut values: impl Iterator<Item = &'h [u8]>) -> Presented<'h> {
        match (values.next(), values.next()) {
            (None, _) => Presented::Absent,
            (Some(value), None) => Presented::One(value),
            (Some(_), Some(_)) => Presented::Repeated,
        }
    }
}

/// Why nobody is known: the first token that was presented and not good, else the first other credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthFailure {
    /// Nothing that the route takes was presented.
    Absent,
    /// The credential's header stands more than once.
    Repeated,
    /// An API key that is not good.
    Key(KeyFault),
    /// A token that is not good.
    Token(TokenFault),
    /// A user or a password that is not good.
    Password,
    /// A client's certificate that names nobody, or whose time has ended since it was shown.
    Certificate,
    /// A token that only its holder may use, and a proof of that which is not good.
    Proof(ProofFault),
    /// A session that is not good.
    Session(SessionFault),
    /// Whoever has to be asked about the credential could not tell.
    Unavailable,
}

impl Auth {
    /// From the configuration.
    ///
    /// # Errors
    /// Its keys can't be used.
    pub fn compile(auth: &config::Auth) -> Result<Auth, &'static str> {
        let mut query = None;
        let (fields, kind): (Box<[Arc<str>]>, Kind) = match &auth.kind {
            config::AuthKind::ApiKey(config::ApiKey { carrier: Carrier::Header(name), .. }) => {
                ([name.clone()].into(), Kind::ApiKey)
            }
            config::AuthKind::ApiKey(config::ApiKey { carrier: Carrier::Query(name), .. }) => {
                query = Some(name.clone());
                ([].into(), Kind::ApiKey)
            }
            config::AuthKind::Jwt(rules) => (
                [AUTHORIZATION, dpop::FIELD].map(Arc::from).into(),
                Kind::Jwt(Box::new(Tokens::compile(rules)?)),
            ),
            config::AuthKind::Basic(_) => ([AUTHORIZATION.into()].into(), Kind::Basic),
            config::AuthKind::Mtls(name) => ([].into(), Kind::Mtls(*name)),
            config::AuthKind::Oidc(rules) => {
                ([].into(), Kind::Oidc(Box::new(Sessions::compile(&auth.name, rules)?)))
            }
            config::AuthKind::Introspection(_) => {
                ([AUTHORIZATION, dpop::FIELD].map(Arc::from).into(), Kind::Introspection(Opaque::default()))
            }
        };
        let forward_credential = auth.forward_credential;
        Ok(Auth { name: auth.name.clone(), fields, query, forward_credential, kind })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whose published keys it goes by.
    pub fn issuer(&self) -> Option<&Arc<Issuer>> {
        match &self.kind {
            Kind::Jwt(tokens) => tokens.issuer(),
            Kind::Oidc(sessions) => sessions.issuer(),
            _ => None,
        }
    }

    /// The same, to be replaced by one that knows them already.
    pub(super) fn issuer_mut(&mut self) -> Option<&mut Arc<Issuer>> {
        match &mut self.kind {
            Kind::Jwt(tokens) => tokens.issuer_mut(),
            Kind::Oidc(sessions) => sessions.issuer_mut(),
            _ => None,
        }
    }

    /// What is asked of an authorization server.
    pub fn opaque(&self) -> Option<&Opaque> {
        match &self.kind {
            Kind::Introspection(opaque) => Some(opaque),
            _ => None,
        }
    }

    /// The same, to go on counting.
    pub(super) fn opaque_mut(&mut self) -> Option<&mut Opaque> {
        match &mut self.kind {
            Kind::Introspection(opaque) => Some(opaque),
            _ => None,
        }
    }

    /// The sessions of browsers that log in with it.
    pub fn sessions(&self) -> Option<&Sessions> {
        match &self.kind {
            Kind::Oidc(sessions) => Some(sessions),
            _ => None,
        }
    }

    /// The same, to go on with what was revoked.
    pub(super) fn sessions_mut(&mut self) -> Option<&mut Sessions> {
        match &mut self.kind {
            Kind::Oidc(sessions) => Some(sessions),
            _ => None,
        }
    }

    /// Lower-case names of the fields that carry its credential, where that stays at the gateway.
    pub fn kept_fields(&self) -> &[Arc<str>] {
        if self.forward_credential { &[] } else { &self.fields }
    }

    /// The same of the query's parameters.
    pub fn kept_parameter(&self) -> Option<&Arc<str>> {
        self.query.as_ref().filter(|_| !self.forward_credential)
    }

    fn takes_tokens(&self) -> bool {
        match &self.kind {
            Kind::Jwt(_) | Kind::Introspection(_) => true,
            Kind::ApiKey | Kind::Basic | Kind::Mtls(_) | Kind::Oidc(_) => false,
        }
    }

    fn realm(&self) -> String {
        self.name.chars().filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c)).collect()
    }

    /// Its part of `WWW-Authenticate` (RFC 9110 §11.6.1); `invalid_token` as RFC 6750 §3.1 has it, where a token was
    /// presented.
    fn challenge(&self, after: AuthFailure) -> String {
        let realm = self.realm();
        match (&self.kind, after) {
            (Kind::ApiKey, _) => {
                let header = || ("header", self.fields.first().map_or("", |field| field));
                let (carrier, name) = self.query.as_ref().map_or_else(header, |name| ("query", name));
                format!("ApiKey realm=\"{realm}\", {carrier}=\"{name}\"")
            }
            (Kind::Mtls(_), _) => format!("ClientCertificate realm=\"{realm}\""),
            (Kind::Jwt(_) | Kind::Introspection(_), AuthFailure::Token(_)) => {
                format!("Bearer realm=\"{realm}\", error=\"invalid_token\"")
            }
            (Kind::Jwt(_) | Kind::Introspection(_), AuthFailure::Proof(_)) => {
                let algorithms = dpop::algorithms();
                format!("DPoP realm=\"{realm}\", error=\"invalid_dpop_proof\", algs=\"{algorithms}\"")
            }
            (Kind::Jwt(_) | Kind::Introspection(_), _) => format!("Bearer realm=\"{realm}\""),
            // No scheme of HTTP's: it says who is missing, and nothing that a program could do about it.
            (Kind::Oidc(_), _) => format!("Cookie realm=\"{realm}\""),
            (Kind::Basic, _) => format!("Basic realm=\"{realm}\", charset=\"UTF-8\""),
        }
    }
}

impl AuthFailure {
    /// A bad token changes the answer (RFC 6750 §3.1), so it is told before a bad key or password, and that before
    /// nothing. That nobody could tell comes first: the credential may well have been good.
    fn weight(self) -> u8 {
        match self {
            AuthFailure::Absent => 0,
            AuthFailure::Repeated
            | AuthFailure::Key(_)
            | AuthFailure::Password
            | AuthFailure::Session(_)
            | AuthFailure::Certificate => 1,
            AuthFailure::Token(_) | AuthFailure::Proof(_) => 2,
            AuthFailure::Unavailable => 3,
        }
    }
}

/// The value of `WWW-Authenticate` that names all these auths.
pub fn challenge<'a>(auths: impl Iterator<Item = &'a Auth>, after: AuthFailure) -> Arc<str> {
    auths.map(|auth| auth.challenge(after)).collect::<Vec<_>>().join(", ").into()
}

/// The value of `WWW-Authenticate` where a credential lacks scopes (RFC 6750 §3.1), of those auths that take tokens.
pub(super) fn challenge_insufficient_scope<'a>(
    auths: impl Iterator<Item = &'a Auth>,
    scopes: &[Arc<str>],
) -> Option<Arc<str>> {
    if scopes.is_empty() {
        return None;
    }
    let challenges: Vec<String> = auths
        .filter(|auth| auth.takes_tokens())
        .map(|auth| {
            let (realm, scopes) = (auth.realm(), scopes.join(" "));
            format!("Bearer realm=\"{realm}\", error=\"insufficient_scope\", scope=\"{scopes}\"")
        })
        .collect();
    Some(challenges.join(", ").into()).filter(|_| !challenges.is_empty())
}

/// Who one of `auths` (with their indices) says is asking.
///
/// # Errors
/// None of them knows, or one has to be asked about first.
pub(super) fn authenticate<'p>(
    auths: impl Iterator<Item = (u16, &'p Auth)>,
    shown: (&RequestHead<'_, '_>, &Peer<'_>),
    state: &mut State<'_>,
    role: &dyn Fn(&str) -> Option<RoleId>,
    unix_s: u64,
) -> Result<Rc<Identity>, Lack> {
    let mut failure = AuthFailure::Absent;
    for (id, auth) in auths {
        match auth.check(id, shown, state, role, unix_s) {
            Err(Lack::Failed(next)) if next.weight() > failure.weight() => failure = next,
            Err(Lack::Failed(_)) => {}
            decided => return decided,
        }
    }
    Err(Lack::Failed(failure))
}

/// Why a credential has not made anybody known.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Lack {
    /// It is not good.
    Failed(AuthFailure),
    /// It cannot be told here.
    Ask(Question),
}

impl From<AuthFailure> for Lack {
    fn from(failure: AuthFailure) -> Self {
        Self::Failed(failure)
    }
}

impl Auth {
    fn check(
        &self,
        id: u16,
        (head, peer): (&RequestHead<'_, '_>, &Peer<'_>),
        state: &mut State<'_>,
        role: &dyn Fn(&str) -> Option<RoleId>,
        unix_s: u64,
    ) -> Result<Rc<Identity>, Lack> {
        let (credential, scheme) = self.credential(head, peer)?;
        let identity = self.identify(id, (&credential, peer), state, role, unix_s)?;
        if identity.binding.is_some() || scheme == Scheme::Dpop {
            binding::check(identity.binding, (&credential, scheme), (head, peer), state.replays, unix_s)?;
        }
        Ok(identity)
    }

    /// Whose `credential` is, whoever shows it.
    fn identify(
        &self,
        id: u16,
        (credential, peer): (&[u8], &Peer<'_>),
        state: &mut State<'_>,
        role: &dyn Fn(&str) -> Option<RoleId>,
        unix_s: u64,
    ) -> Result<Rc<Identity>, Lack> {
        if let Some(answered) = state.answered.iter().find(|answered| answered.auth == id) {
            return match (&self.kind, &answered.answer) {
                // Who is logged in stays so while the issuer is away.
                (Kind::Oidc(sessions), Err(AuthFailure::Unavailable)) => {
                    let identity = sessions.judge_old(credential, role, unix_s)?;
                    let identity = Rc::new(Identity { auth: id, ..identity });
                    state.memory.keep(self.generation(None), credential, &identity);
                    Ok(identity)
                }
                (_, answer) => answer.clone().map_err(Lack::Failed),
            };
        }
        let keys = state.keys.of(id).map(|keys| &**keys);
        let generation = self.generation(keys);
        if let Some(identity) = state.memory.find(id, generation, credential, unix_s) {
            return Ok(Rc::clone(identity));
        }
        let answer = match &self.kind {
            Kind::Mtls(name) => Some(certificate::identity(*name, peer.certificate, unix_s)),
            _ => self.judge(credential, keys, role, unix_s),
        };
        let Some(answer) = answer else {
            let credential = Zeroizing::new(credential.to_vec());
            return Err(Lack::Ask(Question { auth: id, generation, credential }));
        };
        let identity = Rc::new(Identity { auth: id, ..answer? });
        state.memory.keep(generation, credential, &identity);
        Ok(identity)
    }

    /// What the request shows for this auth.
    fn credential<'h>(
        &self,
        head: &'h RequestHead<'_, '_>,
        peer: &Peer<'h>,
    ) -> Result<(Cow<'h, [u8]>, Scheme), AuthFailure> {
        if let Kind::Oidc(sessions) = &self.kind {
            return Ok((sessions.credential(head).ok_or(AuthFailure::Absent)?, Scheme::Bearer));
        }
        let presented = match (self.fields.first(), &self.query) {
            (Some(header), _) => Presented::of(head.headers.all(header)),
            (None, Some(name)) => Presented::of(query::values(head.query, name)),
            (None, None) => {
                let shown = peer.certificate.ok_or(AuthFailure::Absent)?;
                return Ok((Cow::Borrowed(&shown.sha256), Scheme::Bearer));
            }
        };
        let value = match presented {
            Presented::Absent => return Err(AuthFailure::Absent),
            Presented::Repeated => return Err(AuthFailure::Repeated),
            Presented::One(value) => value,
        };
        let (credential, scheme) = match &self.kind {
            Kind::ApiKey | Kind::Mtls(_) | Kind::Oidc(_) => Some((value, Scheme::Bearer)),
            Kind::Jwt(_) | Kind::Introspection(_) => of_scheme("bearer", value)
                .map(|token| (token, Scheme::Bearer))
                .or_else(|| Some((of_scheme("dpop", value)?, Scheme::Dpop))),
            Kind::Basic => of_scheme("basic", value).map(|pair| (pair, Scheme::Bearer)),
        }
        .ok_or(AuthFailure::Absent)?;
        Ok((Cow::Borrowed(credential), scheme))
    }

    /// Which of its keys are in force: what was found good with others is looked at anew.
    fn generation(&self, keys: Option<&KeyTable>) -> u64 {
        match &self.kind {
            Kind::ApiKey => keys.map_or(0, KeyTable::generation),
            // All that these go by is in the snapshot.
            Kind::Basic | Kind::Mtls(_) | Kind::Introspection(_) => 0,
            Kind::Jwt(tokens) => tokens.issuer().map_or(0, |issuer| issuer.generation()),
            // Its tokens were verified when they came; what it may show is what was not revoked since.
            Kind::Oidc(sessions) => sessions.revoked().generation(),
        }
    }

    /// Whose `credential` is; none: that has to be asked. The identity's `auth` is left open.
    pub fn judge(
        &self,
        credential: &[u8],
        keys: Option<&KeyTable>,
        role: &dyn Fn(&str) -> Option<RoleId>,
        unix_s: u64,
    ) -> Option<Answer> {
        match &self.kind {
            Kind::ApiKey => {
                let keys = keys.ok_or(AuthFailure::Unavailable);
                Some(keys.and_then(|keys| keys.check(credential, role, unix_s).map_err(AuthFailure::Key)))
            }
            Kind::Jwt(tokens) => tokens.judge(credential, unix_s, role),
            Kind::Oidc(sessions) => sessions.judge(credential, role, unix_s),
            Kind::Basic if basic::parse(credential).is_none() => Some(Err(AuthFailure::Password)),
            Kind::Basic | Kind::Mtls(_) => None,
            Kind::Introspection(_) => {
                introspection::check_shape(credential).err().map(|fault| Err(AuthFailure::Token(fault)))
            }
        }
    }
}

/// What follows the name of an authentication scheme (RFC 9110 §11.4, in any case); none: it is another scheme.
fn of_scheme<'v>(scheme: &str, value: &'v [u8]) -> Option<&'v [u8]> {
    let (name, rest) = value.split_at_checked(scheme.len())?;
    let rest = rest.strip_prefix(b" ")?;
    name.eq_ignore_ascii_case(scheme.as_bytes()).then(|| rest.trim_ascii_start())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::testing::{
        self, NOW_S, answered, basic_auth, key_auth, minted, token_auth, with_head,
    };
    use crate::{decide::Answered, tls::ClientCertificate};

    /// Headers as `(name, value)`; expected: consumer and auth, or the failure.
    #[track_caller]
    fn check(auths: &[config::Auth], headers: &[(&str, &str)], expected: Result<(&str, u16), AuthFailure>) {
        check_asked(auths, (headers, None), &[], &expected.map_err(Lack::Failed));
    }

    /// The same with answers in hand.
    #[track_caller]
    fn check_asked(
        auths: &[config::Auth],
        (headers, certificate): (&[(&str, &str)], Option<&ClientCertificate>),
        answered: &[Answered],
        expected: &Result<(&str, u16), Lack>,
    ) {
        let keys = testing::key_tables(auths);
        let auths: Vec<Auth> = auths.iter().map(|a| Auth::compile(a).ok().unwrap()).collect();
        let (limiter, mut memory, replays) = testing::state();
        let mut state =
            State { limiter: &limiter, memory: &mut memory, replays: &replays, keys: &keys, answered };
        let lines: Vec<String> = headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        with_head(&["GET / HTTP/1.1".to_owned(), lines.join("\n")].join("\n"), |head| {
            // What was found good once is remembered, and nothing else is.
            let peer = testing::peer(certificate);
            for round in ["first", "again"] {
                let identity = authenticate((0..).zip(&auths), (head, &peer), &mut state, &|_| None, NOW_S);
                let known = identity.as_ref().map(|identity| (&*identity.consumer, identity.auth));
                assert_eq!(known, expected.as_ref().map(|known| *known), "{round}");
            }
        });
    }

    #[test]
    fn the_first_good_credential_decides() {
        let (key, token) = (minted(1).text, format!("Bearer {}", testing::token("bob")));
        let auths = [key_auth(), token_auth()];
        let bad = AuthFailure::Key(KeyFault::Malformed);
        check(&auths, &[], Err(AuthFailure::Absent));
        check(&auths, &[("x-api-key", &key)], Ok(("acme", 0)));
        check(&auths, &[("X-API-Key", &key)], Ok(("acme", 0)));
        check(&auths, &[("authorization", &token)], Ok(("bob", 1)));
        check(&auths, &[("authorization", &token), ("x-api-key", &key)], Ok(("acme", 0)));
        check(&auths, &[("authorization", &token), ("x-api-key", "junk")], Ok(("bob", 1)));
        check(&auths, &[("x-api-key", "junk")], Err(bad));
        let bad_token = Err(AuthFailure::Token(TokenFault::Malformed));
        check(&auths, &[("authorization", "Bearer junk"), ("x-api-key", "junk")], bad_token);
        check(
            &[token_auth(), key_auth()],
            &[("authorization", "Bearer junk"), ("x-api-key", "junk")],
            bad_token,
        );
        check(&[], &[("x-api-key", &key)], Err(AuthFailure::Absent));
    }

    #[test]
    fn a_password_is_asked_about_and_the_answer_counts_for_its_auth() {
        let auths = [key_auth(), basic_auth()];
        let (shown, junk) = ([("authorization", "basic  YTpi")], [("authorization", "Basic a:b")]);
        let question = Question { auth: 1, generation: 0, credential: Zeroizing::new(b"YTpi".to_vec()) };
        check_asked(&auths, (&shown, None), &[], &Err(Lack::Ask(question.clone())));
        check_asked(&auths, (&shown, None), &[answered(0, Ok("bob"))], &Err(Lack::Ask(question)));
        check_asked(&auths, (&shown, None), &[answered(1, Ok("bob"))], &Ok(("bob", 1)));
        for failure in [AuthFailure::Password, AuthFailure::Unavailable] {
            check_asked(&auths, (&shown, None), &[answered(1, Err(failure))], &Err(Lack::Failed(failure)));
        }
        check(&auths, &junk, Err(AuthFailure::Password));
        check(&auths, &[("authorization", "Bearer YTpi")], Err(AuthFailure::Absent));
        let key = minted(1).text;
        check(&auths, &[shown[0], ("x-api-key", &key)], Ok(("acme", 0)));
    }

    #[test]
    fn a_certificate_says_who_it_is_until_its_time_ends() {
        let auths = [key_auth(), testing::certificate_auth()];
        let shown = |name: &str, not_after_s| ClientCertificate {
            sha256: [7; 32],
            names: [(CertificateName::SanUri, "spiffe://a".into()), (CertificateName::SanDns, name.into())]
                .into(),
            not_after_s,
        };
        let check = |certificate: Option<&ClientCertificate>, expected: Result<(&str, u16), AuthFailure>| {
            check_asked(&auths, (&[], certificate), &[], &expected.map_err(Lack::Failed));
        };
        check(Some(&shown("a.example", NOW_S)), Ok(("a.example", 1)));
        check(Some(&shown("a.example", NOW_S - 1)), Err(AuthFailure::Certificate));
        check(Some(&shown("", NOW_S)), Err(AuthFailure::Certificate));
        check(Some(&shown("a\u{e9}", NOW_S)), Ok(("a\u{e9}", 1)));
        check(Some(&shown("a\n", NOW_S)), Err(AuthFailure::Certificate));
        check(Some(&shown(&"a".repeat(257), NOW_S)), Err(AuthFailure::Certificate));
        check(
            Some(&ClientCertificate { names: [].into(), ..shown("a", NOW_S) }),
            Err(AuthFailure::Certificate),
        );
        check(None, Err(AuthFailure::Absent));
    }

    #[test]
    fn a_credential_that_stands_twice_is_none() {
        let (key, token) = (minted(1).text, format!("Bearer {}", testing::token("bob")));
        check(&[key_auth()], &[("x-api-key", &key), ("X-Api-Key", &key)], Err(AuthFailure::Repeated));
        check(
            &[token_auth()],
            &[("authorization", &token), ("authorization", "x")],
            Err(AuthFailure::Repeated),
        );
    }

    #[test]
    fn other_schemes_are_not_tokens() {
        let token = testing::token("bob");
        check(&[token_auth()], &[("authorization", &format!("bEARER  {token}"))], Ok(("bob", 0)));
        let (tab, x) = (format!("Bearer\t{token}"), format!("Bearerx {token}"));
        for value in ["", "Bearer", "Basic YTpi", &token, &tab, &x] {
            check(&[token_auth()], &[("authorization", value)], Err(AuthFailure::Absent));
        }
        let malformed = Err(AuthFailure::Token(TokenFault::Malformed));
        check(&[token_auth()], &[("authorization", &format!("Bearer {token}, {token}"))], malformed);
    }

    #[test]
    fn the_challenge_names_every_auth() {
        let auths = [key_auth(), token_auth(), basic_auth()].map(|auth| Auth::compile(&auth).ok().unwrap());
        assert_eq!(
            &*challenge(auths.iter(), AuthFailure::Absent),
            r#"ApiKey realm="keys", header="x-api-key", Bearer realm="staff", Basic realm="legacy", charset="UTF-8""#,
        );
        assert_eq!(
            &*challenge(auths.iter().skip(1).take(1), AuthFailure::Token(TokenFault::Expired)),
            r#"Bearer realm="staff", error="invalid_token""#,
        );
    }
}
