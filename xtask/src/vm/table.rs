//! The kernel table, as it is printed and as it stands in `docs/kernels.md`.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::Result;

use super::Run;
use super::outcome::Outcome;
use crate::shell;

const HEAD: &str = "\
# Kernels

leaktrace runs on x86-64 Linux 5.10 and newer. The tables below are written by `cargo xtask vm --write`, which boots
Debian's kernels for clouds in QEMU and runs the tests that depend on the kernel in each, against a C program and
against a real python3. They say what was right there, never how fast: an emulated processor has no speed.

- *programs*: BPF programs that the kernel's verifier accepted, each for the frames of old and of new CPythons.
- *attached by*: the best of the ways to attach that the kernel has. `perf-event+ioctl` is that of kernels before 5.15,
  `perf-event+link` that of all others.
- *seccomp*: whether return probes are put on a target with a seccomp filter. On kernels 6.11 to 6.13 they are a system
  call that such a filter may kill, so leaktrace does without: blocks over 512 bytes are not seen there.
- *children*: the gate of a forked child is closed, and the child goes on with right results.
- *after the end*, *after a kill*: the gate is closed, every byte of the interpreter's code is what it was before, and
  the target goes on with right results.
- *locked down*: what leaktrace says under `lockdown=confidentiality`, which forbids BPF to read memory: a refusal in
  one line. Without BTF or without uprobes it is the same.
";

/// The main table.
pub(super) fn kernels(runs: &[Run]) -> String {
    let heads = [
        "kernel",
        "programs",
        "attached by",
        "probes",
        "seccomp",
        "children",
        "after the end",
        "after a kill",
        "locked down",
        "counts right",
        "tests",
    ];
    let rows = runs.iter().map(|run| {
        let outcome = &run.outcome;
        let right = outcome.counts.iter().filter(|count| count.seen == count.expected).count();
        vec![
            outcome.release.clone(),
            outcome.verified.len().to_string(),
            outcome.fact("attach").to_owned(),
            outcome.fact("probes").to_owned(),
            outcome.fact("seccomp").to_owned(),
            outcome.fact("children").to_owned(),
            outcome.fact("detach").to_owned(),
            outcome.fact("kill").to_owned(),
            outcome.fact("lockdown").to_owned(),
            format!("{right} of {}", outcome.counts.len()),
            format!("{} of {}", outcome.passed, run.expected),
        ]
    });
    markdown(&heads.map(str::to_owned), rows)
}

/// What was counted, on each kernel.
pub(super) fn counts(runs: &[Run]) -> String {
    let names =
        runs.iter().flat_map(|run| run.outcome.counts.iter().map(|count| count.of.as_str()));
    by_kernel("calls and blocks", runs, names.collect(), |outcome, name| {
        let count = outcome.counts.iter().find(|count| count.of == name)?;
        Some(format!("{} of {}", count.seen, count.expected))
    })
}

/// What the verifier walked through, on each kernel.
pub(super) fn instructions(runs: &[Run]) -> String {
    let names = runs.iter().flat_map(|run| run.outcome.verified.keys().map(String::as_str));
    by_kernel("program", runs, names.collect(), |outcome, name| {
        outcome.verified.get(name).map(u64::to_string)
    })
}

/// Writes `docs/kernels.md`.
///
/// # Errors
/// It cannot be written.
pub(super) fn write(runs: &[Run], missing: &[String], qemu: &str) -> Result<()> {
    let date = shell::capture(Command::new("date").args(["-u", "+%Y-%m-%d"]))?;
    let mut text =
        format!("{HEAD}\nMeasured on {}, in QEMU {qemu}.\n\n{}", date.trim(), kernels(runs));
    if !missing.is_empty() {
        text += &format!("\nNot available in Debian's archive any more: {}.\n", missing.join(", "));
    }
    text += "\n## Counts\n\nSeen of expected: calls of three C functions by two threads, and blocks that a Python makes \
             and keeps on one\nline each.\n\n";
    text += &counts(runs);
    text += "\n## Instructions\n\nThat the verifier walked through, the most for any shape of frames. Its limit is \
             1,000,000.\n\n";
    text += &instructions(runs);
    Ok(fs::write(shell::root()?.join("docs/kernels.md"), text)?)
}

/// A table with a column for each kernel.
fn by_kernel(
    head: &str,
    runs: &[Run],
    names: BTreeSet<&str>,
    cell: impl Fn(&Outcome, &str) -> Option<String>,
) -> String {
    let releases = runs.iter().map(|run| run.outcome.release.clone());
    let heads: Vec<String> = std::iter::once(head.to_owned()).chain(releases).collect();
    let rows = names.into_iter().map(|name| {
        let cells =
            runs.iter().map(|run| cell(&run.outcome, name).unwrap_or_else(|| "-".to_owned()));
        std::iter::once(format!("`{name}`")).chain(cells).collect()
    });
    markdown(&heads, rows)
}

fn markdown(heads: &[String], rows: impl Iterator<Item = Vec<String>>) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let rule: Vec<String> = heads.iter().map(|_| "---".to_owned()).collect();
    let mut text = line(heads) + &line(&rule);
    text.extend(rows.map(|row| line(&row)));
    text
}

#[cfg(test)]
mod tests {
    use super::super::kernels::Series;
    use super::super::outcome::Count;
    use super::*;

    #[test]
    fn every_kernel_has_a_column_and_what_is_not_known_is_a_dash() {
        let run = |release: &str, counted: bool| Run {
            series: Series("6.1".to_owned()),
            expected: 3,
            outcome: Outcome {
                release: release.to_owned(),
                counts: counted
                    .then(|| Count { of: "c.calls".to_owned(), expected: 8, seen: 7 })
                    .into_iter()
                    .collect(),
                ..Outcome::default()
            },
        };
        let runs = [run("6.1.0", true), run("6.12.1", false)];
        assert_eq!(
            counts(&runs),
            "| calls and blocks | 6.1.0 | 6.12.1 |\n| --- | --- | --- |\n| `c.calls` | 7 of 8 | - |\n"
        );
        assert!(
            kernels(&runs).contains("| 6.1.0 | 0 | - | - | - | - | - | - | - | 0 of 1 | 0 of 3 |")
        );
    }
}
