//! A count of the heap from before the end: what the estimates rest on where the target is gone without a last one.

use std::time::Duration;

use crate::aggregator::{Born, Scale};
use crate::cpython::census::Census;
use crate::report::HeapInfo;

/// What was known when it was taken.
#[derive(Debug)]
pub(in super::super) struct Earlier {
    /// What the sampled blocks that lived then stood for.
    pub(super) scale: Scale,
    /// Older blocks that were gone by then.
    pub(super) gone: Born,
    at: Duration,
    census: &'static str,
}

impl Earlier {
    /// A `census` that was taken after `at`.
    pub(super) fn of(
        start: &Census,
        census: &Census,
        scale: Scale,
        gone: Born,
        at: Duration,
    ) -> Self {
        let census = match census.sampled {
            Some(_) => "sampled",
            None if start.is_complete() && census.is_complete() => "exact",
            None => "partial",
        };
        Self { scale, gone, at, census }
    }

    /// Says in a report of `duration` what its numbers rest on.
    pub(in super::super) fn tell(
        &self,
        duration: Duration,
        heap: &mut HeapInfo,
        warnings: &mut Vec<String>,
    ) {
        let age = duration.saturating_sub(self.at).as_secs_f64();
        heap.census = self.census;
        heap.census_age_s = Some(age);
        warnings.push(format!(
            "the heap could not be counted once more in the end: numbers rest on a count from {age:.0} s before"
        ));
    }
}

/// Whether a census says more of how the heap changed than the windows do: not where some pools were counted alone and the change
/// is within what that may be off, nor where other pools were swapped out than at the start.
pub(super) fn says_more_than_windows(start: &Census, census: &Census) -> bool {
    let change = census.live_bytes().abs_diff(start.live_bytes());
    let is_clear = census.sampled.is_none_or(|sample| change > 4 * sample.half_width);
    let moved = census.swapped_share() - start.swapped_share();
    is_clear && moved.abs() < MOST_MOVED
}

/// The share of the pools that may have been swapped out, or back, since the start.
const MOST_MOVED: f64 = 0.001;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Earlier, says_more_than_windows};
    use crate::aggregator::{Born, Sampled};
    use crate::cpython::census::{Census, Class, Sample};
    use crate::report::HeapInfo;

    fn census(live: u64, half_width: Option<u64>) -> Census {
        let class = Class { pools: 1, live, free: 0 };
        let sampled = half_width.map(|half_width| Sample { of_pools: 1, half_width });
        Census { classes: [(64, class)].into(), sampled, ..Census::default() }
    }

    fn earlier(end: &Census) -> Option<Earlier> {
        let (start, scale) = (census(1000, None), Sampled::new(1 << 20, 0).scale(None));
        says_more_than_windows(&start, end)
            .then(|| Earlier::of(&start, end, scale, Born::new(), Duration::from_secs(20)))
    }

    #[test]
    fn a_sample_counts_where_it_is_sure_of_the_change() {
        let known = |end: &Census| earlier(end).map(|earlier| earlier.census);
        assert_eq!(known(&census(1100, None)), Some("exact"));
        assert_eq!(known(&census(1100, Some(1_000))), Some("sampled"));
        assert_eq!(known(&census(1100, Some(2_000))), None);
        let swapped = |swapped| Census { pools: 10_000, swapped, ..census(1100, None) };
        assert_eq!(known(&swapped(1)), Some("partial"));
        assert_eq!(known(&swapped(20)), None);
    }

    #[test]
    fn a_report_says_how_old_it_is() {
        let (mut heap, mut warnings) = (HeapInfo::default(), Vec::new());
        let earlier = earlier(&census(1100, None)).unwrap();
        earlier.tell(Duration::from_millis(27_400), &mut heap, &mut warnings);
        assert_eq!(heap.census_age_s, Some(7.4));
        assert!(warnings[0].ends_with("7 s before"), "{warnings:?}");
    }
}
