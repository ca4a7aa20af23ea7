//! Puts a report together from what the trace found.

use super::document::{
    Breakdown, Bytes, Counter, Frame, Function, Growth, HeapCount, Memory, Report, SCHEMA, Seconds,
    SelfCheck, Session, Site, Target, TypeShare,
};
use super::id::site_id;
use super::package;
use super::redact::{self, Cmdline};
use crate::aggregator::{SiteSnapshot, Snapshot, Totals};
use crate::detector::{self, Judgement, MIN_POINTS, MIN_SECONDS, SiteSeries, Verdict};
use leaktrace_common::counter::Counter as KernelCounter;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Points of a series at most.
const MAX_POINTS: usize = 300;

/// The traced process.
#[derive(Clone, Debug, Default)]
pub struct TargetInfo {
    /// Its pid, as the host numbers it.
    pub pid: u32,
    /// Its program.
    pub exe: Option<String>,
    /// Its command line as it stands; secrets are taken out here.
    pub cmdline: Vec<String>,
    /// How much of the command line may go out.
    pub show_cmdline: Cmdline,
    /// Version of CPython.
    pub python: Option<String>,
    /// Build id of the module that holds the interpreter, in hex.
    pub build_id: Option<String>,
    /// The host.
    pub hostname: Option<String>,
    /// Its cgroup.
    pub cgroup: Option<String>,
}

/// How much is traced.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    /// Every event.
    Exact,
    /// As much as costs this many percent.
    Budget(f64),
}

/// Where the calls are caught.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// On a NOP before the functions.
    Nop,
    /// On a jump to the functions.
    Jump,
    /// Behind `endbr64`.
    Endbr,
    /// On the functions' entries.
    Entry,
    /// Nowhere.
    Off,
}

/// Why the trace ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its time was over.
    Duration,
    /// A signal asked for it.
    Signal,
    /// The target ended.
    TargetExited,
    /// The target became another program.
    TargetExec,
    /// The target could no longer be traced.
    Lost,
}

/// How it was traced.
#[derive(Clone, Debug)]
pub struct SessionInfo {
    /// When tracing began.
    pub started_at: OffsetDateTime,
    /// Seconds from then on.
    pub duration_s: f64,
    /// How much was traced.
    pub mode: Mode,
    /// Estimated share of the target's time spent in traps, in percent.
    pub overhead_pct: Option<f64>,
    /// The same in seconds.
    pub overhead_s: Option<f64>,
    /// Share of the time in which events were taken, 0 to 1.
    pub traced_fraction: Option<f64>,
    /// Where the calls were caught.
    pub gate: Gate,
    /// Share of the allocator's functions whose calls can be seen, in percent.
    pub coverage_pct: Option<f64>,
    /// How the calls of each of them are seen.
    pub functions: Vec<Function>,
    /// Why it ended.
    pub end: End,
    /// Windows that stayed open for too long.
    pub window_overruns: u64,
    /// What closes those.
    pub window_closer: Option<&'static str>,
    /// `exact` or `sampled`: the numbers of raw blocks.
    pub raw_blocks: &'static str,
    /// Processes with a copy of its memory that it made, and how many of these have their gate closed.
    pub children: Option<(u64, u64)>,
}

/// The process's memory, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryInfo {
    /// Resident at the start.
    pub rss_start: Option<u64>,
    /// Resident at the end.
    pub rss_end: Option<u64>,
    /// The limit of its cgroup.
    pub limit_bytes: Option<u64>,
}

/// What pymalloc's heap did, by the census; bytes are blocks times their size class.
#[derive(Clone, Debug, Default)]
pub struct HeapInfo {
    /// In live blocks at the start.
    pub live_start: Option<u64>,
    /// In live blocks at the end.
    pub live_end: Option<u64>,
    /// In arenas at the end.
    pub held_end: Option<u64>,
    /// Percent of the change of the live bytes that the events explain; none where they changed little.
    pub explained_pct: Option<f64>,
    /// How well it was counted: `exact`, `partial`, `sampled` or `none`.
    pub census: &'static str,
    /// Seconds from the last count that the numbers rest on to the end; none where they rest on none.
    pub census_age_s: Option<f64>,
    /// What lived over time; none where pools cannot be counted.
    pub points: Option<Vec<HeapPoint>>,
    /// What the trace could verify of itself.
    pub self_check: Option<SelfCheck>,
}

