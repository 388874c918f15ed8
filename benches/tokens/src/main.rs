//! `tokens COUNT KEYS LINES`: writes a JWK set into KEYS, and COUNT header lines with ES256 tokens that it verifies into
//! LINES, each of another `jti`.

use std::{
    env,
    error::Error,
    fs::{self, File},
    io::{BufWriter, Write},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use p256::ecdsa::{Signature, SigningKey, signature::Signer};

/// Until the year 2096.
const EXPIRES_S: u64 = 4_000_000_000;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [count, keys, lines] = arguments.as_slice() else { return Err("tokens COUNT KEYS LINES".into()) };
    // Nothing is protected by it: it signs what a bench shows to a gateway that it has started.
    let key = SigningKey::from_slice(&[7; 32])?;
    let point = key.verifying_key().to_sec1_point(false);
    let [x, y] =
        [point.x(), point.y()].map(|coordinate| encode(coordinate.map(|c| &c[..]).unwrap_or_default()));
    let jwk = format!(
        r#"{{"kty":"EC","crv":"P-256","kid":"bench","alg":"ES256","use":"sig","x":"{x}","y":"{y}"}}"#
    );
    fs::write(keys, format!(r#"{{"keys":[{jwk}]}}"#))?;
    let header = encode(r#"{"alg":"ES256","typ":"JWT","kid":"bench"}"#);
    let mut out = BufWriter::new(File::create(lines)?);
    for id in 0..count.parse::<u64>()? {
        // As long as what issuers put into them.
        let claims = format!(
            r#"{{"iss":"https://id.example.com","aud":"orders","sub":"bench","jti":"{id:016x}","iat":1700000000,"exp":{EXPIRES_S},"scope":"files:read files:write","email":"bench@example.com","roles":["reader"]}}"#
        );
        let message = format!("{header}.{}", encode(claims));
        let signature: Signature = key.sign(message.as_bytes());
        writeln!(out, "Authorization: Bearer {message}.{}", encode(signature.to_bytes()))?;
    }
    Ok(out.flush()?)
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
