//! Tracing that costs the target no more than its budget: windows, and what is known between them by looking.

mod earlier;
mod fresh;
mod older;
mod reading;
mod sampling;
mod sight;
mod windows;

use std::time::Duration;

use rustc_hash::FxHashMap;

use super::attach::Attached;
use super::cost::CostMeter;
use super::heap::HeapCheck;
use super::recognise::Target;
use super::recount::Recount;
use super::types;
use super::{Session, SessionError, now_ns};
use crate::aggregator::{Aggregator, Born, OlderFrees, Sampled, Scale, Snapshot, Weight};
use crate::budget::Controller;
use crate::cpython::census::{Census, Resident};
use crate::gate::Gate;
use crate::inspector::{Identity, Inspector};
use crate::kernel::Programs;

use earlier::Earlier;
use fresh::Fresh;
use older::Older;
use sampling::Sampling;
use sight::Sight;
pub(super) use windows::Closer;
use windows::{Part, Windows};

/// How often the sample of older blocks is looked at.
const OLDER_EVERY: Duration = Duration::from_secs(10);

/// How long taking off a probe may take.
const LONG_NS: u64 = 400_000_000;

/// Memory that the sites of sampled blocks may take, as a share of all.
const SAMPLED_SHARE: u64 = 8;

/// What there is to be spent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    /// Percent of the target's time.
    pub(super) budget_pct: f64,
    /// Bytes of leaktrace's own memory.
    pub(super) max_memory: u64,
    /// What a hit is expected to cost until that is measured.
    pub(super) hit_ns: f64,
}

/// What a session estimates.
pub(super) struct Estimated {
    /// The numbers of all sites.
    pub(super) snapshot: Snapshot,
    /// By how many bytes, rounded up to size classes, these say that pymalloc's live blocks changed.
    pub(super) net_pool_bytes: Option<i64>,
    /// What the sampled blocks stand for.
    pub(super) scale: Scale,
}

/// What keeps a session to its budget.
pub(super) struct Budgeted {
    budget_pct: f64,
    windows: Windows,
    inspector: Inspector,
    sampling: Sampling,
    older: Older,
    older_looked_at: Duration,
    /// Whether anything went unseen since the start.
    gaps: bool,
    fresh: Fresh,
    recount: Recount,
    earlier: Option<Earlier>,
    /// Whether the estimates rest on that.
    uses_earlier: bool,
    /// Whether it is time to count on.
    counts_next: bool,
}

/// What a budgeted session has come to, beside its sites.
#[derive(Clone, Debug)]
pub struct Budget {
    /// Percent of the target's time that it was to cost at most.
    pub budget_pct: f64,
    /// Percent that it cost, as estimated.
    pub overhead_pct: f64,
    /// Share of the time in which events were taken.
    pub traced_fraction: f64,
    /// Windows that were open for too long.
    pub overruns: u64,
    /// What closes a gate that is open for too long: `kernel` or `guard`.
    pub closer: &'static str,
}

impl Budgeted {
    /// Begins with a closed gate.
    ///
    /// # Errors
    /// The kernel side or the guard.
    pub(super) fn start(
        share: Share,
        closer: Closer,
        (target, attached, census): (&Target, &Attached, Option<&Census>),
        programs: &mut Programs,
    ) -> Result<Self, SessionError> {
        let Share { budget_pct, max_memory, hit_ns } = share;
        let now = now_ns();
        let controller = Controller::new(budget_pct / 100.0, hit_ns, now);
        let raw = |slot: &crate::gate::Slot| attached.is_raw(slot);
        let pid = target.process.pid();
        let windows = Windows::new(pid, &attached.gate, raw, controller, closer, programs)?;
        let class_shift = (target.pymalloc.usedpools != 0).then_some(target.pymalloc.class_shift);
        let mut inspector = types::inspector(target);
        let older = census.map_or_else(Older::default, |census| {
            Older::draw(&mut sight(&mut inspector, target), census)
        });
        let memory = usize::try_from(max_memory / SAMPLED_SHARE).unwrap_or(usize::MAX);
        Ok(Self {
            budget_pct,
            windows,
            inspector,
            sampling: Sampling::new(Sampled::new(memory, now), class_shift),
            older,
            older_looked_at: Duration::ZERO,
            gaps: false,
            fresh: Fresh::default(),
            recount: Recount::default(),
            earlier: None,
            uses_earlier: false,
            counts_next: false,
        })
    }

    /// How long nothing needs to be done.
    pub(super) fn idle(&self) -> Duration {
        self.windows.idle()
    }

    /// Opens a window whose time has come and waits for its end. Returns whether there is one to look at.
    ///
    /// # Errors
    /// The gate cannot be opened, or must not be.
    pub(super) fn open(
        &mut self,
        gate: &Gate,
        programs: &mut Programs,
    ) -> Result<bool, SessionError> {
        if self.windows.is_due() {
            self.windows.open(gate, programs)?;
        }
        Ok(self.windows.is_open() && self.windows.idle().is_zero())
    }

