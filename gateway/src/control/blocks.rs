//! Offences in, blocks at the NIC out: the shell around `escalate`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ipnet::IpNet;

use crate::{
    audit::{Audit, Entry},
    config::{AdminPorts, Config, FilterPorts},
    decide::{
        Pressure as State, Snapshot,
        known::{self, Known},
    },
    nic::{
        BanAction, BanEntry, BanKind, BanNote, BanOrigin, BanRecord, Counter, Filter, LogSource, NicError,
        Strikes, SynAnswers, monotonic_ns, nanos, peers,
    },
    respond::{Offence, OffenceKind},
};

use super::{
    admins::Admins,
    escalate::{Action, Block, Escalation, Remembered, Tally},
    pressure::{Pressure, Rates, Totals},
    protect::Protected,
    syn_flood::SynCookies,
    unix_s,
};

/// Beats, one a second, between two looks at who administers this host.
const BEATS_PER_LOOK: u64 = 5;
/// Beats between two sweeps of what the maps remember of blocks that are over.
const BEATS_PER_MEMORY_SWEEP: u64 = 60;

/// The filter and what is decided about it.
pub(super) struct Blocks {
    escalation: Escalation,
    filter: Option<Filter>,
    syn_cookies: SynCookies,
    /// What the XDP program itself has to say.
    diagnostics: Option<LogSource>,
    listener_ports: Vec<u16>,
    admins: Admins,
    pressure: Pressure,
    /// Connections that have been accepted, at the latest look.
    accepted: u64,
    known: Arc<Known>,
    audit: Audit,
    /// Sources that the filter knows.
    known_at_nic: usize,
    beats: u64,
    written: BTreeMap<OffenceKind, u64>,
    throttled: BTreeMap<OffenceKind, u64>,
    full: u64,
    failed: u64,
    /// Sources that the next process will not remember, for want of room.
    unremembered: u64,
}

impl Blocks {
    /// `known` says where consumers have proved who they are.
    pub(super) fn new(
        snapshot: &Snapshot,
        mut filter: Option<Filter>,
        known: Arc<Known>,
        audit: Audit,
    ) -> Self {
        let config = &snapshot.config;
        let protected = Protected::of(config, &snapshot.addresses, []);
        let mut blocks = Self {
            diagnostics: filter.as_mut().and_then(Filter::take_log_source),
            syn_cookies: SynCookies::new(&config.prefilter, filter.as_mut()),
            escalation: Escalation::new(config.escalation.clone(), protected, Arc::clone(&known)),
            filter,
            listener_ports: listener_ports(config),
            admins: Admins::default(),
            pressure: Pressure::default(),
            accepted: 0,
            known,
            audit,
            known_at_nic: 0,
            beats: 0,
            written: BTreeMap::new(),
            throttled: BTreeMap::new(),
            full: 0,
            failed: 0,
            unremembered: 0,
        };
        let now_ns = monotonic_ns();
        blocks.look_at_admins(snapshot, now_ns);
        blocks.recall(now_ns);
        blocks
    }

    /// What the process before this one knew of those whom it had blocked.
    fn recall(&mut self, now_ns: u64) {
        let Some(filter) = &mut self.filter else { return };
        match filter.bans().memory() {
            Ok(memory) => {
                for (source, Strikes { until_ns, strikes, throttles, .. }) in memory {
                    let remembered =
                        Remembered { strikes: strikes.into(), throttles: throttles.into(), until_ns };
                    self.escalation.remember(source, remembered, now_ns);
                }
            }
            Err(error) => log::warn!("nobody's earlier blocks are remembered: {error}"),
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
            self.pardon(source);
        }
    }

    fn pardon(&mut self, source: IpNet) {
        self.escalation.pardon(&source);
        if let Some(filter) = &mut self.filter
            && let Err(error) = filter.bans().forget(source)
        {
            log::warn!("{source} will be remembered after a restart: {error}");
        }
    }

