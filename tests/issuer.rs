//! An issuer of tokens that does as a test says: signs with any key, publishes any set, and commits the faults that no
//! real issuer commits on demand.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener},
    sync::{Arc, Mutex},
    thread,
};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use xtask::lab::wait;

use crate::support::{Edge, TIME_MAX};

/// When tokens end: no test lives so long.
pub(crate) const NEVER_S: u64 = 253_402_300_799;

/// A key that signs tokens.
pub(crate) struct SigningKey {
    kid: String,
    pair: EcdsaKeyPair,
}

impl SigningKey {
    pub(crate) fn new(kid: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self { kid: kid.to_owned(), pair }
    }

    /// A JWT (ES256) with these claims.
    pub(crate) fn sign(&self, claims: &Value) -> String {
        let header = json!({"alg": "ES256", "kid": self.kid}).to_string();
        let message = format!(
            "{}.{}",
            BASE64_URL_SAFE_NO_PAD.encode(header),
            BASE64_URL_SAFE_NO_PAD.encode(claims.to_string())
        );
        let signature = self.pair.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
        format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
    }

    fn jwk(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        let [x, y] = [&point[1..33], &point[33..]].map(|half| BASE64_URL_SAFE_NO_PAD.encode(half));
        json!({"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.kid, "x": x, "y": y})
    }
}

/// What is answered to a request.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// A status and a body.
    Status(u16, String),
    /// 302 to somewhere.
    Redirect(String),
    /// Nothing, for as long as the other end waits.
    Hang,
    /// Nothing, until something else is to be answered: then that.
    Hold,
}

/// What was asked.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// Its head, in lower case.
    pub(crate) head: String,
    pub(crate) body: String,
}

/// A running issuer on loopback; dropped, it is gone and its port refuses connections.
pub(crate) struct Issuer {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    answers: Mutex<HashMap<String, Answer>>,
    asked: Mutex<HashMap<String, Vec<Asked>>>,
    open: Mutex<Vec<std::net::TcpStream>>,
    has_ended: Mutex<bool>,
}

impl Issuer {
    /// One that has a discovery document and these keys.
    pub(crate) fn start(keys: &[&SigningKey]) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), keys)
    }

    pub(crate) fn start_at(address: SocketAddr, keys: &[&SigningKey]) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let issuer = Self { address: listener.local_addr().unwrap(), shared: Arc::default() };
        let document = json!({"issuer": issuer.url(), "jwks_uri": format!("{}/jwks", issuer.url())});
        issuer.answers("/.well-known/openid-configuration", Answer::Status(200, document.to_string()));
        issuer.publish(keys);
        let shared = Arc::clone(&issuer.shared);
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if *shared.has_ended.lock().unwrap() {
                    break;
                }
                shared.open.lock().unwrap().push(stream.try_clone().unwrap());
                let shared = Arc::clone(&shared);
                thread::spawn(move || shared.serve(stream));
            }
        });
        issuer
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it calls itself, and where it is.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on these are its keys.
    pub(crate) fn publish(&self, keys: &[&SigningKey]) {
        let keys: Vec<Value> = keys.iter().map(|key| key.jwk()).collect();
        self.answers("/jwks", Answer::Status(200, json!({"keys": keys}).to_string()));
    }

    /// From now on this is what is answered to requests for `path`.
    pub(crate) fn answers(&self, path: &str, answer: Answer) {
        self.shared.answers.lock().unwrap().insert(path.to_owned(), answer);
    }

    /// What was asked for at `path`, in order.
    pub(crate) fn asked(&self, path: &str) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().get(path).cloned().unwrap_or_default()
    }

    /// How often `path` was asked for.
    pub(crate) fn count(&self, path: &str) -> usize {
        self.asked(path).len()
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        *self.shared.has_ended.lock().unwrap() = true;
        // The acceptor wakes, and closes the listener.
        let _ = std::net::TcpStream::connect(self.address);
        for stream in self.shared.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    /// Requests of one connection, until either end closes it.
    fn serve(&self, mut stream: std::net::TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        loop {
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                if reader.read_line(&mut head).ok()? == 0 {
                    return None;
                }
            }
            let path = head.split(' ').nth(1)?.split('?').next()?.to_owned();
            let head = head.to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            let mut body = vec![0; length.unwrap_or(0)];
            reader.read_exact(&mut body).ok()?;
            let asked = Asked { head, body: String::from_utf8(body).ok()? };
            self.asked.lock().unwrap().entry(path.clone()).or_default().push(asked);
            let answer = wait::until(TIME_MAX, || {
                let answer = self.answers.lock().unwrap().get(&path).cloned();
                (!matches!(answer, Some(Answer::Hold))).then_some(answer)
            })?;
            let (status, field, body) = match answer.unwrap_or(Answer::Status(404, String::new())) {
                Answer::Status(status, body) => (status, "Content-Type: application/json".to_owned(), body),
                Answer::Redirect(to) => (302, format!("Location: {to}"), String::new()),
                Answer::Hang | Answer::Hold => {
                    let _ = reader.read(&mut [0]);
                    return None;
                }
            };
            let head = format!("HTTP/1.1 {status} X\r\n{field}\r\nContent-Length: {}\r\n\r\n", body.len());
            stream.write_all((head + &body).as_bytes()).ok()?;
        }
    }
}

/// What a request for `/orders` with this token is answered.
pub(crate) fn ask(edge: &Edge, token: &str) -> u16 {
    edge.get("/orders", &[("authorization", &format!("Bearer {token}"))]).status
}

/// Asks until it is answered with `status`.
#[track_caller]
pub(crate) fn await_status(edge: &Edge, token: &str, status: u16) {
    let mut last = 0;
    let found = wait::until(TIME_MAX, || {
        last = ask(edge, token);
        (last == status).then_some(())
    });
    assert!(found.is_some(), "{last} instead of {status}: {}", edge.gateway.output());
}
