//! How long requests took: kept as counts of values, pooled and asked for quantiles.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// The longest that is told apart, in microseconds.
const LONGEST_US: u64 = 60_000_000;

/// Digits of a value that are kept: a microsecond up to 2 ms, then a part in a thousand.
const DIGITS: u8 = 3;

/// The latencies of a stretch of time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Latencies {
    /// Each latency in microseconds, and how many requests had it.
    pub(super) counts: Vec<(u64, u64)>,
    /// Requests that were due but got no answer, or were not even sent since the answers before them were so late.
    pub(super) missing: u64,
}

impl Latencies {
    /// Those of single requests, in nanoseconds; `None` for one without an answer.
    pub(super) fn of(requests: impl Iterator<Item = Option<u64>>) -> Self {
        let mut counts = BTreeMap::new();
        let mut missing = 0;
        for request in requests {
            match request {
                Some(took_ns) => *counts.entry(took_ns / 1000).or_default() += 1,
                None => missing += 1,
            }
        }
        Self { counts: counts.into_iter().collect(), missing }
    }
}

/// Several latencies as one.
pub(super) struct Pool(Histogram<u64>);

impl Pool {
    /// Pools them.
    ///
    /// # Errors
    /// A value is over a minute: then it was no latency.
    pub(super) fn of<'a>(all: impl Iterator<Item = &'a Latencies>) -> Result<Self> {
        let mut pool = Histogram::new_with_max(LONGEST_US, DIGITS)?;
        for &(value, count) in all.flat_map(|latencies| &latencies.counts) {
            pool.record_n(value, count).with_context(|| format!("a request took {value} us"))?;
        }
        Ok(Self(pool))
    }

    /// The latency in milliseconds that a share `at` of the requests did not exceed.
    pub(super) fn quantile_ms(&self, at: f64) -> f64 {
        self.0.value_at_quantile(at) as f64 / 1000.0
    }

    /// How many requests there are.
    pub(super) fn len(&self) -> u64 {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pooled_latencies_are_those_of_all_requests_together() {
        let some = Latencies::of((1..=50).map(|n| Some(n * 10_000)));
        let others = Latencies::of((51..=100).map(|n| Some(n * 10_000)).chain([None]));
        assert_eq!((some.counts.len(), some.missing, others.missing), (50, 0, 1));
        let pool = Pool::of([&some, &others].into_iter()).unwrap();
        assert_eq!(pool.len(), 100);
        assert_eq!((pool.quantile_ms(0.5), pool.quantile_ms(0.99)), (0.5, 0.99));
    }

    #[test]
    fn they_are_the_same_when_read_back() {
        let latencies = Latencies::of([Some(1_500), Some(1_900), Some(3_000), None].into_iter());
        let text = serde_json::to_string(&latencies).unwrap();
        assert_eq!(text, r#"{"counts":[[1,2],[3,1]],"missing":1}"#);
        assert_eq!(serde_json::from_str::<Latencies>(&text).unwrap(), latencies);
    }
}
