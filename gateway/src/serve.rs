//! A connection's requests, one after the other: the stages meet only here.
//!
//! `serve_connection` is a connection's life; `serve_request` is the table of contents of a request: read its head,
//! decide, forward, respond, record. What is synchronous (parse, decide, encode) happens while the head is still
//! borrowed from the receive buffer, so that a request costs no copy of it.

mod ask;
mod exchange;
mod judge;
mod record;
mod introduce;
mod reshape;
mod secured;
mod multiplexed;
mod seats;
mod stream;
mod tunnel;
mod visit;
mod worker;

use std::{
    net::{IpAddr, SocketAddr},
    pin::Pin,
    rc::Rc,
};

use crate::{
    codec::{self, BodyDecoder, BodyLength, HeadLimits, HeaderSlots, HttpDate, Telling},
    config,
    decide::{
        Answered, Question,
        crowd::Place,
        oidc::visit::{Errand, Visit},
    },
    forward::{Client, Failed, ForwardError, Outcome},
    http2,
    net::{self, Buffer, Deadline, Phase, Stream, coarse_ns, monotonic_ns, nanos},
    respond::{self, Answer, Failure, Offence, OffenceKind, RequestId},
    tls,
};
use exchange::exchange;
use introduce::{Ends, Introduced, introduce};
use judge::{Approved, Caller, Reach, Verdict};
use multiplexed::serve_multiplexed;
use record::Record;
use reshape::OwnAnswer;
use secured::Secured;
use worker::{Current, Manners, Worker};
pub use worker::{Door, Equipment, run};

/// A client that asks again within so long is busy: it is waited for with a buffer in hand, since to hear first that
/// something has come costs it 4 % more for each request. Everybody else waits without, and without room for a request.
const BUSY_GAP_NS: u64 = 100_000_000;
/// So many wait with a buffer at once, per worker; the buffers of more would be missed by requests.
const WAITS_MAX: usize = 1024;
/// Time for a client to take our last answer before its connection is closed under it, in ns.
const LINGER_NS: u64 = 1_000_000_000;
/// Bytes that are read and thrown away meanwhile.
const LINGER_BYTES_MAX: usize = 1024 * 1024;

// The largest head that may be allowed fits into the largest buffer, with one byte more by which it is too large.
const _: () = assert!(config::HEAD_SIZE_BYTES_MAX < (net::BULK_BUFFER_BYTES - net::HEADROOM_BYTES) as u64);

/// A client's connection: all that one which is idle takes, so it is kept small.
struct Connection {
    /// The deadline of the stream's descriptor. Fields are dropped in this order, and its slot must go before that.
    deadline: Deadline,
    stream: Stream,
    received: Buffer,
    worker: Rc<Worker>,
    manners: Rc<Manners>,
    /// What the TLS handshake has settled; none in clear.
    secured: Option<Box<Secured>>,
    ends: Ends,
    /// Its place among those of its source.
    _place: Option<Place>,
    /// Since when the next request has been waited for.
    waits_since_ns: u64,
    /// How its client behaves.
    habit: Habit,
}

/// How long a client leaves between its requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Habit {
    /// It has not asked for anything yet.
    Fresh,
    /// Less than [`BUSY_GAP_NS`].
    Busy,
    /// More.
    Idle,
}

/// What follows an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// The next request.
    KeepAlive,
    /// Our direction is finished, the client's is drained for a moment, then all is closed.
    Close,
    /// A reset: what was told is not whole.
    Abort,
    /// The client speaks HTTP/2.
    Multiplex,
}

/// A connection, from where [`begin`] has brought it to its last byte. What it does not need while it is idle is boxed.
async fn serve_connection(begun: Pin<Box<impl Future<Output = Option<Connection>>>>) {
    let Some(mut connection) = begun.await else { return };
    let mut next = if connection.has_settled_http2() {
        Next::Multiplex
    } else {
        Box::pin(connection.serve(false)).await
    };
    while next == Next::KeepAlive {
        next = if connection.is_asked().await { Box::pin(connection.serve(true)).await } else { Next::Close };
    }
    Box::pin(connection.end(next)).await;
}

