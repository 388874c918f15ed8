//! The token of the demo's second credential: a JWT signed with HMAC-SHA-256 (RFC 7519, RFC 7515, `HS256`).
//!
//! Comes in: a secret, claims. Goes out: the compact form. For the demo alone; the gateway verifies, it never signs.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

/// Signs `claims`.
pub(super) fn sign(secret: &[u8], claims: &Value) -> anyhow::Result<String> {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&json!({ "alg": "HS256", "typ": "JWT" })), part(claims));
    let mut mac = Hmac::<Sha256>::new_from_slice(secret)?;
    mac.update(signed.as_bytes());
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_another_implementation() {
        // Computed with `openssl dgst -sha256 -hmac secret` over the first two parts.
        let token = sign(b"secret", &json!({ "sub": "demo" })).unwrap();
        assert_eq!(
            token,
            "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJkZW1vIn0.tjLSA2tZ75izXJv56H4eAcAuHQGWTOn0osusnUB9J2c"
        );
    }
}
