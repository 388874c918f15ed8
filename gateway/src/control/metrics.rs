//! Counters become metrics: on a scrape, the workers' cells and the filter's counters are folded into the `metrics`
//! crate and rendered. Never on a worker: two thousand series take milliseconds.
//!
//! Two things are written here and not recorded. The latency histogram: the crate's histograms want every sample one by
//! one, while the cells hold counts by bucket and the sum already. And requests by route: of those there may be hundreds
//! of thousands of series, which the crate takes a second to render.

use std::{
    fmt::Write as _,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use metrics::{counter, describe_counter, describe_gauge, gauge, with_local_recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

use super::{
    auth, blocks::Blocks, certificates::Certificates, feeds::Feeds, float, keys::Keeper, names::Names,
    policy::Publisher,
};
use crate::{
    audit::Audit,
    decide::{Snapshot as Policy, limit},
    nic::SynAnswers,
    respond::{LABELS, OffenceKind},
    telemetry::{AccessWriter, Cells, LATENCY_BOUNDS_US, Snapshot},
};

/// Where the figures come from.
pub(super) struct Sources<'s> {
    pub(super) cells: &'s [Arc<Cells>],
    pub(super) limiter: &'s limit::Table,
    pub(super) access: &'s AccessWriter,
    pub(super) audit: &'s Audit,
    pub(super) snapshot: &'s Policy,
    pub(super) publisher: &'s Publisher,
    pub(super) names: &'s Names,
    pub(super) certificates: &'s Certificates,
    pub(super) keys: &'s Keeper,
    pub(super) blocks: &'s mut Blocks,
    pub(super) feeds: Option<&'s Feeds>,
}

/// The names and kinds of what is measured.
pub(super) struct Metrics {
    recorder: PrometheusRecorder,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        with_local_recorder(&recorder, describe);
        Self { recorder }
    }

    /// The scrape's text.
    pub(super) fn render(&mut self, sources: &mut Sources<'_>) -> String {
        let counted = Snapshot::of(&sources.cells.iter().map(|cells| &**cells));
        with_local_recorder(&self.recorder, || {
            fold_requests(&counted, sources.publisher);
            fold_rest(&counted, sources);
            sources.certificates.fold();
            sources.keys.fold(sources.snapshot);
            fold_names(sources.names);
            auth::fold(sources.snapshot);
            fold_filter(sources.blocks);
            if let Some(feeds) = sources.feeds {
                feeds.fold();
            }
        });
        let mut text = self.recorder.handle().render();
        push_requests(&mut text, &counted, &|slot| sources.publisher.route_name(slot));
        push_latency(&mut text, &counted);
        text
    }
}

/// Requests by route, of those that somebody has asked for. The names need no escapes.
fn push_requests<'n>(text: &mut String, counted: &Snapshot, name: &dyn Fn(usize) -> &'n str) {
    const NAME: &str = "portcullis_requests_total";
    if counted.routes.is_empty() {
        return;
    }
    // Writing to a String does not fail.
    let _ = writeln!(text, "# HELP {NAME} Requests by route and class of status\n# TYPE {NAME} counter");
    for (slot, class, count) in &counted.routes {
        let _ = writeln!(text, "{NAME}{{route=\"{}\",class=\"{class}xx\"}} {count}", name(*slot));
    }
}

/// The Prometheus text format of a histogram: each bucket holds what all before it hold.
fn push_latency(text: &mut String, counted: &Snapshot) {
    const NAME: &str = "portcullis_request_duration_seconds";
    let bounds =
        LATENCY_BOUNDS_US.iter().map(|&us| seconds(us * 1000).to_string()).chain(["+Inf".to_owned()]);
    let mut below = 0;
    // Writing to a String does not fail.
    let _ = writeln!(
        text,
        "# HELP {NAME} From a request's first byte to its answer's last\n# TYPE {NAME} histogram"
    );
    for (bound, count) in bounds.zip(&counted.latency) {
        below += count;
        let _ = writeln!(text, "{NAME}_bucket{{le=\"{bound}\"}} {below}");
    }
    let _ = writeln!(text, "{NAME}_sum {}\n{NAME}_count {below}", seconds(counted.latency_sum_ns));
}

