//! `portcullis bans`: works on the pinned maps, so it answers while the gateway is down as well.

use std::{
    io::{self, Write as _},
    net::IpAddr,
    path::PathBuf,
    time::Duration,
};

use clap::{Args, Subcommand};
use ipnet::IpNet;
use portcullis::nic::{
    self, BanAction, BanEntry, BanKind, BanNote, BanOrigin, BanRecord, List, Listing, NicError,
};

use super::{CONFIG_DEFAULT, Told, pin_dir};

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
    },
    /// End the block of an address or a prefix
    Del {
        #[command(flatten)]
        pins: Pins,
        /// Address or prefix, as `list` shows it
        #[arg(value_parser = prefix)]
        source: IpNet,
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
            Self::Add { pins, source, lasts } => {
                let mut bans = pins.open()?;
                let allowed = bans.why(source.addr(), now_ns).map_err(told)?.allowed_by;
                if let Some(allow) = allowed.first() {
                    return Err(format!(
                        "{source} lies in {allow}, which prefilter.allow lets through: nothing changed"
                    ));
                }
                bans.add(source, &operator_entry(now_ns, lasts)).map_err(told)?;
                println!("{source} is blocked for {}", words(lasts));
            }
            Self::Del { pins, source } => {
                if !pins.open()?.remove(source).map_err(told)? {
                    return Err(format!(
                        "{source} is not blocked; `portcullis bans why` tells what holds an address"
                    ));
                }
                println!("{source} is no longer blocked");
            }
            Self::Why { pins, address, json } => {
                let explanation = pins.open()?.why(address, now_ns).map_err(told)?;
                if json {
                    println!("{}", explanation.to_json(address));
                } else {
                    print_explanation(address, &explanation);
                }
            }
        }
        Ok(())
    }
}

fn operator_entry(now_ns: u64, lasts: Duration) -> BanEntry {
    BanEntry {
        expires_at_ns: now_ns.saturating_add(u64::try_from(lasts.as_nanos()).unwrap_or(u64::MAX)),
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
    let mut out = io::BufWriter::new(io::stdout().lock());
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
