//! A request on a stream of HTTP/2, from its head to its record.
//!
//! Its head is read as text of HTTP/1.1, and what goes on is what goes on for HTTP/1.1: the same judge, the same
//! exchange, the same answers.

use std::rc::Rc;

use h2::Reason;

use super::{
    after,
    exchange::exchange,
    judge::{Approved, Caller, Reach, Verdict},
    multiplexed::{Incoming, Multiplexed},
    record::Record,
    reshape::OwnAnswer,
    telling, tunnel, visit,
    worker::Current,
};
use crate::{
    codec::{self, BodyLength, HeadLimits, HeaderSlots, RequestError, Version},
    decide::{Answered, WebSocket, oidc::visit::Visit},
    forward::{Client, Failed, ForwardError, Outcome, Side, Tunnel},
    http2::{Inbound, Outbound, Speaker, text},
    net::{Buffer, Deadline, Phase, Transmit, monotonic_ns, nanos},
    respond::{self, Answer, Failure},
};

/// One request, and where its answer goes.
struct Exchange<'m> {
    connection: &'m Rc<Multiplexed>,
    deadline: Deadline,
    inbound: Inbound,
    outbound: Outbound,
}

/// What becomes of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// All was told.
    Whole,
    /// What was told is not whole, or nothing was.
    Broken,
}

/// Serves a request; a stream that does not come to a good end is reset.
pub(super) async fn serve_stream(connection: &Rc<Multiplexed>, incoming: Incoming) {
    let worker = &connection.worker;
    let (request, respond) = *incoming;
    let (parts, body) = request.into_parts();
    let current = worker.current();
    let mut record = Record::new(monotonic_ns(), worker.next_request_id(), &connection.ends);
    let mut head = worker.tools.heads.take();
    let pushed = text::push_request(&mut head, &parts, body.is_end_stream());
    let is_websocket = text::asks_for_websocket(&parts);
    let speaker =
        Speaker::Server { respond, to_head: parts.method == http::Method::HEAD, websocket: is_websocket };
    let framing = pushed.unwrap_or(text::Framing::Plain);
    let mut exchange = Exchange {
        connection,
        deadline: worker.tools.deadlines.watch_task(),
        inbound: Inbound::of_request(body, framing),
        outbound: Outbound::new(speaker),
    };
    let mut answered = Vec::new();
    let judged = loop {
        let judged = match pushed {
            Ok(_) => exchange.judge(&current, (&head, is_websocket), &answered, &mut record),
            Err(error) => refuse(malformed(error)),
        };
        match judged {
            Verdict::Ask(question) => answered.push(worker.ask(&current, question).await),
            judged => break judged,
        }
    };
    worker.tools.heads.give(head);
    let end = match judged {
        Verdict::Ask(_) => exchange.refuse(&Failure::Internal, &mut record).await,
        Verdict::Visit(visit, body) => exchange.visit(&current, (visit, body), &mut record).await,
        Verdict::Forward(approved) => exchange.forward(&current, approved, &mut record).await,
        Verdict::Respond(own) => exchange.respond(own, &mut record).await,
        Verdict::Refuse(answer, _) => exchange.tell(&answer, &mut record).await,
    };
    if end == End::Broken {
        let is_malformed = exchange.inbound.is_malformed();
        let reason = if is_malformed { Reason::PROTOCOL_ERROR } else { Reason::INTERNAL_ERROR };
        exchange.outbound.reset(reason);
    } else {
        connection.answered();
    }
    record.finish(worker, &current, (&connection.ends, connection.manners.tls.is_some()));
}

fn malformed(error: text::TextError) -> RequestError {
    match error {
        text::TextError::TwoHosts => RequestError::RepeatedHost,
        text::TextError::FieldValue => RequestError::FieldValue,
    }
}

/// It reaches no farther than its stream.
fn refuse(error: RequestError) -> Verdict {
    let answer = respond::answer(&Failure::Request(&error));
    // Every such error has an answer.
    Verdict::Refuse(answer.unwrap_or_else(respond::overloaded), Reach::Request)
}

