//! What would happen to a request of somebody, and why: `portcullis can`.
//!
//! Comes in: a request and who is said to make it, by a credential of which this or that is said or by an API key that
//! there is. Goes out: what the route asks for, what they have, and the decision, which is made by the same code as that
//! of a request; only that nobody is asked to prove who they are.

use std::{hash::RandomState, rc::Rc, sync::Arc};

use super::{
    AuthFailure, Halt, Identity, Memory, Now, Peer, Plan, Policy, Refused, RouteId, State,
    api_key::KeyFault,
    authn::Lack,
    authz::RoleId,
    claims::{self, Json},
    cors, find_route,
    key_table::{ApiKey, KeyTables},
    limit::Table,
    replay::Replays,
    weigh,
};
use crate::{codec::RequestHead, config};

/// Who is said to ask.
#[derive(Debug, Clone)]
pub enum Asker {
    /// Somebody with a credential that says this.
    Somebody(Said),
    /// Whoever holds this key of an auth; none: a key that the auth does not know any more.
    Holder(u16, Option<Arc<ApiKey>>),
}

/// What a credential is said to say.
#[derive(Debug, Clone, Default)]
pub struct Said {
    /// Name of the consumer; the claim `sub` as well, unless `claims` says otherwise.
    pub consumer: String,
    /// Roles of the credential, beside those that the configuration gives the consumer.
    pub roles: Vec<String>,
    /// Scopes of the credential.
    pub scopes: Vec<String>,
    /// Claims: a name, and a value in JSON or as it stands.
    pub claims: Vec<(String, String)>,
}

/// What there is to say.
#[derive(Debug)]
pub struct Case {
    /// What becomes of the request; none: it is for a page of the gateway's own login.
    pub decision: Result<Option<Plan>, Refused>,
    /// What the route asks for; none where no route takes the request.
    pub asked: Option<Asked>,
    /// Every role that they have.
    pub roles: Vec<HeldRole>,
}

/// What a route asks for.
#[derive(Debug)]
pub struct Asked {
    /// The route's name.
    pub route: String,
    /// Names of its auths; none: it is public.
    pub auths: Vec<String>,
    /// The permission for the method, with the roles that they have and that hold it.
    pub permission: Option<(String, Vec<String>)>,
    /// Scopes, and whether they have it.
    pub scopes: Vec<(String, bool)>,
    /// The condition, as it was written.
    pub when: Option<String>,
}

/// A role, and how they came to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldRole {
    /// Its name.
    pub name: String,
    /// Where it is from.
    pub through: Through,
}

/// How somebody came to a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Through {
    /// Their credential says so.
    Credential,
    /// `[consumers.*]` says so.
    Consumer,
    /// This role inherits from it.
    Role(String),
}

/// Who they say they are is nobody that the configuration knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoAsker {
    /// A role that there is not.
    #[error("no role is called {0:?}")]
    Role(String),
    /// A claim that stands twice.
    #[error("the claim {0:?} is given twice")]
    Claim(String),
}

/// What would happen to `head` if `asker` sent it.
///
/// # Errors
/// There is no such asker.
pub fn explain(
    policy: &Policy,
    head: &RequestHead<'_, '_>,
    peer: &Peer<'_>,
    asker: &Asker,
    now: Now,
) -> Result<Case, NoAsker> {
    let identity = match asker {
        Asker::Somebody(said) => Ok(identity(policy, said)?),
        Asker::Holder(auth, key) => {
            let known = key.as_ref().ok_or(KeyFault::Unknown);
            let known = known.and_then(|key| key.identity(&|name| policy.role(name), now.unix_s));
            known.map(|identity| Identity { auth: *auth, ..identity }).map_err(AuthFailure::Key)
        }
    };
    let keyed = RandomState::new();
    let limiter = Table::new(1024, keyed.clone());
    let mut memory = Memory::new(0);
    let (keys, replays) = (KeyTables::default(), Replays::new(keyed));
    let mut state =
        State { limiter: &limiter, memory: &mut memory, keys: &keys, replays: &replays, answered: &[] };
    let decided = weigh(policy, (head, peer), &mut state, now, |route, _| {
        if route.public {
            return Ok(None);
        }
        let mut identity = identity.clone().map_err(Lack::Failed)?;
        if let Asker::Somebody(_) = asker {
            identity.auth = route.auths.first().copied().unwrap_or_default();
        }
        Ok(Some(Rc::new(identity)))
    });
    let decision = match decided {
        Ok(plan) => Ok(Some(plan)),
        Err(Halt::Refused(refused)) => Err(refused),
        // Nobody was asked for a credential, so that it is no login either.
        Err(Halt::Ask(..) | Halt::Visit(..)) => Ok(None),
    };
    let identity = identity.unwrap_or_default();
    let held = held_roles(policy, &identity);
    let asked = route_of(policy, head).and_then(|id| {
        let (route, name) = (policy.route(id)?, policy.route_name(id)?);
        let grant = route.need.asked(head.method).ok().flatten();
        let holds = |(role, _): &&(RoleId, HeldRole)| grant.is_some_and(|grant| grant.is_granted_by(*role));
        let granted_by = || held.iter().filter(holds).map(|(_, held)| held.name.clone()).collect();
        let has = |scope: &str| identity.scopes.iter().any(|held| **held == *scope);
        Some(Asked {
            route: name.to_string(),
            auths: policy.auths_of(route).map(|(_, auth)| auth.name().to_owned()).collect(),
            permission: grant.map(|grant| (grant.permission().to_owned(), granted_by())),
            scopes: route.scopes.iter().map(|scope| (scope.to_string(), has(scope))).collect(),
            when: route.when.as_ref().map(|when| when.text().to_owned()),
        })
    });
    Ok(Case { decision, asked, roles: held.into_iter().map(|(_, held)| held).collect() })
}