/// What a count of pymalloc's heap said.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeapPoint {
    /// Seconds since tracing began.
    pub at_s: f64,
    /// Bytes in live blocks, rounded up to their size classes.
    pub live_bytes: u64,
    /// Bytes in arenas.
    pub held_bytes: u64,
    /// Between which the live bytes are with 95 % confidence, where some of the pools were counted alone.
    pub bounds: Option<(u64, u64)>,
}

/// All that a report is made of.
#[derive(Clone, Debug)]
pub struct Findings<'a> {
    /// The sites.
    pub snapshot: &'a Snapshot,
    /// One for each site, in the same order: see [`judge_all`](detector::judge_all).
    pub judgements: &'a [Judgement],
    /// What the live blocks of each site are, in the same order; not known of those that are missing.
    pub types: &'a [Option<Vec<TypeShare>>],
    /// The process.
    pub target: TargetInfo,
    /// The trace.
    pub session: SessionInfo,
    /// The process's memory.
    pub memory: MemoryInfo,
    /// The process's heap.
    pub heap: HeapInfo,
    /// What the kernel side counted.
    pub counters: &'a [(KernelCounter, u64)],
    /// What the reader should know, in sentences.
    pub warnings: Vec<String>,
}

/// Makes the report. A site without a judgement is stable.
#[must_use]
pub fn build(findings: Findings<'_>) -> Report {
    let mut warnings = findings.warnings;
    warnings.extend(loss_warnings(&findings.snapshot.totals));
    Report {
        schema: SCHEMA,
        leaktrace: env!("CARGO_PKG_VERSION"),
        target: target(findings.target),
        session: session(&findings.session, findings.snapshot, &findings.heap),
        memory: Memory {
            rss_start: findings.memory.rss_start,
            rss_end: findings.memory.rss_end,
            limit_bytes: findings.memory.limit_bytes,
            pymalloc_live_start: findings.heap.live_start,
            pymalloc_live_end: findings.heap.live_end,
            pymalloc_held_end: findings.heap.held_end,
            pymalloc_series: findings.heap.points.as_deref().map(heap_series),
            breakdown: breakdown(&findings.heap),
            ..Memory::default()
        },
        sites: sites(findings.snapshot, findings.judgements, findings.types),
        counters: counters(findings.counters),
        warnings,
    }
}

fn target(target: TargetInfo) -> Target {
    Target {
        pid: target.pid,
        exe: target.exe,
        cmdline: redact::cmdline(&target.cmdline, target.show_cmdline),
        python: target.python,
        build_id: target.build_id,
        hostname: target.hostname,
        cgroup: target.cgroup,
    }
}

fn heap_series(points: &[HeapPoint]) -> Vec<HeapCount> {
    let count = |point: &HeapPoint| HeapCount {
        at_s: finite(point.at_s).unwrap_or(0.0),
        live_bytes: point.live_bytes,
        low: point.bounds.map(|(low, _)| low),
        high: point.bounds.map(|(_, high)| high),
        held_bytes: point.held_bytes,
    };
    points.iter().map(count).collect()
}

/// As far as the census knows: without one, nothing.
fn breakdown(heap: &HeapInfo) -> Option<Breakdown> {
    let (live, held) = (heap.live_end?, heap.held_end?);
    Some(Breakdown {
        python_live: Some(live),
        pymalloc_free: Some(held.saturating_sub(live)),
        ..Breakdown::default()
    })
}

