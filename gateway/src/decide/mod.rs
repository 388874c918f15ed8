//! What happens to a request: policy without I/O.
//!
//! Comes in: a request head, who sent it, the policy, the buckets and the time. Goes out: a [`Plan`] to carry out or
//! a [`Halt`]: a refusal to answer, or a question that has to be answered first. Order: route, limits that need no
//! identity (so that guessing is limited too), what the head shows of the body, authentication, authorisation, a
//! WebSocket's handshake, limits of the consumer.
//!
//! It never reads a clock, opens anything, locks, or holds unsafe code. Where nobody has to be known, or a credential is
//! remembered, it allocates nothing: what a plan carries is shared.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod policy;
pub mod source;
mod forwarded;
pub mod route;
pub mod limit;
pub mod crowd;
pub mod known;
mod identity;
pub mod memory;
pub mod question;
mod pressure;
pub mod authn;
pub mod api_key;
pub mod key_table;
pub mod query;
pub mod jwt;
pub mod issuer;
pub mod introspection;
mod holder;
pub mod basic;
mod certificate;
mod binding;
mod dpop;
pub mod replay;
pub mod oidc;
mod claims;
pub mod authz;
mod condition;
pub mod explain;
pub mod balance;
mod addresses;
mod budget;
mod introduction;
pub mod edit;
pub mod cors;
mod websocket;
pub mod compress;
mod snapshot;

use std::{net::IpAddr, rc::Rc, sync::Arc, time::Duration};

pub use self::{
    addresses::{ADDRESSES_MAX, Addresses, ServerAddresses},
    authn::AuthFailure,
    authz::Forbidden,
    budget::RetryBudget,
    identity::Identity,
    introduction::introduction,
    key_table::{KeyTable, KeyTables},
    memory::Memory,
    policy::{Policy, PolicyError, RoutePolicy},
    pressure::Pressure,
    question::{Answer, Answered, Asks, Inquiry, Question, Reply, Said},
    replay::Replays,
    route::{RouteId, host_of},
    snapshot::{LiveServers, Snapshot},
    source::{Asked, source_of, told_request_id},
    websocket::WebSocket,
};
use self::{
    authn::{Lack, Presented},
    condition::{Facts, Known},
    limit::{Subject, Table},
    oidc::visit::Visit,
    policy::{ConsumerPolicy, LimitPolicy},
    route::Miss,
};
use crate::{
    codec::{BodyLength, HandshakeError, RequestHead},
    config::{Action, LimitPer, OwnPage, Redirect, Respond},
    tls::ClientCertificate,
};

/// Who sent a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer<'c> {
    /// Whom it counts as, see [`source_of`].
    pub source: IpAddr,
    /// A header named the source, not the socket.
    pub source_is_forwarded: bool,
    /// It came over TLS.
    pub tls: bool,
    /// The certificate that it has shown, verified by the listener's authorities.
    pub certificate: Option<&'c ClientCertificate>,
}

/// The time, on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// A clock that never steps, the same for all workers: limits.
    pub monotonic_ns: u64,
    /// Seconds since the epoch: expiry of keys and tokens.
    pub unix_s: u64,
}

/// What to do with a request that may pass.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Which route's.
    pub route: RouteId,
    /// Where it goes.
    pub action: Act,
    /// Who is asking; none on a public route. Headers of its `set` go upstream, after `remove`.
    pub identity: Option<Rc<Identity>>,
    /// Fields to remove from what the client sent, lower case: those that only the gateway may set, and every field
    /// that can carry a credential for the route, whichever of them was accepted.
    pub remove: Arc<[Arc<str>]>,
    /// The same of its query's parameters.
    pub remove_query: Arc<[Arc<str>]>,
    /// Replaces the listener's limit, also for bodies whose length the head does not say.
    pub body_bytes_max: Option<u64>,
    /// Replaces the listener's timeout.
    pub request_timeout: Option<Duration>,
    /// The first limit in dry run that would have refused: index into the configuration's limits.
    pub limited_in_dry_run: Option<u16>,
    /// The client asks for a WebSocket, and the route has them.
    pub websocket: Option<WebSocket>,
}

