//! As much of a certificate's DER as nobody else tells: when its time ends (RFC 5280 §4.1.2.5).

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// `[0] EXPLICIT Version`, absent in version 1.
const VERSION: u8 = 0xa0;

/// The end of a certificate's validity in seconds since the epoch; none where the DER is not a certificate's.
pub(super) fn not_after_s(certificate: &[u8]) -> Option<u64> {
    let (certificate, _) = element(certificate, SEQUENCE)?;
    let (to_be_signed, _) = element(certificate, SEQUENCE)?;
    let rest = element(to_be_signed, VERSION).map_or(to_be_signed, |(_, rest)| rest);
    let (_serial, rest) = element(rest, INTEGER)?;
    let (_signature, rest) = element(rest, SEQUENCE)?;
    let (_issuer, rest) = element(rest, SEQUENCE)?;
    let (validity, _) = element(rest, SEQUENCE)?;
    let (_not_before, rest) = time(validity)?;
    time(rest).map(|(seconds, _)| seconds)
}

/// The contents of an element with this tag, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    // Above 127 the octet counts the octets of the length (X.690 §8.1.3.5).
    let (length, rest) = if *first < 0x80 {
        (usize::from(*first), rest)
    } else {
        let (octets, rest) =
            rest.split_at_checked(usize::from(first & 0x7f)).filter(|(o, _)| o.len() <= 3)?;
        (octets.iter().fold(0, |length, octet| length << 8 | usize::from(*octet)), rest)
    };
    if *found == tag { rest.split_at_checked(length) } else { None }
}

/// A time in seconds since the epoch, and what follows it.
fn time(der: &[u8]) -> Option<(u64, &[u8])> {
    let ((text, rest), year_digits) = match element(der, UTC_TIME) {
        Some(found) => (found, 2),
        None => (element(der, GENERALIZED_TIME)?, 4),
    };
    let (year, text) = text.split_at_checked(year_digits)?;
    let [year, month, day, hour, minute, second] = [
        number(year)?,
        number(text.get(0..2)?)?,
        number(text.get(2..4)?)?,
        number(text.get(4..6)?)?,
        number(text.get(6..8)?)?,
        number(text.get(8..10)?)?,
    ];
    // Two digits stand for 1950 to 2049.
    let year = match (year_digits, year) {
        (2, 0..50) => 2000 + year,
        (2, _) => 1900 + year,
        _ => year,
    };
    let plausible = (1..=12).contains(&month) && (1..=31).contains(&day) && text.get(10..) == Some(b"Z");
    let days = days_since_epoch(year, month, day).filter(|_| plausible)?;
    Some((days * 86_400 + hour * 3600 + minute * 60 + second, rest))
}

fn number(digits: &[u8]) -> Option<u64> {
    str::from_utf8(digits).ok()?.parse().ok()
}

/// Days from 1970-01-01 in the Gregorian calendar, counted in years that begin in March; none before it.
fn days_since_epoch(year: u64, month: u64, day: u64) -> Option<u64> {
    const DAYS_FROM_0000_03_01_TO_EPOCH: u64 = 719_468;
    let year = if month <= 2 { year.checked_sub(1)? } else { year };
    let months_since_march = (month + 9) % 12;
    let day_of_year = (153 * months_since_march + 2) / 5 + day - 1;
    let days = year * 365 + year / 4 - year / 100 + year / 400 + day_of_year;
    days.checked_sub(DAYS_FROM_0000_03_01_TO_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_days(date: (u64, u64, u64), expected: Option<u64>) {
        assert_eq!(days_since_epoch(date.0, date.1, date.2), expected);
    }

    #[test]
    fn days_are_counted_over_leap_years() {
        check_days((1970, 1, 1), Some(0));
        check_days((1970, 3, 1), Some(59));
        check_days((2000, 2, 29), Some(11_016));
        check_days((2026, 11, 24), Some(20_781));
        check_days((2100, 3, 1), Some(47_541));
        check_days((1969, 12, 31), None);
    }

    #[test]
    fn the_end_of_a_certificate_is_found_whatever_its_year() {
        for (year, seconds) in [(2031, 1_924_992_000), (2075, 3_313_526_400)] {
            let mut params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
            params.not_after = rcgen::date_time_ymd(year, 1, 1);
            let certificate = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
            assert_eq!(not_after_s(certificate.der()), Some(seconds));
        }
    }

    #[test]
    fn what_is_cut_short_is_no_certificate() {
        let params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        let certificate = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        for end in 0..certificate.der().len() {
            assert_eq!(not_after_s(&certificate.der()[..end]), None, "cut at {end}");
        }
    }
}
