//! The sections that shape the edge: runtime, prefilter, escalation, listeners, upstreams, logs.

use std::{fs, num::NonZeroU64, time::Duration};

use super::{Dir, accept, parse_in, refuse, refuse_in, warn};
use crate::config::{
    AccessLog, AdminPorts, Audit, Balance, Protocols, ProxyProtocol, ServerAddress, SynCookies, Threshold,
    UpstreamProtocol, Workers,
};

#[test]
fn runtime() {
    assert_eq!(accept("[runtime]\nworkers = 2\n").runtime.workers, Workers::Count(2));
    assert_eq!(accept("[runtime]\nworkers = [2, 3]\n").runtime.workers, Workers::Cpus(vec![2, 3]));
    refuse("[runtime]\nworkers = 0\n", &["2:11: `runtime.workers` is 0, not 1 to 1024"]);
    refuse("[runtime]\nworkers = [1, 1]\n", &["2:11: `runtime.workers` lists CPU ids"]);
    refuse("[runtime]\nworkers = []\n", &["2:11: `runtime.workers` lists CPU ids"]);
    refuse("[runtime]\nconnections_max = 0\n", &["2:19: `runtime.connections_max` is 0"]);
    refuse("[runtime]\nbuffers_max = \"1KiB\"\n", &["2:15: `runtime.buffers_max` must be 1 MiB"]);
    refuse("[runtime]\ndrain_timeout = \"0s\"\n", &["2:17: `runtime.drain_timeout` must be longer"]);
    let resolvers = accept("[runtime]\nresolvers = [\"192.0.2.53\", \"[::1]:5353\"]\n").runtime.resolvers;
    assert_eq!(resolvers, ["192.0.2.53:53".parse().unwrap(), "[::1]:5353".parse().unwrap()]);
    refuse(
        "[runtime]\nresolvers = [\"dns.internal\"]\n",
        &["2:14: `runtime.resolvers` holds \"dns.internal\""],
    );
    refuse("[runtime]\nconnections_max = -1\n", &["2:19: `runtime.connections_max`: it is integer `-1`"]);
}

