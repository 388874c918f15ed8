//! HTTP/2 as clients have it: curl, nghttp, h2load, Node's and Python's own, and gRPC, each to servers of both versions.
//! A client that is not here is named as skipped; `cargo xtask setup` brings them.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use xtask::lab::{
    place::Place, process::Process, scratch::Scratch, scripted::Step, skip, upstream::Nginx, wait,
};

use crate::{
    cases::clients::{curl, said_by},
    pki::Authority,
    support::{Edge, HELLO, TIME_MAX, free_address, scripted},
};

/// The name in the certificate.
const NAME: &str = "edge.example";

/// A gateway that listens under TLS and in clear.
struct Site {
    edge: Edge,
    clear: SocketAddr,
}

impl Site {
    fn open(directory: Scratch, sections: &str) -> Self {
        let authority = Authority::new("ca");
        directory.write("ca.pem", authority.pem()).unwrap();
        authority.issue(&[NAME]).write(&directory, "edge");
        let clear = free_address();
        let tls = "tls = { certificates = [{ chain_file = \"edge.crt\", key_file = \"edge.key\" }] }";
        let sections =
            format!("[runtime]\nworkers = 1\n[listeners.clear]\naddress = \"{clear}\"\n{sections}");
        let edge = Edge::start_with(directory, free_address(), tls, &sections);
        Self { edge, clear }
    }

    fn authority(&self) -> PathBuf {
        self.edge.directory.path().join("ca.pem")
    }

    fn requests(&self) -> String {
        self.edge.gateway.metrics().unwrap().sum("portcullis_requests_total", &[]).to_string()
    }
}

/// Everything to one upstream, whose servers are `server`.
fn all_to(server: SocketAddr) -> String {
    format!(
        "[upstreams.app]\nservers = [\"{server}\"]\nhealth = \"off\"\n\
         [routes.all]\npath = \"/{{*rest}}\"\npublic = true\nupstream = \"app\"\n"
    )
}

