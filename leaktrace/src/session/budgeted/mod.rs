//! Tracing that costs the target no more than its budget: windows, and what is known between them by looking.

mod contention;
mod earlier;
mod fresh;
mod lane;
mod limits;
mod older;
mod raw;
mod reading;
mod remarks;
mod sampling;
mod sight;
mod steps;
mod switch;
mod weights;
mod windows;
mod work;

use std::time::Duration;

use rustc_hash::FxHashMap;

use super::attach::Attached;
use super::cost::CostMeter;
use super::heap::HeapCheck;
use super::recognise::Target;
use super::recount::Recount;
use super::types;
use super::{SessionError, now_ns};
use crate::aggregator::{Aggregator, Born, Domain, OlderFrees, Sampled, Scale, Snapshot, Weight};
use crate::budget::{Controller, share_of_hits};
use crate::cpython::census::{Census, Resident};
use crate::gate::Gate;
use crate::inspector::{Identity, Inspector};
use crate::kernel::Programs;

pub(super) use contention::Contention;
use earlier::Earlier;
use fresh::Fresh;
pub(super) use limits::Closer;
use older::Older;
use sampling::{Gaps, Sampling};
use sight::Sight;
use weights::Part;
use windows::{Parts, Windows};

/// How often it is looked which sampled blocks are to be looked at: many at once cost less.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How often the sample of older blocks is looked at.
const OLDER_EVERY: Duration = Duration::from_secs(10);

/// What opening and closing the gate cost the target: some pointers that its processors must fetch again.
const OPENING_NS: f64 = 3_000.0;

/// What a probe that is put in and taken out costs it: its memory map is locked and a page of its code copied, twice.
const PUTTING_NS: f64 = 40_000.0;

/// Memory that the sites of sampled blocks may take, as a share of all.
const SAMPLED_SHARE: u64 = 8;

/// What there is to be spent.
#[derive(Debug)]
pub(super) struct Share {
    /// Percent of the target's time.
    pub(super) budget_pct: f64,
    /// Bytes of leaktrace's own memory.
    pub(super) max_memory: u64,
    /// What a hit is expected to cost until that is measured.
    pub(super) hit_ns: f64,
    /// What is known already of who wants the target's processor too.
    pub(super) contention: Contention,
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
    looked_at: Duration,
    older_looked_at: Duration,
    /// Whether anything went unseen since the start.
    gaps: bool,
    fresh: Fresh,
    /// Blocks of a window that were counted after it.
    late: Vec<u64>,
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
    /// Percent that it cost of the time that was the target's, as estimated.
    pub overhead_pct: f64,
    /// Seconds that it cost, as estimated.
    pub overhead_s: f64,
    /// Share of the time in which events were taken.
    pub traced_fraction: f64,
    /// Windows that were open for too long.
    pub overruns: u64,
    /// What closes a gate that is open for too long: `kernel` or `guard`.
    pub closer: &'static str,
    /// Whether all blocks of the raw domain were seen, so that their numbers are exact.
    pub whole_raw: bool,
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
        let Share { budget_pct, max_memory, hit_ns, contention } = share;
        let now = now_ns();
        let opening_ns = OPENING_NS + attached.for_windows.len() as f64 * PUTTING_NS;
        let controller = Controller::new(share_of_hits(budget_pct), hit_ns, opening_ns, now);
        let pid = target.process.pid();
        let parts = Parts { gate: &attached.gate, probes: attached.for_windows.clone() };
        let windows = Windows::new(
            pid,
            parts,
            (controller, share_of_hits(budget_pct), contention),
            closer,
            programs,
        )?;
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
            looked_at: Duration::ZERO,
            older_looked_at: Duration::ZERO,
            gaps: false,
            fresh: Fresh::default(),
            late: Vec::new(),
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

    /// Whether a window is to open now.
    pub(super) fn meets_work(&mut self, programs: &Programs) -> bool {
        self.windows.meets_work() && !self.windows.must_wait_for(programs)
    }

    /// Whether it is time to look at the open window.
    pub(super) fn is_to_be_looked_at(&self) -> bool {
        self.windows.is_open() && self.windows.idle().is_zero()
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
        let Some((seen, goes_on)) = self.windows.look(gate, programs)? else { return Ok(None) };
        let mut identities = FxHashMap::default();
        let Self { windows, inspector, fresh, .. } = self;
        fresh.begin(seen.since_ns, windows.controller.pause_ns());
        fresh.take(programs);
        let part = windows.weigh(&seen, fresh.active_ns(seen.ended_ns));
        let mut identify = |programs: &mut Programs| {
            fresh.take(programs);
            fresh.leave_out_those_on_their_way();
            identities = identify(inspector, fresh, target);
        };
        let counts = if goes_on && !end {
            identify(programs);
            true
        } else {
            windows.close(gate, programs, identify)?
        };
        // A gap before it, or behind it.
        let has_gap = part.weight.births > 1 || !counts || !(goes_on || end);
        self.gaps |= has_gap;
        let on_their_way = fresh.on_their_way().collect();
        Ok(Some(Looked { part, identities, on_their_way, counts }))
    }

