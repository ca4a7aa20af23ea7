//! What tracing costs the target: hits, times what a hit takes on this host.
//!
//! A hit costs the trap (timed at start with an empty program on leaktrace's own process, with an instruction that the
//! kernel handles like the one of the probe) and the run of its program
//! (measured by the kernel for a moment, every now and then: measuring itself costs some 40 ns a run). What the trap
//! costs the target afterwards, by cold caches and mispredicted branches, is not in it: on a loop of nothing but
//! allocations and frees the estimate was 95 % where 99 % of the time went into tracing.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::Duration;

use super::attach::Attached;
use crate::gate::point::Cost;
use crate::kernel::calibrate::EmptyHit;
use crate::kernel::{Probe, Programs, Runs};

/// How long the programs' runs are measured at a time.
const MEASURED_FOR: Duration = Duration::from_millis(200);

/// How often they are measured, and how often until [`ENOUGH_SPELLS`] were.
const MEASURED_EVERY: Duration = Duration::from_secs(2);
const MEASURED_FIRST_EVERY: Duration = Duration::from_millis(100);
const ENOUGH_SPELLS: usize = 3;

/// Spells of measuring that count: the latest.
const MOST_SPELLS: usize = 5;

/// A hit and a run, where nothing was measured yet.
const SOME_HIT_NS: f64 = 1_000.0;
const SOME_RUN_NS: f64 = 1_500.0;

/// Runs from which on the mean of a spell says something.
const ENOUGH_RUNS: u64 = 50;

/// The estimate of the cost, as far as it is known.
#[derive(Debug, Default)]
pub(super) struct CostMeter {
    empty_hit: Option<EmptyHit>,
    /// The probes that stand on instructions which the kernel steps over.
    stepped: Vec<Probe>,
    statistics: Option<OwnedFd>,
    changes_at: Duration,
    /// What had been measured of each probe when the spell began.
    before: Vec<(Probe, Runs)>,
    prices: Prices,
    raw_prices: Prices,
}

/// What a hit cost in each of the latest spells in which it was measured.
#[derive(Debug, Default)]
struct Prices(VecDeque<f64>);

impl Prices {
    fn add(&mut self, price_ns: f64) {
        if self.0.len() == MOST_SPELLS {
            self.0.pop_front();
        }
        self.0.push_back(price_ns);
    }

    /// The one in the middle, of an even number the lower: a host that takes the processor away in the middle of a run, for
    /// as long as thousands of others take, spoils one spell.
    fn usual(&self) -> Option<f64> {
        let mut prices: Vec<f64> = self.0.iter().copied().collect();
        prices.sort_unstable_by(f64::total_cmp);
        prices.get(prices.len().saturating_sub(1) / 2).copied()
    }
}

impl CostMeter {
    /// Times an empty hit.
    pub(super) fn calibrate(programs: &mut Programs) -> Self {
        let empty_hit = match crate::kernel::calibrate::empty_hit(programs) {
            Ok(hit) => Some(hit),
            Err(error) => {
                tracing::warn!("the cost of tracing stays unknown: {error}");
                None
            }
        };
        Self { empty_hit, ..Self::default() }
    }

    /// Says where the probes are.
    pub(super) fn know(&mut self, attached: &Attached) {
        let is_stepped = |probe: &Probe| attached.cost_of(*probe) == Cost::SingleStepped;
        self.stepped = Probe::of_targets().filter(is_stepped).collect();
    }

    /// Nanoseconds of a trap into `probe`.
    fn trap_ns(&self, probe: Probe) -> Option<f64> {
        let hit = self.empty_hit?;
        Some(if self.stepped.contains(&probe) { hit.stepped_ns } else { hit.emulated_ns })
    }

    /// What a hit is expected to cost before any was measured: the dearest.
    pub(super) fn first_hit_ns(&self) -> f64 {
        let traps = Probe::of_targets().filter_map(|probe| self.trap_ns(probe));
        traps.reduce(f64::max).unwrap_or(SOME_HIT_NS) + SOME_RUN_NS
    }

