//! Hooks come and go in the target while gates open and close: no harm, right results, no gate left open.
//!
//! `LEAKTRACE_HOOK_ROUNDS` (8) says how often each tool comes and goes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use leaktrace::cpython::tables::{self, Slot as Function};
use leaktrace::cpython::version;
use leaktrace::gate::point::{Kind, candidates};
use leaktrace::gate::{Gate, Slot};
use leaktrace::target::memory::ProcessMemory;
use leaktrace::target::module::Module;
use leaktrace_tests::{Found, Library, Target, Tracer, can_trace, doctor, some_pythons};

/// What comes and goes: tracemalloc; debug hooks, with the allocators saved and put back around them; allocators that
/// are saved and put back later; a profiler's hooks.
const KINDS: [&str; 4] = ["measure", "debug", "saved", "hooked"];

/// Longest pause within and between rounds, in seconds.
const PAUSE: &str = "0.1";

fn rounds_wanted() -> u64 {
    std::env::var("LEAKTRACE_HOOK_ROUNDS").map_or(8, |rounds| rounds.parse().expect("a number"))
}

/// What the target said of its rounds.
#[derive(Debug, Default)]
struct Rounds {
    done: u64,
    /// Rounds in which the tool itself went wrong.
    wrong: u64,
}

/// Runs rounds of `kind` in `target` and `meanwhile` beside them, each as often as was asked for and as long as the other
/// takes.
fn rounds_of(
    kind: &str,
    target: &mut Target,
    least: u64,
    mut meanwhile: impl FnMut(u32),
) -> Rounds {
    let (done, enough) = (AtomicU64::new(0), AtomicBool::new(false));
    let pid = target.pid;
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let mut rounds = Rounds::default();
            while rounds.done < rounds_wanted() || !enough.load(Ordering::Relaxed) {
                let said = target.ask(&format!("rounds {kind} 1 {PAUSE}"));
                rounds.wrong += said["wrong"].as_u64().expect("a number");
                rounds.done += 1;
                done.store(rounds.done, Ordering::Relaxed);
            }
            rounds
        });
        let enough = Enough(&enough);
        let mut times = 0;
        while times < least || done.load(Ordering::Relaxed) < rounds_wanted() {
            assert!(!worker.is_finished(), "the target died in `{kind}`");
            meanwhile(pid);
            times += 1;
        }
        drop(enough);
        worker.join().unwrap_or_else(|_| panic!("the target died in `{kind}`"))
    })
}

/// Says that it is enough when it is dropped, by a panic as well.
struct Enough<'a>(&'a AtomicBool);

impl Drop for Enough<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn hooks_that_come_and_go_while_sessions_start_and_end_do_no_harm() {
    if !can_trace() {
        return;
    }
    let library = Library::build("hooks.c");
    for python in some_pythons() {
        let mut target = Target::start(&python, "allocators.py", &[library.argument()]);
        let made = target.ask("make");
        for kind in KINDS {
            let (mut sessions, mut killed, mut seen) = (0, 0, 0.0);
            let rounds = rounds_of(kind, &mut target, 2, |pid| {
                let tracer = Tracer::start(pid, &["--duration", "300ms"]);
                sessions += 1;
                if sessions % 2 == 0 {
                    killed += 1;
                    std::thread::sleep(Duration::from_millis(fastrand::u64(..300)));
                    let _ = tracer.kill();
                } else {
                    seen += tracer.report().number("/session/allocations_seen");
                }
            });
            println!(
                "{} {kind}: {rounds:?}, {sessions} sessions, {killed} of them killed, {seen} allocations seen",
                python.version,
            );
            assert_eq!(rounds.wrong, 0);
            // Who attaches to hooks that keep the tables out of sight has nothing to see once these are gone.
            assert!(seen > 0.0 || kind == "hooked");
            // Copies that were open went back to where they came from, or are behind hooks that are here no more.
            let _ = doctor(target.pid);
            assert_eq!(doctor(target.pid), Found::Nothing);
        }
        target.ask("forget");
        assert_eq!(target.ask("make"), made);
        assert!(target.finish().success());
    }
}

#[test]
fn hooks_that_come_and_go_while_the_gate_flips_without_a_pause_do_no_harm() {
    if !can_trace() {
        return;
    }
    let library = Library::build("hooks.c");
    for python in some_pythons() {
        let mut target = Target::start(&python, "allocators.py", &[library.argument()]);
        let made = target.ask("make");
        // Not debug hooks, which do not bear that one slot of a table is not theirs: that happens where a slot is written
        // in the microsecond in which they come, in one of thousands of flips.
        for kind in KINDS.into_iter().filter(|kind| *kind != "debug") {
            let mut gate = gate_of(target.pid);
            let (mut flips, start) = (0_u64, Instant::now());
            let rounds = rounds_of(kind, &mut target, 100, |_| {
                gate.open().expect("the target lives");
                gate.look();
                gate.close().expect("the target lives");
                flips += 1;
            });
            println!(
                "{} {kind}: {rounds:?}, {flips} times {} slots opened and closed in {:?}",
                python.version,
                gate.slots().len(),
                start.elapsed()
            );
            // A hook that was overwritten in that microsecond is not there for its round; nothing else comes of it.
            assert!(rounds.wrong * 4 <= rounds.done, "{rounds:?}");
            drop(gate);
            let _ = doctor(target.pid);
            assert_eq!(doctor(target.pid), Found::Nothing, "{} {kind}", python.version);
        }
        target.ask("forget");
        assert_eq!(target.ask("make"), made);
        assert!(target.finish().success());
    }
}

/// A gate of all slots that have a NOP in front of their function, without any probes.
fn gate_of(pid: u32) -> Gate {
    let module = Module::find(pid).expect("the target is a CPython");
    let memory = ProcessMemory::open(pid).expect("it lives");
    let version = version::find(&module, &memory).expect("it is known");
    let tables = tables::find(&module, &memory, &version).expect("they are found");
    let mut slots = Vec::new();
    for (_, table) in tables.named() {
        for function in Function::ALL {
            let closed = table.function(function);
            let nop = candidates(&module, closed).into_iter().find(|it| it.kind == Kind::Nop);
            let slot = |open| Slot { function, table: table.address, closed, open, raw: false };
            slots.extend(nop.map(|point| slot(point.address)));
        }
    }
    assert!(slots.len() >= 8, "{slots:?}");
    Gate::new(Arc::new(memory), slots)
}
