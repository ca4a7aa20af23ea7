//! Tracing within a budget: what it costs, what it finds, and that nothing depends on leaktrace being there.

use std::thread::sleep;
use std::time::Duration;

use leaktrace_tests::{
    Python, Report, Slots, Target, Tracer, can_trace, debian_python, leaking_line, leaktrace,
    pythons, record,
};
use rustix::process::Signal;
use serde_json::{Value, json};

/// How long a hot target is traced.
const TRACED: Duration = Duration::from_secs(20);

/// The interpreters that this is tried on: an optimised one and a plain one whose gates close.
fn some() -> Vec<Python> {
    let plain = pythons().into_iter().find(|python| python.minor() == 13);
    debian_python().into_iter().chain(plain).collect()
}

fn rate(before: &Value, after: &Value, key: &str) -> f64 {
    let number = |count: &Value, key: &str| count[key].as_f64().expect("it counts");
    let of = |key: &str| number(after, key) - number(before, key);
    of(key) / of("at_s")
}

fn trace(target: &mut Target, arguments: &[&str], traced: Duration) -> (Report, f64, f64) {
    let tracer = Tracer::start(target.pid, arguments);
    let before = target.ask("count");
    sleep(traced);
    let after = target.ask("count");
    let report = tracer.stop();
    (report, rate(&before, &after, "kept"), rate(&before, &after, "done"))
}

#[test]
fn a_leak_in_a_hot_target_is_named_and_measured_within_the_budget() {
    if !can_trace() {
        return;
    }
    for python in some() {
        let mut target = Target::start(&python, "hot.py", &["50"]);
        let slots = Slots::of(target.pid);
        let (report, kept, _) = trace(&mut target, &["--budget", "1%"], TRACED);
        let first = report.sites().next().expect("there are sites");
        let growth = first.number("growth_blocks_per_s");
        let figures = json!({
            "kept_per_s": kept, "estimated_per_s": growth,
            "overhead_pct": report.number("/session/overhead_pct"),
            "traced_fraction": report.number("/session/traced_fraction"),
            "sampled": first.number("sampled_blocks"),
            "overruns": report.number("/session/window_overruns"),
        });
        println!("{}: {figures}", python.version);
        record("budget", &python, figures);
        assert_eq!(report.0["session"]["mode"], "budget");
        assert_eq!(first.line(), leaking_line("hot.py"), "{}", report.warnings());
        assert_eq!(first.verdict(), "leaking", "{:?}", first.0["evidence"]);
        assert!((growth / kept - 1.0).abs() < 0.25, "{growth} of {kept}");
        assert!(report.number("/session/overhead_pct") <= 1.1);
        assert!(report.number("/session/traced_fraction") < 0.2);
        let explained = report.number("/session/heap_growth_explained_pct");
        assert!((90.0..=110.0).contains(&explained), "{explained}");
        assert_eq!(slots.open_in(target.pid), 0);
        assert!(target.finish().success());
    }
}

#[test]
fn a_target_that_ends_is_measured_by_the_last_count_of_its_heap() {
    let Some(python) = debian_python().filter(|_| can_trace()) else { return };
    let mut target = Target::start(&python, "hot.py", &["50"]);
    let tracer = Tracer::start(target.pid, &["--budget", "1%"]);
    let before = target.ask("count");
    // Longer than it takes until the heap is counted for the second time, and perhaps the third.
    sleep(Duration::from_secs(24));
    let kept = rate(&before, &target.ask("count"), "kept");
    assert!(target.finish().success());
    let report = tracer.report();
    let session = &report.0["session"];
    assert_eq!(session["end"], "target_exited");
    assert_eq!(session["self_check"]["census"], "exact", "{}", report.warnings());
    let age = session["census_age_s"].as_f64().expect("there was one");
    assert!((0.1..20.0).contains(&age), "{age}");
    assert!(report.warnings().contains("could not be counted once more"));
    let series = report.0["memory"]["pymalloc_series"].as_array().expect("it was counted");
    assert!(series.len() >= 2, "{series:?}");
    assert!(series.is_sorted_by_key(|count| count["live_bytes"].as_u64()), "{series:?}");
    assert!(report.0["memory"]["pymalloc_live_end"].is_null());
    let first = report.sites().next().expect("there are sites");
    let growth = first.number("growth_blocks_per_s");
    println!("{growth} of {kept} a second, by a count from {age} s before");
    assert_eq!(first.line(), leaking_line("hot.py"));
    assert!((growth / kept - 1.0).abs() < 0.25, "{growth} of {kept}");
    assert!(first.0["types"].is_null());
}

#[test]
fn a_quiet_target_is_traced_all_the_time() {
    if !can_trace() {
        return;
    }
    for python in some() {
        let mut target = Target::start(&python, "hot.py", &["0"]);
        let (report, _, done) = trace(&mut target, &["--budget", "1%"], Duration::from_secs(10));
        let fraction = report.number("/session/traced_fraction");
        let overhead = report.number("/session/overhead_pct");
        println!("{}: {done:.0} rounds/s, {fraction}, {overhead} %", python.version);
        assert!(fraction >= 0.99, "{fraction}");
        assert!(overhead < 1.05, "{overhead}");
        assert!(target.finish().success());
    }
}

#[test]
fn a_gate_is_closed_while_leaktrace_is_stopped_and_after_it_was_killed() {
    if !can_trace() {
        return;
    }
    for python in some() {
        for (every, rounds) in [("50", 10), ("0", 3)] {
            let mut target = Target::start(&python, "hot.py", &[every]);
            let slots = Slots::of(target.pid);
            let tracer = Tracer::start(target.pid, &["--budget", "5%"]);
            for round in 0..rounds {
                sleep(Duration::from_millis(100 + 7 * round));
                tracer.signal(Signal::STOP);
                // Longer than any window may be, also one that is left alone while a probe is taken off.
                sleep(Duration::from_millis(600));
                assert_eq!(slots.open_in(target.pid), 0, "{}", python.version);
                tracer.signal(Signal::CONT);
            }
            sleep(Duration::from_millis(200));
            tracer.signal(Signal::KILL);
            let _ = tracer.ended();
            sleep(Duration::from_millis(300));
            assert_eq!(slots.open_in(target.pid), 0, "{}", python.version);
            assert!(target.ask("count")["done"].is_number());
            assert!(target.finish().success());
        }
    }
}

#[test]
fn a_target_that_cannot_be_let_by_is_refused_with_a_way_out() {
    if !can_trace() {
        return;
    }
    let Some(python) = debian_python() else { return };
    let target = Target::start_with(&python, "hot.py", &["0"], &[("PYTHONMALLOC", "debug")]);
    let pid = target.pid.to_string();
    let output = leaktrace(&["--pid", &pid, "--budget", "1%"]).output().expect("leaktrace runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.lines().count() == 1 && said.contains("--exact"), "{said}");
    assert!(target.finish().success());
}
