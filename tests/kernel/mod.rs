//! The filter in the kernel: the very program that runs at the NIC, on packets of ours, by `BPF_PROG_TEST_RUN`.
//!
//! Each test has its own maps, pinned in a directory of its own that is removed with it. Where the kernel, the
//! privileges or the object are missing, a test says so on standard error and ends.
#![expect(clippy::expect_used, clippy::panic, reason = "what a helper cannot do is its test's failure")]

#[path = "../../gateway-ebpf/tests/table/mod.rs"]
mod table;

mod verdicts;
mod agreement;
mod bans;
mod captures;
mod classes;
mod feeds;
mod full_queues;
mod fronts;
mod links;
mod known;
mod memory;
mod steering;
mod syn_cookies;
mod upgrade;

use std::{
    path::Path,
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use aya::{TestRunOptions, programs::TestRun};
use ipnet::IpNet;
use portcullis::{
    config::{FilterPorts, Prefilter, SynCookies, XdpMode},
    nic::{self, BanAction, BanEntry, BanKind, BanOrigin, Counter, Filter, Reason, Verdict},
};

use table::frames::{ACK, tcp4, tcp6};

/// `enum xdp_action`
const XDP_DROP: u32 = 1;

/// Why there can be no filter here.
fn nic_missing() -> Option<String> {
    // SAFETY: the call has no preconditions and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        return Some("needs root".into());
    }
    if !nic::BUILT {
        return Some("built without the NIC filter: use `cargo xtask test`".into());
    }
    if !Path::new("/sys/fs/bpf").exists() {
        return Some("this kernel has no BPF file system".into());
    }
    None
}

/// True: the test cannot run here, and has told the test driver so. The one way in which a test may end untested.
fn skipped(test: &str) -> bool {
    let Some(reason) = nic_missing() else { return false };
    xtask::lab::skip(test, &reason);
    true
}

/// The prefix that `text` is.
fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

/// A packet of an open connection to a port that has limits.
fn from(address: &str) -> Vec<u8> {
    if address.contains(':') { tcp6(address, 443, ACK) } else { tcp4(address, 443, ACK) }
}

/// A configuration with a directory of pins of its own, no interfaces and no limits.
fn prefilter() -> Prefilter {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    Prefilter {
        interfaces: Vec::new(),
        mode: XdpMode::Auto,
        required: true,
        dry_run: false,
        pin_dir: format!("/sys/fs/bpf/portcullis-test-{}-{number}", process::id()).into(),
        ports: FilterPorts::Listeners,
        allow: Vec::new(),
        block: Vec::new(),
        entries_max: 1_000,
        sources_max: 1_000,
        source_prefix_v4: 32,
        source_prefix_v6: 64,
        packets: None,
        syns: None,
        bytes: None,
        network_packets: None,
        network_syns: None,
        network_bytes: None,
        syn_cookies: SynCookies::Off,
        syn_flood_per_s: 2_000.0,
        drop_malformed: true,
        samples_per_s: 100,
        feeds: Vec::new(),
    }
}

/// A block by the escalation that ends at `expires_at_ns`.
fn ban(expires_at_ns: u64) -> BanEntry {
    BanEntry {
        expires_at_ns,
        offence_at_ns: nic::monotonic_ns(),
        action: BanAction::Drop,
        strikes: 1,
        kind: BanKind::Unauthorized,
        origin: BanOrigin::Escalation,
        note: None,
    }
}

/// A filter under test; its pins go with it.
struct Lab {
    filter: Filter,
    config: Prefilter,
    counters: Vec<Counter>,
}

impl Lab {
    fn open(config: Prefilter) -> Self {
        let filter = Filter::open(&config, &table::world::PORTS).unwrap_or_else(|error| {
            remove_pins(&config.pin_dir);
            panic!("{error}")
        });
        let counters = filter.counters().expect("counters");
        Self { filter, config, counters }
    }

    /// Runs one packet; what the counters say about it is what the driver is told.
    #[track_caller]
    fn run(&mut self, packet: &[u8]) -> (Reason, Verdict) {
        let options = TestRunOptions { data_in: Some(packet), repeat: 1, ..TestRunOptions::default() };
        let result = self.filter.program().expect("program").test_run(options).expect("test run");
        let (reason, verdict) = self.counted(packet);
        assert_eq!(verdict == Verdict::Drop, result.return_value == XDP_DROP);
        (reason, verdict)
    }

    /// What the counters say about the one packet that has been run since they were looked at.
    #[track_caller]
    fn counted(&mut self, packet: &[u8]) -> (Reason, Verdict) {
        let before = std::mem::replace(&mut self.counters, self.filter.counters().expect("counters"));
        let mut changed = self.counters.iter().filter(|counter| !before.contains(counter));
        let (Some(counted), None) = (changed.next(), changed.next()) else {
            panic!("one packet, one count: {before:?} → {:?}", self.counters)
        };
        let earlier =
            before.iter().find(|old| (old.reason, old.verdict) == (counted.reason, counted.verdict));
        let (packets, bytes) = earlier.map_or((0, 0), |old| (old.packets, old.bytes));
        assert_eq!((counted.packets - packets, counted.bytes - bytes), (1, packet.len() as u64));
        (counted.reason, counted.verdict)
    }

    #[track_caller]
    fn check(&mut self, packet: &[u8], reason: Reason) {
        let verdict = if reason.refuses() { Verdict::Drop } else { Verdict::Pass };
        assert_eq!(self.run(packet), (reason, verdict));
    }

    /// Applies a changed configuration.
    fn apply(&mut self, change: impl FnOnce(&mut Prefilter)) {
        change(&mut self.config);
        self.filter.apply(&self.config, &table::world::PORTS).expect("the configuration applies");
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        remove_pins(&self.config.pin_dir);
    }
}

fn remove_pins(pin_dir: &Path) {
    let _ = nic::detach(pin_dir);
    let _ = std::fs::remove_dir(pin_dir);
}
