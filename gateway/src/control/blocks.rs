//! Offences in, blocks at the NIC out: the shell around `escalate`.

use std::collections::BTreeMap;

use crate::{
    config::Config,
    decide::Snapshot,
    nic::{
        BanAction, BanEntry, BanKind, BanNote, BanOrigin, BanRecord, Counter, Filter, LogSource, NicError,
        monotonic_ns,
    },
    respond::{Offence, OffenceKind},
};

use super::{
    escalate::{Block, Escalation, Tally},
    protect::Protected,
};

/// The filter and what is decided about it.
pub(super) struct Blocks {
    escalation: Escalation,
    filter: Option<Filter>,
    /// What the XDP program itself has to say.
    diagnostics: Option<LogSource>,
    listener_ports: Vec<u16>,
    written: BTreeMap<OffenceKind, u64>,
    full: u64,
    failed: u64,
}

impl Blocks {
    pub(super) fn new(snapshot: &Snapshot, mut filter: Option<Filter>) -> Self {
        let config = &snapshot.config;
        Self {
            diagnostics: filter.as_mut().and_then(Filter::take_log_source),
            escalation: Escalation::new(
                config.escalation.clone(),
                Protected::of(config, &snapshot.addresses),
            ),
            filter,
            listener_ports: listener_ports(config),
            written: BTreeMap::new(),
            full: 0,
            failed: 0,
        }
    }

    /// Counts offences and blocks whoever crossed a line, at once.
    pub(super) fn observe(&mut self, offences: impl Iterator<Item = Offence>, now_ns: u64) {
        for offence in offences {
            self.pardon_if_lifted(&offence, now_ns);
            if let Some(block) = self.escalation.observe(&offence, now_ns) {
                self.block(&block);
            }
        }
    }

    /// The command line lifts a block in the maps alone. One who offends after that starts afresh instead of being
    /// taken for blocked until the lifted block would have ended.
    fn pardon_if_lifted(&mut self, offence: &Offence, now_ns: u64) {
        let Some(filter) = &mut self.filter else { return };
        if let Some(source) = self.escalation.blocked(offence.source, offence.at_ns.min(now_ns))
            && matches!(filter.bans().holds(source, now_ns), Ok(false))
        {
            self.escalation.pardon(&source);
        }
    }

    fn block(&mut self, block: &Block) {
        let Some(filter) = self.filter.as_mut().filter(|_| !block.dry_run) else {
            log::info!("would block {}", sentence(block));
            return;
        };
        match filter.bans().add(block.source, &entry(block)) {
            Ok(()) => {
                *self.written.entry(block.kind).or_default() += 1;
                log::info!("blocked {}", sentence(block));
            }
            // The operator's own block already holds.
            Err(NicError::ByConfiguration(_)) => {}
            Err(error) => {
                if matches!(error, NicError::Full) {
                    self.full += 1;
                } else {
                    self.failed += 1;
                }
                log::error!("{} is not blocked: {error}; the request-level limits still hold", block.source);
                self.escalation.pardon(&block.source);
            }
        }
    }

    /// Once a second: the filter hears that we live, and what has ended makes room.
    pub(super) fn beat(&mut self, now_ns: u64) {
        self.escalation.forget(now_ns);
        let Some(filter) = &mut self.filter else { return };
        if let Err(error) = filter.heartbeat(now_ns) {
            log::error!("the filter's heartbeat: {error}");
        }
        if let Err(error) = filter.bans().sweep(now_ns) {
            log::warn!("ended blocks still take room: {error}");
        }
        if let Some(diagnostics) = &mut self.diagnostics {
            diagnostics.flush();
        }
        filter.samples(|sample| log::debug!("{sample:?}"));
    }

    /// The new configuration's limits, prefixes and thresholds; counts and blocks stay.
    pub(super) fn reconfigure(&mut self, snapshot: &Snapshot) {
        self.protect(snapshot);
        let config = &snapshot.config;
        if let Some(filter) = &mut self.filter
            && let Err(error) = filter.apply(&config.prefilter, &self.listener_ports)
        {
            log::error!("the filter keeps its old settings in part: {error}");
        }
    }

    /// Servers have moved: who is never blocked.
    pub(super) fn protect(&mut self, snapshot: &Snapshot) {
        let config = &snapshot.config;
        self.escalation.reconfigure(config.escalation.clone(), Protected::of(config, &snapshot.addresses));
    }

    /// Interfaces with the mode in effect.
    pub(super) fn attached(&self) -> impl Iterator<Item = (String, String)> + '_ {
        let attached = self.filter.iter().flat_map(Filter::attached);
        attached.map(|(interface, mode)| (interface.clone(), format!("{mode:?}").to_lowercase()))
    }

    /// Every live block, as `portcullis bans list --json` shows it.
    pub(super) fn list(&mut self) -> Result<serde_json::Value, String> {
        let Some(filter) = &mut self.filter else { return Ok(serde_json::json!([])) };
        let records = filter.bans().list(monotonic_ns()).map_err(|error| error.to_string())?;
        Ok(records.iter().map(BanRecord::to_json).collect())
    }

    pub(super) fn active(&mut self) -> usize {
        let Some(filter) = &mut self.filter else { return 0 };
        filter.bans().list(monotonic_ns()).map_or(0, |records| records.len())
    }

    pub(super) fn counters(&self) -> Vec<Counter> {
        let Some(filter) = &self.filter else { return Vec::new() };
        filter.counters().unwrap_or_default()
    }

    pub(super) fn samples_lost(&self) -> u64 {
        self.filter.as_ref().and_then(|filter| filter.samples_lost().ok()).unwrap_or(0)
    }

    pub(super) fn tally(&self) -> Tally {
        self.escalation.tally()
    }

    pub(super) fn written(&self) -> impl Iterator<Item = (OffenceKind, u64)> + '_ {
        self.written.iter().map(|(kind, count)| (*kind, *count))
    }

    /// Blocks that could not be written: for want of room, and for other reasons.
    pub(super) fn lost(&self) -> (u64, u64) {
        (self.full, self.failed)
    }
}

/// Destination ports of the listeners.
pub(crate) fn listener_ports(config: &Config) -> Vec<u16> {
    config.listeners.iter().map(|listener| listener.address.port()).collect()
}

fn entry(block: &Block) -> BanEntry {
    BanEntry {
        expires_at_ns: block.until_ns,
        offence_at_ns: block.offence_at_ns,
        action: BanAction::Drop,
        strikes: u16::try_from(block.strikes).unwrap_or(u16::MAX),
        kind: ban_kind(block.kind),
        origin: BanOrigin::Escalation,
        note: Some(BanNote {
            route: block.route.as_deref().unwrap_or_default().to_owned(),
            request_id: block.request_id.as_str().to_owned(),
            offences: block.offences,
            at_unix_s: unix_s(),
        }),
    }
}

fn ban_kind(kind: OffenceKind) -> BanKind {
    match kind {
        OffenceKind::Unauthorized => BanKind::Unauthorized,
        OffenceKind::Forbidden => BanKind::Forbidden,
        OffenceKind::Limited => BanKind::Limited,
        OffenceKind::Malformed => BanKind::Malformed,
        OffenceKind::NotFound => BanKind::NotFound,
    }
}

#[expect(clippy::disallowed_methods, reason = "the control thread dates its notes for people")]
fn unix_s() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn sentence(block: &Block) -> String {
    format!(
        "{} for {:?}: {}, block number {}, route {:?}, request {}",
        block.source,
        block.lasts,
        block.kind.label(),
        block.strikes,
        block.route.as_deref().unwrap_or("-"),
        block.request_id.as_str(),
    )
}