#[test]
fn prefilter_and_escalation() {
    refuse("[prefilter]\nmode = \"fast\"\n", &["2:8: `prefilter.mode` cannot be \"fast\""]);
    refuse("[prefilter]\nbytes = { rate = \"1/s\" }\n", &["2:18: `prefilter.bytes.rate`"]);
    refuse("[prefilter]\nbytes = { burst = \"1MiB\" }\n", &["2:9: `prefilter.bytes` needs `rate`"]);
    refuse(
        "[prefilter]\nnetwork_bytes = { rate = \"1MiB/s\", burst = \"64KiB\" }\n",
        &["2:44: `prefilter.network_bytes.burst` must be 128 KiB to 1 TiB"],
    );
    for (word, expected) in
        [("off", SynCookies::Off), ("auto", SynCookies::Auto), ("always", SynCookies::Always)]
    {
        let config = accept(&format!("[prefilter]\nsyn_cookies = \"{word}\"\nsyn_flood = \"5000/s\"\n"));
        assert_eq!((config.prefilter.syn_cookies, config.prefilter.syn_flood_per_s), (expected, 5_000.0));
    }
    refuse("[prefilter]\nsyn_cookies = \"on\"\n", &["2:15: `prefilter.syn_cookies` cannot be \"on\""]);
    refuse("[prefilter]\nsyn_flood = \"30/m\"\n", &["2:13: `prefilter.syn_flood` must be at least 1/s"]);
    accept("[prefilter]\nbytes = \"off\"\nsyn_cookies = \"off\"\n[prefilter.feeds]\n");
    refuse(
        "[prefilter]\nsource_prefix_v6 = 65\n",
        &["2:20: `prefilter.source_prefix_v6` is 65, not 16 to 64"],
    );
    refuse("[prefilter]\nsource_prefix_v4 = 7\n", &["2:20: `prefilter.source_prefix_v4` is 7, not 8 to 32"]);
    refuse("[prefilter]\npackets = \"of\"\n", &["2:11: `prefilter.packets`: it is string \"of\", not "]);
    refuse("[prefilter]\npackets = { burst = 1 }\n", &["2:11: `prefilter.packets` needs `rate`"]);
    refuse(
        "[prefilter]\npackets = { rate = \"0/s\" }\n",
        &["2:20: `prefilter.packets.rate` must be above zero"],
    );
    refuse("[prefilter]\npackets = { rate = 5 }\n", &["2:20: `prefilter.packets.rate`: 5 needs a unit"]);
    refuse("[prefilter]\nsyns = { rate = \"1/s\", burst = 0 }\n", &["2:32: `prefilter.syns.burst` is 0"]);
    refuse(
        "[prefilter]\nallow = [\"10.0.0.1/8\"]\n",
        &[
            "2:10: `prefilter.allow` holds \"10.0.0.1/8\", which has bits set behind its prefix: write 10.0.0.0/8",
        ],
    );
    refuse(
        "[prefilter]\nblock = [\"here\"]\n",
        &["2:10: `prefilter.block` holds \"here\", which is not an address prefix"],
    );
    refuse(
        "[prefilter]\ninterfaces = [\"eth0\", \"eth0\"]\nallow = [\"::1\"]\n",
        &["2:23: `prefilter.interfaces` names `eth0` twice"],
    );
    refuse(
        "[prefilter]\ninterfaces = [\"an_interface_name\"]\n",
        &["2:15: \"an_interface_name\" cannot be the name"],
    );
    refuse("[prefilter]\nports = [0]\n", &["2:9: `prefilter.ports` holds 0"]);
    refuse(
        "[prefilter]\nports = [65536]\n",
        &["2:9: `prefilter.ports`: it is \"listeners\" or a list of port numbers"],
    );
    refuse("[prefilter]\npin_dir = \"pins\"\n", &["2:11: `prefilter.pin_dir` must be an absolute path"]);
    warn("[prefilter]\ninterfaces = [\"eth0\"]\n", &["2:14: `prefilter.allow` is empty"]);
    warn("[prefilter]\ninterfaces = [\"eth0\"]\nallow = [\"192.0.2.0/24\"]\n", &[]);
    let attack = accept("[escalation]\nattack = { count = 1 }\n").escalation.attack;
    assert_eq!(attack, Some(Threshold { count: 1, within: Duration::from_mins(1) }));
    let ports = |line: &str| accept(&format!("[escalation]\n{line}\n")).escalation.admin_ports;
    assert_eq!(ports(""), AdminPorts::Unlimited);
    assert_eq!(ports("admin_ports = \"unlimited\""), AdminPorts::Unlimited);
    assert_eq!(ports("admin_ports = [2222, 22, 22]"), AdminPorts::Ports(vec![22, 2222]));
    refuse("[escalation]\nadmin_ports = [0]\n", &["2:15: `escalation.admin_ports` holds 0"]);
    refuse("[escalation]\nadmin_ports = \"ssh\"\n", &["2:15: `escalation.admin_ports`: it is \"unlimited\""]);
    assert_eq!(accept("[escalation]\nthrottle = \"off\"\n").escalation.throttle, None);
    refuse("[escalation]\nthrottle = { burst = 1 }\n", &["2:12: `escalation.throttle` needs `rate`"]);
    refuse("[escalation]\nlimited = { count = 1001 }\n", &["2:21: `escalation.limited.count` is 1001"]);
    refuse("[escalation]\nlimited = { count = 0 }\n", &["2:21: `escalation.limited.count` is 0"]);
    refuse(
        "[escalation]\nlimited = { within = 5 }\n",
        &["2:22: `escalation.limited.within`: 5 needs a unit"],
    );
    refuse("[escalation]\nblock_for = \"48h\"\n", &["2:13: `escalation.block_max` is shorter"]);
}

