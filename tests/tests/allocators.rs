//! Whatever allocators and hooks a CPython runs on, each block is recorded once, the target comes to no harm, and no
//! gate is left open.
#![expect(clippy::print_stdout, reason = "the figures are part of what the test is for")]

use std::path::Path;
use std::time::{Duration, Instant};

use leaktrace_tests::{
    Found, Library, Python, Report, Slots, Target, Tracer, can_trace, doctor, some_pythons,
    workload,
};
use serde_json::Value;

/// Where Debian's libjemalloc2 lies.
const JEMALLOC: &str = "/usr/lib/x86_64-linux-gnu/libjemalloc.so.2";

/// What else the interpreter may allocate on a line of the workload, once.
const ODD: f64 = 12.0;

/// How long a gate that others closed may take to be opened again, on a busy machine.
const REOPENED: Duration = Duration::from_secs(20);

/// How a configuration reports the workload's blocks.
#[derive(Clone, Copy)]
struct Shape {
    /// The domain of blocks of up to 512 bytes.
    small: &'static str,
    /// Whether a tracer in the target allocates as well, a small raw block for each block.
    tracer: bool,
}

const PYMALLOC: Shape = Shape { small: "obj", tracer: false };
const MALLOC: Shape = Shape { small: "raw", tracer: false };
const TRACED: Shape = Shape { small: "obj", tracer: true };

/// Asserts that `report` tells `lots` lots of what `made` tells one of.
fn check(report: &Report, made: &Value, lots: f64, shape: Shape) {
    let file = workload("allocators.py").display().to_string();
    for (kind, made) in made.as_object().expect("an object") {
        let number = |key: &str| lots * made[key].as_f64().expect("a number");
        let line = format!("{file}:{}", made["line"]);
        let domain = if matches!(kind.as_str(), "small" | "dropped") { shape.small } else { "raw" };
        let sum = |key| report.sum(key, |site| site.line() == line && site.0["domain"] == domain);
        let (allocations, frees) = (sum("allocations"), sum("frees"));
        let (live, bytes) = (sum("live_blocks"), sum("live_bytes"));
        println!("  {kind:8} {allocations} allocations, {frees} frees, {live} live, {bytes} bytes");
        // A tracer's own blocks are on the lines of the blocks that it keeps books of.
        let (more, heavier) =
            if shape.tracer && domain == "raw" { (2.0, 1.02) } else { (1.0, 1.0) };
        let within = |found: f64, least: f64, most: f64| {
            assert!((least..=most).contains(&found), "{kind}: {found} is not in {least}..={most}");
        };
        within(allocations, number("made"), more * number("made") + ODD * lots);
        within(live, number("kept"), more * number("kept"));
        within(bytes, number("bytes"), heavier * number("bytes"));
        assert_eq!(frees, allocations - live, "{kind}");
    }
    assert_eq!(report.number("/session/events_lost"), 0.0);
    assert_eq!(report.counter("prediction_wrong"), 0.0);
}

fn said(python: &Python, configuration: &str, report: &Report) {
    println!(
        "{} {configuration}: gate {}, predictions {}, coverage {} %, warnings: {}",
        python.version,
        report.0["session"]["gate"],
        report.0["session"]["self_check"]["predictions"],
        report.0["session"]["coverage_pct"],
        report.warnings().trim_end(),
    );
}

/// The report of a target in this environment that makes a lot while it is traced, checked.
fn traced(python: &Python, environment: (&str, &str), shape: Shape) -> Report {
    let mut target = Target::start_with(python, "allocators.py", &[], &[environment]);
    if environment.1 == JEMALLOC {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", target.pid));
        assert!(maps.expect("it lives").contains("libjemalloc"));
    }
    let blocks = |target: &mut Target| target.ask("blocks")["blocks"].as_u64();
    let before = blocks(&mut target);
    let tracer = Tracer::start(target.pid, &[]);
    let made = target.ask("make");
    let traced = blocks(&mut target);
    if environment.1.ends_with("debug") {
        target.ask("setup_debug_hooks");
    }
    let report = tracer.stop();
    said(python, environment.1, &report);
    check(&report, &made, 1.0, shape);
    assert_eq!(doctor(target.pid), Found::Nothing);
    // The interpreter's own count of blocks is right while traced, too; it has none where malloc serves.
    let kept = if before == Some(0) { 0 } else { 2000 };
    assert!(traced >= before.map(|before| before + kept), "{before:?} {traced:?}");
    assert_eq!(target.ask("make"), made);
    assert!(target.finish().success());
    report
}

