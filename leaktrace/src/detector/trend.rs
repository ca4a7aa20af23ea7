//! A robust slope with its interval.
//!
//! - The estimate is the median of the slopes between all pairs of points (Theil 1950; Sen 1968, "Estimates of the
//!   regression coefficient based on Kendall's tau", JASA 63).
//! - Sen's interval: with `Var(S) = n(n-1)(2n+5)/18` of Kendall's S and `C = 1.96 sqrt(Var(S))`, the `(N-C)/2`-th and
//!   the `(N+C)/2`-th of the N ordered slopes.
//! - Points of a series resemble their neighbours, which makes that interval too narrow. `Var(S)` is multiplied by
//!   `1 + 2/(n(n-1)(n-2)) * sum (n-k)(n-k-1)(n-k-2) r_k` over the autocorrelations `r_k` of the ranks of the residuals
//!   that are significant at 5 % (Hamed & Rao 1998, "A modified Mann-Kendall trend test for autocorrelated data",
//!   J. Hydrology 204). It never makes the interval narrower here.
//! - A count that adds up random events is a random walk around its trend, for which even that is too narrow. So the
//!   interval also covers estimate +- t * sqrt(1.2/m) * s, where s is the standard deviation of the rates of m = 12
//!   equal parts, t is Student's for 11 degrees, and 1.2 is how much more a line fitted to a random walk varies than
//!   the mean of its increments (Durlauf & Phillips 1988, "Trends versus random walks in time series analysis",
//!   Econometrica 56).

/// Two-sided 95 % of the normal distribution.
const NORMAL_95: f64 = 1.96;

/// Two-sided 95 % of Student's distribution with 11 degrees of freedom.
const STUDENT_95: f64 = 2.201;

/// Variance of a fitted slope against that of the mean increment, on a random walk.
const WALK: f64 = 1.2;

/// Parts that a series is cut into to compare its rates.
pub(super) const PARTS: usize = 12;

/// A rate with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Growth {
    /// The best guess.
    pub estimate: f64,
    /// The low end of the interval.
    pub low: f64,
    /// The high end of the interval.
    pub high: f64,
}

/// The slope of `y` over `x`, ascending; none for fewer than 10 points.
#[must_use]
pub fn slope(x: &[f64], y: &[f64]) -> Option<Growth> {
    let n = x.len().min(y.len());
    if n < 10 {
        return None;
    }
    if y.windows(2).all(|pair| pair[0] == pair[1]) {
        return Some(Growth { estimate: 0.0, low: 0.0, high: 0.0 });
    }
    let slopes = pair_slopes(x, y);
    let estimate = *slopes.get(slopes.len() / 2)?;
    let residuals: Vec<_> = x.iter().zip(y).map(|(x, y)| y - estimate * x).collect();
    let variance = (n * (n - 1) * (2 * n + 5)) as f64 / 18.0 * inflation(&residuals);
    let half = NORMAL_95 * variance.sqrt() / 2.0;
    let middle = slopes.len() as f64 / 2.0;
    let at = |rank: f64| slopes[(rank.max(0.0) as usize).min(slopes.len() - 1)];
    let walk = walk_half_width(&part_rates(x, y));
    let low = at((middle - half).floor()).min(estimate - walk);
    let high = at((middle + half).ceil()).max(estimate + walk);
    [estimate, low, high].iter().all(|value| value.is_finite()).then_some(Growth {
        estimate,
        low,
        high,
    })
}

/// The rates of growth of equal parts of the series.
#[must_use]
pub(super) fn part_rates(x: &[f64], y: &[f64]) -> Vec<f64> {
    let last = x.len().min(y.len()).saturating_sub(1);
    let parts = PARTS.min(last);
    let edge = |part: usize| last * part / parts;
    (0..parts)
        .map(|part| {
            let (from, to) = (edge(part), edge(part + 1));
            (y[to] - y[from]) / (x[to] - x[from])
        })
        .collect()
}

fn pair_slopes(x: &[f64], y: &[f64]) -> Vec<f64> {
    let n = x.len().min(y.len());
    let mut slopes = Vec::with_capacity(n * (n - 1) / 2);
    for from in 0..n {
        for to in from + 1..n {
            if x[to] > x[from] {
                slopes.push((y[to] - y[from]) / (x[to] - x[from]));
            }
        }
    }
    slopes.sort_unstable_by(f64::total_cmp);
    slopes
}

fn inflation(residuals: &[f64]) -> f64 {
    let ranks = ranks(residuals);
    let n = ranks.len();
    let mean = ranks.iter().sum::<f64>() / n as f64;
    let variance: f64 = ranks.iter().map(|rank| (rank - mean).powi(2)).sum();
    if variance == 0.0 {
        return 1.0;
    }
    let mut sum = 0.0;
    for lag in 1..n - 2 {
        let pairs = ranks.iter().zip(&ranks[lag..]);
        let r = pairs.map(|(a, b)| (a - mean) * (b - mean)).sum::<f64>() / variance;
        if r.abs() > NORMAL_95 / (n as f64).sqrt() {
            sum += ((n - lag) * (n - lag - 1) * (n - lag - 2)) as f64 * r;
        }
    }
    (1.0 + 2.0 * sum / (n * (n - 1) * (n - 2)) as f64).max(1.0)
}

/// Ranks from 0; ties share the mean of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_unstable_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut from = 0;
    for tied in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let rank = from as f64 + (tied.len() - 1) as f64 / 2.0;
        tied.iter().for_each(|&index| ranks[index] = rank);
        from += tied.len();
    }
    ranks
}

fn walk_half_width(rates: &[f64]) -> f64 {
    STUDENT_95 * (WALK / rates.len() as f64).sqrt() * deviation(rates)
}

/// The standard deviation of a sample.
#[must_use]
pub(super) fn deviation(values: &[f64]) -> f64 {
    let mean = mean(values);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (squares / values.len().saturating_sub(1).max(1) as f64).sqrt()
}

/// The mean; 0 of nothing.
#[must_use]
pub(super) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}