#[test]
fn under_attack() {
    let section = |line: &str| accept(&format!("[under_attack]\n{line}\n")).under_attack;
    let signs = section("elevated = { syns = \"off\", packets = \"5/s\" }").elevated;
    assert_eq!((signs.drops_per_s, signs.syns_per_s, signs.packets_per_s), (Some(1000.0), None, Some(5.0)));
    assert_eq!(section("strangers = \"10%\"").strangers_percent, 10);
    let long_lived = |value: &str| section(&format!("long_lived = \"{value}\"")).long_lived;
    assert_eq!((long_lived("90s"), long_lived("off")), (Some(Duration::from_secs(90)), None));
    let refused = |line: &str, expected: &str| refuse(&format!("[under_attack]\n{line}\n"), &[expected]);
    refused("attack = { drops = \"10/s\" }", "2:10: `under_attack.attack` begins below");
    refused("elevated = { drops = 5 }", "2:22: `under_attack.elevated.drops`: 5 needs a unit");
}

#[test]
fn listeners() {
    let with = |line: &str| format!("[listeners.a]\naddress = \"127.0.0.1:8080\"\n{line}\n");
    refuse("[listeners.a]\n", &["1:12: `listeners.a` needs `address`"]);
    refuse("[listeners.\"a b\"]\naddress = \"[::]:1\"\n", &["1:12: \"a b\" is not a name for `listeners`"]);
    refuse(
        "[listeners.a]\naddress = \"8080\"\n",
        &["2:11: `listeners.a.address` is \"8080\", not an address"],
    );
    let protocols = |line: &str| accept(&with(line)).listeners[0].protocols;
    assert_eq!(protocols(""), Protocols { http1: true, http2: true });
    assert_eq!(protocols("protocols = [\"h2\"]"), Protocols { http1: false, http2: true });
    refuse(&with("protocols = [\"h3\"]"), &["3:14: `listeners.a.protocols = \"h3\"` is not supported yet"]);
    refuse(&with("protocols = [\"http\"]"), &["3:14: `listeners.a.protocols` cannot be \"http\""]);
    refuse(&with("protocols = []"), &["3:13: `listeners.a.protocols` is empty"]);
    let from =
        accept(&with("proxy_protocol_from = [\"192.0.2.0/24\"]")).listeners[0].proxy_protocol_from.clone();
    assert_eq!(from, ["192.0.2.0/24".parse().unwrap()]);
    refuse(
        &with("proxy_protocol_from = [\"192.0.2.1/24\"]"),
        &["3:24: `listeners.a.proxy_protocol_from` holds \"192.0.2.1/24\", which has bits set"],
    );
    accept(&with("proxy_protocol_from = []\ntls = \"off\""));
    assert_eq!(accept(&with("limits = { streams = 1000 }")).listeners[0].limits.streams, 1000);
    for number in ["0", "1001"] {
        refuse(&with(&format!("limits = {{ streams = {number} }}")), &["3:22: `listeners.a.limits.streams`"]);
    }
    for number in ["1", "65534", "\"off\""] {
        accept(&with(&format!("limits = {{ connections_per_source = {number} }}")));
    }
    for number in ["0", "65535"] {
        refuse(
            &with(&format!("limits = {{ connections_per_source = {number} }}")),
            &["3:37: `listeners.a.limits.connections_per_source`"],
        );
    }
    refuse(
        &with("limits = { head_size = 32768 }"),
        &["3:24: `listeners.a.limits.head_size`: 32768 needs a unit"],
    );
    refuse(
        &with("limits = { head_size = \"129KiB\" }"),
        &["3:24: `listeners.a.limits.head_size` must be 64 B to 128 KiB"],
    );
    accept(&with("limits = { head_size = \"128KiB\" }"));
    let rate_min = |text: &str| {
        let limits = format!("limits = {{ body_rate_min = \"{text}\" }}");
        accept(&with(&limits)).listeners[0].limits.body_rate_min.map(NonZeroU64::get)
    };
    assert_eq!((rate_min("1KiB/s"), rate_min("off")), (Some(1024), None));
    assert_eq!(accept(&with("")).listeners[0].limits.body_rate_min.map(NonZeroU64::get), Some(500));
    refuse(
        &with("limits = { body_rate_min = \"500B\" }"),
        &["3:28: `listeners.a.limits.body_rate_min`: \"500B\" is not a size per second"],
    );
    refuse(
        &with("limits = { head_size = \"63B\", target_size = \"64B\" }"),
        &[
            "3:24: `listeners.a.limits.head_size` must be 64 B to 128 KiB",
            "3:45: `listeners.a.limits.target_size` is larger than the head",
        ],
    );
    accept(&with("limits = { head_size = \"64B\", target_size = \"64B\" }"));
    refuse(&with("tls = {}"), &["3:7: `listeners.a.tls` needs `certificates`"]);
    refuse(&with("token_file = \"x\""), &["3:14: `listeners.a.token_file` is not supported yet"]);
    refuse(
        "[listeners.a]\naddress = \"[::]:1\"\n[listeners.b]\naddress = \"[::]:1\"\n",
        &["4:11: `listeners.a` listens on [::]:1 already"],
    );
}

