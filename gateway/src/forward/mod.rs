//! An exchange with a server: a connection, the request, its body, the response, its body.
//!
//! Comes in: an encoded request head, what is known of its body, and the client's stream. Goes out: what the exchange
//! was ([`Outcome`]), or how it failed ([`Failed`]) and whether the client has seen anything yet. Bodies stream in
//! both directions at once, a buffer at a time: a slow reader on one side slows the other. It decides nothing about
//! policy and answers nothing of its own but `100 Continue`.

mod connect;
mod gate;
mod retry;
mod download;
mod taking;
mod encode;
mod pool;
mod shared;
mod tunnel;
mod upload;

use std::{
    cell::{Cell, RefCell},
    pin::pin,
    rc::Rc,
    sync::Arc,
};

use thiserror::Error;

use crate::{
    codec::{BodyError, BodyLength, CONTINUE, HttpDate, ResponseError, Version, WebSocketKey},
    config::Retry,
    decide::compress::Agreed,
    http2::To,
    net::{
        Buffer, Buffers, Deadline, Deadlines, Pace, Phase, Pipes, Receive, Stream, Transmit, coarse_ns, join,
        monotonic_ns,
    },
};
use download::{Download, Downloaded};
pub use encode::Encoders;
pub use pool::{Carrier, CheckoutError, Lease, Pool, Wanted};
use retry::Retries;
use taking::Taking;
use tunnel::Switched;
pub use tunnel::{Passed, Side, Sink, Source, Tunnel};
use upload::{Ends, Upload, UploadLimits};

/// What a worker lends to every exchange.
pub struct Tools {
    /// Free buffers.
    pub buffers: Rc<Buffers>,
    /// Deadlines of every descriptor.
    pub deadlines: Rc<Deadlines>,
    /// Free vectors for encoded heads.
    pub heads: Heads,
    /// Content codings under way.
    pub encoders: Encoders,
    /// Free pipes.
    pub pipes: Pipes,
}

/// Recycled vectors, so that an encoded head costs no allocation.
#[derive(Default)]
pub struct Heads(RefCell<Vec<Vec<u8>>>);

/// Vectors kept per worker, and the largest that is kept.
const HEADS_MAX: usize = 256;
const HEAD_KEPT_BYTES_MAX: usize = 64 * 1024;

impl Heads {
    /// An empty vector.
    pub fn take(&self) -> Vec<u8> {
        self.0.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(4096))
    }

    /// Returns a vector.
    pub fn give(&self, mut head: Vec<u8>) {
        let mut heads = self.0.borrow_mut();
        if heads.len() < HEADS_MAX && head.capacity() <= HEAD_KEPT_BYTES_MAX {
            head.clear();
            heads.push(head);
        }
    }
}

/// The client's side of an exchange, spoken to in HTTP/1.1 whatever carries it.
pub struct Client<'c, R, W> {
    /// What it says.
    pub read: &'c mut R,
    /// What it is told.
    pub write: &'c mut W,
    /// What was received behind the request head.
    pub received: &'c mut Buffer,
    /// Its descriptor's deadline.
    pub deadline: &'c Deadline,
    /// How slow it may be while a body is under way; and, of that, the silence, how slow a server may be in taking one.
    pub pace: Pace,
}

/// A request that may pass.
#[expect(clippy::struct_excessive_bools, reason = "four independent facts, each read by name")]
pub struct Request<'r> {
    /// The encoded head.
    pub head: Vec<u8>,
    /// How its body is framed by the client.
    pub body: BodyLength,
    /// More body bytes than this are refused.
    pub body_bytes_max: u64,
    /// What the route changes in the response's head.
    pub response: ResponseChanges<'r>,
    /// Trailers of these names are dropped, as the fields of these names were: some servers merge the two.
    pub trailers_removed: &'r [Arc<str>],
    /// The client waits for `100 Continue`.
    pub expect_continue: bool,
    /// It may be sent twice (RFC 9110 §9.2.2).
    pub idempotent: bool,
    /// It asks for a WebSocket: the server may switch, if it shows that it has read this key.
    pub websocket: Option<WebSocketKey>,
    /// It was a HEAD: the response has no body.
    pub is_head: bool,
    /// What the client speaks.
    pub version: Version,
    /// The client would go on after this exchange.
    pub keep_alive: bool,
    /// We would not: asked when the response's head is told.
    pub draining: &'r Cell<bool>,
    /// Now, for a response without a date: asked when its head is told.
    pub date: &'r RefCell<HttpDate>,
    /// Told to the client.
    pub request_id: &'r str,
    /// The whole exchange ends before this.
    pub deadline_ns: u64,
    /// The response head comes before so long, in ns.
    pub head_timeout_ns: u64,
    /// What a server is told first on a connection that then is this client's alone: a PROXY header.
    pub introduction: Option<Vec<u8>>,
    /// When, and how often, the request may be sent again.
    pub retry: Retry,
}

