//! Configuration values for tests: valid, and as small as they can be.

use std::{hash::RandomState, rc::Rc, sync::Arc, time::Duration};

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

use super::{
    Answered, AuthFailure, Identity, KeyTable, KeyTables, Memory, Peer, Replays, api_key,
    key_table::{ApiKey, Change, Grants},
    limit::Table,
    memory,
};
use crate::{codec, config, tls::ClientCertificate};

/// A public route for any host and method that answers 204.
pub(super) fn route(name: &str, path: &str) -> config::Route {
    config::Route {
        name: name.into(),
        hosts: Vec::new(),
        path: path.into(),
        methods: Vec::new(),
        action: config::Action::Respond(Arc::new(respond(204))),
        auths: Vec::new(),
        public: true,
        permission: config::Permission::None,
        scopes: Vec::new(),
        when: None,
        limits: Vec::new(),
        filter: None,
        request_timeout: None,
        websocket: None,
        body_size_bytes: None,
        rewrite: None,
        cors: None,
        compress: Vec::new(),
    }
}

/// A fixed answer without a body.
pub(super) fn respond(status: u16) -> config::Respond {
    config::Respond { status, body: "".into(), content_type: "text/plain".into(), headers: Vec::new() }
}

/// The HMAC key of every test store.
pub(super) const HASH_KEY: [u8; 32] = [9; 32];

/// Per auth that goes by keys, a table with one: `minted(1)`, of consumer acme.
pub(super) fn key_tables(auths: &[config::Auth]) -> KeyTables {
    KeyTables::new(auths.iter().map(|auth| match &auth.kind {
        config::AuthKind::ApiKey(_) => Some(Arc::new(key_table(vec![stored(&minted(1), "acme")]))),
        _ => None,
    }))
}

/// A table of these keys.
pub(super) fn key_table(keys: Vec<ApiKey>) -> KeyTable {
    let table = KeyTable::new(&HASH_KEY);
    table.apply(keys.into_iter().map(Change::Put).collect());
    table
}

/// Always the same key for the same seed.
pub(super) fn minted(seed: u8) -> api_key::Minted {
    let mut state = u32::from(seed) + 1;
    api_key::mint(&mut |bytes| {
        for byte in bytes {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = state.to_be_bytes()[0];
        }
    })
}

/// The entry of a key without roles and without end.
pub(super) fn stored(minted: &api_key::Minted, consumer: &str) -> ApiKey {
    stored_with(minted, consumer, None, &[])
}

/// The entry of a key.
pub(super) fn stored_with(
    minted: &api_key::Minted,
    consumer: &str,
    expires_at_s: Option<u64>,
    roles: &[&str],
) -> ApiKey {
    let hash = api_key::hash_of(&HASH_KEY, &minted.secret);
    let grants =
        Grants { roles: roles.iter().map(|role| Arc::from(*role)).collect(), scopes: Box::default() };
    ApiKey::new(&minted.id, hash, expires_at_s, consumer.into(), Arc::new(grants)).unwrap()
}

/// The time in all tests, in seconds since the epoch.
pub(super) const NOW_S: u64 = 1_800_000_000;

/// Secret of the tokens that [`token`] makes.
pub(super) const TOKEN_SECRET: &[u8; 32] = b"0123456789abcdef0123456789abcdef";

/// `[auth.keys]`: its keys are those of [`key_tables`].
pub(super) fn key_auth() -> config::Auth {
    key_auth_in(config::Carrier::Header("x-api-key".into()))
}

/// The same, with keys that come in another place.
pub(super) fn key_auth_in(carrier: config::Carrier) -> config::Auth {
    let api_key = config::ApiKey { carrier, store: "keys.db".into() };
    config::Auth { name: "keys".into(), forward_credential: false, kind: config::AuthKind::ApiKey(api_key) }
}

/// `[auth.staff]`: tokens as [`token`] makes them.
pub(super) fn token_auth() -> config::Auth {
    config::Auth {
        name: "staff".into(),
        forward_credential: false,
        kind: config::AuthKind::Jwt(Box::new(token_rules())),
    }
}

/// `[auth.legacy]`: whose users are nobody's business here.
pub(super) fn basic_auth() -> config::Auth {
    config::Auth {
        name: "legacy".into(),
        forward_credential: false,
        kind: config::AuthKind::Basic(config::Basic { users: Arc::from([]) }),
    }
}

/// `[auth.machines]`: by the host's name.
pub(super) fn certificate_auth() -> config::Auth {
    config::Auth {
        name: "machines".into(),
        forward_credential: false,
        kind: config::AuthKind::Mtls(config::CertificateName::SanDns),
    }
}

/// Somebody on a connection under TLS.
pub(super) fn peer(certificate: Option<&ClientCertificate>) -> Peer<'_> {
    let source = "203.0.113.7".parse().unwrap();
    Peer { source, source_is_forwarded: false, tls: true, certificate }
}

/// What was said of a credential: whose it is.
pub(super) fn answered(auth: u16, answer: Result<&str, AuthFailure>) -> Answered {
    let known = |consumer: &str| Identity { consumer: consumer.into(), auth, ..Identity::default() };
    Answered { auth, answer: answer.map(|consumer| Rc::new(known(consumer))) }
}

