//! The block list as text: one JSON object per line, to keep, to carry to another host, to bring back.
//!
//! ```text
//! {"source":"192.0.2.66/32","reason":"unauthorized","origin":"escalation","expires_at_unix_ms":1795000060000,
//!  "strikes":1,"offences":20,"route":"orders","request_id":"0198f3a2…","at_unix_s":1795000000}      (one line)
//! ```
//!
//! Needed are `source` (an address or a prefix), `reason`, `origin` ("operator" or "escalation") and when the block
//! ends, by the wall clock, since another host has another monotonic one. A source that is only slowed down has a
//! `"throttle":{"interval_ns":…,"burst":…}`: the time that a packet uses up, and how many may come at once. Empty lines and lines that begin with `#`
//! are passed over. What never ends is the configuration's and stays where it is. Pure: a list is read whole, or not
//! at all, before anything is changed.

use std::{
    io::{self, BufRead, Read as _},
    net::IpAddr,
    time::Duration,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{BanAction, BanEntry, BanKind, BanNote, BanOrigin, BanRecord, prefix::canonical};

/// Longer than any line of ours.
const LINE_BYTES_MAX: u64 = 4096;

/// A list that is not taken, and the line at fault, from 1.
#[derive(Debug, Error)]
#[error("line {line}: {what}")]
pub struct ListError {
    /// Where.
    pub line: usize,
    /// What is wrong there.
    pub what: String,
}

/// A block that a list holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Who is blocked.
    pub source: IpNet,
    /// When it ends, by the wall clock.
    pub expires_at_unix_ms: u64,
    action: BanAction,
    kind: BanKind,
    origin: BanOrigin,
    strikes: u16,
    note: Option<BanNote>,
}

/// Of a source that is only slowed down.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Throttle {
    interval_ns: u64,
    burst: u16,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    source: String,
    reason: String,
    origin: String,
    expires_at_unix_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    throttle: Option<Throttle>,
    #[serde(default)]
    strikes: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    offences: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    route: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    at_unix_s: Option<u64>,
}

impl BanRecord {
    /// Its line in a list. `None`: it never ends.
    pub fn to_line(&self, now_unix_ms: u64) -> Option<String> {
        let note = self.note.as_ref();
        let line = Line {
            source: self.prefix.to_string(),
            reason: self.kind.name().to_owned(),
            origin: self.origin.name().to_owned(),
            expires_at_unix_ms: now_unix_ms.saturating_add(millis(self.expires_in?)),
            throttle: match self.action {
                BanAction::Drop => None,
                BanAction::Throttle { interval_ns, burst } => Some(Throttle { interval_ns, burst }),
            },
            strikes: self.strikes,
            offences: note.map(|note| note.offences),
            route: note.map(|note| note.route.clone()),
            request_id: note.map(|note| note.request_id.clone()),
            at_unix_s: note.map(|note| note.at_unix_s),
        };
        serde_json::to_string(&line).ok()
    }
}

impl Listed {
    /// What to write for it. `None`: it has ended. `now_ns` and `now_unix_ms` are one moment on two clocks.
    pub fn entry(&self, now_ns: u64, now_unix_ms: u64) -> Option<BanEntry> {
        let left_ms = self.expires_at_unix_ms.checked_sub(now_unix_ms).filter(|left_ms| *left_ms > 0)?;
        Some(BanEntry {
            expires_at_ns: now_ns.saturating_add(left_ms.saturating_mul(1_000_000)),
            offence_at_ns: now_ns,
            action: self.action,
            strikes: self.strikes,
            kind: self.kind,
            origin: self.origin,
            note: self.note.clone(),
        })
    }
}

/// Reads a list to its end.
pub fn read_list(mut from: impl BufRead) -> Result<Vec<Listed>, ListError> {
    let mut list = Vec::new();
    let mut bytes = Vec::new();
    for line in 1.. {
        bytes.clear();
        let wrong = |what: String| ListError { line, what };
        let read = from.by_ref().take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut bytes);
        if read.map_err(|error: io::Error| wrong(error.to_string()))? == 0 {
            break;
        }
        if bytes.len() as u64 > LINE_BYTES_MAX {
            return Err(wrong(format!("longer than {LINE_BYTES_MAX} bytes")));
        }
        let text = str::from_utf8(&bytes).map_err(|_| wrong("not UTF-8".to_owned()))?.trim();
        if !text.is_empty() && !text.starts_with('#') {
            list.push(read_line(text).map_err(wrong)?);
        }
    }
    Ok(list)
}

