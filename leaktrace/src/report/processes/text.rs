//! The list of a host's CPythons for people: a line for each.

use std::io::{self, Write};

use unicode_width::UnicodeWidthStr as _;

use super::super::text::{FLUSH, bytes, escaped, fit_start, wrap};
use super::{Process, Processes};

/// Digits of a container's id that are shown, as the runtimes' own tools do.
const ID_DIGITS: usize = 12;

/// Columns that the name of a unit may take.
const MAX_PLACE: usize = 32;

/// Columns that are left to a command line, however narrow the terminal is.
const MIN_COMMAND: usize = 12;

const HEADS: [&str; 6] = ["PID", "PYTHON", "RSS", "RUN BY", "TRACE", "COMMAND"];

/// Columns whose cells are numbers.
const RIGHT: [bool; 6] = [true, false, true, false, false, false];

/// Writes a table that is `width` columns wide.
///
/// # Errors
/// What the writer says.
pub fn text(processes: &Processes, width: usize, mut out: impl Write) -> io::Result<()> {
    let mut table = vec![HEADS.map(str::to_owned)];
    table.extend(processes.processes.iter().map(cells));
    let mut widths = [0; 5];
    for cells in &table {
        widths.iter_mut().zip(cells).for_each(|(width, cell)| *width = cell.width().max(*width));
    }
    let taken: usize = widths.iter().map(|width| width + 2).sum();
    let room = width.saturating_sub(taken).max(MIN_COMMAND);
    for cells in table.iter().filter(|_| !processes.processes.is_empty()) {
        let mut line = String::new();
        for ((cell, width), is_right) in cells.iter().zip(widths).zip(RIGHT) {
            let padding = " ".repeat(width - cell.width());
            let (before, after) = if is_right { (&*padding, "") } else { ("", &*padding) };
            line.push_str(&format!("{before}{cell}{after}  "));
        }
        line.push_str(&fit_start(&cells[5], room));
        writeln!(out, "{}", line.trim_end())?;
    }
    if processes.processes.is_empty() {
        writeln!(out, "No CPython runs here.")?;
    }
    if processes.hidden > 0 {
        writeln!(out)?;
        let text = format!(
            "Processes that could not be looked into: {}. Root may look into all.",
            processes.hidden
        );
        wrap(&mut out, &text, width, FLUSH)?;
    }
    for warning in &processes.warnings {
        writeln!(out)?;
        wrap(&mut out, &escaped(warning), width, FLUSH)?;
    }
    Ok(())
}

fn cells(process: &Process) -> [String; 6] {
    let unknown = || "-".to_owned();
    [
        process.pid.to_string(),
        process.python.as_deref().map_or_else(unknown, escaped),
        process.rss.map_or_else(unknown, |rss| bytes(rss as f64)),
        run_by(process).unwrap_or_else(unknown),
        process.obstacle.unwrap_or("yes").to_owned(),
        command(process),
    ]
}

/// The container, else the unit.
fn run_by(process: &Process) -> Option<String> {
    if let Some(container) = &process.container {
        let id = container.id.get(..ID_DIGITS).unwrap_or(&container.id);
        return Some(format!("{}:{id}", container.runtime.unwrap_or("container")));
    }
    process.unit.as_deref().map(|unit| fit_start(&escaped(unit), MAX_PLACE))
}

fn command(process: &Process) -> String {
    match process.cmdline.as_deref() {
        Some(arguments) if !arguments.is_empty() => escaped(&arguments.join(" ")),
        _ => escaped(&process.name),
    }
}