/// Empty buckets, and a memory of nobody and nothing.
pub(super) fn state() -> (Table, Memory, Replays) {
    let keyed = RandomState::new();
    (Table::new(1024, keyed.clone()), Memory::new(memory::BYTES_MAX), Replays::new(keyed))
}

/// Gives the head of `request` to `use_it`: a request line, then header lines.
pub(super) fn with_head<T>(request: &str, use_it: impl FnOnce(&codec::RequestHead<'_, '_>) -> T) -> T {
    let (line, headers) = request.split_once('\n').unwrap_or((request, ""));
    let lines = [line, "Host: api.example"].into_iter().chain(headers.lines());
    let bytes = lines.chain(["", ""]).collect::<Vec<_>>().join("\r\n");
    let limits = codec::HeadLimits { head_bytes_max: 16_384, headers_max: 100, target_bytes_max: 8_192 };
    let mut slots = codec::HeaderSlots::new();
    use_it(&codec::request_head(bytes.as_bytes(), &mut slots, &limits).unwrap().unwrap())
}

/// Rules that ask for nothing but a signature and a time.
pub(super) fn token_rules() -> config::Jwt {
    config::Jwt {
        issuer: None,
        algorithms: vec!["HS256".into()],
        leeway: Duration::ZERO,
        claims: config::ClaimRules {
            audiences: Vec::new(),
            consumer: "sub".into(),
            roles: Some("roles".into()),
            scopes: Some("scope".into()),
            forward: Vec::new(),
        },
        keys: config::JwtKeys::Key(config::Secret(Zeroizing::new(TOKEN_SECRET.to_vec()))),
    }
}

/// Rules of opaque tokens, which count for half a minute.
pub(super) fn introspection_rules() -> config::Introspection {
    let url = config::Url::parse("http://127.0.0.1:1/introspect").unwrap();
    config::Introspection {
        endpoint: config::Endpoint { url, tls: None },
        client_id: "gateway".into(),
        client_secret: config::Secret(Zeroizing::new(b"s3cret".to_vec())),
        cache: Duration::from_secs(30),
        timeout: Duration::from_secs(1),
        claims: token_rules().claims,
    }
}

/// A good HS256 token of this subject.
pub(super) fn token(subject: &str) -> String {
    token_with(&format!(r#"{{"sub":"{subject}","exp":{}}}"#, NOW_S + 60))
}

/// A HS256 token with these claims.
pub(super) fn token_with(claims: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, TOKEN_SECRET);
    signed(r#"{"alg":"HS256"}"#, claims, |message| hmac::sign(&key, message).as_ref().to_vec())
}

/// Header and claims as they stand, signed by `sign`.
pub(super) fn signed(header: &str, claims: &str, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = URL_SAFE_NO_PAD.encode(sign(message.as_bytes()));
    format!("{message}.{signature}")
}

/// A configuration with nothing in it.
pub(super) fn empty() -> config::Config {
    config::Config {
        runtime: config::Runtime {
            workers: config::Workers::Auto,
            buffer_bytes_max: 1 << 20,
            connections_max: 1,
            drain_timeout: Duration::ZERO,
            state_dir: "/var/lib/portcullis".into(),
            resolvers: Vec::new(),
        },
        prefilter: config::Prefilter {
            interfaces: Vec::new(),
            mode: config::XdpMode::Auto,
            required: true,
            dry_run: false,
            pin_dir: "/sys/fs/bpf/portcullis".into(),
            ports: config::FilterPorts::Listeners,
            allow: Vec::new(),
            block: Vec::new(),
            entries_max: 1,
            sources_max: 1,
            source_prefix_v4: 32,
            source_prefix_v6: 64,
            packets: None,
            syns: None,
            bytes: None,
            network_packets: None,
            network_syns: None,
            network_bytes: None,
            syn_cookies: config::SynCookies::Off,
            syn_flood_per_s: 2_000.0,
            drop_malformed: true,
            samples_per_s: 1,
            feeds: Vec::new(),
        },
        escalation: config::Escalation {
            dry_run: false,
            block_for: Duration::ZERO,
            block_max: Duration::ZERO,
            memory: Duration::ZERO,
            exempt: Vec::new(),
            unauthorized: None,
            forbidden: None,
            limited: None,
            malformed: None,
            attack: None,
            not_found: None,
            admin_ports: config::AdminPorts::Unlimited,
            known_for: Duration::ZERO,
            throttle: None,
        },
        under_attack: config::UnderAttack {
            elevated: config::Signs::default(),
            attack: config::Signs::default(),
            calm_after: Duration::ZERO,
            strangers_percent: 100,
            long_lived: None,
        },
        listeners: Vec::new(),
        admin: None,
        upstreams: Vec::new(),
        auths: Vec::new(),
        roles: Vec::new(),
        consumers: Vec::new(),
        limits: Vec::new(),
        filters: Vec::new(),
        routes: Vec::new(),
        log: config::Log {
            level: log::LevelFilter::Info,
            access: config::AccessLog::Off,
            audit: config::Audit::Off,
        },
        files: Vec::new(),
    }
}
