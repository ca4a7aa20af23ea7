//! Whatever happens to leaktrace, the target goes on with right results, and its allocator tables come back.
//!
//! `LEAKTRACE_SAFETY_ROUNDS` (8) says how often leaktrace is killed and stopped at random moments, and
//! `LEAKTRACE_SAFETY_SECONDS` (15) how long a target that makes children is traced.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use leaktrace_tests::{
    Ended, Found, Python, Report, Target, Tracer, can_trace, debian_python, doctor, leaktrace,
    pythons, some_pythons,
};
use rustix::process::{Pid, Signal, kill_process};

/// Longest time from a signal to the report.
const STOPPING: Duration = Duration::from_secs(5);

/// A number from the environment.
fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |value| value.parse().expect("it is a number"))
}

/// Debian's python3 and the newest of the others; in a long run all there are.
fn pythons_for(rounds: usize) -> Vec<Python> {
    if rounds < 50 { some_pythons() } else { pythons() }
}

fn any_python() -> Python {
    debian_python().or_else(|| pythons().pop()).expect("a CPython is here")
}

/// A target that compares its own results all the time.
struct Busy {
    target: Target,
    rounds: [u64; 3],
}

impl Busy {
    fn start(python: &Python) -> Self {
        let target = Target::start(python, "busy.py", &[]);
        Self { target, rounds: [0; 3] }
    }

    fn pid(&self) -> u32 {
        self.target.pid
    }

    /// Asserts that all of its threads get on, with right results.
    fn check(&mut self) {
        let deadline = Instant::now() + leaktrace_tests::PATIENCE;
        loop {
            let said = self.target.ask("check");
            assert_eq!(said["mismatches"].as_array().map(Vec::len), Some(0), "{said}");
            assert_eq!(said["threads"], 3, "{said}");
            let rounds = [0, 1, 2].map(|thread| said["rounds"][thread].as_u64().unwrap_or(0));
            if (0..3).all(|thread| rounds[thread] > self.rounds[thread]) {
                self.rounds = rounds;
                return;
            }
            assert!(Instant::now() < deadline, "a thread stands still: {said}");
        }
    }
}

/// How long it takes from the start to the `tracing` line.
fn attach_time(pid: u32) -> Duration {
    // The first call builds the program.
    let _ = leaktrace(&[]);
    let start = Instant::now();
    let tracer = Tracer::start(pid, &[]);
    let time = start.elapsed();
    let _ = tracer.stop();
    time
}

fn wait_at_random(longest: Duration) {
    std::thread::sleep(longest.mul_f64(fastrand::f64()));
}

#[test]
fn a_target_survives_that_leaktrace_is_killed_at_any_moment() {
    if !can_trace() {
        return;
    }
    let rounds = setting("LEAKTRACE_SAFETY_ROUNDS", 8);
    let pythons = pythons_for(rounds);
    let (mut tracing, mut left_open) = (0, 0);
    for (index, python) in pythons.iter().enumerate() {
        let mut busy = Busy::start(python);
        let attaching = attach_time(busy.pid());
        let own = (index..rounds).step_by(pythons.len()).count();
        for round in 0..own {
            let mut tracer = Tracer::spawn(busy.pid(), &[]);
            if round == 0 {
                tracer.wait_until_tracing();
            } else {
                wait_at_random(attaching * 2);
            }
            let ended = tracer.kill();
            tracing += usize::from(ended.traced());
            busy.check();
            let found_open = if round % 2 == 0 {
                doctor(busy.pid()) == Found::OpenGate
            } else {
                next_start_closes_it(busy.pid())
            };
            // Killed after the `tracing` line it must have left an open gate, which somebody must have found.
            assert!(found_open || !ended.traced(), "{}: round {round}", python.version);
            left_open += usize::from(found_open);
            assert_eq!(doctor(busy.pid()), Found::Nothing, "{}", python.version);
            busy.check();
        }
        assert!(busy.target.finish().success());
    }
    eprintln!(
        "killed {rounds} times, {tracing} while tracing; {left_open} gates left open and closed"
    );
    assert!(left_open > 0);
}

