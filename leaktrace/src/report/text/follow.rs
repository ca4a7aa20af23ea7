//! The report on several processes for people: the lines of all together as a table, then a few lines on each.

use super::super::document::Report;
use super::super::follow::FollowReport;
use super::place::fit_place;
use super::rows::{self, Row};
use super::units::{bytes, count, counted, duration, escaped, percent};
use super::wrap::{FLUSH, ITEM, wrap};
use super::{TextOptions, footer, headline, stacks, table};
use std::collections::HashSet;
use std::io::{self, Write};

/// Writes the report for people.
///
/// # Errors
/// What the writer says.
pub fn follow_text(
    report: &FollowReport,
    options: TextOptions,
    mut out: impl Write,
) -> io::Result<()> {
    let out = &mut out;
    let Some(whole) = whole(report) else {
        return writeln!(out, "No process was traced.");
    };
    let mut rows = rows::rows(&whole);
    count_processes(&mut rows, report);
    let shown = &rows[..rows.len().min(options.top)];
    wrap(out, &headline::headline(&whole, &rows), options.width, FLUSH)?;
    writeln!(out)?;
    table(shown, rows.len() - shown.len(), options, out)?;
    stacks::stacks(shown, options, out)?;
    for process in &report.processes {
        section(process, options.width, out)?;
    }
    if let Some(cost) = cost(report) {
        wrap(out, &cost, options.width, FLUSH)?;
    }
    writeln!(out)?;
    for warning in &report.warnings {
        wrap(out, &format!("warning: {}", escaped(warning)), options.width, FLUSH)?;
    }
    Ok(())
}

/// All processes as if they were one; none where there is none.
fn whole(report: &FollowReport) -> Option<Report> {
    let longest = report
        .processes
        .iter()
        .max_by(|a, b| a.session.duration_s.total_cmp(&b.session.duration_s))?;
    let mut session = longest.session.clone();
    let sum =
        |field: fn(&Report) -> u64| report.processes.iter().map(field).fold(0, u64::saturating_add);
    session.allocations_seen = sum(|process| process.session.allocations_seen);
    session.frees_seen = sum(|process| process.session.frees_seen);
    session.frees_of_older_blocks = sum(|process| process.session.frees_of_older_blocks);
    session.events_lost = sum(|process| process.session.events_lost);
    Some(Report {
        session,
        sites: report.merged.sites.iter().map(|merged| merged.site.clone()).collect(),
        memory: report.merged.memory.clone(),
        ..longest.clone()
    })
}

/// In how many processes one of the sites of each row was seen.
fn count_processes(rows: &mut [Row<'_>], report: &FollowReport) {
    let sites = |process: &Report| -> HashSet<String> {
        process.sites.iter().map(|site| site.id.clone()).collect()
    };
    let processes: Vec<HashSet<String>> = report.processes.iter().map(sites).collect();
    for row in rows {
        let is_seen =
            |process: &&HashSet<String>| row.sites.iter().any(|site| process.contains(&site.id));
        row.processes = Some(processes.iter().filter(is_seen).count());
    }
}

/// What it cost all processes together, where that was bounded.
fn cost(report: &FollowReport) -> Option<String> {
    let (budget, cost) = report.budget_total_pct.zip(report.overhead_total_pct)?;
    Some(format!("All together: budget {}, estimated overhead {}.", percent(budget), percent(cost)))
}

/// What is to be said of one process.
fn section(process: &Report, width: usize, out: &mut impl Write) -> io::Result<()> {
    let (target, session) = (&process.target, &process.session);
    let command = footer::command(process).map_or_else(String::new, |word| format!(" ({word})"));
    let python = target.python.as_deref().unwrap_or("of unknown version");
    let memory = process
        .memory
        .rss_start
        .zip(process.memory.rss_end)
        .map_or_else(String::new, |(start, end)| {
            format!(", resident {} to {}", bytes(start as f64), bytes(end as f64))
        });
    let overhead = session
        .overhead_pct
        .map_or_else(String::new, |overhead| format!(", overhead {}", percent(overhead)));
    let text = format!(
        "process {}{command}, CPython {}: {}, {}, {}, {} lost{memory}{overhead}. {}",
        target.pid,
        escaped(python),
        duration(session.duration_s),
        counted(session.allocations_seen, "allocation"),
        counted(session.frees_seen, "free"),
        count(session.events_lost),
        footer::ended(session.end),
    );
    wrap(out, &text, width, FLUSH)?;
    let rows = rows::rows(process);
    for row in rows.iter().take_while(|row| matches!(row.verdict(), "leaking" | "growing")).take(3)
    {
        let live = bytes(row.live_bytes as f64);
        let place = fit_place(row.sites[0], width);
        wrap(out, &format!("- {}: {place}, {live} live", row.verdict()), width, ITEM)?;
    }
    for warning in &process.warnings {
        wrap(out, &format!("warning: {}", escaped(warning)), width, ITEM)?;
    }
    Ok(())
}