/// What a route changes in a response's head.
#[derive(Debug, Clone, Copy, Default)]
pub struct ResponseChanges<'r> {
    /// Fields of these names are not passed on.
    pub remove: &'r [Arc<str>],
    /// Fields to add, each with its CRLF.
    pub lines: &'r [u8],
    /// The content coding that route and client agree on.
    pub compress: Agreed,
}

/// An exchange that ended with a whole response.
#[derive(Debug)]
pub struct Outcome {
    /// The response's status.
    pub status: u16,
    /// The client's connection can carry another request.
    pub keep_alive: bool,
    /// Body bytes from the client.
    pub request_body_bytes: u64,
    /// Bytes to the client, head included.
    pub response_bytes: u64,
    /// From the first byte sent to the server to its response head.
    pub upstream_ns: u64,
    /// The server has switched to the WebSocket that the client asked for; the client has not been told yet.
    pub tunnel: Option<Tunnel>,
    /// It would have been compressed, but there was no encoder left.
    pub lacked_encoder: bool,
}

/// An exchange that did not.
#[derive(Debug)]
pub struct Failed {
    /// How.
    pub error: ForwardError,
    /// The status that the client has already been told, when it has; then all that is left is to cut the connection.
    pub answered: Option<u16>,
    /// Body bytes from the client.
    pub request_body_bytes: u64,
    /// Bytes to the client.
    pub response_bytes: u64,
}

impl From<ForwardError> for Failed {
    fn from(error: ForwardError) -> Self {
        Self { error, answered: None, request_body_bytes: 0, response_bytes: 0 }
    }
}

/// What a peer did that ended an exchange.
#[derive(Debug, Error)]
pub enum ForwardError {
    /// No server of the upstream is live.
    #[error("no server is live")]
    NoLiveServer,
    /// Its servers have names, and DNS has not answered for any yet.
    #[error("no server's name is resolved")]
    Unresolved,
    /// The worker has as many connections to the upstream as it may have, and as many requests wait for one.
    #[error("all connections to the upstream are busy")]
    PoolExhausted,
    /// As many connections as there may be are busy, and none became free in time.
    #[error("no connection to the upstream became free in time")]
    PendingTimeout,
    /// There is no descriptor left for a connection.
    #[error("no descriptor is left")]
    NoDescriptor,
    /// No TCP connection in time.
    #[error("the server did not accept a connection in time")]
    ConnectTimeout,
    /// No TCP connection at all.
    #[error("the server cannot be reached: {0}")]
    Unreachable(std::io::Error),
    /// No TLS with the server: it does not speak it, is not whom it should be, or refuses us.
    #[error("no TLS with the server: {0}")]
    Tls(std::io::Error),
    /// The server closed or reset before the first byte of a response.
    #[error("the server closed before it answered")]
    ClosedBeforeResponse,
    /// The server has said that it did nothing with the request (RFC 9113 §8.7).
    #[error("the server did not take the request")]
    Unprocessed,
    /// No response head in time.
    #[error("the server did not answer in time")]
    ResponseTimeout,
    /// The response is not HTTP/1.1 as we accept it.
    #[error("the server's response is malformed: {0}")]
    BadResponse(ResponseError),
    /// 101 that does not answer the handshake.
    #[error("the server's answer to the WebSocket handshake is wrong")]
    UpgradeNotAgreed,
    /// More interim (1xx) heads than any server needs.
    #[error("the server sent interim responses without end")]
    TooManyInterim,
    /// The response body ended early or broke its framing.
    #[error("the server's response ended early")]
    TruncatedResponse,
    /// The response body could not be compressed: a fault of ours.
    #[error("the response could not be compressed")]
    Encoding,
    /// The request body broke its framing.
    #[error("the request body is malformed: {0}")]
    BadRequestBody(BodyError),
    /// The request body is larger than allowed.
    #[error("the request body is too large")]
    RequestBodyTooLarge,
    /// No body byte for too long.
    #[error("the client did not send its body in time")]
    RequestBodyTimeout,
    /// Body bytes, but too few for too long.
    #[error("the client sent its body too slowly")]
    RequestBodyTooSlow,
    /// The client takes its response, but too slowly.
    #[error("the client took its response too slowly")]
    ResponseTooSlow,
    /// The client closed before the exchange ended, or takes nothing of its response.
    #[error("the client left")]
    ClientGone,
}

impl ForwardError {
    /// There was no connection, for which another server may be asked: nothing has been sent.
    fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::ConnectTimeout | Self::Tls(_))
    }
}