/// Whether a leaktrace that is started after a killed one says that it closed a gate.
fn next_start_closes_it(pid: u32) -> bool {
    let report = Tracer::spawn(pid, &["--duration", "100ms"]).report();
    let warnings = report.0["warnings"].as_array().expect("warnings are an array");
    warnings.iter().any(|warning| warning.as_str().unwrap_or("").contains("left open"))
}

#[test]
fn a_target_is_as_it_was_when_leaktrace_is_stopped_at_any_moment() {
    if !can_trace() {
        return;
    }
    let rounds = setting("LEAKTRACE_SAFETY_ROUNDS", 8);
    let pythons = pythons_for(rounds);
    let (mut reports, mut longest) = (0, Duration::ZERO);
    for (index, python) in pythons.iter().enumerate() {
        let mut busy = Busy::start(python);
        let attaching = attach_time(busy.pid());
        for _ in (index..rounds).step_by(pythons.len()) {
            let tracer = Tracer::spawn(busy.pid(), &[]);
            wait_at_random(attaching * 2);
            let (ended, time) = stop(tracer, Signal::INT);
            if assert_stopped_cleanly(&ended) {
                longest = longest.max(time);
                reports += 1;
            }
            assert_eq!(doctor(busy.pid()), Found::Nothing, "{}: {ended:?}", python.version);
            busy.check();
        }
        assert!(busy.target.finish().success());
    }
    eprintln!(
        "stopped {rounds} times, {reports} with a report; the slowest of these came after {longest:?}"
    );
}

/// Sends a signal; returns how it ended and how long that took.
fn stop(tracer: Tracer, signal: Signal) -> (Ended, Duration) {
    tracer.signal(signal);
    let ended = tracer.ended();
    let time = ended.printed_after;
    // Where there is no report, it was still attaching, and the kernel takes the probes off before it ends.
    assert!(time < STOPPING || ended.printed.is_empty(), "it took {time:?}: {ended:?}");
    (ended, time)
}

/// Whether it printed a report; if not, it had not begun to trace.
fn assert_stopped_cleanly(ended: &Ended) -> bool {
    match ended.status.code() {
        Some(0) => {
            assert_eq!(ended.report().0["session"]["end"], "signal");
            return true;
        }
        Some(1) => {
            assert_eq!(ended.said.lines().count(), 1, "{}", ended.said);
            assert!(ended.said.contains("before the tracing began"), "{}", ended.said);
        }
        // The signal came before main.
        _ => assert!(ended.said.is_empty(), "{ended:?}"),
    }
    assert!(!ended.traced(), "{ended:?}");
    false
}

#[test]
fn every_signal_that_ends_leaktrace_restores_the_target() {
    if !can_trace() {
        return;
    }
    let mut busy = Busy::start(&any_python());
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let (ended, _) = stop(Tracer::start(busy.pid(), &[]), signal);
        assert!(assert_stopped_cleanly(&ended), "{signal:?}: {ended:?}");
        assert_eq!(doctor(busy.pid()), Found::Nothing, "{signal:?}");
        busy.check();
    }
}

#[test]
fn a_second_signal_leaves_at_once_but_not_an_open_gate() {
    if !can_trace() {
        return;
    }
    let mut busy = Busy::start(&any_python());
    for round in 0..setting("LEAKTRACE_SAFETY_ROUNDS", 8).div_ceil(2) {
        let tracer = Tracer::start(busy.pid(), &[]);
        let pid = Pid::from_raw(tracer.pid().cast_signed()).expect("pids are positive");
        for _ in 0..200 {
            // It may be gone already.
            let _ = kill_process(pid, Signal::INT);
            std::thread::sleep(Duration::from_micros(round as u64 % 8 * 5));
        }
        let ended = tracer.ended();
        assert!(ended.status.code().is_some(), "{ended:?}");
        assert_eq!(doctor(busy.pid()), Found::Nothing, "{ended:?}");
        busy.check();
    }
}

