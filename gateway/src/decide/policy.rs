//! The compiled policy: everything that a decision looks up, with every name resolved to an index.
//!
//! Comes in: a checked [`config::Config`]. Goes out: a [`Policy`] that never changes, or all reasons why there is
//! none. It is swapped whole. Routes that ask for the same share their rules, so that those of a hundred thousand routes
//! stay in the cache.

use std::{
    collections::{BTreeSet, HashMap},
    hash::{BuildHasherDefault, DefaultHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use super::{
    authn::{self, AuthFailure},
    authz::{Need, RoleId},
    cors,
    dpop::ProofFault,
    issuer::Issuer,
    jwt::TokenFault,
    limit::Bucket,
    oidc::{
        Sessions,
        revoked::{self, Revoked},
    },
    route::{RouteId, Router},
};
use crate::{
    codec::{path::canonical, target::check_authority},
    config,
};

/// Auths, limits or roles: fewer than an index of 16 bits can count.
const TABLE_LEN_MAX: usize = u16::MAX as usize - 1;

// Routes have an index of 32 bits.
const _: () = assert!(config::ROUTES_MAX < RouteId::MAX as usize);

/// Everything that decisions look up.
pub struct Policy {
    pub(super) router: Router,
    /// By [`RouteId`].
    names: Box<[Arc<str>]>,
    /// By [`RouteId`]: index into `rules`.
    rules_of: Box<[u32]>,
    rules: Box<[RoutePolicy]>,
    pub(super) auths: Box<[authn::Auth]>,
    has_sessions: bool,
    pub(super) limits: Box<[LimitPolicy]>,
    /// Names of roles and their ids, in order of the names.
    roles: Box<[(Arc<str>, RoleId)]>,
    /// By [`RoleId`].
    lineage: Box<[Lineage]>,
    /// In order of their names.
    consumers: Box<[ConsumerPolicy]>,
    /// Headers that only the gateway may set, lower case, in order.
    pub(super) identity_headers: Arc<[Arc<str>]>,
}

/// The rules of one route, or of several that have the same.
pub struct RoutePolicy {
    /// Where requests go.
    pub action: config::Action,
    /// Replaces the listener's `body_size`.
    pub body_bytes_max: Option<u64>,
    /// Replaces the listener's `request` timeout.
    pub request_timeout: Option<Duration>,
    /// Fields of the upstream's responses that are not passed on: lower case.
    pub response_removed: Arc<[Arc<str>]>,
    /// Content codings that it offers for responses, the best first.
    pub compress: Box<[config::Coding]>,
    /// Which pages of other origins may read the answers.
    pub cors: Option<Arc<config::Cors>>,
    pub(super) rewrite: Option<Arc<config::Rewrite>>,
    /// Settings of its WebSockets, where it has any.
    pub(super) websocket: Option<config::WebSocket>,
    pub(super) public: bool,
    pub(super) auths: Box<[u16]>,
    pub(super) need: Need,
    /// All of them are needed.
    pub(super) scopes: Box<[Arc<str>]>,
    pub(super) when: Option<Arc<config::Condition>>,
    /// Value of `WWW-Authenticate` where a scope is missing; none where no token is taken.
    pub(super) challenge_insufficient_scope: Option<Arc<str>>,
    pub(super) limits: Box<[u16]>,
    /// What a client's field of these names would say stays here: lower case, in order.
    pub(super) remove: Arc<[Arc<str>]>,
    /// What of its query stays here: parameters that carry a credential.
    pub(super) remove_query: Arc<[Arc<str>]>,
    /// Lower case; empty: any.
    pub(super) allow_types: Box<[Arc<str>]>,
    challenge: Arc<str>,
    challenge_invalid_token: Arc<str>,
    challenge_invalid_proof: Arc<str>,
}

pub(super) struct LimitPolicy {
    pub(super) name: Arc<str>,
    pub(super) per: config::LimitPer,
    pub(super) bucket: Bucket,
    pub(super) dry_run: bool,
}

pub(super) struct ConsumerPolicy {
    name: Arc<str>,
    pub(super) roles: Box<[RoleId]>,
    pub(super) limits: Box<[u16]>,
}

/// A role and those that it inherits from, near or far.
struct Lineage {
    name: Arc<str>,
    inherits: Box<[RoleId]>,
}

impl Lineage {
    fn of(role: &config::Role) -> Self {
        Self { name: role.name.clone(), inherits: indices(&role.inherits) }
    }
}

/// Why a checked configuration still makes no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// A path pattern that could never be matched as it was meant.
    #[error("routes.{route}.path: {reason}")]
    Path {
        /// Name of the route.
        route: Arc<str>,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A host pattern that could never match.
    #[error("routes.{route}.hosts: {reason}")]
    Host {
        /// Name of the route.
        route: Arc<str>,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Two routes of the same host, path and method: neither is more specific.
    #[error("routes.{second}: routes.{first} already takes the same host, path and method")]
    SameRoute {
        /// The route that came first.
        first: Arc<str>,
        /// The one that clashes with it.
        second: Arc<str>,
    },
    /// A route that would let nobody in, or everybody by mistake.
    #[error("routes.{route}: {reason}")]
    Access {
        /// Name of the route.
        route: Arc<str>,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A rewrite or a redirect that could never come out well.
    #[error("routes.{route}: {reason}")]
    Edit {
        /// Name of the route.
        route: Arc<str>,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Keys that can't be used.
    #[error("auth.{auth}: {reason}")]
    Auth {
        /// Name of the auth.
        auth: Arc<str>,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// More of one kind than an index can tell apart.
    #[error("{table}: more than {TABLE_LEN_MAX}")]
    TooMany {
        /// Which table.
        table: &'static str,
    },
}

impl Policy {
    /// Compiles a configuration.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn compile(config: &config::Config) -> Result<Policy, Vec<PolicyError>> {
        let mut errors = too_many(config);
        if !errors.is_empty() {
            return Err(errors);
        }
        let roles = sorted(
            (0..).zip(&config.roles).map(|(id, role)| (role.name.clone(), id)).collect(),
            |(name, _)| name,
        );
        let mut auths = Vec::new();
        for auth in &config.auths {
            match authn::Auth::compile(auth) {
                Ok(auth) => auths.push(auth),
                Err(reason) => errors.push(PolicyError::Auth { auth: auth.name.clone(), reason }),
            }
        }
        let has_sessions = auths.iter().any(|auth| auth.sessions().is_some());
        if has_sessions {
            let revoked = Arc::new(Revoked::new(revoked::MARKS_MAX, RandomState::new()));
            auths.iter_mut().filter_map(authn::Auth::sessions_mut).for_each(|own| own.keep_revoked(&revoked));
        }
        let router = Router::compile(&config.routes).map_err(|more| errors.extend(more));
        errors.extend(config.routes.iter().filter_map(access_fault));
        let identity_headers = identity_headers(&config.auths);
        errors.extend(config.routes.iter().filter_map(|route| edit_fault(route, &identity_headers)));
        let (Ok(router), true) = (router, errors.is_empty()) else { return Err(errors) };
        let (rules, rules_of) = shared_rules(&config.routes, |route| {
            RoutePolicy::compile(route, config, &auths, &identity_headers)
        });
        Ok(Policy {
            router,
            names: config.routes.iter().map(|route| route.name.clone()).collect(),
            rules_of,
            rules,
            limits: config.limits.iter().map(LimitPolicy::compile).collect(),
            consumers: sorted(config.consumers.iter().map(ConsumerPolicy::compile).collect(), |c| &c.name),
            identity_headers,
            auths: auths.into(),
            lineage: config.roles.iter().map(Lineage::of).collect(),
            has_sessions,
            roles,
        })
    }

    /// What a route asks for and does.
    pub fn route(&self, route: RouteId) -> Option<&RoutePolicy> {
        self.rules.get(*self.rules_of.get(route as usize)? as usize)
    }

    /// A route's name.
    pub fn route_name(&self, route: RouteId) -> Option<&Arc<str>> {
        self.names.get(route as usize)
    }

    /// Headers that only the gateway may set: lower case, in order, each once.
    pub fn identity_headers(&self) -> &Arc<[Arc<str>]> {
        &self.identity_headers
    }

    /// A role by its name.
    pub fn role(&self, name: &str) -> Option<RoleId> {
        role_named(&self.roles, name)
    }

    /// An auth by its index into the configuration's.
    pub fn auth(&self, auth: u16) -> Option<&authn::Auth> {
        self.auths.get(usize::from(auth))
    }

    /// All auths, in the order of the configuration's.
    pub fn auths(&self) -> &[authn::Auth] {
        &self.auths
    }

    /// Takes over the issuers of `before` that this one has too, with their keys and whoever asks them, and what was
    /// counted. Auths that go by the same issuer share it.
    pub fn keep_issuers(&mut self, before: Option<&Policy>) {
        if let Some(revoked) = before.and_then(Policy::revoked) {
            self.auths
                .iter_mut()
                .filter_map(authn::Auth::sessions_mut)
                .for_each(|own| own.keep_revoked(revoked));
        }
        let before = || before.into_iter().flat_map(|policy| &policy.auths);
        for auth in &mut self.auths {
            let same = before().find(|other| other.name() == auth.name()).and_then(authn::Auth::opaque);
            if let (Some(opaque), Some(same)) = (auth.opaque_mut(), same) {
                opaque.tally = Arc::clone(&same.tally);
            }
        }
        let mut known: Vec<Arc<Issuer>> = before().filter_map(authn::Auth::issuer).cloned().collect();
        for issuer in self.auths.iter_mut().filter_map(authn::Auth::issuer_mut) {
            match known.iter().find(|known| known.source() == issuer.source()) {
                Some(same) => *issuer = Arc::clone(same),
                None => known.push(Arc::clone(issuer)),
            }
        }
    }

    /// Sessions that are over, of all auths; none: there are no sessions.
    pub fn revoked(&self) -> Option<&Arc<Revoked>> {
        self.auths.iter().find_map(authn::Auth::sessions).map(Sessions::revoked)
    }

    /// A role's name, and the roles that it inherits from.
    pub fn lineage(&self, role: RoleId) -> Option<(&str, &[RoleId])> {
        self.lineage.get(usize::from(role)).map(|lineage| (&*lineage.name, &*lineage.inherits))
    }

    /// Names of roles and of those that they inherit from, each once.
    pub(super) fn with_inherited(&self, roles: impl Iterator<Item = RoleId>) -> Vec<&str> {
        let mut names = Vec::new();
        for (name, inherits) in roles.filter_map(|role| self.lineage(role)) {
            let inherited = inherits.iter().filter_map(|role| self.lineage(*role)).map(|(name, _)| name);
            for name in std::iter::once(name).chain(inherited) {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        names
    }

    pub(super) fn auth_name(&self, auth: u16) -> &str {
        self.auths.get(usize::from(auth)).map_or("", |auth| auth.name())
    }

    pub(super) fn consumer(&self, name: &str) -> Option<&ConsumerPolicy> {
        let at = self.consumers.binary_search_by(|consumer| (*consumer.name).cmp(name)).ok()?;
        self.consumers.get(at)
    }

    /// The auth of a route that a browser can log in with.
    pub(super) fn login_of(&self, route: &RoutePolicy) -> Option<u16> {
        self.auths_of(route).find(|(_, auth)| auth.sessions().is_some()).map(|(id, _)| id)
    }

    /// Whether browsers have cookies that are no business of an upstream's.
    pub fn has_sessions(&self) -> bool {
        self.has_sessions
    }

    pub(super) fn auths_of<'p>(
        &'p self,
        route: &'p RoutePolicy,
    ) -> impl Iterator<Item = (u16, &'p authn::Auth)> {
        route.auths.iter().filter_map(|auth| Some((*auth, self.auths.get(usize::from(*auth))?)))
    }
}

impl RoutePolicy {
    fn compile(
        route: &config::Route,
        config: &config::Config,
        auths: &[authn::Auth],
        identity_headers: &[Arc<str>],
    ) -> RoutePolicy {
        let challenge =
            |after| authn::challenge(route.auths.iter().filter_map(|auth| auths.get(*auth)), after);
        let own = || route.auths.iter().filter_map(|auth| auths.get(*auth));
        let credentials = own().flat_map(authn::Auth::kept_fields);
        let remove_query: BTreeSet<&Arc<str>> = own().filter_map(authn::Auth::kept_parameter).collect();
        let rewrite = route.rewrite.as_deref();
        let rewritten: Vec<Arc<str>> = rewrite.into_iter().flat_map(|r| r.request.removed()).collect();
        let remove: BTreeSet<&Arc<str>> =
            identity_headers.iter().chain(credentials).chain(&rewritten).collect();
        let filter = route.filter.and_then(|filter| config.filters.get(filter));
        RoutePolicy {
            action: route.action.clone(),
            body_bytes_max: route.body_size_bytes,
            request_timeout: route.request_timeout,
            response_removed: rewrite
                .into_iter()
                .flat_map(|r| r.response.removed())
                .chain(route.cors.iter().flat_map(|_| cors::FIELDS).map(Arc::from))
                .collect(),
            rewrite: route.rewrite.clone(),
            cors: route.cors.clone(),
            websocket: route.websocket.clone(),
            compress: route.compress.clone().into(),
            public: route.public,
            auths: indices(&route.auths),
            need: Need::compile(&route.permission, &config.roles),
            scopes: route.scopes.clone().into(),
            when: route.when.clone(),
            challenge_insufficient_scope: authn::challenge_insufficient_scope(
                route.auths.iter().filter_map(|auth| auths.get(*auth)),
                &route.scopes,
            ),
            limits: indices(&route.limits),
            remove: remove.into_iter().cloned().collect(),
            remove_query: remove_query.into_iter().cloned().collect(),
            allow_types: filter.map(|filter| filter.allow_types.clone().into()).unwrap_or_default(),
            challenge: challenge(AuthFailure::Absent),
            challenge_invalid_token: challenge(AuthFailure::Token(TokenFault::Malformed)),
            challenge_invalid_proof: challenge(AuthFailure::Proof(ProofFault::Absent)),
        }
    }

    /// Whether the route adds fields to the upstream's responses.
    pub fn adds_response_fields(&self) -> bool {
        let response = self.rewrite.as_ref().map(|rewrite| &rewrite.response);
        response.is_some_and(|edits| !edits.add.is_empty() || !edits.set.is_empty())
    }

    /// The value of `WWW-Authenticate` after a failure.
    pub(super) fn challenge(&self, after: AuthFailure) -> &Arc<str> {
        match after {
            AuthFailure::Token(_) => &self.challenge_invalid_token,
            AuthFailure::Proof(_) => &self.challenge_invalid_proof,
            AuthFailure::Absent
            | AuthFailure::Repeated
            | AuthFailure::Key(_)
            | AuthFailure::Password
            | AuthFailure::Session(_)
            | AuthFailure::Certificate
            | AuthFailure::Unavailable => &self.challenge,
        }
    }
}

impl LimitPolicy {
    fn compile(limit: &config::Limit) -> LimitPolicy {
        let (name, per) = (limit.name.clone(), limit.per.clone());
        LimitPolicy { name, per, bucket: Bucket::new(limit.rate), dry_run: limit.dry_run }
    }
}

impl ConsumerPolicy {
    fn compile(consumer: &config::Consumer) -> ConsumerPolicy {
        let (roles, limits) = (indices(&consumer.roles), indices(&consumer.limits));
        ConsumerPolicy { name: consumer.name.clone(), roles, limits }
    }
}

/// What routes without templates of their own can differ in.
#[derive(PartialEq, Eq, Hash)]
struct Alike<'r> {
    upstream: usize,
    access: (&'r [usize], bool, &'r config::Permission, &'r [Arc<str>]),
    limits: &'r [usize],
    filter: Option<usize>,
    request_timeout: Option<Duration>,
    body_size_bytes: Option<u64>,
    websocket: &'r Option<config::WebSocket>,
    compress: &'r [config::Coding],
}

impl<'r> Alike<'r> {
    fn of(route: &'r config::Route) -> Option<Self> {
        // Every field by name: rules must not be shared by routes that differ in one that was forgotten here.
        let config::Route {
            name: _,
            hosts: _,
            path: _,
            methods: _,
            action: config::Action::Upstream(upstream),
            auths,
            public,
            permission,
            scopes,
            // Its parameters lie where the route's path has them.
            when: None,
            limits,
            filter,
            request_timeout,
            body_size_bytes,
            rewrite: None,
            cors: None,
            websocket,
            compress,
        } = route
        else {
            return None;
        };
        Some(Self {
            upstream: *upstream,
            access: (auths, *public, permission, scopes),
            limits,
            filter: *filter,
            request_timeout: *request_timeout,
            body_size_bytes: *body_size_bytes,
            websocket,
            compress,
        })
    }
}

/// The rules of all routes, each once, and per route which of them are its own.
fn shared_rules(
    routes: &[config::Route],
    compile: impl Fn(&config::Route) -> RoutePolicy,
) -> (Box<[RoutePolicy]>, Box<[u32]>) {
    let mut rules = Vec::new();
    // Hashed without a secret: nobody but the configuration's author chooses what is in it.
    let mut known: HashMap<Alike<'_>, u32, BuildHasherDefault<DefaultHasher>> = HashMap::default();
    let mut index_of = |route| {
        let next = u32::try_from(rules.len()).unwrap_or(u32::MAX);
        let index = Alike::of(route).map_or(next, |alike| *known.entry(alike).or_insert(next));
        if index == next {
            rules.push(compile(route));
        }
        index
    };
    let rules_of = routes.iter().map(&mut index_of).collect();
    (rules.into(), rules_of)
}

fn access_fault(route: &config::Route) -> Option<PolicyError> {
    let reason = match (route.public, route.auths.is_empty(), &route.permission) {
        (false, true, _) => "nobody could get in: it wants auth or public = true",
        (true, false, _) => "public and auth contradict each other",
        (true, true, config::Permission::All(_) | config::Permission::ByMethod(_)) => {
            "a permission needs auth: on a public route nobody is known"
        }
        (true, true, _) if !route.scopes.is_empty() => "scopes need auth: on a public route nobody is known",
        _ => return None,
    };
    Some(PolicyError::Access { route: route.name.clone(), reason })
}

/// What only shows when a template is held against the codec, or against other sections.
fn edit_fault(route: &config::Route, identity_headers: &[Arc<str>]) -> Option<PolicyError> {
    let rewrite = route.rewrite.as_deref();
    let is_canonical = |template: &config::Template| {
        let sample = template.sample();
        canonical(&sample).is_ok_and(|canonical| canonical == sample)
    };
    let redirect = match &route.action {
        config::Action::Redirect(redirect) => Some(&redirect.path),
        config::Action::Upstream(_) | config::Action::Respond(_) | config::Action::Own(..) => None,
    };
    let host = rewrite.and_then(|rewrite| rewrite.host.as_ref());
    let sent = rewrite.into_iter().flat_map(|r| r.request.add.iter().chain(&r.request.set));
    let reason = if rewrite.and_then(|rewrite| rewrite.path.as_ref()).is_some_and(|path| !is_canonical(path))
    {
        "rewrite.path is not in canonical form"
    } else if redirect.is_some_and(|path| !is_canonical(path)) {
        "redirect has a path that is not in canonical form"
    } else if host.is_some_and(|host| check_authority(&host.sample()).is_err()) {
        "rewrite.set_headers sets a host that is none"
    } else if sent
        .map(|(name, _)| name.to_ascii_lowercase())
        .any(|name| identity_headers.binary_search_by(|each| (**each).cmp(name.as_str())).is_ok())
    {
        "rewrite sends a header that says who is asking, which only `forward` of an auth may set"
    } else {
        return None;
    };
    Some(PolicyError::Edit { route: route.name.clone(), reason })
}

/// Every header that some `forward` sets; all are removed from what clients send, on every route.
fn identity_headers(auths: &[config::Auth]) -> Arc<[Arc<str>]> {
    let forwards = auths.iter().filter_map(|auth| match &auth.kind {
        config::AuthKind::Jwt(rules) => Some(&rules.claims.forward),
        config::AuthKind::Introspection(rules) => Some(&rules.claims.forward),
        config::AuthKind::Oidc(rules) => Some(&rules.id_token.claims.forward),
        config::AuthKind::ApiKey(_) | config::AuthKind::Basic(_) | config::AuthKind::Mtls(_) => None,
    });
    let names: BTreeSet<Arc<str>> =
        forwards.flatten().map(|(header, _)| header.to_ascii_lowercase().into()).collect();
    names.into_iter().collect()
}

fn too_many(config: &config::Config) -> Vec<PolicyError> {
    let tables =
        [("auth", config.auths.len()), ("limits", config.limits.len()), ("roles", config.roles.len())];
    let over = tables.into_iter().filter(|(_, len)| *len > TABLE_LEN_MAX);
    over.map(|(table, _)| PolicyError::TooMany { table }).collect()
}

fn role_named(roles: &[(Arc<str>, RoleId)], name: &str) -> Option<RoleId> {
    let at = roles.binary_search_by(|(each, _)| (**each).cmp(name)).ok()?;
    roles.get(at).map(|(_, id)| *id)
}

fn sorted<T>(mut items: Vec<T>, name: impl Fn(&T) -> &Arc<str>) -> Box<[T]> {
    items.sort_by(|a, b| name(a).cmp(name(b)));
    items.into()
}

/// Indices of tables that [`too_many`] has measured.
fn indices(indices: &[usize]) -> Box<[u16]> {
    indices.iter().filter_map(|index| u16::try_from(*index).ok()).collect()
}
