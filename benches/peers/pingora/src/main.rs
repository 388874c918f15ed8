//! The least reverse proxy that Pingora's guide would build, as a peer of `cargo xtask bench proxy`.
//!
//! Comes in: `PLAIN TLS H2C UPSTREAM CHAIN KEY`, four addresses and two PEM files. One thread per service, connections
//! to the upstream kept (Pingora keeps them unless told otherwise), no access log, TLS by rustls, which issues session
//! tickets. Source: docs/quick_start.md and docs/user_guide of Pingora.

use std::sync::Arc;

use async_trait::async_trait;
use pingora::{
    Result,
    apps::HttpServerOptions,
    listeners::tls::TlsSettings,
    proxy::{ProxyHttp, Session, http_proxy_service},
    server::{Server, configuration::ServerConf},
    upstreams::peer::HttpPeer,
};

/// Passes every request to one server.
struct Relay {
    upstream: String,
}

#[async_trait]
impl ProxyHttp for Relay {
    type CTX = ();

    fn new_ctx(&self) -> Self::CTX {}

    async fn upstream_peer(&self, _session: &mut Session, _ctx: &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.upstream.as_str(), false, String::new())))
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [plain, tls, h2c, upstream, chain, key] = arguments.as_slice() else {
        eprintln!("usage: pingora-peer PLAIN TLS H2C UPSTREAM CHAIN KEY");
        std::process::exit(2);
    };
    let conf = ServerConf {
        // One core: one thread per service, and nothing to steal work from.
        threads: 1,
        work_stealing: false,
        // As many as the other peers keep.
        upstream_keepalive_pool_size: 512,
        // On SIGTERM it would wait five minutes for its clients; the bench has none by then.
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(0),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let relay = || Relay { upstream: upstream.clone() };

    let mut service = http_proxy_service(&server.configuration, relay());
    service.add_tcp(plain);
    let mut settings = TlsSettings::intermediate(chain, key).expect("the bench's certificate");
    settings.enable_h2();
    service.add_tls_with_settings(tls, None, settings);
    server.add_service(service);

    // Apart, because a service that also speaks h2c peeks at each connection's first bytes.
    let mut service = http_proxy_service(&Arc::clone(&server.configuration), relay());
    let mut options = HttpServerOptions::default();
    options.h2c = true;
    service.app_logic_mut().expect("just made").server_options = Some(options);
    service.add_tcp(h2c);
    server.add_service(service);

    server.run_forever();
}
