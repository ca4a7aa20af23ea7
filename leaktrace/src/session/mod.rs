//! A tracing session: from a recognised process to numbers per site, with everything put back in the end.

pub mod assess;
mod attach;
mod budgeted;
mod children;
mod claim;
mod cost;
mod drain;
mod end;
mod error;
mod finish;
mod guess;
mod heap;
mod held;
mod hooks;
mod intake;
mod listed;
mod outcome;
mod plan;
mod prediction;
mod recognise;
mod recount;
mod self_check;
mod start;
mod symbolize;
mod types;

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant, SystemTime};

use leaktrace_common::counter::Counter;
use leaktrace_common::limits::RING_BYTES;
use rustix::time::ClockId;

use crate::aggregator::{Aggregator, Snapshot};
use crate::kernel::Programs;
use crate::kernel::lock::Lock;
use crate::report::End;

pub use budgeted::Budget;
pub use children::{Followed, Forked};
pub use claim::{Family, heal, heal_descendants};
pub use error::SessionError;
pub use outcome::{About, ChildCounts, Progress, Traced};
pub use recognise::Target;
pub use symbolize::{Symbolizer, Walked};

use attach::Attached;
use budgeted::Budgeted;
use children::Children;
use cost::CostMeter;
use end::Watch;
use heap::HeapCheck;
use hooks::{HookWatch, UnwantedHits};
use intake::Intake;
use prediction::Verification;

/// How long a thread of the target may take from the NOP of a gate that was just closed to its record.
const STRAGGLERS: Duration = Duration::from_millis(2);

/// How to trace.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether the gate may be opened.
    pub gate: bool,
    /// Percent of the target's time that tracing may cost; `None` to trace every call at any cost.
    pub budget_pct: Option<f64>,
    /// Bytes for what is known of live blocks.
    pub max_memory: u64,
    /// Whether the BPF programs log.
    pub bpf_log: bool,
    /// Bytes of the ring buffer of events, a power of two.
    pub ring_bytes: u32,
    /// Where descendants are traced as well: which of them are. Their gates are not closed.
    pub followed: Option<Followed>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            gate: true,
            budget_pct: None,
            max_memory: 1 << 30,
            bpf_log: false,
            ring_bytes: RING_BYTES,
            followed: None,
        }
    }
}

/// Probes that are in place, and what they have told so far.
pub struct Session {
    // Fields are dropped in this order: the gate is closed before the probes are taken off.
    attached: Attached,
    budgeted: Option<Budgeted>,
    children: Children,
    programs: Programs,
    lock: Lock,
    options: Options,
    target: Target,
    aggregator: Aggregator,
    heap: HeapCheck,
    intake: Intake,
    verification: Verification,
    cost: CostMeter,
    watch: Watch,
    started: Instant,
    started_at: SystemTime,
    about: About,
    limit_bytes: Option<u64>,
    rss_start: Option<u64>,
    malformed: u64,
    hooks: HookWatch,
    unwanted: UnwantedHits,
    closed: bool,
    /// The time, of the records' clock, while the gate was open: some probes are hit before and after it as well, and
    /// to count frees without allocations would be wrong.
    window: Range<u64>,
    warnings: Vec<String>,
}

impl Session {
    /// The process that is traced.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// How it is getting on.
    #[must_use]
    pub fn progress(&self) -> Progress<'_> {
        Progress {
            elapsed: self.started.elapsed(),
            totals: self.aggregator.totals(),
            aggregator: &self.aggregator,
        }
    }

    /// The numbers per site as they are now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.aggregator.snapshot(now_ns())
    }

    /// Adds to what the user should know.
    pub fn warn(&mut self, warning: String) {
        self.warnings.push(warning);
    }

    /// The processes that the target and its descendants made since this was asked last, where descendants are followed.
    pub fn forked(&mut self) -> Vec<Forked> {
        self.children.forked()
    }

    /// The children that the target has already, as far as they have memory of their own.
    #[must_use]
    pub fn children(&self) -> Vec<u32> {
        let children = self.target.process.children().unwrap_or_default();
        children.into_iter().filter(|&pid| !children::may_share(pid, &self.attached.gate)).collect()
    }

    /// Whatever is due now and then, ten times a second: the end of the target, losses, predictions, the series.
    ///
    /// # Errors
    /// The maps of the kernel side cannot be read any more.
    pub fn tick(&mut self) -> Result<Option<End>, SessionError> {
        let counters = self.programs.counters()?;
        if self.verification.tick(&counters, &mut self.programs, &mut self.warnings)? {
            self.forget_obj_returns();
        }
        self.aggregator.set_losses(lost(&counters));
        self.aggregator.sample(now_ns());
        self.cost.tick(&self.programs, self.started.elapsed());
        self.children.tick(&mut self.programs, &self.attached.gate);
        if self.budgeted.is_some() {
            self.tick_budget();
        } else if self.hooks.look(&mut self.attached.gate, self.started.elapsed()) {
            self.intake.frees_unseen(self.hooks.misses());
        }
        Ok(self.watch.look(&self.target))
    }
}

/// `CLOCK_MONOTONIC`, which the records carry too.
fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

/// Allocations and frees that no site knows of.
fn lost(counters: &BTreeMap<Counter, u64>) -> u64 {
    counters.iter().filter(|(counter, _)| counter.loses_events()).map(|(_, count)| count).sum()
}