/// What comes before the first request: who it is from, and a TLS handshake. `None`: it has ended already.
async fn begin(
    worker: Rc<Worker>,
    mut stream: Stream,
    (peer, place): (SocketAddr, Option<Place>),
    manners: Rc<Manners>,
) -> Option<Connection> {
    // Dropped before the stream, which comes first.
    let deadline = worker.tools.deadlines.watch(stream.fd());
    let Introduced { ends, mut received, place: told_place } =
        introduce(&mut stream, peer, (&worker, &manners), &deadline).await?;
    let mut secured = None;
    if let Some(certificates) = &manners.tls {
        deadline.arm(Phase::Handshake, after(manners.settings.timeouts.handshake));
        stream.put_back(std::mem::replace(&mut received, Buffer::placeholder()));
        match Secured::handshake(&mut stream, certificates, &worker.tools.buffers).await {
            Ok(done) => secured = Some(Box::new(done)),
            Err(unsecured) => {
                let door = (&worker, &*manners.settings.name);
                secured::failed(door, &unsecured, &ends, (&mut stream, &deadline)).await;
                return None;
            }
        }
    }
    let (waits_since_ns, habit) = (monotonic_ns(), Habit::Fresh);
    // A peer that speaks for others has no place of its own.
    let place = told_place.or(place);
    Some(Connection {
        deadline,
        stream,
        received,
        worker,
        manners,
        secured,
        ends,
        _place: place,
        waits_since_ns,
        habit,
    })
}

impl Connection {
    /// Waits, with nothing in hand, until something comes; false: there will be no request.
    async fn is_asked(&mut self) -> bool {
        if self.worker.draining.get() {
            return false;
        }
        self.arm_keep_alive();
        self.stream.read.readable().await.is_ok()
    }

    /// Serves requests for as long as the client asks one after the other. `is_asked`: something has come.
    async fn serve(&mut self, mut is_asked: bool) -> Next {
        loop {
            let may_wait = self.habit != Habit::Idle && self.worker.waiting.get() < WAITS_MAX;
            if self.received.data().is_empty() && !std::mem::take(&mut is_asked) && !may_wait {
                break;
            }
            match self.await_request().await {
                Some(true) => {}
                Some(false) => return Next::Close,
                None => break,
            }
            if self.habit == Habit::Fresh && self.begins_http2().await {
                return Next::Multiplex;
            }
            match self.serve_request().await {
                Next::KeepAlive => {}
                last => return last,
            }
            if self.received.data().is_empty() {
                self.waits_since_ns = coarse_ns();
            }
        }
        self.worker.tools.buffers.give(std::mem::replace(&mut self.received, Buffer::placeholder()));
        self.stream.write.forget_memory();
        Next::KeepAlive
    }

    /// Waits for the first byte of a request with a buffer in hand; false: there will be none. `None`: it has waited
    /// for long enough.
    async fn await_request(&mut self) -> Option<bool> {
        if !self.received.data().is_empty() {
            return Some(true);
        }
        if self.worker.draining.get() {
            return Some(false);
        }
        self.arm_keep_alive();
        let buffers = &self.worker.tools.buffers;
        if self.received.is_bulk() {
            // It held one long head; a connection that waits is not worth so much.
            buffers.give(std::mem::replace(&mut self.received, Buffer::placeholder()));
        }
        if self.received.free_bytes() == 0 {
            self.received = buffers.take();
        }
        let taken = std::mem::replace(&mut self.received, Buffer::placeholder());
        let waiting = &self.worker.waiting;
        waiting.set(waiting.get() + 1);
        let (received, returned) = self.stream.read.wait(taken, buffers, &self.worker.waits).await;
        waiting.set(waiting.get() - 1);
        self.received = returned;
        match received {
            Ok(count) => Some(count > 0),
            Err(error) if net::was_called_back(&error) => None,
            Err(_) => Some(false),
        }
    }

    fn arm_keep_alive(&self) {
        let keep_alive_ns = nanos(self.manners.settings.timeouts.keep_alive);
        self.deadline.arm(Phase::KeepAlive, self.waits_since_ns.saturating_add(keep_alive_ns));
    }

    /// Whether TLS has settled on HTTP/2 (RFC 9113 §3.2).
    fn has_settled_http2(&self) -> bool {
        let protocols = self.manners.settings.protocols;
        let settled = || self.stream.has_alpn(tls::ALPN_HTTP2) || !protocols.http1;
        protocols.http2 && self.secured.is_some() && settled()
    }

    /// Whether the client speaks HTTP/2 in clear: by how it begins (RFC 9113 §3.3).
    async fn begins_http2(&mut self) -> bool {
        let protocols = self.manners.settings.protocols;
        if !protocols.http2 || self.secured.is_some() {
            return false;
        }
        self.deadline.arm(Phase::Head, after(self.manners.settings.timeouts.head));
        loop {
            match http2::is_preface(self.received.data()) {
                Some(is_preface) => return is_preface || !protocols.http1,
                // What has ended before it could be told apart is for HTTP/1.1 to refuse.
                None if !self.receive().await.is_ok_and(|count| count > 0) => return false,
                None => {}
            }
        }
    }

