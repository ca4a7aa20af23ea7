//! The lower envelope of a site, and how its parts compare.

use super::series::SiteSeries;
use super::trend::{deviation, mean, part_rates};

/// Bins of the envelope at most: enough for twelve parts of four.
const BINS: usize = 48;

/// The lowest of each of up to 48 equal stretches of time. What a collector or a cache gives back now and then is
/// not in it; what is never given back is.
#[derive(Clone, Debug, Default)]
pub(super) struct Envelope {
    /// When each stretch begins.
    pub at_s: Vec<f64>,
    /// The fewest blocks.
    pub blocks: Vec<f64>,
    /// The fewest bytes.
    pub bytes: Vec<f64>,
    counted: Vec<f64>,
    survivors: Vec<f64>,
}

/// How a quantity grew.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    /// By how much in all.
    pub growth: f64,
    /// Rates of twelve equal parts (fewer for a short series).
    pub rates: Vec<f64>,
    /// Rate of the first two thirds.
    pub early: f64,
    /// Rate of the last third.
    pub late: f64,
    /// Rate of the last sixth.
    pub latest: f64,
}

impl Envelope {
    /// The envelope of a series.
    #[must_use]
    pub(super) fn of(series: &SiteSeries) -> Self {
        let seen = &series.observations;
        let bins = seen.len().min(BINS);
        let mut envelope = Self::default();
        for bin in 0..bins {
            let part = &seen[seen.len() * bin / bins..seen.len() * (bin + 1) / bins];
            envelope.at_s.push(part[0].at_s);
            envelope.blocks.push(lowest(part.iter().map(|seen| seen.low_blocks)));
            envelope.bytes.push(lowest(part.iter().map(|seen| seen.low_bytes)));
            envelope.counted.push(lowest(part.iter().map(|seen| seen.low_counted)));
            envelope.survivors.push(part.iter().map(|seen| seen.survivors).sum());
        }
        envelope
    }

    /// For each third but the last: by how many blocks the site grew, and how many blocks born then still live.
    #[must_use]
    pub(super) fn survival(&self) -> [(f64, f64); 2] {
        let last = self.blocks.len().saturating_sub(1);
        [0, 1].map(|third| {
            let (from, to) = (last * third / 3, last * (third + 1) / 3);
            let growth =
                self.counted.get(to).zip(self.counted.get(from)).map_or(0.0, |(b, a)| b - a);
            (growth, self.survivors[from..to].iter().sum())
        })
    }
}

impl Shape {
    /// The shape of one quantity of an envelope.
    #[must_use]
    pub(super) fn of(at_s: &[f64], values: &[f64]) -> Self {
        let rates = part_rates(at_s, values);
        let (early, late) = rates.split_at(rates.len() * 2 / 3);
        let latest = &rates[rates.len() - rates.len() / 6..];
        Self {
            growth: values.last().zip(values.first()).map_or(0.0, |(last, first)| last - first),
            early: mean(early),
            late: mean(late),
            latest: mean(latest),
            rates,
        }
    }

    /// How many parts rose.
    #[must_use]
    pub(super) fn rises(&self) -> usize {
        self.rates.iter().filter(|&&rate| rate > 0.0).count()
    }

    /// What share of the rise was given back by the parts that fell.
    #[must_use]
    pub(super) fn fallen_share(&self) -> f64 {
        let up: f64 = self.rates.iter().filter(|&&rate| rate > 0.0).sum();
        let down: f64 = self.rates.iter().filter(|&&rate| rate < 0.0).sum();
        if up > 0.0 { -down / up } else { 1.0 }
    }

    /// Whether the growth has all but ended.
    #[must_use]
    pub(super) fn has_stopped(&self) -> bool {
        self.late <= 0.1 * self.early
    }

    /// Whether the growth gets weaker: the last third is below 85 % of the rate before (by more than half a standard
    /// error of the two means) or below 60 %, or the last sixth is below half of it (by more than one). Where the rates
    /// rest on so many `sampled` blocks, the last third must be below 85 % by more than two standard errors of counts that
    /// small: parts of a few blocks differ by chance.
    #[must_use]
    pub(super) fn slows_down(&self, sampled: Option<u64>) -> bool {
        if let Some(sampled) = sampled {
            let error = (4.5 / sampled.max(1) as f64).sqrt();
            return self.late * (1.0 + 2.0 * error) < 0.85 * self.early;
        }
        let (early, late) = self.rates.split_at(self.rates.len() * 2 / 3);
        let error = standard_error(early, early.len()).hypot(standard_error(late, late.len()));
        let latest_error = standard_error(&self.rates, self.rates.len() / 6);
        self.late + 0.5 * error < 0.85 * self.early
            || self.late < 0.6 * self.early
            || self.latest + latest_error < 0.5 * self.early
    }
}

/// Of the mean of `count` rates that vary like these.
fn standard_error(rates: &[f64], count: usize) -> f64 {
    deviation(rates) / (count.max(1) as f64).sqrt()
}

fn lowest(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(f64::INFINITY, f64::min)
}
