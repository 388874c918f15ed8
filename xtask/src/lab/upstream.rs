//! A real upstream: Debian's nginx with a configuration, directories and a process of its own.
//!
//! Comes in: a place and an address. Goes out: a server that answers. `/` answers 200 with the server's name,
//! `/echo` with what arrived of the request, `/files/{128,16k,1m}` with files of 128 B, 16 KiB and 1 MiB, `/status/NNN`
//! with 404, 500 or 503, `/health` with 204.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context, bail};

use super::{client::Connection, place::Place, process::Process, scratch::Scratch, wait};

/// Debian's nginx.
pub const NGINX: &str = "/usr/sbin/nginx";
/// How long it may take until it accepts.
const START_TIME_MAX: Duration = Duration::from_secs(10);

/// For one try.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(1);

/// A running nginx; stopped when dropped.
#[derive(Debug)]
pub struct Nginx {
    // Stopped before its directory goes away.
    process: Process,
    address: SocketAddr,
    scratch: Scratch,
}

impl Nginx {
    /// Starts the upstream described above. `name` tells it from others: it is the answer to `/` and the value of the
    /// response field `x-upstream`.
    pub fn start(place: &Place, address: SocketAddr, name: &str) -> anyhow::Result<Self> {
        Self::start_with(place, address, |directory| upstream_server(address, name, directory))
    }

