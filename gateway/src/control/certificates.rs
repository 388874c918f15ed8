//! What listeners show, kept up to date: files that change are read again and what they hold is swapped in; the next
//! handshake goes by it, and no connection notices.
//!
//! Comes in: `[listeners.*.tls]`, the files that it names, the time. Goes out: one [`Slot`] per listener, from which the
//! workers take settings without a lock; warnings and metrics of what will expire. What is of no use is told and kept
//! out: the old certificates go on, also past their end.

use std::{
    os::unix::fs::MetadataExt,
    path::Path,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use metrics::{counter, gauge};
use rustls::KeyLog;
use thiserror::Error;

use crate::{
    audit::{Audit, Entry},
    config::{self, Config},
    tls::{self, Making, TlsError},
};

/// Where a worker finds what a listener shows.
pub type Slot = Arc<ArcSwap<tls::Server>>;

/// Beats between two looks at the files.
const BEATS_PER_LOOK: u64 = 2;
/// Beats between two warnings of one certificate.
const BEATS_PER_WARNING: u64 = 6 * 3600;
/// From so long before its end a certificate is warned of.
const WARN_BEFORE_S: u64 = 14 * 86_400;

/// A listener's TLS that is of no use.
#[derive(Debug, Error)]
#[error("listeners.{0}.tls: {1}")]
pub struct CertificatesError(Arc<str>, TlsError);

/// The certificates of all listeners.
pub struct Certificates {
    /// In the order of the configuration; none in clear.
    listeners: Vec<Option<Shown>>,
    key_log: Option<Arc<dyn KeyLog>>,
    beats: u64,
}

/// What one listener shows.
struct Shown {
    listener: Arc<str>,
    settings: config::Tls,
    slot: Slot,
    /// How its files looked when they were last read.
    seen: Option<Vec<Option<Stamp>>>,
    taken: u64,
    refused: u64,
}

/// What changes with a file: modification time in seconds and ns, inode, size.
pub(super) type Stamp = (i64, i64, u64, u64);

/// New certificates that fit together, for [`Certificates::publish`].
pub(super) struct Prepared(Vec<Option<(config::Tls, tls::Server)>>);

impl Certificates {
    /// Those of `config`. With `key_log`, session keys are told there.
    pub fn compile(config: &Config, key_log: Option<Arc<dyn KeyLog>>) -> Result<Self, CertificatesError> {
        let mut certificates = Self { listeners: Vec::new(), key_log, beats: 0 };
        let prepared = certificates.prepare(config)?;
        let shown = config.listeners.iter().zip(prepared.0).map(|(listener, prepared)| {
            let (settings, server) = prepared?;
            let (listener, slot) = (Arc::clone(&listener.name), Arc::new(ArcSwap::from_pointee(server)));
            Some(Shown { listener, settings, slot, seen: None, taken: 0, refused: 0 })
        });
        certificates.listeners = shown.collect();
        Ok(certificates)
    }

    /// Where the workers find them, in the order of the listeners.
    pub fn slots(&self) -> Vec<Option<Slot>> {
        self.listeners.iter().map(|shown| shown.as_ref().map(|shown| Arc::clone(&shown.slot))).collect()
    }

    /// What a new configuration shows; its listeners are those of the old one.
    pub(super) fn prepare(&self, config: &Config) -> Result<Prepared, CertificatesError> {
        let of_one = |(index, listener): (usize, &config::Listener)| {
            let Some(settings) = &listener.tls else { return Ok(None) };
            let shown = self.listeners.get(index).and_then(Option::as_ref);
            let before = shown.map(|shown| shown.slot.load());
            let compiled =
                compile(settings, self.key_log.as_ref(), before.as_deref().map(|before| &**before));
            let server = compiled.map_err(|error| CertificatesError(Arc::clone(&listener.name), error))?;
            Ok(Some((settings.clone(), server)))
        };
        Ok(Prepared(config.listeners.iter().enumerate().map(of_one).collect::<Result<_, _>>()?))
    }

    /// From the next handshake on the workers go by these.
    pub(super) fn publish(&mut self, prepared: Prepared) {
        for (shown, prepared) in self.listeners.iter_mut().zip(prepared.0) {
            if let (Some(shown), Some((settings, server))) = (shown, prepared) {
                shown.slot.store(Arc::new(server));
                shown.settings = settings;
            }
        }
        self.warn(now_s());
    }

    /// Once a second: takes what has changed in the files, and warns of what will expire.
    pub(super) fn beat(&mut self, audit: &Audit) {
        if self.beats.is_multiple_of(BEATS_PER_LOOK) {
            for shown in self.listeners.iter_mut().flatten() {
                shown.look(self.key_log.as_ref(), audit);
            }
        }
        if self.beats.is_multiple_of(BEATS_PER_WARNING) {
            self.warn(now_s());
        }
        self.beats += 1;
    }

    fn warn(&self, now_s: u64) {
        for shown in self.listeners.iter().flatten() {
            for certificate in shown.slot.load().certificates() {
                if let Some(problem) = certificate.not_after_s().and_then(|end_s| ending(end_s, now_s)) {
                    log::warn!("listeners.{}: {} {problem}", shown.listener, certificate.file().display());
                }
            }
        }
    }

    /// Tells the metrics.
    pub(super) fn fold(&self) {
        let now_s = now_s();
        for shown in self.listeners.iter().flatten() {
            let listener = shown.listener.to_string();
            for (result, count) in [("taken", shown.taken), ("refused", shown.refused)] {
                counter!("portcullis_tls_renewals_total", "listener" => listener.clone(), "result" => result)
                    .absolute(count);
            }
            for certificate in shown.slot.load().certificates() {
                let Some(end_s) = certificate.not_after_s() else { continue };
                let file = certificate.file().display().to_string();
                gauge!(
                    "portcullis_tls_certificate_expires_seconds",
                    "listener" => listener.clone(), "file" => file
                )
                .set(seconds_between(now_s, end_s));
            }
        }
    }
}

impl Shown {
    /// Reads files that have changed since they were last read.
    fn look(&mut self, key_log: Option<&Arc<dyn KeyLog>>, audit: &Audit) {
        // Before they are read: what changes meanwhile is seen the next time.
        let seen = Some(self.settings.files().map(stamp).collect());
        if seen == self.seen {
            return;
        }
        self.seen = seen;
        let renewed = self.settings.read_again().and_then(|settings| {
            if settings == self.settings {
                return Ok(None);
            }
            let server = compile(&settings, key_log, Some(&**self.slot.load()));
            server.map(|server| Some((settings, server))).map_err(|error| error.to_string())
        });
        match renewed {
            Ok(None) => {}
            Ok(Some((settings, server))) => {
                self.slot.store(Arc::new(server));
                self.settings = settings;
                self.taken += 1;
                log::info!("listeners.{}: certificates renewed", self.listener);
                let entry = Entry::new(now_s(), "certificates_renewed").text("listener", &self.listener);
                audit.tell(entry, now_s());
            }
            Err(problem) => {
                self.refused += 1;
                let entry = Entry::new(now_s(), "certificates_refused").text("listener", &self.listener);
                audit.tell(entry.text("why", &problem), now_s());
                log::error!(
                    "listeners.{}: certificates not renewed, the old ones stay: {problem}",
                    self.listener
                );
            }
        }
    }
}

fn compile(
    settings: &config::Tls,
    key_log: Option<&Arc<dyn KeyLog>>,
    before: Option<&tls::Server>,
) -> Result<tls::Server, TlsError> {
    let offered = [(settings.protocols.http2, tls::ALPN_HTTP2), (settings.protocols.http1, tls::ALPN_HTTP1)];
    let alpn: Vec<&[u8]> = offered.iter().filter(|(offer, _)| *offer).map(|(_, name)| *name).collect();
    let making = Making { alpn: &alpn, key_log: key_log.cloned() };
    tls::Server::compile(settings, &making, before)
}

/// How a file looks from outside; none where there is no file.
pub(super) fn stamp(file: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(file).ok()?;
    Some((metadata.mtime(), metadata.mtime_nsec(), metadata.ino(), metadata.size()))
}

/// What is to be said of a certificate whose time ends at `end_s`; none while that is far away.
fn ending(end_s: u64, now_s: u64) -> Option<String> {
    match end_s.checked_sub(now_s) {
        None => Some("HAS EXPIRED: clients refuse it".to_owned()),
        Some(left_s) if left_s <= WARN_BEFORE_S => Some(format!("expires in {} days", left_s / 86_400)),
        Some(_) => None,
    }
}

/// Below zero where `end_s` is past.
#[expect(clippy::cast_precision_loss, reason = "a gauge past 2^53 seconds is past caring")]
fn seconds_between(now_s: u64, end_s: u64) -> f64 {
    end_s as f64 - now_s as f64
}

#[expect(
    clippy::disallowed_methods,
    reason = "the control thread's clock; nobody sees the seconds but people"
)]
fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_from_two_weeks_before() {
        const DAY_S: u64 = 86_400;
        let end_s = 1000 * DAY_S;
        assert_eq!(ending(end_s, 985 * DAY_S), None);
        assert_eq!(ending(end_s, 986 * DAY_S - 1), None);
        assert_eq!(ending(end_s, 986 * DAY_S).as_deref(), Some("expires in 14 days"));
        assert_eq!(ending(end_s, end_s).as_deref(), Some("expires in 0 days"));
        assert_eq!(ending(end_s, end_s + 1).as_deref(), Some("HAS EXPIRED: clients refuse it"));
        assert!((seconds_between(end_s + 5, end_s) + 5.0).abs() < f64::EPSILON);
    }
}
