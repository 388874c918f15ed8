//! Whether a request passes: source, policy, body size. The same for every protocol that a client can speak.
//!
//! Comes in: a head that has one meaning. Goes out: the head for the server and what forwarding has to know, a route's
//! own answer, or a refusal. It never touches the client's stream.

use std::{fmt::Write as _, net::IpAddr, rc::Rc, sync::Arc};

use super::{
    introduce::Ends,
    record::Record,
    reshape::{self, OwnAnswer},
    secured::Secured,
    worker::{Current, Manners, Worker},
};
use crate::{
    codec::{self, BodyLength, RequestEdit, RequestHead, TraceParent, Version},
    config::Upstream,
    decide::{
        self, Act, Answered, Halt, Now, Peer, Plan, Policy, Question, Refusal, Refused, RoutePolicy, State,
        compress::{self, Agreed},
        oidc::{cookie, visit::Visit},
    },
    net::{nanos, unix_s},
    respond::{self, Answer},
    telemetry::Bound,
};

/// Who asks, and where.
pub(super) struct Caller<'w> {
    pub(super) worker: &'w Worker,
    pub(super) manners: &'w Manners,
    pub(super) ends: &'w Ends,
    pub(super) scheme: &'static str,
    /// What the TLS handshake has settled; none in clear.
    pub(super) secured: Option<&'w Secured>,
}

/// What becomes of a request.
pub(super) enum Verdict {
    /// It is weighed again when this is answered.
    Ask(Question),
    /// What the gateway itself says to this, and to the body behind it, is the answer.
    Visit(Box<Visit>, BodyLength),
    Forward(Box<Approved>),
    Respond(OwnAnswer),
    Refuse(Answer, Reach),
}

/// How far a refusal reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// This request.
    Request,
    /// Whatever comes behind it on its connection: its body is not worth reading.
    Connection,
}

/// A request that may pass, encoded.
#[expect(clippy::struct_excessive_bools, reason = "four independent facts, each read by name")]
pub(super) struct Approved {
    pub(super) upstream: usize,
    pub(super) head: Vec<u8>,
    pub(super) body: BodyLength,
    pub(super) body_bytes_max: u64,
    pub(super) request_timeout_ns: u64,
    pub(super) expect_continue: bool,
    pub(super) idempotent: bool,
    pub(super) is_head: bool,
    pub(super) version: Version,
    pub(super) keep_alive: bool,
    pub(super) response_lines: Vec<u8>,
    pub(super) compress: Agreed,
    pub(super) plan: Plan,
}

impl Approved {
    /// Where it goes, and by which route's rules.
    pub(super) fn way<'c>(&self, current: &'c Current) -> Option<(&'c Upstream, &'c RoutePolicy)> {
        let upstream = current.snapshot.config.upstreams.get(self.upstream)?;
        Some((upstream, current.snapshot.policy.route(self.plan.route)?))
    }
}