/// Sends `request` to a server of `upstream` that `pick` names (told which ones have failed), and its response to the
/// client.
///
/// A request is sent again only if no server can have acted on it twice (RFC 9110 §9.2.2): nothing was sent because
/// there was no connection; or the server closed before a byte of a response came, all of the request is still in
/// memory, and it is idempotent. Who closed a pooled connection is asked again, who closed a new one is not.
/// `on_event` hears of connects and retries.
pub async fn forward<R: Receive, W: Transmit>(
    tools: &Tools,
    pool: &Rc<Pool>,
    upstream: usize,
    mut pick: impl FnMut(&[usize]) -> Option<usize>,
    client: Client<'_, R, W>,
    mut request: Request<'_>,
    on_event: impl Fn(Event, usize),
) -> Result<Outcome, Failed> {
    let mut upload = Upload::new(request.body, request.body_bytes_max, request.trailers_removed);
    upload.take_received(client.received, &mut request.head)?;
    let mut failed_servers = Vec::new();
    let mut retries = Retries::new(pool, upstream, request.retry, coarse_ns());
    let nobody = || {
        if pool.is_resolved(upstream) { ForwardError::NoLiveServer } else { ForwardError::Unresolved }
    };
    let mut server = pick(&failed_servers).ok_or_else(nobody)?;
    let mut fresh = false;
    loop {
        let wanted = Wanted {
            upstream,
            server,
            tried: &failed_servers,
            fresh,
            introduction: request.introduction.as_deref(),
            deadline_ns: request.deadline_ns,
            to: match request.websocket {
                Some(key) => To::WebSocket(key),
                None if request.is_head => To::Head,
                None => To::Other,
            },
        };
        let mut lease = match check_out(tools, pool, &wanted).await {
            Ok(lease) => lease,
            Err(error) if !error.is_unreachable() => return Err(error.into()),
            Err(error) => {
                failed_servers.push(server);
                on_event(Event::Failed, server);
                let other = if retries.after_no_connection(&error) { pick(&failed_servers) } else { None };
                match other {
                    Some(other) if retries.take(other, &on_event) => server = other,
                    _ => return Err(error.into()),
                }
                continue;
            }
        };
        server = lease.server();
        let reused = lease.is_reused();
        on_event(if reused { Event::Reused } else { Event::Connected }, server);
        let whole = upload.is_done();
        let mut attempt = Attempt {
            tools,
            client_read: &mut *client.read,
            client_write: &mut *client.write,
            client_received: &mut *client.received,
            client_deadline: client.deadline,
            client_pace: client.pace,
        };
        let attempted = match lease.carrier() {
            Carrier::Own(own) => {
                let Stream { read, write } = &mut own.stream;
                attempt.run((read, write, &own.deadline), &mut request, &mut upload).await
            }
            Carrier::Shared(shared) => {
                let deadline = &shared.deadline;
                let read = &mut shared.inbound.within(deadline);
                let write = &mut shared.outbound.within(deadline);
                attempt.run((read, write, deadline), &mut request, &mut upload).await
            }
        };
        match attempted {
            Ok((mut outcome, after)) => {
                tools.heads.give(request.head);
                match after {
                    After::Reuse => lease.give_back(coarse_ns()),
                    After::Close => {}
                    After::Switch(switched) => outcome.tunnel = Some(Tunnel { lease, switched }),
                }
                return Ok(outcome);
            }
            Err(failed) => {
                if !reused {
                    failed_servers.push(server);
                }
                let unprocessed = matches!(failed.error, ForwardError::Unprocessed);
                let is_safe = whole && (request.idempotent || unprocessed) && failed.answered.is_none();
                let other = match retries.after_reset(&failed.error, is_safe) {
                    // The server may have closed it long ago, or has had no room just then: it is asked again itself.
                    true if reused || unprocessed => Some(server),
                    true => pick(&failed_servers),
                    false => None,
                };
                match other {
                    Some(other) if retries.take(other, &on_event) => (server, fresh) = (other, true),
                    _ => {
                        on_event(Event::Failed, server);
                        tools.heads.give(request.head);
                        return Err(failed);
                    }
                }
            }
        }
    }
}

/// What [`forward`] tells while it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A new connection to the server.
    Connected,
    /// A pooled connection.
    Reused,
    /// The request goes out again.
    Retried,
    /// It would, but the upstream's budget of retries is used up.
    OverBudget,
    /// The server could not be reached, or failed the exchange.
    Failed,
}

async fn check_out(tools: &Tools, pool: &Pool, wanted: &Wanted<'_>) -> Result<Lease, ForwardError> {
    let now_ns = coarse_ns();
    if now_ns >= wanted.deadline_ns {
        return Err(ForwardError::ConnectTimeout);
    }
    let checked_out = pool.check_out(wanted, (&tools.deadlines, &tools.buffers), now_ns).await;
    checked_out.map_err(|error| match error {
        CheckoutError::Exhausted => ForwardError::PoolExhausted,
        CheckoutError::Pending => ForwardError::PendingTimeout,
        CheckoutError::NoDescriptor => ForwardError::NoDescriptor,
        CheckoutError::Timeout => ForwardError::ConnectTimeout,
        CheckoutError::Unreachable(error) => ForwardError::Unreachable(error),
        CheckoutError::Tls(error) => ForwardError::Tls(error),
        CheckoutError::NoWebSockets => ForwardError::UpgradeNotAgreed,
    })
}

