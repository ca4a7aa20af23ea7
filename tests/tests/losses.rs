//! A target that allocates and frees as fast as it can: nothing is lost, and what a pair costs.
//!
//! `LEAKTRACE_LOSSES_SECONDS` says for how long (3 unless told).
#![expect(clippy::print_stdout, reason = "the figures are part of what the test is for")]

use std::time::Duration;

use leaktrace::kernel::Programs;
use leaktrace::kernel::calibrate;
use leaktrace_common::config::Config;
use leaktrace_tests::{Python, Report, Target, Tracer, can_trace, debian_python};
use serde_json::Value;

/// Nanoseconds of one pair, by what the target says.
fn ns_of_a_pair(said: &Value) -> f64 {
    said["seconds"].as_f64().expect("a number") * 1e9 / said["pairs"].as_f64().expect("a number")
}

fn churn(target: &mut Target, seconds: f64) -> Value {
    target.tell(&seconds.to_string());
    serde_json::from_str(&target.line()).expect("JSON")
}

/// What an empty program on a NOP costs, here and now.
fn empty_hit() -> f64 {
    let mut programs = Programs::load(&Config::default(), false).expect("BPF is there");
    calibrate::empty_hit(&mut programs).expect("this process can be probed").emulated_ns
}

struct Run {
    bare_ns: f64,
    traced_ns: f64,
    hit_ns: f64,
    pairs: f64,
    report: Report,
}

fn run(python: &Python, depth: u32, seconds: f64) -> Run {
    let mut target = Target::start(python, "churn.py", &[&depth.to_string()]);
    let bare_ns = ns_of_a_pair(&churn(&mut target, 1.0));
    let tracer = Tracer::start(target.pid, &[]);
    // Until predictions are trusted, return probes cost more.
    let warm_up = churn(&mut target, 0.5);
    let hit_ns = empty_hit();
    let said = churn(&mut target, seconds);
    let usage = tracer.usage();
    std::thread::sleep(Duration::from_millis(100));
    let report = tracer.stop();
    let pairs = said["pairs"].as_f64().expect("a number");
    let (cpu, peak) = usage;
    println!(
        "{} {}, {depth} frames: {:.0} pairs/s for {seconds} s, lost {}, tracer {:.1} % CPU, peak {} MiB",
        python.path.display(),
        python.version,
        1e9 / ns_of_a_pair(&said),
        report.0["session"]["events_lost"],
        100.0 * cpu / (seconds + 0.5),
        peak >> 20,
    );
    let pairs = pairs + warm_up["pairs"].as_f64().expect("a number");
    Run { bare_ns, traced_ns: ns_of_a_pair(&said), hit_ns, pairs, report }
}

#[test]
fn nothing_is_lost_and_a_pair_costs_a_few_empty_hits() {
    if !can_trace() {
        return;
    }
    let seconds = std::env::var("LEAKTRACE_LOSSES_SECONDS")
        .ok()
        .and_then(|seconds| seconds.parse().ok())
        .unwrap_or(3.0);
    let python = debian_python().expect("the system's python3 is there");
    // A bound with room for a noisy machine; the aim is 3 at 10 frames and 5 at 40.
    for (depth, bound) in [(10, 5.0), (40, 8.0)] {
        let run = run(&python, depth, seconds);
        let multiple = (run.traced_ns - run.bare_ns) / (2.0 * run.hit_ns);
        println!(
            "  a pair takes {:.0} ns more, an empty hit {:.0} ns: {multiple:.2} times two empty hits",
            run.traced_ns - run.bare_ns,
            run.hit_ns
        );
        println!(
            "  overhead by the report {:.1} %, by the pairs {:.1} %",
            run.report.number("/session/overhead_pct"),
            100.0 * (1.0 - run.bare_ns / run.traced_ns)
        );
        assert_eq!(run.report.number("/session/events_lost"), 0.0);
        let seen = run.report.sum("frees", |site| site.has_function("churn"));
        assert!((seen / run.pairs - 1.0).abs() < 0.001, "{seen} of {} pairs", run.pairs);
        assert!(multiple < bound, "{multiple}");
    }
}
