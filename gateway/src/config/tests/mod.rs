//! Whole files through [`parse`] and [`load`]: what is accepted and as what, and what is refused, where and in which
//! words. A line per case.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use proptest::prelude::*;

mod sections;
mod feeds;
mod access;
mod oidc;
mod reshape;
mod cors;

use super::{
    AccessLog, Action, AdminAddress, ApiKey, AuthKind, Balance, Carrier, Config, FilterPorts, LimitPer,
    Loaded, Permission, Rate, Threshold, Workers, XdpMode, load, parse,
};

/// A directory of files, removed when dropped.
pub(super) struct Dir(PathBuf);

impl Dir {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("portcullis-config-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn write(&self, name: &str, content: impl AsRef<[u8]>, mode: u32) -> &Self {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    pub(super) fn write_certificate(&self, chain: &str, key: &str) -> &Self {
        let made = rcgen::generate_simple_self_signed(["api.example.com".to_owned()]).unwrap();
        self.write(chain, made.cert.pem(), 0o644).write(key, made.signing_key.serialize_pem(), 0o600)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

pub(super) fn env(name: &str) -> Option<String> {
    (name == "PORT").then(|| "8443".to_owned())
}

fn parse_in(dir: &Path, text: &str) -> Result<Loaded, Vec<String>> {
    let strip = |path: String| path.replace(&format!("{}/", dir.display()), "");
    parse(text, dir, &env).map_err(|errors| errors.into_iter().map(|e| strip(e.to_string())).collect())
}

/// Of a password, as `portcullis keys password` makes them.
pub(super) const HASH: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5bm9ib2R5MTIzNA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// The text is refused with exactly these mistakes, each told by how it begins, after "portcullis.toml:".
#[track_caller]
fn refuse_in(dir: &Path, text: &str, expected: &[&str]) {
    let errors = parse_in(dir, text).expect_err("the text should be refused");
    let errors: Vec<&str> = errors.iter().map(|e| e.strip_prefix("portcullis.toml:").unwrap_or(e)).collect();
    let same =
        errors.len() == expected.len() && errors.iter().zip(expected).all(|(e, begin)| e.starts_with(begin));
    assert!(same, "{errors:#?} instead of {expected:#?}");
}

#[track_caller]
fn refuse(text: &str, expected: &[&str]) {
    refuse_in(Path::new("/nonexistent"), text, expected);
}

#[track_caller]
fn accept(text: &str) -> Config {
    parse_in(Path::new("/nonexistent"), text).expect("the text should be accepted").config
}

#[track_caller]
fn warn(text: &str, expected: &[&str]) {
    let warnings = parse_in(Path::new("/nonexistent"), text).expect("the text should be accepted").warnings;
    let warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    let begins = |(w, begin): (&String, &&str)| w.starts_with(&format!("portcullis.toml:{begin}"));
    assert!(warnings.len() == expected.len() && warnings.iter().zip(expected).all(begins), "{warnings:#?}");
}

fn repeat(count: usize, text: impl Fn(usize) -> String) -> String {
    (0..count).map(text).collect()
}

#[test]
fn an_empty_file_is_all_defaults() {
    let config = accept("");
    assert_eq!(config.runtime.workers, Workers::Auto);
    assert_eq!(config.runtime.connections_max, 65_536);
    assert_eq!(config.runtime.drain_timeout, Duration::from_secs(30));
    assert_eq!(config.prefilter.interfaces, Vec::<String>::new());
    assert_eq!(config.prefilter.mode, XdpMode::Auto);
    assert!(config.prefilter.required && !config.prefilter.dry_run && config.prefilter.drop_malformed);
    assert_eq!(config.prefilter.pin_dir, Path::new("/sys/fs/bpf/portcullis"));
    assert_eq!(config.prefilter.ports, FilterPorts::Listeners);
    assert_eq!((config.prefilter.entries_max, config.prefilter.sources_max), (1_000_000, 1_000_000));
    assert_eq!((config.prefilter.source_prefix_v4, config.prefilter.source_prefix_v6), (32, 64));
    assert_eq!(config.prefilter.packets, Some(Rate { per_s: 20_000.0, burst: 40_000 }));
    assert_eq!(config.prefilter.syns, Some(Rate { per_s: 200.0, burst: 400 }));
    assert_eq!(config.prefilter.samples_per_s, 100);
    let ten = Duration::from_secs(10);
    assert_eq!(config.escalation.unauthorized, Some(Threshold { count: 20, within: ten }));
    assert_eq!(config.escalation.forbidden, Some(Threshold { count: 50, within: ten }));
    assert_eq!(config.escalation.limited, Some(Threshold { count: 100, within: ten }));
    assert_eq!(config.escalation.malformed, Some(Threshold { count: 5, within: ten }));
    assert_eq!(config.escalation.not_found, Some(Threshold { count: 100, within: Duration::from_mins(1) }));
    assert_eq!(config.escalation.block_for, Duration::from_mins(1));
    assert_eq!(config.escalation.block_max, Duration::from_hours(24));
    assert_eq!(config.log.level, log::LevelFilter::Info);
    assert_eq!(config.log.access, AccessLog::Off);
}

/// Something of every section.
const EVERYTHING: &str = r#"
version = 1
[prefilter]
interfaces = ["eth0"]
allow = ["10.0.0.0/8", "192.0.2.1"]
packets = "off"
syns = { rate = "60/m" }
sample = "off"
ports = [443, 80, 443]
[escalation]
not_found = "off"
attack = "off"
forbidden = { count = 7 }
[listeners.public]
address = "[::]:${PORT}"
protocols = ["http/1.1"]
tls = { min_version = "1.3", certificates = [{ chain_file = "api.crt", key_file = "api.key" }], client_auth = "off" }
timeouts = { head = "250ms" }
limits = { head_size = "16KiB" }
[listeners.admin]
kind = "admin"
address = "unix:/run/portcullis/admin.sock"
[upstreams.orders]
servers = ["192.0.2.10:8080", { address = "[2001:db8::1]:8080", weight = 2 }]
balance = "random"
health = {}
outlier = "off"
retry = { attempts = 0, on = ["reset_before_head", "connect"] }
[auth.keys]
kind = "api_key"
store = "keys.db"
[roles.reader]
permissions = ["orders:read"]
[roles.clerk]
inherits = ["reader"]
permissions = ["orders:write"]
[consumers.acme]
roles = ["clerk"]
limits = ["gold"]
[limits.gold]
per = "header:X-Tenant"
rate = "1500/m"
dry_run = true
[filters.json]
allow_types = ["Application/JSON"]
[routes.orders]
hosts = ["API.example.com", "*.example.org"]
path = "/v1/orders/{id}"
methods = ["GET", "PUT"]
upstream = "orders"
auth = ["keys"]
permission = { GET = "orders:read", PUT = "orders:write" }
limits = ["gold"]
filter = "json"
timeouts = { request = "10s" }
body_size = "1MiB"
when = ""
compress = "off"
[routes.teapot]
path = "/teapot"
public = true
respond = { status = 418, body = "short and stout" }
[log]
level = "debug"
access = { file = "access.jsonl" }
"#;

fn everything() -> (Dir, Config) {
    let dir = Dir::new();
    dir.write_certificate("api.crt", "api.key");
    let Loaded { config, warnings } = parse_in(dir.path(), EVERYTHING).unwrap();
    assert_eq!(warnings, []);
    (dir, config)
}

#[test]
fn the_edge_in_one_file() {
    let (dir, config) = everything();
    assert_eq!(config.prefilter.allow.len(), 2);
    assert_eq!(config.prefilter.packets, None);
    assert_eq!(config.prefilter.syns, Some(Rate { per_s: 1.0, burst: 1 }));
    assert_eq!(config.prefilter.samples_per_s, 0);
    assert_eq!(config.prefilter.ports, FilterPorts::Ports(vec![80, 443]));
    assert_eq!(config.escalation.not_found, None);
    assert_eq!(config.escalation.forbidden.map(|t| t.count), Some(7));
    let listener = &config.listeners[0];
    assert_eq!(listener.address.to_string(), "[::]:8443");
    assert_eq!(listener.timeouts.head, Duration::from_millis(250));
    assert_eq!(listener.timeouts.handshake, Duration::from_secs(5));
    assert_eq!((listener.limits.head_size_bytes, listener.limits.headers), (16 << 10, 100));
    let tls = listener.tls.as_ref().unwrap();
    assert!(!tls.tls12);
    assert_eq!(tls.certificates[0].chain_file, dir.path().join("api.crt"));
    let admin = AdminAddress::Unix("/run/portcullis/admin.sock".into());
    assert_eq!(config.admin.map(|admin| admin.address), Some(admin));
    let upstream = &config.upstreams[0];
    assert_eq!(upstream.servers.iter().map(|s| s.weight).collect::<Vec<_>>(), [1, 2]);
    assert_eq!((upstream.balance, upstream.retry.attempts), (Balance::Random, 0));
    assert_eq!(upstream.health.as_ref().unwrap().path.as_ref(), "/healthz");
    assert_eq!(config.log.access, AccessLog::File(dir.path().join("access.jsonl")));
}

#[test]
fn access_in_one_file() {
    let (dir, config) = everything();
    let api_key = ApiKey { carrier: Carrier::Header("x-api-key".into()), store: dir.path().join("keys.db") };
    assert_eq!(config.auths[0].kind, AuthKind::ApiKey(api_key));
    let names: Vec<_> = config.roles.iter().map(|r| r.name.as_ref()).collect();
    assert_eq!(names, ["clerk", "reader"]);
    assert_eq!(config.roles[0].permissions, [Arc::from("orders:write"), Arc::from("orders:read")]);
    assert_eq!((&config.consumers[0].roles[..], &config.consumers[0].limits[..]), (&[0][..], &[0][..]));
    assert_eq!(config.limits[0].per, LimitPer::Header("x-tenant".into()));
    assert_eq!(config.limits[0].rate, Rate { per_s: 25.0, burst: 25 });
    assert!(config.limits[0].dry_run);
    assert_eq!(config.filters[0].allow_types, [Arc::from("application/json")]);
    let route = &config.routes[0];
    assert_eq!(route.hosts, [Arc::from("api.example.com"), Arc::from("*.example.org")]);
    assert_eq!((&route.auths[..], &route.limits[..], route.filter), (&[0][..], &[0][..], Some(0)));
    assert_eq!((&route.action, route.public), (&Action::Upstream(0), false));
    let by_method = [("GET", "orders:read"), ("PUT", "orders:write")].map(|(m, p)| (m.into(), p.into()));
    assert_eq!(route.permission, Permission::ByMethod(by_method.to_vec()));
    assert_eq!(route.request_timeout, Some(Duration::from_secs(10)));
    assert_eq!(route.body_size_bytes, Some(1 << 20));
    let Action::Respond(respond) = &config.routes[1].action else { panic!("it answers by itself") };
    assert_eq!((respond.status, &*respond.body), (418, "short and stout"));
}

#[test]
fn unknown_keys_have_a_place_and_a_suggestion() {
    refuse("[runtim]\n", &["1:2: unknown key `runtim` in this file\n  did you mean `runtime`?"]);
    refuse(
        "[runtime]\n  worker = 2\n",
        &["2:3: unknown key `worker` in `runtime`\n  did you mean `workers`?"],
    );
    refuse(
        "[log]\nzzzzzzzz = 1\n",
        &["2:1: unknown key `zzzzzzzz` in `log`\n  known here: level, access, audit"],
    );
    refuse(
        "[listeners.a]\naddress = \"[::]:1\"\ntimeouts = { heed = \"1s\" }\n",
        &["3:14: unknown key `heed` in `listeners.a.timeouts`\n  did you mean `head`?"],
    );
    refuse(
        "[upstreams.a]\nservers = [{ address = \"192.0.2.1:80\", wight = 2 }]\n",
        &["2:40: unknown key `wight` in `upstreams.a.servers[0]`\n  did you mean `weight`?"],
    );
}

#[test]
fn all_mistakes_are_told_at_once() {
    refuse(
        "version = 2\n[runtime]\nworkers = \"many\"\ndrain_timeout = 30\nfoo = 1\n\
         [log]\nlevel = \"inf\"\n[routes.a]\npath = \"a\"\nupstream = \"b\"\n",
        &[
            "1:11: version 2 is unknown",
            "3:11: `runtime.workers`: it is \"auto\", a number of workers or a list of CPU ids",
            "4:17: `runtime.drain_timeout`: 30 needs a unit, for example \"30s\"",
            "5:1: unknown key `foo` in `runtime`\n  known here: workers, connections_max, buffers_max, drain_timeout",
            "7:9: `log.level` cannot be \"inf\": it is one of",
            "8:9: `routes.a` says neither `auth` nor `public = true`",
            "9:8: `routes.a.path` does not begin with `/`",
            "10:12: `routes.a` names `b`, but there is no `[upstreams.b]`",
        ],
    );
    refuse("a = \nb = 1 1\n", &["1:5: ", "2:5: "]);
    refuse("[log]\nlevel = \"info\"\nlevel = \"warn\"\n", &["3:1: duplicate key"]);
    let many = repeat(200, |i| format!("k{i} = 1\n"));
    assert_eq!(parse_in(Path::new("."), &many).unwrap_err().len(), 101);
}

#[test]
fn what_was_dropped_as_wrong_is_not_missing_too() {
    refuse("[listeners.a]\naddress = 5\n", &["2:11: `listeners.a.address`: it is integer `5`, not a string"]);
    refuse(
        "[routes.a]\npath = 5\npublic = true\nupstream = \"u\"\n[upstreams]\nu = 1\n",
        &["2:8: `routes.a.path`: it is integer `5`, not a string", "6:5: `upstreams.u`: it is integer `1`"],
    );
    refuse("[upstreams.u]\nservers = [5]\n", &["2:12: `upstreams.u.servers[0]`: it is integer `5`"]);
}

#[test]
fn environment() {
    refuse("[log]\nlevel = \"${LEVEL}\"\n", &["2:9: the environment variable `LEVEL` is not set"]);
    assert_eq!(accept("[log]\nlevel = \"${LEVEL:-warn}\"\n").log.level, log::LevelFilter::Warn);
}

#[test]
fn includes() {
    let dir = Dir::new();
    let main = "include = [\"conf.d/*.toml\", \"more/${MORE:-a}.toml\"]\n[upstreams.u]\nservers = [\"192.0.2.1:80\"]\n[log]\n";
    let route = |path: &str| format!("[routes.r]\npath = \"{path}\"\npublic = true\nupstream = \"u\"\n");
    dir.write("portcullis.toml", main, 0o644);
    dir.write("conf.d/10-a.toml", "[listeners.l]\naddress = \"[::]:1\"\n[limits.x]\nrate = \"1/s\"\n", 0o644);
    dir.write("conf.d/.hidden.toml", "nonsense", 0o644).write("conf.d/b.toml~", "nonsense", 0o644);
    dir.write("more/a.toml", route("/a"), 0o644);
    let path = dir.path().join("portcullis.toml");
    let config = load(&path, &env).unwrap().config;
    assert_eq!((config.routes.len(), config.limits.len(), config.listeners.len()), (1, 1, 1));

    dir.write("conf.d/20-b.toml", format!("{}[log]\n[tls]\n", route("/b")), 0o644);
    dir.write("conf.d/30-c.toml", "include = [\"x\"]\nversion = 2\n", 0o644);
    let errors: Vec<String> = load(&path, &env).unwrap_err().iter().map(ToString::to_string).collect();
    let expected = [
        "conf.d/20-b.toml:5:1: `[log]` stands already at",
        "conf.d/20-b.toml:6:2: unknown key `tls` in this file",
        "conf.d/30-c.toml:1:11: only the main file includes others",
        "conf.d/30-c.toml:2:11: version 2 is unknown",
        "more/a.toml:1:9: `routes.r` stands already at",
    ];
    assert!(
        errors.len() == expected.len() && errors.iter().zip(expected).all(|(e, part)| e.contains(part)),
        "{errors:#?}"
    );
    assert!(errors[4].ends_with("conf.d/20-b.toml:1:9"), "{errors:#?}");
    let none = |pattern: &str| format!("include = [\"{pattern}\"]\n");
    refuse_in(dir.path(), &none("none.toml"), &["1:12: cannot read none.toml: No such file"]);
    refuse_in(dir.path(), &none("*/a.toml"), &["1:12: `*` and `?` work in the last part of a path only"]);
    assert!(parse_in(dir.path(), &none("conf.d/*.none")).is_ok());
}

#[test]
fn files_that_cannot_be_meant_are_refused() {
    let dir = Dir::new();
    dir.write("empty.toml", " \n", 0o644).write("idle.toml", "[log]\n", 0o644).write(
        "latin.toml",
        [0xff],
        0o644,
    );
    let first = |name: &str| load(&dir.path().join(name), &env).unwrap_err().remove(0).to_string();
    assert!(first("none.toml").contains("none.toml:1:1: cannot read this file: No such file"));
    assert!(first("empty.toml").ends_with("it is empty"));
    assert!(first("latin.toml").contains("valid UTF-8"));
    assert!(first("idle.toml").ends_with("there is nothing to do: no listener and no prefilter interface"));
    assert!(load(dir.path(), &env).is_err());
}

proptest! {
    #[test]
    fn no_text_panics(text in "(\\PC|[\\n\\[\\]{}=\".,#$ a-z0-9_]){0,200}") {
        let _ = parse(&text, Path::new("/nonexistent"), &env);
    }

    #[test]
    fn no_value_panics(
        key in "(runtime|prefilter|escalation|log|include|version|listeners|routes)(\\.[a-z_]{1,12}){0,2}",
        value in "([0-9-]{1,20}|\"[a-z0-9/:{}*$]{0,20}\"|\\[[0-9,\" ]{0,9}\\]|\\{ ?[a-z]{0,6} ?=? ?[0-9]{0,3} ?\\})",
    ) {
        let _ = parse(&format!("{key} = {value}\n"), Path::new("/nonexistent"), &env);
    }
}
