//! The worst sites at length: why they are called what they are called, and the way there.

use super::super::document::{Frame, Site};
use super::place::{place, place_of};
use super::rows::Row;
use super::units::{count, counted, escaped};
use super::wrap::{ITEM, wrap};
use super::{TextOptions, colours, types};
use std::io::{self, Write};
use unicode_width::UnicodeWidthStr as _;

/// Sites whose whole stack is shown.
const STACKS: usize = 3;

/// Growing lines whose doubts are shown beside a leak.
const DOUBTED: usize = 2;

/// Frames that are shown of one stack at most, a recursion counted as one.
const FRAMES: usize = 30;

/// Of a longer one, how many of the outermost.
const OUTERMOST: usize = 10;

/// A frame in a row of identical ones is repeated up to this often; more are folded.
const REPEATED: usize = 2;

/// Writes the worst sites of the rows.
///
/// # Errors
/// What the writer says.
pub(super) fn stacks(
    rows: &[Row<'_>],
    options: TextOptions,
    out: &mut impl Write,
) -> io::Result<()> {
    if !rows.iter().any(Row::is_judged) {
        // All doubts would be the same: too short to tell, which the headline says.
        return Ok(());
    }
    let leaks = rows.iter().any(|row| row.verdict() == "leaking");
    let worst = worst(rows, if leaks { "leaking" } else { "growing" });
    for (at, &(row, site)) in worst.iter().enumerate() {
        heading(site, options, out)?;
        frames(site, out)?;
        let shown = worst.iter().filter(|(other, _)| *other == row).count();
        let others = rows[row].sites.len() - shown;
        let is_last = worst.get(at + 1).is_none_or(|(next, _)| *next != row);
        if is_last && others > 0 {
            let others = counted(others as u64, "more site");
            writeln!(out, "    ({others} at this line, see --format json)")?;
        }
        writeln!(out)?;
    }
    let growing = rows.iter().filter(|row| row.verdict() == "growing");
    for row in growing.take(if leaks { DOUBTED } else { 0 }) {
        heading(row.sites[0], options, out)?;
        writeln!(out)?;
    }
    Ok(())
}

/// The worst site of every line first, then the others; each with its row, and in the order of the rows.
fn worst<'a>(rows: &[Row<'a>], verdict: &str) -> Vec<(usize, &'a Site)> {
    let mut ranked = Vec::new();
    for (row, line) in rows.iter().enumerate() {
        let sites = line.sites.iter().filter(|site| site.verdict == verdict);
        ranked.extend(sites.take(STACKS).enumerate().map(|(rank, &site)| (rank, row, site)));
    }
    ranked.sort_by_key(|&(rank, row, _)| (rank, row));
    ranked.truncate(STACKS);
    ranked.sort_by_key(|&(rank, row, _)| (row, rank));
    ranked.into_iter().map(|(_, row, site)| (row, site)).collect()
}

fn heading(site: &Site, options: TextOptions, out: &mut impl Write) -> io::Result<()> {
    let (on, off) = colours(site.verdict, options.colour);
    let (place, id) = (place_of(site), format!("(site {}, {})", site.id, site.domain));
    let width = site.verdict.width() + place.width() + id.width() + 2;
    let gap = if width > options.width { "\n  " } else { " " };
    writeln!(out, "{on}{}{off} {place}{gap}{id}", site.verdict)?;
    let holds = types::holds(site);
    for sentence in site.evidence.iter().chain(&holds) {
        wrap(out, &format!("- {}", escaped(sentence)), options.width, ITEM)?;
    }
    Ok(())
}

fn frames(site: &Site, out: &mut impl Write) -> io::Result<()> {
    let folded: Vec<&[Frame]> = site.stack.chunk_by(is_same).collect();
    let inner = if folded.len() > FRAMES { FRAMES - OUTERMOST } else { folded.len() };
    let outer = if folded.len() > FRAMES { folded.len() - OUTERMOST } else { inner };
    recursions(&folded[..inner], out)?;
    let hidden: usize = folded[inner..outer].iter().map(|same| same.len()).sum();
    if hidden > 0 {
        writeln!(out, "    ... {} left out ...", counted(hidden as u64, "frame"))?;
    }
    recursions(&folded[outer..], out)?;
    if site.stack_truncated {
        writeln!(out, "    (outer frames are missing)")?;
    }
    Ok(())
}

fn recursions(folded: &[&[Frame]], out: &mut impl Write) -> io::Result<()> {
    for same in folded {
        let shown = if same.len() > REPEATED { 1 } else { same.len() };
        for frame in &same[..shown] {
            writeln!(out, "    {}", place(frame))?;
        }
        if same.len() > shown {
            let more = count((same.len() - shown) as u64);
            writeln!(out, "    ... the same frame {more} more times")?;
        }
    }
    Ok(())
}

fn is_same(a: &Frame, b: &Frame) -> bool {
    (a.line, &a.function, &a.file) == (b.line, &b.function, &b.file)
}