/// Where a request that may pass goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Index into the configuration's upstreams.
    Upstream(usize),
    /// A fixed answer.
    Respond(Arc<Respond>),
    /// Somewhere else.
    Redirect(Arc<Redirect>),
    /// The route's CORS rules answer: nobody was asked for a credential.
    Preflight,
}

impl Act {
    /// What a route does, unless it is a page of the gateway itself.
    fn of(action: &Action) -> Result<Self, (u16, OwnPage)> {
        match action {
            Action::Upstream(upstream) => Ok(Self::Upstream(*upstream)),
            Action::Respond(respond) => Ok(Self::Respond(Arc::clone(respond))),
            Action::Redirect(redirect) => Ok(Self::Redirect(Arc::clone(redirect))),
            // No auth has a larger index.
            Action::Own(auth, page) => Err((u16::try_from(*auth).unwrap_or(u16::MAX), *page)),
        }
    }
}

/// What decisions go by beside the policy.
pub struct State<'s> {
    /// The buckets of all workers.
    pub limiter: &'s Table,
    /// Whose credentials were found good lately.
    pub memory: &'s mut Memory,
    /// API keys, by auth.
    pub keys: &'s KeyTables,
    /// Which proofs were shown lately, to all workers.
    pub replays: &'s Replays,
    /// What was said of this request's credentials, where it had to be asked.
    pub answered: &'s [Answered],
}

/// Why a request does not go on, or not yet.
#[derive(Debug, Clone, PartialEq)]
pub enum Halt {
    /// It may not pass.
    Refused(Refused),
    /// Decide again when this is answered.
    Ask(RouteId, Question),
    /// The gateway itself is visited: what is said to this is the answer.
    Visit(RouteId, Box<Visit>),
}

/// A request that may not pass.
#[derive(Debug, Clone, PartialEq)]
pub struct Refused {
    /// The route that refuses; none where no route has the host and path.
    pub route: Option<RouteId>,
    /// Who is asking, where that is known.
    pub identity: Option<Rc<Identity>>,
    /// Why.
    pub refusal: Refusal,
}

impl Refused {
    fn of_no_route() -> Self {
        Self { route: None, identity: None, refusal: Refusal::NoRoute }
    }
}

/// Why a request may not pass. Nothing of it was sent anywhere.
#[derive(Debug, Clone, PartialEq)]
pub enum Refusal {
    /// 404: no route has the host and path.
    NoRoute,
    /// 405: the path exists, the method does not.
    MethodNotAllowed {
        /// Value of `Allow`.
        allow: Arc<str>,
    },
    /// 401: nobody is known.
    Unauthenticated {
        /// Value of `WWW-Authenticate`.
        challenge: Arc<str>,
        /// For the log; the client is not told.
        reason: AuthFailure,
    },
    /// 503: whoever has to be asked about the credential could not tell.
    AuthUnavailable,
    /// 403: somebody is known and may not.
    Forbidden(Forbidden),
    /// 429: too often.
    Limited {
        /// Index into the configuration's limits.
        limit: u16,
        /// Value of `Retry-After`, at least 1.
        retry_after_s: u64,
    },
    /// 413: the announced body is longer than the route allows.
    BodyTooLarge {
        /// Bytes that it allows.
        max: u64,
    },
    /// 415: a body whose media type the route's filter does not list.
    UnsupportedMediaType,
    /// 400: what the route's `rewrite` or `redirect` makes of the request could be read in more than one way.
    UnclearRewrite,
    /// 403: a preflight of an origin that the route's CORS rules do not list. No fault of the source: any page can
    /// make a browser send one.
    OriginNotAllowed,
    /// 400 or 426: a WebSocket handshake that is none.
    BadHandshake(HandshakeError),
    /// 403: a page of an origin that the route does not list wants a WebSocket.
    ForeignOrigin,
}

