//! What depends on the kernel: exact counts, the gate, how probes are attached and come off again, and what a kernel
//! without one of the things that leaktrace needs is told.
//!
//! `cargo xtask vm` runs these on other kernels. Lines that begin with `@@` are for its table.
#![expect(clippy::print_stdout, reason = "the figures are part of what the tests are for")]

use std::fs;
use std::num::NonZeroU32;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use leaktrace::kernel::{Probe, Programs, measure_runs};
use leaktrace_common::config::Config;
use leaktrace_common::event::Event;
use leaktrace_tests::{
    Found, Python, Slots, Target, Tracer, c_program, can_trace, debian_python, doctor, leaktrace,
    pythons,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Longest time for anything that a test waits for: an emulated processor is slow.
const LONG: Duration = Duration::from_secs(240);

/// Seconds that each thread of the targets rests after a round: the processor is to be shared with leaktrace.
const REST: &str = "--rest=0.02";

fn any_python() -> Python {
    debian_python().or_else(|| pythons().pop()).expect("a CPython is here")
}

/// `major.minor` of the kernel that runs.
fn kernel() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("/proc is there");
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    let mut number = || numbers.next().and_then(|number| number.parse().ok()).expect("a release");
    (number(), number())
}

/// What the records of a C program's calls add up to.
#[derive(Default)]
struct Sums {
    allocations: u64,
    frees: u64,
    sizes: u64,
    blocks: u64,
    freed: u64,
}

impl Sums {
    fn drain(programs: &mut Programs) -> Self {
        let mut sums = Self::default();
        programs.drain(usize::MAX, |record| match Event::parse(record).expect("a record") {
            Event::Alloc(alloc) => {
                sums.allocations += 1;
                sums.sizes = sums.sizes.wrapping_add(alloc.size);
                sums.blocks = sums.blocks.wrapping_add(alloc.block);
            }
            Event::Free(free) => {
                sums.frees += 1;
                sums.freed = sums.freed.wrapping_add(free.block);
            }
            other => panic!("{other:?}"),
        });
        sums
    }
}

/// Prints and asserts what was to be counted of something and what was.
fn assert_count(of: &str, expected: u64, seen: u64) {
    println!("\n@@ count {of} {expected} {seen}");
    assert_eq!(seen, expected, "{of}");
}

#[test]
fn calls_of_a_c_program_are_counted_exactly_and_their_records_are_right() {
    if !can_trace() {
        return;
    }
    let mut target = Target::start_command(Command::new(c_program("calls")));
    let mut programs = Programs::load(&Config::default(), false).expect("BPF is there");
    let file = format!("/proc/{}/exe", target.pid);
    let pid = NonZeroU32::new(target.pid).expect("pids are positive");
    let offsets = target.ask("where");
    let functions = [
        ("allocate", Probe::RawMalloc, Some(Probe::RawReturn)),
        ("reallocate", Probe::RawRealloc, Some(Probe::RawReturn)),
        ("release", Probe::RawFree, None),
    ];
    for (function, on_entry, on_return) in functions {
        let offset = offsets[function].as_u64().expect("a number");
        for probe in on_return.into_iter().chain([on_entry]) {
            programs.attach(probe, Path::new(&file), offset, pid).expect("it can be attached");
        }
    }
    let counting = measure_runs().expect("the kernel counts runs");
    let truth = target.work();
    drop(counting);
    let number = |name: &str| truth[name].as_u64().expect("a number");
    for (function, on_entry, _) in functions {
        assert_count(&format!("c.{function}"), number(function), programs.runs(on_entry).count);
    }
    let blocks = number("allocate") + number("reallocate");
    assert_count("c.returns", blocks, programs.runs(Probe::RawReturn).count);
    let sums = Sums::drain(&mut programs);
    assert_count("c.allocations", blocks, sums.allocations);
    assert_count("c.frees", number("release") + number("reallocate"), sums.frees);
    assert_eq!(sums.sizes, number("sizes"));
    assert_eq!(sums.blocks, number("blocks"));
    assert_eq!(sums.freed, number("freed"));
    drop(programs);
    // Nothing is counted any more, and the program goes on.
    assert_eq!(target.ask("go")["sizes"], truth["sizes"]);
    assert!(target.finish().success());
}