    /// What comes behind the last request, or instead of the first.
    async fn end(mut self, last: Next) {
        match last {
            Next::Multiplex => {
                // What is bound last is dropped first: the slot must go before its descriptor is closed.
                let Connection { mut stream, deadline, received, worker, manners, secured, ends, .. } = self;
                let secured = secured.map(|secured| *secured);
                serve_multiplexed((&worker, &manners), (&mut stream, &deadline), received, (secured, ends))
                    .await;
                return;
            }
            Next::Abort => self.stream.abort(),
            Next::Close | Next::KeepAlive => self.linger().await,
        }
        self.worker.tools.buffers.give(self.received);
    }

    async fn receive(&mut self) -> std::io::Result<usize> {
        let taken = std::mem::replace(&mut self.received, Buffer::placeholder());
        let (received, returned) = self.stream.read.read(taken, &self.worker.tools.buffers).await;
        self.received = returned;
        received
    }

    /// One request, from its head to its record.
    async fn serve_request(&mut self) -> Next {
        let begun_ns = monotonic_ns();
        self.habit = match self.habit {
            // One request says nothing about the next.
            Habit::Fresh => Habit::Idle,
            _ if begun_ns.saturating_sub(self.waits_since_ns) <= BUSY_GAP_NS => Habit::Busy,
            _ => Habit::Idle,
        };
        self.deadline.arm(Phase::Head, begun_ns.saturating_add(nanos(self.manners.settings.timeouts.head)));
        let current = self.worker.current();
        let request_id = self.worker.next_request_id();
        let mut record = Record::new(begun_ns, request_id, &self.ends);
        let mut answered = Vec::new();
        let next = loop {
            match self.judge(&current, &answered, &mut record) {
                Judgement::Partial => match self.receive_more().await {
                    Ok(true) => {}
                    // Under TLS the end that a deadline made is an error: no close_notify came before it.
                    Ok(false) | Err(_) if self.deadline.expired().is_some() => {
                        break self.refuse(&Failure::HeadTimeout, None, &mut record).await;
                    }
                    // The client left in the middle of a head, or before one: there is nobody to answer.
                    Ok(false) | Err(_) => {
                        record.discard(&self.worker.tools);
                        return Next::Close;
                    }
                },
                Judgement::Ask(question) => {
                    // The head has come, and stays where it is until it is judged again.
                    self.deadline.disarm();
                    answered.push(self.worker.ask(&current, question).await);
                }
                Judgement::Visit(visit, body, skipped) => {
                    break self.visit(&current, (visit, body), skipped, &mut record).await;
                }
                Judgement::Forward(approved) => break self.forward(&current, approved, &mut record).await,
                Judgement::Respond(answer, skipped) => {
                    break self.respond(answer, skipped, &mut record).await;
                }
                Judgement::Refuse(answer, skipped) => {
                    break self.tell(&answer, skipped, &mut record).await;
                }
            }
        };
        record.finish(&self.worker, &current, (&self.ends, self.manners.tls.is_some()));
        next
    }

    /// Receives so much more of a head that it is worth another try; `Ok(false)`: there is no more.
    async fn receive_more(&mut self) -> std::io::Result<bool> {
        let tried_bytes = self.received.data().len();
        loop {
            if self.received.free_bytes() == 0 {
                self.received.compact();
            }
            if self.received.free_bytes() == 0 {
                let mut bulk = self.worker.tools.buffers.take_bulk();
                bulk.append(self.received.data());
                self.worker.tools.buffers.give(std::mem::replace(&mut self.received, bulk));
            }
            let seen_bytes = self.received.data().len();
            if self.receive().await? == 0 {
                return Ok(false);
            }
            let head_bytes_max = self.manners.settings.limits.head_size_bytes;
            if codec::is_worth_a_try(self.received.data(), seen_bytes, tried_bytes, head_bytes_max) {
                return Ok(true);
            }
        }
    }

