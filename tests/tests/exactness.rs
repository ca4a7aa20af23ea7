//! Net live bytes for each line, against tracemalloc's on a second run of the same workload.
#![expect(clippy::print_stdout, reason = "the figures are part of what the test is for")]

use std::collections::BTreeMap;
use std::time::Duration;

use leaktrace_tests::{Python, Target, Tracer, can_trace, pythons, record};
use serde_json::json;

/// Lines with a smaller share of all bytes are not compared.
const SHARE: f64 = 0.01;

/// How far a line may be off.
const TOLERANCE: f64 = 0.01;

/// Lines that are marked so in the workload exchange objects through one of CPython's free lists: on the second line a
/// temporary list dies, and the first line makes a list out of its memory. tracemalloc books such an object where it is
/// taken from the free list, leaktrace where its memory came from the allocator. So these lines are compared together.
const MARK: &str = "# recycled: ";

/// The same for ints, of which CPython keeps a free list from 3.14 on.
const MARK_SINCE_314: &str = "# recycled since 3.14: ";

#[test]
fn live_bytes_for_each_line_agree_with_tracemalloc_on_every_python() {
    if !can_trace() {
        return;
    }
    for python in pythons() {
        let (truth, seen) = (by_tracemalloc(&python), by_leaktrace(&python));
        show_recycled(&python, &truth, &seen);
        let (truth, seen) = (joined(&python, &truth), joined(&python, &seen));
        let total: f64 = truth.values().sum();
        let mut off = Vec::new();
        let (mut compared, mut worst) = (0, 0.0_f64);
        for (line, &bytes) in truth.iter().filter(|(_, bytes)| **bytes >= SHARE * total) {
            let found = seen.get(line).copied().unwrap_or(0.0);
            compared += 1;
            let difference = (found - bytes) / bytes;
            println!("  {line}: {found} against {bytes} ({:+.2} %)", 100.0 * difference);
            worst = if difference.abs() > worst.abs() { difference } else { worst };
            if difference.abs() > TOLERANCE {
                off.push(line);
            }
        }
        println!(
            "{} {}: {} of {compared} lines off",
            python.path.display(),
            python.version,
            off.len()
        );
        let figures = json!({ "lines": compared, "off": off.len(), "worst_pct": 100.0 * worst });
        record("exactness", &python, figures);
        assert!(compared >= 8, "too few lines to compare");
        assert!(off.is_empty(), "{off:?}");
        // No line that tracemalloc knows nothing of may hold much.
        for (line, &bytes) in seen.iter().filter(|(_, bytes)| **bytes >= SHARE * total) {
            assert!(
                truth.contains_key(line),
                "{line} holds {bytes} bytes that nobody else knows of"
            );
        }
    }
}

/// What marks line number `line` of the workload, if it is the workload's.
fn mark(python: &Python, line: &str) -> Option<&'static str> {
    const WORKLOAD: &str = include_str!("../workloads/mixed.py");
    let (file, number) = line.rsplit_once(':')?;
    let text = WORKLOAD.lines().nth(number.parse::<usize>().ok()?.checked_sub(1)?)?;
    let since_314 = text.split_once(MARK_SINCE_314).filter(|_| python.minor() >= 14);
    let mark = text.split_once(MARK).or(since_314)?.1;
    file.ends_with("mixed.py").then_some(mark)
}

/// The bytes for each line, marked lines together.
fn joined(python: &Python, lines: &BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    let mut joined = BTreeMap::new();
    for (line, bytes) in lines {
        let key = mark(python, line).map_or_else(|| line.clone(), str::to_owned);
        *joined.entry(key).or_insert(0.0) += bytes;
    }
    joined
}

/// Shows how marked lines differ, one by one.
fn show_recycled(python: &Python, truth: &BTreeMap<String, f64>, seen: &BTreeMap<String, f64>) {
    for (line, bytes) in truth.iter().filter(|(line, _)| mark(python, line).is_some()) {
        let found = seen.get(line).copied().unwrap_or(0.0);
        println!("  recycled: {line}: {found} against {bytes}");
    }
}

fn by_tracemalloc(python: &Python) -> BTreeMap<String, f64> {
    let mut target = Target::start(python, "mixed.py", &["tracemalloc"]);
    let lines = target.work();
    let lines = lines.as_object().expect("an object");
    lines
        .iter()
        .filter(|(line, _)| !line.contains("tracemalloc.py"))
        .map(|(line, held)| (line.clone(), held[0].as_f64().expect("a number")))
        .collect()
}

fn by_leaktrace(python: &Python) -> BTreeMap<String, f64> {
    let mut target = Target::start(python, "mixed.py", &[]);
    let tracer = Tracer::start(target.pid, &[]);
    target.work();
    std::thread::sleep(Duration::from_millis(100));
    let report = tracer.stop();
    assert_eq!(report.number("/session/events_lost"), 0.0);
    let mut lines = BTreeMap::new();
    for site in report.sites() {
        *lines.entry(site.line()).or_insert(0.0) += site.number("live_bytes");
    }
    lines
}
