//! Series of several processes on one time axis.

/// Points of a series at most.
const MAX_POINTS: usize = 300;

/// Live bytes by seconds.
pub(super) type Series = Vec<(f64, u64)>;

/// The sum of series, each with the seconds from the common start to its own. Before its start a process holds nothing;
/// after its end it counts with what it held then.
pub(super) fn sum(series: &[(f64, &Series)]) -> Series {
    let times = times(series);
    let total = |at_s: f64| {
        let values = series.iter().map(|(start_s, series)| value(series, at_s - start_s));
        values.fold(0, u64::saturating_add)
    };
    times.into_iter().map(|at_s| (at_s, total(at_s))).collect()
}

/// The times at which one of them changes; where these are too many, as many at equal distances.
fn times(series: &[(f64, &Series)]) -> Vec<f64> {
    let mut times: Vec<f64> = series
        .iter()
        .flat_map(|(start_s, series)| series.iter().map(move |(at_s, _)| micros(start_s + at_s)))
        .collect();
    times.sort_by(f64::total_cmp);
    times.dedup();
    let (Some(&first), Some(&last)) = (times.first(), times.last()) else { return times };
    if times.len() > MAX_POINTS {
        let step = (last - first) / (MAX_POINTS - 1) as f64;
        times = (0..MAX_POINTS - 1).map(|index| micros(first + step * index as f64)).collect();
        times.push(last);
    }
    times
}

/// To the microsecond, as all times in reports.
fn micros(seconds: f64) -> f64 {
    (seconds * 1e6).round() / 1e6
}

/// The value of a series at a time, along the line between its points.
fn value(series: &[(f64, u64)], at_s: f64) -> u64 {
    // The common axis is rounded: half a microsecond is no time.
    let next = series.partition_point(|&(point_s, _)| point_s <= at_s + 1e-6);
    match (next.checked_sub(1).map(|before| series[before]), series.get(next)) {
        (None, _) => 0,
        (Some((_, bytes)), None) => bytes,
        (Some((from_s, from)), Some(&(to_s, to))) => {
            let part = ((at_s - from_s) / (to_s - from_s)).clamp(0.0, 1.0);
            (from as f64 + (to as f64 - from as f64) * part).round() as u64
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_add_up_from_where_each_begins() {
        let (one, other) = (vec![(0.0, 10), (4.0, 50)], vec![(0.0, 0), (2.0, 8)]);
        let summed = sum(&[(0.0, &one), (1.0, &other)]);
        assert_eq!(summed, [(0.0, 10), (1.0, 20), (3.0, 48), (4.0, 58)]);
    }

    #[test]
    fn a_long_sum_is_thinned_and_keeps_its_end() {
        let long: Vec<Series> = (0..4_u64)
            .map(|shift| (0..300).map(|at| (at as f64 + shift as f64 * 0.1, at)).collect())
            .collect();
        let series: Vec<(f64, &Series)> = long.iter().map(|series| (0.0, series)).collect();
        let summed = sum(&series);
        assert_eq!(summed.len(), MAX_POINTS);
        assert_eq!(summed.last(), Some(&(299.3, 4 * 299)));
        assert!(summed.is_sorted_by(|a, b| a.0 < b.0));
    }
}
