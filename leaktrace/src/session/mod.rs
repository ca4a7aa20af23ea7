//! A tracing session: from a recognised process to numbers per site, with everything put back in the end.

pub mod assess;
mod attach;
mod children;
mod claim;
mod cost;
mod drain;
mod end;
mod error;
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
mod self_check;
mod symbolize;

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant, SystemTime};

use leaktrace_common::counter::Counter;
use leaktrace_common::limits::RING_BYTES;
use rustix::time::ClockId;

use crate::aggregator::{Aggregator, Options as AggregatorOptions, Snapshot};
use crate::cpython::code::CodeCache;
use crate::gate::Outcome;
use crate::kernel::Programs;
use crate::kernel::features::{Kernel, ReturnProbes};
use crate::kernel::lock::Lock;
use crate::report::End;

pub use children::{Followed, Forked};
pub use claim::{Family, heal, heal_descendants};
pub use error::SessionError;
pub use outcome::{About, ChildCounts, Progress, Traced};
pub use recognise::Target;
pub use symbolize::{Symbolizer, Walked};

use attach::Attached;
use children::Children;
use claim::Claim;
use cost::CostMeter;
use end::Watch;
use heap::HeapCheck;
use hooks::{HookWatch, UnwantedHits};
use intake::Intake;
use prediction::Verification;

/// What a session says that found a gate open.
const WAS_OPEN: &str = "a gate that a killed leaktrace had left open was closed";

/// How long a thread of the target may take from the NOP of a gate that was just closed to its record.
const STRAGGLERS: Duration = Duration::from_millis(2);

/// How long calls that should not come any more are counted, once the gate was closed for the second time.
const SECOND_LOOK: Duration = Duration::from_millis(20);