#[test]
fn admin_listeners() {
    let at = |address: &str| format!("[listeners.admin]\nkind = \"admin\"\naddress = \"{address}\"\n");
    assert!(accept(&at("127.0.0.1:9901")).admin.is_some());
    assert!(accept(&at("[::1]:9901")).admin.is_some());
    refuse(
        &at("0.0.0.0:9901"),
        &["3:11: `listeners.admin.address` is \"0.0.0.0:9901\", which is not loopback"],
    );
    refuse(&at("[::]:9901"), &["3:11: `listeners.admin.address` is \"[::]:9901\", which is not loopback"]);
    refuse(
        &at("unix:run.sock"),
        &["3:11: `listeners.admin.address` is \"unix:run.sock\", which needs an absolute"],
    );
    let second = "[listeners.b]\nkind = \"admin\"\naddress = \"127.0.0.1:1\"\n";
    refuse(&(at("127.0.0.1:9901") + second), &["4:12: `listeners.b` is a second admin listener"]);
    refuse(
        &(at("127.0.0.1:9901") + "limits = {}\n"),
        &["4:10: `listeners.admin.limits` is not supported yet"],
    );
}

#[test]
fn certificates() {
    let dir = Dir::new();
    dir.write_certificate("a.crt", "a.key").write("empty", "", 0o600).write("text", "hello", 0o600);
    let key = fs::read(dir.path().join("a.key")).unwrap();
    dir.write("open.key", key, 0o604);
    let with = |chain: &str, key: &str| {
        let certificate = format!("{{ chain_file = \"{chain}\", key_file = \"{key}\" }}");
        format!("[listeners.a]\naddress = \"[::]:1\"\ntls = {{ certificates = [\n{certificate}] }}\n")
    };
    assert!(parse_in(dir.path(), &with("a.crt", "a.key")).is_ok());
    refuse_in(dir.path(), &with("none", "a.key"), &["4:16: none cannot be read: No such file"]);
    refuse_in(dir.path(), &with("empty", "a.key"), &["4:16: empty is empty"]);
    refuse_in(dir.path(), &with("text", "a.key"), &["4:16: text does not hold a certificate chain in PEM"]);
    refuse_in(
        dir.path(),
        &with("a.crt", "a.crt"),
        &["4:36: a.crt holds a secret that everybody may read (mode 0644)"],
    );
    refuse_in(
        dir.path(),
        &with("a.crt", "open.key"),
        &["4:36: open.key holds a secret that everybody may read"],
    );
    refuse_in(dir.path(), &with("a.crt", "text"), &["4:36: text does not hold a private key in PEM"]);
}

