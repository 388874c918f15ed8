//! A WebSocket on a stream of HTTP/2 (RFC 8441), for a client that knows nothing of it: a thread that opens the stream
//! hands its octets on, both ways, with the end of each direction.

use std::{io, net::SocketAddr, os::unix::net::UnixStream, thread, thread::JoinHandle};

use bytes::Bytes;
use h2::{RecvStream, SendStream, client::SendRequest, ext::Protocol};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use crate::support::TIME_MAX;

/// An open WebSocket.
pub(super) struct Bridged {
    /// Its octets.
    pub(super) stream: UnixStream,
    /// The extensions that were agreed on.
    pub(super) extensions: Option<String>,
    carrying: JoinHandle<Result<(), String>>,
}

impl Bridged {
    /// Opens one at `path` of a gateway in clear, offering `extensions`.
    pub(super) fn open(gateway: SocketAddr, path: &str, extensions: Option<&str>) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(TIME_MAX)).unwrap();
        ours.set_write_timeout(Some(TIME_MAX)).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let mut request = http::Request::connect(format!("http://edge.example{path}"))
            .extension(Protocol::from_static("websocket"))
            .header("sec-websocket-version", "13");
        if let Some(extensions) = extensions {
            request = request.header("sec-websocket-extensions", extensions);
        }
        let request = request.body(()).unwrap();
        let (opened, is_open) = std::sync::mpsc::channel();
        let carrying = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(carry(gateway, request, theirs, |agreed| opened.send(agreed).unwrap()))
        });
        let Ok(extensions) = is_open.recv_timeout(TIME_MAX) else {
            panic!("no WebSocket: {:?}", carrying.is_finished().then(|| carrying.join()));
        };
        Self { stream: ours, extensions, carrying }
    }

    /// Waits until both directions have ended, which is an error where either was broken off.
    pub(super) fn finish(self) -> Result<(), String> {
        drop(self.stream);
        self.carrying.join().unwrap()
    }
}

async fn carry(
    gateway: SocketAddr,
    request: http::Request<()>,
    local: UnixStream,
    opened: impl FnOnce(Option<String>),
) -> Result<(), String> {
    let told = |error: h2::Error| error.to_string();
    let socket = TcpStream::connect(gateway).await.unwrap();
    socket.set_nodelay(true).unwrap();
    let (send, mut connection) = h2::client::Builder::new()
        .initial_window_size(256 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .handshake::<_, Bytes>(socket)
        .await
        .map_err(told)?;
    let exchange = async {
        let mut send = allowed_to_connect(send).await.map_err(told)?;
        let (response, to_gateway) = send.send_request(request, false).map_err(told)?;
        let response = response.await.map_err(told)?;
        if response.status() != 200 {
            return Err(format!("{:?}", response.status()));
        }
        let agreed = response.headers().get("sec-websocket-extensions");
        opened(agreed.map(|agreed| agreed.to_str().unwrap().to_owned()));
        let (from_client, to_client) = tokio::net::UnixStream::from_std(local).unwrap().into_split();
        let (up, down) =
            tokio::join!(send_on(from_client, to_gateway), receive_from(response.into_body(), to_client));
        up.and(down)
    };
    tokio::select! {
        done = exchange => done,
        ended = &mut connection => Err(format!("the connection has ended: {ended:?}")),
    }
}

/// Waits until the gateway has said that it takes extended CONNECT (RFC 8441 §3).
async fn allowed_to_connect(mut send: SendRequest<Bytes>) -> Result<SendRequest<Bytes>, h2::Error> {
    loop {
        send = send.ready().await?;
        if send.is_extended_connect_protocol_enabled() {
            return Ok(send);
        }
        tokio::task::yield_now().await;
    }
}

async fn send_on(mut from: OwnedReadHalf, mut to: SendStream<Bytes>) -> Result<(), String> {
    let mut octets = vec![0; 16 * 1024];
    loop {
        let count = from.read(&mut octets).await.map_err(|error: io::Error| error.to_string())?;
        let mut piece = Bytes::copy_from_slice(&octets[..count]);
        if count == 0 {
            // A server that has ended its own direction may have reset the stream by now, with no error.
            let _over = to.send_data(Bytes::new(), true);
            return Ok(());
        }
        while !piece.is_empty() {
            to.reserve_capacity(piece.len());
            match std::future::poll_fn(|context| to.poll_capacity(context)).await {
                Some(Ok(room)) => {
                    let piece = piece.split_to(room.min(piece.len()));
                    to.send_data(piece, false).map_err(|error| error.to_string())?;
                }
                Some(Err(error)) => return Err(error.to_string()),
                None => return Err("the stream takes no more".to_owned()),
            }
        }
    }
}

async fn receive_from(mut from: RecvStream, mut to: OwnedWriteHalf) -> Result<(), String> {
    while let Some(data) = from.data().await {
        let data = data.map_err(|error| error.to_string())?;
        let _gone = from.flow_control().release_capacity(data.len());
        to.write_all(&data).await.map_err(|error| error.to_string())?;
    }
    to.shutdown().await.map_err(|error| error.to_string())
}