#[test]
fn each_block_is_recorded_once_under_every_allocator() {
    if !can_trace() {
        return;
    }
    assert!(Path::new(JEMALLOC).exists(), "libjemalloc2 is installed by `cargo xtask test`");
    for python in some_pythons() {
        let report = traced(&python, ("PYTHONMALLOC", "malloc"), MALLOC);
        assert_eq!(report.0["session"]["self_check"]["predictions"], "none");
        for debug in ["debug", "pymalloc_debug", "malloc_debug"] {
            let report = traced(&python, ("PYTHONMALLOC", debug), PYMALLOC);
            assert_eq!(report.0["session"]["gate"], "entry");
        }
        if python.minor() >= 13 {
            let report = traced(&python, ("PYTHONMALLOC", "mimalloc"), PYMALLOC);
            assert_eq!(report.0["session"]["gate"], "entry");
        }
        let report = traced(&python, ("LD_PRELOAD", JEMALLOC), PYMALLOC);
        assert_eq!(report.0["session"]["self_check"]["predictions"], "right");
    }
}

#[test]
fn tracemalloc_that_was_there_before_and_stops_while_traced_hides_nothing() {
    if !can_trace() {
        return;
    }
    for python in some_pythons() {
        let mut target = Target::start(&python, "allocators.py", &[]);
        target.ask("measure");
        let tracer = Tracer::start(target.pid, &[]);
        let made = target.ask("make");
        assert_measured(&target.ask("measured"), &made);
        assert_eq!(target.ask("unmeasure")["tracing"], false);
        // After it has stopped, calls go on to be seen without a gap.
        target.ask("make");
        let report = tracer.stop();
        said(&python, "tracemalloc before", &report);
        check(&report, &made, 2.0, TRACED);
        assert!(report.warnings().contains("hooks of another tool"), "{}", report.warnings());
        assert!(!report.warnings().contains("missed"), "{}", report.warnings());
        assert_eq!(doctor(target.pid), Found::Nothing);
        assert!(target.finish().success());
    }
}

#[test]
fn tracemalloc_that_starts_and_stops_while_traced_hides_nothing() {
    if !can_trace() {
        return;
    }
    for python in some_pythons() {
        let mut target = Target::start(&python, "allocators.py", &[]);
        let tracer = Tracer::start(target.pid, &[]);
        let made = target.ask("make");
        target.ask("measure");
        target.ask("make");
        assert_measured(&target.ask("measured"), &made);
        std::thread::sleep(Duration::from_millis(300));
        target.ask("unmeasure");
        target.ask("make");
        let report = tracer.stop();
        said(&python, "tracemalloc meanwhile", &report);
        check(&report, &made, 3.0, TRACED);
        assert!(report.warnings().contains("hooks of another tool"), "{}", report.warnings());
        assert!(!report.warnings().contains("missed"), "{}", report.warnings());
        assert_eq!(doctor(target.pid), Found::Nothing);
        assert!(target.finish().success());
    }
}

/// Asserts that tracemalloc, which stands above the gate, tells what the workload made.
fn assert_measured(measured: &Value, made: &Value) {
    for kind in ["small", "large"] {
        let line = made[kind]["line"].to_string();
        assert_eq!(measured[&line]["blocks"], made[kind]["kept"], "{measured}");
        assert_eq!(measured[&line]["bytes"], made[kind]["bytes"], "{measured}");
    }
}