    /// Takes in what `seen` counted of a part.
    pub(super) fn admit(&mut self, looked: &Looked, seen: &mut Aggregator) {
        let (born, raw) = self.turn_over(seen, looked.part.ended_ns);
        // In a window that goes on their frees will be seen.
        if !self.windows.is_open() {
            let on_their_way = looked.on_their_way.iter().filter(|address| !raw.contains(address));
            on_their_way.for_each(|&address| seen.find_dead(address));
        }
        if looked.counts {
            self.sampling.admit(&born, &looked.identities, &looked.part, seen);
        } else {
            born.iter().for_each(|&address| seen.find_dead(address));
        }
        self.admit_raw(&raw, looked.part.ended_ns, seen);
    }

    /// Takes in what `seen` counted between windows: raw blocks, where all of them are seen.
    pub(super) fn admit_between(&mut self, seen: &mut Aggregator) {
        let now = now_ns();
        let (born, raw) = self.turn_over(seen, now);
        // Of the window that has just ended, on their way until now.
        self.late.extend(born);
        self.admit_raw(&raw, now, seen);
    }

    /// Who died, and who was born: objects, and raw blocks where all of these are seen.
    fn turn_over(&mut self, seen: &mut Aggregator, at_ns: u64) -> (Vec<u64>, Vec<u64>) {
        let mut turnover = seen.take_turnover();
        self.sampling.died(&turnover.died, at_ns);
        self.older.died(&turnover.died);
        turnover.born.append(&mut self.late);
        // An address can have been handed out more than once.
        turnover.born.sort_unstable();
        turnover.born.dedup();
        self.older.died(&turnover.born);
        let is_raw = |address: &u64| {
            let block = seen.block(*address);
            block.is_some_and(|block| seen.site(block.site).is_some_and(|it| it.1 == Domain::Raw))
        };
        if self.windows.sees_all_raw() {
            turnover.born.into_iter().partition(|address| !is_raw(address))
        } else {
            (turnover.born, Vec::new())
        }
    }

    fn admit_raw(&mut self, raw: &[u64], at_ns: u64, seen: &Aggregator) {
        if !raw.is_empty() {
            let part = self.windows.seen_part(at_ns);
            self.sampling.admit(raw, &FxHashMap::default(), &part, seen);
        }
    }

    /// Whatever is due now and then.
    pub(super) fn tick(
        &mut self,
        target: &Target,
        seen: &mut Aggregator,
        cost: &CostMeter,
        elapsed: Duration,
    ) {
        if let Some(ns) = cost.hit_ns() {
            self.windows.controller.set_hit_ns(ns);
        }
        if let Some(ns) = cost.raw_hit_ns() {
            self.windows.raw_hit_ns = Some(ns);
        }
        self.windows.heed_contention();
        if elapsed < self.looked_at + LOOK_EVERY {
            return;
        }
        let gaps = self.all_gaps();
        let mut sight = sight(&mut self.inspector, target);
        if !self.sampling.look(&mut sight, seen, gaps) {
            self.looked_at = elapsed;
        }
        if elapsed >= self.older_looked_at + OLDER_EVERY {
            self.older_looked_at = elapsed;
            self.older.look(&mut sight);
        }
    }

    /// Looks at everything for the last time. The target must still be there.
    pub(super) fn look_at_all(&mut self, target: &Target, seen: &mut Aggregator, end_ns: u64) {
        let gaps = self.all_gaps();
        let mut sight = sight(&mut self.inspector, target);
        self.sampling.look_at_all(&mut sight, seen, gaps, end_ns);
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
        let whole_raw = self.windows.sees_all_raw();
        if self.is_whole() {
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
        let (mut snapshot, living) = sampled.estimate(&seen, &scale, whole_raw);
        // Frees go unseen all the time, and nothing is counted by them.
        snapshot.totals.missed_frees = 0;
        snapshot.older_frees = older_frees(&snapshot, gone.as_ref());
        let bytes = |blocks: &Born| blocks.iter().map(|(&class, n)| class as f64 * n).sum::<f64>();
        let net_pool_bytes = gone.map(|gone| (bytes(&living) - bytes(&gone)).round() as i64);
        Some(Estimated { snapshot, net_pool_bytes, scale })
    }

    const fn all_gaps(&self) -> Gaps {
        let lane = &self.windows.lane;
        Gaps { objects: self.gaps, raw: self.gaps && !lane.is_whole() || lane.has_fallen() }
    }

    /// Whether nothing went unseen since the start.
    const fn is_whole(&self) -> bool {
        !self.gaps && !self.windows.lane.has_fallen()
    }

    /// What it has come to.
    pub(super) fn outcome(&self) -> Budget {
        Budget {
            budget_pct: self.budget_pct,
            overhead_pct: self.windows.overhead_pct(),
            overhead_s: self.windows.controller.spent_ns() / 1e9,
            traced_fraction: self.windows.traced_fraction(),
            overruns: self.windows.overruns,
            closer: match self.windows.closer {
                Closer::Kernel => "kernel",
                Closer::Guard => "guard",
            },
            whole_raw: self.windows.sees_all_raw() || self.is_whole(),
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
    identities: FxHashMap<u64, Option<Identity>>,
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
fn identify(
    inspector: &mut Inspector,
    fresh: &Fresh,
    target: &Target,
) -> FxHashMap<u64, Option<Identity>> {
    let blocks: Vec<(u64, u64)> = fresh.live().collect();
    let identities = inspector.identify(target.memory.as_ref(), &blocks);
    blocks.into_iter().map(|(address, _)| address).zip(identities).collect()
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
