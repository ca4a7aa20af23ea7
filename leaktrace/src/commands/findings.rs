//! From what a session has come to, to the report.

use std::collections::BTreeMap;

use time::OffsetDateTime;

use crate::cpython::code::Reason;
use crate::detector::judge_all;
use crate::gate::point::Kind;
use crate::report::{
    self, Cmdline, Findings, Gate, MemoryInfo, Mode, Report, SessionInfo, TargetInfo,
};
use crate::session::Traced;

/// The report of a session.
pub(super) fn report(traced: &Traced, show_cmdline: Cmdline) -> Report {
    let judgements = judge_all(&traced.snapshot);
    let counters: Vec<_> =
        traced.counters.iter().map(|(&counter, &count)| (counter, count)).collect();
    let mut warnings = traced.warnings.clone();
    warnings.extend(unresolved(&traced.unresolved));
    report::build(Findings {
        snapshot: &traced.snapshot,
        judgements: &judgements,
        types: &traced.types,
        target: target(traced, show_cmdline),
        session: session(traced),
        memory: MemoryInfo {
            rss_start: traced.rss_start,
            rss_end: traced.rss_end,
            limit_bytes: traced.limit_bytes,
        },
        heap: traced.heap.clone(),
        counters: &counters,
        warnings,
    })
}

fn target(traced: &Traced, show_cmdline: Cmdline) -> TargetInfo {
    let about = &traced.about;
    TargetInfo {
        pid: traced.target.process.pid(),
        exe: about.exe.clone(),
        cmdline: about.cmdline.clone(),
        show_cmdline,
        python: Some(traced.target.version.text.clone()),
        build_id: traced.target.module.build_id().map(str::to_owned),
        hostname: about.hostname.clone(),
        cgroup: about.cgroup.clone(),
    }
}

fn session(traced: &Traced) -> SessionInfo {
    let budget = traced.budget.as_ref();
    SessionInfo {
        started_at: OffsetDateTime::from(traced.started_at),
        duration_s: traced.duration.as_secs_f64(),
        mode: budget.map_or(Mode::Exact, |budget| Mode::Budget(budget.budget_pct)),
        overhead_pct: traced.overhead_pct,
        overhead_s: budget.map(|budget| budget.overhead_s).or_else(|| {
            traced.overhead_pct.map(|percent| percent / 100.0 * traced.duration.as_secs_f64())
        }),
        traced_fraction: Some(budget.map_or(1.0, |budget| budget.traced_fraction)),
        window_closer: budget.map(|budget| budget.closer),
        raw_blocks: if budget.is_none_or(|budget| budget.whole_raw) { "exact" } else { "sampled" },
        gate: match traced.gate {
            Some(Kind::Nop) => Gate::Nop,
            Some(Kind::Jump) => Gate::Jump,
            Some(Kind::Endbr) => Gate::Endbr,
            Some(Kind::Entry) => Gate::Entry,
            None => Gate::Off,
        },
        coverage_pct: traced.coverage_pct,
        functions: traced.functions.clone(),
        end: traced.end,
        window_overruns: budget.map_or(0, |budget| budget.overruns),
        children: traced.children.map(|children| (children.seen, children.closed)),
    }
}

fn unresolved(reasons: &BTreeMap<Reason, u64>) -> impl Iterator<Item = String> {
    reasons.iter().map(|(reason, count)| format!("{count} frames without a name: {reason}"))
}
