//! An OpenID provider that others certified (npm's `oidc-provider`, see oidc-provider/provider.mjs for its clients and
//! for what a test may ask of it), and a real browser.
//!
//! What is not installed is named as the reason why a test was skipped.

use std::{
    collections::HashMap,
    fmt,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use xtask::lab::{
    client::{Connection, Request, Response},
    place::Place,
    process::Process,
    scratch::Scratch,
    skip, wait,
};

use crate::support::TIME_MAX;

/// Where Debian puts its browser.
const CHROMIUM: &str = "/usr/bin/chromium";

/// A running provider; stopped when dropped.
pub(crate) struct Provider {
    process: Process,
    address: SocketAddr,
    _directory: Scratch,
}

impl Provider {
    /// Starts one with these options (provider.mjs); none where it is not installed.
    pub(crate) fn start(test: &str, options: &Value) -> Option<Self> {
        Self::start_trusting(test, options, None)
    }

    /// The same, which believes certificates of the authority in this file.
    pub(crate) fn start_trusting(test: &str, options: &Value, authority: Option<&Path>) -> Option<Self> {
        let installed = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../tools/oidc-provider");
        if !installed.join("node_modules/oidc-provider").exists() {
            skip(test, "npm's oidc-provider is not installed: `cargo xtask setup`");
            return None;
        }
        let directory = Scratch::new().unwrap();
        let mut command = Place::here().command("node");
        command.arg(script("provider.mjs")).arg(installed).arg("0").arg(options.to_string());
        command.env("NODE_EXTRA_CA_CERTS", authority.unwrap_or(Path::new("")));
        let mut process = Process::start(command, directory.path().join("provider.output")).unwrap();
        let address = wait::until(TIME_MAX, || {
            let output = process.output();
            let issuer = output.lines().find_map(|line| line.strip_prefix("issuer http://"));
            let ended = process.wait(Duration::ZERO).unwrap();
            assert!(ended.is_none(), "the provider ended: {output}");
            issuer.map(|address| address.parse().unwrap())
        });
        Some(Self { process, address: address.expect("the provider listens"), _directory: directory })
    }

    /// What it calls itself, and where it is.
    pub(crate) fn issuer(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Asks something of it, as `rotate?keep=yes`.
    #[track_caller]
    pub(crate) fn order(&self, order: &str) {
        let target = format!("/test/{order}");
        let answer = self.ask(&Request { method: "POST", ..Request::get(&target) });
        assert_eq!(answer.status, 200, "{order}: {}\n{}", answer.text(), self.process.output());
    }

    /// How often `path` was asked for.
    #[track_caller]
    pub(crate) fn count(&self, path: &str) -> u64 {
        let counts: HashMap<String, u64> =
            serde_json::from_slice(&self.ask(&Request::get("/test/counts")).body).unwrap();
        counts.get(path).copied().unwrap_or(0)
    }

    /// One request on a connection of its own.
    #[track_caller]
    pub(crate) fn ask(&self, request: &Request<'_>) -> Response {
        Connection::open(self.address, None, TIME_MAX).unwrap().request(request).unwrap()
    }

    /// What its token endpoint gives to `client` for `form`.
    #[track_caller]
    pub(crate) fn token(&self, client: &str, form: &str) -> Value {
        let form = format!("client_id={client}&client_secret=secret-of-{client}&{form}");
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        let request =
            Request { method: "POST", body: form.as_bytes(), ..Request::get("/token").with(&headers) };
        let answer = self.ask(&request);
        assert_eq!(answer.status, 200, "{form}: {}", answer.text());
        serde_json::from_slice(&answer.body).unwrap()
    }
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/oidc-provider").join(name)
}

/// A running browser, with a profile of its own; stopped when dropped.
pub(crate) struct Browser {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    _profile: Scratch,
}

/// Where it is.
#[derive(serde::Deserialize)]
pub(crate) struct Page {
    pub(crate) url: String,
    pub(crate) title: String,
    pub(crate) text: String,
    cookies: Vec<Value>,
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}: {}", self.url, self.title, self.text)
    }
}

impl Page {
    /// A cookie that the browser holds, as the debugging protocol shows it.
    pub(crate) fn cookie(&self, name: &str) -> Option<&Value> {
        self.cookies.iter().find(|cookie| cookie["name"] == name)
    }
}

impl Browser {
    /// Starts one; none where it is not installed.
    pub(crate) fn start(test: &str) -> Option<Self> {
        if !Path::new(CHROMIUM).exists() {
            skip(test, "chromium is not installed: `cargo xtask setup`");
            return None;
        }
        let profile = Scratch::new().unwrap();
        let mut child = Command::new("node")
            .arg(script("browser.mjs"))
            .arg(CHROMIUM)
            .arg(profile.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (orders, answers) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Some(Self { child, orders, answers, _profile: profile })
    }

    /// Goes to `url`; the page where that ends.
    #[track_caller]
    pub(crate) fn visit(&mut self, url: &str) -> Page {
        serde_json::from_value(self.order(&serde_json::json!({ "visit": url }))).unwrap()
    }

    /// Fills in the page's form and presses its button; the page where that ends.
    #[track_caller]
    pub(crate) fn fill(&mut self, fields: &[(&str, &str)]) -> Page {
        let fields: HashMap<_, _> = fields.iter().copied().collect();
        serde_json::from_value(self.order(&serde_json::json!({ "fill": fields }))).unwrap()
    }

    /// What a script of the page gets from `url`: its status.
    #[track_caller]
    pub(crate) fn fetch(&mut self, url: &str) -> u64 {
        self.order(&serde_json::json!({ "fetch": url }))["status"].as_u64().unwrap()
    }

    #[track_caller]
    fn order(&mut self, order: &Value) -> Value {
        writeln!(self.orders.as_mut().unwrap(), "{order}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        let answer: Value = serde_json::from_str(&answer).expect("the browser has not ended");
        assert!(answer.get("error").is_none(), "{order}: {answer}");
        answer
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its script ends, and takes the browser with it.
        drop(self.orders.take());
        if let Err(error) = self.child.wait() {
            eprintln!("the browser's script: {error}");
        }
    }
}
