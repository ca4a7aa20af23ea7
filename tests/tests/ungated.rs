//! Windows of functions that have no gate: their probes are put in and taken out each time.
#![expect(clippy::print_stdout, reason = "the figures are part of what the test is for")]

use std::thread::sleep;
use std::time::{Duration, Instant};

use leaktrace_tests::{
    Library, Python, Target, Text, Tracer, assert_refused_within_a_budget, can_trace,
    debian_python, leaking_line, pythons, rate_between, record,
};
use rustix::process::Signal;
use serde_json::json;

/// How long a hot target is traced.
const TRACED: Duration = Duration::from_secs(15);

/// How soon a window comes.
const SOON: Duration = Duration::from_secs(5);

fn plain(minor: u32) -> Option<Python> {
    pythons().into_iter().find(|python| python.minor() == minor)
}

/// Traces a target that keeps one of 250 blocks; it must be found, within the budget.
fn assert_found(python: &Python, mut target: Target, arguments: &[&str], case: &str) {
    let text = Text::of(target.pid);
    let tracer = Tracer::start(target.pid, arguments);
    let before = target.ask("count");
    sleep(TRACED);
    let after = target.ask("count");
    let report = tracer.stop();
    let kept = rate_between(&before, &after, "kept");
    let first = report.sites().next().expect("there are sites");
    // Not the list that they are in, a raw block that grows by none.
    let line = leaking_line("hot.py");
    let objects = report.sites().find(|site| site.line() == line && site.is_small());
    let growth = objects.expect("they are seen").number("growth_blocks_per_s");
    let figures = json!({
        "case": case, "kept_per_s": kept, "estimated_per_s": growth,
        "overhead_pct": report.number("/session/overhead_pct"),
        "sampled": first.number("sampled_blocks"),
        "overruns": report.number("/session/window_overruns"),
        "explained_pct": report.number("/session/heap_growth_explained_pct"),
    });
    println!("{}: {figures}", python.version);
    record("ungated", python, figures);
    assert_eq!(first.line(), line, "{}", report.warnings());
    assert!((growth / kept - 1.0).abs() < 0.25, "{growth} of {kept}");
    assert!(report.number("/session/overhead_pct") <= 1.1);
    assert_eq!(text.breakpoints_in(target.pid), 0);
    assert!(target.finish().success());
}

#[test]
fn plain_builds_without_a_gate_for_frees_keep_to_the_budget() {
    if !can_trace() {
        return;
    }
    for python in [8, 10].into_iter().filter_map(plain) {
        let target = Target::start(&python, "hot.py", &["50"]);
        assert_found(&python, target, &["--budget", "1%"], "no gate for frees");
    }
}

#[test]
fn a_target_that_nothing_may_be_written_into_keeps_to_the_budget() {
    if !can_trace() {
        return;
    }
    if let Some(python) = plain(13) {
        let target = Target::start(&python, "hot.py", &["50"]);
        assert_found(&python, target, &["--budget", "1%", "--no-gate"], "no gate at all");
    }
}

#[test]
fn a_target_under_hooks_of_another_library_is_refused_with_a_way_out() {
    if !can_trace() {
        return;
    }
    let library = Library::build("hooks.c");
    let Some(python) = debian_python() else { return };
    let target = Target::start(&python, "hot.py", &["0", library.argument()]);
    assert_refused_within_a_budget(target.pid);
    assert!(target.finish().success());
}

#[test]
fn probes_are_taken_out_while_leaktrace_is_stopped_and_after_it_was_killed() {
    if !can_trace() {
        return;
    }
    for python in [9, 13].into_iter().filter_map(plain) {
        for (every, rounds) in [("50", 10), ("0", 3)] {
            let mut target = Target::start(&python, "hot.py", &[every]);
            let text = Text::of(target.pid);
            let tracer = Tracer::start(target.pid, &["--budget", "5%", "--no-gate"]);
            for round in 0..rounds {
                await_breakpoints(&text, target.pid);
                sleep(Duration::from_millis(7 * round));
                tracer.signal(Signal::STOP);
                // Longer than any window may be, also one that is left alone while a probe is taken off.
                sleep(Duration::from_millis(600));
                assert_eq!(text.breakpoints_in(target.pid), 0, "{}", python.version);
                tracer.signal(Signal::CONT);
            }
            await_breakpoints(&text, target.pid);
            tracer.signal(Signal::KILL);
            let _ = tracer.ended();
            sleep(Duration::from_millis(300));
            assert_eq!(text.breakpoints_in(target.pid), 0, "{}", python.version);
            assert!(target.ask("count")["done"].is_number());
            assert!(target.finish().success());
        }
    }
}

/// Waits until a window is open.
fn await_breakpoints(text: &Text, pid: u32) {
    let deadline = Instant::now() + SOON;
    while text.breakpoints_in(pid) == 0 {
        assert!(Instant::now() < deadline, "no window was opened");
    }
}