    /// Parses, decides and encodes: all that needs the head.
    fn judge(&mut self, current: &Rc<Current>, answered: &[Answered], record: &mut Record) -> Judgement {
        let listener = &self.manners.settings;
        let limits = HeadLimits {
            head_bytes_max: listener.limits.head_size_bytes,
            headers_max: listener.limits.headers.min(codec::HEADERS_MAX),
            target_bytes_max: listener.limits.target_size_bytes,
        };
        let mut slots = HeaderSlots::new();
        let head = match codec::request_head(self.received.data(), &mut slots, &limits) {
            Ok(None) => return Judgement::Partial,
            Ok(Some(head)) => head,
            Err(error) => {
                return match respond::answer(&Failure::Request(&error)) {
                    Some(answer) => Judgement::Refuse(answer, Skipped::No),
                    None => Judgement::Partial,
                };
            }
        };
        let caller = Caller {
            worker: &self.worker,
            manners: &self.manners,
            ends: &self.ends,
            scheme: self.manners.scheme(),
            secured: self.secured.as_deref(),
        };
        let (body, keep_alive) = (head.body, head.keep_alive && !head.expect_continue);
        let head_bytes = head.head_bytes;
        let verdict = match caller.weigh(current, &head, answered, record) {
            Verdict::Refuse(answer, Reach::Connection) => return Judgement::Refuse(answer, Skipped::No),
            Verdict::Ask(question) => return Judgement::Ask(question),
            verdict => verdict,
        };
        self.received.consume(head_bytes);
        match verdict {
            Verdict::Forward(approved)
                if approved.plan.websocket.is_some() && !self.received.data().is_empty() =>
            {
                Judgement::Refuse(respond::refused(&tunnel::EARLY_BYTES), Skipped::No)
            }
            Verdict::Forward(approved) => Judgement::Forward(approved),
            Verdict::Ask(question) => Judgement::Ask(question),
            Verdict::Visit(visit, _) => Judgement::visit(visit, &mut self.received, body, keep_alive),
            Verdict::Respond(own) => Judgement::Respond(own, skip_body(&mut self.received, body, keep_alive)),
            Verdict::Refuse(answer, _) => {
                Judgement::Refuse(answer, skip_body(&mut self.received, body, keep_alive))
            }
        }
    }

    async fn forward(&mut self, current: &Rc<Current>, approved: Box<Approved>, record: &mut Record) -> Next {
        let Some(way) = approved.way(current) else {
            return self.refuse(&Failure::Internal, None, record).await;
        };
        // The head has come. From here on the client's deadline runs only while the client owes us something.
        self.deadline.disarm();
        let body_is_over = matches!(approved.body, BodyLength::None | BodyLength::Exact(0));
        let skipped = if body_is_over && approved.keep_alive { Skipped::Yes } else { Skipped::No };
        let client = Client {
            read: &mut self.stream.read,
            write: &mut self.stream.write,
            received: &mut self.received,
            deadline: &self.deadline,
            pace: self.manners.pace(),
        };
        let websocket = approved.plan.websocket;
        match exchange(
            &self.worker,
            current,
            way,
            approved,
            (client, self.ends.both(&self.manners.settings)),
            record,
        )
        .await
        {
            Ok(Outcome { tunnel: Some(tunnel), .. }) => {
                Box::pin(self.tunnel(tunnel, websocket, record)).await
            }
            Ok(outcome) if outcome.keep_alive => Next::KeepAlive,
            Ok(_) => Next::Close,
            Err(Failed { answered: Some(_), .. }) => Next::Abort,
            // What is left of the request is unknown where its body was not taken whole.
            Err(Failed { error, answered: None, .. }) => {
                self.refuse(&Failure::Forward(&error), Some(skipped), record).await
            }
        }
    }

    /// A route's own answer.
    async fn respond(&mut self, answer: OwnAnswer, skipped: Skipped, record: &mut Record) -> Next {
        let keep_alive = skipped == Skipped::Yes && !self.worker.draining.get();
        let mut out = self.worker.tools.heads.take();
        answer.encode(&mut out, &self.worker, keep_alive, record);
        (record.status, record.label) = (answer.status, answer.label);
        self.worker.tools.heads.give(answer.lines);
        self.send(out, keep_alive, record).await
    }

    /// The gateway itself is visited.
    async fn visit(
        &mut self,
        current: &Rc<Current>,
        visit: (Box<Visit>, BodyLength),
        skipped: Skipped,
        record: &mut Record,
    ) -> Next {
        let client = (&mut self.stream.read, &mut self.received, &self.deadline);
        match visit::visit(&self.worker, (current, &self.manners), visit, client).await {
            Some((answer, offence)) => {
                record.offence = offence;
                self.respond(answer, skipped, record).await
            }
            None => self.refuse(&Failure::Forward(&ForwardError::RequestBodyTimeout), None, record).await,
        }
    }

