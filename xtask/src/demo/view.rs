//! What the demo shows: a picture each second while it plays, and a summary at its end.
//!
//! Comes in: numbers. Goes out: text. On a terminal each picture replaces the one before; elsewhere it is one line.

use std::{collections::BTreeMap, fmt::Write, io, time::Duration};

use xtask::lab::gateway::Ban;

use super::outcome::Outcome;

/// What is to be seen now.
#[derive(Debug, Clone, Default)]
pub(super) struct Picture {
    /// Since the play began.
    pub(super) elapsed: Duration,
    /// What is going on.
    pub(super) act: String,
    /// Answers of the gateway per second.
    pub(super) answers_per_s: u64,
    /// Answers by status.
    pub(super) answers: BTreeMap<String, u64>,
    /// Packets dropped per second.
    pub(super) drops_per_s: u64,
    /// Packets dropped by reason.
    pub(super) drops: BTreeMap<String, u64>,
    /// Blocks that hold.
    pub(super) bans: Vec<Ban>,
    /// Honest requests and failures.
    pub(super) honest: (u64, u64),
}

/// Where pictures go.
pub(super) struct Screen {
    shown: bool,
    terminal: bool,
    lines: usize,
}

impl Screen {
    /// `shown` false: nowhere.
    pub(super) fn new(shown: bool, terminal: bool) -> Self {
        Self { shown, terminal, lines: 0 }
    }

    /// Shows a picture in place of the one before.
    pub(super) fn show(&mut self, picture: &Picture) -> io::Result<()> {
        use io::Write;
        if !self.shown {
            return Ok(());
        }
        let mut stdout = io::stdout().lock();
        if !self.terminal {
            return writeln!(stdout, "{}", line(picture));
        }
        if self.lines > 0 {
            // ECMA-48: cursor up by so many lines, erase to the end of the screen.
            write!(stdout, "\x1b[{}A\x1b[J", self.lines)?;
        }
        let text = page(picture);
        self.lines = text.lines().count();
        write!(stdout, "{text}")?;
        stdout.flush()
    }
}

fn line(picture: &Picture) -> String {
    format!(
        "{:>3} s  {:<28} {:>5} requests/s  {:>9} drops/s  {} blocked  honest: {} requests, {} failed",
        picture.elapsed.as_secs(),
        picture.act,
        grouped(picture.answers_per_s),
        grouped(picture.drops_per_s),
        picture.bans.len(),
        grouped(picture.honest.0),
        picture.honest.1,
    )
}

fn page(picture: &Picture) -> String {
    let mut page = format!("Portcullis  {:>3} s  {}\n\n", picture.elapsed.as_secs(), picture.act);
    let mut row = |label: &str, value: &str| {
        // Writing to a String cannot fail.
        let _written = writeln!(page, "  {label:<22}{value}");
    };
    row("requests/s", &grouped(picture.answers_per_s));
    for (status, count) in &picture.answers {
        row(&format!("  status {status}"), &grouped(*count));
    }
    row("honest", &format!("{} requests, {} failed", grouped(picture.honest.0), picture.honest.1));
    row("NIC drops/s", &grouped(picture.drops_per_s));
    for (reason, count) in &picture.drops {
        row(&format!("  {reason}"), &grouped(*count));
    }
    row("blocks", &picture.bans.len().to_string());
    for ban in &picture.bans {
        row(&format!("  {}", ban.source), &ban_words(ban));
    }
    page
}

fn ban_words(ban: &Ban) -> String {
    let mut words = ban.reason.clone();
    if let Some(ms) = ban.offence_to_first_drop_ms {
        let _written = write!(words, ", first drop {ms:.1} ms after the offence");
    }
    if let Some(ms) = ban.expires_in_ms {
        let _written = write!(words, ", ends in {:.1} s", ms / 1000.0);
    }
    words
}

/// The summary at the end.
pub(super) fn summary(outcome: &Outcome) -> String {
    let mut lines = vec![String::new()];
    let honest = &outcome.honest;
    lines.push(format!(
        "{} honest clients: {} requests, {} failed, 99 of 100 within {:.1} ms, the first answer after {} ms",
        verdict(honest.failures == 0 && honest.requests > 0),
        grouped(honest.requests),
        honest.failures,
        honest.p99_ms.unwrap_or(0.0),
        honest.first_answer_ms.unwrap_or(0),
    ));
    lines.extend(honest.complaints.iter().map(|complaint| format!("     {complaint}")));
    let guesser = &outcome.guesser;
    lines.push(format!(
        "{} guesser: {} keys refused, {} let in, {} unanswered{}{}",
        verdict(guesser.stopped),
        grouped(guesser.refused),
        guesser.admitted,
        guesser.unanswered,
        if guesser.blocked { ", blocked at the NIC" } else { "" },
        if guesser.answered_again { ", answered again after its block had ended by itself" } else { "" },
    ));
    for ban in &outcome.bans {
        let after = ban
            .offence_to_first_drop_ms
            .map_or_else(String::new, |ms| format!(": first packet dropped {ms:.1} ms after the offence"));
        lines.push(format!("     {} blocked, {}{after}", ban.source, ban.reason));
    }
    for flood in &outcome.floods {
        lines.push(format!(
            "{} {}: {} packets sent, {} dropped at the NIC ({} %)",
            verdict(flood.stopped),
            flood.name,
            grouped(flood.sent),
            grouped(flood.dropped),
            100 * flood.dropped / flood.sent.max(1),
        ));
    }
    for (reason, count) in &outcome.nic_drops {
        lines.push(format!("     {:>12} {reason}", grouped(*count)));
    }
    if !outcome.filtered {
        lines.push(
            "     on loopback, without the NIC filter: no floods were sent and nobody was blocked".into(),
        );
    }
    lines.join("\n")
}

fn verdict(good: bool) -> &'static str {
    if good { "ok  " } else { "FAIL" }
}

/// Digits in groups of three.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_grouped(number: u64, expected: &str) {
        assert_eq!(grouped(number), expected);
    }

    #[test]
    fn digits_stand_in_threes() {
        check_grouped(0, "0");
        check_grouped(999, "999");
        check_grouped(1000, "1 000");
        check_grouped(12_345_678, "12 345 678");
    }

    #[test]
    fn a_page_shows_drops_and_bans() {
        let ban = Ban {
            source: "192.0.2.66".into(),
            reason: "unauthorized".into(),
            origin: None,
            strikes: 1,
            drops: 7,
            expires_in_ms: Some(4200.0),
            offence_to_first_drop_ms: Some(3.25),
            route: None,
            request_id: None,
        };
        let picture = Picture {
            act: "SYN flood".into(),
            drops: BTreeMap::from([("syn_rate".into(), 1_234_567)]),
            bans: vec![ban],
            ..Picture::default()
        };
        let page = page(&picture);
        assert!(page.contains("syn_rate            1 234 567\n"), "{page}");
        assert!(
            page.contains("unauthorized, first drop 3.2 ms after the offence, ends in 4.2 s\n"),
            "{page}"
        );
        assert!(line(&picture).contains("1 blocked"));
    }
}