/// How to trace.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether the gate may be opened.
    pub gate: bool,
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
    /// Puts probes on `pid` and opens its gate.
    ///
    /// # Errors
    /// [`SessionError`]; the target is then as it was.
    pub async fn start(pid: u32, options: Options) -> Result<Self, SessionError> {
        let kernel = Kernel::check()?;
        // Not until the process is locked does anything in it hold still: what is found before that is only to tell a
        // CPython from anything else.
        drop(Target::recognise(pid).await?);
        let claim = Claim::on(pid).await?;
        let (mut target, was_open) = claim.recognise().await?;
        let lock = claim.into_lock()?;
        let mut warnings = std::mem::take(&mut target.warnings);
        warnings.extend(was_open.then(|| WAS_OPEN.to_owned()));
        let return_probes = return_probes(&kernel, &target, &mut warnings)?;
        let places = plan::places(&target, gates(&target, &options));
        let raw_malloc_unseen = plan::lacks_raw_malloc(&places);
        let record_at_obj = return_probes && (raw_malloc_unseen || target.pymalloc.usedpools == 0);
        let config = target.config(&kernel, record_at_obj);
        let mut programs = Programs::load_with(&config, options.bpf_log, options.ring_bytes)?;
        let cost = CostMeter::calibrate(&mut programs);
        let watch = Watch::new(pid)?;
        let attach_began = Instant::now();
        let attached = attach::attach(&mut programs, &target, places, return_probes).await?;
        warnings.extend(attached.warnings(target.tables.inlined));
        let verification = Verification::new(
            config.pymalloc.usedpools != 0 && !record_at_obj,
            return_probes,
            &mut programs,
            &mut warnings,
        )?;
        let mut aggregator = aggregator(&options, &attached);
        let heap = HeapCheck::start(&target, &mut aggregator);
        let children = Children::watch(&mut programs, config.forks, &options, &mut warnings);
        let opening = open(&attached, &mut warnings)?;
        let opened_ns = now_ns();
        aggregator.begin(opened_ns);
        Ok(Self {
            intake: intake(&target, &attached, opening.misses),
            about: About::of(&target.process),
            limit_bytes: target.process.memory_limit().ok().flatten(),
            rss_start: target.process.rss().ok(),
            attached,
            children,
            programs,
            lock,
            options,
            target,
            aggregator,
            heap,
            verification,
            cost,
            watch,
            started: Instant::now(),
            started_at: SystemTime::now(),
            malformed: 0,
            hooks: HookWatch::start(opening.misses),
            unwanted: UnwantedHits::since(attach_began, opening.began_ns),
            closed: false,
            window: opened_ns..u64::MAX,
            warnings,
        })
    }

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
        self.verification.tick(&counters, &mut self.programs, &mut self.warnings)?;
        self.aggregator.set_losses(lost(&counters));
        self.aggregator.sample(now_ns());
        self.cost.tick(self.started.elapsed());
        self.children.tick(&mut self.programs, &self.attached.gate);
        if self.hooks.look(&mut self.attached.gate, self.started.elapsed()) {
            self.intake.frees_unseen(self.hooks.misses());
        }
        Ok(self.watch.look(&self.target))
    }

    /// Closes the gate and takes what is still to come. Once the probes are dropped as well, the target is as it was.
    ///
    /// # Errors
    /// The maps of the kernel side cannot be read any more.
    pub fn finish(mut self, end: End) -> Result<Traced, SessionError> {
        let end = self.watch.how_it_ended(end, &self.target);
        self.close_for_good();
        let duration = self.started.elapsed();
        let is_there = !matches!(end, End::TargetExited | End::TargetExec);
        let census = is_there.then(|| self.heap.count_again(&self.target));
        if end == End::TargetExec {
            self.give_up();
        } else {
            self.drain_rest();
            self.see_to_unwanted_hits();
        }
        let rss_end = self.target.process.rss().ok().filter(|&rss| rss > 0);
        let rss_end = rss_end.or(self.watch.last_rss());
        let counters = self.programs.counters()?;
        self.aggregator.set_losses(lost(&counters));
        let totals = self.aggregator.totals();
        self.warnings.extend(self.hooks.warnings());
        let overhead_pct = self.cost.overhead_pct(
            &self.programs,
            totals.allocations_seen,
            totals.frees_seen,
            duration,
        );
        let snapshot = self.aggregator.snapshot(self.window.end);
        self.children.close_all(&mut self.programs, &self.attached.gate, &self.target.process);
        self.warnings.extend(self.children.warnings());
        self.warnings.extend(unreadable(self.malformed));
        let mut heap = self.heap.close_books(census, &self.aggregator, &mut self.warnings);
        heap.self_check = Some(self_check::of(
            &self.target,
            &self.verification,
            &counters,
            self.intake.symbolizer.whole_pct(),
            heap.census,
            &mut self.warnings,
        ));
        let gate = self.attached.main_kind().filter(|_| self.options.gate);
        Ok(Traced {
            started_at: self.started_at,
            duration,
            end,
            gate,
            coverage_pct: self.attached.coverage_pct(self.target.tables.inlined),
            functions: self.attached.functions(&self.target.tables),
            overhead_pct,
            snapshot,
            counters,
            unresolved: self.intake.symbolizer.unresolved().clone(),
            about: self.about,
            limit_bytes: self.limit_bytes,
            rss_start: self.rss_start,
            rss_end,
            heap,
            children: self.children.counts(),
            warnings: self.warnings,
            target: self.target,
            probes: (self.programs, self.attached.gate, self.lock),
        })
    }

    /// Closes the gate: the target then takes its own fast path again, and leaktrace may end in any way.
    pub fn close(&mut self) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        // Once frees are not seen any more, the names of new stacks cannot be trusted.
        self.drain();
        self.window.end = now_ns();
        let outcomes = self.attached.gate.close();
        // Those that were made before now have a copy of the open gate.
        self.children.close_all(&mut self.programs, &self.attached.gate, &self.target.process);
        if outcomes.is_ok_and(|outcomes| outcomes.contains(&Outcome::Foreign)) {
            self.warnings.push(
                "somebody else's hooks stood over the gate in the end; if they keep a copy of the table, run \
                 `leaktrace doctor` when they are gone"
                    .to_owned(),
            );
        }
    }

    fn close_for_good(&mut self) {
        self.close();
        std::thread::sleep(STRAGGLERS);
        // Whoever put back an old table meanwhile does not get away with it.
        let _ = self.attached.gate.close();
    }

    /// Where many calls still come by the closed gate, closes it once more; the target may have put back a table that it
    /// had saved.
    fn see_to_unwanted_hits(&mut self) {
        self.warnings.extend(self.unwanted.early_words());
        let open_until = Duration::from_nanos(self.window.end) + STRAGGLERS;
        let since = Duration::from_nanos(now_ns()).saturating_sub(open_until);
        if self.unwanted.many_late(since).is_none() {
            return;
        }
        let _ = self.attached.gate.close();
        std::thread::sleep(STRAGGLERS);
        self.drain_rest();
        // What was drained until now was on its way before.
        let _ = self.unwanted.many_late(STRAGGLERS);
        std::thread::sleep(SECOND_LOOK);
        self.drain_rest();
        let still = self.unwanted.many_late(SECOND_LOOK);
        self.warnings.extend(still.map(UnwantedHits::late_words));
    }
}

