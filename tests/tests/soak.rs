//! Gates that open and close as fast as they can, with probes behind them, under a target that compares its own results.
//!
//! `LEAKTRACE_OPENINGS` (20,000) says how often each of them is opened.
#![expect(clippy::print_stdout, reason = "the figures are part of what the test is for")]

use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use leaktrace::cpython::tables::{self, Slot as Function, Table};
use leaktrace::cpython::version;
use leaktrace::gate::point::{GatePoint, Kind, candidates};
use leaktrace::gate::{Gate, Reach, Slot};
use leaktrace::kernel::{Probe, Programs, measure_runs};
use leaktrace::target::memory::ProcessMemory;
use leaktrace::target::module::Module;
use leaktrace_common::config::Config;
use leaktrace_tests::{PATIENCE, Python, Slots, Target, can_trace, pythons, some_pythons};

/// From so many openings on, it is tried on every CPython.
const MANY: u64 = 1_000_000;

/// Openings from one look at the target to the next.
const BETWEEN_LOOKS: u64 = 100_000;

/// A gate with a probe behind each of its slots.
struct Probed {
    gate: Gate,
    programs: Programs,
    _counting: OwnedFd,
}

impl Probed {
    fn on(pid: u32) -> Self {
        let module = Module::find(pid).expect("the target is a CPython");
        let memory = ProcessMemory::open(pid).expect("its memory can be opened");
        let version = version::find(&module, &memory).expect("its version is known");
        let tables = tables::find(&module, &memory, &version).expect("it has tables");
        let mut programs = Programs::load(&Config::default(), false).expect("BPF is there");
        let process = NonZeroU32::new(pid).expect("pids are positive");
        let mut probed: Vec<u64> = Vec::new();
        let mut slots = Vec::new();
        for (name, table) in tables.named() {
            for function in Function::ALL {
                let Some(slot) = slot(&module, &table, function, name == "raw") else { continue };
                if !probed.contains(&slot.open) {
                    let offset = module.file_offset_of(slot.open).expect("it is in the file");
                    programs
                        .attach(Probe::Calibrate, module.map_file(), offset, process)
                        .expect("padding can be probed");
                    probed.push(slot.open);
                }
                slots.push(slot);
            }
        }
        assert!(!slots.is_empty(), "this build has no gate");
        let gate = Gate::new(Arc::new(memory), slots);
        Self { gate, programs, _counting: measure_runs().expect("the kernel counts runs") }
    }

    fn toggle(&self) {
        let open = |opened: std::io::Result<bool>| assert!(opened.expect("the target lives"));
        open(self.gate.open_frees(Reach::All));
        open(self.gate.open_allocations(Reach::All));
        self.gate.close_allocations(Reach::All).expect("the target lives");
        self.gate.close_frees(Reach::All).expect("the target lives");
    }

    fn hits(&self) -> u64 {
        self.programs.runs(Probe::Calibrate).count
    }
}

/// The slot of a function that has padding in front of it.
fn slot(module: &Module, table: &Table, function: Function, raw: bool) -> Option<Slot> {
    let closed = table.function(function);
    let is_padding = |point: &GatePoint| matches!(point.kind, Kind::Nop | Kind::Jump);
    let point = candidates(module, closed).into_iter().find(is_padding)?;
    Some(Slot { function, table: table.address, closed, open: point.address, raw })
}

/// Asserts that the target's threads get on with right results; returns how far they are.
fn check(target: &mut Target, before: u64) -> u64 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let said = target.ask("check");
        assert_eq!(said["mismatches"].as_array().map(Vec::len), Some(0), "{said}");
        assert_eq!(said["threads"], 3, "{said}");
        let rounds = said["rounds"].as_array().expect("an array").iter();
        let slowest = rounds.filter_map(serde_json::Value::as_u64).min().unwrap_or(0);
        if slowest > before {
            return slowest;
        }
        assert!(Instant::now() < deadline, "a thread stands still: {said}");
    }
}

fn soak(python: &Python, openings: u64) {
    let mut target = Target::start(python, "busy.py", &[]);
    let mut rounds = check(&mut target, 0);
    let probed = Probed::on(target.pid);
    let start = Instant::now();
    for opening in 1..=openings {
        probed.toggle();
        if opening % BETWEEN_LOOKS.min(openings / 5 + 1) == 0 {
            rounds = check(&mut target, rounds);
        }
    }
    let (hits, took) = (probed.hits(), start.elapsed());
    println!("{}: {openings} openings in {took:.1?}, {hits} hits", python.version);
    assert!(hits > openings / 1000, "hardly a call was seen");
    assert!(probed.gate.is_closed());
    drop(probed);
    assert_eq!(Slots::of(target.pid).open_in(target.pid), 0);
    check(&mut target, rounds);
    assert!(target.finish().success());
}

#[test]
fn a_gate_that_opens_and_closes_as_fast_as_it_can_does_no_harm() {
    if !can_trace() {
        return;
    }
    let setting = std::env::var("LEAKTRACE_OPENINGS");
    let openings = setting.map_or(20_000, |value| value.parse().expect("it is a number"));
    let pythons = if openings < MANY { some_pythons() } else { pythons() };
    for python in pythons {
        soak(&python, openings);
    }
}
