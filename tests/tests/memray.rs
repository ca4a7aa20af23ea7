//! memray, which patches the C library's functions and, if asked to, puts hooks over the interpreter's allocators: in the
//! target from before, attached to it and detached from it while it is traced.
//!
//! `LEAKTRACE_HOOK_ROUNDS` (3) says how often it is attached and detached.
#![expect(clippy::print_stdout, reason = "the figures are part of what the test is for")]

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use leaktrace_tests::{
    Found, Python, Report, Target, Tracer, can_trace, doctor, services_python, workload,
};
use serde_json::Value;

/// What else the interpreter may allocate on a line of the workload, once.
const ODD: f64 = 12.0;

/// Blocks of each size that are kept: of pymalloc's and of `malloc`'s.
const KEPT: [(u32, u32); 2] = [(2000, 200), (500, 30_000)];

fn rounds_wanted() -> u64 {
    std::env::var("LEAKTRACE_HOOK_ROUNDS").map_or(3, |rounds| rounds.parse().expect("a number"))
}

/// Runs `memray COMMAND ... PID`; it works by gdb.
fn memray(python: &Python, arguments: &[&str], pid: u32) {
    let mut command = Command::new(&python.path);
    command.args(["-m", "memray", arguments[0], "--method", "gdb"]).args(&arguments[1..]);
    let output = command.arg(pid.to_string()).output().expect("Python starts");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
}

/// Has memray track the target: all that the interpreter allocates, or only what comes to the C library.
fn attach(python: &Python, pid: u32, file: &Path, allocators: bool) {
    let file = file.to_str().expect("temporary folders have plain names");
    let mut arguments = vec!["attach", "--no-compress", "--force", "--output", file];
    if allocators {
        arguments.push("--trace-python-allocators");
    }
    memray(python, &arguments, pid);
}

fn detach(python: &Python, pid: u32) {
    memray(python, &["detach"], pid);
}

/// Has the target make and keep blocks; what it says of each size.
fn kept(target: &mut Target) -> Vec<Value> {
    KEPT.map(|(count, size)| target.ask(&format!("kept {count} {size}"))).to_vec()
}

/// Asserts that `report` tells of so many lots as `made` is one of, every block once, whatever its domain.
fn check(report: &Report, made: &[Value], lots: f64) {
    let file = workload("profiled.py").display().to_string();
    let line = format!("{file}:{}", made[0]["line"]);
    let sum = |key| report.sum(key, |site| site.line() == line);
    let all =
        |key: &str| made.iter().map(|made| made[key].as_f64().expect("a number")).sum::<f64>();
    println!(
        "  {} allocations, {} frees, {} live, {} bytes; gate {}, predictions {}, warnings: {}",
        sum("allocations"),
        sum("frees"),
        sum("live_blocks"),
        sum("live_bytes"),
        report.0["session"]["gate"],
        report.0["session"]["self_check"]["predictions"],
        report.warnings().trim_end()
    );
    let (least, most) = (lots * all("blocks"), lots * (all("blocks") + ODD));
    assert!((least..=most).contains(&sum("allocations")), "{least}..={most}");
    // A lot goes when the next one comes.
    assert_eq!(sum("live_blocks"), all("blocks"));
    assert_eq!(sum("live_bytes"), all("bytes"));
    assert_eq!(report.number("/session/events_lost"), 0.0);
    assert_eq!(report.counter("prediction_wrong"), 0.0);
}

/// Traces one lot, which is as `made` has it.
fn traced_once(target: &mut Target, made: &[Value]) -> Report {
    let tracer = Tracer::start(target.pid, &[]);
    kept(target);
    let report = tracer.stop();
    check(&report, made, 1.0);
    report
}