fn unreadable(records: u64) -> Option<String> {
    (records > 0).then(|| format!("{records} records of the kernel side could not be read"))
}

fn gates(target: &Target, options: &Options) -> plan::Gates {
    match (options.gate, target.layout.free_threaded) {
        (false, _) => plan::Gates::None,
        (true, true) => plan::Gates::Raw,
        (true, false) => plan::Gates::All,
    }
}

fn aggregator(options: &Options, attached: &Attached) -> Aggregator {
    Aggregator::new(AggregatorOptions {
        max_memory: usize::try_from(options.max_memory).unwrap_or(usize::MAX),
        started_at_ns: now_ns(),
        raw_free_seen: attached.raw_free_seen(),
    })
}

fn intake(target: &Target, attached: &Attached, misses: bool) -> Intake {
    let frees_seen = attached.sees_frees_of(&target.tables.obj, target.tables.inlined);
    let codes = CodeCache::new(target.layout.clone(), code_type(target), frees_seen);
    let mut intake = Intake::new(Symbolizer::new(codes));
    if misses {
        intake.frees_unseen(true);
    }
    intake
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

fn code_type(target: &Target) -> Option<u64> {
    target.module.symbol("PyCode_Type")
}

fn return_probes(
    kernel: &Kernel,
    target: &Target,
    warnings: &mut Vec<String>,
) -> Result<bool, SessionError> {
    let seccomp = target.process.seccomp()?.is_some_and(crate::target::process::Seccomp::filters);
    let reason = match kernel.return_probes(seccomp, target.process.has_shadow_stack()) {
        ReturnProbes::Safe => return Ok(true),
        ReturnProbes::KilledBySeccomp => "a seccomp filter",
        ReturnProbes::ShadowStack => "a shadow stack",
    };
    warnings.push(format!(
        "the target has {reason}, with which return probes of this kernel would kill it: blocks of the raw domain \
         (over 512 bytes) are not seen"
    ));
    Ok(false)
}

/// How the gate was opened.
struct Opening {
    began_ns: u64,
    /// Whether somebody's hooks stand in a slot, so that calls are missed.
    misses: bool,
}

fn open(attached: &Attached, warnings: &mut Vec<String>) -> Result<Opening, SessionError> {
    let began_ns = now_ns();
    let outcomes = attached.gate.open().map_err(SessionError::Gate)?;
    let foreign = outcomes.iter().filter(|&&outcome| outcome == Outcome::Foreign).count();
    if foreign > 0 {
        warnings.push(format!(
            "{foreign} of {} table slots changed while the gate was opened and are not seen",
            outcomes.len()
        ));
    }
    Ok(Opening { began_ns, misses: foreign > 0 })
}
