//! Session keys in a file, so that Wireshark can read what went over the wire. For debugging: whoever has the file
//! has the connections.

use std::{
    fmt::Write as _,
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
};

use rustls::KeyLog;

/// Appends to a file in the format that `SSLKEYLOGFILE` made common. A worker that writes waits for the disk.
#[derive(Debug)]
struct KeyFile(File);

/// Opens `file` for session keys; only its owner may read what is made here.
pub fn key_log(file: &Path) -> io::Result<Arc<dyn KeyLog>> {
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(file)?;
    Ok(Arc::new(KeyFile(file)))
}

impl KeyLog for KeyFile {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let mut line = format!("{label} ");
        hex(&mut line, client_random);
        line.push(' ');
        hex(&mut line, secret);
        line.push('\n');
        // One write, at the end of the file: lines of several workers do not mix. A lost one loses nobody but the
        // person who debugs.
        let _ = (&self.0).write_all(line.as_bytes());
    }
}

fn hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
    }
}
