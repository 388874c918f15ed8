//! `[prefilter.feeds]`: files, and engines that are asked.

use std::{path::Path, sync::Arc, time::Duration};

use toml::Spanned;

use super::{check_name, servers::server_address, upstream_tls::Authorities};
use crate::config::{
    feeds::{CrowdSec, FEEDS_MAX, Feed, FeedSource},
    files::{self, Holds},
    raw::{Field, Named, RawFeed},
    report::{Report, Scope},
    types::{Secret, ServerAddress, UpstreamTls},
};

const FILE_REFRESH: Duration = Duration::from_hours(1);
const CROWDSEC_REFRESH: Duration = Duration::from_secs(10);
/// Nobody's list changes more often.
const REFRESH_MIN: Duration = Duration::from_secs(1);

pub(super) fn feeds(report: &mut Report, at: &Scope, table: Field<Named<RawFeed>>) -> Vec<Feed> {
    let Some(table) = table else { return Vec::new() };
    let section = at.inner("feeds", &table);
    let table = table.into_inner();
    if table.len() > FEEDS_MAX {
        let message = format!("`{}` has {} feeds, and there may be {FEEDS_MAX}", section.path, table.len());
        report.error(section.here(), message);
    }
    let mut feeds = Vec::new();
    for (name, raw) in table {
        check_name(report, &section, &name);
        let path = format!("{}.{}", section.path, name.get_ref());
        let at = Scope { source: section.source, span: name.span(), path };
        feeds.extend(feed(report, &at, name.into_inner().into(), raw));
    }
    feeds
}

fn feed(report: &mut Report, at: &Scope, name: Arc<str>, raw: RawFeed) -> Option<Feed> {
    let refresh = |report: &mut Report, default| {
        let refresh = report.duration(at, "refresh", raw.refresh.as_ref(), default);
        if let Some(value) = &raw.refresh
            && refresh < REFRESH_MIN
            && !refresh.is_zero()
        {
            report.error(at.at(value), format!("`{}.refresh` is shorter than a second", at.path));
        }
        refresh
    };
    match (raw.file, raw.crowdsec) {
        (Some(file), None) => {
            if let Some(key) = &raw.api_key_file {
                report.error(at.at(key), format!("`{}.api_key_file` belongs to `crowdsec`", at.path));
            }
            let source = FeedSource::File(report.resolve_path(at.source, file.get_ref()));
            Some(Feed { name, source, refresh: refresh(report, FILE_REFRESH) })
        }
        (None, Some(url)) => {
            let refresh = refresh(report, CROWDSEC_REFRESH);
            let source = crowdsec(report, at, &url, raw.api_key_file.as_ref())?;
            Some(Feed { name, source: FeedSource::CrowdSec(Box::new(source)), refresh })
        }
        (Some(_), Some(url)) => {
            report.error(at.at(&url), format!("`{}` has both `file` and `crowdsec`: choose one", at.path));
            None
        }
        (None, None) => {
            if !report.was_dropped(&format!("{}.crowdsec", at.path)) {
                report.missing(at, "file", "\"/var/lib/portcullis/drop.txt\"; or `crowdsec`");
            }
            None
        }
    }
}

fn crowdsec(
    report: &mut Report,
    at: &Scope,
    url: &Spanned<String>,
    key_file: Option<&Spanned<String>>,
) -> Option<CrowdSec> {
    let address = match address_of(url.get_ref()) {
        Ok(address) => Some(address),
        Err(problem) => {
            let message = format!("`{}.crowdsec` is {:?}: {problem}", at.path, url.get_ref());
            report.error(at.at(url), message);
            None
        }
    };
    let Some(key_file) = key_file else {
        report.missing(at, "api_key_file", "\"crowdsec.key\", what `cscli bouncers add` has said");
        return None;
    };
    let path = report.resolve_path(at.source, key_file.get_ref());
    let key = read_key(&path)
        .map_err(|problem| report.error(at.at(key_file), format!("{} {problem}", path.display())));
    let Address { is_secure, server, path } = address?;
    let tls = if is_secure { Some(system_tls(report, at, url)?) } else { None };
    if !is_secure && !matches!(server, ServerAddress::Fixed(address) if address.ip().is_loopback()) {
        let message = format!("`{}.crowdsec` is asked in clear: whoever listens in learns the key", at.path);
        report.warn(at.at(url), message, Some("use https, or an engine on this host".to_owned()));
    }
    Some(CrowdSec { server, path, tls, key: key.ok()? })
}

fn system_tls(report: &mut Report, at: &Scope, url: &Spanned<String>) -> Option<UpstreamTls> {
    match Authorities::default().of_the_system() {
        Ok(authorities) => Some(UpstreamTls {
            authorities,
            authorities_are_the_systems: true,
            server_name: None,
            client: None,
        }),
        Err(problem) => {
            report.error(at.at(url), problem);
            None
        }
    }
}

struct Address {
    is_secure: bool,
    server: ServerAddress,
    path: Arc<str>,
}

/// `http://127.0.0.1:8080`, `https://lapi.example.com/behind/a/path`.
fn address_of(url: &str) -> Result<Address, &'static str> {
    let (is_secure, rest) = url
        .strip_prefix("http://")
        .map(|rest| (false, rest))
        .or_else(|| url.strip_prefix("https://").map(|rest| (true, rest)))
        .ok_or("write a URL such as \"http://127.0.0.1:8080\"")?;
    let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
    let is_plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'_' | b'.' | b'~');
    if !path.bytes().all(is_plain) {
        return Err("behind its address it may have a path of letters, digits, `-`, `_`, `.` and `~`");
    }
    let host_end = authority.rfind(']').map_or(0, |bracket| bracket + 1);
    let has_port = authority.get(host_end..).is_some_and(|rest| rest.contains(':'));
    let port = match (has_port, is_secure) {
        (true, _) => "",
        (false, true) => ":443",
        (false, false) => ":80",
    };
    let server = server_address(&format!("{authority}{port}"))?;
    Ok(Address { is_secure, server, path: path.trim_end_matches('/').into() })
}

/// What goes into a header field as it stands.
fn read_key(path: &Path) -> Result<Secret, String> {
    let mut key = files::read(path, Holds::Secret)?;
    let kept = key.trim_ascii_end().len();
    key.truncate(kept);
    if key.is_empty() || !key.iter().all(u8::is_ascii_graphic) {
        return Err("does not hold one key and nothing else".to_owned());
    }
    Ok(Secret(key))
}
