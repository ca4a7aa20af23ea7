//! Several interpreters in one process: their blocks, stacks and pools.
#![expect(clippy::print_stdout, reason = "the figures are part of what the test is for")]

use std::time::Duration;

use leaktrace_tests::{Python, Report, Target, Tracer, can_trace, pythons};

/// Blocks by which a count may be off: the last integer of a loop, and a block that was about to be handed out.
const SLACK: f64 = 4.0;

/// A report on sub-interpreters of this kind that made blocks, and how many of each of them kept.
fn traced(python: &Python, kind: &str) -> (Report, f64) {
    let mut target = Target::start(python, "subinterpreters.py", &[kind]);
    let tracer = Tracer::start(target.pid, &[]);
    // Predictions prove themselves first: what they are trusted with is what is tested.
    target.ask("warm");
    std::thread::sleep(Duration::from_millis(500));
    let truth = target.ask("run");
    std::thread::sleep(Duration::from_millis(100));
    let report = tracer.stop();
    let number = |key: &str| truth[key].as_f64().expect("a number");
    (report, number("count") * number("interpreters"))
}

fn check(python: &Python, kind: &str) {
    let (report, count) = traced(python, kind);
    let blocks = |function: &str| {
        report.sum("live_blocks", |site| {
            site.is_small() && site.0["stack"][0]["function"] == function
        })
    };
    let explained = &report.0["session"]["heap_growth_explained_pct"];
    println!(
        "{} {} {kind}: {} objects and {} of all sizes of {count} each; explained {explained} %, {} fresh pools, {}",
        python.path.display(),
        python.version,
        blocks("hold"),
        blocks("hold_sizes"),
        report.counter("fresh_pool_found"),
        report.0["session"]["self_check"],
    );
    println!("  {}", report.0["counters"]);
    assert!((blocks("hold") - count).abs() <= SLACK);
    assert!((blocks("hold_sizes") - count).abs() <= SLACK);
    let freed = report.sum("frees", |site| site.0["stack"][0]["function"] == "hold");
    assert!(freed >= count - SLACK, "{freed} frees seen");
    assert_eq!(report.number("/session/events_lost"), 0.0);
    assert_eq!(report.counter("prediction_wrong"), 0.0);
    assert_eq!(report.counter("other_interpreter"), 0.0);
    assert!((99.0..=101.0).contains(&explained.as_f64().expect("the heap grew")));
    assert_eq!(report.0["session"]["self_check"]["predictions"], "right");
    assert_eq!(report.0["session"]["self_check"]["census"], "exact");
}

#[test]
fn blocks_of_interpreters_that_share_their_pools_are_all_counted() {
    if !can_trace() {
        return;
    }
    for python in pythons().iter().filter(|python| python.minor() >= 8) {
        check(python, "legacy");
    }
}

#[test]
fn blocks_of_interpreters_with_pools_and_a_gil_of_their_own_are_all_counted() {
    if !can_trace() {
        return;
    }
    for python in pythons().iter().filter(|python| python.minor() >= 12) {
        check(python, "isolated");
    }
}