fn fold_requests(counted: &Snapshot, publisher: &Publisher) {
    for (status, count) in &counted.statuses {
        counter!("portcullis_responses_total", "status" => status.to_string()).absolute(*count);
    }
    for (label, count) in &counted.refusals {
        let reason = LABELS.get(*label).copied().unwrap_or("other");
        counter!("portcullis_refusals_total", "reason" => reason).absolute(*count);
    }
    for (slot, upstream, server) in publisher.server_names() {
        for (_, event, count) in counted.upstream.iter().filter(|(at, _, _)| *at == slot) {
            counter!(
                "portcullis_upstream_events_total",
                "upstream" => upstream.to_owned(), "server" => server.to_owned(), "event" => event.label()
            )
            .absolute(*count);
        }
    }
}

fn fold_rest(counted: &Snapshot, sources: &Sources<'_>) {
    counter!("portcullis_connections_total").absolute(counted.opened);
    gauge!("portcullis_connections_active").set(float(counted.opened.saturating_sub(counted.closed)));
    counter!("portcullis_tunnels_total").absolute(counted.tunnels_opened);
    gauge!("portcullis_tunnels_active")
        .set(float(counted.tunnels_opened.saturating_sub(counted.tunnels_closed)));
    for (failure, count) in &counted.handshakes_failed {
        counter!("portcullis_tls_handshakes_failed_total", "reason" => failure.label()).absolute(*count);
    }
    counter!("portcullis_proxy_headers_failed_total").absolute(counted.proxy_headers_failed);
    counter!("portcullis_request_body_bytes_total").absolute(counted.bytes_in);
    counter!("portcullis_response_bytes_total").absolute(counted.bytes_out);
    for (bound, count) in &counted.bounds {
        counter!("portcullis_bounds_hit_total", "bound" => bound.label()).absolute(*count);
    }
    counter!("portcullis_bounds_hit_total", "bound" => "limit_table").absolute(sources.limiter.evictions());
    counter!("portcullis_bounds_hit_total", "bound" => "limit_table_reservations")
        .absolute(sources.limiter.overruns());
    counter!("portcullis_bounds_hit_total", "bound" => "escalation_sources")
        .absolute(sources.blocks.tally().evicted);
    counter!("portcullis_bounds_hit_total", "bound" => "filter_samples")
        .absolute(sources.blocks.samples_lost());
    counter!("portcullis_access_log_errors_total").absolute(sources.access.write_errors());
    let (lost, errors) = sources.audit.lost();
    counter!("portcullis_audit_lost_total").absolute(lost);
    counter!("portcullis_audit_errors_total").absolute(errors);
    gauge!("portcullis_config_generation").set(float(sources.snapshot.generation));
    for (index, upstream) in sources.snapshot.config.upstreams.iter().enumerate() {
        for (server, settings) in upstream.servers.iter().enumerate() {
            let live = sources.snapshot.live.is_live(index, server);
            gauge!(
                "portcullis_upstream_live",
                "upstream" => upstream.name.to_string(), "server" => settings.address.to_string()
            )
            .set(f64::from(u8::from(live)));
        }
    }
    gauge!("portcullis_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

fn fold_names(names: &Names) {
    let mut cut = 0;
    for (name, tally) in names.tallies() {
        for (result, count) in [("resolved", &tally.resolved), ("failed", &tally.failed)] {
            counter!("portcullis_name_lookups_total", "name" => name.to_owned(), "result" => result)
                .absolute(count.load(Relaxed));
        }
        cut += tally.cut.load(Relaxed);
    }
    counter!("portcullis_bounds_hit_total", "bound" => "server_addresses").absolute(cut);
}

fn fold_filter(blocks: &mut Blocks) {
    for count in blocks.counters() {
        let (reason, verdict) = (count.reason.name(), count.verdict.name());
        counter!("portcullis_nic_packets_total", "reason" => reason, "verdict" => verdict)
            .absolute(count.packets);
        counter!("portcullis_nic_bytes_total", "reason" => reason, "verdict" => verdict)
            .absolute(count.bytes);
    }
    let (answers, switched_on, syns) = blocks.syns();
    for state in SynAnswers::ALL {
        gauge!("portcullis_nic_syn_cookies", "state" => state.name())
            .set(f64::from(u8::from(state == answers)));
    }
    counter!("portcullis_nic_syn_cookies_on_total").absolute(switched_on);
    counter!("portcullis_nic_syns_total").absolute(syns);
    for (kind, count) in blocks.written() {
        counter!("portcullis_bans_total", "reason" => kind.label()).absolute(count);
    }
    let tally = blocks.tally();
    for (kind, count) in OffenceKind::ALL.into_iter().zip(tally.observed) {
        counter!("portcullis_offences_total", "kind" => kind.label()).absolute(count);
    }
    let ignored =
        [("forwarded", tally.forwarded), ("protected", tally.protected), ("under_way", tally.under_way)];
    for (cause, count) in ignored {
        counter!("portcullis_offences_ignored_total", "cause" => cause).absolute(count);
    }
    for (kind, count) in blocks.throttled() {
        counter!("portcullis_throttles_total", "reason" => kind.label()).absolute(count);
    }
    gauge!("portcullis_under_attack").set(f64::from(blocks.pressure() as u8));
    gauge!("portcullis_known_sources").set(float(blocks.known() as u64));
    let (admins, overflows) = blocks.admins();
    gauge!("portcullis_admins").set(float(admins as u64));
    counter!("portcullis_bounds_hit_total", "bound" => "admin_connections").absolute(overflows);
    counter!("portcullis_bounds_hit_total", "bound" => "escalation_memory").absolute(blocks.unremembered());
    let (full, failed) = blocks.lost();
    counter!("portcullis_bounds_hit_total", "bound" => "block_list").absolute(full);
    counter!("portcullis_bans_failed_total").absolute(failed);
    gauge!("portcullis_bans_active").set(float(blocks.active() as u64));
}

fn describe() {
    describe_counter!("portcullis_responses_total", "Answers by status; 499 where the client left first");
    describe_counter!("portcullis_refusals_total", "Answers that the gateway gave by itself, by reason");
    describe_counter!(
        "portcullis_upstream_events_total",
        "Connections, reuses, retries and failures by server"
    );
    describe_gauge!("portcullis_upstream_live", "1 while a server gets requests");
    describe_counter!("portcullis_name_lookups_total", "Look-ups of servers' names, by result");
    describe_counter!("portcullis_connections_total", "Connections accepted");
    describe_gauge!("portcullis_connections_active", "Connections open");
    describe_counter!("portcullis_tunnels_total", "Requests that became a WebSocket");
    describe_gauge!("portcullis_tunnels_active", "WebSockets open");
    describe_counter!("portcullis_tls_handshakes_failed_total", "TLS handshakes that failed, by reason");
    describe_counter!("portcullis_tls_renewals_total", "Certificate files that changed, taken or refused");
    describe_gauge!(
        "portcullis_tls_certificate_expires_seconds",
        "Time until the first certificate of a chain expires; below zero once it has"
    );
    describe_gauge!("portcullis_keys", "API keys that are in force, by auth");
    describe_counter!(
        "portcullis_key_store_events_total",
        "Times a key store was read because it had changed, uses were written to it, or that failed"
    );
    describe_counter!(
        "portcullis_proxy_headers_failed_total",
        "Connections of listed forwarders that did not begin with a PROXY header"
    );
    describe_counter!("portcullis_request_body_bytes_total", "Body bytes from clients");
    describe_counter!("portcullis_response_bytes_total", "Bytes to clients, heads included");
    describe_counter!("portcullis_bounds_hit_total", "How often a bound was hit, by bound");
    describe_counter!("portcullis_access_log_errors_total", "Writes of the access log that failed");
    describe_counter!("portcullis_audit_lost_total", "Lines that are not in the audit log");
    describe_counter!("portcullis_audit_errors_total", "Writes of the audit log that failed");
    describe_gauge!("portcullis_config_generation", "Configurations taken since the start");
    describe_counter!("portcullis_nic_packets_total", "Packets at the NIC by reason and verdict");
    describe_counter!("portcullis_nic_bytes_total", "Bytes at the NIC by reason and verdict");
    describe_gauge!(
        "portcullis_nic_syn_cookies",
        "1 for who answers SYNs: the listener alone (off), the filter, the filter once a queue is full, or the kernel \
         though the filter should"
    );
    describe_counter!("portcullis_nic_syn_cookies_on_total", "How often SYN cookies have been switched on");
    describe_counter!("portcullis_nic_syns_total", "SYNs to limited ports, whatever became of them");
    describe_counter!("portcullis_offences_total", "Offences seen, by kind");
    describe_counter!(
        "portcullis_offences_ignored_total",
        "Offences that lead to no block: named by a header, of a protected address, or of a source just blocked"
    );
    describe_counter!("portcullis_bans_total", "Blocks written, by what led to them");
    describe_counter!(
        "portcullis_throttles_total",
        "Sources that crossed a line and were slowed down instead of blocked, since consumers share them"
    );
    describe_gauge!("portcullis_under_attack", "0 calm, 1 elevated, 2 attack");
    describe_gauge!("portcullis_known_sources", "Sources with a bucket of their own at the NIC");
    describe_gauge!("portcullis_admins", "Addresses that are not blocked because they administer this host");
    describe_counter!("portcullis_bans_failed_total", "Blocks that could not be written");
    describe_gauge!("portcullis_bans_active", "Blocks in force");
    describe_gauge!("portcullis_feed_entries", "Ranges or blocks that a feed lists");
    describe_gauge!("portcullis_feed_age_seconds", "Since a feed was last read or asked with success");
    describe_counter!("portcullis_feed_refreshes_total", "Times a feed was read or asked, by result");
    describe_counter!("portcullis_feed_ignored_total", "Decisions that led to no block, by cause");
    describe_gauge!("portcullis_auth_keys", "Keys of an issuer that count");
    describe_gauge!(
        "portcullis_auth_keys_age_seconds",
        "Since an issuer last said which keys it has; after a day of silence none count"
    );
    describe_counter!(
        "portcullis_auth_key_fetches_total",
        "Times an issuer was asked for its keys, by result"
    );
    describe_counter!(
        "portcullis_auth_introspections_total",
        "Opaque tokens that were asked about, by result"
    );
    describe_gauge!("portcullis_auth_breaker_open", "1 while nobody is asked about opaque tokens");
    describe_gauge!("portcullis_build_info", "1, with the version");
}

fn seconds(ns: u64) -> f64 {
    Duration::from_nanos(ns).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_told_once_somebody_has_asked_for_them() {
        let cells = Cells::default();
        let tell = |cells: &Cells| {
            let mut text = String::new();
            push_requests(&mut text, &Snapshot::of(&std::iter::once(cells)), &|slot| ["a", "b"][slot]);
            text
        };
        assert_eq!(tell(&cells), "");
        cells.answered(204, Some(1), 0, (0, 0));
        assert!(tell(&cells).ends_with("\nportcullis_requests_total{route=\"b\",class=\"2xx\"} 1\n"));
    }

    #[test]
    fn the_histogram_adds_up() {
        let cells = Cells::default();
        cells.answered(200, None, 90_000, (0, 0));
        cells.answered(200, None, 30_000_000, (0, 0));
        let mut text = String::new();
        push_latency(&mut text, &Snapshot::of(&std::iter::once(&cells)));
        for line in [
            "_bucket{le=\"0.0001\"} 1",
            "_bucket{le=\"0.05\"} 2",
            "_bucket{le=\"+Inf\"} 2",
            "_sum 0.03009",
            "_count 2",
        ] {
            let line = format!("portcullis_request_duration_seconds{line}");
            assert!(text.lines().any(|own| own == line), "{line} is missing in {text}");
        }
    }
}
