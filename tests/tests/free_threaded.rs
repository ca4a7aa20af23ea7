//! Free-threaded builds: blocks of threads that run at once, freed by whichever thread.
//!
//! They are looked for as `pythons/free-threaded-*` in the folder that `LEAKTRACE_CACHE` names: no distribution that CI
//! runs on ships one. The tests of coverage, exactness and stacks run on one that `LEAKTRACE_PYTHONS` names.
#![expect(clippy::print_stdout, reason = "the figures are part of what the test is for")]

use std::path::Path;
use std::time::Duration;

use leaktrace_tests::{Python, Target, Tracer, can_trace};

/// Blocks that a loop's last integers and a queue's own may add.
const SLACK: f64 = 16.0;

fn free_threaded() -> Vec<Python> {
    let cache = std::env::var_os("LEAKTRACE_CACHE").unwrap_or_default();
    let builds = std::fs::read_dir(Path::new(&cache).join("pythons")).into_iter().flatten();
    let mut found: Vec<Python> = builds
        .flatten()
        .filter(|build| build.file_name().to_string_lossy().starts_with("free-threaded-"))
        .filter_map(|build| Python::at(build.path().join("bin/python3")))
        .collect();
    found.sort_by_key(Python::minor);
    if found.is_empty() {
        println!("not here: a free-threaded CPython (LEAKTRACE_CACHE/pythons/free-threaded-*)");
    }
    found
}

#[test]
fn blocks_of_threads_that_run_at_once_are_all_counted() {
    if !can_trace() {
        return;
    }
    for python in free_threaded() {
        let mut target = Target::start(&python, "parallel.py", &[]);
        let tracer = Tracer::start(target.pid, &[]);
        let kept = target.work()["kept"].as_f64().expect("a number");
        std::thread::sleep(Duration::from_millis(100));
        let report = tracer.stop();
        let live = |function: &str| {
            report.sum("live_blocks", |site| site.0["stack"][0]["function"] == function)
        };
        println!(
            "{} {}: {} of {kept} blocks held, {} of those that went on, {} of those that were dropped",
            python.path.display(),
            python.version,
            live("hold"),
            live("send"),
            live("churn"),
        );
        assert!((live("hold") - kept).abs() <= SLACK);
        assert!(live("send") <= SLACK && live("churn") <= SLACK && live("resize") <= SLACK);
        assert_eq!(report.number("/session/events_lost"), 0.0);
        let warnings = report.0["warnings"].as_array().expect("an array");
        let said = |words: &str| {
            warnings.iter().any(|warning| warning.as_str().is_some_and(|it| it.contains(words)))
        };
        assert!(said("free-threaded"), "{warnings:?}");
        assert!(!said("frees were not seen"), "{warnings:?}");
        assert!(report.0["session"]["heap_growth_explained_pct"].is_null());
        assert!(report.number("/session/self_check/stacks_pct") > 99.0);
    }
}
