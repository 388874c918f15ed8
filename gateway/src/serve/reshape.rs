//! A route's own answers and changes, filled in while the request's head is still in the receive buffer.

use std::sync::Arc;

use super::{record::Record, telling, worker::Worker};
use crate::{
    codec::{self, RequestHead, Telling},
    config::{Redirect, Respond},
    decide::{
        Plan, Refusal, RoutePolicy,
        edit::{self, Values},
    },
    forward::Heads,
    respond,
};

/// An answer of the route's own, ready to be encoded.
pub(super) struct OwnAnswer {
    pub(super) status: u16,
    /// Its fields, each with its CRLF.
    pub(super) lines: Vec<u8>,
    /// Where its body stands.
    respond: Option<Arc<Respond>>,
}

impl OwnAnswer {
    /// A fixed answer.
    pub(super) fn fixed(heads: &Heads, respond: &Arc<Respond>, values: &Values<'_>) -> Self {
        let mut lines = heads.take();
        edit::push_answer_fields(&mut lines, respond, values);
        Self { status: respond.status, lines, respond: Some(Arc::clone(respond)) }
    }

    /// Where to go instead.
    pub(super) fn redirect(heads: &Heads, to: &Redirect, values: &Values<'_>) -> Result<Self, Refusal> {
        let mut lines = heads.take();
        edit::push_location(&mut lines, to, values)?;
        Ok(Self { status: to.status, lines, respond: None })
    }

    /// Appends it, as HTTP/1.1.
    pub(super) fn encode(&self, out: &mut Vec<u8>, worker: &Worker, keep_alive: bool, record: &Record) {
        let fields = [("X-Request-Id", record.request_id.as_str())];
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
        self.respond.as_ref().map_or(b"", |respond| respond.body.as_bytes())
    }
}

/// What a request says, for templates.
pub(super) fn values_of<'a>(head: &'a RequestHead<'_, '_>, plan: &'a Plan, record: &'a Record) -> Values<'a> {
    Values {
        path: &head.path,
        query: head.query,
        authority: head.authority,
        source: record.source,
        consumer: plan.identity.as_ref().map_or("", |identity| &identity.consumer),
        request_id: record.request_id.as_str(),
    }
}

/// The fields that the route adds to the upstream's response; no vector is taken where there are none.
pub(super) fn response_lines(heads: &Heads, route: &RoutePolicy, values: &Values<'_>) -> Vec<u8> {
    if !route.adds_response_fields() {
        return Vec::new();
    }
    let mut lines = heads.take();
    edit::push_response_fields(&mut lines, route, values);
    lines
}
