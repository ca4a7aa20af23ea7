//! What was seen is held against what the heap truly did, which a census of all pools tells.
#![expect(clippy::print_stdout, reason = "the figures are part of what the test is for")]

use std::time::Duration;

use leaktrace_tests::{Python, Report, Target, Tracer, can_trace, debian_python, pythons};

const EXPLAINED: &str = "/session/heap_growth_explained_pct";

/// The report of a target that does `command` while it is traced.
fn traced(python: &Python, command: &str, arguments: &[&str]) -> Report {
    let mut target = Target::start(python, "grow.py", &[]);
    let tracer = Tracer::start(target.pid, arguments);
    target.ask(command);
    std::thread::sleep(Duration::from_millis(100));
    let report = tracer.stop();
    println!(
        "{} {} {command} {arguments:?}: explained {} %, self-check {}, memory {}",
        python.path.display(),
        python.version,
        report.0.pointer(EXPLAINED).expect("it is there"),
        report.0["session"]["self_check"],
        report.0["memory"],
    );
    report
}

/// Whether a warning says that the heap's change is not explained.
fn warns(report: &Report) -> bool {
    let warnings = report.0["warnings"].as_array().expect("an array");
    warnings.iter().filter_map(|warning| warning.as_str()).any(|it| it.contains("true change"))
}

#[test]
fn what_was_seen_explains_what_the_heap_did_on_every_python() {
    if !can_trace() {
        return;
    }
    for python in pythons() {
        let report = traced(&python, "grow", &[]);
        let explained = report.number(EXPLAINED);
        assert!((99.0..=101.0).contains(&explained), "{explained}");
        assert!(!warns(&report), "{}", report.0["warnings"]);
        let check = &report.0["session"]["self_check"];
        assert_eq!(check["tables"], "agree");
        assert_eq!(check["predictions"], "right");
        assert_eq!(check["census"], "exact");
        assert!(report.number("/session/self_check/stacks_pct") > 99.0);
        let live = |end: &str| report.number(&format!("/memory/pymalloc_live_{end}"));
        assert!(live("end") > live("start") + f64::from(8 << 20));
        let (used, free) = ("/memory/breakdown/python_live", "/memory/breakdown/pymalloc_free");
        let parts = report.number(used) + report.number(free);
        assert_eq!(parts, report.number("/memory/pymalloc_held_end"));
    }
}

#[test]
fn frees_of_blocks_older_than_the_trace_explain_a_heap_that_shrinks() {
    let Some(python) = debian_python().filter(|_| can_trace()) else { return };
    let report = traced(&python, "shrink", &[]);
    let explained = report.number(EXPLAINED);
    assert!((99.0..=101.0).contains(&explained), "{explained}");
    assert!(
        report.number("/memory/pymalloc_live_end") < report.number("/memory/pymalloc_live_start")
    );
}

#[test]
fn a_trace_that_sees_only_a_part_says_so() {
    let Some(python) = debian_python().filter(|_| can_trace()) else { return };
    // Without its gate an optimised build shows only the calls that the compiler did not inline.
    let blind = traced(&python, "grow", &["--no-gate"]);
    assert!(blind.number(EXPLAINED) < 90.0);
    assert!(warns(&blind), "{}", blind.0["warnings"]);
    // A live table that is soon full drops blocks.
    let short = traced(&python, "grow", &["--max-memory", "1MiB"]);
    assert!(short.number(EXPLAINED) < 50.0);
    assert!(warns(&short), "{}", short.0["warnings"]);
}

#[test]
fn nothing_is_said_of_a_heap_that_hardly_moved_or_is_not_pymallocs() {
    let Some(python) = debian_python().filter(|_| can_trace()) else { return };
    let target = Target::start(&python, "grow.py", &[]);
    let report = Tracer::start(target.pid, &[]).stop();
    assert!(report.0.pointer(EXPLAINED).is_some_and(serde_json::Value::is_null));
    assert_eq!(report.0["session"]["self_check"]["census"], "exact");
    let mut target = Target::start_with(&python, "grow.py", &[], &[("PYTHONMALLOC", "malloc")]);
    let tracer = Tracer::start(target.pid, &[]);
    target.ask("grow");
    let report = tracer.stop();
    assert!(report.0.pointer(EXPLAINED).is_some_and(serde_json::Value::is_null));
    assert!(report.0["memory"]["pymalloc_live_start"].is_null());
    assert_eq!(report.0["session"]["self_check"]["census"], "none");
}
