//! Sites made of blocks with a birth and a death.

use super::super::{Losses, Observation, SiteSeries};
use fastrand::Rng;

const INTERVALS: usize = 250;
const NEVER: f64 = f64::INFINITY;

/// How long the trace is.
pub(super) struct Trace {
    pub seconds: f64,
}

/// The blocks of a site as (birth, death), in seconds.
#[derive(Default)]
pub(super) struct Site {
    pub blocks: Vec<(f64, f64)>,
    pub losses: Losses,
}

impl Trace {
    pub(super) fn any(random: &mut Rng) -> Self {
        Self { seconds: 10.0 * 30_f64.powf(random.f64()) }
    }

    pub(super) fn series(&self, site: &Site) -> SiteSeries {
        let mut changes: Vec<(f64, f64)> = Vec::new();
        let mut observations = vec![Observation::default(); INTERVALS];
        let interval = self.seconds / INTERVALS as f64;
        let index = |at: f64| ((at / interval) as usize).min(INTERVALS - 1);
        for &(birth, death) in site.blocks.iter().filter(|(birth, _)| *birth < self.seconds) {
            changes.push((birth, 1.0));
            observations[index(birth)].births += 1.0;
            if death < self.seconds {
                changes.push((death, -1.0));
            } else {
                observations[index(birth)].survivors += 1.0;
            }
        }
        changes.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut changes = changes.into_iter().peekable();
        let mut live: f64 = 0.0;
        for (index, seen) in observations.iter_mut().enumerate() {
            seen.at_s = index as f64 * interval;
            let mut low = live;
            let last = index + 1 == INTERVALS;
            while let Some((_, change)) =
                changes.next_if(|(at, _)| last || *at < seen.at_s + interval)
            {
                live += change;
                low = low.min(live);
            }
            (seen.low_blocks, seen.low_counted, seen.low_bytes) = (low, low, 64.0 * low);
        }
        SiteSeries { observations, end_s: self.seconds }
    }

    /// A rate that gives between so many blocks in all.
    fn rate(&self, random: &mut Rng, least: f64, most: f64) -> f64 {
        least * (most / least).powf(random.f64()) / self.seconds
    }

    /// Times of a Poisson process whose rate varies up to `peak`.
    fn arrivals(&self, random: &mut Rng, peak: f64, rate: impl Fn(f64) -> f64) -> Vec<f64> {
        let (mut at, mut times) = (0.0, Vec::new());
        loop {
            at += exponential(random, 1.0 / peak);
            if at >= self.seconds {
                return times;
            }
            if random.f64() * peak < rate(at) {
                times.push(at);
            }
        }
    }

    fn steady(&self, random: &mut Rng, rate: f64) -> Vec<f64> {
        self.arrivals(random, rate, |_| rate)
    }

    fn churn(&self, random: &mut Rng, births: f64, life_s: f64) -> Vec<(f64, f64)> {
        let times = self.steady(random, births);
        times.into_iter().map(|at| (at, at + exponential(random, life_s))).collect()
    }
}

fn exponential(random: &mut Rng, mean: f64) -> f64 {
    -mean * (1.0 - random.f64()).ln()
}

fn between(random: &mut Rng, least: f64, most: f64) -> f64 {
    least + (most - least) * random.f64()
}

fn for_ever(times: Vec<f64>) -> Vec<(f64, f64)> {
    times.into_iter().map(|at| (at, NEVER)).collect()
}

fn of(blocks: Vec<(f64, f64)>) -> Site {
    Site { blocks, losses: Losses::default() }
}

pub(super) fn steady_leak(random: &mut Rng, trace: &Trace) -> Site {
    let rate = trace.rate(random, 100.0, 5000.0);
    of(for_ever(trace.steady(random, rate)))
}

pub(super) fn leak_amid_churn(random: &mut Rng, trace: &Trace) -> Site {
    let mut site = steady_leak(random, trace);
    let (births, life) = (trace.rate(random, 500.0, 10_000.0), between(random, 0.01, 1.0));
    site.blocks.extend(trace.churn(random, births, life));
    site
}

