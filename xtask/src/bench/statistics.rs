//! Numbers -> their median, and how far it can be trusted.
//!
//! Nothing is assumed of how the numbers are spread: a machine that others use as well makes outliers.

use serde::Serialize;

/// How often the numbers are drawn anew for an interval.
const RESAMPLES: usize = 10_000;

/// Where the drawing begins: the same numbers give the same interval in every run.
const SEED: u64 = 0x6c65_616b;

/// A value with the interval that holds the true one in 95 of 100 cases.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Estimate {
    pub(super) value: f64,
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Estimate {
    /// The same in another unit.
    pub(super) fn map(self, convert: impl Fn(f64) -> f64) -> Self {
        let (one, other) = (convert(self.low), convert(self.high));
        Self { value: convert(self.value), low: one.min(other), high: one.max(other) }
    }
}

/// The value that a share `at` of the numbers does not exceed, between two of them where it falls there; `None` of none.
pub(super) fn quantile(numbers: &[f64], at: f64) -> Option<f64> {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    let place = at.clamp(0.0, 1.0) * last as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    Some(below + (above - below) * place.fract())
}

/// The median; `None` of none.
pub(super) fn median(numbers: &[f64]) -> Option<f64> {
    quantile(numbers, 0.5)
}

/// The median with its interval, by a percentile bootstrap; `None` of none.
pub(super) fn median_of(numbers: &[f64]) -> Option<Estimate> {
    bootstrap(numbers, RESAMPLES, |drawn| {
        let drawn: Vec<f64> = drawn.iter().map(|&&number| number).collect();
        median(&drawn)
    })
}

/// What `measure` makes of the items, with its interval: of what it makes of as many items drawn from them with
/// replacement, again and again. `None` where it makes nothing of them.
pub(super) fn bootstrap<T>(
    items: &[T],
    resamples: usize,
    measure: impl Fn(&[&T]) -> Option<f64>,
) -> Option<Estimate> {
    let value = measure(&items.iter().collect::<Vec<_>>())?;
    let mut random = fastrand::Rng::with_seed(SEED);
    let drawn: Vec<f64> = (0..resamples)
        .filter_map(|_| {
            let drawn: Vec<&T> =
                items.iter().map(|_| &items[random.usize(..items.len())]).collect();
            measure(&drawn)
        })
        .collect();
    Some(Estimate { value, low: quantile(&drawn, 0.025)?, high: quantile(&drawn, 0.975)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_two_in_the_middle() {
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[]), None);
        assert_eq!(median_of(&[]), None);
    }

    #[test]
    fn quantiles_run_from_the_least_to_the_greatest() {
        let numbers = [10.0, 30.0, 20.0, 50.0, 40.0];
        assert_eq!(quantile(&numbers, 0.0), Some(10.0));
        assert_eq!(quantile(&numbers, 0.25), Some(20.0));
        assert_eq!(quantile(&numbers, 0.9), Some(46.0));
        assert_eq!(quantile(&numbers, 1.0), Some(50.0));
    }

    #[test]
    fn the_same_numbers_have_the_same_interval_and_the_median_is_in_it() {
        let numbers: Vec<f64> = (0..20).map(|n| f64::from(n * n % 17)).collect();
        let estimate = median_of(&numbers).unwrap();
        assert_eq!(Some(estimate), median_of(&numbers));
        assert!(estimate.low <= estimate.value && estimate.value <= estimate.high);
        assert!(estimate.low < estimate.high);
        let same = median_of(&[1.5; 20]).unwrap();
        assert_eq!((same.low, same.value, same.high), (1.5, 1.5, 1.5));
    }

    /// Check that it is an interval of 95 %: of 400 samples with a known median, it misses some 5 % of them. What
    /// a percentile bootstrap of 20 numbers really gives lies a little beside that.
    #[test]
    fn the_interval_holds_the_true_median_as_often_as_it_says() {
        let mut random = fastrand::Rng::with_seed(7);
        let held = (0..400).filter(|_| {
            let sample: Vec<f64> = (0..20).map(|_| random.f64()).collect();
            let interval = bootstrap(&sample, 400, |drawn| {
                median(&drawn.iter().map(|&&number| number).collect::<Vec<_>>())
            });
            interval.is_some_and(|interval| interval.low <= 0.5 && 0.5 <= interval.high)
        });
        let held = held.count();
        assert!((360..=395).contains(&held), "{held} of 400");
    }

    #[test]
    fn an_interval_stays_in_order_where_the_unit_turns_it_round() {
        let ratio = Estimate { value: 0.9, low: 0.8, high: 0.95 };
        let loss = ratio.map(|ratio| 1.0 - ratio);
        assert!(loss.low < loss.value && loss.value < loss.high);
    }
}