#[test]
fn allocators_that_a_host_saves_under_an_open_gate_and_puts_back_later_are_closed() {
    if !can_trace() {
        return;
    }
    let library = Library::build("hooks.c");
    for python in some_pythons() {
        let mut target = Target::start(&python, "allocators.py", &[library.argument()]);
        let tracer = Tracer::start(target.pid, &[]);
        target.ask("save");
        let _ = tracer.stop();
        assert_eq!(doctor(target.pid), Found::Nothing);
        // What it puts back is open: nobody traces, so that is for the doctor, or for the next to come.
        target.ask("put_back");
        let made = target.ask("make");
        assert_eq!(doctor(target.pid), Found::OpenGate, "{}", python.version);
        assert_eq!(doctor(target.pid), Found::Nothing);
        target.ask("put_back");
        let tracer = Tracer::start(target.pid, &[]);
        target.ask("forget");
        assert_eq!(target.ask("make"), made);
        let report = tracer.stop();
        assert!(report.warnings().contains("left open"), "{}", report.warnings());
        check(&report, &made, 1.0, PYMALLOC);
        assert_eq!(doctor(target.pid), Found::Nothing);
        assert!(target.finish().success());
    }
}

#[test]
fn a_gate_that_a_host_closes_by_putting_back_old_allocators_is_opened_again() {
    if !can_trace() {
        return;
    }
    let library = Library::build("hooks.c");
    for python in some_pythons() {
        let mut target = Target::start(&python, "allocators.py", &[library.argument()]);
        target.ask("save");
        let tracer = Tracer::start(target.pid, &[]);
        let first = target.ask("make");
        let slots = Slots::of(target.pid);
        let open = slots.open_in(target.pid);
        target.ask("put_back");
        let deadline = Instant::now() + REOPENED;
        while slots.open_in(target.pid) < open {
            assert!(Instant::now() < deadline, "it is not opened again");
            std::thread::sleep(Duration::from_millis(10));
        }
        target.ask("make");
        let report = tracer.stop();
        said(&python, "a host's own", &report);
        // Where nothing is inlined some functions are probed at their entry, and only part of the gate was closed.
        check(&report, &first, 2.0, PYMALLOC);
        let warnings = report.warnings();
        assert!(warnings.contains("then the gate was opened again"), "{warnings}");
        assert_eq!(doctor(target.pid), Found::Nothing);
        assert!(target.finish().success());
    }
}

#[test]
fn hooks_that_keep_the_tables_out_of_sight_come_and_go_while_traced() {
    if !can_trace() {
        return;
    }
    let library = Library::build("hooks.c");
    for python in some_pythons() {
        let mut target = Target::start(&python, "allocators.py", &[library.argument()]);
        let tracer = Tracer::start(target.pid, &[]);
        // Code that is met first while frees may go unseen has no name, whoever comes first.
        let made = target.ask("make");
        target.ask("hook");
        target.ask("make");
        std::thread::sleep(Duration::from_millis(300));
        assert!(target.ask("unhook")["result"].as_u64() > Some(5000));
        target.ask("make");
        let report = tracer.stop();
        said(&python, "hooks out of sight", &report);
        // They call what they found in the tables, the gate points; only nobody can know that they do.
        check(&report, &made, 3.0, PYMALLOC);
        assert!(report.warnings().contains("may have been missed"), "{}", report.warnings());
        assert_eq!(doctor(target.pid), Found::Nothing);
        // They were there before: they are probed where they are, and once they are gone nothing is seen any more.
        target.ask("hook");
        let tracer = Tracer::start(target.pid, &[]);
        target.ask("make");
        std::thread::sleep(Duration::from_millis(300));
        target.ask("unhook");
        std::thread::sleep(Duration::from_millis(300));
        let report = tracer.stop();
        said(&python, "hooks from before", &report);
        // One function serves all domains.
        check(&report, &made, 1.0, MALLOC);
        assert_eq!(report.0["session"]["gate"], "entry");
        assert!(report.warnings().contains("to the end"), "{}", report.warnings());
        // They come while traced, and go when nobody traces any more.
        let tracer = Tracer::start(target.pid, &[]);
        target.ask("hook");
        let report = tracer.stop();
        assert!(report.warnings().contains("leaktrace doctor"), "{}", report.warnings());
        target.ask("unhook");
        assert_eq!(doctor(target.pid), Found::OpenGate);
        assert_eq!(doctor(target.pid), Found::Nothing);
        assert!(target.finish().success());
    }
}
