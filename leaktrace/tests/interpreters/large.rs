//! What counting a heap of many GiB costs: the reader, and the target that is read.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use leaktrace::cpython::census::{Arrays, Census, Counting, Resident, Wanted};
use leaktrace::cpython::layout::Layout;
use leaktrace::cpython::root::Root;
use leaktrace::cpython::runtime::Runtime;
use leaktrace::cpython::version;
use leaktrace::target::memory::ProcessMemory;
use leaktrace::target::module::Module;

use super::support::{Python, say};

const SCRIPT: &str = include_str!("large_heap.py");

/// How long the target works while it is read in one way, and how often each way has its turn.
const SPELL_S: u64 = 5;
const ROUNDS: usize = 8;

/// What a session does: the pools that it counts at most, for how long at a time, and how often.
const MOST_POOLS: u64 = 1 << 17;
const SLICE: Duration = Duration::from_millis(4);
const TICK: Duration = Duration::from_millis(100);

/// How a heap is read meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// Not at all.
    Not,
    /// As a session does, but without a pause between counts.
    InSlices,
    /// Whole counts, one after the other.
    AllTheTime,
}

/// What is read.
struct Heap {
    memory: ProcessMemory,
    module: Module,
    layout: Layout,
    interpreters: Vec<u64>,
    pid: u32,
}

impl Heap {
    fn of(pid: u32) -> Self {
        let memory = ProcessMemory::open_to_read(pid).expect("it runs");
        let module = Module::find(pid).expect("it runs");
        let version = version::find(&module, &memory).expect("it is supported");
        let layout = Layout::for_version(3, version.minor).expect("there is a table");
        let root = Root::find(&module, &version).ok();
        let runtime = root.and_then(|root| Runtime::read(&memory, &layout, root));
        let interpreters = runtime.map(|runtime| runtime.interpreters).unwrap_or_default();
        Self { memory, module, layout, interpreters, pid }
    }

    fn begin(&self, arrays: &mut Arrays, most_pools: u64) -> Counting {
        let mut random = || fastrand::u64(..);
        let wanted = Wanted { most_pools, random: &mut random };
        let Self { memory, module, layout, interpreters, .. } = self;
        Counting::begin(memory, module, layout, interpreters, arrays, wanted).expect("it is there")
    }

    fn count(&self, arrays: &mut Arrays, most_pools: u64) -> Census {
        let mut counting = self.begin(arrays, most_pools);
        let resident = Resident::of(self.pid);
        counting.go_on(&self.memory, &self.layout, &resident, Duration::MAX);
        counting.finish(&self.layout)
    }

    /// Reads until it is told to stop; returns how many counts were completed.
    fn read(&self, how: How, stop: &AtomicBool) -> u64 {
        let (mut arrays, mut counts, mut current) = (Arrays::default(), 0, None);
        while !stop.load(Ordering::Relaxed) {
            match how {
                How::Not => std::thread::sleep(TICK),
                How::AllTheTime => {
                    let _census = self.count(&mut arrays, u64::MAX);
                    counts += 1;
                }
                How::InSlices => {
                    let counting =
                        current.get_or_insert_with(|| self.begin(&mut arrays, MOST_POOLS));
                    let resident = Resident::of(self.pid);
                    if counting.go_on(&self.memory, &self.layout, &resident, SLICE) {
                        current = None;
                        counts += 1;
                    }
                    std::thread::sleep(TICK);
                }
            }
        }
        counts
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[test]
#[ignore = "needs 12 GB of memory, two cores that nobody else uses, and some minutes"]
fn counting_a_large_heap_costs_the_target_little() {
    let path = std::path::Path::new("/usr/bin/python3");
    let mut python = Python::start_script("system", path.as_os_str(), "", &[], SCRIPT);
    let heap = Heap::of(python.pid());
    let whole = heap.count(&mut Arrays::default(), u64::MAX);
    let some = heap.count(&mut Arrays::default(), MOST_POOLS);
    let sample = some.sampled.expect("it is large");
    say(&format!(
        "{} bytes live in {} pools of {} arenas: all counted in {:?}; {} of them in {:?}, {} +- {} bytes",
        whole.live_bytes(),
        whole.pools,
        whole.arenas,
        whole.took,
        some.pools,
        some.took,
        some.live_bytes(),
        sample.half_width
    ));
    assert!(some.live_bytes().abs_diff(whole.live_bytes()) <= 2 * sample.half_width);
    let ways = [How::Not, How::InSlices, How::AllTheTime];
    let mut answers: Vec<Vec<Vec<u64>>> = vec![Vec::new(); ways.len()];
    for _ in 0..ROUNDS {
        for (how, answers) in ways.into_iter().zip(&mut answers) {
            let stop = AtomicBool::new(false);
            let (answer, counts, took) = std::thread::scope(|scope| {
                let reader = scope.spawn(|| heap.read(how, &stop));
                let began = Instant::now();
                let answer = python.ask_numbers(&SPELL_S.to_string());
                let took = began.elapsed();
                stop.store(true, Ordering::Relaxed);
                (answer, reader.join().expect("it reads"), took)
            });
            say(&format!("{how:?}: {counts} counts in {took:?}: {answer:?}"));
            answers.push(answer);
        }
    }
    for (how, answers) in ways.iter().zip(&answers) {
        let of = |which: usize| median(answers.iter().map(|answer| answer[which] as f64).collect());
        let us = |which: usize| of(which) / 1e3;
        say(&format!(
            "{how:?}, median of {ROUNDS} spells: {} operations, p50 {:.1} us, p99 {:.1} us, p99.9 {:.1} us, longest {:.0} us",
            of(0),
            us(1),
            us(2),
            us(3),
            us(4)
        ));
    }
}
