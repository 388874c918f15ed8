//! A route's own answers and changes, filled in while the request's head is still in the receive buffer.

use std::sync::Arc;

use super::{record::Record, telling, worker::Worker};
use crate::{
    codec::{self, RequestHead, Telling},
    config::{Cors, Redirect, Respond},
    decide::{
        Plan, Refusal, RoutePolicy, cors,
        edit::{self, Values},
        oidc::visit::Told,
    },
    forward::Heads,
    respond,
};

/// An answer of the route's own, ready to be encoded.
pub(super) struct OwnAnswer {
    pub(super) status: u16,
    /// Its fields, each with its CRLF.
    pub(super) lines: Vec<u8>,
    /// Why it says no, in one word; empty where it does not.
    pub(super) label: &'static str,
    body: Body,
}

/// Where its body stands.
enum Body {
    None,
    Of(Arc<Respond>),
    Page(&'static str),
}

impl OwnAnswer {
    /// A fixed answer.
    pub(super) fn fixed(
        heads: &Heads,
        respond: &Arc<Respond>,
        values: &Values<'_>,
        route_lines: &[u8],
    ) -> Self {
        let mut lines = heads.take();
        lines.extend_from_slice(route_lines);
        edit::push_answer_fields(&mut lines, respond, values);
        Self::new(respond.status, lines, Body::Of(Arc::clone(respond)))
    }

    /// Where to go instead.
    pub(super) fn redirect(
        heads: &Heads,
        to: &Redirect,
        values: &Values<'_>,
        route_lines: &[u8],
    ) -> Result<Self, Refusal> {
        let mut lines = heads.take();
        lines.extend_from_slice(route_lines);
        edit::push_location(&mut lines, to, values)?;
        Ok(Self::new(to.status, lines, Body::None))
    }

    /// To an `OPTIONS` that may go no farther (RFC 9110 §7.6.2).
    pub(super) fn end_of_the_way(heads: &Heads, route_lines: &[u8]) -> Self {
        let mut lines = heads.take();
        lines.extend_from_slice(route_lines);
        Self::new(204, lines, Body::None)
    }

    /// Leave to send the request that a preflight asks about.
    pub(super) fn preflight(heads: &Heads, cors: Option<&Cors>, head: &RequestHead<'_, '_>) -> Self {
        let mut lines = heads.take();
        if let Some(cors) = cors {
            cors::push_preflight_fields(&mut lines, cors, head);
        }
        Self::new(204, lines, Body::None)
    }

    /// What a visitor of the gateway itself is told.
    pub(super) fn told(heads: &Heads, told: &Told) -> Self {
        let mut lines = heads.take();
        lines.extend_from_slice(told.lines.as_bytes());
        Self { label: told.label, ..Self::new(told.status, lines, Body::Page(told.page)) }
    }

    fn new(status: u16, lines: Vec<u8>, body: Body) -> Self {
        Self { status, lines, label: "", body }
    }

    /// Appends it, as HTTP/1.1.
    pub(super) fn encode(&self, out: &mut Vec<u8>, worker: &Worker, keep_alive: bool, record: &Record) {
        let fields = [("X-Request-Id", record.id())];
        let date = worker.date.borrow();
        let telling = Telling { lines: &self.lines, ..telling(&date, keep_alive, record) };
        codec::simple_response(
            out,
            self.status,
            respond::reason(self.status),
            &fields,
            self.body(),
            &telling,
        );
    }

    fn body(&self) -> &[u8] {
        match &self.body {
            Body::None => b"",
            Body::Of(respond) => respond.body.as_bytes(),
            Body::Page(page) => page.as_bytes(),
        }
    }
}

/// What a request says, for templates: its query without what stays here.
pub(super) fn values_of<'a>(
    head: &'a RequestHead<'_, '_>,
    query: Option<&'a str>,
    plan: &'a Plan,
    record: &'a Record,
) -> Values<'a> {
    Values {
        path: &head.path,
        query,
        authority: head.authority,
        source: record.source,
        consumer: plan.identity.as_ref().map_or("", |identity| &identity.consumer),
        request_id: record.id(),
    }
}

/// The fields that every answer on the route carries; no vector is taken where there are none.
pub(super) fn route_lines(heads: &Heads, route: &RoutePolicy, head: &RequestHead<'_, '_>) -> Vec<u8> {
    let Some(rules) = &route.cors else { return Vec::new() };
    let mut lines = heads.take();
    cors::push_fields(&mut lines, rules, head);
    lines
}

/// Those and the fields that the route adds to the upstream's response.
pub(super) fn response_lines(
    heads: &Heads,
    route: &RoutePolicy,
    values: &Values<'_>,
    route_lines: &[u8],
) -> Vec<u8> {
    if route_lines.is_empty() && !route.adds_response_fields() {
        return Vec::new();
    }
    let mut lines = heads.take();
    lines.extend_from_slice(route_lines);
    edit::push_response_fields(&mut lines, route, values);
    lines
}
