//! The files under `config/`: they load, and the manual has an entry for every key that `raw` knows.

use serde::{
    Deserialize, Deserializer,
    de::{Visitor, value::Error},
    forward_to_deserialize_any,
};

use super::{
    load,
    raw::{
        RawAccessFile, RawAuditFile, RawAuth, RawBucket, RawByteBucket, RawCertificate, RawConnections,
        RawConsumer, RawCors, RawEscalation, RawFeed, RawFieldEdits, RawFile, RawFilter, RawFleet, RawHealth,
        RawLimit, RawListener, RawListenerLimits, RawListenerTimeouts, RawLog, RawPrefilter, RawRedirect,
        RawRespond, RawRetry, RawRewrite, RawRole, RawRoute, RawRouteTimeouts, RawRuntime, RawServer,
        RawSigns, RawThreshold, RawTls, RawTrace, RawUnderAttack, RawUpstream, RawUpstreamTimeouts,
        RawUpstreamTls, RawWebSocket,
    },
    tests::{Dir, HASH, env},
    types::Config,
};

const MANUAL: &str = include_str!("../../../config/portcullis.toml");
const MINIMAL: &str = include_str!("../../../config/minimal.toml");
const EDGE: &str = include_str!("../../../config/edge.toml");

/// Loads one of our files with all that it names beside it; it may not even be odd.
#[track_caller]
fn load_text(text: &str) -> Config {
    let dir = Dir::new();
    dir.write_certificate("api.crt", "api.key");
    dir.write("staff.jwks.json", r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":""}]}"#, 0o644);
    dir.write("introspection.secret", "s3cret\n", 0o600);
    let passwords = format!("ada:{HASH}\n");
    dir.write("passwords", passwords, 0o600);
    dir.write("cookie.key", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n", 0o600);
    dir.write("oidc.secret", "s3cret\n", 0o600);
    dir.write("gateway.toml", text, 0o644);
    let loaded = load(&dir.path().join("gateway.toml"), &env).expect("the file loads");
    assert_eq!(loaded.warnings, []);
    loaded.config
}

#[test]
fn our_files_load() {
    assert_eq!(load_text(MANUAL).routes.len(), 6);
    assert_eq!(load_text(EDGE).prefilter.interfaces, ["eth0"]);
    let minimal = load_text(MINIMAL);
    let lens = [minimal.listeners.len(), minimal.upstreams.len(), minimal.auths.len(), minimal.limits.len()];
    assert_eq!((lens, minimal.routes.len()), ([1; 4], 1));
}

/// What the manual shows as defaults is what an empty file means.
#[test]
fn the_manual_shows_the_defaults() {
    let (manual, empty) = (load_text(MANUAL), load_text("[listeners.a]\naddress = \"[::]:1\"\n"));
    assert_eq!(manual.runtime, empty.runtime);
    assert_eq!(manual.prefilter, empty.prefilter);
    assert_eq!(manual.escalation, empty.escalation);
    assert_eq!(manual.under_attack, empty.under_attack);
    assert_eq!(manual.log, empty.log);
    let listener = |config: &Config| (config.listeners[0].timeouts, config.listeners[0].limits);
    assert_eq!(listener(&manual), listener(&empty));
    let bare =
        load_text("[listeners.a]\naddress = \"[::]:1\"\n[upstreams.orders]\nservers = [\"192.0.2.1:1\"]\n");
    let (mut shown, bare) = (manual.upstreams[0].clone(), &bare.upstreams[0]);
    shown.servers.clone_from(&bare.servers);
    assert_eq!(shown, *bare);
}

#[test]
fn the_manual_has_an_entry_for_every_key() {
    let known: &[(&str, &[&str])] = &[
        ("", keys_of::<RawFile>()),
        ("runtime", keys_of::<RawRuntime>()),
        ("prefilter", keys_of::<RawPrefilter>()),
        ("prefilter", keys_of::<RawBucket>()),
        ("prefilter.feeds", keys_of::<RawFeed>()),
        ("prefilter", keys_of::<RawByteBucket>()),
        ("escalation", keys_of::<RawEscalation>()),
        ("escalation", keys_of::<RawThreshold>()),
        ("under_attack", keys_of::<RawUnderAttack>()),
        ("under_attack", keys_of::<RawSigns>()),
        ("listeners", keys_of::<RawListener>()),
        ("listeners.public.tls", keys_of::<RawTls>()),
        ("listeners.public.tls", keys_of::<RawCertificate>()),
        ("listeners.public.timeouts", keys_of::<RawListenerTimeouts>()),
        ("listeners.public.limits", keys_of::<RawListenerLimits>()),
        ("upstreams", keys_of::<RawUpstream>()),
        ("upstreams", keys_of::<RawServer>()),
        ("upstreams.orders.tls", keys_of::<RawUpstreamTls>()),
        ("upstreams.orders.timeouts", keys_of::<RawUpstreamTimeouts>()),
        ("upstreams.orders.connections", keys_of::<RawConnections>()),
        ("upstreams.orders.retry", keys_of::<RawRetry>()),
        ("upstreams.orders.health", keys_of::<RawHealth>()),
        ("auth", keys_of::<RawAuth>()),
        ("roles", keys_of::<RawRole>()),
        ("consumers", keys_of::<RawConsumer>()),
        ("limits", keys_of::<RawLimit>()),
        ("filters", keys_of::<RawFilter>()),
        ("routes", keys_of::<RawRoute>()),
        ("routes", keys_of::<RawRouteTimeouts>()),
        ("routes", keys_of::<RawRespond>()),
        ("routes", keys_of::<RawRedirect>()),
        ("routes", keys_of::<RawCors>()),
        ("routes", keys_of::<RawRewrite>()),
        ("routes", keys_of::<RawFieldEdits>()),
        ("routes", keys_of::<RawWebSocket>()),
        ("log", keys_of::<RawLog>()),
        ("log", keys_of::<RawAccessFile>()),
        ("log", keys_of::<RawAuditFile>()),
        ("trace", keys_of::<RawTrace>()),
        ("fleet", keys_of::<RawFleet>()),
    ];
    let structs = include_str!("raw.rs").matches("deny_unknown_fields").count();
    assert_eq!(structs, known.len(), "a struct of raw.rs is missing in this list");
    let missing: Vec<String> = known
        .iter()
        .flat_map(|(table, keys)| keys.iter().map(move |key| (*table, *key)))
        .filter(|(table, key)| !has_entry(table, key))
        .map(|(table, key)| format!("[{table}] {key}"))
        .collect();
    assert!(missing.is_empty(), "config/portcullis.toml lacks {missing:#?}");
}

/// Whether `key = ` or a table of that name stands below the head of `table` or of one of its own.
fn has_entry(table: &str, key: &str) -> bool {
    let mut current = String::new();
    MANUAL.lines().any(|line| {
        let text = line.trim_start_matches("# ");
        if let Some((head, _)) = text.strip_prefix('[').and_then(|t| t.split_once(']')) {
            head.clone_into(&mut current);
        }
        let below = current == table || current.strip_prefix(table).is_some_and(|rest| rest.starts_with('.'));
        let sub_table = current.split('.').any(|part| part == key) && (below || table.is_empty());
        let assigned = text.match_indices(&format!("{key} = ")).any(|(at, _)| {
            text[..at].chars().next_back().is_none_or(|before| matches!(before, ' ' | '{' | '['))
        });
        sub_table || (below && assigned)
    })
}

/// The names that a derived struct asks for.
fn keys_of<T: for<'de> Deserialize<'de>>() -> &'static [&'static str] {
    struct Fields<'a>(&'a mut &'static [&'static str]);

    impl<'de> Deserializer<'de> for Fields<'_> {
        type Error = Error;

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, Error> {
            *self.0 = fields;
            Err(serde::de::Error::custom("only the names were wanted"))
        }

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
            Err(serde::de::Error::custom("not a struct"))
        }

        forward_to_deserialize_any! {
            bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
            newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }

    let mut fields: &'static [&'static str] = &[];
    let told = T::deserialize(Fields(&mut fields));
    assert!(told.is_err() && !fields.is_empty());
    fields
}
