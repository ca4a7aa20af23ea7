//! A storm of sessions, half of them killed, over targets that work in threads and make children of every kind: they
//! come to no harm, their results are right, and no gate stays open.
//!
//! `LEAKTRACE_STORM` (6) says how many sessions each CPython gets.

use std::time::{Duration, Instant};

use leaktrace_tests::{Found, Python, Target, Tracer, can_trace, doctor, record, some_pythons};
use serde_json::{Value, json};

/// How long each session traces.
const TRACED: &str = "300ms";

/// What came of a storm.
#[derive(Debug, Default)]
struct Storm {
    sessions: u32,
    killed: u32,
    killed_while_tracing: u32,
    found_open: u32,
    events_lost: f64,
    allocations_seen: f64,
}

fn sessions() -> u32 {
    std::env::var("LEAKTRACE_STORM").map_or(6, |count| count.parse().expect("a number"))
}

#[test]
fn targets_survive_a_storm_of_sessions_half_of_which_are_killed() {
    if !can_trace() {
        return;
    }
    for python in some_pythons() {
        let start = Instant::now();
        let mut busy = Target::start(&python, "busy.py", &[]);
        let mut forks = Target::start(&python, "forks.py", &[]);
        let mut storm = Storm::default();
        let mut longest = Duration::from_secs(1);
        for round in 0..sessions() {
            let pid = if round % 2 == 0 { busy.pid } else { forks.pid };
            storm.sessions += 1;
            if round / 2 % 2 == 0 {
                storm.run(pid, &mut longest);
            } else {
                storm.kill(pid, longest);
            }
            let said = busy.ask("check");
            assert_eq!(said["mismatches"].as_array().map(Vec::len), Some(0), "{said}");
        }
        for pid in [busy.pid, forks.pid] {
            // What the last one to be killed has left behind.
            storm.found_open += u32::from(doctor(pid) == Found::OpenGate);
            assert_eq!(doctor(pid), Found::Nothing, "{}", python.version);
        }
        assert_gets_on(&mut busy);
        let children = forks.ask("stop");
        println!(
            "{} {}: {storm:?} in {:?}, children {children}",
            python.path.display(),
            python.version,
            start.elapsed()
        );
        assert_unharmed(&python, &storm, &children);
        record("storm", &python, storm.figures(&children));
        assert!(busy.finish().success());
        assert!(forks.finish().success());
    }
}

impl Storm {
    fn figures(&self, children: &Value) -> Value {
        json!({
            "storms": self.sessions,
            "killed": self.killed,
            "killed while tracing": self.killed_while_tracing,
            "gates found open and closed": self.found_open,
            "allocations seen": self.allocations_seen,
            "events lost": self.events_lost,
            "children": children,
        })
    }

    /// A session that runs to its end.
    fn run(&mut self, pid: u32, longest: &mut Duration) {
        let start = Instant::now();
        let mut tracer = Tracer::spawn(pid, &["--duration", TRACED]);
        tracer.wait_until_tracing();
        *longest = start.elapsed() + Duration::from_millis(300);
        let report = tracer.report();
        assert_eq!(report.0["session"]["end"], "duration");
        self.found_open += u32::from(report.warnings().contains("left open"));
        self.events_lost += report.number("/session/events_lost");
        self.allocations_seen += report.number("/session/allocations_seen");
    }

    /// A session that is killed at any moment between its start and some time after its end.
    fn kill(&mut self, pid: u32, longest: Duration) {
        let tracer = Tracer::spawn(pid, &["--duration", TRACED]);
        std::thread::sleep(longest.mul_f64(1.2 * fastrand::f64()));
        self.killed += 1;
        let ended = tracer.kill();
        self.killed_while_tracing += u32::from(ended.traced());
        self.found_open += u32::from(ended.said.contains("left open"));
    }
}

/// Asserts that all threads go on, with right results.
fn assert_gets_on(busy: &mut Target) {
    let before = busy.ask("check")["rounds"].clone();
    let deadline = Instant::now() + leaktrace_tests::PATIENCE;
    loop {
        let said = busy.ask("check");
        assert_eq!(said["mismatches"].as_array().map(Vec::len), Some(0), "{said}");
        assert_eq!(said["threads"], 3, "{said}");
        if (0..3).all(|thread| said["rounds"][thread].as_u64() > before[thread].as_u64()) {
            return;
        }
        assert!(Instant::now() < deadline, "a thread stands still: {said}");
    }
}

fn assert_unharmed(python: &Python, storm: &Storm, children: &Value) {
    assert_eq!(children["harmed"], 0, "{}: {children}", python.version);
    assert_eq!(children["threads"], 0, "{}: {children}", python.version);
    for kind in ["forks", "subprocesses", "preexec", "pools"] {
        assert!(children[kind].as_u64() > Some(0), "{children}");
    }
    assert_eq!(storm.sessions, sessions());
    assert!(storm.killed >= sessions() / 3, "{storm:?}");
    assert!(storm.allocations_seen > 0.0, "{storm:?}");
}
