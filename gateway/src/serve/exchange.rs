//! A request that may pass goes to its upstream, and what came of it into its record.

use std::{net::SocketAddr, rc::Rc};

use super::{
    judge::Approved,
    record::Record,
    worker::{Current, Worker},
};
use crate::{
    config::Upstream,
    decide::{self, RoutePolicy},
    forward::{self, Client, Event, Failed, ForwardError, Outcome, Request, ResponseChanges},
    net::{Receive, Transmit, nanos},
    respond::{self, Failure},
    telemetry::{Bound, UpstreamEvent},
};

/// One exchange, whatever the client speaks.
pub(super) async fn exchange<R: Receive, W: Transmit>(
    worker: &Rc<Worker>,
    current: &Rc<Current>,
    (upstream, route): (&Upstream, &RoutePolicy),
    approved: Box<Approved>,
    (client, ends): (Client<'_, R, W>, (SocketAddr, SocketAddr)),
    record: &mut Record,
) -> Result<Outcome, Failed> {
    let index = approved.upstream;
    let request = Request {
        head: approved.head,
        body: approved.body,
        body_bytes_max: approved.body_bytes_max,
        response: ResponseChanges {
            remove: &route.response_removed,
            lines: &approved.response_lines,
            compress: approved.compress,
        },
        // Trailers must not bring back what was removed from the head.
        trailers_removed: &approved.plan.remove,
        expect_continue: approved.expect_continue,
        idempotent: approved.idempotent,
        websocket: approved.plan.websocket.map(|websocket| websocket.key),
        is_head: approved.is_head,
        version: approved.version,
        keep_alive: approved.keep_alive,
        draining: &worker.draining,
        date: &worker.date,
        request_id: record.id(),
        deadline_ns: record.begun_ns.saturating_add(approved.request_timeout_ns),
        head_timeout_ns: nanos(upstream.head_timeout),
        retry: upstream.retry,
        introduction: upstream.proxy_protocol.map(|version| decide::introduction(version, Some(ends))),
    };
    let pick = |failed: &[usize]| worker.pick(current, index, failed);
    let on_event = |event: Event, server: usize| {
        record.server.set(Some((index, server)));
        let slot = current.snapshot.server_slots.get(index).map_or(usize::MAX, |first| first + server);
        let event = match event {
            Event::Connected => UpstreamEvent::Connected,
            Event::Reused => UpstreamEvent::Reused,
            Event::Retried => UpstreamEvent::Retried,
            Event::OverBudget => return worker.cells.bound_hit(Bound::RetryBudget),
            Event::Failed => UpstreamEvent::Failed,
        };
        worker.cells.upstream(event, slot);
    };
    let done = forward::forward(&worker.tools, &current.pool, index, pick, client, request, on_event).await;
    if approved.response_lines.capacity() > 0 {
        worker.tools.heads.give(approved.response_lines);
    }
    if let Err(Failed { error: ForwardError::RequestBodyTooSlow | ForwardError::ResponseTooSlow, .. }) = &done
    {
        worker.cells.bound_hit(Bound::BodyRate);
    }
    match &done {
        Ok(outcome) => {
            record.status = outcome.status;
            record.request_bytes += outcome.request_body_bytes;
            record.response_bytes = outcome.response_bytes;
            record.upstream_ns = outcome.upstream_ns;
            if outcome.lacked_encoder {
                worker.cells.bound_hit(Bound::Encoders);
            }
        }
        Err(Failed { error, answered: Some(status), response_bytes, request_body_bytes }) => {
            record.status = *status;
            record.label = respond::answer(&Failure::Forward(error)).map_or("client_gone", |a| a.label);
            record.request_bytes += request_body_bytes;
            record.response_bytes = *response_bytes;
        }
        Err(Failed { error: ForwardError::PoolExhausted, .. }) => worker.cells.bound_hit(Bound::Pool),
        Err(Failed { error: ForwardError::NoDescriptor, .. }) => worker.cells.bound_hit(Bound::Descriptors),
        Err(Failed { error: ForwardError::PendingTimeout, .. }) => worker.cells.bound_hit(Bound::PoolWait),
        Err(_) => {}
    }
    done
}
