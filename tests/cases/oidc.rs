//! Login with OpenID Connect at a provider that others certified: in a browser, and step by step with curl, which shows
//! what a browser would hide.

mod attacks;
mod life;
mod outage;
mod restart;
mod word;

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use serde_json::{Value, json};
use xtask::lab::{place::Place, scratch::Scratch, upstream::Nginx, wait};

use super::clients::curl;
use crate::{
    openid::{Browser, Provider},
    pki::Authority,
    support::{Edge, TIME_MAX, free_address},
};

/// Cookie keys, as `openssl rand -base64 32` makes them.
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const OTHER_KEY: &str = "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=";
const SESSION: &str = "__Host-portcullis-browser";

/// A gateway under TLS whose pages want a login, and the provider where that is.
struct Site {
    edge: Edge,
    provider: Provider,
    visitors: AtomicU32,
    _upstream: Nginx,
}

impl Site {
    /// None: something that it needs is not installed.
    fn start(test: &str, options: &Value) -> Option<Self> {
        Self::start_after(test, options, "", |_| {})
    }

    /// The same with more settings of the auth, when something has happened to the provider.
    fn start_after(
        test: &str,
        options: &Value,
        settings: &str,
        before: impl FnOnce(&Provider),
    ) -> Option<Self> {
        let (directory, authority) = (Scratch::new().unwrap(), Authority::new("tests"));
        let ca_file = directory.write("ca.crt", authority.pem()).unwrap();
        let provider = Provider::start_trusting(test, options, Some(&ca_file))?;
        before(&provider);
        authority.issue(&["localhost"]).write(&directory, "edge");
        for (name, text) in [("web.secret", "secret-of-web\n"), ("cookie.key", KEY)] {
            directory.write(name, text).unwrap();
        }
        for name in ["edge.key", "web.secret", "cookie.key"] {
            keep_secret(&directory.path().join(name));
        }
        let address = free_address();
        let upstream = Nginx::start_with(&Place::here(), address, |_| {
            format!(
                "server {{ listen {address}; default_type text/plain; location / {{ return 200 \"page: $request_uri\\n\
                 user: $http_x_user\\nmail: $http_x_mail\\ncookie: $http_cookie\\n\"; }} }}"
            )
        });
        let listener = "protocols = [\"h2\", \"http/1.1\"]\n\
            tls = { certificates = [{ chain_file = \"edge.crt\", key_file = \"edge.key\" }] }\n";
        let upstream = upstream.unwrap();
        let edge = Edge::start_with(directory, address, listener, &sections(&provider, settings));
        Some(Self { edge, provider, visitors: AtomicU32::new(0), _upstream: upstream })
    }

    /// With another gateway, after a crash of the one before.
    #[track_caller]
    fn restarted(self) -> Self {
        Self { edge: self.edge.restart().unwrap(), ..self }
    }

    fn url(&self, target: &str) -> String {
        format!("https://localhost:{}{target}", self.edge.address.port())
    }

    /// Somebody with no cookies so far.
    fn visitor(&self) -> Visitor<'_> {
        let number = self.visitors.fetch_add(1, Ordering::Relaxed);
        let jar = self.edge.directory.path().join(format!("jar{number}"));
        Visitor { site: self, jar }
    }

    /// Somebody who has logged in.
    #[track_caller]
    fn known(&self) -> Visitor<'_> {
        let visitor = self.visitor();
        let page = visitor.walk(&self.url("/start"));
        assert_eq!(page.status, 200, "{page:?}");
        visitor
    }
}

fn sections(provider: &Provider, settings: &str) -> String {
    format!(
        "[runtime]\nworkers = 2\nstate_dir = \"state\"\n\
         [upstreams.app]\nservers = [\"{{upstream}}\"]\nhealth = \"off\"\n\
         [auth.browser]\nkind = \"oidc\"\nissuer = \"{}\"\nclient_id = \"web\"\nclient_secret_file = \"web.secret\"\n\
         cookie_key_file = \"cookie.key\"\nrequest_scopes = [\"openid\", \"email\"]\nroles = \"roles\"\n\
         forward = {{ x-user = \"sub\" }}\nafter_logout = \"/open/bye\"\n{settings}\n\
         [roles.clerk]\npermissions = [\"orders:write\"]\n\
         [routes.app]\npath = \"/{{*rest}}\"\nauth = [\"browser\"]\nupstream = \"app\"\n\
         [routes.clerks]\npath = \"/clerks/{{*rest}}\"\nauth = [\"browser\"]\npermission = \"orders:write\"\n\
         upstream = \"app\"\n\
         [routes.open]\npath = \"/open/{{*rest}}\"\npublic = true\nupstream = \"app\"\n",
        provider.issuer()
    )
}

fn keep_secret(file: &Path) {
    std::fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
}

/// Somebody with a cookie jar.
struct Visitor<'s> {
    site: &'s Site,
    jar: PathBuf,
}