fn script(name: &str) -> String {
    format!("{}/../tests/cases/http2/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// The Python that `cargo xtask setup` has given packages to.
fn python(test: &str) -> Option<PathBuf> {
    let python = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../tools/python/bin/python");
    if python.exists() {
        return Some(python);
    }
    skip(test, "Python has no httpx and no grpcio: `cargo xtask setup` installs them");
    None
}

/// Starts a server that says "listening" with its ports; none where its program is not there.
fn listening(test: &str, directory: &Scratch, mut command: Command) -> Option<(Process, Vec<SocketAddr>)> {
    let program = command.get_program().to_string_lossy().into_owned();
    if Command::new(&program).arg("--version").output().is_err() {
        skip(test, &format!("{program} is not installed"));
        return None;
    }
    command.current_dir(directory.path());
    let process = Process::start(command, directory.path().join("server.output")).unwrap();
    let ports = wait::until(TIME_MAX, || {
        let output = process.output();
        let said = output.lines().find_map(|line| line.strip_prefix("listening "))?;
        Some(said.split(' ').map(|port| ([127, 0, 0, 1], port.parse().unwrap()).into()).collect())
    });
    let ports = ports.unwrap_or_else(|| panic!("{program} does not listen: {}", process.output()));
    Some((process, ports))
}

/// A gateway before `origin.mjs`, by the version that it speaks; the server goes last.
fn origin(test: &str) -> Option<(Site, Process)> {
    let directory = Scratch::new().unwrap();
    let mut node = Command::new("node");
    node.args(["--max-http-header-size=65536", &script("origin.mjs")]);
    let (process, ports) = listening(test, &directory, node)?;
    let [h1, h2] = ports[..] else { panic!("{ports:?}") };
    let sections = format!(
        "[upstreams.h1]\nservers = [\"{h1}\"]\nhealth = \"off\"\n\
         [upstreams.h2]\nservers = [\"{h2}\"]\nhealth = \"off\"\nprotocol = \"h2\"\n\
         [routes.h1]\npath = \"/h1/{{*rest}}\"\npublic = true\nupstream = \"h1\"\n\
         [routes.h2]\npath = \"/h2/{{*rest}}\"\npublic = true\nupstream = \"h2\"\n"
    );
    Some((Site::open(directory, &sections), process))
}

/// Runs a script that fails by itself, in clear and under TLS.
#[track_caller]
fn run_script(test: &str, program: &Path, name: &str) {
    let Some((site, _origin)) = origin(test) else { return };
    let clear = [script(name), format!("http://{}", site.clear)];
    let authority = site.authority().to_string_lossy().into_owned();
    let secured = [script(name), format!("https://{}", site.edge.address), authority];
    for arguments in [&clear[..], &secured] {
        let Some(said) = said_by(test, Command::new(program).args(arguments)) else { return };
        assert_eq!(said.trim(), "in order", "{arguments:?}");
    }
}

#[test]
fn nodes_clients_are_served_in_all_four_translations() {
    run_script("nodes_clients_are_served_in_all_four_translations", "node".as_ref(), "clients.mjs");
}

#[test]
fn pythons_httpx_is_served() {
    const TEST: &str = "pythons_httpx_is_served";
    let Some(python) = python(TEST) else { return };
    run_script(TEST, &python, "clients.py");
}

/// Row 62 as well: a client that asks in clear for an upgrade goes on in HTTP/1.1.
#[test]
fn curl_has_either_version_by_alpn_and_by_prior_knowledge() {
    const TEST: &str = "curl_has_either_version_by_alpn_and_by_prior_knowledge";
    let Some((site, _origin)) = origin(TEST) else { return };
    let authority = site.authority().to_string_lossy().into_owned();
    let (port, ip) = (site.edge.address.port(), site.edge.address.ip());
    let resolve = format!("{NAME}:{port}:{ip}");
    let secured = ["--cacert", &authority, "--resolve", &resolve];
    let (http, https) = (format!("http://{}", site.clear), format!("https://{NAME}:{port}"));
    let told = "%{http_code} %{http_version} %{size_download} %{num_connects}\n";
    for (flags, base, version) in [
        (&["--http2"][..], &https, "2"),
        (&["--http1.1"], &https, "1.1"),
        (&["--http2-prior-knowledge"], &http, "2"),
        (&["--http2"], &http, "1.1"),
        (&["--http1.1"], &http, "1.1"),
    ] {
        for server in ["h1", "h2"] {
            let name = format!("{flags:?} {base} to {server}");
            let url = format!("{base}/{server}/bytes/16384");
            let mut command = curl(&[flags, &secured[..]].concat());
            command.args(["--write-out", told]);
            // Debian's curl (7.88) breaks off where it uses such a connection again (curl #10643).
            let times = if flags.contains(&"--http2-prior-knowledge") { 1 } else { 3 };
            for _ in 0..times {
                command.args(["--output", "/dev/null", &url]);
            }
            let Some(said) = said_by(TEST, &mut command) else { return };
            let line = |connects| format!("200 {version} 16384 {connects}\n");
            let expected = format!("{}{}", line(1), line(0).repeat(times - 1));
            assert_eq!(said, expected, "{name}");

            let head = said_by(TEST, curl(&[flags, &secured[..]].concat()).args(["--head", &url])).unwrap();
            let head = head.to_lowercase();
            assert!(head.starts_with(&format!("http/{version} 200")), "{name}: {head}");
            assert!(head.contains("content-length: 16384\r\n"), "{name}: {head}");

            let file = site.edge.directory.path().join("upload");
            let body = "0123456789".repeat(100_000);
            std::fs::write(&file, &body).unwrap();
            let file = format!("@{}", file.to_string_lossy());
            let mut upload = curl(&[flags, &secured[..]].concat());
            upload.args(["--data-binary", &file, &format!("{base}/{server}/echo")]);
            assert!(said_by(TEST, &mut upload).unwrap() == body, "{name}: another body came back");
        }
    }
}

#[test]
fn curl_has_many_downloads_at_once_on_one_connection() {
    const TEST: &str = "curl_has_many_downloads_at_once_on_one_connection";
    let Some((site, _origin)) = origin(TEST) else { return };
    let authority = site.authority().to_string_lossy().into_owned();
    let (port, ip) = (site.edge.address.port(), site.edge.address.ip());
    for server in ["h1", "h2"] {
        let urls = format!("https://{NAME}:{port}/{server}/bytes/[100001-100040]");
        let mut command = curl(&["--http2", "--parallel", "--parallel-max", "40"]);
        command.args(["--cacert", &authority, "--resolve", &format!("{NAME}:{port}:{ip}")]);
        command.args(["--output", "/dev/null", "--write-out", "%{size_download} %{num_connects}\n", &urls]);
        let Some(said) = said_by(TEST, &mut command) else { return };
        let mut sizes: Vec<usize> =
            said.lines().map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect();
        sizes.sort_unstable();
        assert_eq!(sizes, (100_001..=100_040).collect::<Vec<_>>(), "{server}");
        let connects = said.lines().filter(|line| line.ends_with(" 1")).count();
        assert_eq!(connects, 1, "{server}: {said}");
    }
}

/// What nghttp prints; it says what it received frame by frame.
fn nghttp(test: &str, arguments: &[&str]) -> Option<String> {
    said_by(
        test,
        Command::new("nghttp").args(["--verbose", "--no-verify-peer", "--timeout=20"]).args(arguments),
    )
}

#[test]
fn nghttp_is_served_however_it_frames() {
    const TEST: &str = "nghttp_is_served_however_it_frames";
    let Some((site, _origin)) = origin(TEST) else { return };
    for base in [format!("http://{}", site.clear), format!("https://{}", site.edge.address)] {
        for server in ["h1", "h2"] {
            let url = format!("{base}/{server}/bytes/100000");
            for flags in [
                &["--multiply=8"][..],
                &["--padding=255"],
                &["--continuation"],
                &["--window-bits=10"],
                &["--connection-window-bits=16", "--window-bits=16", "--multiply=3"],
                &["--header-table-size=0", "--encoder-header-table-size=0", "--multiply=4"],
                &["--header-table-size=64", "--multiply=4"],
                &["--no-dep", "--no-push"],
                &["--weight=1", "--weight=256", "--multiply=2"],
                &["--peer-max-concurrent-streams=1", "--multiply=3"],
            ] {
                let arguments = [flags, &["--null-out", "--header=:authority: edge.example", &url]].concat();
                let Some(said) = nghttp(TEST, &arguments) else { return };
                let times = flags.iter().find_map(|flag| flag.strip_prefix("--multiply="));
                let times: usize = times.map_or(1, |times| times.parse().unwrap());
                let name = format!("{flags:?} {url}: {said}");
                assert_eq!(said.matches(":status: 200").count(), times, "{name}");
                let bytes: usize = said
                    .lines()
                    .filter_map(|line| {
                        line.split_once("recv DATA frame <length=")?
                            .1
                            .split(',')
                            .next()?
                            .parse::<usize>()
                            .ok()
                    })
                    .sum();
                assert_eq!(bytes, times * 100_000, "{name}");
                assert!(!said.contains("recv RST_STREAM") && !said.contains("recv GOAWAY"), "{name}");
            }
        }
    }
}

/// A body with a trailer, in chunks to a server of HTTP/1.1 and in frames to one of HTTP/2; and a server's trailer.
#[test]
fn nghttp_sends_and_gets_trailers() {
    const TEST: &str = "nghttp_sends_and_gets_trailers";
    let Some((site, _origin)) = origin(TEST) else { return };
    let file = site.edge.directory.path().join("upload");
    std::fs::write(&file, "payload").unwrap();
    let data = format!("--data={}", file.to_string_lossy());
    for server in ["h1", "h2"] {
        for more in [&[][..], &["--no-content-length"], &["--expect-continue"]] {
            // Not `echo`: an answer that comes along with 100 makes nghttp forget its body.
            let url = format!("http://{}/{server}/whole", site.clear);
            let mut arguments = vec![data.as_str(), "--trailer=x-sum: 42", "--header=trailer: x-sum", &url];
            arguments.extend(more);
            let Some(said) = nghttp(TEST, &arguments) else { return };
            assert!(said.contains(":status: 200") && said.contains("payload"), "{server} {more:?}: {said}");
            // A body whose length is said has no place for a trailer in HTTP/1.1.
            let expected = if server == "h1" && more.is_empty() { "none" } else { "42" };
            assert!(said.contains(&format!("x-sum: {expected}")), "{server} {more:?}: {said}");
        }
    }
    let upstream = scripted(&[
        Step::ReadHead,
        Step::ReadUntil(b"\r\n0\r\nx-sum: 42\r\n\r\n".into()),
        Step::Send(HELLO.into()),
        Step::Stall,
    ]);
    let chunked = Site::open(Scratch::new().unwrap(), &all_to(upstream.address()));
    let url = format!("http://{}/up", chunked.clear);
    let Some(said) = nghttp(TEST, &[&data, "--no-content-length", "--trailer=x-sum: 42", &url]) else {
        return;
    };
    assert!(said.contains("hello"), "{said}");
    upstream.next_head(TIME_MAX).unwrap();
    let body = upstream.next_head(TIME_MAX).unwrap();
    assert_eq!(body.escape_ascii().to_string(), "7\\r\\npayload\\r\\n0\\r\\nx-sum: 42\\r\\n\\r\\n");
}

/// Row 62.
#[test]
fn nghttp_asks_in_vain_for_an_upgrade() {
    const TEST: &str = "nghttp_asks_in_vain_for_an_upgrade";
    let Some((site, _origin)) = origin(TEST) else { return };
    let url = format!("http://{}/h1/seen", site.clear);
    let Some(said) = nghttp(TEST, &["--upgrade", &url]) else { return };
    assert!(said.contains("HTTP/1.1 200") && !said.contains("101 Switching"), "{said}");
}

#[test]
fn h2load_finds_no_error() {
    const TEST: &str = "h2load_finds_no_error";
    let upstream = Nginx::start(&Place::here(), free_address(), "one").unwrap();
    let site = Site::open(Scratch::new().unwrap(), &all_to(upstream.address()));
    let mut expected = 0;
    for (base, file, streams) in [
        (format!("http://{}", site.clear), "128", "16"),
        (format!("http://{}", site.clear), "16k", "100"),
        (format!("https://{}", site.edge.address), "128", "16"),
        (format!("https://{}", site.edge.address), "1m", "4"),
    ] {
        let requests = if file == "1m" { 100 } else { 2_000 };
        let count = requests.to_string();
        let mut command = Command::new("h2load");
        command.args([
            "--requests",
            &count,
            "--clients=8",
            "--threads=1",
            "--connection-inactivity-timeout=20",
        ]);
        command.args(["--max-concurrent-streams", streams, "--header=:authority: edge.example"]);
        command.arg(format!("{base}/files/{file}"));
        let Some(said) = said_by(TEST, &mut command) else { return };
        let all = format!(
            "requests: {count} total, {count} started, {count} done, {count} succeeded, 0 failed, 0 errored, 0 timeout"
        );
        assert!(said.contains(&all), "{base}/{file}: {said}");
        assert!(
            said.contains(&format!("status codes: {count} 2xx, 0 3xx, 0 4xx, 0 5xx")),
            "{base}/{file}: {said}"
        );
        expected += requests;
    }
    let counted = wait::until(TIME_MAX, || (site.requests() == expected.to_string()).then_some(()));
    assert!(counted.is_some(), "{} of {expected} are counted", site.requests());
}

/// Calls of all four kinds, deadlines, cancellation and errors, the server's and ours.
#[track_caller]
fn check_grpc(test: &str, secured: bool) {
    let Some(python) = python(test) else { return };
    let directory = Scratch::new().unwrap();
    let authority = Authority::new("servers");
    directory.write("servers.pem", authority.pem()).unwrap();
    authority.issue(&["lab.example"]).write(&directory, "server");
    let secret = directory.write("jwt.secret", "a secret of thirty-two octets or more").unwrap();
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let mut server = Command::new(&python);
    server.arg(script("grpc_server.py"));
    if secured {
        server.args(["server.key", "server.crt"]);
    }
    let Some((_server, ports)) = listening(test, &directory, server) else { return };
    let tls = if secured { "tls = { ca_file = \"servers.pem\", server_name = \"lab.example\" }" } else { "" };
    let sections = format!(
        "[auth.keys]\nkind = \"jwt\"\nkey_file = \"jwt.secret\"\nalgorithms = [\"HS256\"]\n\
         [upstreams.gone]\nservers = [\"{}\"]\nhealth = \"off\"\nprotocol = \"h2\"\n\
         [upstreams.lab]\nservers = [\"{}\"]\nhealth = \"off\"\nprotocol = \"h2\"\n{tls}\n\
         [routes.lab]\npath = \"/lab.Lab/{{*rest}}\"\npublic = true\nupstream = \"lab\"\n\
         [routes.gone]\npath = \"/lab.Gone/{{*rest}}\"\npublic = true\nupstream = \"gone\"\n\
         [routes.locked]\npath = \"/lab.Locked/{{*rest}}\"\nauth = [\"keys\"]\nupstream = \"lab\"\n",
        free_address(),
        ports[0]
    );
    let site = Site::open(directory, &sections);
    let mut client = Command::new(&python);
    client.arg(script("grpc_client.py"));
    if secured {
        client.arg(site.edge.address.to_string()).arg(site.authority());
    } else {
        client.arg(site.clear.to_string());
    }
    let said = said_by(test, &mut client).expect("it is there");
    assert_eq!(said.trim(), "in order");
}

#[test]
fn grpc_passes_in_clear() {
    check_grpc("grpc_passes_in_clear", false);
}

#[test]
fn grpc_passes_under_tls_on_both_sides() {
    check_grpc("grpc_passes_under_tls_on_both_sides", true);
}