pub(super) fn leak_under_bursts(random: &mut Rng, trace: &Trace) -> Site {
    let rate = trace.rate(random, 200.0, 5000.0);
    let period = trace.seconds / between(random, 15.0, 60.0);
    let on = |at: f64| if at % period < period / 2.0 { 2.0 * rate } else { 0.0 };
    of(for_ever(trace.arrivals(random, 2.0 * rate, on)))
}

pub(super) fn leak_under_varying_load(random: &mut Rng, trace: &Trace) -> Site {
    let rate = trace.rate(random, 200.0, 5000.0);
    let (period, phase) = (trace.seconds / between(random, 2.0, 20.0), 7.0 * random.f64());
    let load = |at: f64| rate * (1.0 + 0.3 * (at / period * std::f64::consts::TAU + phase).sin());
    of(for_ever(trace.arrivals(random, 1.3 * rate, load)))
}

pub(super) fn slow_leak(random: &mut Rng, trace: &Trace) -> Site {
    let rate = trace.rate(random, 40.0, 100.0);
    of(for_ever(trace.steady(random, rate)))
}

pub(super) fn leak_and_sawtooth(random: &mut Rng, trace: &Trace) -> Site {
    let mut site = steady_leak(random, trace);
    let period = trace.seconds / between(random, 12.0, 60.0);
    let rate = trace.rate(random, 500.0, 5000.0);
    site.blocks.extend(cleared(trace.steady(random, rate), |at| (at / period).ceil() * period));
    site
}

pub(super) fn leak_beside_turnover(random: &mut Rng, trace: &Trace) -> Site {
    let rate = trace.rate(random, 200.0, 5000.0);
    let losses = Losses { older_frees_per_s: 0.4 * random.f64() * rate, ..Losses::default() };
    Site { blocks: for_ever(trace.steady(random, rate)), losses }
}

fn cleared(times: Vec<f64>, at_next: impl Fn(f64) -> f64) -> Vec<(f64, f64)> {
    times.into_iter().map(|at| (at, at_next(at))).collect()
}

fn saw(random: &mut Rng, trace: &Trace) -> (Vec<f64>, f64, f64) {
    let rate = trace.rate(random, 100.0, 10_000.0);
    let period = trace.seconds / between(random, 1.5, 12.0);
    (trace.steady(random, rate), period, period * random.f64())
}

pub(super) fn sawtooth(random: &mut Rng, trace: &Trace) -> Site {
    let (times, period, phase) = saw(random, trace);
    of(cleared(times, |at| ((at + phase) / period).ceil() * period - phase))
}

/// Of each clearing, a part survives until the next one.
pub(super) fn partial_sawtooth(random: &mut Rng, trace: &Trace) -> Site {
    let (times, period, phase) = saw(random, trace);
    let kept = between(random, 0.0, 0.4);
    let mut blocks = Vec::new();
    for at in times {
        let mut death = ((at + phase) / period).ceil() * period - phase;
        while random.f64() < kept {
            death += period;
        }
        blocks.push((at, death));
    }
    of(blocks)
}

pub(super) fn growing_sawtooth(random: &mut Rng, trace: &Trace) -> Site {
    let rate = trace.rate(random, 100.0, 10_000.0);
    let (first, factor) = (trace.seconds * between(random, 0.02, 0.3), between(random, 1.1, 1.8));
    let next = |at: f64| {
        let (mut clear, mut period) = (first, first);
        while clear < at {
            period *= factor;
            clear += period;
        }
        clear
    };
    of(cleared(trace.steady(random, rate), next))
}

/// Keys out of a set, all as likely: it fills like 1 - exp(-t/tau).
pub(super) fn filling_cache(random: &mut Rng, trace: &Trace) -> Site {
    let peak = trace.rate(random, 200.0, 10_000.0);
    let tau = trace.seconds * between(random, 0.1, 0.7);
    of(for_ever(trace.arrivals(random, peak, |at| peak * (-at / tau).exp())))
}