#[test]
fn upstreams() {
    let with = |line: &str| format!("[upstreams.a]\nservers = [\"192.0.2.1:80\"]\n{line}\n");
    let server = |server: &str| format!("[upstreams.a]\nservers = [{server}]\n");
    assert_eq!(accept(&with("")).upstreams[0].balance, Balance::LeastRequests);
    assert_eq!(accept(&with("")).upstreams[0].health, accept(&with("health = {}")).upstreams[0].health);
    assert_eq!(&*accept(&with("")).upstreams[0].health.as_ref().unwrap().path, "/healthz");
    assert_eq!(accept(&with("health = \"off\"")).upstreams[0].health, None);
    refuse("[upstreams.a]\n", &["1:12: `upstreams.a` needs `servers`"]);
    refuse(&server(""), &["1:12: `upstreams.a` needs `servers`"]);
    let named = accept(&server("\"Orders.internal:80\", \"localhost:81\"")).upstreams[0].servers.clone();
    assert_eq!(named[0].address, ServerAddress::Named("orders.internal".into(), 80));
    assert_eq!(named[1].address.to_string(), "localhost:81");
    for (written, problem) in [
        ("orders.internal", "write an address and a port"),
        ("orders.internal:0", "its port is not 1 to 65535"),
        ("orders.internal:65536", "its port is not 1 to 65535"),
        ("192.0.2.300:80", "write an address and a port"),
        ("-orders:80", "write an address and a port"),
        ("a..b:80", "write an address and a port"),
        ("http://192.0.2.1:80", "write an address and a port only"),
        ("192.0.2.1", "write an address and a port"),
    ] {
        let expected = format!("2:12: `upstreams.a.servers[0]` is \"{written}\": {problem}");
        refuse(&server(&format!("\"{written}\"")), &[&expected]);
    }
    refuse(&server("\"a:1\", \"A:1\""), &["2:19: `upstreams.a` names the server a:1 twice"]);
    refuse(
        &server("\"192.0.2.1:0\""),
        &["2:12: `upstreams.a.servers[0]` is \"192.0.2.1:0\": nothing can be reached"],
    );
    refuse(
        &server("\"192.0.2.1:1\", \"192.0.2.1:1\""),
        &["2:27: `upstreams.a` names the server 192.0.2.1:1 twice"],
    );
    refuse(
        &server("{ address = \"192.0.2.1:1\", weight = 0 }"),
        &["2:48: `upstreams.a.servers[0].weight` is 0, not 1 to 256"],
    );
    refuse(&server("{ weight = 1 }"), &["2:12: `upstreams.a.servers[0]` needs `address`"]);
    for (line, column) in [("outlier = {errors = 5}", 11), ("slow_start = \"10s\"", 14)] {
        refuse(
            &with(line),
            &[&format!(
                "3:{column}: `upstreams.a.{} is not supported yet",
                line.split(' ').next().unwrap().to_owned() + "`"
            )],
        );
    }
    refuse(&with("balance = \"ewma\""), &["3:11: `upstreams.a.balance = \"ewma\"` is not supported yet"]);
    refuse(
        &with("balance = { hash = \"source\" }"),
        &["3:11: `upstreams.a.balance` by hash is not supported yet"],
    );
    refuse(
        &with("balance = \"round-robin\""),
        &[
            "3:11: `upstreams.a.balance` cannot be \"round-robin\": it is one of [\"round_robin\", \"random\", \"least_requests\", \"ewma\"]\n  did you mean `round_robin`?",
        ],
    );
    let retry = |keys: &str| accept(&with(&format!("retry = {{ {keys} }}"))).upstreams[0].retry;
    assert_eq!(retry(""), accept(&with("")).upstreams[0].retry);
    assert_eq!((retry("").budget_percent, retry("budget = \"off\"").budget_percent), (Some(20), None));
    assert_eq!(retry("budget = \"100%\"").budget_percent, Some(100));
    let only_connect = retry("on = [\"connect\"]");
    assert!(only_connect.on_connect && !only_connect.on_reset_before_head);
    refuse(
        &with("retry = { budget = \"101%\" }"),
        &["3:20: `upstreams.a.retry.budget`: \"101%\" is more than all"],
    );
    refuse(&with("retry = { budget = 20 }"), &["3:20: `upstreams.a.retry.budget`: 20 needs a unit"]);
    refuse(
        &with("retry = { on = [\"timeout\"] }"),
        &[
            "3:17: `upstreams.a.retry.on` cannot be \"timeout\": it is one of [\"connect\", \"reset_before_head\"]",
        ],
    );
    assert_eq!(accept(&with("proxy_protocol = \"v2\"")).upstreams[0].proxy_protocol, Some(ProxyProtocol::V2));
    refuse(&with("proxy_protocol = \"v3\""), &["3:18: `upstreams.a.proxy_protocol` cannot be \"v3\""]);
    refuse(&with("retry = { attempts = 11 }"), &["3:22: `upstreams.a.retry.attempts` is 11, not 0 to 10"]);
    let upstream = accept(&with("connections = { pending = 0, max_age = \"off\" }")).upstreams[0].clone();
    assert_eq!((upstream.connections_pending, upstream.connection_age_max), (0, None));
    let upstream = accept(&with("connections = { max_age = \"5m\" }")).upstreams[0].clone();
    assert_eq!(upstream.connection_age_max, Some(Duration::from_mins(5)));
    refuse(
        &with("connections = { pending = 65537 }"),
        &["3:27: `upstreams.a.connections.pending` is 65537, not 0 to 65536"],
    );
    refuse(
        &with("connections = { max_age = \"0s\" }"),
        &["3:27: `upstreams.a.connections.max_age` must be longer"],
    );
    refuse(&with("health = { path = \"a b\" }"), &["3:19: `upstreams.a.health.path` is \"a b\""]);
    refuse(
        &with("health = { interval = \"2\" }"),
        &["3:23: `upstreams.a.health.interval`: \"2\" needs a unit"],
    );
}