    /// Ends the window or lets it go on. In both cases the records until then are to be taken, and [`Self::admit`] is to
    /// be told of what came of them.
    ///
    /// # Errors
    /// The target is gone, or the kernel side cannot be asked.
    pub(super) fn look(
        &mut self,
        end: bool,
        target: &Target,
        gate: &Gate,
        programs: &mut Programs,
    ) -> Result<Option<Looked>, SessionError> {
        let Some((part, goes_on)) = self.windows.look(gate, programs)? else { return Ok(None) };
        let mut identities = FxHashMap::default();
        let Self { windows, inspector, fresh, .. } = self;
        let mut identify = |programs: &mut Programs| {
            fresh.take(programs);
            identities = identify(inspector, fresh, target);
        };
        let counts = if goes_on && !end {
            identify(programs);
            true
        } else {
            windows.close(gate, programs, identify)?
        };
        // A gap before it, or behind it.
        self.gaps |= part.weight.births > 1 || !counts || !(goes_on || end);
        let on_their_way = fresh.on_their_way().collect();
        Ok(Some(Looked { part, identities, on_their_way, counts }))
    }

    /// Takes in what `seen` counted of a part.
    pub(super) fn admit(&mut self, looked: &Looked, seen: &mut Aggregator) {
        let mut turnover = seen.take_turnover();
        // An address can have been handed out more than once.
        turnover.born.sort_unstable();
        turnover.born.dedup();
        let now = looked.part.ended_ns;
        self.sampling.died(&turnover.died, now);
        self.older.died(&turnover.died);
        self.older.died(&turnover.born);
        // In a window that goes on their frees will be seen.
        if !self.windows.is_open() {
            looked.on_their_way.iter().for_each(|&address| seen.find_dead(address));
        }
        if looked.counts {
            self.sampling.admit(&turnover.born, &looked.identities, &looked.part, seen);
        } else {
            turnover.born.iter().for_each(|&address| seen.find_dead(address));
        }
    }

    /// Whatever is due now and then.
    pub(super) fn tick(
        &mut self,
        target: &Target,
        seen: &mut Aggregator,
        cost: &CostMeter,
        programs: &Programs,
        elapsed: Duration,
    ) {
        if let Some(ns) = cost.hit_ns(programs) {
            self.windows.controller.set_hit_ns(ns);
        }
        let mut sight = sight(&mut self.inspector, target);
        self.sampling.look(&mut sight, seen, self.gaps);
        if elapsed >= self.older_looked_at + OLDER_EVERY {
            self.older_looked_at = elapsed;
            self.older.look(&mut sight);
        }
    }

    /// Looks at everything for the last time. The target must still be there.
    pub(super) fn look_at_all(&mut self, target: &Target, seen: &mut Aggregator) {
        let mut sight = sight(&mut self.inspector, target);
        self.sampling.look_at_all(&mut sight, seen, self.gaps);
        self.older.look(&mut sight);
    }

    /// The numbers of all sites as they are estimated; `None` where nothing went unseen, so that those of `seen` are true.
    /// `end` is the last census; without it they rest on an earlier one, if there is one.
    fn estimate(
        &mut self,
        seen: &Aggregator,
        heap: &HeapCheck,
        end: Option<&Census>,
        at_ns: u64,
    ) -> Option<Estimated> {
        if !self.gaps {
            return None;
        }
        let seen = seen.snapshot(at_ns);
        self.uses_earlier = end.is_none() && self.earlier.is_some();
        let sampled = &self.sampling.sampled;
        let (scale, gone) = match (heap.first().zip(end), &self.earlier) {
            (Some((start, end)), _) => {
                (sampled.scale(Some(&self.older.born(start, end))), Some(self.older.gone(start)))
            }
            (None, Some(earlier)) => (earlier.scale.clone(), Some(earlier.gone.clone())),
            (None, None) => (sampled.scale(None), None),
        };
        let (mut snapshot, living) = sampled.estimate_by(&seen, &scale);
        // Frees go unseen all the time, and nothing is counted by them.
        snapshot.totals.missed_frees = 0;
        snapshot.older_frees = older_frees(&snapshot, gone.as_ref());
        let bytes = |blocks: &Born| blocks.iter().map(|(&class, n)| class as f64 * n).sum::<f64>();
        let net_pool_bytes = gone.map(|gone| (bytes(&living) - bytes(&gone)).round() as i64);
        Some(Estimated { snapshot, net_pool_bytes, scale })
    }

    /// What it has come to.
    pub(super) fn outcome(&self) -> Budget {
        Budget {
            budget_pct: self.budget_pct,
            overhead_pct: self.windows.overhead_pct(),
            traced_fraction: self.windows.traced_fraction(),
            overruns: self.windows.overruns(),
            closer: match self.windows.closer {
                Closer::Kernel => "kernel",
                Closer::Guard => "guard",
            },
        }
    }

    /// What the reader should know.
    pub(super) fn warnings(&self) -> Vec<String> {
        self.windows.warnings()
    }

    /// The trace begins then.
    pub(super) fn begin(&mut self, at_ns: u64) {
        self.sampling.sampled.begin(at_ns);
    }

