//! Tracing within a budget: what it costs, what it finds, and that nothing depends on leaktrace being there.

use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use leaktrace_tests::{
    Python, Report, Slots, Target, Tracer, assert_refused_within_a_budget, can_trace,
    debian_python, leaking_line, marked_line, pythons, rate_between, record,
};
use rustix::process::Signal;
use serde_json::json;

/// How long a hot target is traced.
const TRACED: Duration = Duration::from_secs(20);

/// The interpreters that this is tried on: an optimised one and a plain one whose gates close.
fn some() -> Vec<Python> {
    let plain = pythons().into_iter().find(|python| python.minor() == 13);
    debian_python().into_iter().chain(plain).collect()
}

/// What came of a trace, and what the target says it did meanwhile.
struct Traced {
    report: Report,
    kept_per_s: f64,
    done_per_s: f64,
    /// How fast it kept in the last third, as a share of before: other work on the host may slow it down.
    steadiness: f64,
}

/// Traces as a user does who says nothing of what it may cost.
fn trace(target: &mut Target, time: Duration) -> Traced {
    let tracer = Tracer::start_by_default(target.pid, &[]);
    let before = target.ask("count");
    sleep(time * 2 / 3);
    let between = target.ask("count");
    sleep(time / 3);
    let after = target.ask("count");
    let report = tracer.stop();
    Traced {
        report,
        kept_per_s: rate_between(&before, &after, "kept"),
        done_per_s: rate_between(&before, &after, "done"),
        steadiness: rate_between(&between, &after, "kept")
            / rate_between(&before, &between, "kept"),
    }
}

/// Asserts that the report is of a trace that keeps to one percent.
fn assert_default(report: &Report) {
    let session = &report.0["session"];
    assert_eq!(
        (session["mode"].as_str(), session["budget_pct"].as_f64()),
        (Some("budget"), Some(1.0))
    );
}

