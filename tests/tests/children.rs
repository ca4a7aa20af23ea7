//! Children that a traced process makes and that are not traced: their copy of the gate is closed at once, they
//! compute what they should, and run as fast as if nobody had ever looked.
//!
//! `LEAKTRACE_SPEED_ROUNDS` (41) says how often the speed of a child is measured, and `LEAKTRACE_SPEED_BOUND` (0.25)
//! how far its fastest round may be from that of one which was never traced: by hand, on a quiet machine, 2000 and 0.02.

use std::time::{Duration, Instant};

use leaktrace_tests::{
    Found, Python, Slots, Target, Tracer, can_trace, debian_python, doctor, pythons,
};

/// How long a child may run with its gate open.
const CLOSING: Duration = Duration::from_millis(100);

/// How often it is tried to find a forked child as fast as another.
const RACES: usize = 3;

/// Debian's python3, and the oldest and newest of the others.
fn some_pythons() -> Vec<Python> {
    let mut all = pythons();
    if all.len() > 3 {
        all.drain(2..all.len() - 1);
    }
    all
}

fn any_python() -> Python {
    debian_python().or_else(|| pythons().pop()).expect("a CPython is here")
}

fn setting(name: &str, default: f64) -> f64 {
    std::env::var(name).map_or(default, |value| value.parse().expect("it is a number"))
}

fn pid(said: &serde_json::Value) -> u32 {
    said["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("it says a pid")
}

/// How long after it was made the gate of `child` is closed.
fn closed_after(slots: &Slots, child: u32, made: Instant) -> Duration {
    while slots.open_in(child) > 0 {
        assert!(made.elapsed() < leaktrace_tests::PATIENCE, "its gate stays open");
        std::thread::sleep(Duration::from_millis(1));
    }
    made.elapsed()
}

#[test]
fn the_gate_of_a_forked_child_is_closed_and_that_of_its_parent_stays_open() {
    if !can_trace() {
        return;
    }
    for python in some_pythons() {
        let mut target = Target::start(&python, "family.py", &[]);
        let tracer = Tracer::start(target.pid, &[]);
        let slots = Slots::of(target.pid);
        let open = slots.open_in(target.pid);
        assert!(open >= 6, "{}: {open} slots are open", python.version);
        // Whatever else the machine does may delay one, not each of them.
        let mut fastest = Duration::MAX;
        for kind in ["child", "grandchild", "child", "grandchild", "child"] {
            let made = Instant::now();
            let child = pid(&target.ask(kind));
            fastest = fastest.min(closed_after(&slots, child, made));
            let took = &target.ask("race")[kind];
            assert!(took.as_f64() > Some(0.0), "the {kind} computed nonsense: {took}");
        }
        eprintln!("{}: closed {fastest:?} after the command to fork", python.version);
        assert!(fastest < CLOSING, "{}: {fastest:?}", python.version);
        for kind in ["subprocess", "preexec"] {
            let said = target.ask(kind);
            assert_eq!((&said["status"], &said["said"]), (&0.into(), &"124750".into()), "{said}");
        }
        assert_eq!(target.ask("pool")["right"], true);
        assert_eq!(slots.open_in(target.pid), open, "{}: the parent's gate", python.version);
        let report = tracer.stop();
        let session = &report.0["session"];
        // Five, the two between grandparent and grandchild, two in the pool; `subprocess` forks where it does not vfork.
        let seen = session["children_seen"].as_u64().expect("they are noticed");
        assert!((9..=11).contains(&seen), "{}: {session}", python.version);
        assert!(session["children_closed"].as_u64() >= Some(7), "{session}");
        let warnings = report.0["warnings"].to_string();
        assert!(!warnings.contains("children") && !warnings.contains("changed"), "{warnings}");
        assert_eq!(doctor(target.pid), Found::Nothing);
        assert!(target.finish().success());
    }
}

#[test]
fn a_child_that_is_made_while_the_tracing_ends_has_no_open_gate() {
    if !can_trace() {
        return;
    }
    let mut target = Target::start(&any_python(), "family.py", &[]);
    for _ in 0..4 {
        let tracer = Tracer::start(target.pid, &[]);
        let slots = Slots::of(target.pid);
        tracer.signal(rustix::process::Signal::INT);
        let mut made = Vec::new();
        while slots.open_in(target.pid) > 0 {
            made.push(pid(&target.ask("child")));
            assert!(made.len() < 10_000, "the gate is not closed");
        }
        let _ = tracer.report();
        assert_eq!(made.iter().map(|&child| slots.open_in(child)).sum::<usize>(), 0, "{made:?}");
        assert_eq!(doctor(target.pid), Found::Nothing);
    }
    assert!(target.finish().success());
}

#[test]
fn a_forked_child_runs_as_fast_as_one_that_was_never_traced() {
    if !can_trace() {
        return;
    }
    let rounds = setting("LEAKTRACE_SPEED_ROUNDS", 41.0) as usize;
    let bound = setting("LEAKTRACE_SPEED_BOUND", 0.25);
    for python in [Some(any_python()), pythons().pop()].into_iter().flatten() {
        let mut target = Target::start(&python, "family.py", &[]);
        target.ask("before");
        let tracer = Tracer::start(target.pid, &[]);
        let slots = Slots::of(target.pid);
        let child = pid(&target.ask("child"));
        closed_after(&slots, child, Instant::now());
        // What a host takes from one of the two for a while is gone the next time; what a trap costs is not.
        let mut slower = || {
            let [before, child] = race(&mut target, rounds);
            let slower = child / before - 1.0;
            let percent = 100.0 * slower;
            eprintln!("{}: {before:.6} s before, {child:.6} s, {percent:+.2} %", python.version);
            slower.abs()
        };
        assert!((0..RACES).any(|_| slower() < bound), "{}", python.version);
        let _ = tracer.stop();
        assert!(target.finish().success());
    }
}

/// The fastest rounds of the child that was made before and of the one that was made while it is traced, taken in turns.
fn race(target: &mut Target, rounds: usize) -> [f64; 2] {
    let mut times: [Vec<f64>; 2] = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        let said = target.ask("race");
        for (times, name) in times.iter_mut().zip(["before", "child"]) {
            let took = said[name].as_f64().expect("it says a number");
            assert!(took > 0.0, "{name} computed nonsense");
            times.push(took);
        }
    }
    times.map(fastest)
}

/// What a round takes that nothing else slows down.
fn fastest(times: Vec<f64>) -> f64 {
    times.into_iter().fold(f64::INFINITY, f64::min)
}

#[test]
fn three_hundred_threads_are_traced_with_right_stacks() {
    if !can_trace() {
        return;
    }
    for python in some_pythons() {
        let mut target = Target::start(&python, "family.py", &[]);
        let tracer = Tracer::start(target.pid, &[]);
        let said = target.ask("crowd");
        assert_eq!((&said["right"], &said["alive"]), (&300.into(), &300.into()), "{said}");
        let report = tracer.stop();
        let of_threads = |name: &str| {
            report.sum("allocations", |site| site.is_small() && site.has_function(name))
        };
        let (inner, outer) = (of_threads("inner"), of_threads("outer"));
        eprintln!("{}: {inner} allocations in `inner`, {outer} below `outer`", python.version);
        // 300 threads make 100 blocks of up to 512 bytes each, and every one of them below `outer`.
        assert!(inner >= 30_000.0, "{}: {inner}", python.version);
        assert!(outer >= inner, "{}: {outer}", python.version);
        assert_eq!(report.number("/session/events_lost"), 0.0);
        assert_eq!(doctor(target.pid), Found::Nothing);
        assert!(target.finish().success());
    }
}
