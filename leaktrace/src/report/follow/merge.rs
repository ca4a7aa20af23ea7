//! Sums over processes. The same code has the same site in each of them.

use std::collections::HashMap;
use std::time::SystemTime;

use super::super::document::{Breakdown, Growth, Memory, Site, TypeShare};
use super::{FollowedProcess, MergedSite, series};

/// The verdicts, the worst first.
const VERDICTS: [&str; 5] = ["leaking", "growing", "sawtooth", "plateaued", "stable"];

/// A site as one process had it.
struct Part<'a> {
    site: &'a Site,
    /// Seconds from the common start to the process's own.
    start_s: f64,
    pid: u32,
}

/// The sites of all processes, in the order of a report.
pub(super) fn sites(processes: &[FollowedProcess]) -> Vec<MergedSite> {
    let began = processes.iter().map(|process| process.started_at).min();
    let began = began.unwrap_or(SystemTime::UNIX_EPOCH);
    let mut parts: HashMap<&str, Vec<Part<'_>>> = HashMap::new();
    for process in processes {
        let start_s = process.started_at.duration_since(began).unwrap_or_default().as_secs_f64();
        let pid = process.report.target.pid;
        for site in &process.report.sites {
            parts.entry(&site.id).or_default().push(Part { site, start_s, pid });
        }
    }
    let mut sites: Vec<MergedSite> =
        parts.into_values().map(|parts| merge(parts, processes.len())).collect();
    let estimate =
        |site: &Site| site.growth_bytes_per_s.map_or(f64::NEG_INFINITY, |growth| growth.estimate);
    sites.sort_by(|MergedSite { site: a, .. }, MergedSite { site: b, .. }| {
        rank(a.verdict)
            .cmp(&rank(b.verdict))
            .then(estimate(b).total_cmp(&estimate(a)))
            .then(b.live_bytes.cmp(&a.live_bytes))
            .then(a.id.cmp(&b.id))
    });
    sites
}

fn rank(verdict: &str) -> usize {
    VERDICTS.iter().position(|&known| known == verdict).unwrap_or(VERDICTS.len())
}

fn merge(mut parts: Vec<Part<'_>>, processes: usize) -> MergedSite {
    let growth_of =
        |part: &Part<'_>| part.site.growth_bytes_per_s.map_or(f64::NEG_INFINITY, |it| it.estimate);
    parts.sort_by(|a, b| {
        rank(a.site.verdict)
            .cmp(&rank(b.site.verdict))
            .then(growth_of(b).total_cmp(&growth_of(a)))
            .then(a.pid.cmp(&b.pid))
    });
    let worst = &parts[0];
    let count = parts.len() as u64;
    let sum = |field: fn(&Site) -> u64| {
        parts.iter().map(|part| field(part.site)).fold(0, u64::saturating_add)
    };
    // As in a row of lines: an estimate that is not clear of zero is noise, which must not hide a leak beside it.
    let counted = || parts.iter().filter(|part| grows(part.site) || !grows(worst.site));
    let single = parts.len() == 1;
    let series: Vec<_> = parts.iter().map(|part| (part.start_s, &part.site.series)).collect();
    let site = Site {
        judged: parts.iter().any(|part| part.site.judged),
        evidence: evidence(&parts, processes),
        growth_bytes_per_s: growth(counted().filter_map(|part| part.site.growth_bytes_per_s)),
        growth_blocks_per_s: counted()
            .filter_map(|part| part.site.growth_blocks_per_s)
            .reduce(|a, b| a + b)
            .map(micro),
        live_bytes: sum(|site| site.live_bytes),
        live_blocks: sum(|site| site.live_blocks),
        allocated_bytes: sum(|site| site.allocated_bytes),
        freed_bytes: sum(|site| site.freed_bytes),
        allocations: sum(|site| site.allocations),
        frees: sum(|site| site.frees),
        sampled_blocks: sum(|site| site.sampled_blocks),
        types: types(&parts),
        // Quantiles of a whole do not follow from those of its parts.
        age_s: worst.site.age_s.filter(|_| single),
        size_bytes: worst.site.size_bytes.filter(|_| single),
        confidence: worst.site.confidence.filter(|_| single),
        series: series::sum(&series),
        ..worst.site.clone()
    };
    MergedSite { site, processes: count }
}

fn grows(site: &Site) -> bool {
    matches!(site.verdict, "leaking" | "growing")
}