#[test]
fn a_leak_in_a_hot_target_is_named_and_measured_within_the_budget() {
    if !can_trace() {
        return;
    }
    for python in some() {
        let mut target = Target::start(&python, "hot.py", &["50"]);
        let slots = Slots::of(target.pid);
        let Traced { report, kept_per_s: kept, steadiness, .. } = trace(&mut target, TRACED);
        let first = report.sites().next().expect("there are sites");
        let growth = first.number("growth_blocks_per_s");
        let figures = json!({
            "kept_per_s": kept, "estimated_per_s": growth, "steadiness": steadiness,
            "overhead_pct": report.number("/session/overhead_pct"),
            "traced_fraction": report.number("/session/traced_fraction"),
            "sampled": first.number("sampled_blocks"),
            "overruns": report.number("/session/window_overruns"),
        });
        println!("{}: {figures}", python.version);
        record("budget", &python, figures);
        assert_default(&report);
        assert_eq!(first.line(), leaking_line("hot.py"), "{}", report.warnings());
        // What slows down is not called leaking.
        let slowed = steadiness < 0.8 && first.verdict() == "growing";
        assert!(slowed || first.verdict() == "leaking", "{:?}", first.0["evidence"]);
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
fn the_leak_of_a_service_that_works_in_bursts_is_found_without_any_flag() {
    if !can_trace() {
        return;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../leaktrace/src/demo/service.py");
    let text = std::fs::read_to_string(&script).expect("it can be read");
    let marked = text.lines().position(|line| line.ends_with("# LEAK")).expect("a line is marked");
    for python in some() {
        let mut command = python.command();
        command.arg(&script).arg("1");
        let target = Target::start_command(command);
        let tracer = Tracer::start_by_default(target.pid, &["--duration", "30s"]);
        let report = tracer.report();
        let first = report.sites().next().expect("there are sites");
        let growth = first.number("growth_blocks_per_s");
        println!("{}: {growth:.0} blocks a second, {:?}", python.version, first.0["evidence"]);
        let leaking = report.sites().filter(|site| site.verdict() == "leaking");
        let lines: Vec<String> = leaking.map(|site| site.line()).collect();
        let planted = format!("{}:{}", script.display(), marked + 1);
        assert_eq!((first.line(), first.verdict()), (planted.clone(), "leaking"));
        assert!(lines.iter().all(|line| *line == planted), "{lines:?}");
        // Four requests every 10 ms, and what they take themselves.
        assert!((250.0..=410.0).contains(&growth), "{growth}");
        assert_default(&report);
    }
}

#[test]
fn a_target_that_ends_is_measured_by_the_last_count_of_its_heap() {
    let Some(python) = debian_python().filter(|_| can_trace()) else { return };
    let mut target = Target::start(&python, "hot.py", &["50"]);
    let tracer = Tracer::start(target.pid, &["--budget", "1%"]);
    let before = target.ask("count");
    // The heap is counted some ten times.
    sleep(Duration::from_secs(24));
    let kept = rate_between(&before, &target.ask("count"), "kept");
    assert!(target.finish().success());
    let report = tracer.report();
    let session = &report.0["session"];
    assert_eq!(session["end"], "target_exited");
    assert_eq!(session["self_check"]["census"], "exact", "{}", report.warnings());
    let age = session["census_age_s"].as_f64().expect("there was one");
    assert!((0.0..6.0).contains(&age), "{age}");
    assert!(report.warnings().contains("could not be counted once more"));
    let series = report.0["memory"]["pymalloc_series"].as_array().expect("it was counted");
    assert!(series.len() >= 6, "{series:?}");
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
fn a_leak_of_one_in_ten_thousand_comes_first_and_is_measured() {
    let Some(python) = debian_python().filter(|_| can_trace()) else { return };
    // Four blocks a round.
    let mut target = Target::start(&python, "hot.py", &["2500"]);
    let Traced { report, kept_per_s: kept, .. } = trace(&mut target, Duration::from_secs(60));
    let first = report.sites().next().expect("there are sites");
    let growth = first.number("growth_blocks_per_s");
    let sampled = first.number("sampled_blocks");
    println!(
        "{kept:.0} kept a second, {growth:.0} found by {sampled} samples, {}",
        first.verdict()
    );
    assert_eq!(first.line(), leaking_line("hot.py"));
    assert!(matches!(first.verdict(), "leaking" | "growing"), "{:?}", first.0);
    assert!((growth / kept - 1.0).abs() < 0.15, "{growth} of {kept}");
    assert!(report.number("/session/overhead_pct") <= 1.1);
    assert!(target.finish().success());
}

#[test]
fn a_quiet_target_is_traced_all_the_time() {
    if !can_trace() {
        return;
    }
    for python in some() {
        let mut target = Target::start(&python, "hot.py", &["0"]);
        // A host that takes the processor away for a while makes a gap; it does not each time.
        let mut is_whole = || {
            let Traced { report, done_per_s: done, .. } =
                trace(&mut target, Duration::from_secs(10));
            let fraction = report.number("/session/traced_fraction");
            let overhead = report.number("/session/overhead_pct");
            println!("{}: {done:.0} rounds/s, {fraction}, {overhead} %", python.version);
            println!("{}", report.warnings());
            assert!(overhead < 1.05, "{overhead}");
            assert_default(&report);
            fraction >= 0.99
        };
        assert!((0..3).any(|_| is_whole()), "{}", python.version);
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
    assert_refused_within_a_budget(target.pid);
    assert!(target.finish().success());
}

#[test]
fn blocks_over_512_bytes_are_all_seen_while_that_is_within_the_budget() {
    if !can_trace() {
        return;
    }
    for python in some() {
        // Some 200 hits a second, and as many as there can be.
        for (rate, word) in [("100", "exact"), ("1000000", "sampled")] {
            let mut target = Target::start(&python, "large.py", &[rate]);
            let slots = Slots::of(target.pid);
            let tracer = Tracer::start(target.pid, &["--budget", "1%"]);
            let before = target.ask("count");
            sleep(Duration::from_secs(8));
            let after = target.ask("count");
            let report = tracer.stop();
            let kept = rate_between(&before, &after, "kept");
            let line = leaking_line("large.py");
            let found = report.sites().find(|site| site.line() == line).expect("it is seen");
            let growth = found.number("growth_blocks_per_s");
            println!("{}: {kept:.1} kept a second, {growth:.1} found, {word}", python.version);
            assert_eq!(report.0["session"]["raw_blocks"], word);
            assert!(report.number("/session/traced_fraction") < 0.5);
            assert!(report.number("/session/overhead_pct") <= 1.1);
            if word == "exact" {
                // What was kept between the two questions, and what came before and behind them.
                let live = found.number("live_blocks");
                let between = after["kept"].as_f64().unwrap() - before["kept"].as_f64().unwrap();
                assert!(live >= between && live <= between + 10.0, "{live} of {between}");
                assert!(
                    found.0["sampled_blocks"].is_null() || found.number("sampled_blocks") >= live
                );
            }
            assert_eq!(slots.open_in(target.pid), 0);
            assert!(target.finish().success());
        }
    }
}

#[test]
fn phases_with_leaks_of_their_own_are_told_apart() {
    if !can_trace() {
        return;
    }
    let Some(python) = debian_python() else { return };
    let mut target = Target::start(&python, "phases.py", &[]);
    let tracer = Tracer::start_by_default(target.pid, &[]);
    let before = target.ask("count");
    // Each phase eight times.
    sleep(Duration::from_secs(48));
    let after = target.ask("count");
    let report = tracer.stop();
    for (key, mark) in [("first", "# FIRST"), ("second", "# SECOND")] {
        let line = marked_line("phases.py", mark);
        let kept = rate_between(&before, &after, key);
        let found = report.sites().find(|site| site.line() == line && site.is_small());
        let found = found.expect("it is seen");
        let growth = found.number("growth_blocks_per_s");
        println!("{key}: {kept:.0} blocks a second, {growth:.0} found, {}", found.0["evidence"]);
        assert!((growth / kept - 1.0).abs() < 0.15, "{key}: {growth} of {kept}");
        assert!(matches!(found.verdict(), "leaking" | "growing"), "{key}: {:?}", found.0);
    }
    assert!(report.number("/session/traced_fraction") < 0.5);
    assert!(report.number("/session/overhead_pct") <= 1.1);
    assert!(target.finish().success());
}