#[test]
fn blocks_of_a_python_are_counted_exactly() {
    if !can_trace() {
        return;
    }
    let mut target = Target::start(&any_python(), "exact.py", &[]);
    let tracer = Tracer::start(target.pid, &[]);
    let truth = target.work();
    std::thread::sleep(Duration::from_millis(100));
    let report = tracer.stop();
    assert_eq!(report.number("/session/events_lost"), 0.0);
    for (function, truth) in truth.as_object().expect("an object") {
        let innermost = |site: leaktrace_tests::Site<'_>| {
            site.0["stack"][0]["function"].as_str() == Some(function)
        };
        let seen = |key: &str| report.sum(key, innermost) as u64;
        let number = |key: &str| truth[key].as_u64().expect("a number");
        assert_count(&format!("{function}.made"), number("allocations"), seen("allocations"));
        assert_count(&format!("{function}.kept"), number("live_blocks"), seen("live_blocks"));
        assert_eq!(seen("live_bytes"), number("live_blocks") * number("block_bytes"));
    }
    assert!(target.finish().success());
}

/// The code of the module that holds a target's interpreter, as it is in memory.
fn code(pid: u32) -> Vec<u8> {
    let module = leaktrace::target::module::Module::find(pid).expect("a CPython");
    let maps = procfs::process::Process::new(pid.cast_signed()).and_then(|process| process.maps());
    let address = module.symbol("PyObject_Malloc").expect("CPython exports it");
    let map = maps
        .expect("the target lives")
        .into_iter()
        .find(|map| (map.address.0..map.address.1).contains(&address))
        .expect("it is mapped");
    let mut code = vec![0; (map.address.1 - map.address.0) as usize];
    let memory = fs::File::open(format!("/proc/{pid}/mem")).expect("the target lives");
    memory.read_exact_at(&mut code, map.address.0).expect("its code can be read");
    code
}

/// By which way the probes of a leaktrace were attached, going by what it has open.
fn attach_path(pid: u32) -> &'static str {
    let (mut links, mut events) = (0, 0);
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).expect("leaktrace lives").flatten() {
        let Ok(open) = fs::read_link(entry.path()) else { continue };
        let open = open.to_string_lossy();
        links += usize::from(open.contains("bpf_link") || open.contains("bpf-link"));
        events += usize::from(open.contains("perf_event"));
    }
    // A link on a perf event keeps that by itself. (One more link may be that of a tracepoint.)
    match (links, events) {
        (8.., _) => "perf-event+link",
        (_, 8..) => "perf-event+ioctl",
        _ => panic!("{links} links, {events} perf events"),
    }
}

/// How many bytes differ, each of which must be a breakpoint.
fn breakpoints(before: &[u8], now: &[u8]) -> usize {
    assert_eq!(before.len(), now.len());
    let changed = before.iter().zip(now).filter(|(before, now)| before != now);
    changed.inspect(|(_, now)| assert_eq!(**now, 0xcc)).count()
}

/// Asserts that a target of `busy.py` gets on with right results.
fn assert_goes_on(target: &mut Target) {
    let rounds = |said: &Value| [0, 1, 2].map(|thread| said["rounds"][thread].as_u64());
    let before = rounds(&target.ask("check"));
    let deadline = Instant::now() + LONG;
    loop {
        let said = target.ask("check");
        assert_eq!(said["mismatches"].as_array().map(Vec::len), Some(0), "{said}");
        if rounds(&said).iter().zip(before).all(|(now, before)| *now > before) {
            return;
        }
        assert!(Instant::now() < deadline, "a thread stands still: {said}");
    }
}

#[test]
fn after_the_end_the_gate_is_closed_and_the_code_is_as_it_was() {
    if !can_trace() {
        return;
    }
    let mut target = Target::start(&any_python(), "busy.py", &[REST]);
    let before = code(target.pid);
    let tracer = Tracer::start(target.pid, &[]);
    let path = attach_path(tracer.pid());
    println!("\n@@ attach {path}");
    let linked = if kernel() >= (5, 15) { "perf-event+link" } else { "perf-event+ioctl" };
    assert_eq!(path, linked);
    let slots = Slots::of(target.pid);
    assert!(slots.open_in(target.pid) >= 6);
    let probes = breakpoints(&before, &code(target.pid));
    println!("@@ probes {probes}");
    assert!(probes >= 8, "{probes} breakpoints");
    assert_goes_on(&mut target);
    let report = tracer.stop();
    assert_eq!(report.0["session"]["gate"], "nop");
    assert!(report.number("/session/allocations_seen") > 1000.0);
    assert_eq!(report.number("/session/coverage_pct"), 100.0);
    assert_eq!(report.counter("prediction_wrong"), 0.0);
    assert_eq!(breakpoints(&before, &code(target.pid)), 0, "a breakpoint is left");
    assert_eq!(slots.open_in(target.pid), 0);
    assert_eq!(doctor(target.pid), Found::Nothing);
    println!("@@ detach clean");
    assert_goes_on(&mut target);
    assert!(target.finish().success());
}

