//! Medians. Pure.

/// The middle value, or the mean of the two in the middle; `None` of nothing or of what is no number.
pub(in crate::bench) fn median(values: &[f64]) -> Option<f64> {
    if values.iter().any(|value| value.is_nan()) {
        return None;
    }
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    sorted.get(middle - 1).map(|lower| f64::midpoint(*lower, upper))
}

/// The median of `ours[i] / theirs[i]`; `None` when a round lacks a partner or divides by zero.
pub(in crate::bench) fn ratio(ours: &[f64], theirs: &[f64]) -> Option<f64> {
    if ours.len() != theirs.len() || theirs.contains(&0.0) {
        return None;
    }
    let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
    median(&ratios)
}

/// The value that `percent` of 100 are not above; `sorted` is in ascending order.
pub(in crate::bench) fn percentile(sorted: &[f64], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_median(values: &[f64], expected: Option<f64>) {
        assert_eq!(median(values), expected, "{values:?}");
    }

    #[test]
    fn the_median_is_in_the_middle() {
        check_median(&[], None);
        check_median(&[3.0], Some(3.0));
        check_median(&[9.0, 1.0, 2.0], Some(2.0));
        check_median(&[4.0, 1.0, 2.0, 100.0], Some(3.0));
        check_median(&[1.0, f64::NAN], None);
    }

    #[track_caller]
    fn check_ratio(ours: &[f64], theirs: &[f64], expected: Option<f64>) {
        assert_eq!(ratio(ours, theirs), expected, "{ours:?} {theirs:?}");
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        // The medians alone would say 20 / 20.
        check_ratio(&[5.0, 20.0, 50.0], &[10.0, 40.0, 20.0], Some(0.5));
        check_ratio(&[1.0, 2.0], &[1.0, 1.0], Some(1.5));
        check_ratio(&[1.0], &[1.0, 2.0], None);
        check_ratio(&[1.0], &[0.0], None);
        check_ratio(&[], &[], None);
    }

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile(&hundred, 50), Some(50.0));
        assert_eq!(percentile(&hundred, 99), Some(99.0));
        assert_eq!(percentile(&[7.0], 99), Some(7.0));
        assert_eq!(percentile(&[], 50), None);
    }
}
