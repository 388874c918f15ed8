//! `[prefilter.feeds]`: files, and engines that are asked.

use std::{path::Path, sync::Arc, time::Duration};

use toml::Spanned;

use super::{check_name, upstream_tls::Authorities};
use crate::config::{
    endpoint::{Endpoint, Url},
    feeds::{CrowdSec, FEEDS_MAX, Feed, FeedSource},
    files::{self, Holds},
    raw::{Field, Named, RawFeed},
    report::{Report, Scope},
    types::{Secret, UpstreamTls},
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
    text: &Spanned<String>,
    key_file: Option<&Spanned<String>>,
) -> Option<CrowdSec> {
    let address = match address_of(text.get_ref()) {
        Ok(address) => Some(address),
        Err(problem) => {
            let message = format!("`{}.crowdsec` is {:?}: {problem}", at.path, text.get_ref());
            report.error(at.at(text), message);
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
    let url = address?;
    if !url.is_private() {
        let message = format!("`{}.crowdsec` is asked in clear: whoever listens in learns the key", at.path);
        report.warn(at.at(text), message, Some("use https, or an engine on this host".to_owned()));
    }
    let tls = if url.is_secure { Some(system_tls(report, at, text)?) } else { None };
    Some(CrowdSec { at: Endpoint { url, tls }, key: key.ok()? })
}

fn system_tls(report: &mut Report, at: &Scope, url: &Spanned<String>) -> Option<UpstreamTls> {
    let tls = Authorities::default().vouch_for_servers();
    tls.map_err(|problem| report.error(at.at(url), problem)).ok()
}

/// `http://127.0.0.1:8080`, `https://lapi.example.com/behind/a/path`.
fn address_of(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text)?;
    let is_plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'_' | b'.' | b'~');
    if !url.target.bytes().all(is_plain) {
        return Err("behind its address it may have a path of letters, digits, `-`, `_`, `.` and `~`");
    }
    let path = format!("{}/", url.target.trim_end_matches('/'));
    Ok(url.to(&path))
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
