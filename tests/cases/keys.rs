//! API keys: what `portcullis keys` does to them reaches a running gateway, and what they are used for comes back.

use std::{
    fs::{self, Permissions},
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD};
use portcullis::decide::api_key;
use serde_json::Value;
use xtask::lab::{
    client::{Connection, Request},
    scratch::Scratch,
    scripted::Scripted,
    wait,
};

use crate::{
    h2_peer::{self, Client, run},
    support::{BINARY, Edge, HELLO, TIME_MAX, answering},
};

const SECTIONS: &str = "\
[runtime]\nworkers = 2\n\
[log]\naccess = { file = \"access.jsonl\" }\n\
[upstreams.app]\nservers = [\"{upstream}\"]\nhealth = \"off\"\n\
[auth.keys]\nkind = \"api_key\"\nstore = \"keys.db\"\n\
[auth.links]\nkind = \"api_key\"\nstore = \"keys.db\"\nquery = \"api_key\"\n\
[roles.reader]\npermissions = [\"orders:read\"]\n\
[routes.orders]\npath = \"/orders\"\nupstream = \"app\"\nauth = [\"keys\"]\npermission = \"orders:read\"\n\
[routes.links]\npath = \"/links\"\nupstream = \"app\"\nauth = [\"links\"]\n\
[routes.moved]\npath = \"/moved\"\nauth = [\"links\"]\nredirect = \"https://shop.example{path}\"\n";

/// A gateway, its store, and what came to the server behind it.
struct Shop {
    edge: Edge,
    upstream: Scripted,
    store: PathBuf,
}

impl Shop {
    fn open() -> Self {
        let directory = Scratch::new().unwrap();
        let store = directory.path().join("keys.db");
        create(&store, &["--role", "reader"]);
        let upstream = answering(HELLO);
        let listener = "protocols = [\"http/1.1\", \"h2\"]";
        let edge = Edge::start_with(directory, upstream.address(), listener, SECTIONS);
        Self { edge, upstream, store }
    }

    fn get(&self, key: &str) -> u16 {
        self.edge.get("/orders", &[("x-api-key", key)]).status
    }

    /// Waits until a key is answered so.
    #[track_caller]
    fn becomes(&self, key: &str, status: u16) {
        let seen = wait::until(TIME_MAX, || (self.get(key) == status).then_some(()));
        assert!(seen.is_some(), "{status} never came: {}", self.edge.gateway.output());
    }

    fn list(&self) -> Vec<Value> {
        let output = keys(&self.store, &["list", "--json"]);
        serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}"))
    }

    /// What is listed of a key.
    fn listed(&self, id: &str) -> Value {
        self.list().into_iter().find(|key| key["id"] == id).unwrap_or_else(|| panic!("{id} is not listed"))
    }
}

