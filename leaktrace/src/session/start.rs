//! Puts everything in place for a session.

use std::time::{Instant, SystemTime};

use super::attach::{self, Attached, How};
use super::budgeted::{Budgeted, Closer, Contention, Share};
use super::children::Children;
use super::claim::Claim;
use super::cost::CostMeter;
use super::end::Watch;
use super::heap::HeapCheck;
use super::hooks::{HookWatch, UnwantedHits};
use super::intake::Intake;
use super::outcome::About;
use super::plan::{self, Place};
use super::prediction::Verification;
use super::{Options, Session, SessionError, Symbolizer, Target, now_ns};
use crate::aggregator::{Aggregator, Options as AggregatorOptions};
use crate::cpython::census::Census;
use crate::cpython::code::CodeCache;
use crate::gate::Outcome;
use crate::kernel::Programs;
use crate::kernel::features::{Kernel, ReturnProbes};
use crate::kernel::lock::Lock;

/// Bytes of a ring buffer that holds all that a budget pays for: at 5 % some 25,000 events in a second that nobody looks
/// at, most of them of 64 bytes, and new stacks of 2 KiB.
const BUDGET_RING_BYTES: u32 = 8 << 20;

/// What a session says that found a gate open.
const WAS_OPEN: &str = "a gate that a killed leaktrace had left open was closed";

impl Session {
    /// Puts probes on `pid` and opens its gate.
    ///
    /// # Errors
    /// [`SessionError`]; the target is then as it was.
    pub async fn start(pid: u32, options: Options) -> Result<Self, SessionError> {
        let kernel = Kernel::check()?;
        let (target, lock, mut warnings) = claim(pid).await?;
        let return_probes = return_probes(&kernel, &target, &mut warnings)?;
        let places = places(&target, &options)?;
        let record_at_obj = return_probes && is_recorded_at_obj(&target, &places);
        let closer = options.budget_pct.map(|_| Closer::find());
        let config = target.config(&kernel, record_at_obj, closer.map_or(0, Closer::windows));
        let mut programs = Programs::load_with(&config, options.bpf_log, ring_bytes(&options))?;
        let mut cost = CostMeter::calibrate(&mut programs);
        // Attaching takes a second or so, in which it is seen who else wants the processor.
        let (watch, contention) = (Watch::new(pid)?, Contention::new(pid, now_ns()));
        let attach_began = Instant::now();
        let how = How { return_probes, in_windows: closer.is_some() };
        let attached = put_probes(&mut programs, &target, places, how).await?;
        cost.know(&attached);
        warnings.extend(attached.warnings(target.tables.inlined));
        let can_predict = config.pymalloc.usedpools != 0 && !record_at_obj;
        let verification =
            Verification::new(can_predict, return_probes, &mut programs, &mut warnings)?;
        let mut aggregator = aggregator(&options, &attached);
        let heap = HeapCheck::start(&target, &mut aggregator);
        let children = Children::watch(&mut programs, config.forks, &options, &mut warnings);
        let parts = (&target, &attached, heap.first());
        let mut budgeted = budgeted(&options, closer, parts, (&cost, contention), &mut programs)?;
        let opening = if budgeted.is_some() {
            aggregator.note_turnover();
            Opening { began_ns: now_ns(), misses: false }
        } else {
            open(&attached, &mut warnings)?
        };
        let opened_ns = now_ns();
        aggregator.begin(opened_ns);
        budgeted.iter_mut().for_each(|budgeted| budgeted.begin(opened_ns));
        Ok(Self {
            intake: intake(&target, &attached, opening.misses, budgeted.is_none()),
            about: About::of(&target.process),
            limit_bytes: target.process.memory_limit().ok().flatten(),
            rss_start: target.process.rss().ok(),
            attached,
            budgeted,
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
}

/// The process, locked, and what the user should know of it so far.
async fn claim(pid: u32) -> Result<(Target, Lock, Vec<String>), SessionError> {
    // Not until the process is locked does anything in it hold still: what is found before that is only to tell a
    // CPython from anything else.
    drop(Target::recognise(pid).await?);
    let claim = Claim::on(pid).await?;
    let (mut target, was_open) = claim.recognise().await?;
    let lock = claim.into_lock()?;
    let mut warnings = std::mem::take(&mut target.warnings);
    warnings.extend(was_open.then(|| WAS_OPEN.to_owned()));
    Ok((target, lock, warnings))
}

/// The places for probes.
fn places(target: &Target, options: &Options) -> Result<Vec<Place>, SessionError> {
    let mut places = plan::places(target, gates(target, options));
    if options.budget_pct.is_some() {
        plan::prefer_closable(&mut places);
        plan::check_windows(&places, target)?;
    }
    Ok(places)
}

/// Whether blocks of all sizes are recorded where objects are allocated: those of the raw domain go unseen, or pymalloc does
/// not serve objects.
fn is_recorded_at_obj(target: &Target, places: &[Place]) -> bool {
    plan::lacks_raw_malloc(places) || target.pymalloc.usedpools == 0
}

/// Puts the probes in place; for windows they must suffice.
async fn put_probes(
    programs: &mut Programs,
    target: &Target,
    places: Vec<Place>,
    how: How,
) -> Result<Attached, SessionError> {
    let attached = attach::attach(programs, target, places, how).await?;
    if !how.in_windows || attached.sees_both_of(&target.tables.obj) {
        return Ok(attached);
    }
    let why = "this kernel lets no probe be put in and taken out for a moment where its allocator has no gate";
    Err(SessionError::NoWindows { pid: target.process.pid(), why })
}

/// Bytes of the ring buffer of events.
fn ring_bytes(options: &Options) -> u32 {
    let most = if options.budget_pct.is_some() { BUDGET_RING_BYTES } else { u32::MAX };
    options.ring_bytes.min(most)
}

/// What keeps the session to its budget, where it has one.
fn budgeted(
    options: &Options,
    closer: Option<Closer>,
    parts: (&Target, &Attached, Option<&Census>),
    (cost, contention): (&CostMeter, Contention),
    programs: &mut Programs,
) -> Result<Option<Budgeted>, SessionError> {
    let Some((budget_pct, closer)) = options.budget_pct.zip(closer) else { return Ok(None) };
    let hit_ns = cost.first_hit_ns();
    let share = Share { budget_pct, max_memory: options.max_memory, hit_ns, contention };
    Budgeted::start(share, closer, parts, programs).map(Some)
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

/// `all` says that frees are seen all the time: in windows they are not, and names are believed as they are read.
fn intake(target: &Target, attached: &Attached, misses: bool, all: bool) -> Intake {
    let frees_seen = all && attached.sees_frees_of(&target.tables.obj, target.tables.inlined);
    let codes = CodeCache::new(target.layout.clone(), code_type(target), frees_seen);
    let mut intake = Intake::new(Symbolizer::new(codes));
    if misses {
        intake.frees_unseen(true);
    }
    intake
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
