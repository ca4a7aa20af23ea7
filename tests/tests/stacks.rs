//! Every frame of every sampled stack, against what `traceback` says in the target.
//!
//! `LEAKTRACE_STACKS` (1000) says how many stacks are sampled on each interpreter.

use leaktrace_tests::{Stacks, Target, Tracer, can_trace, pythons, record};
use serde_json::json;

/// Share of the allocations that may be lost.
const LOST: f64 = 1e-4;

#[test]
fn every_frame_of_every_stack_is_what_traceback_says_on_every_python() {
    if !can_trace() {
        return;
    }
    let count = std::env::var("LEAKTRACE_STACKS").unwrap_or_else(|_| "1000".to_owned());
    for python in pythons() {
        let mut target = Target::start(&python, "stacks.py", &[&count]);
        let tracer = Tracer::start(target.pid, &[]);
        let truth = target.work();
        let report = tracer.stop();
        // The first block of a fresh pool is lost where another is handed out before the next event shows it: measured
        // 2 of 33,000 fresh pools, in threads that begin. It is counted, and is none of the sampled blocks.
        let seen_at_all = report.number("/session/allocations_seen");
        let lost = report.number("/session/events_lost");
        let counters = &report.0["counters"];
        assert!(lost <= LOST * seen_at_all, "{lost} events of {seen_at_all} were lost: {counters}");
        let (wanted, seen) = (Stacks::of_target(&truth["stacks"]), Stacks::of_report(&report));
        println!(
            "{} {}: {} of {} stacks right, {} different ones, {} cut",
            python.path.display(),
            python.version,
            wanted.right_in(&seen),
            wanted.count(),
            wanted.different(),
            wanted.cut(),
        );
        let figures = json!({
            "right": wanted.right_in(&seen),
            "of": wanted.count(),
            "marked": seen.marked(),
            "different": wanted.different(),
            "cut": wanted.cut(),
            "complete_pct": report.0["session"]["self_check"]["stacks_pct"],
        });
        record("stacks", &python, figures);
        assert_eq!(wanted.first_wrong_in(&seen), None, "{}", python.version);
        assert!(wanted.cut() > 0, "none was deeper than the limit");
    }
}