    async fn refuse(&mut self, failure: &Failure<'_>, skipped: Option<Skipped>, record: &mut Record) -> Next {
        let Some(answer) = respond::answer(failure) else {
            record.status = 499;
            record.label = "client_gone";
            return Next::Close;
        };
        self.tell(&answer, skipped.unwrap_or(Skipped::No), record).await
    }

    async fn tell(&mut self, answer: &Answer, skipped: Skipped, record: &mut Record) -> Next {
        let keep_alive = skipped == Skipped::Yes && !answer.close && !self.worker.draining.get();
        let mut out = self.worker.tools.heads.take();
        {
            let date = self.worker.date.borrow();
            respond::encode(
                &mut out,
                answer,
                (record.id(), record.is_grpc),
                &telling(&date, keep_alive, record),
            );
        }
        record.status = answer.status;
        record.label = answer.label;
        record.offence = answer.offence;
        self.send(out, keep_alive, record).await
    }

    async fn send(&mut self, out: Vec<u8>, keep_alive: bool, record: &mut Record) -> Next {
        self.deadline.arm(Phase::Send, after(self.manners.settings.timeouts.body_idle));
        record.response_bytes = out.len() as u64;
        let (sent, out) = self.stream.write.write_all(out).await;
        self.worker.tools.heads.give(out);
        if sent.is_ok() && keep_alive { Next::KeepAlive } else { Next::Close }
    }

    /// Finishes our direction and drains the client's for a moment: a close with unread bytes would reset the
    /// connection and could destroy our last answer on its way (RFC 9112 §9.6).
    async fn linger(&mut self) {
        if self.deadline.expired() == Some(Phase::KeepAlive) {
            return;
        }
        // Before the first await: under TLS even the farewell has to be taken by the client.
        self.deadline.arm(Phase::Linger, monotonic_ns().saturating_add(LINGER_NS));
        if self.stream.write.finish().await.is_err() {
            return;
        }
        if self.received.free_bytes() == 0 && self.received.data().is_empty() {
            self.received = self.worker.tools.buffers.take();
        }
        let mut drained_bytes = 0;
        while drained_bytes < LINGER_BYTES_MAX {
            self.received.clear();
            match self.receive().await {
                Ok(0) | Err(_) => return,
                Ok(count) => drained_bytes += count,
            }
        }
    }
}

/// What [`Connection::judge`] found.
enum Judgement {
    /// The head has not ended yet.
    Partial,
    /// It is judged again when this is answered.
    Ask(Question),
    Visit(Box<Visit>, BodyLength, Skipped),
    Forward(Box<Approved>),
    Respond(OwnAnswer, Skipped),
    Refuse(Answer, Skipped),
}

impl Judgement {
    /// What an issuer sends is read later, all of it.
    fn visit(visit: Box<Visit>, received: &mut Buffer, body: BodyLength, keep_alive: bool) -> Self {
        let is_read = matches!(visit.errand, Errand::BackChannel(_));
        let skipped = match (is_read, keep_alive) {
            (true, true) => Skipped::Yes,
            (true, false) => Skipped::No,
            (false, _) => skip_body(received, body, keep_alive),
        };
        Self::Visit(visit, body, skipped)
    }
}

/// Whether the request's body was taken whole, so that the next request's start is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Skipped {
    Yes,
    No,
}

fn telling<'d>(date: &'d HttpDate, keep_alive: bool, record: &'d Record) -> Telling<'d> {
    Telling {
        date: date.as_str(),
        keep_alive,
        client_version: record.version,
        for_head: record.is_head,
        lines: &record.lines,
    }
}

/// Takes the body of a request that was answered early out of `received`; only one that is there already is worth it.
fn skip_body(received: &mut Buffer, body: BodyLength, keep_alive: bool) -> Skipped {
    let mut decoder = BodyDecoder::new(body);
    if body == BodyLength::None || body == BodyLength::Exact(0) {
        return if keep_alive { Skipped::Yes } else { Skipped::No };
    }
    while keep_alive && !received.data().is_empty() {
        let Ok(decoded) = decoder.decode(received.data()) else { break };
        received.consume(decoded.consumed);
        if decoded.done {
            return Skipped::Yes;
        }
        if decoded.consumed == 0 {
            break;
        }
    }
    Skipped::No
}

fn offence(kind: OffenceKind, source: IpAddr, source_is_forwarded: bool, request_id: RequestId) -> Offence {
    Offence { kind, source, source_is_forwarded, at_ns: monotonic_ns(), route: None, request_id }
}

fn after(duration: std::time::Duration) -> u64 {
    monotonic_ns().saturating_add(nanos(duration))
}
