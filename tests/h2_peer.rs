//! A server and a client of HTTP/2 that do what a test says, on the h2 crate and tokio: what is tested runs on
//! another runtime, and on a socket of its own making.
//!
//! A server runs on a thread of its own, and tells the test what it saw; a client runs in the test's own [`run`].

use std::{
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    task::Poll,
    thread::JoinHandle,
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, client, server};
use http::{HeaderMap, Request, Response, request};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{broadcast, oneshot},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use crate::support::TIME_MAX;

/// Runs what is asynchronous in a test.
pub(crate) fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { timeout(TIME_MAX * 2, test).await.expect("the test ends") })
}

/// An exchange, as a server meets it.
pub(crate) struct Exchange {
    pub(crate) request: request::Parts,
    pub(crate) body: RecvStream,
    pub(crate) respond: server::SendResponse<Bytes>,
    /// The how-manieth connection it came on, from 1.
    pub(crate) connection: usize,
    say: mpsc::Sender<String>,
}

impl Exchange {
    /// Tells the test.
    pub(crate) fn say(&self, what: impl Into<String>) {
        // A test that is over does not listen.
        let _unheard = self.say.send(what.into());
    }

    /// Answers with a head; the body goes where this leads.
    pub(crate) fn begin(&mut self, response: Response<()>) -> SendStream<Bytes> {
        self.respond.send_response(response, false).expect("the stream is open")
    }

    /// Answers 200 with `body`.
    pub(crate) async fn answer(&mut self, body: &str) {
        let mut stream = self.begin(Response::new(()));
        // Who has gone does not hear it.
        let _gone = send(&mut stream, body.as_bytes().to_vec(), true).await;
    }
}

type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What a server is told to do with its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    GoAway,
    Drop,
}

/// A server, until it is dropped.
pub(crate) struct Server {
    address: SocketAddr,
    heard: mpsc::Receiver<String>,
    accepted: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    orders: broadcast::Sender<Order>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// One that does `serve` with each exchange.
    pub(crate) fn start<F, S>(serve: F) -> Self
    where
        F: Fn(Exchange) -> S + Send + Sync + 'static,
        S: Future<Output = ()> + Send + 'static,
    {
        Self::start_with(&server::Builder::new(), None, serve)
    }

    /// The same at an address of the test's.
    pub(crate) fn start_at<F, S>(address: SocketAddr, serve: F) -> Self
    where
        F: Fn(Exchange) -> S + Send + Sync + 'static,
        S: Future<Output = ()> + Send + 'static,
    {
        Self::start_on(std::net::TcpListener::bind(address).unwrap(), &server::Builder::new(), None, serve)
    }

    /// The same with settings of one's own, and under TLS.
    pub(crate) fn start_with<F, S>(builder: &server::Builder, tls: Option<TlsAcceptor>, serve: F) -> Self
    where
        F: Fn(Exchange) -> S + Send + Sync + 'static,
        S: Future<Output = ()> + Send + 'static,
    {
        Self::start_on(std::net::TcpListener::bind("127.0.0.1:0").unwrap(), builder, tls, serve)
    }

