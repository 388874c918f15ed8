//! The time as HTTP writes it (RFC 9110 §5.6.7: IMF-fixdate). It never asks what time it is.

/// Seconds of a day.
const DAY_S: u64 = 86_400;
const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] =
    ["Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec", "Jan", "Feb"];

/// The value of a `Date` field, with the second that it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpDate {
    unix_s: u64,
    text: String,
}

impl HttpDate {
    /// The date of a second since the epoch.
    pub fn new(unix_s: u64) -> Self {
        // A year is counted from March, so that a leap day is its last, and from the year 0 in eras of 400 years.
        let (day_count, second) = (unix_s / DAY_S, unix_s % DAY_S);
        let (era, day_of_era) = ((day_count + 719_468) / 146_097, (day_count + 719_468) % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month = (5 * day_of_year + 2) / 153;
        let text = format!(
            "{}, {:02} {} {:04} {:02}:{:02}:{:02} GMT",
            name(&WEEKDAYS, day_count % 7),
            day_of_year - (153 * month + 2) / 5 + 1,
            name(&MONTHS, month),
            era * 400 + year_of_era + u64::from(month >= 10),
            second / 3_600,
            second / 60 % 60,
            second % 60,
        );
        Self { unix_s, text }
    }

    /// Writes it anew, unless it stands for this second already.
    pub fn refresh(&mut self, unix_s: u64) {
        if self.unix_s != unix_s {
            *self = Self::new(unix_s);
        }
    }

    /// As it goes into a head.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

fn name(names: &[&'static str], index: u64) -> &'static str {
    usize::try_from(index).ok().and_then(|index| names.get(index)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::HttpDate;

    #[track_caller]
    fn check(unix_s: u64, expected: &str) {
        assert_eq!(HttpDate::new(unix_s).as_str(), expected);
        let mut date = HttpDate::new(0);
        date.refresh(unix_s);
        assert_eq!(date.as_str(), expected);
    }

    #[test]
    fn seconds_have_dates() {
        check(0, "Thu, 01 Jan 1970 00:00:00 GMT");
        // The RFC's own example.
        check(784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT");
        check(951_782_399, "Mon, 28 Feb 2000 23:59:59 GMT");
        check(951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT");
        check(951_868_800, "Wed, 01 Mar 2000 00:00:00 GMT");
        check(1_735_689_599, "Tue, 31 Dec 2024 23:59:59 GMT");
        check(4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT");
        check(4_107_542_399, "Sun, 28 Feb 2100 23:59:59 GMT");
    }
}