    /// The records that were taken already, and what tells when births were sampled.
    pub(super) fn parts(&mut self) -> (&mut Fresh, &Windows) {
        (&mut self.fresh, &self.windows)
    }
}

/// A part of a window that was looked at.
pub(super) struct Looked {
    part: Part,
    identities: FxHashMap<u64, Identity>,
    /// Blocks that nobody may have got so far.
    on_their_way: Vec<u64>,
    /// Whether the frees were seen until the blocks that outlived it were looked at.
    counts: bool,
}

impl Looked {
    /// How many births each one that was seen stands for.
    pub(super) fn weight(&self) -> Weight {
        // The next window stands for the time of one that does not count.
        let births = if self.counts { self.part.weight.births } else { 0 };
        Weight { births, ..self.part.weight }
    }
}

fn sight<'a>(inspector: &'a mut Inspector, target: &'a Target) -> Sight<'a> {
    let resident = Resident::of(target.process.pid());
    Sight { inspector, memory: target.memory.as_ref(), resident }
}

/// What the blocks hold that were just handed out and not given back.
fn identify(inspector: &mut Inspector, fresh: &Fresh, target: &Target) -> FxHashMap<u64, Identity> {
    let blocks: Vec<(u64, u64)> = fresh.live().collect();
    let identities = inspector.identify(target.memory.as_ref(), &blocks);
    let known =
        |((address, _), identity): ((u64, u64), Option<Identity>)| Some((address, identity?));
    blocks.into_iter().zip(identities).filter_map(known).collect()
}

/// Frees of blocks older than the trace, as if they had come evenly.
fn older_frees(snapshot: &Snapshot, gone: Option<&Born>) -> Vec<OlderFrees> {
    let gone: f64 = gone.map_or(0.0, |gone| gone.values().sum());
    let passed = snapshot.at_ns.saturating_sub(snapshot.started_at_ns);
    let last = (passed / snapshot.interval_ns.max(1)) as u32;
    let until = |part: f64| OlderFrees {
        index: (f64::from(last) * part) as u32,
        obj: (gone * part) as u64,
        raw: 0,
    };
    vec![until(0.5), until(1.0)]
}

impl Session {
    /// How long nothing needs to be done.
    #[must_use]
    pub fn idle(&self) -> Option<Duration> {
        self.budgeted.as_ref().map(Budgeted::idle)
    }

    /// Opens or ends a window whose time has come.
    ///
    /// # Errors
    /// The gate cannot be opened, or must not be.
    pub fn step(&mut self) -> Result<(), SessionError> {
        let Some(budgeted) = &mut self.budgeted else { return Ok(()) };
        let opened = budgeted.open(&self.attached.gate, &mut self.programs);
        let looked = match opened {
            Ok(true) => self.look_at_window(false),
            other => other.map(|_| ()),
        };
        self.count_between_windows();
        match looked {
            // The target is gone, which the next tick tells.
            Err(SessionError::Gate(_)) => Ok(()),
            other => other,
        }
    }

    /// Ends the window that is open, if there is one.
    pub(super) fn end_window(&mut self) {
        if let Err(error) = self.look_at_window(true) {
            // A target that has ended has no gate to close, and the guard sees to any other.
            tracing::debug!("the last window: {error}");
        }
    }

    fn look_at_window(&mut self, end: bool) -> Result<(), SessionError> {
        let Self { budgeted: Some(budgeted), target, attached, programs, .. } = self else {
            return Ok(());
        };
        let Some(looked) = budgeted.look(end, target, &attached.gate, programs)? else {
            return Ok(());
        };
        self.aggregator.weigh(looked.weight());
        self.drain();
        if let Some(budgeted) = &mut self.budgeted {
            budgeted.admit(&looked, &mut self.aggregator);
        }
        Ok(())
    }

    /// Whether a window is open, which is looked at before its records are taken.
    #[must_use]
    pub fn is_in_window(&self) -> bool {
        self.budgeted.as_ref().is_some_and(|budgeted| budgeted.windows.is_open())
    }

    /// Something is about to be done that takes long; an open window is not looked at meanwhile.
    pub(super) fn leave_window_alone(&mut self) -> Result<(), SessionError> {
        match &mut self.budgeted {
            Some(budgeted) => budgeted.windows.leave_alone(LONG_NS, &mut self.programs),
            None => Ok(()),
        }
    }

    pub(super) fn tick_budget(&mut self) {
        let Self { budgeted: Some(budgeted), target, aggregator, cost, programs, started, .. } =
            self
        else {
            return;
        };
        budgeted.tick(target, aggregator, cost, programs, started.elapsed());
        budgeted.counts_next = true;
    }

    /// The numbers of all sites as they are estimated, where not everything was seen. `end` is the last census; `is_there`
    /// says whether the target can be looked at.
    pub(super) fn estimate(&mut self, end: Option<&Census>, is_there: bool) -> Option<Estimated> {
        let budgeted = self.budgeted.as_mut()?;
        if is_there {
            budgeted.look_at_all(&self.target, &mut self.aggregator);
        }
        budgeted.estimate(&self.aggregator, &self.heap, end, self.window.end)
    }
}