fn portcullis(store: &Path, arguments: &[&str]) -> Output {
    let (words, options) = arguments.split_at(1);
    let mut command = Command::new(BINARY);
    command.arg("keys").args(words).arg("--store").arg(store).args(options);
    command.output().expect("the binary starts")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// What a command that goes well says.
#[track_caller]
fn keys(store: &Path, arguments: &[&str]) -> String {
    let output = portcullis(store, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// What one that does not says.
#[track_caller]
fn fails(store: &Path, arguments: &[&str]) -> String {
    let output = portcullis(store, arguments);
    assert!(!output.status.success(), "{arguments:?}: {}", said(&output));
    String::from_utf8(output.stderr).unwrap()
}

#[track_caller]
fn create(store: &Path, options: &[&str]) -> String {
    let arguments: Vec<&str> =
        ["create", "--consumer", "acme"].into_iter().chain(options.iter().copied()).collect();
    keys(store, &arguments).trim().to_owned()
}

fn id(key: &str) -> &str {
    api_key::id_of(key.as_bytes()).expect("a key")
}

fn ask(connection: &mut Connection, key: &str) -> u16 {
    connection.request(&Request::get("/orders").with(&[("x-api-key", key)])).unwrap().status
}

#[test]
fn a_new_key_works_on_every_worker_without_a_restart() {
    let shop = Shop::open();
    let mut connections: Vec<_> = (0..16).map(|_| shop.edge.connect()).collect();
    let key = create(&shop.store, &["--role", "reader"]);
    shop.becomes(&key, 200);
    // All workers look in one table.
    for connection in &mut connections {
        assert_eq!(ask(connection, &key), 200);
    }
    let powerless = create(&shop.store, &[]);
    shop.becomes(&powerless, 403);
    let metrics = shop.edge.gateway.metrics().unwrap();
    assert!((metrics.sum("portcullis_keys", &[("auth", "keys")]) - 3.0).abs() < 0.5);
}

#[test]
fn a_revoked_key_stops_working_on_connections_that_are_open() {
    let shop = Shop::open();
    let (key, other) =
        (create(&shop.store, &["--role", "reader"]), create(&shop.store, &["--role", "reader"]));
    shop.becomes(&other, 200);
    let mut connections: Vec<_> = (0..16).map(|_| shop.edge.connect()).collect();
    for connection in &mut connections {
        assert_eq!(ask(connection, &key), 200);
    }
    run(async {
        let mut client = Client::open(shop.edge.address).await;
        let get = || {
            let mut request = h2_peer::get("/orders");
            request.headers_mut().insert("x-api-key", key.parse().unwrap());
            request
        };
        assert_eq!(client.ask(get()).await.unwrap().status, 200);
        assert!(keys(&shop.store, &["revoke", id(&key)]).contains("is revoked"));
        shop.becomes(&key, 401);
        assert_eq!(client.ask(get()).await.unwrap().status, 401);
    });
    for connection in &mut connections {
        assert_eq!(ask(connection, &key), 401, "no worker remembers it");
        assert_eq!(ask(connection, &other), 200);
    }
    assert_eq!(shop.listed(id(&key))["state"], "revoked");
    assert!(keys(&shop.store, &["revoke", &key]).contains("was revoked already"));
}

#[test]
fn rotation_leaves_the_old_key_good_for_the_overlap() {
    let shop = Shop::open();
    let old = create(&shop.store, &["--role", "reader", "--note", "till 4"]);
    shop.becomes(&old, 200);
    let new = keys(&shop.store, &["rotate", id(&old), "--overlap", "24h"]).trim().to_owned();
    shop.becomes(&new, 200);
    assert_eq!(shop.get(&old), 200);
    let (listed_old, listed_new) = (shop.listed(id(&old)), shop.listed(id(&new)));
    assert_eq!((&listed_old["state"], &listed_old["replaced_by"]), (&"replaced".into(), &id(&new).into()));
    assert_eq!((&listed_new["state"], &listed_new["replaces"]), (&"good".into(), &id(&old).into()));
    for what in ["consumer", "roles", "note"] {
        assert_eq!(listed_new[what], listed_old[what]);
    }
    assert!(listed_new["expires"].is_null() && listed_old["expires"].is_string(), "{listed_old}");
    assert!(fails(&shop.store, &["rotate", id(&old)]).contains("was replaced by"));
    let newest = keys(&shop.store, &["rotate", id(&new), "--overlap", "0s"]).trim().to_owned();
    shop.becomes(&newest, 200);
    assert_eq!(shop.get(&new), 401);
    assert!(fails(&shop.store, &["rotate", id(&new)]).contains("was replaced by"));
}

#[test]
fn a_key_ends_by_itself() {
    let shop = Shop::open();
    let key = create(&shop.store, &["--role", "reader", "--expires", "2s"]);
    // By then the gateway has read of both.
    let later = create(&shop.store, &["--role", "reader"]);
    shop.becomes(&later, 200);
    let ended = || (shop.listed(id(&key))["state"] == "expired").then_some(());
    assert!(wait::until(TIME_MAX, ended).is_some());
    shop.becomes(&key, 401);
    assert!(fails(&shop.store, &["rotate", id(&key)]).contains("is not good any more"));
    let refused = |when: &str| fails(&shop.store, &["create", "--consumer", "acme", "--expires", when]);
    assert!(refused("2020-01-01").contains("lies in the past"));
    assert!(refused("soon").contains("neither a duration"));
}

/// Row 83: it reaches neither the server, nor the log, nor whoever the client is sent to.
#[test]
fn a_key_in_the_query_stays_at_the_gateway() {
    let mut shop = Shop::open();
    let key = create(&shop.store, &[]);
    let target = format!("/links?a=1&api%5Fkey={key}&b=2");
    assert!(wait::until(TIME_MAX, || (shop.edge.get(&target, &[]).status == 200).then_some(())).is_some());
    let head = String::from_utf8(shop.upstream.next_head(TIME_MAX).unwrap()).unwrap();
    assert!(head.starts_with("GET /links?a=1&b=2 HTTP/1.1\r\n") && !head.contains(id(&key)), "{head}");
    let only = shop.edge.get(&format!("/links?api_key={key}"), &[]);
    assert_eq!(only.status, 200);
    let head = String::from_utf8(shop.upstream.next_head(TIME_MAX).unwrap()).unwrap();
    assert!(head.starts_with("GET /links HTTP/1.1\r\n"), "{head}");
    let moved = shop.edge.get(&format!("/moved?api_key={key}&c=3"), &[]);
    assert_eq!(moved.header("location"), Some("https://shop.example/moved?c=3"));
    let twice = shop.edge.get(&format!("/links?api_key={key}&api_key={key}"), &[]);
    assert_eq!(twice.status, 401);
    assert_eq!(twice.header("www-authenticate"), Some("ApiKey realm=\"links\", query=\"api_key\""));
    run(async {
        let mut client = Client::open(shop.edge.address).await;
        assert_eq!(client.get(&format!("/links?api_key={key}&d=4")).await.unwrap().status, 200);
    });
    let head = String::from_utf8(shop.upstream.next_head(TIME_MAX).unwrap()).unwrap();
    assert!(head.starts_with("GET /links?d=4 HTTP/1.1\r\n"), "{head}");
    shop.edge.gateway.process().signal(libc::SIGTERM).unwrap();
    shop.edge.gateway.process().wait(TIME_MAX).unwrap().unwrap();
    let log = fs::read_to_string(shop.edge.directory.path().join("access.jsonl")).unwrap();
    assert!(log.contains("\"path\":\"/links\"") && !log.contains(id(&key)), "{log}");
    assert!(!shop.edge.gateway.output().contains(id(&key)));
}

#[test]
fn the_list_tells_when_and_from_where_a_key_was_used() {
    let mut shop = Shop::open();
    let (used, unused) =
        (create(&shop.store, &["--role", "reader"]), create(&shop.store, &["--role", "reader"]));
    shop.becomes(&used, 200);
    let mut connection = shop.edge.connect();
    for _ in 0..4 {
        assert_eq!(ask(&mut connection, &used), 200);
    }
    keys(&shop.store, &["revoke", id(&used)]);
    shop.becomes(&used, 401);
    // At the end at the latest, of keys that were taken back meanwhile, too.
    shop.edge.gateway.process().signal(libc::SIGTERM).unwrap();
    shop.edge.gateway.process().wait(TIME_MAX).unwrap().unwrap();
    let listed = shop.listed(id(&used));
    assert!(listed["uses"].as_u64().is_some_and(|uses| uses >= 5), "{listed}");
    assert_eq!(listed["last_source"], "127.0.0.1");
    assert!(listed["last_used"].is_string());
    let listed = shop.listed(id(&unused));
    assert_eq!((&listed["uses"], &listed["last_used"]), (&0.into(), &Value::Null));
    let show = keys(&shop.store, &["show", &used]);
    assert!(show.contains("from 127.0.0.1") && !show.contains(&used), "{show}");
    assert!(keys(&shop.store, &["list"]).contains("never"));
}

#[test]
fn a_store_that_is_gone_takes_nobody_their_keys() {
    let shop = Shop::open();
    let key = create(&shop.store, &["--role", "reader"]);
    shop.becomes(&key, 200);
    let aside = shop.store.with_extension("aside");
    let counted = |event: &str| {
        let metrics = shop.edge.gateway.metrics().unwrap();
        metrics.sum("portcullis_key_store_events_total", &[("auth", "keys"), ("event", event)])
    };
    fs::rename(&shop.store, &aside).unwrap();
    assert!(wait::until(TIME_MAX, || (counted("unreadable") > 0.0).then_some(())).is_some());
    assert_eq!(shop.get(&key), 200);
    // Nor does one that is none.
    fs::write(&shop.store, "<html>").unwrap();
    fs::set_permissions(&shop.store, Permissions::from_mode(0o600)).unwrap();
    let told = |text: &str| wait::until(TIME_MAX, || shop.edge.gateway.output().contains(text).then_some(()));
    assert!(told("is not a key store").is_some(), "{}", shop.edge.gateway.output());
    assert_eq!(shop.get(&key), 200);
    fs::rename(&aside, &shop.store).unwrap();
    let later = create(&shop.store, &["--role", "reader"]);
    shop.becomes(&later, 200);
    // Another store under its name counts at once, and alone.
    let other = shop.store.with_extension("other");
    let elsewhere = create(&other, &["--role", "reader"]);
    fs::rename(&other, &shop.store).unwrap();
    shop.becomes(&elsewhere, 200);
    assert_eq!((shop.get(&key), shop.get(&later)), (401, 401));
}

#[test]
fn a_reload_keeps_the_keys_and_takes_another_store() {
    let mut shop = Shop::open();
    let key = create(&shop.store, &["--role", "reader"]);
    shop.becomes(&key, 200);
    let config = fs::read_to_string(shop.edge.gateway.config_file()).unwrap();
    let mut reloads = 0;
    let mut reload = |shop: &mut Shop, config: &str| {
        shop.edge.gateway.write_config(config).unwrap();
        shop.edge.gateway.process().signal(libc::SIGHUP).unwrap();
        reloads += 1;
        let generation = format!("generation {}", reloads + 1);
        let output = |shop: &Shop| shop.edge.gateway.output().contains(&generation).then_some(());
        assert!(wait::until(TIME_MAX, || output(shop)).is_some(), "{}", shop.edge.gateway.output());
    };
    reload(&mut shop, &config);
    assert_eq!(shop.get(&key), 200);
    let later = create(&shop.store, &["--role", "reader"]);
    shop.becomes(&later, 200);
    let other = shop.edge.directory.path().join("other.db");
    let elsewhere = create(&other, &["--role", "reader"]);
    reload(&mut shop, &config.replace("keys.db", "other.db"));
    assert_eq!((shop.get(&elsewhere), shop.get(&key)), (200, 401));
    keys(&other, &["revoke", id(&elsewhere)]);
    shop.becomes(&elsewhere, 401);
}

#[test]
fn check_says_how_to_make_a_store_and_what_is_wrong_with_one() {
    let directory = Scratch::new().unwrap();
    let config = "[listeners.a]\naddress = \"127.0.0.1:1\"\n[auth.keys]\nkind = \"api_key\"\nstore = \"keys.db\"\n\
                  [routes.all]\npath = \"/\"\nauth = [\"keys\"]\nrespond = { status = 204 }\n";
    let file = directory.write("portcullis.toml", config).unwrap();
    let checked = |good: bool| {
        let output = Command::new(BINARY).args(["check", "--config"]).arg(&file).output().unwrap();
        assert_eq!(output.status.success(), good, "{}", said(&output));
        said(&output)
    };
    let missing = checked(false);
    assert!(
        missing.contains("auth.keys: ") && missing.contains("`portcullis keys create --store "),
        "{missing}"
    );
    let store = directory.path().join("keys.db");
    let output = Command::new(BINARY)
        .args(["keys", "create", "--consumer", "acme", "--role", "raeder", "--auth", "keys", "--config"])
        .arg(&file)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(checked(true).contains("`raeder`, but there is no `[roles.raeder]`"));
    fs::set_permissions(&store, Permissions::from_mode(0o644)).unwrap();
    assert!(checked(false).contains("everybody may read (mode 0644)"));
    fs::write(&store, "version = 1\nhash_key = \"\"\n").unwrap();
    fs::set_permissions(&store, Permissions::from_mode(0o600)).unwrap();
    assert!(checked(false).contains("portcullis keys import --store NEW"));
    let unknown = Command::new(BINARY).args(["keys", "list", "--auth", "x", "--config"]).arg(&file).output();
    assert!(said(&unknown.unwrap()).contains("has no [auth.x] of kind \"api_key\""));
}

/// Who gave a key to whom is written down, and what gives access is not.
#[test]
fn what_is_done_to_keys_stands_in_the_audit_log() {
    let directory = Scratch::new().unwrap();
    let config = "[listeners.a]\naddress = \"127.0.0.1:1\"\n[auth.keys]\nkind = \"api_key\"\nstore = \"keys.db\"\n\
                  [routes.all]\npath = \"/\"\nauth = [\"keys\"]\nrespond = { status = 204 }\n\
                  [log]\naudit = { file = \"audit.jsonl\", sign_key_file = \"audit.key\" }\n";
    let file = directory.write("portcullis.toml", config).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(BINARY);
        let output = command.arg("keys").args(arguments).arg("--config").arg(&file).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let key = run(&["create", "--consumer", "acme"]);
    let new = run(&["rotate", id(&key)]);
    run(&["revoke", id(&new)]);
    let log = fs::read_to_string(directory.path().join("audit.jsonl")).unwrap();
    for (command, target) in [
        ("keys create", format!("{} of acme", id(&key))),
        ("keys rotate", format!("{}, replaced by {}", id(&key), id(&new))),
        ("keys revoke", id(&new).to_owned()),
    ] {
        let line = log.lines().find(|line| line.contains(&format!("\"command\":\"{command}\"")));
        assert!(line.is_some_and(|line| line.contains(&format!("\"target\":\"{target}\""))), "{log}");
    }
    assert!(!log.contains(&key) && !log.contains(&new));
}

/// Keys that were made for a store of the old kind.
#[test]
fn the_old_store_is_taken_over_and_its_keys_stay_good() {
    let shop = Shop::open();
    let mut random = 0_u8;
    let minted = api_key::mint(&mut |bytes| {
        for byte in bytes {
            random = random.wrapping_mul(77).wrapping_add(31);
            *byte = random;
        }
    });
    let hash = BASE64_STANDARD_NO_PAD.encode(api_key::hash_of(&[9; 32], &minted.secret));
    let hash_key = BASE64_STANDARD_NO_PAD.encode([9; 32]);
    let old = format!(
        "version = 1\nhash_key = \"{hash_key}\"\n\n[keys.\"{}\"]\nconsumer = \"acme\"\nroles = [\"reader\"]\n\
         hash = \"{hash}\"\n",
        minted.id
    );
    let file = shop.edge.directory.write("keys.toml", old).unwrap();
    let file = file.to_str().unwrap();
    assert!(fails(&shop.store, &["import", file]).contains("another hash key"));
    fs::remove_file(&shop.store).unwrap();
    assert!(keys(&shop.store, &["import", file]).contains("1 keys taken, 0 were there already"));
    shop.becomes(&minted.text, 200);
    keys(&shop.store, &["revoke", &minted.id]);
    assert!(keys(&shop.store, &["import", file]).contains("0 keys taken, 1 were there already"));
    assert_eq!(shop.listed(&minted.id)["state"], "revoked", "what was taken back does not come back");
    // What is exported can be imported.
    let lines = shop.edge.directory.path().join("keys.jsonl");
    keys(&shop.store, &["export", lines.to_str().unwrap()]);
    assert_eq!(fs::metadata(&lines).unwrap().permissions().mode() & 0o777, 0o600);
    let copy = shop.edge.directory.path().join("copy.db");
    assert!(keys(&copy, &["import", lines.to_str().unwrap()]).contains("1 keys taken"));
    assert_eq!(keys(&copy, &["list", "--json"]), keys(&shop.store, &["list", "--json"]));
    fs::write(&lines, "{\"hash_key\":\"AAAA\"}\n").unwrap();
    assert!(fails(&copy, &["import", lines.to_str().unwrap()]).contains("nothing changed"));
}

/// Lines of `count` keys whose secrets nobody knows.
fn lines(file: &Path, count: usize) {
    let mut out = std::io::BufWriter::new(fs::File::create(file).unwrap());
    let hash = BASE64_STANDARD_NO_PAD.encode([7; 32]);
    for n in 0..count {
        let mixed = n.wrapping_mul(0x9E37_79B9) & 0xFFFF_FFFF;
        writeln!(
            out,
            "{{\"id\":\"{mixed:08x}\",\"consumer\":\"c{n}\",\"hash\":\"{hash}\",\"created\":\"2026-01-01T00:00:00Z\"}}"
        )
        .unwrap();
    }
    out.flush().unwrap();
}

/// Whenever an import is killed, all that was there before is there, and all of the import or nothing.
#[test]
fn a_command_that_is_killed_in_mid_write_loses_nothing() {
    const COUNT: usize = 20_000;
    let shop = Shop::open();
    let key = create(&shop.store, &["--role", "reader"]);
    shop.becomes(&key, 200);
    let file = shop.edge.directory.path().join("many.jsonl");
    lines(&file, COUNT);
    let size = || fs::metadata(&shop.store).unwrap().len();
    let mut killed = 0;
    for pages in [1, 40, 400, 800] {
        let before = size();
        let mut import = Command::new(BINARY)
            .args(["keys", "import", "--store"])
            .arg(&shop.store)
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // It writes as soon as the file grows.
        let grows = || size() >= before + pages * 4096;
        let ended = wait::until(TIME_MAX, || match import.try_wait().unwrap() {
            Some(status) => Some(Some(status)),
            None => grows().then_some(None),
        });
        if ended.flatten().is_none() {
            import.kill().unwrap();
            import.wait().unwrap();
            killed += 1;
        }
        let list = shop.list();
        assert!(matches!(list.len() - 2, 0 | COUNT), "{} keys after {pages} pages", list.len());
        assert!(list.iter().any(|listed| listed["id"] == id(&key)));
    }
    assert!(killed > 0, "no import was under way for long enough");
    assert_eq!(shop.get(&key), 200);
    let later = create(&shop.store, &["--role", "reader"]);
    shop.becomes(&later, 200);
}

#[test]
fn commands_that_run_at_once_wait_for_each_other() {
    let shop = Shop::open();
    let created: Vec<String> = std::thread::scope(|scope| {
        let create = || create(&shop.store, &["--role", "reader"]);
        let runs: Vec<_> = (0..8).map(|_| scope.spawn(create)).collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    assert_eq!(shop.list().len(), 9);
    for key in &created {
        shop.becomes(key, 200);
    }
    std::thread::scope(|scope| {
        for key in &created {
            scope.spawn(|| keys(&shop.store, &["revoke", id(key)]));
        }
    });
    for key in &created {
        shop.becomes(key, 401);
    }
}

#[test]
fn what_a_key_cannot_be_is_refused_before_a_store_is_made() {
    let directory = Scratch::new().unwrap();
    let store = directory.path().join("keys.db");
    for (options, expected) in [
        (["--consumer", ""], "is no name"),
        (["--consumer", "a\nb"], "is no name"),
        (["--consumer", "a b"], "is no name"),
    ] {
        let arguments: Vec<&str> = ["create"].into_iter().chain(options).collect();
        assert!(fails(&store, &arguments).contains(expected), "{options:?}");
    }
    assert!(fails(&store, &["create", "--consumer", "a", "--quota", "5/year"]).contains("not a quota"));
    assert!(!store.exists());
    for arguments in [&["list"][..], &["show", "k7Qm2xZp"], &["rotate", "k7Qm2xZp"], &["revoke", "k7Qm2xZp"]]
    {
        assert!(fails(&store, arguments).contains("keys create"), "{arguments:?}");
    }
    let quota = portcullis(&store, &["create", "--consumer", "a", "--quota", "10000/month"]);
    assert!(quota.status.success() && said(&quota).contains("not enforced yet"), "{}", said(&quota));
    assert!(fails(&store, &["show", "k7Qm2xZp"]).contains("there is no key k7Qm2xZp"));
    assert!(fails(&store, &["show", "short"]).contains("neither the id of a key nor a key"));
}
