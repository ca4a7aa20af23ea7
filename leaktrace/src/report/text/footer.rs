//! How it was traced, and what was not seen.

use super::super::document::{Counter, Report, Session};
use super::rows::Row;
use super::units::{bytes, count, counted, duration, escaped, percent};
use super::wrap::{FLUSH, wrap};
use leaktrace_common::counter::Counter as KernelCounter;
use std::io::{self, Write};

/// What a second leaking line may come from.
const FREE_LISTS: &str = "note: objects that CPython recycles through free lists (dict, list, float, tuple) count \
                          where their memory was first allocated: a leak may also show at the line whose objects it \
                          recycles";

/// Writes the last lines of the report.
///
/// # Errors
/// What the writer says.
pub(super) fn footer(
    report: &Report,
    rows: &[Row<'_>],
    width: usize,
    out: &mut impl Write,
) -> io::Result<()> {
    wrap(out, &seen(&report.session), width, FLUSH)?;
    if let Some(sampled) = sampled(&report.session) {
        wrap(out, &sampled, width, FLUSH)?;
    }
    if let Some(memory) = memory(report) {
        wrap(out, &memory, width, FLUSH)?;
    }
    wrap(out, &traced(report), width, FLUSH)?;
    for counter in report.counters.iter().filter(|counter| is_trouble(counter)) {
        wrap(out, &format!("note: {} {}", count(counter.count), counter.text), width, FLUSH)?;
    }
    for warning in &report.warnings {
        wrap(out, &format!("warning: {}", escaped(warning)), width, FLUSH)?;
    }
    if rows.iter().filter(|row| row.verdict() == "leaking").count() > 1 {
        wrap(out, FREE_LISTS, width, FLUSH)?;
    }
    Ok(())
}

fn seen(session: &Session) -> String {
    format!(
        "Seen in {}: {}, {} ({} of blocks older than the trace), {} lost.",
        duration(session.duration_s),
        counted(session.allocations_seen, "allocation"),
        counted(session.frees_seen, "free"),
        count(session.frees_of_older_blocks),
        counted(session.events_lost, "event"),
    )
}

/// How much of what happened that is, where most went unseen.
fn sampled(session: &Session) -> Option<String> {
    let fraction = session.allocations_fraction.filter(|&fraction| fraction < 0.999)?;
    let time = session
        .traced_fraction
        .map_or_else(String::new, |time| format!("{} of the time and ", percent(100.0 * time)));
    let overruns = match session.window_overruns {
        0 => String::new(),
        many => {
            format!(" {} could not be closed in time, and are left out.", counted(many, "window"))
        }
    };
    Some(format!(
        "That is {time}{} of the allocations: the numbers of lines are estimates.{overruns}",
        percent(100.0 * fraction)
    ))
}

fn memory(report: &Report) -> Option<String> {
    let memory = &report.memory;
    let (start, end) = (memory.rss_start?, memory.rss_end?);
    let limit = memory
        .limit_bytes
        .map_or_else(String::new, |limit| format!(", the limit is {}", bytes(limit as f64)));
    let (start, end) = (bytes(start as f64), bytes(end as f64));
    Some(format!("Resident memory: {start} at the start, {end} at the end{limit}."))
}

fn traced(report: &Report) -> String {
    let (target, session) = (&report.target, &report.session);
    let command = command(report).map_or_else(String::new, |word| format!(" ({word})"));
    let mut facts = vec![format!("process {}{command}", target.pid)];
    facts.extend(target.python.as_ref().map(|python| format!("CPython {}", escaped(python))));
    facts.push(match session.budget_pct {
        Some(budget) => format!("{} mode, {}", session.mode, percent(budget)),
        None => format!("{} mode", session.mode),
    });
    facts.push(match session.gate {
        "off" => "no gate".to_owned(),
        kind => format!("gate {kind}"),
    });
    facts.extend(session.coverage_pct.map(|covered| format!("coverage {}", percent(covered))));
    facts.push(session.overhead_pct.map_or_else(
        || "overhead not known".to_owned(),
        |overhead| format!("estimated overhead {}", percent(overhead)),
    ));
    format!("Traced: {}. {}", facts.join(", "), how(session))
}

/// The first word of the command line; a server that renames itself ends it with a colon.
pub(super) fn command(report: &Report) -> Option<String> {
    let program = report.target.cmdline.as_ref()?.first()?;
    program.split_whitespace().next().map(|word| escaped(word.trim_end_matches(':')))
}

fn how(session: &Session) -> String {
    let status = session.exit_status.and_then(|status| match (status.code, status.signal) {
        (Some(code), _) => Some(format!("It ended when the process exited with code {code}.")),
        (None, signal) => {
            signal.map(|signal| format!("It ended when the process was killed by signal {signal}."))
        }
    });
    status.unwrap_or_else(|| ended(session.end).to_owned())
}

/// How it ended, in words.
pub(super) fn ended(end: &str) -> &'static str {
    match end {
        "duration" => "It ended when the time was over.",
        "signal" => "It was ended by Ctrl-C or another signal.",
        "target_exited" => "It ended when the process exited.",
        "target_exec" => "It ended when the process became another program (exec).",
        _ => "It ended early: the process could no longer be traced.",
    }
}

/// Whether a counter is worth a line: a number that is not known may come from a newer kernel side.
fn is_trouble(counter: &Counter) -> bool {
    let known = KernelCounter::ALL.iter().find(|&&known| known as u32 == counter.id);
    known.is_none_or(|known| known.is_trouble())
}