impl Caller<'_> {
    /// Decides, and encodes what goes on.
    pub(super) fn weigh(
        &self,
        current: &Rc<Current>,
        head: &RequestHead<'_, '_>,
        answered: &[Answered],
        record: &mut Record,
    ) -> Verdict {
        let listener = &self.manners.settings;
        let (source, by_header) = decide::source_of(
            self.ends.peer,
            &listener.trusted_proxies,
            head.headers.all("x-forwarded-for"),
            head.headers.all("forwarded"),
        );
        let parent = TraceParent::of(&head.headers);
        if let Some(parent) = parent {
            record.belongs_to(parent);
        }
        if let Some(id) = self.peer_is_trusted().then(|| decide::told_request_id(&head.headers)).flatten() {
            record.is_called(id, &self.worker.tools.heads);
        }
        // The packets of whom a forwarder names come from the forwarder, as with a header.
        let source_is_forwarded = by_header || self.ends.is_told;
        let is_audited = self.worker.refusals.borrow().is_on();
        let is_logged = is_audited || self.worker.access.borrow().is_on();
        let log = is_logged.then_some(&self.worker.tools.heads);
        record.saw(head, (source, source_is_forwarded), log);
        if self.worker.tools.buffers.are_short() {
            self.worker.cells.bound_hit(Bound::Buffers);
            return Verdict::Refuse(respond::overloaded(), Reach::Request);
        }
        let now = Now { monotonic_ns: record.begun_ns, unix_s: unix_s() };
        if self.secured.is_some_and(|secured| !secured.may_serve(decide::host_of(head.authority))) {
            return Verdict::Refuse(respond::misdirected(), Reach::Request);
        }
        let peer = Peer {
            source,
            source_is_forwarded,
            tls: self.secured.is_some(),
            certificate: self.secured.and_then(Secured::client_certificate),
        };
        let policy = &current.snapshot.policy;
        let memory = &mut *current.memory.borrow_mut();
        let Worker { limiter, replays, .. } = self.worker;
        let keys = &current.snapshot.keys;
        let mut state = State { limiter, memory, keys, replays, answered };
        let decided = match decide::decide(policy, head, &peer, &mut state, now) {
            Ok(plan) => Ok(plan),
            Err(Halt::Refused(refused)) => Err(refused),
            Err(Halt::Ask(_, question)) => return Verdict::Ask(question),
            Err(Halt::Visit(route, mut visit)) => {
                record.route = Some(route);
                let asked = self.asked(head);
                visit.origin = format!("{}://{}", asked.proto, asked.host);
                return Verdict::Visit(visit, head.body);
            }
        };
        record.route = decided.as_ref().map_or_else(|refused| refused.route, |plan| Some(plan.route));
        let route = record.route.and_then(|route| policy.route(route));
        record.lines = route
            .map(|route| reshape::route_lines(&self.worker.tools.heads, route, head))
            .unwrap_or_default();
        match decided {
            Err(Refused { refusal, identity, .. }) => {
                if is_audited {
                    record.why = refusal.why().map(String::into_boxed_str);
                }
                record.identity = identity;
                Verdict::Refuse(respond::refused(&refusal), Reach::Request)
            }
            Ok(plan) => {
                if plan.identity.is_some() && !source_is_forwarded {
                    self.worker.note_proven(source, &current.snapshot, record.begun_ns);
                }
                let max = plan.body_bytes_max.unwrap_or(listener.limits.body_size_bytes);
                if matches!(head.body, BodyLength::Exact(announced) if announced > max) {
                    let refusal = Refusal::BodyTooLarge { max };
                    return Verdict::Refuse(respond::refused(&refusal), Reach::Connection);
                }
                if let Some(renewed) = plan.identity.as_ref().and_then(|identity| identity.renewed.as_ref()) {
                    record.lines.extend_from_slice(renewed.as_bytes());
                }
                record.identity.clone_from(&plan.identity);
                let heads = &self.worker.tools.heads;
                let query = decide::query::without(head.query, &plan.remove_query);
                let values = reshape::values_of(head, query.as_deref(), &plan, record);
                let verdict = match &plan.action {
                    Act::Respond(respond) => {
                        Ok(Verdict::Respond(OwnAnswer::fixed(heads, respond, &values, &record.lines)))
                    }
                    Act::Redirect(to) => {
                        OwnAnswer::redirect(heads, to, &values, &record.lines).map(Verdict::Respond)
                    }
                    Act::Preflight => {
                        let rules = route.and_then(|route| route.cors.as_deref());
                        Ok(Verdict::Respond(OwnAnswer::preflight(heads, rules, head)))
                    }
                    Act::Upstream(_) if codec::max_forwards(head) == Some(0) => {
                        Ok(Verdict::Respond(OwnAnswer::end_of_the_way(heads, &record.lines)))
                    }
                    Act::Upstream(upstream) => {
                        let upstream = *upstream;
                        self.approve((head, parent), plan, upstream, policy, record).map(Verdict::Forward)
                    }
                };
                verdict.unwrap_or_else(|refusal| Verdict::Refuse(respond::refused(&refusal), Reach::Request))
            }
        }
    }

    /// Whether the other end may speak for others.
    fn peer_is_trusted(&self) -> bool {
        let peer = self.ends.peer;
        self.manners.settings.trusted_proxies.iter().any(|prefix| prefix.contains(&peer))
    }

    /// What the client has asked for, and under which scheme.
    fn asked<'b>(&self, head: &RequestHead<'_, 'b>) -> decide::Asked<'b> {
        let asked = decide::Asked { proto: self.scheme, host: head.authority };
        if self.peer_is_trusted() { asked.or_told(&head.headers) } else { asked }
    }

    /// Encodes the head for the server and keeps what forwarding needs to know of it.
    ///
    /// # Errors
    /// What the route makes of it is unclear.
    fn approve(
        &self,
        (head, parent): (&RequestHead<'_, '_>, Option<TraceParent<'_>>),
        plan: Plan,
        upstream: usize,
        policy: &Policy,
        record: &Record,
    ) -> Result<Box<Approved>, Refusal> {
        let heads = &self.worker.tools.heads;
        let route = policy.route(plan.route).ok_or(Refusal::NoRoute)?;
        let query = decide::query::without(head.query, &plan.remove_query);
        let values = reshape::values_of(head, query.as_deref(), &plan, record);
        let mut scratch = heads.take();
        let rewritten = decide::edit::rewrite(&mut scratch, route, &values)?;
        let response_lines = reshape::response_lines(heads, route, &values, &record.lines);
        let mut out = heads.take();
        let (peer, listener) = (self.ends.peer, &self.manners.settings);
        let forwarded_for = forwarded_for(head, (record.source, peer), self.peer_is_trusted());
        let asked = self.asked(head);
        let identity = plan.identity.as_deref().map_or(&[][..], |identity| &identity.set);
        let mut set: Vec<(&str, &str)> =
            identity.iter().map(|(name, value)| (&**name, value.as_str())).collect();
        if plan.websocket.is_some() {
            set.extend(codec::websocket::UPGRADE_FIELDS);
        }
        // Also on a route that lets anybody in: a browser shows its cookies everywhere.
        let cookies =
            policy.has_sessions().then(|| cookie::without_ours(head.headers.all("cookie"))).flatten();
        let mut remove: &[Arc<str>] = &plan.remove;
        let without_cookies: Vec<Arc<str>>;
        match cookies.as_deref() {
            None => {}
            Some("") => {
                without_cookies = plan.remove.iter().cloned().chain(["cookie".into()]).collect();
                remove = &without_cookies;
            }
            Some(rest) => set.push(("Cookie", rest)),
        }
        let edit = RequestEdit {
            forwarded_for: &forwarded_for,
            proto: asked.proto,
            forwarded_host: asked.host,
            request_id: record.id(),
            trace: record.trace(parent, self.worker.next_random()),
            query: values.query,
            remove,
            set: &set,
            rewrite: codec::Rewrite { path: rewritten.path, host: rewritten.host, lines: rewritten.lines },
            body: head.body,
        };
        codec::upstream_request(&mut out, head, &edit);
        heads.give(scratch);
        let timeout = plan.request_timeout.unwrap_or(listener.timeouts.request);
        let called_for = if record.is_grpc { codec::grpc_timeout(&head.headers) } else { None };
        Ok(Box::new(Approved {
            upstream,
            head: out,
            body: head.body,
            body_bytes_max: plan.body_bytes_max.unwrap_or(listener.limits.body_size_bytes),
            request_timeout_ns: nanos(called_for.map_or(timeout, |called_for| called_for.min(timeout))),
            expect_continue: head.expect_continue,
            idempotent: is_idempotent(head.method),
            is_head: head.method == "HEAD",
            version: head.version,
            keep_alive: head.keep_alive,
            response_lines,
            compress: compress::negotiate(head, &route.compress),
            plan,
        }))
    }
}

/// RFC 9110 §9.2.2
fn is_idempotent(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE")
}

/// The `X-Forwarded-For` to send: the client's own list only from a trusted proxy, or whom that names in `Forwarded`,
/// then the peer.
fn forwarded_for(head: &RequestHead<'_, '_>, (source, peer): (IpAddr, IpAddr), is_trusted: bool) -> String {
    let mut list = String::with_capacity(48);
    if is_trusted {
        for value in head.headers.all("x-forwarded-for") {
            if let Ok(value) = str::from_utf8(value) {
                list.push_str(value);
                list.push_str(", ");
            }
        }
    }
    // Writing to a String does not fail.
    if list.is_empty() && source != peer {
        let _ = write!(list, "{source}, ");
    }
    let _ = write!(list, "{peer}");
    list
}