    fn start_on<F, S>(
        listener: std::net::TcpListener,
        builder: &server::Builder,
        tls: Option<TlsAcceptor>,
        serve: F,
    ) -> Self
    where
        F: Fn(Exchange) -> S + Send + Sync + 'static,
        S: Future<Output = ()> + Send + 'static,
    {
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (say, heard) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let (orders, _) = broadcast::channel(16);
        let (accepted, open) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let all = All {
            builder: builder.clone(),
            tls,
            serve: Arc::new(move |exchange| -> Serving { Box::pin(serve(exchange)) }),
            say,
            orders: orders.clone(),
            accepted: Arc::clone(&accepted),
            open: Arc::clone(&open),
        };
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                tokio::select! {
                    () = all.accept(TcpListener::from_std(listener).unwrap()) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { address, heard, accepted, open, orders, stop: Some(stop), thread: Some(thread) }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections that it has had.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Connections that it has now.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// What it says next.
    #[track_caller]
    pub(crate) fn hear(&self) -> String {
        self.heard.recv_timeout(TIME_MAX).expect("the server has something to say")
    }

    /// The same, if it has said it already.
    pub(crate) fn heard(&self) -> Option<String> {
        self.heard.try_recv().ok()
    }

    /// What it says next, awaited where the test has other things under way.
    pub(crate) async fn next(&self) -> String {
        loop {
            if let Some(heard) = self.heard() {
                return heard;
            }
            // It has a thread and a runtime of its own; a channel between the two would need a lock.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Begins the end of all connections, in order.
    pub(crate) fn go_away(&self) {
        self.orders.send(Order::GoAway).expect("a connection");
    }

    /// Closes all connections under way.
    pub(crate) fn drop_connections(&self) {
        self.orders.send(Order::Drop).expect("a connection");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.take();
        self.thread.take().map(JoinHandle::join);
    }
}

#[derive(Clone)]
struct All {
    builder: server::Builder,
    tls: Option<TlsAcceptor>,
    serve: Arc<dyn Fn(Exchange) -> Serving + Send + Sync>,
    say: mpsc::Sender<String>,
    orders: broadcast::Sender<Order>,
    accepted: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
}

impl All {
    async fn accept(self, listener: TcpListener) {
        while let Ok((tcp, _)) = listener.accept().await {
            let number = self.accepted.fetch_add(1, Ordering::Relaxed) + 1;
            tcp.set_nodelay(true).unwrap();
            let (all, orders) = (self.clone(), self.orders.subscribe());
            self.open.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                match &all.tls {
                    None => all.connection(tcp, number, orders).await,
                    Some(tls) => {
                        if let Ok(tls) = tls.accept(tcp).await {
                            all.connection(tls, number, orders).await;
                        }
                    }
                }
                all.open.fetch_sub(1, Ordering::Relaxed);
            });
        }
    }

    async fn connection<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        socket: S,
        number: usize,
        mut orders: broadcast::Receiver<Order>,
    ) {
        let Ok(mut h2) = self.builder.handshake::<_, Bytes>(socket).await else { return };
        loop {
            tokio::select! {
                accepted = h2.accept() => {
                    let Some(Ok((request, respond))) = accepted else { return };
                    let (request, body) = request.into_parts();
                    let say = self.say.clone();
                    tokio::spawn((self.serve)(Exchange { request, body, respond, connection: number, say }));
                }
                order = orders.recv() => match order {
                    Ok(Order::GoAway) => h2.graceful_shutdown(),
                    Ok(Order::Drop) | Err(_) => return,
                },
            }
        }
    }
}

/// A client's connection.
pub(crate) struct Client {
    pub(crate) send: client::SendRequest<Bytes>,
    /// How the connection ended.
    pub(crate) connection: tokio::task::JoinHandle<Result<(), h2::Error>>,
}

/// What came back.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) fields: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: HeaderMap,
    pub(crate) interim: Vec<Response<()>>,
    /// There was no DATA, not even an empty one.
    pub(crate) ended_with_head: bool,
}

impl Answer {
    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }
}

impl Client {
    /// One that takes whatever comes.
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let tcp = TcpStream::connect(address).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let mut builder = client::Builder::new();
        // So that a stream that is not taken leaves room for others.
        builder.initial_connection_window_size(16 * 1024 * 1024);
        Self::open_over(tcp, &builder).await
    }

    /// The same with settings of one's own, over any connection.
    pub(crate) async fn open_over<S>(socket: S, builder: &client::Builder) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (send, connection) = builder.handshake(socket).await.unwrap();
        Self { send, connection: tokio::spawn(connection) }
    }

    /// Begins a request.
    pub(crate) async fn begin(
        &mut self,
        request: Request<()>,
        is_whole: bool,
    ) -> Result<(client::ResponseFuture, SendStream<Bytes>), h2::Error> {
        poll_fn(|context| self.send.poll_ready(context)).await?;
        self.send.send_request(request, is_whole)
    }

    /// A request without a body, and all that comes back.
    pub(crate) async fn ask(&mut self, request: Request<()>) -> Result<Answer, h2::Error> {
        let (response, _stream) = self.begin(request, true).await?;
        receive(response).await
    }

    /// `GET target`.
    pub(crate) async fn get(&mut self, target: &str) -> Result<Answer, h2::Error> {
        self.ask(get(target)).await
    }

    /// A request with a body; it is sent while the answer comes.
    pub(crate) async fn post(
        &mut self,
        request: Request<()>,
        body: Vec<u8>,
        trailers: HeaderMap,
    ) -> Result<Answer, h2::Error> {
        let (response, mut stream) = self.begin(request, false).await?;
        let sending = tokio::spawn(async move {
            let is_last = trailers.is_empty();
            send(&mut stream, body, is_last).await?;
            if is_last { Ok(()) } else { stream.send_trailers(trailers) }
        });
        let answer = receive(response).await?;
        // Whether all was taken is the server's to say.
        let _taken = sending.await.unwrap();
        Ok(answer)
    }
}