#[test]
fn later_sections_and_logs() {
    refuse("[contracts.a]\nopenapi_file = \"x\"\n", &["1:12: `contracts.a` is not supported yet"]);
    refuse("[trace]\notlp = \"http://127.0.0.1:4318\"\n", &["2:8: `trace.otlp` is not supported yet"]);
    refuse("[fleet]\nredis = \"redis://127.0.0.1\"\n", &["2:9: `fleet.redis` is not supported yet"]);
    accept("[trace]\notlp = \"off\"\nsample = \"1%\"\n[fleet]\nredis = \"off\"\n[log]\naudit = \"off\"\n");
    assert_eq!(accept("[log]\naccess = \"stdout\"\n").log.access, AccessLog::Stdout);
    refuse(
        "[log]\naccess = \"stout\"\n",
        &[
            "2:10: `log.access` cannot be \"stout\": it is one of [\"off\", \"stdout\"]\n  did you mean `stdout`?",
        ],
    );
    refuse(
        "[log]\naccess = { sample = \"1%\" }\n",
        &["2:10: `log.access` needs `file`", "2:21: `log.access.sample` is not supported"],
    );
}

#[test]
fn the_audit_log() {
    let audit =
        |keys: &str| accept(&format!("[log]\naudit = {{ file = \"a/audit.jsonl\"{keys} }}\n")).log.audit;
    let Audit::File(file) = audit("") else { panic!("it is on") };
    assert!(file.path.ends_with("a/audit.jsonl") && file.sign_key_file.ends_with("a/audit.key"));
    assert_eq!((file.checkpoint.as_secs(), file.rotate_bytes, file.refuse), (60, Some(64 << 20), true));
    let keys = ", sign_key_file = \"k\", checkpoint = \"5s\", rotate = \"off\", on_failure = \"continue\"";
    let Audit::File(file) = audit(keys) else { panic!("it is on") };
    assert!(file.sign_key_file.ends_with("k"));
    assert_eq!((file.checkpoint.as_secs(), file.rotate_bytes, file.refuse), (5, None, false));
    assert!(matches!(audit(", rotate = \"1MiB\""), Audit::File(file) if file.rotate_bytes == Some(1 << 20)));
    let refuse = |value: &str, expected: &str| refuse(&format!("[log]\naudit = {value}\n"), &[expected]);
    refuse("\"on\"", "2:9: `log.audit` cannot be \"on\": it is one of [\"off\"]");
    refuse("{ rotate = \"1MiB\" }", "2:9: `log.audit` needs `file`");
    refuse("{ file = \"x\", rotate = \"1023KiB\" }", "2:32: `log.audit.rotate` is below 1 MiB");
    refuse(
        "{ file = \"x\", checkpoint = \"0s\" }",
        "2:36: `log.audit.checkpoint` must be longer than nothing",
    );
    refuse("{ file = \"x\", on_failure = \"stop\" }", "2:36: `log.audit.on_failure` cannot be \"stop\"");
    refuse("{ file = \"x\", sign_key_file = \"x\" }", "2:18: `log.audit.file` and its key are one file");
}

