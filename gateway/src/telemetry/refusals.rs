//! The workers' part of the audit log: whom they refused, and why.
//!
//! A worker formats into a buffer that it owns and hands it over whole; what finds the queue full is counted, and told
//! in the log itself (`audit`), never waited for.

use std::{io, net::IpAddr, sync::Arc};

use super::{Exchange, cells::Bound, cells::Cells};
use crate::audit::{Audit, Entry, hex};

/// A buffer is handed over when it holds so much, or at the next sweep.
const HANDOVER_BYTES: usize = 16 * 1024;

/// A worker's end.
pub struct Refusals {
    audit: Audit,
    entries: Vec<u8>,
    count: u64,
    cells: Arc<Cells>,
}

/// A TLS handshake that was refused for who the client is, or does not say to be. Texts are as it sent them.
#[derive(Debug)]
pub struct RefusedHandshake<'h> {
    /// Wall clock at its end, seconds since the epoch.
    pub unix_s: u64,
    /// What it is called in metrics.
    pub refusal: &'static str,
    /// What is wrong with the certificate.
    pub why: &'h io::Error,
    /// Who it came from.
    pub source: IpAddr,
    /// SHA-256 of the certificate that was shown; none: none was.
    pub certificate: Option<&'h [u8; 32]>,
    /// Whom that names, which nobody vouches for.
    pub certificate_name: Option<&'h str>,
    /// Where it came in.
    pub listener: &'h str,
    /// Whom it asked for.
    pub server_name: Option<&'h str>,
    /// The id that it would have as a request: the offence has it.
    pub request_id: &'h str,
}

impl Refusals {
    /// Nothing has been refused yet.
    pub fn new(audit: Audit, cells: Arc<Cells>) -> Self {
        Self { audit, entries: Vec::new(), count: 0, cells }
    }

    /// Whether anybody wants to know.
    pub fn is_on(&self) -> bool {
        self.audit.is_on()
    }

    /// Adds an exchange, if it is one that policy or the rules of HTTP have refused; one that failed is none.
    pub fn write(&mut self, exchange: &Exchange<'_>) {
        // 499 is nobody's refusal: the client has left.
        let is_refusal = !exchange.refusal.is_empty() && (400..499).contains(&exchange.status);
        if !is_refusal || !self.is_on() {
            return;
        }
        let entry = Entry::behind(std::mem::take(&mut self.entries), exchange.unix_s, "refused")
            .number("status", exchange.status.into())
            .text("refusal", exchange.refusal)
            .text_if("why", exchange.why)
            .text("source", &exchange.source.to_string())
            .text_if("consumer", exchange.consumer)
            .text_if("auth", exchange.auth)
            .text_if("credential", exchange.credential)
            .text_if("route", exchange.route)
            .text("method", exchange.method)
            .text("path", exchange.path)
            .text("protocol", exchange.protocol)
            .text("request_id", exchange.request_id);
        self.keep(entry, exchange.unix_s);
    }

    /// Adds a handshake.
    pub fn write_handshake(&mut self, handshake: &RefusedHandshake<'_>) {
        if !self.is_on() {
            return;
        }
        let certificate = handshake.certificate.map(|sha256| hex(sha256));
        let entry = Entry::behind(std::mem::take(&mut self.entries), handshake.unix_s, "refused")
            .text("refusal", handshake.refusal)
            .text("why", &handshake.why.to_string())
            .text("source", &handshake.source.to_string())
            .text_if("certificate", certificate.as_deref())
            .text_if("certificate_name", handshake.certificate_name)
            .text("listener", handshake.listener)
            .text_if("server_name", handshake.server_name)
            .text("protocol", "TLS")
            .text("request_id", handshake.request_id);
        self.keep(entry, handshake.unix_s);
    }

    fn keep(&mut self, entry: Entry, unix_s: u64) {
        self.entries = entry.into_bytes();
        self.count += 1;
        if self.entries.len() >= HANDOVER_BYTES {
            self.flush(unix_s);
        }
    }

    /// Hands over what has been gathered.
    pub fn flush(&mut self, unix_s: u64) {
        if self.entries.is_empty() {
            return;
        }
        let count = std::mem::take(&mut self.count);
        if !self.audit.take(std::mem::take(&mut self.entries), count, unix_s) {
            self.cells.bound_hit(Bound::AuditQueue);
        }
    }
}
