//! The control side's HTTP client: one question, one answer, whole and bounded.
//!
//! Comes in: an endpoint of the configuration, a request, how long it may take and how much may come back. Goes out:
//! the answer, whatever its status: a redirect is an answer like any other, and nobody follows it. Connections that are
//! still good are used again, by whoever keeps the client; dropped, it closes them.

use std::{cell::RefCell, io, time::Duration};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1::{self, SendRequest},
    header::{HOST, HeaderValue, USER_AGENT},
    http::uri::PathAndQuery,
};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::spawn_local,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::{
    config::{Endpoint, ServerAddress, Url},
    tls,
};

/// Connections that wait for another question.
const IDLE_MAX: usize = 8;
/// What servers know us as.
const AGENT: &str = concat!("portcullis/", env!("CARGO_PKG_VERSION"));

/// How long a question may take, from the connection to the answer's last byte, and how much may come back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) time_max: Duration,
    pub(super) bytes_max: usize,
}

/// One server and how it is spoken to. Lives in a `LocalSet`.
pub(super) struct Client {
    url: Url,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    idle: RefCell<Vec<Connection>>,
}

type Connection = SendRequest<Full<Bytes>>;

impl Client {
    /// Nothing is connected yet.
    pub(super) fn new(endpoint: &Endpoint) -> io::Result<Self> {
        let tls = endpoint.tls.as_ref().map(|settings| {
            let tls = tls::Client::compile(settings, &[tls::ALPN_HTTP1]).map_err(io::Error::other)?;
            let name = tls.name_of(&endpoint.url.server).map_err(io::Error::other)?;
            io::Result::Ok((TlsConnector::from(tls.config()), name))
        });
        Ok(Self { url: endpoint.url.clone(), tls: tls.transpose()?, idle: RefCell::default() })
    }

    /// Asks for `target`, a path and a query. `request` says method and fields; `Host` and who asks are filled in here.
    pub(super) async fn ask(
        &self,
        target: &str,
        mut request: Request<Full<Bytes>>,
        bounds: Bounds,
    ) -> io::Result<Response<Bytes>> {
        *request.uri_mut() = target.parse::<PathAndQuery>().map_err(io::Error::other)?.into();
        let host = HeaderValue::from_str(&self.url.authority()).map_err(io::Error::other)?;
        request.headers_mut().insert(HOST, host);
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(AGENT));
        let asked = timeout(bounds.time_max, self.exchange(request, bounds.bytes_max)).await;
        asked.map_err(|_| {
            io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {:?}", bounds.time_max))
        })?
    }

    async fn exchange(
        &self,
        mut request: Request<Full<Bytes>>,
        bytes_max: usize,
    ) -> io::Result<Response<Bytes>> {
        loop {
            let kept = self.idle.borrow_mut().pop();
            let is_kept = kept.is_some();
            let mut connection = match kept {
                Some(connection) => connection,
                None => self.connect().await?,
            };
            match connection.try_send_request(request).await {
                Ok(response) => {
                    let response = read(response, bytes_max).await?;
                    let mut idle = self.idle.borrow_mut();
                    if !connection.is_closed() && idle.len() < IDLE_MAX {
                        idle.push(connection);
                    }
                    return Ok(response);
                }
                // A kept connection that the server has closed meanwhile: nothing has been sent.
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) if is_kept => request = unsent,
                    _ => return Err(io::Error::other(failed.into_error())),
                },
            }
        }
    }

    async fn connect(&self) -> io::Result<Connection> {
        let stream = match &self.url.server {
            ServerAddress::Fixed(address) => TcpStream::connect(address).await?,
            ServerAddress::Named(name, port) => TcpStream::connect((&**name, *port)).await?,
        };
        stream.set_nodelay(true)?;
        match &self.tls {
            None => speak(stream).await,
            Some((connector, name)) => speak(connector.connect(name.clone(), stream).await?).await,
        }
    }
}

async fn speak<S>(stream: S) -> io::Result<Connection>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (connection, driving) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    spawn_local(async move {
        // Where it ends too early, the exchange has an error of its own to tell.
        let _ = driving.await;
    });
    Ok(connection)
}

async fn read(response: Response<Incoming>, bytes_max: usize) -> io::Result<Response<Bytes>> {
    let (head, mut body) = response.into_parts();
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(io::Error::other)?.into_data() {
            if bytes.len() + data.len() > bytes_max {
                return Err(io::Error::other(format!("its answer is larger than {} KiB", bytes_max >> 10)));
            }
            bytes.extend_from_slice(&data);
        }
    }
    Ok(Response::from_parts(head, bytes.into()))
}
