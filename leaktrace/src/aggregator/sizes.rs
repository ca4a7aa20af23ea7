//! The sizes of a site's births.
//!
//! Most Python sites ask for one or two sizes: up to [`EXACT`] different ones are kept as they are (16 bytes each).
//! Beyond that, a high-dynamic-range histogram of one significant digit takes over (values right within 1/32): about
//! 1 KiB for sizes up to 512 bytes, 6 KiB when they reach up to gigabytes.

use super::snapshot::Distribution;
use hdrhistogram::Histogram;

/// Different sizes that are kept exactly.
pub(super) const EXACT: usize = 16;

/// The sizes of a site's births.
#[derive(Clone, Debug)]
pub(super) struct Sizes(Kept);

#[derive(Clone, Debug)]
enum Kept {
    Exact(Vec<(u64, u64)>),
    Binned { counts: Box<Histogram<u64>>, max: u64 },
}

impl Default for Sizes {
    fn default() -> Self {
        Self(Kept::Exact(Vec::new()))
    }
}

impl Sizes {
    /// Counts one birth.
    pub(super) fn record(&mut self, size: u64) {
        match &mut self.0 {
            Kept::Exact(list) => {
                if let Some((_, count)) = list.iter_mut().find(|(known, _)| *known == size) {
                    *count += 1;
                } else if list.len() < EXACT {
                    list.push((size, 1));
                } else {
                    self.bin(size);
                }
            }
            Kept::Binned { counts, max } => {
                count(counts, size, 1);
                *max = size.max(*max);
            }
        }
    }

    /// Takes one birth of this size back. In a histogram the largest size stays.
    pub(super) fn forget(&mut self, size: u64) {
        match &mut self.0 {
            Kept::Exact(list) => {
                if let Some((_, count)) = list.iter_mut().find(|(known, _)| *known == size) {
                    *count = count.saturating_sub(1);
                }
            }
            Kept::Binned { counts, .. } => {
                let mut one = Histogram::<u64>::new_from(&**counts);
                count(&mut one, size, 1);
                // It can only fail where the size was never recorded: then there is nothing to take back.
                let _ = counts.subtract(&one);
            }
        }
    }

    /// Median, ninth decile and maximum; none where there was no birth.
    #[must_use]
    pub(super) fn distribution(&self) -> Option<Distribution> {
        match &self.0 {
            Kept::Exact(list) => exact_distribution(list),
            Kept::Binned { counts, .. } if counts.is_empty() => None,
            Kept::Binned { counts, max } => Some(Distribution {
                p50: counts.value_at_quantile(0.5).min(*max),
                p90: counts.value_at_quantile(0.9).min(*max),
                max: *max,
            }),
        }
    }

    /// Bytes on the heap.
    #[must_use]
    pub(super) fn bytes(&self) -> usize {
        match &self.0 {
            Kept::Exact(list) => list.capacity() * 16,
            Kept::Binned { counts, .. } => size_of_val(&**counts) + counts.distinct_values() * 8,
        }
    }

    fn bin(&mut self, size: u64) {
        let Kept::Exact(list) = &self.0 else { return };
        let mut counts = Box::new(
            Histogram::new(1).expect("one significant digit is within what the histogram takes"),
        );
        let mut max = size;
        for &(known, births) in list {
            count(&mut counts, known, births);
            max = max.max(known);
        }
        count(&mut counts, size, 1);
        self.0 = Kept::Binned { counts, max };
    }
}

fn count(counts: &mut Histogram<u64>, size: u64, births: u64) {
    // It resizes itself up to any 64-bit value, so nothing is refused.
    let _ = counts.record_n(size, births);
}

fn exact_distribution(list: &[(u64, u64)]) -> Option<Distribution> {
    let mut sorted: Vec<_> = list.iter().copied().filter(|&(_, count)| count > 0).collect();
    sorted.sort_unstable();
    let total: u64 = sorted.iter().map(|&(_, count)| count).sum();
    let at = |rank: u64| {
        let mut seen = 0;
        sorted.iter().find(|(_, count)| {
            seen += count;
            seen >= rank
        })
    };
    Some(Distribution {
        p50: at(total.div_ceil(2))?.0,
        p90: at(total - total / 10)?.0,
        max: sorted.last()?.0,
    })
}
