//! The admin listener: health, metrics and blocks, for reading.
//!
//! Comes in: HTTP on loopback or a Unix socket. Goes out: what control answers. A page in a browser on this host must
//! not reach it by a name that it has pointed at loopback (DNS rebinding), so on TCP only loopback's own names are
//! served. It changes nothing and never reaches a worker: questions go to control by a bounded queue.

mod bounded;

use std::{io, net::Ipv6Addr, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{StatusCode, Uri, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use self::bounded::Bounded;
use crate::config::AdminAddress;

/// Questions that may wait for control.
pub(super) const QUESTIONS_MAX: usize = 16;
/// Connections at once; further ones wait in the kernel's queue.
pub(super) const CONNECTIONS_MAX: usize = 32;
/// No connection lives longer, so that idle or slow ones cannot hold their places.
pub(super) const CONNECTION_TIME_MAX: Duration = Duration::from_mins(1);

/// What the admin listener asks control.
#[derive(Debug)]
pub(super) enum Question {
    /// How is it going?
    Health(oneshot::Sender<Health>),
    /// The text of a scrape.
    Metrics(oneshot::Sender<String>),
    /// Blocks that hold now, or why the filter does not say.
    Bans(oneshot::Sender<Result<serde_json::Value, String>>),
}

/// The answer of `/health`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Health {
    /// "ok"
    pub(super) status: &'static str,
    /// Workers that serve requests.
    pub(super) workers: usize,
    /// Policy snapshots published since the start.
    pub(super) generation: u64,
    /// "calm", "elevated" or "attack".
    pub(super) pressure: &'static str,
    /// Interfaces that carry the filter.
    pub(super) filter: Vec<Attached>,
}

/// An interface with the filter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Attached {
    /// Its name.
    pub(super) interface: String,
    /// "native" or "generic".
    pub(super) mode: String,
}

/// A bound admin listener.
#[derive(Debug)]
pub(super) enum Listener {
    /// On loopback.
    Tcp(std::net::TcpListener),
    /// On a path that only this user and group may open.
    Unix(std::os::unix::net::UnixListener),
}

/// Binds it; a socket file that nobody listens on any more is replaced.
pub(super) fn bind(address: &AdminAddress) -> io::Result<Listener> {
    match address {
        AdminAddress::Tcp(address) => {
            let listener = std::net::TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Ok(Listener::Tcp(listener))
        }
        AdminAddress::Unix(path) => {
            remove_stale(path)?;
            let listener = std::os::unix::net::UnixListener::bind(path)?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
            listener.set_nonblocking(true)?;
            Ok(Listener::Unix(listener))
        }
    }
}

fn remove_stale(path: &Path) -> io::Result<()> {
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        _ => Ok(()),
    }
}

/// Serves until its future is dropped. Must be called inside the control thread's runtime.
pub(super) async fn serve(listener: Listener, questions: mpsc::Sender<Question>) -> io::Result<()> {
    match listener {
        Listener::Tcp(listener) => {
            let listener = Bounded::new(tokio::net::TcpListener::from_std(listener)?);
            axum::serve(listener, router(questions).layer(middleware::from_fn(only_loopback_names))).await
        }
        Listener::Unix(listener) => {
            let listener = Bounded::new(tokio::net::UnixListener::from_std(listener)?);
            axum::serve(listener, router(questions)).await
        }
    }
}

fn router(questions: mpsc::Sender<Question>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .route("/bans", get(bans))
        .with_state(questions)
}

async fn health(State(questions): State<mpsc::Sender<Question>>) -> Response {
    match ask(&questions, Question::Health).await {
        Some(health) => Json(health).into_response(),
        None => busy(),
    }
}

async fn metrics(State(questions): State<mpsc::Sender<Question>>) -> Response {
    match ask(&questions, Question::Metrics).await {
        Some(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        None => busy(),
    }
}

async fn bans(State(questions): State<mpsc::Sender<Question>>) -> Response {
    match ask(&questions, Question::Bans).await {
        Some(Ok(bans)) => Json(bans).into_response(),
        Some(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, error + "\n").into_response(),
        None => busy(),
    }
}

async fn ask<T>(
    questions: &mpsc::Sender<Question>,
    question: impl FnOnce(oneshot::Sender<T>) -> Question,
) -> Option<T> {
    let (answer, answered) = oneshot::channel();
    questions.try_send(question(answer)).ok()?;
    answered.await.ok()
}

fn busy() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "control is busy\n").into_response()
}

async fn only_loopback_names(request: Request, next: Next) -> Response {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let one = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().is_ok_and(is_loopback_name),
        _ => false,
    };
    let target = Uri::authority(request.uri()).is_none_or(|authority| is_loopback_name(authority.as_str()));
    if one && target {
        return next.run(request).await;
    }
    (StatusCode::FORBIDDEN, "only localhost, 127.0.0.1 and [::1] are served here\n").into_response()
}

/// Whether a `Host` names loopback, whatever its port.
fn is_loopback_name(host: &str) -> bool {
    let (name, port) =
        if let Some((address, rest)) = host.strip_prefix('[').and_then(|host| host.split_once(']')) {
            let port = rest.strip_prefix(':');
            if address.parse() != Ok(Ipv6Addr::LOCALHOST) || port.is_none() && !rest.is_empty() {
                return false;
            }
            ("localhost", port)
        } else {
            host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port)))
        };
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    (name == "127.0.0.1" || name.eq_ignore_ascii_case("localhost")) && port.is_none_or(is_port)
}

#[cfg(test)]
mod tests;