#[test]
fn a_forked_child_has_its_gate_closed_and_comes_to_no_harm() {
    if !can_trace() {
        return;
    }
    let mut target = Target::start(&any_python(), "busy.py", &[REST]);
    let tracer = Tracer::start(target.pid, &[]);
    let slots = Slots::of(target.pid);
    for _ in 0..3 {
        let child = target.ask("fork")["child"].as_u64().expect("a pid") as u32;
        let deadline = Instant::now() + LONG;
        while slots.open_in(child) > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        let open = slots.open_in(child);
        // It allocates all the time, and ends by itself where it gets a wrong result.
        std::thread::sleep(Duration::from_millis(300));
        let ended = target.ask("reap");
        let pid = Pid::from_raw(child.cast_signed()).expect("pids are positive");
        // It may have ended by itself, which is then told below.
        let _ = kill_process(pid, Signal::KILL);
        assert_eq!(open, 0, "its gate stays open");
        assert_eq!(ended["child"], 0, "the child ended by itself: {ended}");
        while target.ask("reap")["child"] == 0 {
            assert!(Instant::now() < deadline, "it cannot be killed");
        }
    }
    let report = tracer.stop();
    assert_eq!(report.number("/session/children_seen"), 3.0);
    println!("\n@@ children closed");
    assert_goes_on(&mut target);
    assert!(target.finish().success());
}

#[test]
fn when_leaktrace_is_killed_the_kernel_takes_every_breakpoint_off() {
    if !can_trace() {
        return;
    }
    let mut target = Target::start(&any_python(), "busy.py", &[REST]);
    let before = code(target.pid);
    let tracer = Tracer::start(target.pid, &[]);
    let _ = tracer.kill();
    assert_goes_on(&mut target);
    let deadline = Instant::now() + LONG;
    while breakpoints(&before, &code(target.pid)) > 0 {
        assert!(Instant::now() < deadline, "a breakpoint is left");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(doctor(target.pid), Found::OpenGate);
    assert_eq!(doctor(target.pid), Found::Nothing);
    println!("\n@@ kill clean");
    assert_goes_on(&mut target);
    assert!(target.finish().success());
}

#[test]
fn a_seccomp_filter_does_not_kill_a_target_because_it_is_traced() {
    if !can_trace() {
        return;
    }
    let mut target = Target::start(&any_python(), "filtered.py", &[REST]);
    let tracer = Tracer::start(target.pid, &[]);
    assert_goes_on(&mut target);
    let report = tracer.stop();
    assert!(report.number("/session/allocations_seen") > 1000.0);
    assert_eq!(doctor(target.pid), Found::Nothing);
    assert_goes_on(&mut target);
    let left_out = matches!(kernel(), (6, 11..=13));
    let warnings = report.0["warnings"].to_string();
    assert_eq!(warnings.contains("a seccomp filter"), left_out, "{warnings}");
    let raw = report.sites().filter(|site| site.0["domain"] == "raw").count();
    assert_eq!(raw == 0, left_out, "{raw} sites of the raw domain");
    println!("\n@@ seccomp {}", if left_out { "no-return-probes" } else { "return-probes" });
    assert!(target.finish().success());
}

/// What leaktrace says on one line where `hide` hides a part of the kernel from it.
fn refused(target: &Target, hide: &str) -> String {
    let traced =
        leaktrace(&["--pid", &target.pid.to_string(), "--format", "json", "--duration", "1s"]);
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c"]).arg(format!("{hide} && exec \"$0\" \"$@\""));
    command.arg(traced.get_program()).args(traced.get_args());
    let ended = Tracer::spawn_command(command).ended();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert_eq!(ended.said.lines().count(), 1, "{ended:?}");
    assert!(ended.printed.is_empty(), "{ended:?}");
    ended.said
}

#[test]
fn a_kernel_without_btf_or_uprobes_is_refused_in_one_line() {
    if !can_trace() {
        return;
    }
    let mut target = Target::start(&any_python(), "busy.py", &[REST]);
    let said = refused(&target, "mount -t tmpfs none /sys/kernel/btf");
    assert!(said.contains("CONFIG_DEBUG_INFO_BTF"), "{said}");
    let said = refused(&target, "mount -t tmpfs none /sys/bus/event_source/devices");
    assert!(said.contains("CONFIG_UPROBE_EVENTS"), "{said}");
    assert_goes_on(&mut target);
    assert!(target.finish().success());
}

#[test]
#[ignore = "the kernel stays locked down until it is booted again: for virtual machines"]
fn a_locked_down_kernel_is_refused_in_one_line() {
    fs::write("/sys/kernel/security/lockdown", "confidentiality").expect("it can be locked down");
    let mut target = Target::start(&any_python(), "busy.py", &[REST]);
    let said = refused(&target, "true");
    assert!(said.contains("locked down"), "{said}");
    assert_goes_on(&mut target);
    println!("\n@@ lockdown refused");
    assert!(target.finish().success());
}
