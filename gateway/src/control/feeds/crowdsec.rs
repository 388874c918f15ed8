//! A CrowdSec engine, asked as its bouncers do: first for everything, then for what has changed.
//!
//! Comes in: where it is. Goes out: its answers, to the keeper. Whatever goes wrong, the next question is for everything
//! again, since the engine forgets what it has answered once; meanwhile its decisions hold until they end. The key goes
//! into one header field and nowhere else.

use std::{
    io,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use http_body_util::Full;
use hyper::{Request, StatusCode, body::Bytes, header::HeaderValue};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep},
};

use super::{Answer, Order, Tally};
use crate::{
    config::{CrowdSec, Feed},
    control::client::{Bounds, Client},
};

/// What an answer may take, some million decisions at the most.
const ANSWER: Bounds = Bounds { time_max: Duration::from_mins(1), bytes_max: 256 << 20 };
/// Everything is asked for again so often, in case that we have lost each other's track.
const WHOLE_EVERY: Duration = Duration::from_hours(1);
/// After failures in a row the pause doubles, up to this.
const PAUSE_MAX: Duration = Duration::from_mins(5);

/// Asks until it is aborted.
pub(super) async fn follow(feed: Feed, crowdsec: CrowdSec, orders: mpsc::Sender<Order>, tally: Arc<Tally>) {
    let mut whole_at = Instant::now();
    let mut failures = 0;
    loop {
        let is_whole = failures > 0 || Instant::now() >= whole_at;
        match ask_and_hand_over(&feed, &crowdsec, is_whole, &orders).await {
            Ok(()) => {
                if failures > 0 {
                    log::info!("feed {}: the engine answers again", feed.name);
                }
                failures = 0;
                if is_whole {
                    whole_at = Instant::now() + WHOLE_EVERY;
                }
            }
            Err(problem) => {
                tally.failed.fetch_add(1, Relaxed);
                failures += 1;
                let message = format!("feed {}: {problem}; its decisions hold until they end", feed.name);
                log::log!(if failures == 1 { log::Level::Warn } else { log::Level::Debug }, "{message}");
            }
        }
        sleep(pause(feed.refresh, failures)).await;
    }
}

fn pause(refresh: Duration, failures: u32) -> Duration {
    let longer = refresh.saturating_mul(1 << failures.min(16));
    longer.min(PAUSE_MAX.max(refresh))
}

async fn ask_and_hand_over(
    feed: &Feed,
    crowdsec: &CrowdSec,
    is_whole: bool,
    orders: &mpsc::Sender<Order>,
) -> Result<(), String> {
    let body = ask(crowdsec, is_whole).await.map_err(|error| error.to_string())?;
    let (taken, hear) = oneshot::channel();
    let answer = Answer { feed: Arc::clone(&feed.name), body, is_whole, taken };
    let gone = |_| "the thread that keeps the feeds has ended".to_owned();
    orders.send(Order::Answer(answer)).await.map_err(|error| gone(error.to_string()))?;
    hear.await.map_err(|error| gone(error.to_string()))?
}

async fn ask(crowdsec: &CrowdSec, is_whole: bool) -> io::Result<Bytes> {
    let mut key = HeaderValue::from_bytes(&crowdsec.key.0).map_err(io::Error::other)?;
    key.set_sensitive(true);
    let request =
        Request::get("/").header("x-api-key", key).body(Full::default()).map_err(io::Error::other)?;
    let target = format!("{}v1/decisions/stream?startup={is_whole}", crowdsec.at.url.target);
    let response = Client::new(&crowdsec.at)?.ask(&target, request, ANSWER).await?;
    match response.status() {
        StatusCode::OK => Ok(response.into_body()),
        StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => {
            Err(io::Error::other("the engine does not know the key in `api_key_file`"))
        }
        status => Err(io::Error::other(format!("the engine answers {status}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        runtime,
    };
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::config::{Secret, UpstreamTls};

    /// A certificate for this name that vouches for itself.
    struct Identity {
        certificate: CertificateDer<'static>,
        key: PrivateKeyDer<'static>,
    }

    impl Identity {
        fn new(name: &str) -> Self {
            let key = rcgen::KeyPair::generate().unwrap();
            let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
            let certificate = params.self_signed(&key).unwrap().der().clone();
            Self { certificate, key: PrivateKeyDer::Pkcs8(key.serialize_der().into()) }
        }
    }

    /// Answers one question under TLS; what was asked, or nothing where no handshake came about.
    async fn answer_one(listener: TcpListener, identity: &Identity, body: &str) -> Option<String> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![identity.certificate.clone()], identity.key.clone_key())
            .unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await.ok()?;
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            let byte = stream.read_u8().await.ok()?;
            asked.push(byte);
        }
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all((head + body).as_bytes()).await.ok()?;
        stream.shutdown().await.ok()?;
        Some(String::from_utf8(asked).unwrap())
    }

    /// What is asked of an engine that shows `shown`, by somebody who trusts `trusted`, and what comes of it.
    fn ask_under_tls(shown: &Identity, trusted: &Identity) -> (Option<String>, Result<String, String>) {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
            let crowdsec = CrowdSec {
                server: ServerAddress::Fixed(listener.local_addr().unwrap()),
                path: "/behind".into(),
                tls: Some(UpstreamTls {
                    authorities: vec![trusted.certificate.clone()].into(),
                    authorities_are_the_systems: false,
                    server_name: None,
                    client: None,
                }),
                key: Secret(b"a-key".to_vec().into()),
            };
            let (asked, answer) =
                tokio::join!(answer_one(listener, shown, "{\"new\":[]}"), ask(&crowdsec, true));
            let answer = answer.map(|body| String::from_utf8(body).unwrap());
            (asked, answer.map_err(|error| error.to_string()))
        })
    }

    #[test]
    fn an_engine_under_tls_proves_itself_before_it_hears_the_key() {
        let (engine, other_name, other) =
            (Identity::new("127.0.0.1"), Identity::new("engine.example"), Identity::new("127.0.0.1"));
        let (asked, answer) = ask_under_tls(&engine, &engine);
        let asked = asked.expect("a question").to_lowercase();
        assert!(asked.starts_with("get /behind/v1/decisions/stream?startup=true http/1.1\r\n"), "{asked}");
        assert!(asked.contains("\r\nx-api-key: a-key\r\n"), "{asked}");
        assert_eq!(answer.as_deref(), Ok("{\"new\":[]}"));
        for (shown, trusted) in [(&other_name, &other_name), (&engine, &other)] {
            let (asked, answer) = ask_under_tls(shown, trusted);
            assert_eq!(asked, None);
            assert!(answer.is_err_and(|problem| problem.contains("certificate")), "an error that says why");
        }
    }

    #[test]
    fn pauses_grow_to_a_bound() {
        let refresh = Duration::from_secs(10);
        let pauses = [0, 1, 2, 4, 5, 16, u32::MAX].map(|failures| pause(refresh, failures).as_secs());
        assert_eq!(pauses, [10, 20, 40, 160, 300, 300, 300]);
        assert_eq!(pause(Duration::from_hours(1), 3), Duration::from_hours(1));
    }
}