impl Exchange<'_> {
    /// Parses and decides.
    fn judge(
        &self,
        current: &Rc<Current>,
        (text, is_websocket): (&[u8], bool),
        answered: &[Answered],
        record: &mut Record,
    ) -> Verdict {
        let connection = self.connection;
        let listener = &connection.manners.settings;
        let limits = HeadLimits {
            // What HTTP/1.1 says beyond HTTP/2's fields is ours and not the client's.
            head_bytes_max: listener.limits.head_size_bytes.saturating_add(1024),
            headers_max: listener.limits.headers.saturating_add(4).min(codec::HEADERS_MAX),
            target_bytes_max: listener.limits.target_size_bytes,
        };
        let mut slots = HeaderSlots::new();
        let mut head = match codec::request_head(text, &mut slots, &limits) {
            Ok(Some(head)) => head,
            // Our text always ends: only one that is too long does not.
            Ok(None) => return refuse(RequestError::HeadTooLarge),
            Err(error) => return refuse(error),
        };
        head.version = Version::Http2;
        let caller = Caller {
            worker: &connection.worker,
            manners: &connection.manners,
            ends: &connection.ends,
            scheme: connection.manners.scheme(),
            secured: connection.secured.as_ref(),
        };
        match caller.weigh(current, &head, answered, record) {
            Verdict::Forward(approved) if is_websocket && approved.plan.websocket.is_none() => {
                let heads = &connection.worker.tools.heads;
                heads.give(approved.head);
                heads.give(approved.response_lines);
                refuse(RequestError::Connect)
            }
            verdict => verdict,
        }
    }

    async fn forward(&mut self, current: &Rc<Current>, approved: Box<Approved>, record: &mut Record) -> End {
        let Some(way) = approved.way(current) else { return self.refuse(&Failure::Internal, record).await };
        let (worker, manners) = (&self.connection.worker, &self.connection.manners);
        let websocket = approved.plan.websocket;
        let mut received = Buffer::placeholder();
        let client = Client {
            read: &mut self.inbound.within(&self.deadline),
            write: &mut self.outbound.within(&self.deadline),
            received: &mut received,
            deadline: &self.deadline,
            pace: manners.pace(),
        };
        let ends = self.connection.ends.both(&manners.settings);
        let done = exchange(worker, current, way, approved, (client, ends), record).await;
        worker.tools.buffers.give(received);
        match done {
            Ok(Outcome { tunnel: Some(tunnel), .. }) => {
                Box::pin(self.tunnel(tunnel, websocket, record)).await
            }
            // Also where what the client sent behind it was wrong: it was answered already.
            Ok(_) | Err(Failed { answered: Some(_), .. }) if self.outbound.has_ended() => End::Whole,
            Ok(_) | Err(Failed { answered: Some(_), .. }) => End::Broken,
            Err(Failed { error, answered: None, .. }) => self.refuse(&Failure::Forward(&error), record).await,
        }
    }

    /// The server has switched: what follows on the stream is no longer HTTP.
    async fn tunnel(&mut self, mut tunnel: Tunnel, websocket: Option<WebSocket>, record: &mut Record) -> End {
        let worker = &self.connection.worker;
        let idle_ns = websocket.map_or(0, |websocket| nanos(websocket.idle_timeout));
        let head = std::mem::take(&mut tunnel.switched.head);
        let head_bytes = head.len() as u64;
        self.deadline.arm(Phase::Send, after(self.connection.manners.settings.timeouts.body_idle));
        let (told, head) = self.outbound.within(&self.deadline).write_all(head).await;
        worker.tools.heads.give(head);
        record.response_bytes = head_bytes;
        record.answered_ns = Some(monotonic_ns());
        if told.is_err() {
            record.label = "client_gone";
            return End::Broken;
        }
        let _open = tunnel::Open::new(&worker.cells);
        let client = Side {
            source: &mut self.inbound.within(&self.deadline),
            sink: &mut self.outbound.within(&self.deadline),
            deadline: &self.deadline,
            early: Buffer::placeholder(),
        };
        let told = |now_ns| worker.note_steady(&self.connection.ends, &worker.current().snapshot, now_ns);
        let passed = tunnel.relay(client, (idle_ns, &told), &worker.tools.buffers).await;
        record.request_bytes = passed.up_bytes;
        record.response_bytes = head_bytes + passed.down_bytes;
        if passed.in_order {
            return End::Whole;
        }
        tunnel.abort();
        End::Broken
    }

    /// A route's own answer.
    async fn respond(&mut self, own: OwnAnswer, record: &mut Record) -> End {
        let worker = &self.connection.worker;
        let mut out = worker.tools.heads.take();
        own.encode(&mut out, worker, true, record);
        (record.status, record.label) = (own.status, own.label);
        worker.tools.heads.give(own.lines);
        self.send(out, record).await
    }

    /// The gateway itself is visited.
    async fn visit(
        &mut self,
        current: &Rc<Current>,
        visit: (Box<Visit>, BodyLength),
        record: &mut Record,
    ) -> End {
        let (worker, manners) = (&self.connection.worker, &self.connection.manners);
        let mut received = Buffer::placeholder();
        let client = (&mut self.inbound.within(&self.deadline), &mut received, &self.deadline);
        let said = visit::visit(worker, (current, manners), visit, client).await;
        worker.tools.buffers.give(received);
        match said {
            Some((answer, offence)) => {
                record.offence = offence;
                self.respond(answer, record).await
            }
            None => self.refuse(&Failure::Forward(&ForwardError::RequestBodyTimeout), record).await,
        }
    }

    async fn refuse(&mut self, failure: &Failure<'_>, record: &mut Record) -> End {
        if let Some(answer) = respond::answer(failure) {
            return self.tell(&answer, record).await;
        }
        record.status = 499;
        record.label = "client_gone";
        End::Broken
    }

    async fn tell(&mut self, answer: &Answer, record: &mut Record) -> End {
        let worker = &self.connection.worker;
        let mut out = worker.tools.heads.take();
        {
            let date = worker.date.borrow();
            respond::encode(&mut out, answer, (record.id(), record.is_grpc), &telling(&date, true, record));
        }
        record.status = answer.status;
        record.label = answer.label;
        record.offence = answer.offence;
        self.send(out, record).await
    }

    async fn send(&mut self, out: Vec<u8>, record: &mut Record) -> End {
        self.deadline.arm(Phase::Send, after(self.connection.manners.settings.timeouts.body_idle));
        record.response_bytes = out.len() as u64;
        let (sent, out) = self.outbound.within(&self.deadline).write_all(out).await;
        self.connection.worker.tools.heads.give(out);
        if sent.is_ok() { End::Whole } else { End::Broken }
    }
}
