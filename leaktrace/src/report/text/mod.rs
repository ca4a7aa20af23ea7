//! The report for people: what leaks first, then the lines as a table, the worst stacks, and what was not seen.

mod follow;
mod footer;
mod headline;
mod place;
mod rows;
mod stacks;
mod types;
mod units;
mod wrap;

use super::document::Report;
use place::fit_place;
pub(in crate::report) use place::fit_start;
use rows::Row;
use std::io::{self, Write};

pub use follow::follow_text;
pub(in crate::report) use units::bytes;
use units::count;
use units::counted;
pub use units::escaped;
pub(in crate::report) use wrap::{FLUSH, wrap};

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
    let rows = rows::rows(report);
    let shown = &rows[..rows.len().min(options.top)];
    wrap(out, &headline::headline(report, &rows), options.width, FLUSH)?;
    writeln!(out)?;
    table(shown, rows.len() - shown.len(), options, out)?;
    stacks::stacks(shown, options, out)?;
    footer::footer(report, &rows, options.width, out)
}

fn table(
    shown: &[Row<'_>],
    hidden: usize,
    options: TextOptions,
    out: &mut impl Write,
) -> io::Result<()> {
    if !shown.is_empty() {
        columns(shown, options, out)?;
    }
    if hidden > 0 {
        let more = counted(hidden as u64, "more line");
        let text = format!("... and {more} (--top shows more rows, --format json all sites)");
        wrap(out, &text, options.width, FLUSH)?;
    }
    if shown.len() + hidden > 0 {
        writeln!(out)?;
    }
    Ok(())
}

fn columns(shown: &[Row<'_>], options: TextOptions, out: &mut impl Write) -> io::Result<()> {
    let mut table =
        vec![["VERDICT", "GROWTH/H", "LIVE", "BLOCKS", "SITES", "PROCS"].map(str::to_owned)];
    table.extend(shown.iter().map(cells));
    if shown.iter().all(|row| row.sites.len() == 1) {
        table.iter_mut().for_each(|cells| cells[4].clear());
    }
    if shown.iter().all(|row| row.processes.is_none()) {
        table.iter_mut().for_each(|cells| cells[5].clear());
    }
    let mut widths = [0; 6];
    for cells in &table {
        widths.iter_mut().zip(cells).for_each(|(width, cell)| *width = cell.len().max(*width));
    }
    let taken = widths.iter().filter(|&&width| width > 0).map(|width| width + 2).sum();
    let room = options.width.saturating_sub(taken).max(12);
    let places = shown.iter().map(|row| (row.verdict(), fit_place(row.sites[0], room)));
    let heads = std::iter::once(("", "WHERE".to_owned()));
    for (cells, (colour, place)) in table.iter().zip(heads.chain(places)) {
        let (on, off) = colours(colour, options.colour);
        let width = widths[0];
        write!(out, "{on}{:width$}{off}", cells[0])?;
        for (cell, width) in cells.iter().zip(widths).skip(1).filter(|(_, width)| *width > 0) {
            write!(out, "  {cell:>width$}")?;
        }
        writeln!(out, "  {place}")?;
    }
    Ok(())
}

/// A dash stands for what would need more time to tell.
fn cells(row: &Row<'_>) -> [String; 6] {
    let is_verdict = row.is_judged() || row.verdict() != "stable";
    let sites = row.sites.len() as u64;
    [
        if is_verdict { row.verdict() } else { "-" }.to_owned(),
        row.growth.map_or_else(|| "-".to_owned(), |growth| rate(growth.estimate)),
        bytes(row.live_bytes as f64),
        count(row.live_blocks),
        if sites > 1 { count(sites) } else { String::new() },
        row.processes.map_or_else(String::new, |processes| count(processes as u64)),
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
        "" => ("", ""),
        _ if !colour => ("", ""),
        "leaking" => ("\x1b[1;31m", "\x1b[0m"),
        "growing" => ("\x1b[33m", "\x1b[0m"),
        _ => ("\x1b[2m", "\x1b[0m"),
    }
}
