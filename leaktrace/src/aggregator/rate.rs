//! A rate that rests on a sample, with its 95 % interval.
//!
//! The number of sampled blocks is Poisson's around its expectation. Jeffreys' interval for that expectation after `n` were
//! seen is from the 2.5 % to the 97.5 % quantile of Gamma(n + 1/2, 1); its coverage is 95 % on average over expectations,
//! where the exact interval of Garwood is wider than it says (Brown, Cai & DasGupta 2003, "Interval estimation in
//! exponential families", Statistica Sinica 13). Quantiles of Gamma by Wilson & Hilferty (1931), PNAS 17: off by less than
//! one percent from one block on.

/// A rate per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rate {
    /// The best guess.
    pub estimate: f64,
    /// The low end of the interval.
    pub low: f64,
    /// The high end of the interval.
    pub high: f64,
}

/// Two-sided 95 % of the normal distribution.
const NORMAL_95: f64 = 1.959_964;

impl Rate {
    /// A rate that rests on `effective` independent draws. Without any, nothing is known but that it may be anything up to
    /// three draws: the estimate alone is told.
    #[must_use]
    pub fn of(estimate: f64, effective: f64) -> Self {
        if effective <= 0.0 || !estimate.is_finite() {
            return Self { estimate, low: estimate, high: estimate };
        }
        let shape = effective + 0.5;
        let ends = [-NORMAL_95, NORMAL_95].map(|z| estimate * gamma(shape, z) / effective);
        Self { estimate, low: ends[0].min(ends[1]), high: ends[0].max(ends[1]) }
    }

    /// The same rate, of which a `share` may be off by a `factor` either way.
    #[must_use]
    pub fn loosened(self, share: f64, factor: f64) -> Self {
        let (less, more) = (1.0 - share + share / factor, 1.0 - share + share * factor);
        let ends = [self.low, self.high].map(|end| [end * less, end * more]);
        Self { low: ends[0][0].min(ends[0][1]), high: ends[1][0].max(ends[1][1]), ..self }
    }
}

/// The quantile of Gamma(`shape`, 1) that is the normal distribution's at `z`.
fn gamma(shape: f64, z: f64) -> f64 {
    let ninth = 1.0 / (9.0 * shape);
    let root = 1.0 - ninth + z * ninth.sqrt();
    shape * root.max(0.0).powi(3)
}

#[cfg(test)]
mod tests {
    use super::Rate;

    #[test]
    fn the_interval_is_that_of_jeffreys() {
        // R: qgamma(c(0.025, 0.975), c(10.5, 100.5))
        for (draws, low, high) in [(10.0, 5.142, 17.74), (100.0, 81.81, 121.1)] {
            let rate = Rate::of(draws, draws);
            assert!((rate.low / low - 1.0).abs() < 0.01, "{rate:?}");
            assert!((rate.high / high - 1.0).abs() < 0.01, "{rate:?}");
        }
        let falling = Rate::of(-5.0, 100.0);
        assert!(falling.low < -5.0 && falling.high > -5.0);
        assert_eq!(Rate::of(0.0, 0.0), Rate::default());
        let rate = Rate { estimate: 10.0, low: 8.0, high: 13.0 };
        assert_eq!(rate.loosened(0.0, 10.0), rate);
        assert_eq!(rate.loosened(1.0, 10.0), Rate { estimate: 10.0, low: 0.8, high: 130.0 });
        let falling = Rate { estimate: -10.0, low: -13.0, high: -8.0 };
        assert_eq!(falling.loosened(1.0, 10.0), Rate { estimate: -10.0, low: -130.0, high: -0.8 });
    }
}