fn session(session: &SessionInfo, snapshot: &Snapshot, heap: &HeapInfo) -> Session {
    let totals = &snapshot.totals;
    let (mode, budget_pct) = match session.mode {
        Mode::Exact => ("exact", None),
        Mode::Budget(percent) => ("budget", finite(percent)),
    };
    let started_at = session.started_at.to_offset(time::UtcOffset::UTC);
    Session {
        // Only a year of more than four digits has no such form.
        started_at: started_at.format(&Rfc3339).unwrap_or_default(),
        duration_s: finite(session.duration_s).unwrap_or(0.0),
        mode,
        budget_pct,
        overhead_pct: session.overhead_pct.and_then(finite),
        overhead_s: session.overhead_s,
        traced_fraction: session.traced_fraction.and_then(finite),
        allocations_fraction: budget_pct.and_then(|_| allocations_fraction(snapshot)),
        gate: session.gate.name(),
        coverage_pct: session.coverage_pct.and_then(finite),
        functions: session.functions.clone(),
        end: session.end.name(),
        exit_status: None,
        allocations_seen: totals.allocations_seen,
        frees_seen: totals.frees_seen,
        frees_of_older_blocks: totals.frees_of_older_blocks,
        events_lost: totals.events_lost,
        window_overruns: session.window_overruns,
        window_closer: session.window_closer,
        raw_blocks: session.raw_blocks,
        heap_growth_explained_pct: heap.explained_pct.and_then(finite),
        census_age_s: heap.census_age_s.and_then(finite),
        self_check: heap.self_check.clone(),
        children_seen: session.children.map(|(seen, _)| seen),
        children_closed: session.children.map(|(_, closed)| closed),
    }
}

/// Those that were seen, of those that they stand for.
fn allocations_fraction(snapshot: &Snapshot) -> Option<f64> {
    let all: u64 = snapshot.sites.iter().map(|site| site.estimated.allocations).sum();
    let seen = snapshot.totals.allocations_seen;
    (all > 0).then(|| seen as f64 / all.max(seen) as f64).and_then(finite)
}

fn sites(
    snapshot: &Snapshot,
    judgements: &[Judgement],
    types: &[Option<Vec<TypeShare>>],
) -> Vec<Site> {
    let stable = Judgement::default();
    let types = types.iter().cloned().chain(std::iter::repeat(None));
    let judgements = judgements.iter().chain(std::iter::repeat(&stable));
    let mut sites: Vec<(Verdict, Site)> = snapshot
        .sites
        .iter()
        .zip(judgements)
        .zip(types)
        .map(|((found, judgement), types)| {
            (judgement.verdict, Site { types, ..site(snapshot, found, judgement) })
        })
        .collect();
    // Nothing is less than no estimate, so null comes last.
    let estimate =
        |site: &Site| site.growth_bytes_per_s.map_or(f64::NEG_INFINITY, |it| it.estimate);
    sites.sort_by(|(verdict_a, a), (verdict_b, b)| {
        verdict_a
            .cmp(verdict_b)
            .then(estimate(b).total_cmp(&estimate(a)))
            .then(b.live_bytes.cmp(&a.live_bytes))
            .then(a.id.cmp(&b.id))
    });
    sites.into_iter().map(|(_, site)| site).collect()
}

fn site(snapshot: &Snapshot, site: &SiteSnapshot, judgement: &Judgement) -> Site {
    let counts = site.counts;
    Site {
        id: site_id(&site.stack, site.domain),
        verdict: judgement.verdict.name(),
        judged: is_judged(&SiteSeries::of(snapshot, site)),
        confidence: None,
        evidence: judgement.evidence.clone(),
        pattern: None,
        growth_bytes_per_s: judgement.growth_bytes_per_s.and_then(growth),
        growth_blocks_per_s: judgement.growth_blocks_per_s.and_then(|it| finite(it.estimate)),
        live_bytes: counts.live_bytes(),
        live_blocks: counts.live_blocks(),
        allocated_bytes: counts.allocated_bytes,
        freed_bytes: counts.freed_bytes,
        allocations: counts.allocations,
        frees: counts.frees,
        sampled_blocks: site.sampling.as_ref().map_or(counts.allocations, |it| it.blocks),
        domain: site.domain.name(),
        types: None,
        age_s: site.ages_ns.map(|ages| Seconds {
            p50: seconds(ages.p50),
            p90: seconds(ages.p90),
            max: seconds(ages.max),
        }),
        size_bytes: site.sizes.map(|sizes| Bytes {
            p50: sizes.p50,
            p90: sizes.p90,
            max: sizes.max,
        }),
        stack: site.stack.frames.iter().map(frame).collect(),
        stack_truncated: site.stack.truncated,
        series: series(snapshot, site),
    }
}