/// The auths that the route of `head` takes, as indices into the configuration's; none: it is public, or there is no
/// route.
pub fn auths(policy: &Policy, head: &RequestHead<'_, '_>) -> Vec<u16> {
    let route = route_of(policy, head).and_then(|id| policy.route(id));
    route.map(|route| route.auths.to_vec()).unwrap_or_default()
}

fn route_of(policy: &Policy, head: &RequestHead<'_, '_>) -> Option<RouteId> {
    cors::preflight_route(policy, head).map_or_else(|| find_route(policy, head).ok(), Some)
}

fn identity(policy: &Policy, asker: &Said) -> Result<Identity, NoAsker> {
    let role = |name: &String| policy.role(name).ok_or_else(|| NoAsker::Role(name.clone()));
    let mut claims = claims::Claims::new();
    for (name, value) in &asker.claims {
        let value = claims::value(value.as_bytes()).unwrap_or_else(|| Json::Text(value.clone()));
        if claims.insert(name.clone(), value).is_some() {
            return Err(NoAsker::Claim(name.clone()));
        }
    }
    claims.entry("sub".to_owned()).or_insert_with(|| Json::Text(asker.consumer.clone()));
    Ok(Identity {
        consumer: asker.consumer.as_str().into(),
        roles: asker.roles.iter().map(role).collect::<Result<_, _>>()?,
        scopes: asker.scopes.iter().map(|scope| scope.as_str().into()).collect(),
        claims,
        good_until_s: u64::MAX,
        ..Identity::default()
    })
}

/// Each once: as it was given, rather than as it was inherited.
fn held_roles(policy: &Policy, identity: &Identity) -> Vec<(RoleId, HeldRole)> {
    let of_consumer = policy.consumer(&identity.consumer);
    let given = identity.roles.iter().map(|role| (*role, Through::Credential));
    let given = given.chain(
        of_consumer.into_iter().flat_map(|consumer| &consumer.roles).map(|role| (*role, Through::Consumer)),
    );
    let mut held: Vec<(RoleId, HeldRole)> = Vec::new();
    let mut add = |role: RoleId, through: Through| {
        if let Some((name, _)) = policy.lineage(role)
            && held.iter().all(|(known, _)| *known != role)
        {
            held.push((role, HeldRole { name: name.to_owned(), through }));
        }
    };
    let given: Vec<_> = given.collect();
    for (role, through) in &given {
        add(*role, through.clone());
    }
    for (name, inherits) in given.iter().filter_map(|(role, _)| policy.lineage(*role)) {
        for role in inherits {
            add(*role, Through::Role(name.to_owned()));
        }
    }
    held
}

/// Where a request that may pass goes, in words.
pub fn destination(plan: Option<&Plan>, config: &config::Config) -> String {
    let Some(plan) = plan else { return "a page of the gateway's own login".to_owned() };
    match &plan.action {
        super::Act::Upstream(upstream) => {
            let name = config.upstreams.get(*upstream).map_or("", |upstream| &upstream.name);
            format!("upstream {name}")
        }
        super::Act::Respond(respond) => format!("a fixed answer of {}", respond.status),
        super::Act::Redirect(redirect) => format!("a redirect of {}", redirect.status),
        super::Act::Preflight => "the answer to a CORS preflight".to_owned(),
    }
}