#[test]
fn each_block_is_recorded_once_while_memray_is_there() {
    if !can_trace() {
        return;
    }
    let Some(python) = services_python() else { return };
    let folder = tempfile::tempdir().expect("a folder can be made");
    let file = folder.path().join("memray.bin");
    let mut target = Target::start(&python, "profiled.py", &["memray", "resource"]);
    println!("{}: memray comes and goes", python.version);
    let tracer = Tracer::start(target.pid, &[]);
    attach(&python, target.pid, &file, true);
    let made = kept(&mut target);
    detach(&python, target.pid);
    kept(&mut target);
    let report = tracer.stop();
    check(&report, &made, 2.0);
    assert!(report.warnings().contains("hooks of another tool"), "{}", report.warnings());
    assert_eq!(doctor(target.pid), Found::Nothing);
    println!("{}: memray was there before, and goes", python.version);
    attach(&python, target.pid, &file, true);
    let report = traced_once(&mut target, &made);
    assert!(report.warnings().contains("hooks of another tool"), "{}", report.warnings());
    detach(&python, target.pid);
    assert_eq!(doctor(target.pid), Found::Nothing);
    println!("{}: memray leaves the interpreter's allocators alone", python.version);
    attach(&python, target.pid, &file, false);
    let report = traced_once(&mut target, &made);
    assert_eq!(report.0["session"]["self_check"]["predictions"], "right");
    assert_eq!(target.ask("result")["wrong"], 0);
    assert_eq!(doctor(target.pid), Found::Nothing);
    assert!(target.finish().success());
}

#[test]
fn what_memray_itself_runs_is_traced_like_anything_else() {
    if !can_trace() {
        return;
    }
    let Some(python) = services_python() else { return };
    let folder = tempfile::tempdir().expect("a folder can be made");
    let mut command = python.command();
    command.args(["-m", "memray", "run", "--quiet", "--trace-python-allocators", "--output"]);
    command.arg(folder.path().join("memray.bin")).arg(workload("profiled.py"));
    let mut target = Target::start_command(command);
    let tracer = Tracer::start(target.pid, &[]);
    let made = kept(&mut target);
    check(&tracer.stop(), &made, 1.0);
    assert_eq!(target.ask("result")["wrong"], 0);
    assert_eq!(doctor(target.pid), Found::Nothing);
    assert!(target.finish().success());
}

#[test]
fn memray_that_attaches_and_detaches_while_sessions_start_and_end_does_no_harm() {
    if !can_trace() {
        return;
    }
    let Some(python) = services_python() else { return };
    let folder = tempfile::tempdir().expect("a folder can be made");
    let file = folder.path().join("memray.bin");
    let mut target = Target::start(&python, "profiled.py", &[]);
    let made = kept(&mut target);
    let pid = target.pid;
    let done = AtomicU64::new(0);
    let (mut sessions, mut killed, mut seen) = (0_u64, 0_u64, 0.0);
    std::thread::scope(|scope| {
        let profiler = scope.spawn(|| {
            let pause = || std::thread::sleep(Duration::from_millis(fastrand::u64(..400)));
            for round in 0..rounds_wanted() {
                attach(&python, pid, &file, round % 3 != 2);
                pause();
                detach(&python, pid);
                pause();
                done.store(round + 1, Ordering::Relaxed);
            }
        });
        while !profiler.is_finished() || sessions < 2 {
            let tracer = Tracer::start(pid, &["--duration", "300ms"]);
            sessions += 1;
            if sessions.is_multiple_of(2) {
                killed += 1;
                std::thread::sleep(Duration::from_millis(fastrand::u64(..300)));
                let _ = tracer.kill();
            } else {
                seen += tracer.report().number("/session/allocations_seen");
            }
        }
    });
    let result = target.ask("result");
    println!(
        "{}: {} rounds of memray, {sessions} sessions, {killed} of them killed, {seen} allocations seen; the target's: \
         {result}",
        python.version,
        done.into_inner(),
    );
    assert_eq!(result["wrong"], 0);
    assert!(seen > 0.0);
    // What memray put back may have been open, and whose it was is gone: the next session closes it, with its own.
    let _ = Tracer::start(pid, &["--duration", "300ms"]).report();
    assert_eq!(doctor(pid), Found::Nothing);
    target.ask("forget");
    assert_eq!(kept(&mut target), made);
    assert!(target.finish().success());
}
