//! The report for people: what leaks first, then the sites as a table, the worst stacks, and what was not seen.

mod place;
mod units;

use super::document::{Counter, Growth, Report, Site};
use leaktrace_common::counter::Counter as KernelCounter;
use place::{fit_place, place, place_of};
use std::io::{self, Write};
use unicode_width::UnicodeWidthStr as _;
use units::{bytes, count, counted, duration, escaped};

/// Sites whose whole stack is shown.
const STACKS: usize = 3;

/// How the text looks.
#[derive(Clone, Copy, Debug)]
pub struct TextOptions {
    /// Columns of the terminal.
    pub width: usize,
    /// Whether to use colours.
    pub colour: bool,
    /// Rows of the table.
    pub top: usize,
}

/// Writes the report for people.
///
/// # Errors
/// What the writer says.
pub fn text(report: &Report, options: TextOptions, mut out: impl Write) -> io::Result<()> {
    let out = &mut out;
    wrap(out, &headline(report), options.width, "")?;
    writeln!(out)?;
    table(report, options, out)?;
    stacks(report, options, out)?;
    footer(report, options, out)
}

fn headline(report: &Report) -> String {
    let leaks = of_verdict(report, "leaking");
    let seconds = duration(report.session.duration_s);
    let Some(worst) = leaks.first() else { return no_leak(report, &seconds) };
    let others = match leaks.len() - 1 {
        0 => String::new(),
        1 => " One more site leaks.".to_owned(),
        more => format!(" {more} more sites leak."),
    };
    format!(
        "LEAK: {} leaks {}; {} in {} are held after {seconds}.{others}",
        place_of(worst),
        worst.growth_bytes_per_s.map_or_else(|| "memory".to_owned(), |growth| sure_rate(&growth)),
        bytes(worst.live_bytes as f64),
        counted(worst.live_blocks, "block"),
    )
}

fn no_leak(report: &Report, seconds: &str) -> String {
    let growing = of_verdict(report, "growing");
    let sites = counted(report.sites.len() as u64, "site");
    let Some(worst) = growing.first() else {
        return format!("No leak found in {seconds}: of {sites} that allocate, none grows.");
    };
    let number = if growing.len() == 1 {
        "one grows".to_owned()
    } else {
        format!("{} grow", count(growing.len() as u64))
    };
    let rate = worst
        .growth_bytes_per_s
        .map_or_else(String::new, |growth| format!(" by {}/h", bytes(growth.estimate * 3600.0)));
    format!(
        "No leak proved in {seconds}: of {sites} that allocate, {number}, without enough evidence to call it a leak. \
         The fastest is {}{rate}. A longer trace will tell.",
        place_of(worst),
    )
}

fn sure_rate(growth: &Growth) -> String {
    let hourly = |rate: f64| bytes(rate * 3600.0);
    let (low, high) = (hourly(growth.low), hourly(growth.high));
    format!("{}/h (95 % sure: {low} to {high})", hourly(growth.estimate))
}

fn table(report: &Report, options: TextOptions, out: &mut impl Write) -> io::Result<()> {
    let shown = &report.sites[..report.sites.len().min(options.top)];
    if shown.is_empty() {
        return Ok(());
    }
    let header = ["VERDICT", "GROWTH/H", "LIVE", "BLOCKS"].map(str::to_owned);
    let rows: Vec<_> = shown.iter().map(cells).collect();
    let mut widths = header.clone().map(|cell| cell.len());
    for row in &rows {
        widths.iter_mut().zip(row).for_each(|(width, cell)| *width = cell.len().max(*width));
    }
    let [verdict, growth, live, blocks] = &header;
    let [w0, w1, w2, w3] = widths;
    writeln!(out, "{verdict:w0$}  {growth:>w1$}  {live:>w2$}  {blocks:>w3$}  WHERE")?;
    let room = options.width.saturating_sub(w0 + w1 + w2 + w3 + 8).max(12);
    for (site, [verdict, growth, live, blocks]) in shown.iter().zip(&rows) {
        let (on, off) = colours(site.verdict, options.colour);
        let place = fit_place(site, room);
        writeln!(
            out,
            "{on}{verdict:w0$}{off}  {growth:>w1$}  {live:>w2$}  {blocks:>w3$}  {place}"
        )?;
    }
    let hidden = report.sites.len() - shown.len();
    if hidden > 0 {
        let more = counted(hidden as u64, "more site");
        writeln!(out, "... and {more} (--top shows more rows, --format json all)")?;
    }
    writeln!(out)
}