    /// Starts it with one's own `http` block; `http` gets the directory in which it may keep files. `address` is the
    /// one to wait for. The block runs in one process, in the foreground, without an access log.
    pub fn start_with(
        place: &Place,
        address: SocketAddr,
        http: impl FnOnce(&Path) -> String,
    ) -> anyhow::Result<Self> {
        if !Path::new(NGINX).exists() {
            bail!("{NGINX} is missing: `cargo xtask setup` installs it");
        }
        let accepts = || Connection::open_in(place, address, None, CONNECT_TIME_MAX).is_ok();
        if accepts() {
            bail!("somebody listens on {address} already");
        }
        let scratch = Scratch::new()?;
        for (name, bytes) in [("128", 128), ("16k", 16 * 1024), ("1m", 1024 * 1024)] {
            scratch.write(name, vec![b'x'; bytes])?;
        }
        let config = scratch.write("nginx.conf", main_block(scratch.path(), &http(scratch.path())))?;
        let mut command = place.command(NGINX);
        command.arg("-p").arg(scratch.path()).arg("-c").arg(config);
        let mut process = Process::start(command, scratch.path().join("output"))?;
        let answer = wait::until(START_TIME_MAX, || {
            if let Ok(Some(status)) = process.wait(Duration::ZERO) {
                return Some(Err(status));
            }
            accepts().then_some(Ok(()))
        });
        match answer {
            Some(Ok(())) => Ok(Self { process, address, scratch }),
            Some(Err(status)) => bail!("nginx ended with {status}: {}", process.output()),
            None => {
                Err(anyhow::anyhow!(process.output())).context(format!("nginx does not accept on {address}"))
            }
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process, for signals and for measuring.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Its directory: `access.log` is not there unless the `http` block asks for it.
    pub fn directory(&self) -> &Path {
        self.scratch.path()
    }
}

fn main_block(directory: &Path, http: &str) -> String {
    let directory = directory.display();
    // Root without capabilities, as in a container, may not give its files away as nginx would.
    // SAFETY: geteuid(2) takes no pointer and cannot fail.
    let user = if unsafe { libc::geteuid() } == 0 { "user root;" } else { "" };
    // One process: nothing to drop privileges to, and one process id to stop and to measure.
    format!(
        "daemon off;
{user}
master_process off;
pid {directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    keepalive_requests 1000000;
    client_max_body_size 0;
{http}
}}
"
    )
}

fn upstream_server(address: SocketAddr, name: &str, directory: &Path) -> String {
    let directory = directory.display();
    // `return` with a text in double quotes; the gateway's own fields first, then what a client could have forged.
    format!(
        r#"    server {{
        listen {address};
        default_type text/plain;
        add_header x-upstream "{name}" always;
        location = / {{ return 200 "{name}\n"; }}
        location = /health {{ return 204; }}
        location /files/ {{ alias {directory}/; }}
        location = /status/404 {{ return 404 "not here\n"; }}
        location = /status/500 {{ return 500 "broken\n"; }}
        location = /status/503 {{ return 503 "away\n"; }}
        location / {{
            return 200 "upstream: {name}\nmethod: $request_method\ntarget: $request_uri\nhost: $http_host\nx-forwarded-for: $http_x_forwarded_for\nx-forwarded-proto: $http_x_forwarded_proto\nforwarded: $http_forwarded\nx-real-ip: $http_x_real_ip\nx-request-id: $http_x_request_id\nx-user: $http_x_user\nx-api-key: $http_x_api_key\nauthorization: $http_authorization\nconnection: $http_connection\ntransfer-encoding: $http_transfer_encoding\ncontent-length: $http_content_length\nremote: $remote_addr\nconnection-requests: $connection_requests\n";
        }}
    }}"#
    )
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::lab::{
        self,
        client::Request,
        netns::{EDGE_V4, HONEST_V4, Lab},
    };

    const TIME_MAX: Duration = Duration::from_secs(10);

    fn free() -> SocketAddr {
        let [free] = Place::here().free_addresses(Ipv4Addr::LOCALHOST.into()).unwrap();
        free
    }

    fn upstream(test: &str) -> Option<Nginx> {
        if !Path::new(NGINX).exists() {
            lab::skip(test, "nginx is not installed");
            return None;
        }
        Some(Nginx::start(&Place::here(), free(), "blue").unwrap())
    }

    #[test]
    fn it_answers_over_one_connection() {
        let Some(nginx) = upstream("it_answers_over_one_connection") else { return };
        let mut connection = Connection::open(nginx.address(), None, TIME_MAX).unwrap();
        for (target, bytes) in [("/files/128", 128), ("/files/16k", 16 * 1024), ("/files/1m", 1024 * 1024)] {
            let response = connection.request(&Request::get(target)).unwrap();
            assert_eq!(
                (response.status, response.body.len(), response.keep_alive),
                (200, bytes, true),
                "{target}"
            );
        }
        let response = connection.request(&Request::get("/")).unwrap();
        assert_eq!((response.text().as_str(), response.header("x-upstream")), ("blue\n", Some("blue")));
        assert_eq!(connection.request(&Request::get("/health")).unwrap().status, 204);
        assert_eq!(connection.request(&Request::get("/status/503")).unwrap().status, 503);
        let head = Request { method: "HEAD", ..Request::get("/files/16k") };
        let response = connection.request(&head).unwrap();
        assert_eq!((response.header("content-length"), response.body.len()), (Some("16384"), 0));
    }

    #[test]
    fn it_echoes_what_arrived() {
        let Some(nginx) = upstream("it_echoes_what_arrived") else { return };
        let mut connection = Connection::open(nginx.address(), None, TIME_MAX).unwrap();
        let post = Request {
            method: "POST",
            body: b"four",
            ..Request::get("/echo?q=1").with(&[("x-forwarded-for", "192.0.2.9")])
        };
        let text = connection.request(&post).unwrap().text();
        for line in ["method: POST", "target: /echo?q=1", "x-forwarded-for: 192.0.2.9", "content-length: 4"] {
            assert!(text.lines().any(|sent| sent == line), "{line} is not in {text}");
        }
        connection.send(&[Request::get("/").bytes(), Request::get("/health").bytes()].concat()).unwrap();
        assert_eq!(connection.receive("GET").unwrap().status, 200);
        assert_eq!(connection.receive("GET").unwrap().status, 204);
    }

    #[test]
    fn it_stops_with_its_guard() {
        let Some(nginx) = upstream("it_stops_with_its_guard") else { return };
        let (address, directory) = (nginx.address(), nginx.directory().to_owned());
        drop(nginx);
        assert!(Connection::open(address, None, TIME_MAX).is_err());
        assert!(!directory.exists());
    }

    #[test]
    fn a_bad_configuration_is_quoted() {
        let Some(nginx) = upstream("a_bad_configuration_is_quoted") else { return };
        let error = Nginx::start_with(&Place::here(), free(), |_| "nonsense;".into()).unwrap_err();
        assert!(error.to_string().contains("nonsense"), "{error}");
        let error = Nginx::start(&Place::here(), nginx.address(), "red").unwrap_err();
        assert!(error.to_string().contains("already"), "{error}");
    }

    #[test]
    fn it_serves_a_client_of_the_world() {
        const TEST: &str = "it_serves_a_client_of_the_world";
        if let Err(why) = lab::privileges() {
            return lab::skip(TEST, &why);
        }
        if !Path::new(NGINX).exists() {
            return lab::skip(TEST, "nginx is not installed");
        }
        let lab = Lab::new().unwrap();
        let nginx = Nginx::start(&lab.edge.place(), (EDGE_V4, 8080).into(), "edge").unwrap();
        let source = HONEST_V4[0].into();
        let mut connection =
            Connection::open_in(&lab.world.place(), nginx.address(), Some(source), TIME_MAX).unwrap();
        let text = connection.request(&Request::get("/echo")).unwrap().text();
        assert!(text.contains(&format!("remote: {source}\n")), "{text}");
    }
}