/// What becomes of the server's connection.
enum After {
    /// It can carry another exchange.
    Reuse,
    Close,
    /// It is no longer HTTP.
    Switch(Switched),
}

/// One request on one connection.
struct Attempt<'a, R, W> {
    tools: &'a Tools,
    client_read: &'a mut R,
    client_write: &'a mut W,
    client_received: &'a mut Buffer,
    client_deadline: &'a Deadline,
    client_pace: Pace,
}

impl<R: Receive, W: Transmit> Attempt<'_, R, W> {
    /// The outcome, and what becomes of the server's connection.
    async fn run<S: Receive, T: Transmit>(
        &mut self,
        (server_read, server_write, server_deadline): (&mut S, &mut T, &Deadline),
        request: &mut Request<'_>,
        upload: &mut Upload<'_>,
    ) -> Result<(Outcome, After), Failed> {
        let sent_ns = monotonic_ns();
        let wait_ns = if upload.is_done() { request.head_timeout_ns } else { self.client_pace.idle_ns };
        server_deadline.arm(Phase::ResponseHead, sent_ns.saturating_add(wait_ns).min(request.deadline_ns));
        let (sent, head) = server_write.write_all(std::mem::take(&mut request.head)).await;
        request.head = head;
        if sent.is_err() && !upload.is_done() {
            // The server may have answered before it closed; only a whole request that could not be sent is dead.
            upload.discard();
        } else if !upload.is_done() {
            // It owes no answer to half a request; the client's deadline bounds the wait for the rest.
            server_deadline.disarm();
        }
        if request.expect_continue && !upload.is_done() {
            let at_ns = monotonic_ns().saturating_add(self.client_pace.idle_ns).min(request.deadline_ns);
            self.client_deadline.arm(Phase::Send, at_ns);
            let (told, _) = self.client_write.write_all(CONTINUE.to_vec()).await;
            self.client_deadline.disarm();
            told.map_err(|_| ForwardError::ClientGone)?;
        }
        let taking = Taking::new(
            self.client_deadline,
            self.client_pace,
            request.deadline_ns,
            Rc::clone(&upload.state),
        );
        let download = Download {
            tools: self.tools,
            server_read,
            server_deadline,
            client_write: &mut *self.client_write,
            client_deadline: self.client_deadline,
            taking,
            request,
            sent_ns,
            upload: Rc::clone(&upload.state),
            client_gone: false,
        };
        if upload.is_done() {
            let downloaded = download.run().await?;
            return Ok(finish(downloaded, upload, sent.is_ok()));
        }
        let up = upload.run(
            self.tools,
            Ends {
                client: &mut *self.client_read,
                received: &mut *self.client_received,
                client_deadline: self.client_deadline,
                server: server_write,
                server_deadline,
                limits: UploadLimits {
                    pace: self.client_pace,
                    head_timeout_ns: request.head_timeout_ns,
                    deadline_ns: request.deadline_ns,
                },
            },
        );
        let (uploaded, downloaded) = join(pin!(up), pin!(download.run())).await;
        match (uploaded, downloaded) {
            (Ok(()), Ok(downloaded)) => {
                let whole = upload.is_done() && !upload.was_discarded();
                Ok(finish(downloaded, upload, whole))
            }
            // What the client did wrong explains what the server did then.
            (Err(error), Ok(downloaded)) => Err(Failed {
                error,
                answered: Some(downloaded.status),
                request_body_bytes: upload.state.body_bytes.get(),
                response_bytes: downloaded.bytes,
            }),
            (Err(error), Err(failed)) => Err(Failed { error, ..failed }),
            (Ok(()), Err(failed)) => Err(failed),
        }
    }
}

fn finish(downloaded: Downloaded, upload: &Upload<'_>, request_was_sent: bool) -> (Outcome, After) {
    let outcome = Outcome {
        status: downloaded.status,
        keep_alive: downloaded.client_keep_alive && upload.is_done(),
        request_body_bytes: upload.state.body_bytes.get(),
        response_bytes: downloaded.bytes,
        upstream_ns: downloaded.upstream_ns,
        tunnel: None,
        lacked_encoder: downloaded.lacked_encoder,
    };
    let after = match downloaded.switched {
        Some(switched) => After::Switch(switched),
        None if downloaded.server_reusable && request_was_sent => After::Reuse,
        None => After::Close,
    };
    (outcome, after)
}