#[test]
fn children_of_every_kind_come_to_no_harm() {
    if !can_trace() {
        return;
    }
    let seconds = setting("LEAKTRACE_SAFETY_SECONDS", 15);
    let pythons = pythons_for(seconds);
    let each = Duration::from_secs(seconds as u64).div_f64(pythons.len() as f64);
    for python in &pythons {
        let mut target = Target::start(python, "forks.py", &[]);
        let deadline = Instant::now() + each;
        let mut sessions = 0;
        while Instant::now() < deadline {
            let mut tracer = Tracer::spawn(target.pid, &["--duration", "300ms"]);
            tracer.wait_until_tracing();
            // A kernel that turns a probed NOP into a call to this page kills children forked under it.
            let maps = std::fs::read_to_string(format!("/proc/{}/maps", target.pid));
            assert!(!maps.expect("the target lives").contains("[uprobes-trampoline]"));
            let report = tracer.report();
            assert_eq!(report.0["session"]["end"], "duration");
            sessions += 1;
        }
        let counts = target.ask("stop");
        eprintln!("{}: {sessions} sessions, {counts}", python.version);
        assert_eq!(counts["harmed"], 0, "{counts}");
        for kind in ["forks", "subprocesses", "preexec", "pools"] {
            assert!(counts[kind].as_u64() > Some(0), "{counts}");
        }
        assert_eq!(doctor(target.pid), Found::Nothing);
        assert!(target.finish().success());
    }
}

#[test]
fn a_child_that_was_forked_under_an_open_gate_is_put_right_by_the_doctor() {
    if !can_trace() {
        return;
    }
    for python in some_pythons() {
        let mut busy = Busy::start(&python);
        let tracer = Tracer::start(busy.pid(), &[]);
        // It stands still while the child is made, and does not live to close its gate.
        tracer.signal(Signal::STOP);
        let child = busy.target.ask("fork")["child"].as_u64().expect("a pid") as u32;
        let _ = tracer.kill();
        assert_eq!(doctor(child), Found::OpenGate, "{}", python.version);
        assert_eq!(doctor(child), Found::Nothing);
        // The parent's doctor looks at the children, too.
        assert_eq!(doctor(busy.pid()), Found::OpenGate);
        let tracer = Tracer::start(busy.pid(), &[]);
        tracer.signal(Signal::STOP);
        let other = busy.target.ask("fork")["child"].as_u64().expect("a pid") as u32;
        let _ = tracer.kill();
        assert!(next_start_closes_it(busy.pid()));
        assert_eq!(doctor(busy.pid()), Found::OpenGateInChildren, "{}", python.version);
        assert_eq!(doctor(other), Found::Nothing);
        busy.check();
        let reaped = busy.target.ask("reap");
        assert_eq!(reaped["child"], 0, "a child ended by itself: {reaped}");
        for child in [child, other] {
            let child = Pid::from_raw(child.cast_signed()).expect("pids are positive");
            kill_process(child, Signal::KILL).expect("the child lives");
        }
    }
}

#[test]
fn tracemalloc_that_starts_and_stops_under_an_open_gate_keeps_nothing_of_it() {
    if !can_trace() {
        return;
    }
    for python in some_pythons() {
        let mut busy = Busy::start(&python);
        // It starts while traced, and stops while traced.
        let tracer = Tracer::start(busy.pid(), &[]);
        assert_measures(&busy.target.ask("measure"));
        assert_measures(&busy.target.ask("unmeasure"));
        let _ = tracer.stop();
        assert_eq!(doctor(busy.pid()), Found::Nothing, "{}", python.version);
        // It starts while traced, and stops when nobody traces any more: it must not put an open table back.
        let tracer = Tracer::start(busy.pid(), &[]);
        assert_measures(&busy.target.ask("measure"));
        let _ = tracer.stop();
        assert_eq!(doctor(busy.pid()), Found::Nothing, "{}", python.version);
        assert_measures(&busy.target.ask("unmeasure"));
        assert_eq!(doctor(busy.pid()), Found::Nothing, "{}", python.version);
        // It was there before, and stops while traced.
        assert_measures(&busy.target.ask("measure"));
        let tracer = Tracer::start(busy.pid(), &[]);
        assert_measures(&busy.target.ask("unmeasure"));
        let _ = tracer.stop();
        assert_eq!(doctor(busy.pid()), Found::Nothing, "{}", python.version);
        // The one who traces is killed: the copy behind the hooks is found.
        let tracer = Tracer::start(busy.pid(), &[]);
        assert_measures(&busy.target.ask("measure"));
        let _ = tracer.kill();
        assert_eq!(doctor(busy.pid()), Found::OpenGate, "{}", python.version);
        assert_measures(&busy.target.ask("unmeasure"));
        assert_eq!(doctor(busy.pid()), Found::Nothing, "{}", python.version);
        busy.check();
    }
}