/// What the worst process says of it, and in how many others it is as bad.
fn evidence(parts: &[Part<'_>], processes: usize) -> Vec<String> {
    let worst = &parts[0];
    let alike = parts.iter().filter(|part| part.site.verdict == worst.site.verdict).count();
    let mut evidence = vec![format!("{} in {alike} of {processes} processes", worst.site.verdict)];
    if !worst.site.evidence.is_empty() {
        evidence.push(format!("the worst is process {}:", worst.pid));
        evidence.extend(worst.site.evidence.iter().cloned());
    }
    evidence
}

/// The sum of rates whose errors have nothing to do with each other.
fn growth(rates: impl Iterator<Item = Growth>) -> Option<Growth> {
    let (mut sum, mut low, mut high, mut known) = (0.0, 0.0, 0.0, false);
    for rate in rates {
        known = true;
        sum += rate.estimate;
        low += (rate.estimate - rate.low).powi(2);
        high += (rate.high - rate.estimate).powi(2);
    }
    let (low, high) = (sum - f64::sqrt(low), sum + f64::sqrt(high));
    known.then(|| Growth { estimate: micro(sum), low: micro(low), high: micro(high) })
}

/// To six digits behind the point, as all numbers in reports.
fn micro(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

/// By name; none where one process does not know.
fn types(parts: &[Part<'_>]) -> Option<Vec<TypeShare>> {
    let mut types: Vec<TypeShare> = Vec::new();
    for part in parts {
        for share in part.site.types.as_ref()? {
            match types.iter_mut().find(|known| known.name == share.name) {
                Some(known) => {
                    known.blocks = known.blocks.saturating_add(share.blocks);
                    known.bytes = known.bytes.saturating_add(share.bytes);
                }
                None => types.push(share.clone()),
            }
        }
    }
    types.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.name.cmp(&b.name)));
    Some(types)
}

/// The memory of all: at the start of those that were traced from the first second on, at the end of those that
/// went on. What one of them does not know is not known of all.
pub(super) fn memory(processes: &[FollowedProcess]) -> Memory {
    let began = processes.iter().map(|process| process.started_at).min();
    let is_first = |process: &&FollowedProcess| {
        let after = began.and_then(|began| process.started_at.duration_since(began).ok());
        after.is_some_and(|after| after.as_secs_f64() < FIRST_S)
    };
    let first: Vec<&Memory> =
        processes.iter().filter(is_first).map(|process| &process.report.memory).collect();
    let last: Vec<&Memory> =
        processes.iter().filter(|it| it.lived_on).map(|process| &process.report.memory).collect();
    let breakdowns: Vec<&Breakdown> =
        last.iter().filter_map(|memory| memory.breakdown.as_ref()).collect();
    Memory {
        rss_start: total(&first, |memory| memory.rss_start),
        rss_end: total(&last, |memory| memory.rss_end),
        pymalloc_live_start: total(&first, |memory| memory.pymalloc_live_start),
        pymalloc_live_end: total(&last, |memory| memory.pymalloc_live_end),
        pymalloc_held_end: total(&last, |memory| memory.pymalloc_held_end),
        // Counts of different processes are not of the same moments.
        pymalloc_series: None,
        limit_bytes: limit(processes),
        time_to_limit_s: None,
        breakdown: (!last.is_empty() && breakdowns.len() == last.len()).then(|| Breakdown {
            python_live: total(&breakdowns, |it| it.python_live),
            pymalloc_free: total(&breakdowns, |it| it.pymalloc_free),
            raw_native: total(&breakdowns, |it| it.raw_native),
            file_backed: total(&breakdowns, |it| it.file_backed),
            other: total(&breakdowns, |it| it.other),
        }),
    }
}

/// What tracing cost all of them, of the time from the first start to the last end; `None` where it is not known of one.
pub(super) fn overhead_pct(processes: &[FollowedProcess]) -> Option<f64> {
    let began = processes.iter().map(|process| process.started_at).min()?;
    let (mut spent, mut end_s) = (0.0, 0.0_f64);
    for FollowedProcess { report, started_at, .. } in processes {
        let session = &report.session;
        let start_s = started_at.duration_since(began).unwrap_or_default().as_secs_f64();
        spent += session.overhead_s?;
        end_s = end_s.max(start_s + session.duration_s);
    }
    (end_s > 0.0).then(|| micro(100.0 * spent / end_s))
}

/// Seconds that it may take until all that were there are traced.
const FIRST_S: f64 = 5.0;

/// None where there is nothing to sum, or one part is not known.
fn total<T>(parts: &[&T], field: fn(&T) -> Option<u64>) -> Option<u64> {
    parts.iter().map(|part| field(part)).reduce(|a, b| Some(a?.saturating_add(b?)))?
}

/// That of the cgroup that all are in.
fn limit(processes: &[FollowedProcess]) -> Option<u64> {
    let (first, others) = processes.split_first()?;
    let cgroup = |process: &FollowedProcess| process.report.target.cgroup.clone();
    let shared = others.iter().all(|other| cgroup(other) == cgroup(first));
    first.report.memory.limit_bytes.filter(|_| shared && cgroup(first).is_some())
}
