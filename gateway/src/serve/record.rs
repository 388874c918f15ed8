//! What is gathered about a request while it is under way, and handed over once when it has ended.

use std::{cell::Cell, net::IpAddr, rc::Rc, sync::Arc};

use super::{
    introduce::Ends,
    worker::{Current, Worker},
};
use crate::{
    codec::{self, RequestHead, TRACE_ID_DIGITS, Trace, TraceParent, Version},
    decide::{Identity, RouteId},
    forward::{Heads, Tools},
    net::{monotonic_ns, unix_s},
    respond::{Offence, OffenceKind, RequestId, label_index},
    telemetry::Exchange,
};

/// One request.
pub(super) struct Record {
    pub(super) begun_ns: u64,
    request_id: RequestId,
    /// What a trusted proxy calls it, which is its id then.
    told_id: Vec<u8>,
    /// The client's trace, or its own id, which is that of the trace that begins with it.
    trace_id: [u8; TRACE_ID_DIGITS],
    pub(super) source: IpAddr,
    pub(super) source_is_forwarded: bool,
    pub(super) route: Option<RouteId>,
    /// Who is asking, where that is known.
    pub(super) identity: Option<Rc<Identity>>,
    /// Upstream and server that were tried last.
    pub(super) server: Cell<Option<(usize, usize)>>,
    pub(super) is_head: bool,
    /// It is a call of gRPC, which is answered as such.
    pub(super) is_grpc: bool,
    pub(super) version: Version,
    pub(super) status: u16,
    /// Why it was refused or failed; empty where it was not.
    pub(super) label: &'static str,
    /// What the client is not told of it; only where somebody wants to know.
    pub(super) why: Option<Box<str>>,
    pub(super) offence: Option<OffenceKind>,
    pub(super) request_bytes: u64,
    pub(super) response_bytes: u64,
    pub(super) upstream_ns: u64,
    /// Fields that every answer of the route carries, refusals among them.
    pub(super) lines: Vec<u8>,
    /// When the answer's last byte was told, where that is not when the request ended: a tunnel goes on behind it.
    pub(super) answered_ns: Option<u64>,
    /// Method and path, one behind the other; empty where no log wants them.
    line: Vec<u8>,
    method_bytes: usize,
}

impl Record {
    /// Until its head has been read, a request counts as the connection's other end.
    pub(super) fn new(begun_ns: u64, request_id: RequestId, ends: &Ends) -> Self {
        Self {
            begun_ns,
            request_id,
            told_id: Vec::new(),
            trace_id: *request_id.as_bytes(),
            source: ends.peer,
            source_is_forwarded: ends.is_told,
            route: None,
            identity: None,
            server: Cell::new(None),
            is_head: false,
            is_grpc: false,
            version: Version::Http11,
            status: 0,
            label: "",
            why: None,
            offence: None,
            request_bytes: 0,
            response_bytes: 0,
            upstream_ns: 0,
            lines: Vec::new(),
            answered_ns: None,
            line: Vec::new(),
            method_bytes: 0,
        }
    }

    /// What it is called in heads, logs and answers.
    pub(super) fn id(&self) -> &str {
        match str::from_utf8(&self.told_id) {
            Ok(told) if !told.is_empty() => told,
            _ => self.request_id.as_str(),
        }
    }

    /// A trusted proxy calls it so.
    pub(super) fn is_called(&mut self, told: &str, heads: &Heads) {
        self.told_id = heads.take();
        self.told_id.extend_from_slice(told.as_bytes());
    }

    /// The trace to send on: the client's, or one that begins here. `parent_id` is not 0.
    pub(super) fn trace<'t>(&'t self, client: Option<TraceParent<'t>>, parent_id: u64) -> Trace<'t> {
        client.map_or(Trace::Own { trace_id: self.request_id.as_str(), parent_id }, Trace::Client)
    }

    /// It belongs to the client's trace.
    pub(super) fn belongs_to(&mut self, trace: TraceParent<'_>) {
        self.trace_id = *trace.trace_id();
    }

    /// The head has been read. Its texts are copied only if a log will want them.
    pub(super) fn saw(&mut self, head: &RequestHead<'_, '_>, source: (IpAddr, bool), log: Option<&Heads>) {
        (self.source, self.source_is_forwarded) = source;
        self.is_head = head.method == "HEAD";
        self.is_grpc = codec::is_grpc(&head.headers);
        self.version = head.version;
        if let Some(heads) = log {
            self.line = heads.take();
            self.line.extend_from_slice(head.method.as_bytes());
            self.line.extend_from_slice(head.path.as_bytes());
            self.method_bytes = head.method.len();
        }
    }

    /// The request has ended: counters, access log, offence, and what that says of its connection.
    pub(super) fn finish(self, worker: &Worker, current: &Current, (ends, tls): (&Ends, bool)) {
        let snapshot = &current.snapshot;
        let now_ns = monotonic_ns();
        let duration_ns = now_ns.saturating_sub(self.begun_ns);
        let latency_ns = self.answered_ns.unwrap_or(now_ns).saturating_sub(self.begun_ns);
        let slot =
            self.route.and_then(|route| snapshot.route_slots.get(route as usize).map(|slot| *slot as usize));
        let bytes = (self.request_bytes, self.response_bytes);
        worker.cells.answered(self.status, slot, latency_ns, bytes);
        if !self.label.is_empty() {
            worker.cells.refused(label_index(self.label));
        }
        let route = self.route.and_then(|route| snapshot.policy.route_name(route));
        let (mut access, mut refusals) = (worker.access.borrow_mut(), worker.refusals.borrow_mut());
        if access.is_on() || refusals.is_on() {
            let (method, path) = self.line.split_at_checked(self.method_bytes).unwrap_or_default();
            let server = self.server.get().and_then(|(upstream, server)| {
                Some(&snapshot.config.upstreams.get(upstream)?.servers.get(server)?.address)
            });
            let identity = self.identity.as_deref();
            let auth = identity.and_then(|identity| snapshot.config.auths.get(usize::from(identity.auth)));
            let exchange = Exchange {
                unix_s: unix_s(),
                duration_ns,
                upstream_ns: self.upstream_ns,
                source: self.source,
                method: str::from_utf8(method).unwrap_or_default(),
                path: str::from_utf8(path).unwrap_or_default(),
                protocol: self.version.name(),
                status: self.status,
                refusal: self.label,
                why: self.why.as_deref(),
                route: route.map(|name| &**name),
                consumer: identity.map(|identity| &*identity.consumer),
                auth: auth.map(|auth| &*auth.name),
                credential: identity.and_then(|identity| identity.credential.as_deref()),
                server,
                request_id: self.id(),
                trace_id: str::from_utf8(&self.trace_id).unwrap_or_default(),
                bytes_in: self.request_bytes,
                bytes_out: self.response_bytes,
                tls,
                pressure: worker.known.pressure().label(),
            };
            access.write(&exchange);
            refusals.write(&exchange);
        }
        if let Some(kind) = self.offence {
            ends.begin_anew(now_ns);
            worker.report(Offence {
                kind,
                source: self.source,
                source_is_forwarded: self.source_is_forwarded,
                at_ns: monotonic_ns(),
                route: route.map(Arc::clone),
                request_id: self.request_id,
            });
        } else if (100..400).contains(&self.status) {
            worker.note_steady(ends, snapshot, now_ns);
        }
        self.discard(&worker.tools);
    }

    /// There was no request after all.
    pub(super) fn discard(self, tools: &Tools) {
        for bytes in [self.line, self.lines, self.told_id] {
            if bytes.capacity() > 0 {
                tools.heads.give(bytes);
            }
        }
    }
}
