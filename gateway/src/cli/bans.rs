//! `portcullis bans`: works on the pinned maps, so it answers while the gateway is down as well.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Read, Write as _},
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::{Args, Subcommand};
use ipnet::IpNet;
use portcullis::{
    control,
    nic::{
        self, Allowed, BanAction, BanEntry, BanKind, BanNote, BanOrigin, BanRecord, List, Listing, NicError,
        peers,
    },
};

use super::{CONFIG_DEFAULT, Told, audit::told_before, load, pin_dir};

#[derive(Debug, Subcommand)]
pub(crate) enum Bans {
    /// Who is blocked, why, by whom and for how long
    List {
        #[command(flatten)]
        pins: Pins,
        /// What this feed lists, prefix by prefix, instead of the blocks
        #[arg(long, value_name = "NAME")]
        feed: Option<String>,
        /// One JSON array
        #[arg(long)]
        json: bool,
    },
    /// Block an address or a prefix for a while
    Add {
        #[command(flatten)]
        pins: Pins,
        /// Address or prefix
        #[arg(value_parser = prefix)]
        source: IpNet,
        /// How long, such as 90s, 10m, 24h
        #[arg(long = "for", value_name = "DURATION", default_value = "1h", value_parser = duration)]
        lasts: Duration,
        /// Also where somebody is connected from there who may administer this host
        #[arg(long)]
        yes_really: bool,
    },
    /// End the block of an address or a prefix
    Del {
        #[command(flatten)]
        pins: Pins,
        /// Address or prefix, as `list` shows it
        #[arg(value_parser = prefix)]
        source: IpNet,
    },
    /// Write every block that ends, one JSON object per line, with why and until when
    Export {
        #[command(flatten)]
        pins: Pins,
        /// Where to; standard output when absent
        file: Option<PathBuf>,
    },
    /// Take in what `export` has written; a block that lasts longer already stays
    Import {
        #[command(flatten)]
        pins: Pins,
        /// Where from; "-": standard input
        file: PathBuf,
    },
    /// Everything that the filter holds about an address, and what wins
    Why {
        #[command(flatten)]
        pins: Pins,
        /// Address
        address: IpAddr,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Pins {
    /// The configuration, which says where the filter is pinned
    #[arg(long, value_name = "FILE", default_value = CONFIG_DEFAULT)]
    config: PathBuf,
    /// Where the filter is pinned, instead of what a configuration says
    #[arg(long, value_name = "DIRECTORY")]
    pin_dir: Option<PathBuf>,
}

impl Pins {
    fn open(&self) -> Told<nic::Bans> {
        nic::Bans::open_pinned(&self.directory()?).map_err(told)
    }

    /// What the feeds list, as it is in force.
    fn feeds(&self) -> Told<Vec<List>> {
        nic::Feeds::open_pinned(&self.directory()?).and_then(|feeds| feeds.lists()).map_err(told)
    }

    fn feed_list(&self, name: &str) -> Told<List> {
        let lists = self.feeds()?;
        let names: Vec<&str> = lists.iter().map(|list| &*list.name).collect();
        let unknown = format!("no feed is called {name:?}; there are: {}", names.join(", "));
        lists.into_iter().find(|list| &*list.name == name).ok_or(unknown)
    }

    fn directory(&self) -> Told<PathBuf> {
        match &self.pin_dir {
            Some(directory) => Ok(directory.clone()),
            None => pin_dir(&self.config),
        }
    }

    /// Whoever in this prefix has a connection to a port of administration, where the configuration tells the ports.
    fn administrator_in(&self, prefix: IpNet) -> Option<IpAddr> {
        if self.pin_dir.is_some() {
            return None;
        }
        let ports = control::admin_ports(&load(&self.config).ok()?.config).ok()?;
        let peers = peers::established(&ports).ok()?;
        peers.iter().map(|peer| peer.address).find(|address| prefix.contains(address))
    }
}

impl Bans {
    pub(crate) fn run(self) -> Told<()> {
        let now_ns = nic::monotonic_ns();
        match self {
            Self::List { pins, feed: Some(feed), json } => print_feed(&pins.feed_list(&feed)?, json)?,
            Self::List { pins, feed: None, json } => {
                let records = pins.open()?.list(now_ns).map_err(told)?;
                if json {
                    let list: serde_json::Value = records.iter().map(BanRecord::to_json).collect();
                    println!("{list}");
                } else {
                    print_table(&records);
                    print_feeds(&pins.feeds()?);
                }
            }
            Self::Add { pins, source, lasts, yes_really } => {
                let mut bans = pins.open()?;
                let parts = match bans.allowed(source).map_err(told)? {
                    Allowed::Nothing => Vec::new(),
                    Allowed::Parts(parts) => parts,
                    Allowed::Whole(allow) => {
                        return Err(format!(
                            "{source} lies in {allow}, which prefilter.allow lets through: nothing changed"
                        ));
                    }
                };
                if !yes_really && let Some(administrator) = pins.administrator_in(source) {
                    return Err(format!(
                        "{source} holds {administrator}, who is connected to a port of administration of this host: \
                         nothing changed; --yes-really blocks nevertheless"
                    ));
                }
                let target = format!("{source} for {}", words(lasts));
                told_before(&pins.config, "bans add", &target, || {
                    bans.add(source, &operator_entry(now_ns, lasts)).map_err(told)
                })?;
                println!("{source} is blocked for {}", words(lasts));
                for allow in parts {
                    println!("{allow} in it is not: prefilter.allow lets it through");
                }
            }
            Self::Del { pins, source } => {
                let mut bans = pins.open()?;
                told_before(&pins.config, "bans del", &source.to_string(), || {
                    if !bans.remove(source).map_err(told)? {
                        return Err(format!(
                            "{source} is not blocked; `portcullis bans why` tells what holds an address"
                        ));
                    }
                    bans.forget(source).map_err(told)
                })?;
                println!("{source} is no longer blocked");
            }
            Self::Export { pins, file } => export(&pins.open()?, file.as_deref(), now_ns)?,
            Self::Import { pins, file } => {
                let mut bans = pins.open()?;
                let target = file.display().to_string();
                told_before(&pins.config, "bans import", &target, || import(&mut bans, &file, now_ns))?;
            }
            Self::Why { pins, address, json } => {
                let bans = pins.open()?;
                let explanation = bans.why(address, now_ns).map_err(told)?;
                if json {
                    println!("{}", explanation.to_json(address));
                } else {
                    print_explanation(address, &explanation);
                    if let Some((source, strikes)) = bans.strikes_of(address).map_err(told)? {
                        println!(
                            "{source} was blocked {} times within escalation.memory, {} of them only slowed down",
                            strikes.strikes, strikes.throttles
                        );
                    }
                }
            }
        }
        Ok(())
    }
}

fn export(bans: &nic::Bans, file: Option<&Path>, now_ns: u64) -> Told<()> {
    let now_unix_ms = unix_ms();
    let records = bans.list(now_ns).map_err(told)?;
    let lines: Vec<String> = records.iter().filter_map(|record| record.to_line(now_unix_ms)).collect();
    let Some(file) = file else {
        for line in &lines {
            println!("{line}");
        }
        return Ok(());
    };
    let describe = |error: io::Error| format!("{}: {error}", file.display());
    let mut out = BufWriter::new(File::create(file).map_err(describe)?);
    for line in &lines {
        writeln!(out, "{line}").map_err(describe)?;
    }
    out.into_inner().map_err(io::Error::from).and_then(|out| out.sync_all()).map_err(describe)?;
    println!("{}: {} blocks", file.display(), lines.len());
    Ok(())
}

/// A bad line is told before anything is changed.
fn import(bans: &mut nic::Bans, file: &Path, now_ns: u64) -> Told<()> {
    let describe = |error: &dyn std::fmt::Display| format!("{}: {error}; nothing changed", file.display());
    let from: Box<dyn Read> = if file == Path::new("-") {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(file).map_err(|error| describe(&error))?)
    };
    let list = nic::read_list(BufReader::new(from)).map_err(|error| describe(&error))?;
    let now_unix_ms = unix_ms();
    let (mut added, mut ended, mut held, mut allowed) = (0_usize, 0_usize, 0_usize, 0_usize);
    for listed in &list {
        let Some(entry) = listed.entry(now_ns, now_unix_ms) else {
            ended += 1;
            continue;
        };
        if matches!(bans.allowed(listed.source).map_err(told)?, Allowed::Whole(_)) {
            allowed += 1;
            continue;
        }
        match bans.add_unless_longer(listed.source, &entry) {
            Ok(true) => added += 1,
            Ok(false) | Err(NicError::ByConfiguration(_)) => held += 1,
            Err(error) => {
                let done = added + ended + held + allowed;
                return Err(format!(
                    "{} after {done} of {} blocks: {}",
                    file.display(),
                    list.len(),
                    told(error)
                ));
            }
        }
    }
    println!(
        "{added} blocked, {ended} had ended, {held} were blocked for as long already, {allowed} lie in prefilter.allow"
    );
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a list is dated for people and other hosts")]
fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn operator_entry(now_ns: u64, lasts: Duration) -> BanEntry {
    BanEntry {
        expires_at_ns: now_ns.saturating_add(nic::nanos(lasts)),
        offence_at_ns: now_ns,
        action: BanAction::Drop,
        strikes: 0,
        kind: BanKind::Manual,
        origin: BanOrigin::Operator,
        note: None,
    }
}

fn print_table(records: &[BanRecord]) {
    if records.is_empty() {
        println!("nobody is blocked");
        return;
    }
    println!(
        "{:<28} {:<8} {:<14} {:<14} {:>7} {:>12} {:>12}",
        "SOURCE", "ACTION", "REASON", "BY", "STRIKES", "DROPS", "ENDS IN"
    );
    for record in records {
        println!(
            "{:<28} {:<8} {:<14} {:<14} {:>7} {:>12} {:>12}",
            record.prefix.to_string(),
            record.action.name(),
            record.kind.name(),
            record.feed.as_deref().unwrap_or(record.origin.name()),
            record.strikes,
            record.drops,
            record.expires_in.map_or("-".to_owned(), words),
        );
    }
}

/// A line per feed: a million entries are nothing to look at.
fn print_feeds(lists: &[List]) {
    for list in lists.iter().filter(|list| !list.ranges.is_empty()) {
        println!(
            "feed {}: {} ranges of IPv4 and {} of IPv6; `bans list --feed {0}` shows them",
            list.name,
            list.ranges.v4().len(),
            list.ranges.v6().len(),
        );
    }
}

/// Whoever reads only the beginning closes the pipe.
fn print_feed(list: &List, json: bool) -> Told<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    let mut prefixes = list.ranges.prefixes();
    let written = if json {
        let list: serde_json::Value = prefixes.map(|prefix| prefix.to_string()).collect();
        writeln!(out, "{list}")
    } else {
        prefixes.try_for_each(|prefix| writeln!(out, "{prefix}"))
    };
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.to_string()),
        _ => Ok(()),
    }
}

