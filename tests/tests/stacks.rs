//! Every frame of every sampled stack, against what `traceback` says in the target.
//!
//! `LEAKTRACE_STACKS` (400) says how many stacks are sampled on each interpreter.

use std::collections::BTreeMap;
use std::time::Duration;

use leaktrace_tests::{Report, Target, Tracer, can_trace, pythons, record};
use serde_json::{Value, json};

/// The frames of a stack, innermost first: function, file and line.
type Stack = Vec<(String, String, u64)>;

#[test]
fn every_frame_of_every_stack_is_what_traceback_says_on_every_python() {
    if !can_trace() {
        return;
    }
    let count = std::env::var("LEAKTRACE_STACKS").unwrap_or_else(|_| "400".to_owned());
    for python in pythons() {
        let mut target = Target::start(&python, "stacks.py", &[&count]);
        let tracer = Tracer::start(target.pid, &[]);
        let truth = target.work();
        std::thread::sleep(Duration::from_millis(100));
        let report = tracer.stop();
        assert_eq!(report.number("/session/events_lost"), 0.0);
        let (wanted, seen) = (sampled(&truth), seen(&report));
        let right = |(stack, count): (&Stack, &u64)| {
            let found = seen.get(stack).copied().unwrap_or(0);
            found.min(*count)
        };
        let right: u64 = wanted.iter().map(right).sum();
        let all: u64 = wanted.values().sum();
        println!(
            "{} {}: {right} of {all} stacks right, {} different ones",
            python.path.display(),
            python.version,
            wanted.len()
        );
        let marked = seen.iter().filter(|(stack, _)| stack.iter().any(|frame| frame.0 == "?"));
        let marked: u64 = marked.map(|(_, count)| count).sum();
        let complete = report.0["session"]["self_check"]["stacks_pct"].clone();
        let figures = json!({ "right": right, "of": all, "marked": marked, "different": wanted.len(), "complete_pct": complete });
        record("stacks", &python, figures);
        let first_wrong = wanted.iter().find(|(stack, count)| seen.get(*stack) != Some(*count));
        assert_eq!(first_wrong, None, "{}", python.version);
    }
}

/// How often each stack was sampled, by the target's own account.
fn sampled(truth: &Value) -> BTreeMap<Stack, u64> {
    let mut counts = BTreeMap::new();
    for stack in truth["stacks"].as_array().expect("stacks are an array") {
        let frames = stack.as_array().expect("a stack is an array");
        let stack = frames.iter().map(|frame| named(&frame[0], &frame[1], &frame[2])).collect();
        *counts.entry(stack).or_insert(0) += 1;
    }
    counts
}

/// How many of the sampled blocks, which alone are as large, the report has at each stack.
fn seen(report: &Report) -> BTreeMap<Stack, u64> {
    let mut counts = BTreeMap::new();
    for site in report.sites().filter(|site| site.0["domain"] == "raw") {
        let frames = site.0["stack"].as_array().expect("a stack is an array");
        let frames = frames.iter();
        let stack = frames.map(|f| named(&f["function"], &f["file"], &f["line"])).collect();
        *counts.entry(stack).or_insert(0) += site.number("live_blocks") as u64;
    }
    counts
}

fn named(function: &Value, file: &Value, line: &Value) -> (String, String, u64) {
    let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
    (text(function), text(file), line.as_u64().unwrap_or(0))
}