fn cells(site: &Site) -> [String; 4] {
    [
        site.verdict.to_owned(),
        site.growth_bytes_per_s.map_or_else(|| "?".to_owned(), |growth| rate(growth.estimate)),
        bytes(site.live_bytes as f64),
        count(site.live_blocks),
    ]
}

fn rate(bytes_per_s: f64) -> String {
    let hourly = bytes_per_s * 3600.0;
    if hourly.abs() < 0.5 {
        return "0".to_owned();
    }
    let sign = if hourly > 0.0 { "+" } else { "" };
    format!("{sign}{}", bytes(hourly))
}

fn colours(verdict: &str, colour: bool) -> (&'static str, &'static str) {
    match verdict {
        _ if !colour => ("", ""),
        "leaking" => ("\x1b[1;31m", "\x1b[0m"),
        "growing" => ("\x1b[33m", "\x1b[0m"),
        _ => ("\x1b[2m", "\x1b[0m"),
    }
}

fn stacks(report: &Report, options: TextOptions, out: &mut impl Write) -> io::Result<()> {
    let mut worst = of_verdict(report, "leaking");
    if worst.is_empty() {
        worst = of_verdict(report, "growing");
    }
    for site in worst.into_iter().take(STACKS.min(options.top)) {
        let (on, off) = colours(site.verdict, options.colour);
        writeln!(
            out,
            "{on}{}{off} {} (site {}, {})",
            site.verdict,
            place_of(site),
            site.id,
            site.domain
        )?;
        for sentence in &site.evidence {
            wrap(out, &format!("- {}", escaped(sentence)), options.width, "  ")?;
        }
        for frame in &site.stack {
            writeln!(out, "    {}", place(frame))?;
        }
        if site.stack_truncated {
            writeln!(out, "    (outer frames are missing)")?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn footer(report: &Report, options: TextOptions, out: &mut impl Write) -> io::Result<()> {
    let session = &report.session;
    let seen = format!(
        "Seen in {}: {}, {} ({} of blocks older than the trace), {} lost.",
        duration(session.duration_s),
        counted(session.allocations_seen, "allocation"),
        counted(session.frees_seen, "free"),
        count(session.frees_of_older_blocks),
        counted(session.events_lost, "event"),
    );
    wrap(out, &seen, options.width, "")?;
    if let Some(memory) = memory(report) {
        wrap(out, &memory, options.width, "")?;
    }
    for counter in report.counters.iter().filter(|counter| is_trouble(counter)) {
        wrap(out, &format!("note: {} {}", count(counter.count), counter.text), options.width, "")?;
    }
    for warning in &report.warnings {
        wrap(out, &format!("warning: {}", escaped(warning)), options.width, "")?;
    }
    Ok(())
}

/// Whether a counter is worth a line: a number that is not known may come from a newer kernel side.
fn is_trouble(counter: &Counter) -> bool {
    let known = KernelCounter::ALL.iter().find(|&&known| known as u32 == counter.id);
    known.is_none_or(|known| known.is_trouble())
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

fn of_verdict<'a>(report: &'a Report, verdict: &str) -> Vec<&'a Site> {
    report.sites.iter().filter(|site| site.verdict == verdict).collect()
}

/// Breaks lines between words; a word that is longer than the line stays whole, so that paths can be copied.
fn wrap(out: &mut impl Write, text: &str, width: usize, indent: &str) -> io::Result<()> {
    let (mut line, mut is_empty) = (indent.to_owned(), true);
    for word in text.split(' ') {
        if !is_empty && line.width() + 1 + word.width() > width {
            writeln!(out, "{line}")?;
            // What goes on below an indented item is indented further.
            line = indent.repeat(2);
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line.push_str(word);
        is_empty = false;
    }
    writeln!(out, "{line}")
}
