//! Tokens: as they are, and header and claims (parted by a NUL) under a good signature, so that both are read.
#![no_main]

use std::sync::LazyLock;

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis::{
    config::{self, AuthKind, CONSUMER_BYTES_MAX},
    decide::jwt::Tokens,
};

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const NOW_S: u64 = 1_800_000_000;
/// Whatever `exp` is, it has passed by then.
const END_S: u64 = u64::MAX / 2;

static TOKENS: LazyLock<Tokens> = LazyLock::new(|| {
    let dir = std::env::temp_dir().join(format!("portcullis-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    let key = dir.join("key");
    std::fs::write(&key, SECRET).expect("a file");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&key, mode).expect("a mode");
    let text = "[auth.staff]\nkind = \"jwt\"\nissuer = \"i\"\naudiences = [\"a\"]\nalgorithms = [\"HS256\"]\n\
                consumer = \"sub\"\nroles = \"r.s\"\nkey_file = \"key\"\nforward = { x-user = \"sub\", x-e = \"e\" }\n";
    let loaded = config::parse(text, &dir, &|_| None).unwrap_or_else(|errors| panic!("{errors:?}"));
    std::fs::remove_dir_all(&dir).expect("ours");
    match &loaded.config.auths[0].kind {
        AuthKind::Jwt(rules) => Tokens::compile(rules).expect("a good key"),
        _ => unreachable!("its kind is jwt"),
    }
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let role = |name: &str| (name == "reader").then_some(0);
    assert!(TOKENS.check(bytes, NOW_S, &role).is_err(), "nobody else has the key");

    let mut parts = bytes.splitn(2, |&byte| byte == 0);
    let (header, claims) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let mut token = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), token.as_bytes());
    token.push('.');
    token.push_str(&URL_SAFE_NO_PAD.encode(signature));
    let Ok(verified) = TOKENS.check(token.as_bytes(), NOW_S, &role) else { return };

    assert!(!verified.consumer.is_empty() && verified.consumer.len() <= CONSUMER_BYTES_MAX);
    assert!(!verified.consumer.chars().any(char::is_control));
    assert!(verified.roles.iter().all(|&role| role == 0));
    assert!(verified.set.iter().all(|(_, value)| !value.contains(['\r', '\n', '\0'])));
    assert!(TOKENS.check(token.as_bytes(), END_S, &role).is_err(), "it ends");
    let forged = token.replace('.', "..");
    assert!(TOKENS.check(forged.as_bytes(), NOW_S, &role).is_err());
});