fn print_explanation(address: IpAddr, explanation: &nic::Explanation) {
    for allow in &explanation.allowed_by {
        println!("allowed by {allow}, which wins over every block");
    }
    for Listing { feed, prefix } in &explanation.listed_by {
        let effect = if explanation.listed { "" } else { ", without effect: the configuration protects it" };
        println!("listed by feed {feed} in {prefix}{effect}");
    }
    for record in &explanation.blocked_by {
        match record.action {
            BanAction::Drop => println!("blocked: {}", sentence(record)),
            BanAction::Throttle { .. } => println!("throttled: {}", sentence(record)),
        }
    }
    println!(
        "{}",
        match explanation.verdict() {
            "drop" => format!("packets from {address} are dropped"),
            "throttle" => format!("packets from {address} pass at the rate of their throttle"),
            _ if explanation.allowed_by.is_empty() && explanation.listed_by.is_empty() =>
                format!("no rule holds {address}: its packets pass, within the limits"),
            _ => format!("packets from {address} pass"),
        }
    );
}

fn sentence(record: &BanRecord) -> String {
    let mut parts = vec![format!("{} for {} ({})", record.prefix, record.kind.name(), by(record))];
    if let Some(BanNote { route, request_id, offences, .. }) = &record.note {
        parts.push(format!("{offences} offences, the last on route {route:?} as request {request_id}"));
    }
    if record.strikes > 1 {
        parts.push(format!("block number {}", record.strikes));
    }
    parts.push(match record.expires_in {
        Some(rest) => format!("ends in {}", words(rest)),
        None => "until prefilter.block changes".to_owned(),
    });
    parts.push(format!("{} packets dropped", record.drops));
    parts.join(", ")
}

/// Who decided.
fn by(record: &BanRecord) -> String {
    record.feed.as_ref().map_or_else(|| record.origin.name().to_owned(), |feed| format!("feed {feed}"))
}

/// Without fractions that nobody asked for.
fn words(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{}ms", duration.as_millis()),
        1..120 => format!("{seconds}s"),
        120..7200 => format!("{}m{}s", seconds / 60, seconds % 60),
        _ => format!("{}h{}m", seconds / 3600, seconds % 3600 / 60),
    }
}

fn prefix(text: &str) -> Result<IpNet, String> {
    text.parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| "not an address or prefix such as 203.0.113.7 or 2001:db8::/32".to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    portcullis::config::duration(text)
        .ok()
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| "not a duration such as 90s, 10m or 24h".to_owned())
}

#[expect(clippy::needless_pass_by_value, reason = "the shape of map_err")]
fn told(error: NicError) -> String {
    match &error {
        NicError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            format!("{error} (the block list belongs to root: try sudo)")
        }
        _ => error.to_string(),
    }
}