/// Fills in a part of the trace, then every birth ends the oldest.
pub(super) fn bounded_cache(random: &mut Rng, trace: &Trace) -> Site {
    let rate = trace.rate(random, 100.0, 10_000.0);
    let full = (rate * trace.seconds * between(random, 0.05, 0.85)) as usize;
    let times = trace.steady(random, rate);
    let death = |index: usize| times.get(index + full).copied().unwrap_or(NEVER);
    of(times.iter().enumerate().map(|(index, &at)| (at, death(index))).collect())
}

/// Full before the trace began: every birth ends a block that is older than the trace.
pub(super) fn full_cache(random: &mut Rng, trace: &Trace) -> Site {
    let rate = trace.rate(random, 100.0, 10_000.0);
    let older_frees_per_s = rate * between(random, 0.8, 3.0);
    let losses = Losses { older_frees_per_s, ..Losses::default() };
    Site { blocks: for_ever(trace.steady(random, rate)), losses }
}

/// Keys by Zipf's law: new ones come as a power of time.
pub(super) fn skewed_cache(random: &mut Rng, trace: &Trace) -> Site {
    let power = between(random, 0.3, 0.7);
    let total = trace.rate(random, 200.0, 5000.0) * trace.seconds;
    let times = (0..total as usize).map(|_| trace.seconds * random.f64().powf(1.0 / power));
    of(for_ever(times.collect()))
}

pub(super) fn working_set(random: &mut Rng, trace: &Trace) -> Site {
    let rate = trace.rate(random, 100.0, 10_000.0);
    let life = trace.seconds * 0.001 * 300_f64.powf(random.f64());
    of(trace.churn(random, rate, life))
}

/// Blocks live for a fixed time, and there are ever more of them.
pub(super) fn rising_load(random: &mut Rng, trace: &Trace) -> Site {
    let peak = trace.rate(random, 500.0, 10_000.0);
    let life = trace.seconds * between(random, 0.01, 0.25);
    let times = trace.arrivals(random, peak, |at| peak * (0.1 + 0.9 * at / trace.seconds));
    of(times.into_iter().map(|at| (at, at + life)).collect())
}

/// Any change is up or down alike; any live block may be the one that dies.
pub(super) fn random_walk(random: &mut Rng, trace: &Trace) -> Site {
    let rate = trace.rate(random, 100.0, 5000.0);
    let (mut live, mut dead) = (Vec::new(), Vec::new());
    for at in trace.steady(random, rate) {
        if live.is_empty() || random.bool() {
            live.push(at);
        } else {
            let index = random.usize(..live.len());
            dead.push((live.swap_remove(index), at));
        }
    }
    dead.extend(for_ever(live));
    of(dead)
}

pub(super) fn warm_up(random: &mut Rng, trace: &Trace) -> Site {
    let until = trace.seconds * between(random, 0.05, 0.7);
    let rate = trace.rate(random, 100.0, 5000.0) * trace.seconds / until;
    let mut blocks =
        for_ever(trace.arrivals(random, rate, |at| if at < until { rate } else { 0.0 }));
    let (births, life) = (trace.rate(random, 100.0, 5000.0), between(random, 0.01, 1.0));
    blocks.extend(trace.churn(random, births, life));
    of(blocks)
}

/// Modules that are imported late.
pub(super) fn few_steps(random: &mut Rng, trace: &Trace) -> Site {
    let mut blocks = Vec::new();
    for _ in 0..random.usize(1..5) {
        let at = trace.seconds * random.f64();
        let step = random.usize(20..2000);
        blocks.extend((0..step).map(|n| (at + 1e-5 * n as f64, NEVER)));
    }
    of(blocks)
}

/// A queue that is served more slowly than it fills: it grows, but every block is freed in its turn.
pub(super) fn backlog(random: &mut Rng, trace: &Trace) -> Site {
    let rate = trace.rate(random, 500.0, 10_000.0);
    let served = rate * between(random, 0.5, 0.9);
    let times = trace.steady(random, rate);
    let death = |index: usize| (index as f64 / served).max(times[index] + 0.001);
    of(times.iter().enumerate().map(|(index, &at)| (at, death(index))).collect())
}