impl Refusal {
    /// Whether all was given but that the route's condition holds.
    pub fn is_unmet(&self) -> bool {
        matches!(self, Self::Forbidden(Forbidden::Unmet(_)))
    }

    /// What the client is not told, for those who keep watch.
    pub fn why(&self) -> Option<String> {
        match self {
            Self::Unauthenticated { reason, .. } => Some(format!("{reason:?}")),
            Self::Forbidden(reason) => Some(reason.to_string()),
            _ => None,
        }
    }
}

/// Decides one request. It is called again for the same request, with what was asked in `state.answered`.
///
/// # Errors
/// It may not pass, or something has to be asked first.
pub fn decide(
    policy: &Policy,
    head: &RequestHead<'_, '_>,
    peer: &Peer<'_>,
    state: &mut State<'_>,
    now: Now,
) -> Result<Plan, Halt> {
    weigh(policy, (head, peer), state, now, |route, state| {
        authenticate(policy, route, (head, peer), state, now)
    })
}

/// Decides by whoever `who` says is asking.
fn weigh(
    policy: &Policy,
    (head, peer): (&RequestHead<'_, '_>, &Peer<'_>),
    state: &mut State<'_>,
    now: Now,
    who: impl FnOnce(&RoutePolicy, &mut State<'_>) -> Result<Option<Rc<Identity>>, Lack>,
) -> Result<Plan, Halt> {
    let preflight = cors::preflight_route(policy, head);
    let route_id = preflight.map_or_else(|| find_route(policy, head), Ok).map_err(Halt::Refused)?;
    let refused = |refusal| Halt::Refused(Refused { route: Some(route_id), identity: None, refusal });
    let route = policy.route(route_id).ok_or_else(|| Halt::Refused(Refused::of_no_route()))?;
    let limiter = state.limiter;
    let mut meter = Meter { policy, route_id, route, head, peer, limiter, now, dry_run: None };

    // Whoever has an answer in hand has come by here already.
    if state.answered.is_empty() {
        meter.admit_unknown().map_err(refused)?;
    }
    if preflight.is_some() {
        return allow_preflight(route_id, route, head, meter.dry_run).map_err(refused);
    }
    check_body(route, head).map_err(refused)?;
    let action = match Act::of(&route.action) {
        Ok(action) => action,
        Err(own) => {
            return Err(oidc::own_page(own, head)
                .map_or_else(refused, |visit| Halt::Visit(route_id, Box::new(visit))));
        }
    };
    let identity = who(route, state).map_err(|lack| match lack {
        Lack::Ask(question) => Halt::Ask(route_id, question),
        Lack::Failed(reason) => match login_for(policy, route, head, reason) {
            Some(visit) => Halt::Visit(route_id, Box::new(visit)),
            None => refused(unauthenticated(route, reason)),
        },
    })?;
    if let Some(identity) = &identity {
        note_use(identity, state.keys, peer, now);
    }
    let refused =
        |refusal| Halt::Refused(Refused { route: Some(route_id), identity: identity.clone(), refusal });
    let consumer = identity.as_ref().and_then(|identity| policy.consumer(&identity.consumer));
    authorize(policy, route, (head, peer), (identity.as_deref(), consumer)).map_err(refused)?;
    let websocket = websocket::handshake(route, head).map_err(refused)?;
    meter.admit_known(identity.as_deref(), consumer).map_err(refused)?;

    Ok(Plan {
        route: route_id,
        action,
        identity,
        remove: route.remove.clone(),
        remove_query: route.remove_query.clone(),
        body_bytes_max: route.body_bytes_max,
        request_timeout: route.request_timeout,
        limited_in_dry_run: meter.dry_run,
        websocket,
    })
}

fn allow_preflight(
    route_id: RouteId,
    route: &RoutePolicy,
    head: &RequestHead<'_, '_>,
    limited_in_dry_run: Option<u16>,
) -> Result<Plan, Refusal> {
    if !route.cors.as_ref().is_some_and(|rules| cors::is_allowed(rules, head)) {
        return Err(Refusal::OriginNotAllowed);
    }
    Ok(Plan {
        route: route_id,
        action: Act::Preflight,
        identity: None,
        remove: route.remove.clone(),
        remove_query: route.remove_query.clone(),
        body_bytes_max: route.body_bytes_max,
        request_timeout: route.request_timeout,
        limited_in_dry_run,
        websocket: None,
    })
}

fn find_route(policy: &Policy, head: &RequestHead<'_, '_>) -> Result<RouteId, Refused> {
    policy.router.find(head.authority, &head.path, head.method).map_err(|miss| match miss {
        Miss::NoRoute => Refused::of_no_route(),
        Miss::MethodNotAllowed { route, allow } => {
            let refusal = Refusal::MethodNotAllowed { allow: allow.clone() };
            Refused { route: Some(route), identity: None, refusal }
        }
    })
}

/// Length and type as announced; what is not announced is counted as it comes ([`Plan::body_bytes_max`]).
fn check_body(route: &RoutePolicy, head: &RequestHead<'_, '_>) -> Result<(), Refusal> {
    let announced = match head.body {
        BodyLength::None | BodyLength::Exact(0) => return Ok(()),
        BodyLength::Exact(length) => Some(length),
        BodyLength::Chunked | BodyLength::UntilClose => None,
    };
    if let (Some(length), Some(max)) = (announced, route.body_bytes_max)
        && length > max
    {
        return Err(Refusal::BodyTooLarge { max });
    }
    if !route.allow_types.is_empty() {
        let Presented::One(value) = Presented::of(head.headers.all("content-type")) else {
            return Err(Refusal::UnsupportedMediaType);
        };
        let media_type = value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        if !route.allow_types.iter().any(|allowed| media_type.eq_ignore_ascii_case(allowed.as_bytes())) {
            return Err(Refusal::UnsupportedMediaType);
        }
    }
    Ok(())
}

/// None: the route lets anybody in.
fn authenticate(
    policy: &Policy,
    route: &RoutePolicy,
    shown: (&RequestHead<'_, '_>, &Peer<'_>),
    state: &mut State<'_>,
    now: Now,
) -> Result<Option<Rc<Identity>>, Lack> {
    if route.public {
        return Ok(None);
    }
    let role = |name: &str| policy.role(name);
    authn::authenticate(policy.auths_of(route), shown, state, &role, now.unix_s).map(Some)
}

/// An API key was used, whatever may come of the request.
fn note_use(identity: &Identity, keys: &KeyTables, peer: &Peer, now: Now) {
    if let (Some(key), Some(table)) = (&identity.key, keys.of(identity.auth)) {
        table.note_use(key, peer.source, now.unix_s);
    }
}

/// The login of a browser that has no session, or none that still counts. Whoever has shown another credential is told
/// what is wrong with that.
fn login_for(
    policy: &Policy,
    route: &RoutePolicy,
    head: &RequestHead<'_, '_>,
    reason: AuthFailure,
) -> Option<Visit> {
    let may_log_in =
        matches!(reason, AuthFailure::Absent | AuthFailure::Session(_) | AuthFailure::Unavailable);
    let auth = policy.login_of(route).filter(|_| may_log_in && oidc::is_navigation(head))?;
    Some(oidc::login(auth, head))
}

fn unauthenticated(route: &RoutePolicy, reason: AuthFailure) -> Refusal {
    match reason {
        AuthFailure::Unavailable => Refusal::AuthUnavailable,
        reason => Refusal::Unauthenticated { challenge: route.challenge(reason).clone(), reason },
    }
}

/// The roles that count are those of the credential and those that the configuration gives the consumer.
fn authorize(
    policy: &Policy,
    route: &RoutePolicy,
    (head, peer): (&RequestHead<'_, '_>, &Peer<'_>),
    (identity, consumer): (Option<&Identity>, Option<&ConsumerPolicy>),
) -> Result<(), Refusal> {
    let own = identity.into_iter().flat_map(|identity| &identity.roles);
    let roles = own.chain(consumer.into_iter().flat_map(|consumer| &consumer.roles)).copied();
    if let Some(identity) = identity {
        route.need.check(head.method, roles.clone()).map_err(Refusal::Forbidden)?;
        let lacks = |scope: &&Arc<str>| !identity.scopes.iter().any(|held| **held == ***scope);
        if let Some(scope) = route.scopes.iter().find(lacks) {
            let (scope, challenge) = (scope.clone(), route.challenge_insufficient_scope.clone());
            return Err(Refusal::Forbidden(Forbidden::MissingScope { scope, challenge }));
        }
    }
    let Some(when) = &route.when else { return Ok(()) };
    let known = identity.map(|identity| Known {
        consumer: &identity.consumer,
        auth: policy.auth_name(identity.auth),
        claims: &identity.claims,
        scopes: &identity.scopes,
        roles: policy.with_inherited(roles),
    });
    let (path, method) = (&*head.path, head.method);
    let facts = Facts { path, method, source: peer.source, certificate: peer.certificate, known };
    condition::check(when, &facts).map_err(|unmet| Refusal::Forbidden(unmet.into()))
}

/// Takes a token from every limit that applies, in their order, until one refuses. A token that an earlier limit
/// gave is not given back.
struct Meter<'a> {
    policy: &'a Policy,
    route_id: RouteId,
    route: &'a RoutePolicy,
    head: &'a RequestHead<'a, 'a>,
    peer: &'a Peer<'a>,
    limiter: &'a Table,
    now: Now,
    dry_run: Option<u16>,
}

impl Meter<'_> {
    /// The route's limits that need no identity.
    fn admit_unknown(&mut self) -> Result<(), Refusal> {
        let route = self.route;
        route.limits.iter().try_for_each(|id| match self.policy.limits.get(usize::from(*id)) {
            Some(limit) if limit.per != LimitPer::Consumer => self.admit(*id, limit, None),
            _ => Ok(()),
        })
    }

    /// The route's limits per consumer, and what the consumer has of its own.
    fn admit_known(
        &mut self,
        identity: Option<&Identity>,
        consumer: Option<&ConsumerPolicy>,
    ) -> Result<(), Refusal> {
        let route = self.route;
        let own = consumer
            .into_iter()
            .flat_map(|consumer| &consumer.limits)
            .filter(|id| !route.limits.contains(id));
        let own = own.map(|id| (id, true));
        route.limits.iter().map(|id| (id, false)).chain(own).try_for_each(|(id, own)| {
            match self.policy.limits.get(usize::from(*id)) {
                Some(limit) if own || limit.per == LimitPer::Consumer => self.admit(*id, limit, identity),
                _ => Ok(()),
            }
        })
    }

    fn admit(&mut self, id: u16, limit: &LimitPolicy, identity: Option<&Identity>) -> Result<(), Refusal> {
        let source = || Subject::source(self.peer.source);
        let subject = match &limit.per {
            LimitPer::Source => source(),
            LimitPer::Route => Subject::Route(self.policy.route_name(self.route_id).map_or("", |name| name)),
            LimitPer::Consumer => {
                identity.map_or_else(source, |identity| Subject::Consumer(&identity.consumer))
            }
            // Without the header a client shares a bucket with nobody that it could starve, and can't dodge either.
            LimitPer::Header(name) => self.head.headers.get(name).map_or_else(source, Subject::Header),
        };
        let key = self.limiter.key(&limit.name, subject);
        match self.limiter.admit(key, limit.bucket, self.now.monotonic_ns) {
            Ok(()) => Ok(()),
            Err(_) if limit.dry_run => {
                self.dry_run.get_or_insert(id);
                Ok(())
            }
            Err(wait_ns) => {
                Err(Refusal::Limited { limit: id, retry_after_s: wait_ns.div_ceil(1_000_000_000).max(1) })
            }
        }
    }
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