fn read_line(text: &str) -> Result<Listed, String> {
    let line: Line = serde_json::from_str(text).map_err(|error| {
        // The text is one line, so that only the column says something.
        let told = error.to_string();
        told.split(" at line ")
            .next()
            .map_or_else(|| told.clone(), |what| format!("{what} (column {})", error.column()))
    })?;
    let source = read_source(&line.source)?;
    let kind = BanKind::ALL.into_iter().find(|kind| kind.name() == line.reason);
    let kind = kind.ok_or_else(|| {
        let names = BanKind::ALL.map(BanKind::name);
        format!("`reason` is {:?}, not one of {names:?}", line.reason)
    })?;
    let origin = [BanOrigin::Operator, BanOrigin::Escalation]
        .into_iter()
        .find(|origin| origin.name() == line.origin)
        .ok_or_else(|| format!("`origin` is {:?}, not \"operator\" or \"escalation\"", line.origin))?;
    let has_note = line.route.is_some() || line.request_id.is_some() || line.offences.is_some();
    let note = has_note.then(|| BanNote {
        route: line.route.unwrap_or_default(),
        request_id: line.request_id.unwrap_or_default(),
        offences: line.offences.unwrap_or_default(),
        at_unix_s: line.at_unix_s.unwrap_or_default(),
    });
    let action = match line.throttle {
        None => BanAction::Drop,
        Some(Throttle { interval_ns: 0, .. } | Throttle { burst: 0, .. }) => {
            return Err("`throttle` lets nothing pass: leave it out to block".to_owned());
        }
        Some(Throttle { interval_ns, burst }) => BanAction::Throttle { interval_ns, burst },
    };
    let Line { expires_at_unix_ms, strikes, .. } = line;
    Ok(Listed { source, expires_at_unix_ms, action, kind, origin, strikes, note })
}

fn read_source(text: &str) -> Result<IpNet, String> {
    let source: IpNet = text
        .parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| format!("`source` is {text:?}, not an address or a prefix"))?;
    if source.trunc() != source {
        return Err(format!(
            "`source` is {text:?}, which has bits set behind its prefix: write {}",
            source.trunc()
        ));
    }
    Ok(canonical(source))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_795_000_000_000;
    const LINE: &str = r#"{"source":"192.0.2.66","reason":"limited","origin":"operator","expires_at_unix_ms":1795000060000}"#;

    fn record() -> BanRecord {
        BanRecord {
            prefix: "2001:db8:0:66::/64".parse().unwrap(),
            action: BanAction::Throttle { interval_ns: 10_000_000, burst: 200 },
            kind: BanKind::Unauthorized,
            origin: BanOrigin::Escalation,
            strikes: 3,
            drops: 77,
            expires_in: Some(Duration::from_secs(90)),
            offence_to_first_drop: None,
            note: Some(BanNote {
                route: "or\"ders\n".into(),
                request_id: "0198f3a2".into(),
                offences: 20,
                at_unix_s: 1_795_000_000,
            }),
        }
    }

    #[test]
    fn a_block_comes_back_as_it_was() {
        let line = record().to_line(NOW_MS).unwrap();
        assert!(!line.contains('\n'), "{line}");
        let [listed] = &read_list(line.as_bytes()).unwrap()[..] else { panic!("{line}") };
        assert_eq!((listed.source, listed.expires_at_unix_ms), (record().prefix, NOW_MS + 90_000));
        let entry = listed.entry(5_000_000_000, NOW_MS + 30_000).unwrap();
        let expected = BanEntry {
            expires_at_ns: 65_000_000_000,
            offence_at_ns: 5_000_000_000,
            action: record().action,
            strikes: 3,
            kind: BanKind::Unauthorized,
            origin: BanOrigin::Escalation,
            note: record().note,
        };
        assert_eq!(entry, expected);
        assert_eq!(listed.entry(0, NOW_MS + 90_000), None, "it has ended meanwhile");
        assert_eq!(BanRecord { expires_in: None, ..record() }.to_line(NOW_MS), None);
    }

    #[test]
    fn what_is_not_said_has_a_meaning_and_comments_have_none() {
        let text = format!("# kept since Monday\n\n  {LINE}\r\n{LINE}");
        let list = read_list(text.as_bytes()).unwrap();
        assert_eq!(list.len(), 2);
        assert_eq!((list[0].source, list[0].strikes), ("192.0.2.66/32".parse().unwrap(), 0));
        assert_eq!(list[0].note, None);
        assert_eq!(read_list(&b""[..]).unwrap(), []);
    }

    #[track_caller]
    fn check_refused(line: &str, expected: &str) {
        let error = read_list(format!("{LINE}\n{line}\n{LINE}\n").as_bytes()).unwrap_err();
        assert_eq!(error.line, 2);
        assert!(error.to_string().contains(expected), "{error}");
    }

    #[test]
    fn a_bad_line_is_named_and_nothing_of_the_list_is_taken() {
        check_refused("192.0.2.1", "line 2: ");
        check_refused("{}", "missing field `source`");
        check_refused(&LINE.replace("limited", "annoying"), "`reason` is \"annoying\", not one of");
        check_refused(&LINE.replace("operator", "configuration"), "`origin` is \"configuration\"");
        check_refused(&LINE.replace("192.0.2.66", "192.0.2.66/24"), "write 192.0.2.0/24");
        check_refused(&LINE.replace("192.0.2.66", "here"), "`source` is \"here\"");
        check_refused(
            &LINE.replace("1795000060000", "\"soon\""),
            "invalid type: string \"soon\", expected u64",
        );
        check_refused(&LINE.replace("1795000060000", "-1"), "expected u64");
        check_refused(&LINE.replace("{\"source", "{\"until\":1,\"source"), "unknown field `until`");
        let throttle = r#""throttle":{"interval_ns":0,"burst":1},"reason""#;
        check_refused(&LINE.replace("\"reason\"", throttle), "`throttle` lets nothing pass");
        check_refused(&LINE[..40], "EOF while parsing");
        check_refused(&format!("{LINE}{LINE}"), "trailing characters");
        check_refused(&" ".repeat(5000), "longer than 4096 bytes");
        let error = read_list(&b"\n\xff\n"[..]).unwrap_err();
        assert_eq!(error.to_string(), "line 2: not UTF-8");
    }
}
