//! How many of a target's allocations and frees are seen, against the interpreter's own count of blocks.
//!
//! Beside it stands what a probe on the exported symbols would have seen (`--no-gate` on an optimised build).
#![expect(clippy::print_stdout, reason = "the figures are part of what the test is for")]

use std::time::Duration;

use leaktrace_tests::{
    Python, Report, SymbolProbes, Target, Tracer, allocator_functions, can_trace, pythons, record,
};
use serde_json::{Value, json};

/// Share of the blocks that must be seen.
const WANTED: f64 = 0.999;

/// Blocks by which the two counts may differ besides: the interpreter counts once more before and after the work,
/// which itself makes an integer or two, and its free lists hold a few blocks either way.
const SLACK: f64 = 4.0;

/// What was seen of one kind of object, and what the interpreter counted.
struct Seen {
    kind: String,
    kept: (f64, f64),
    dropped: (f64, f64),
}

#[test]
fn every_kind_of_allocation_and_free_is_seen_on_every_python() {
    if !can_trace() {
        return;
    }
    for python in pythons() {
        let (truth, report) = trace(&python, &[]);
        let seen = compare(&truth, &report);
        println!(
            "{} {}: gate {}, coverage {} %, predictions {} right, {} wrong, {} fresh pools",
            python.path.display(),
            python.version,
            report.0["session"]["gate"],
            report.0["session"]["coverage_pct"],
            report.counter("prediction_right"),
            report.counter("prediction_wrong"),
            report.counter("fresh_pool_found"),
        );
        record("coverage", &python, figures(&python, &report, &seen));
        for Seen { kind, kept, dropped } in &seen {
            println!(
                "  {kind:14} kept {:>6} of {:>6}  freed {:>6} of {:>6}",
                kept.0, kept.1, dropped.0, dropped.1
            );
            assert!((kept.0 - kept.1).abs() <= SLACK + kept.1 * (1.0 - WANTED), "{kind} kept");
            assert!(dropped.0 >= dropped.1 * WANTED - SLACK, "{kind} freed");
        }
        assert_eq!(report.number("/session/events_lost"), 0.0);
        assert_eq!(report.counter("prediction_wrong"), 0.0);
    }
}

#[test]
fn without_a_gate_an_optimised_python_shows_little_and_the_report_says_so() {
    if !can_trace() {
        return;
    }
    for python in pythons() {
        let (truth, report) = trace(&python, &["--no-gate"]);
        let (kept, implied) = compare(&truth, &report)
            .iter()
            .fold((0.0, 0.0), |sum, seen| (sum.0 + seen.kept.0, sum.1 + seen.kept.1));
        println!(
            "{} {}: without a gate {kept} of {implied} blocks ({:.3} %)",
            python.path.display(),
            python.version,
            100.0 * kept / implied
        );
        record("without a gate", &python, json!({ "seen": kept, "of": implied }));
        if report.0["session"]["coverage_pct"].is_null() {
            // Some builds have only a part of the functions inlined: of those that are not, all is seen.
            let all = kept >= WANTED * implied - 11.0 * SLACK;
            assert!(kept < 0.2 * implied || all, "coverage is said to be unknown, but is not low");
            assert!(!report.0["warnings"].as_array().expect("an array").is_empty());
        } else {
            assert!(kept >= WANTED * implied - 11.0 * SLACK, "a plain build shows all calls");
        }
    }
}

#[test]
fn a_probe_on_the_exported_symbols_sees_next_to_nothing_of_an_optimised_python() {
    if !can_trace() {
        return;
    }
    for python in pythons() {
        let mut target = Target::start(&python, "coverage.py", &[]);
        let probes = SymbolProbes::attach(target.pid);
        target.work();
        let hits = probes.hits();
        drop(probes);
        drop(target);
        // The same work once more, seen through the gate.
        let (_, report) = trace(&python, &[]);
        let seen = report.number("/session/allocations_seen");
        println!(
            "{} {}: symbols see {hits}, the gate {seen} ({:.3} %)",
            python.path.display(),
            python.version,
            100.0 * hits as f64 / seen
        );
        record("symbols", &python, json!({ "symbols": hits, "gate": seen }));
        // Where nothing is inlined the two must agree: they count the same calls in two independent ways.
        let share = hits as f64 / seen;
        assert!(share < 0.2 || (share - 1.0).abs() < 0.001, "the two counts differ");
    }
}

/// What a table of builds shows of this one.
fn figures(python: &Python, report: &Report, seen: &[Seen]) -> Value {
    let blocks = |number: fn(&Seen) -> (f64, f64)| {
        let (seen, of) = seen.iter().map(number).fold((0.0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1));
        json!({ "seen": seen, "of": of })
    };
    let target = Target::start(python, "coverage.py", &[]);
    json!({
        "session": report.0["session"],
        "warnings": report.0["warnings"],
        "kept": blocks(|seen| seen.kept),
        "freed": blocks(|seen| seen.dropped),
        "predictions": {
            "right": report.counter("prediction_right"),
            "wrong": report.counter("prediction_wrong"),
            "fresh pools": report.counter("fresh_pool_found"),
        },
        "disassembly": allocator_functions(target.pid),
    })
}

fn trace(python: &Python, arguments: &[&str]) -> (Value, Report) {
    let mut target = Target::start(python, "coverage.py", &[]);
    let tracer = Tracer::start(target.pid, arguments);
    // Predictions need a moment and some hundreds of allocations to prove themselves: half of the work is done with
    // return probes, half without.
    let truth = target.work();
    std::thread::sleep(Duration::from_millis(100));
    (truth, tracer.stop())
}

/// For each kind of object what was seen against what the interpreter counted.
fn compare(truth: &Value, report: &Report) -> Vec<Seen> {
    let kinds = truth["kept"].as_object().expect("an object").keys();
    kinds
        .map(|kind| {
            // The two calls of each function differ in their caller.
            let called = |by: &'static str| {
                move |site: leaktrace_tests::Site<'_>| {
                    site.has_function(kind) && site.has_function(by) && site.is_small()
                }
            };
            let in_dropped = called("dropped");
            let kept = report.sum("live_blocks", |site| {
                site.has_function(kind) && !site.has_function("dropped") && site.is_small()
            });
            let counted = truth["kept"][kind].as_f64().expect("a number");
            let made = truth["dropped"][kind][0].as_f64().expect("a number");
            let left = truth["dropped"][kind][1].as_f64().expect("a number");
            let live = report.sum("live_blocks", in_dropped);
            let allocated = report.sum("allocations", called("dropped"));
            // What was made for good, of all that was made: temporary blocks are freed as they come.
            let temporary = allocated - made;
            let freed = report.sum("frees", called("dropped")) - temporary;
            println!("    {kind}: {allocated} allocated, {live} left against {left}");
            Seen { kind: kind.clone(), kept: (kept, counted), dropped: (freed, made - left) }
        })
        .collect()
}