/// Whether the detector had what it asks for, whatever came of it.
fn is_judged(series: &SiteSeries) -> bool {
    let seen = &series.observations;
    let first_s = seen.first().map_or(series.end_s, |seen| seen.at_s);
    seen.len() >= MIN_POINTS && series.end_s - first_s >= MIN_SECONDS
}

fn frame(frame: &crate::stack::Frame) -> Frame {
    Frame {
        function: frame.function.to_string(),
        file: frame.file.to_string(),
        line: frame.line,
        package: package::of(&frame.file),
    }
}

/// The points of a site, with a corner before each change that came after a quiet time, so that a line through them
/// is true.
fn series(snapshot: &Snapshot, site: &SiteSnapshot) -> Vec<(f64, u64)> {
    let end_ns = snapshot.at_ns.saturating_sub(snapshot.started_at_ns);
    let end_of = |index: u64| (index + 1).saturating_mul(snapshot.interval_ns).min(end_ns);
    let mut points: Vec<(u64, u64)> = Vec::new();
    let mut push = |at_ns: u64, bytes: u64| match points.last_mut() {
        Some(last) if last.0 >= at_ns => last.1 = bytes,
        _ => points.push((at_ns, bytes)),
    };
    let mut before = 0;
    for point in &site.points {
        let index = u64::from(point.index);
        push(index.saturating_mul(snapshot.interval_ns).min(end_ns), before);
        push(end_of(index), point.live_bytes);
        before = point.live_bytes;
    }
    push(end_ns, before);
    // The axis has no more intervals than that; this only guards a snapshot that was made otherwise.
    let excess = points.len().saturating_sub(MAX_POINTS);
    points.drain(..excess);
    points.into_iter().map(|(at_ns, bytes)| (seconds(at_ns), bytes)).collect()
}

fn counters(counted: &[(KernelCounter, u64)]) -> Vec<Counter> {
    let counted = counted.iter().filter(|(_, count)| *count > 0);
    counted
        .map(|&(counter, count)| Counter {
            id: counter as u32,
            name: counter.name(),
            count,
            text: counter.describe(),
        })
        .collect()
}

fn loss_warnings(totals: &Totals) -> Vec<String> {
    [
        (totals.events_lost, "events were lost: live numbers are not exact"),
        (totals.missed_frees, "frees were not seen, as later blocks at the same addresses showed"),
        (
            totals.untracked_blocks,
            "blocks were not tracked, for want of memory: they are in no site",
        ),
        (
            totals.undefined_stacks,
            "blocks have a stack that could not be resolved: they are in the site without frames",
        ),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, text)| format!("{count} {text}"))
    .collect()
}

fn growth(growth: detector::Growth) -> Option<Growth> {
    Some(Growth {
        estimate: finite(growth.estimate)?,
        low: finite(growth.low)?,
        high: finite(growth.high)?,
    })
}

/// To the microsecond, which keeps documents short.
fn seconds(ns: u64) -> f64 {
    (ns / 1000) as f64 / 1e6
}

/// To six digits behind the point; none where it is no number.
fn finite(value: f64) -> Option<f64> {
    value.is_finite().then(|| (value * 1e6).round() / 1e6).filter(|value| value.is_finite())
}

impl Gate {
    /// The name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nop => "nop",
            Self::Jump => "jump",
            Self::Endbr => "endbr",
            Self::Entry => "entry",
            Self::Off => "off",
        }
    }
}

impl End {
    /// The name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Duration => "duration",
            Self::Signal => "signal",
            Self::TargetExited => "target_exited",
            Self::TargetExec => "target_exec",
            Self::Lost => "lost",
        }
    }
}