/// One answer.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (each, value) = line.split_once(": ")?;
            each.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    fn headers<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.head.lines().filter_map(move |line| {
            let (each, value) = line.split_once(": ")?;
            each.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    /// Where it sends a browser.
    #[track_caller]
    fn location(&self) -> &str {
        assert_eq!(self.status, 303, "{self:?}");
        self.header("location").unwrap()
    }
}

/// `path` on the host of `from`.
fn absolute(from: &str, path: &str) -> String {
    let authority_at = from.find("://").unwrap() + 3;
    let end = from[authority_at..].find('/').map_or(from.len(), |slash| authority_at + slash);
    format!("{}{path}", &from[..end])
}

/// What a browser says when a person goes to a page.
const NAVIGATES: [&str; 2] = ["Accept: text/html,*/*;q=0.8", "Sec-Fetch-Mode: navigate"];

impl Visitor<'_> {
    /// One request with these fields, and curl's `flags`.
    #[track_caller]
    fn ask(&self, url: &str, fields: &[&str], flags: &[&str]) -> Answer {
        let jar = self.jar.to_string_lossy().into_owned();
        let mut command = curl(&["--include", "--path-as-is", "--cookie", &jar, "--cookie-jar", &jar]);
        command.arg("--cacert").arg(self.site.edge.directory.path().join("ca.crt"));
        for field in fields {
            command.args(["--header", field]);
        }
        let output = command.args(flags).arg(url).output().unwrap();
        assert!(output.status.success(), "{url}: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_owned(), body: body.to_owned() }
    }

    /// A page of the gateway, asked for by a person.
    #[track_caller]
    fn visit(&self, target: &str) -> Answer {
        self.ask(&self.site.url(target), &NAVIGATES, &[])
    }

    /// The same by a script.
    #[track_caller]
    fn fetch(&self, target: &str) -> Answer {
        self.ask(&self.site.url(target), &["Accept: application/json", "Sec-Fetch-Mode: cors"], &[])
    }

    /// Goes where it is sent, as a browser does.
    #[track_caller]
    fn walk(&self, url: &str) -> Answer {
        let mut url = url.to_owned();
        for _ in 0..10 {
            let answer = self.ask(&url, &NAVIGATES, &[]);
            match answer.header("location") {
                Some(to) if to.starts_with('/') => url = absolute(&url, to),
                Some(to) => to.clone_into(&mut url),
                None => return answer,
            }
        }
        panic!("sent from {url} to {url}")
    }

    /// Where the provider sends it back to, which it does not visit.
    #[track_caller]
    fn callback_after(&self, authorization: &str) -> String {
        let mut url = authorization.to_owned();
        for _ in 0..10 {
            let answer = self.ask(&url, &NAVIGATES, &[]);
            let to = answer.location();
            url = if to.starts_with('/') { absolute(&url, to) } else { to.to_owned() };
            if url.starts_with(&self.site.url("/oauth2/callback?")) {
                return url;
            }
        }
        panic!("never sent back: {url}")
    }

    /// The cookies of the gateway as one field, for a request that says them itself.
    fn cookies(&self) -> String {
        let jar = std::fs::read_to_string(&self.jar).unwrap();
        let cookie = |line: &str| {
            let fields: Vec<&str> = line.strip_prefix("#HttpOnly_")?.split('\t').collect();
            fields[5].starts_with(SESSION).then(|| format!("{}={}", fields[5], fields[6]))
        };
        let cookies: Vec<String> = jar.lines().filter_map(cookie).collect();
        format!("Cookie: {}", cookies.join("; "))
    }
}

#[test]
fn a_browser_logs_in_goes_back_and_logs_out() {
    const TEST: &str = "oidc::a_browser_logs_in_goes_back_and_logs_out";
    let Some(site) = Site::start(TEST, &json!({})) else { return };
    let Some(mut browser) = Browser::start(TEST) else { return };
    site.provider.order("login?as=");
    let login = browser.visit(&site.url("/orders/7?page=2&b=%2F"));
    assert_eq!(login.title, "login", "{login:?}");
    let consent = browser.fill(&[("login", "alice")]);
    assert_eq!(consent.title, "consent", "{consent:?}");
    let page = browser.fill(&[]);
    assert_eq!(page.url, site.url("/orders/7?page=2&b=%2F"));
    assert!(page.text.contains("user: alice"), "{page:?}");
    assert!(!page.text.contains("__Host-"), "{page:?}");
    let cookie = page.cookie(SESSION).expect("a session");
    for (attribute, expected) in
        [("httpOnly", json!(true)), ("secure", json!(true)), ("sameSite", json!("Lax")), ("path", json!("/"))]
    {
        assert_eq!(cookie[attribute], expected, "{cookie}");
    }
    assert_eq!(cookie["domain"], "localhost");
    // The session is used from then on, by pages and by scripts, and nobody is asked.
    assert_eq!(browser.fetch(&site.url("/api/orders")), 200);
    assert_eq!(browser.visit(&site.url("/clerks/")).text.lines().next(), Some("page: /clerks/"));
    assert_eq!((site.provider.count("/token"), site.provider.count("/auth")), (1, 1));
    let confirm = browser.visit(&site.url("/oauth2/logout"));
    assert_eq!(confirm.title, "Log out", "{confirm:?}");
    let bye = browser.fill(&[]);
    assert_eq!(bye.url, site.url("/open/bye"));
    assert!(bye.cookie(SESSION).is_none(), "{bye:?}");
    assert_eq!(browser.fetch(&site.url("/api/orders")), 401);
    assert_eq!(browser.visit(&site.url("/")).title, "login", "also the issuer's session has ended");
}

#[test]
fn a_person_is_sent_to_the_issuer_and_a_program_is_told_what_is_missing() {
    const TEST: &str = "oidc::a_person_is_sent_to_the_issuer_and_a_program_is_told_what_is_missing";
    let Some(site) = Site::start(TEST, &json!({})) else { return };
    let visitor = site.visitor();
    let url = site.url("/orders");
    let sent = |fields: &[&str], flags: &[&str]| visitor.ask(&url, fields, flags);
    for answer in [sent(&NAVIGATES, &[]), sent(&NAVIGATES[..1], &[]), sent(&NAVIGATES[1..], &["--http1.1"])] {
        assert!(answer.location().starts_with(&format!("{}/auth?", site.provider.issuer())), "{answer:?}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{answer:?}");
    }
    for answer in [
        sent(&["Accept: application/json"], &[]),
        sent(&["Accept: text/html", "Sec-Fetch-Mode: cors"], &[]),
        sent(&["Accept: text/html"], &["--http1.1", "--data", "a=b"]),
        sent(&["Accept: text/html", "Upgrade: websocket"], &["--http1.1"]),
        sent(&[], &["--head"]),
        sent(&[], &[]),
    ] {
        assert_eq!(answer.status, 401, "{answer:?}");
        assert_eq!(answer.header("www-authenticate"), Some("Cookie realm=\"browser\""), "{answer:?}");
        assert_eq!(answer.headers("set-cookie").count(), 0, "{answer:?}");
    }
    assert_eq!(site.provider.count("/auth"), 0);
}

#[test]
fn upstreams_see_who_it_is_and_no_cookie_of_ours() {
    const TEST: &str = "oidc::upstreams_see_who_it_is_and_no_cookie_of_ours";
    let Some(site) = Site::start(TEST, &json!({})) else { return };
    site.provider.order("login?as=bob");
    let visitor = site.known();
    let session = visitor.cookies();
    for flags in [&["--http1.1"][..], &["--http2"]] {
        for (target, user) in [("/page", "bob"), ("/open/page", "")] {
            let fields = [&session, "Cookie: theirs=1", "X-User: root", "X_User: root"];
            let answer = site.visitor().ask(&site.url(target), &fields, flags);
            assert_eq!(answer.body, format!("page: {target}\nuser: {user}\nmail: \ncookie: theirs=1\n"));
            let answer = site.visitor().ask(&site.url(target), &[&session], flags);
            assert_eq!(answer.body, format!("page: {target}\nuser: {user}\nmail: \ncookie: \n"));
        }
    }
    // Bob is no clerk, and that is no matter of logging in again.
    assert_eq!(visitor.visit("/clerks/").status, 403);
}

#[test]
fn sessions_outlive_a_change_of_cookie_keys_and_an_old_key_opens_nothing() {
    const TEST: &str = "oidc::sessions_outlive_a_change_of_cookie_keys_and_an_old_key_opens_nothing";
    let Some(mut site) = Site::start(TEST, &json!({})) else { return };
    let old = site.known().cookies();
    let gone = site.known();
    let logged_out = gone.cookies();
    gone.visit("/oauth2/logout");
    let status = |site: &Site, cookies: &str| site.visitor().ask(&site.url("/"), &[cookies], &[]).status;
    let change = |site: &mut Site, keys: &str, probe: &str, expected: u16| {
        let file = site.edge.directory.write("cookie.key", keys).unwrap();
        keep_secret(&file);
        site.edge.gateway.process().signal(libc::SIGHUP).unwrap();
        wait::until(TIME_MAX, || (status(site, probe) == expected).then_some(())).expect(keys);
    };
    let both = format!("# new\n{OTHER_KEY}\n# old\n{KEY}\n");
    change(&mut site, &both, &old, 200);
    assert_eq!(status(&site, &logged_out), 401, "a reload brings nobody back");
    let new = wait::until(TIME_MAX, || {
        // Once the new configuration is in force.
        let cookies = site.known().cookies();
        (cookies != old).then_some(cookies)
    });
    change(&mut site, OTHER_KEY, &old, 401);
    assert_eq!(status(&site, &new.unwrap()), 200);
}
