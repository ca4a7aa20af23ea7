//! The raw data of a run -> its summary, in Markdown.

mod left_out;
mod overhead;
mod peers;

use std::fmt::Write as _;

use anyhow::Result;

use super::environment::Environment;
use super::folder::Folder;
use super::statistics::Estimate;

/// The summary of what lies in a folder.
///
/// # Errors
/// There is no run, or it cannot be read.
pub(super) fn of(folder: &Folder) -> Result<String> {
    let environment = folder.environment()?;
    let mut text = opening(&environment);
    text += &overhead::section(folder, &environment)?;
    text += &peers::section(folder, &environment)?;
    text += &left_out::section(folder, &environment)?;
    Ok(text)
}

fn opening(environment: &Environment) -> String {
    let Environment { leaktrace, settings, .. } = environment;
    let mut text = format!(
        "# What leaktrace costs, {}\n\nWritten by `cargo xtask bench report` out of the files beside this one. \
         [How it is measured](../../README.md).\n\n| | |\n| --- | --- |\n",
        environment.started.split('T').next().unwrap_or_default()
    );
    let python = environment.python.replace('\n', " ");
    let memory = format!("{:.0} GiB", environment.memory_kib as f64 / f64::from(1 << 20));
    let packages: Vec<String> =
        environment.packages.iter().map(|(name, version)| format!("{name} {version}")).collect();
    let machine = format!("{}, {} cores, {memory}", environment.cpu, environment.cores);
    let measured = format!(
        "`{}`; {} pairs of 2 x {} s and {} null pairs; {} runs of {} s of each tool",
        settings.flags.join(" "),
        settings.pairs,
        settings.half_s,
        settings.null_pairs,
        settings.rounds,
        settings.window_s
    );
    let build = format!("{}, commit {}", leaktrace.version, leaktrace.commit);
    for (name, value) in [
        ("leaktrace", build.as_str()),
        ("measured", &measured),
        ("kernel", &environment.kernel),
        ("machine", &machine),
        ("Python", &python),
        ("packages", &packages.join(", ")),
    ] {
        // Writing into a string cannot fail.
        let _ = writeln!(text, "| {name} | {value} |");
    }
    text
}

/// A table under a heading, with what it shows; nothing where it has no rows.
fn table(heading: &str, about: &str, columns: &[&str], rows: &[Vec<String>]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut text = format!("\n## {heading}\n\n{about}\n\n");
    let line = |cells: &[&str]| format!("| {} |\n", cells.join(" | "));
    text += &line(columns);
    text += &line(&vec!["---"; columns.len()]);
    for row in rows {
        text += &line(&row.iter().map(String::as_str).collect::<Vec<_>>());
    }
    text
}

/// A value with its interval; a dash where there is none.
fn shown(estimate: Option<Estimate>, unit: &str) -> String {
    let Some(Estimate { value, low, high }) = estimate else { return "-".to_owned() };
    format!("{} {unit} [{}, {}]", number(value), number(low), number(high))
}

/// With as many places as say something; no `-0.00`.
fn number(value: f64) -> String {
    let text = if value.abs() < 10.0 { format!("{value:.2}") } else { format!("{value:.1}") };
    if text.trim_matches(['-', '0', '.']).is_empty() { "0.00".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_without_rows_is_not_there() {
        assert_eq!(table("A", "b", &["c"], &[]), "");
        let text = table("A", "b", &["c", "d"], &[vec!["1".to_owned(), "2".to_owned()]]);
        assert_eq!(text, "\n## A\n\nb\n\n| c | d |\n| --- | --- |\n| 1 | 2 |\n");
    }

    #[test]
    fn what_is_not_known_is_a_dash_and_nothing_is_no_negative_nothing() {
        assert_eq!(shown(None, "%"), "-");
        let estimate = Estimate { value: -0.001, low: -0.5, high: 12.34 };
        assert_eq!(shown(Some(estimate), "%"), "0.00 % [-0.50, 12.3]");
    }
}