#[test]
fn the_tls_of_an_upstream() {
    let dir = Dir::new();
    dir.write_certificate("own.crt", "own.key").write("open.key", "", 0o644);
    dir.write("none.pem", "nothing\n", 0o644);
    let with = |keys: &str| {
        let text = format!("[upstreams.a]\nservers = [\"192.0.2.1:1\"]\ntls = {{ {keys} }}\n");
        parse_in(dir.path(), &text)
    };
    let loaded = with("ca_file = \"own.crt\", server_name = \"a.example\"").unwrap();
    let tls = loaded.config.upstreams[0].tls.as_ref().unwrap();
    assert_eq!((tls.authorities.len(), tls.authorities_are_the_systems), (1, false));
    assert_eq!(tls.server_name.as_ref().map(|name| name.to_str().into_owned()).as_deref(), Some("a.example"));
    let own = "ca_file = \"own.crt\", client_chain_file = \"own.crt\"";
    assert!(with(&format!("{own}, client_key_file = \"own.key\"")).is_ok());
    for (keys, expected) in [
        ("ca_file = \"absent.pem\"".to_owned(), "3:19: "),
        ("ca_file = \"none.pem\"".to_owned(), "does not hold certificates in PEM"),
        ("ca_file = \"own.crt\", server_name = \"a b\"".to_owned(), "neither a host name nor an address"),
        (own.to_owned(), "`upstreams.a.tls` needs `client_key_file`"),
        (format!("{own}, client_key_file = \"open.key\""), "everybody may read"),
        ("ca = \"own.crt\"".to_owned(), "unknown key `ca`"),
    ] {
        let errors = with(&keys).unwrap_err();
        assert!(errors.iter().any(|error| error.contains(expected)), "{keys}: {errors:?}");
    }
}

#[test]
fn who_has_to_show_a_certificate() {
    let dir = Dir::new();
    dir.write_certificate("own.crt", "own.key").write("none.pem", "nothing\n", 0o644);
    let with = |keys: &str| {
        let own = "certificates = [{ chain_file = \"own.crt\", key_file = \"own.key\" }]";
        let text = format!("[listeners.a]\naddress = \"[::]:1\"\ntls = {{ {own}, {keys} }}\n");
        parse_in(dir.path(), &text)
    };
    let clients = |keys| with(keys).unwrap().config.listeners[0].tls.as_ref().unwrap().clients.clone();
    assert_eq!(clients("client_auth = \"off\""), None);
    assert_eq!(clients("client_auth = \"off\", client_ca_file = \"own.crt\""), None);
    let required = clients("client_auth = \"required\", client_ca_file = \"own.crt\"").unwrap();
    assert_eq!((required.required, required.authorities.len(), required.revoked.len()), (true, 1, 0));
    let optional = clients("client_auth = \"optional\", client_ca_file = \"own.crt\"").unwrap();
    assert!(!optional.required);
    for (keys, expected) in [
        ("client_auth = \"required\"", "`listeners.a.tls` needs `client_ca_file`"),
        ("client_auth = \"optional\", client_ca_file = \"none.pem\"", "does not hold certificates in PEM"),
        ("client_ca_file = \"absent.pem\"", "cannot be read"),
        ("client_crl_file = \"own.crt\"", "does not hold revocation lists in PEM"),
        ("client_auth = \"on\"", "`listeners.a.tls.client_auth` cannot be \"on\""),
    ] {
        let errors = with(keys).unwrap_err();
        assert!(errors.iter().any(|error| error.contains(expected)), "{keys}: {errors:?}");
    }
}

#[test]
fn what_an_upstream_speaks() {
    let with = |line: &str| format!("[upstreams.a]\nservers = [\"192.0.2.1:80\"]\n{line}\n");
    assert_eq!(accept(&with("protocol = \"h2\"")).upstreams[0].protocol, UpstreamProtocol::Http2);
    accept(&with("protocol = \"h2\"\nproxy_protocol = \"off\""));
    refuse(
        &with("protocol = \"h2\"\nproxy_protocol = \"v2\""),
        &["4:18: `upstreams.a.proxy_protocol` tells who one client is"],
    );
}