/// `GET target` of the host that tests go by.
pub(crate) fn get(target: &str) -> Request<()> {
    Request::get(format!("http://edge.example{target}")).body(()).unwrap()
}

/// `POST target`.
pub(crate) fn post(target: &str) -> Request<()> {
    Request::post(format!("http://edge.example{target}")).body(()).unwrap()
}

/// Sends as the peer has room for it.
pub(crate) async fn send(
    stream: &mut SendStream<Bytes>,
    body: Vec<u8>,
    is_last: bool,
) -> Result<(), h2::Error> {
    let mut body = Bytes::from(body);
    if body.is_empty() {
        return if is_last { stream.send_data(body, true) } else { Ok(()) };
    }
    while !body.is_empty() {
        let room = room(stream, body.len()).await?;
        let piece = body.split_to(room.min(body.len()));
        stream.send_data(piece, is_last && body.is_empty())?;
    }
    Ok(())
}

/// Waits for room to send.
pub(crate) async fn room(stream: &mut SendStream<Bytes>, bytes: usize) -> Result<usize, h2::Error> {
    stream.reserve_capacity(bytes);
    poll_fn(|context| {
        loop {
            if stream.capacity() > 0 {
                return Poll::Ready(Ok(stream.capacity()));
            }
            match stream.poll_capacity(context) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(None) => return Poll::Ready(Err(Reason::STREAM_CLOSED.into())),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}

/// Waits for a reset, and says why it came.
pub(crate) async fn reset(stream: &mut SendStream<Bytes>) -> Reason {
    poll_fn(|context| stream.poll_reset(context)).await.unwrap_or(Reason::PROTOCOL_ERROR)
}

/// The next of a body's bytes; none: it has ended.
pub(crate) async fn data(body: &mut RecvStream) -> Option<Result<Bytes, h2::Error>> {
    loop {
        let data = poll_fn(|context| body.poll_data(context)).await;
        match &data {
            // The end may come in a frame of its own.
            Some(Ok(data)) if data.is_empty() => continue,
            // Fails only where the stream is gone already.
            Some(Ok(data)) => drop(body.flow_control().release_capacity(data.len())),
            _ => {}
        }
        return data;
    }
}

/// All of a body.
pub(crate) async fn whole(body: &mut RecvStream) -> Result<(Vec<u8>, HeaderMap), h2::Error> {
    let mut bytes = Vec::new();
    while let Some(more) = data(body).await {
        bytes.extend_from_slice(&more?);
    }
    let trailers = poll_fn(|context| body.poll_trailers(context)).await?;
    Ok((bytes, trailers.unwrap_or_default()))
}

/// A head, with the interim ones before it.
pub(crate) async fn head(
    mut response: client::ResponseFuture,
) -> Result<(Response<RecvStream>, Vec<Response<()>>), h2::Error> {
    let mut interim = Vec::new();
    let response = poll_fn(|context| {
        while let Poll::Ready(Some(head)) = response.poll_informational(context) {
            interim.push(head?);
        }
        Pin::new(&mut response).poll(context)
    })
    .await?;
    Ok((response, interim))
}

/// All of an answer.
pub(crate) async fn receive(response: client::ResponseFuture) -> Result<Answer, h2::Error> {
    let (response, interim) = head(response).await?;
    let (parts, mut body) = response.into_parts();
    let ended_with_head = body.is_end_stream();
    let (body, trailers) = whole(&mut body).await?;
    Ok(Answer {
        status: parts.status.as_u16(),
        fields: parts.headers,
        body,
        trailers,
        interim,
        ended_with_head,
    })
}