    /// What a hit usually costs; `None` before enough of them were measured.
    pub(super) fn hit_ns(&self) -> Option<f64> {
        self.prices.usual()
    }

    /// The same of raw functions, whose allocations have a probe on their return as well.
    pub(super) fn raw_hit_ns(&self) -> Option<f64> {
        self.raw_prices.usual()
    }

    /// What a hit cost since the spell began.
    fn price_ns(&self, programs: &Programs, of: impl Fn(Probe) -> bool) -> Option<f64> {
        let (mut entries, mut spent) = (0, 0.0);
        for &(probe, before) in self.before.iter().filter(|(probe, _)| of(*probe)) {
            let now = programs.runs(probe);
            let count = now.count.saturating_sub(before.count);
            spent += count as f64 * self.trap_ns(probe)? + now.ns.saturating_sub(before.ns) as f64;
            if !probe.is_return() {
                entries += count;
            }
        }
        (entries >= ENOUGH_RUNS).then(|| spent / entries as f64)
    }

    /// Switches the kernel's measuring on and off; `elapsed` since the start of the session.
    pub(super) fn tick(&mut self, programs: &Programs, elapsed: Duration) {
        if elapsed < self.changes_at {
            return;
        }
        if self.statistics.take().is_some() {
            let prices =
                [self.price_ns(programs, |_| true), self.price_ns(programs, Probe::is_raw)];
            for (price, all) in prices.into_iter().zip([&mut self.prices, &mut self.raw_prices]) {
                price.into_iter().for_each(|price| all.add(price));
            }
            let few = self.prices.0.len() < ENOUGH_SPELLS;
            self.changes_at = elapsed + if few { MEASURED_FIRST_EVERY } else { MEASURED_EVERY };
        } else {
            let runs = |probe| (probe, programs.runs(probe));
            self.before = Probe::of_targets().map(runs).collect();
            self.statistics = crate::kernel::measure_runs();
            self.changes_at = elapsed + MEASURED_FOR;
        }
    }

    /// Percent of the target's time that went into `allocations` and `frees` in `elapsed`.
    pub(super) fn overhead_pct(
        &self,
        programs: &Programs,
        allocations: u64,
        frees: u64,
        elapsed: Duration,
    ) -> Option<f64> {
        let run = |probe| Some(self.trap_ns(probe)? + programs.mean_run_ns(probe)?);
        let alloc = run(Probe::ObjMalloc).or_else(|| run(Probe::RawMalloc));
        let free = run(Probe::ObjFree).or_else(|| run(Probe::RawFree));
        // Nothing to measure is nothing spent; runs that nobody measured are not known.
        let alloc = alloc.or((allocations == 0).then_some(0.0))?;
        let free = free.or((frees == 0).then_some(0.0))?;
        let spent = allocations as f64 * alloc + frees as f64 * free;
        let elapsed = elapsed.as_nanos() as f64;
        // Threads that run in parallel can spend more than the time that passes; more than all of it is not said.
        (elapsed > 0.0).then(|| (100.0 * spent / elapsed).min(100.0))
    }
}

#[cfg(test)]
mod tests {
    use super::Prices;

    #[test]
    fn a_spell_in_which_the_host_took_the_processor_away_does_not_count() {
        let mut prices = Prices::default();
        assert_eq!(prices.usual(), None);
        prices.add(30_000.0);
        assert_eq!(prices.usual(), Some(30_000.0));
        prices.add(1_000.0);
        assert_eq!(prices.usual(), Some(1_000.0));
        prices.add(1_200.0);
        assert_eq!(prices.usual(), Some(1_200.0));
        (0..5).for_each(|_| prices.add(2_000.0));
        assert_eq!(prices.usual(), Some(2_000.0), "a host that became slower is believed");
    }
}
