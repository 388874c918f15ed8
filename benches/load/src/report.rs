//! What was counted, and the line of JSON that says so: the form of `benches/wrk.lua`.

use std::{fmt, time::Duration};

/// What a run has counted.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Time from request to answer, in nanoseconds, of each answer.
    pub(crate) latencies_ns: Vec<u64>,
    /// Heads and bodies.
    pub(crate) bytes: u64,
    /// Connections that could not be opened.
    pub(crate) connect: u64,
    /// Connections that failed later.
    pub(crate) read: u64,
    /// Requests that were due and not answered.
    pub(crate) unanswered: u64,
    /// Answers of status 400 and above.
    pub(crate) status: u64,
    /// From the first request to the end.
    pub(crate) duration: Duration,
}

impl Report {
    /// Takes down one answer.
    pub(crate) fn answered(&mut self, status: u16, bytes: usize, latency: Duration) {
        self.latencies_ns.push(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
        self.bytes += bytes as u64;
        self.status += u64::from(status >= 400);
    }

    /// Adds what another client has counted meanwhile.
    pub(crate) fn add(&mut self, other: Self) {
        self.latencies_ns.extend(other.latencies_ns);
        self.bytes += other.bytes;
        self.connect += other.connect;
        self.read += other.read;
        self.unanswered += other.unanswered;
        self.status += other.status;
        self.duration = self.duration.max(other.duration);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted = self.latencies_ns.clone();
        sorted.sort_unstable();
        let at = |percent: usize| {
            let rank = (sorted.len() * percent).div_ceil(100);
            sorted.get(rank.saturating_sub(1)).map_or(0.0, |&ns| ns as f64 / 1e3)
        };
        let Self { bytes, connect, read, unanswered, status, duration, .. } = self;
        write!(
            f,
            "{{\"requests\":{},\"duration_us\":{},\"bytes\":{bytes},\"p50_us\":{:.1},\"p99_us\":{:.1},\
             \"errors\":{{\"connect\":{connect},\"read\":{read},\"write\":0,\"timeout\":{unanswered},\"status\":{status}}}}}",
            sorted.len(),
            duration.as_micros(),
            at(50),
            at(99),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_has_the_form_of_wrk_lua() {
        let mut report = Report { duration: Duration::from_secs(2), ..Report::default() };
        for us in 1..=100 {
            report.answered(200, 10, Duration::from_micros(us));
        }
        report.answered(503, 10, Duration::from_micros(101));
        assert_eq!(
            report.to_string(),
            "{\"requests\":101,\"duration_us\":2000000,\"bytes\":1010,\"p50_us\":51.0,\"p99_us\":100.0,\
             \"errors\":{\"connect\":0,\"read\":0,\"write\":0,\"timeout\":0,\"status\":1}}"
        );
    }
}