fn assert_measures(said: &serde_json::Value) {
    assert_eq!(said["tracing"], true, "{said}");
    assert!(said["made"].as_u64() >= Some(100), "{said}");
}

#[test]
fn a_target_that_ends_while_it_is_traced_is_reported() {
    if !can_trace() {
        return;
    }
    for (command, code) in [("exit", 0), ("abort", 3)] {
        let mut busy = Busy::start(&any_python());
        busy.check();
        let tracer = Tracer::start(busy.pid(), &[]);
        busy.check();
        busy.target.tell(command);
        assert_seen_until(&tracer.report(), "target_exited");
        assert_eq!(busy.target.wait().code(), Some(code));
    }
}

#[test]
fn a_target_that_becomes_another_program_is_reported_and_left_alone() {
    if !can_trace() {
        return;
    }
    for python in some_pythons() {
        let mut busy = Busy::start(&python);
        let tracer = Tracer::start(busy.pid(), &[]);
        busy.check();
        busy.target.tell("exec");
        let line = busy.target.line();
        assert!(line.starts_with("ready"), "{}: {line:?}", python.version);
        assert_seen_until(&tracer.report(), "target_exec");
        busy.rounds = [0; 3];
        busy.check();
        assert_eq!(doctor(busy.pid()), Found::Nothing);
    }
}

fn assert_seen_until(report: &Report, end: &str) {
    assert_eq!(report.0["session"]["end"], end);
    assert!(report.number("/session/allocations_seen") > 1000.0);
    assert!(report.sites().next().is_some());
}

#[test]
fn a_second_leaktrace_is_refused_wherever_it_runs() {
    if !can_trace() {
        return;
    }
    let mut busy = Busy::start(&any_python());
    let first = Tracer::start(busy.pid(), &[]);
    for wrapper in [&[][..], &["--mount"], &["--mount", "--pid", "--fork"], &["--uts", "--ipc"]] {
        let start = Instant::now();
        let ended = Tracer::spawn_command(unshared(wrapper, busy.pid())).ended();
        eprintln!("{wrapper:?}: refused after {:?}", start.elapsed());
        assert_eq!(ended.status.code(), Some(1), "{wrapper:?}: {ended:?}");
        assert_eq!(ended.said.lines().count(), 1, "{wrapper:?}: {ended:?}");
        assert!(ended.said.contains("already traced"), "{wrapper:?}: {ended:?}");
        assert!(ended.printed.is_empty(), "{ended:?}");
    }
    busy.check();
    // It did not close what is the first one's.
    let report = first.stop();
    assert!(report.number("/session/allocations_seen") > 0.0);
    assert_eq!(doctor(busy.pid()), Found::Nothing);
}

#[test]
fn after_one_was_killed_the_next_may_start_at_once() {
    if !can_trace() {
        return;
    }
    let mut busy = Busy::start(&any_python());
    let first = Tracer::start(busy.pid(), &[]);
    // The kernel takes seconds to take the probes off: the first one is still dying when the next one starts.
    first.signal(Signal::KILL);
    assert!(next_start_closes_it(busy.pid()));
    drop(first);
    assert_eq!(doctor(busy.pid()), Found::Nothing);
    busy.check();
}

/// A leaktrace in namespaces of its own.
fn unshared(wrapper: &[&str], pid: u32) -> Command {
    let plain = leaktrace(&["--pid", &pid.to_string(), "--format", "json", "--duration", "1s"]);
    if wrapper.is_empty() {
        return plain;
    }
    let mut command = Command::new("unshare");
    command.args(wrapper).arg(plain.get_program()).args(plain.get_args());
    command.stdin(Stdio::null());
    command
}