    fn block(&mut self, block: &Block) {
        let Some(filter) = self.filter.as_mut().filter(|_| !block.dry_run) else {
            let verb = if block.action == Action::Drop { "block" } else { "slow down" };
            log::info!("would {verb} {}", sentence(block));
            return;
        };
        match filter.bans().add_unless_longer(block.source, &entry(block)) {
            Ok(_) => {
                let (counts, verb) = match block.action {
                    Action::Drop => (&mut self.written, "blocked"),
                    Action::Throttle(_) => (&mut self.throttled, "slowed down"),
                };
                *counts.entry(block.kind).or_default() += 1;
                log::info!("{verb} {}", sentence(block));
                let entry = Entry::new(unix_s(), "blocked")
                    .text("action", verb)
                    .text("source", &block.source.to_string())
                    .text("reason", block.kind.label())
                    .number("offences", block.offences.into())
                    .number("seconds", block.lasts.as_secs())
                    .number("strikes", block.strikes.into())
                    .text_if("route", block.route.as_deref())
                    .text("request_id", block.request_id.as_str());
                self.audit.tell(entry, unix_s());
                self.keep_in_mind(block.source);
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

    /// The strikes of a source outlive this process.
    fn keep_in_mind(&mut self, source: IpNet) {
        let (Some(filter), Some(remembered)) = (&mut self.filter, self.escalation.remembered(&source)) else {
            return;
        };
        let few = |count: u32| u16::try_from(count).unwrap_or(u16::MAX);
        let strikes = Strikes {
            until_ns: remembered.until_ns,
            strikes: few(remembered.strikes),
            throttles: few(remembered.throttles),
            reserved: 0,
        };
        if let Err(error) = filter.bans().remember(source, strikes) {
            self.unremembered += 1;
            log::warn!("{source} will not be remembered after a restart: {error}");
        }
    }

    /// Who has a connection to a port of administration is never blocked from now on, and no longer if it was: its
    /// packets may have been shut out while its connection still stood.
    fn look_at_admins(&mut self, snapshot: &Snapshot, now_ns: u64) {
        let Some(filter) = &mut self.filter else { return };
        let found = admin_ports(&snapshot.config).and_then(|ports| peers::established(&ports));
        let peers = match found {
            Ok(peers) => peers,
            Err(error) => {
                log::warn!("whoever administers this host is not known, and not spared: {error}");
                return;
            }
        };
        if !self.admins.look(&peers, now_ns) {
            return;
        }
        for address in self.admins.addresses() {
            log::debug!("{address} administers this host");
            for record in filter.bans().why(*address, now_ns).map(|why| why.blocked_by).unwrap_or_default() {
                if record.origin == BanOrigin::Escalation
                    && matches!(filter.bans().remove(record.prefix), Ok(true))
                {
                    log::warn!("{} is no longer blocked: {address} administers this host", record.prefix);
                    let entry = Entry::new(unix_s(), "unblocked")
                        .text("source", &record.prefix.to_string())
                        .text("why", "it administers this host");
                    self.audit.tell(entry, unix_s());
                    self.escalation.pardon(&record.prefix);
                }
            }
        }
        self.protect(snapshot);
    }

    /// Once a second: the filter hears that we live, what has ended makes room, and who has gone is looked for.
    pub(super) fn beat(&mut self, snapshot: &Snapshot, now_ns: u64) {
        self.escalation.forget(now_ns);
        self.beats = self.beats.wrapping_add(1);
        if self.beats.is_multiple_of(BEATS_PER_LOOK) {
            self.look_at_admins(snapshot, now_ns);
        }
        self.feel_pressure(snapshot, now_ns);
        let Some(filter) = &mut self.filter else { return };
        if let Err(error) = filter.look_after() {
            log::error!("the filter is not where it should be: {error}");
        }
        let memory_ns = nanos(snapshot.config.escalation.memory);
        if self.beats.is_multiple_of(BEATS_PER_MEMORY_SWEEP)
            && let Err(error) = filter.bans().sweep_memory(now_ns.saturating_sub(memory_ns))
        {
            log::warn!("what is long over is still remembered: {error}");
        }
        if let Err(error) = filter.heartbeat(now_ns) {
            log::error!("the filter's heartbeat: {error}");
        }
        self.syn_cookies.settle(filter);
        let swept =
            filter.unclaimed_drops().and_then(|unclaimed_drops| filter.bans().sweep(now_ns, unclaimed_drops));
        if let Err(error) = swept {
            log::warn!("ended blocks still take room: {error}");
        }
        if let Some(diagnostics) = &mut self.diagnostics {
            diagnostics.flush();
        }
        filter.samples(|sample| log::debug!("{sample:?}"));
    }

    /// Whether we are under attack, and who passes first while it is not calm.
    fn feel_pressure(&mut self, snapshot: &Snapshot, now_ns: u64) {
        let Some(filter) = &mut self.filter else { return };
        let totals = totals(filter).map(|totals| Totals { accepted: self.accepted, ..totals });
        let totals = match totals {
            Ok(totals) => totals,
            Err(error) => return log::warn!("whether the NIC is flooded is not known: {error}"),
        };
        let has_changed = self.pressure.observe(totals, &snapshot.config.under_attack, now_ns);
        let state = self.pressure.state();
        if has_changed {
            let Rates { packets, drops, syns } = self.pressure.rates();
            log::warn!(
                "{}: {packets:.0} packets/s, {drops:.0} of them refused, {syns:.0} SYNs/s that no connection came of",
                state.label()
            );
            self.known.set_pressure(state);
        }
        let is_calm = state == State::Calm;
        if is_calm && self.known_at_nic == 0 && !has_changed {
            return;
        }
        let config = &snapshot.config;
        let bits = (config.prefilter.source_prefix_v4, config.prefilter.source_prefix_v6);
        let known_for_ns = nanos(config.escalation.known_for);
        let since_ns = if is_calm { u64::MAX } else { now_ns.saturating_sub(known_for_ns) };
        let sources = self.known.since(since_ns).take(known::SOURCES_MAX);
        let sources = sources.filter_map(|source| source.prefix(bits));
        match filter.set_known(sources).and_then(|count| filter.use_known(!is_calm).map(|()| count)) {
            Ok(count) => self.known_at_nic = count,
            Err(error) => log::warn!("known sources are strangers to the filter: {error}"),
        }
    }

    /// How hard the NIC is pressed.
    pub(super) fn pressure(&self) -> State {
        self.pressure.state()
    }

    /// Sources that have buckets of their own at the NIC.
    pub(super) fn known(&self) -> usize {
        self.known_at_nic
    }

    /// Ten times a second: whether there is a flood of SYNs. `accepted` connections have come of them so far.
    pub(super) fn look(&mut self, accepted: u64, now_ns: u64) {
        self.accepted = accepted;
        if let Some(filter) = &mut self.filter {
            self.syn_cookies.look(filter, accepted, now_ns);
        }
    }

    /// Who answers SYNs, how often that began, and how many there have been.
    pub(super) fn syns(&self) -> (SynAnswers, u64, u64) {
        let syns = self.filter.as_ref().and_then(|filter| filter.syns().ok()).unwrap_or(0);
        (self.syn_cookies.answers(), self.syn_cookies.switched_on(), syns)
    }

    /// The gateway ends.
    pub(super) fn end(&mut self) {
        if let Some(filter) = &mut self.filter {
            self.syn_cookies.end(filter);
        }
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
        if let Some(filter) = &mut self.filter {
            self.syn_cookies.reconfigure(&config.prefilter, filter);
        }
    }

    /// Servers have moved: who is never blocked.
    pub(super) fn protect(&mut self, snapshot: &Snapshot) {
        let protected = self.protected(snapshot);
        self.escalation.reconfigure(snapshot.config.escalation.clone(), protected);
    }

    /// Who is never blocked, as things stand.
    pub(super) fn protected(&self, snapshot: &Snapshot) -> Protected {
        Protected::of(&snapshot.config, &snapshot.addresses, self.admins.addresses().iter().copied())
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
        filter.bans().count(monotonic_ns()).unwrap_or(0)
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

    /// Sources that were slowed down, by what led to it.
    pub(super) fn throttled(&self) -> impl Iterator<Item = (OffenceKind, u64)> + '_ {
        self.throttled.iter().map(|(kind, count)| (*kind, *count))
    }

    /// Sources that the next process will not remember.
    pub(super) fn unremembered(&self) -> u64 {
        self.unremembered
    }

    /// Those who are taken for administrators, and how often there were too many of them to follow.
    pub(super) fn admins(&self) -> (usize, u64) {
        (self.admins.addresses().len(), self.admins.overflows())
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

fn totals(filter: &Filter) -> Result<Totals, NicError> {
    let mut totals = Totals { syns: filter.syns()?, ..Totals::default() };
    for counter in filter.counters()? {
        totals.packets += counter.packets;
        if counter.reason.refuses() {
            totals.drops += counter.packets;
        }
    }
    Ok(totals)
}

/// Where administrators come in: by default whatever this host listens on, without what serves clients.
pub fn admin_ports(config: &Config) -> std::io::Result<BTreeSet<u16>> {
    let ports = match &config.escalation.admin_ports {
        AdminPorts::Ports(ports) => ports.iter().copied().collect(),
        AdminPorts::Unlimited => {
            let mut ports = peers::listening_ports()?;
            let limited = match &config.prefilter.ports {
                FilterPorts::Ports(ports) => ports.as_slice(),
                FilterPorts::Listeners => &[],
            };
            for port in limited.iter().chain(&listener_ports(config)) {
                ports.remove(port);
            }
            ports
        }
    };
    Ok(ports)
}

fn entry(block: &Block) -> BanEntry {
    BanEntry {
        expires_at_ns: block.until_ns,
        offence_at_ns: block.offence_at_ns,
        action: match block.action {
            Action::Drop => BanAction::Drop,
            Action::Throttle(rate) => BanAction::throttle(rate),
        },
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
        OffenceKind::Attack => BanKind::Attack,
    }
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

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, path::Path};

    use super::*;
    use crate::config;

    #[track_caller]
    fn check(text: &str, ports: [u16; 3], expected: [bool; 3]) {
        let config = config::parse(text, Path::new("."), &|_| None).unwrap().config;
        let found = admin_ports(&config).unwrap();
        assert_eq!(ports.map(|port| found.contains(&port)), expected);
    }

    #[test]
    fn administrators_come_in_where_no_client_does() {
        let sockets = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [ssh, served, limited] = sockets.each_ref().map(|socket| socket.local_addr().unwrap().port());
        let ports = [ssh, served, limited];
        check("[prefilter]\n", ports, [true; 3]);
        let listener = format!("[listeners.public]\naddress = \"127.0.0.1:{served}\"\n");
        check(&listener, ports, [true, false, true]);
        let limits = format!("[prefilter]\nports = [{limited}]\n{listener}");
        check(&limits, ports, [true, false, false]);
        check(&format!("[escalation]\nadmin_ports = [{ssh}]\n"), ports, [true, false, false]);
        check("[escalation]\nadmin_ports = []\n", ports, [false; 3]);
        drop(sockets);
        check("[prefilter]\n", ports, [false; 3]);
    }
}
