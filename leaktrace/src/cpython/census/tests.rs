//! The census against what real interpreters say of themselves.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::interpreters::{self, note};
use super::super::layout::Layout;
use super::super::root::Root;
use super::super::runtime::Runtime;
use super::super::version;
use super::{Arrays, Census, CensusError, Counting, Resident, Wanted};
use crate::target::memory::ProcessMemory;
use crate::target::module::Module;

/// Fills some hundreds of arenas, empties some, and has pymalloc print its own statistics of each class; then it does
/// nothing until it is told to end.
const SCRIPT: &str = "
import os, sys
held = [bytes(i % 490) for i in range(300000)]
more = [(i, [i]) for i in range(200000)]
del held[100000:150000], more[::3]
os.dup2(1, 2)
sys._debugmallocstats()
os.write(1, b'end\\n')
os.read(0, 1)
";

/// Blocks of a class by which the two may differ: the calls between the statistics and the rest make and free some.
const SLACK: u64 = 3;

/// A heap that is counted.
struct Heap {
    memory: ProcessMemory,
    module: Module,
    layout: Layout,
    interpreters: Vec<u64>,
    resident: Resident,
    arrays: Arrays,
}

impl Heap {
    fn of(pid: u32, minor: u8) -> Self {
        let layout = Layout::for_version(3, minor).expect("there is one");
        let module = Module::find(pid).expect("it runs");
        let memory = ProcessMemory::open(pid).expect("it runs");
        let version = version::find(&module, &memory).expect("it is supported");
        let root = Root::find(&module, &version);
        let found = root.ok().and_then(|root| Runtime::read(&memory, &layout, root));
        let interpreters = found.map(|found| found.interpreters).unwrap_or_default();
        let (resident, arrays) = (Resident::of(pid), Arrays::default());
        Self { memory, module, layout, interpreters, resident, arrays }
    }

    fn count(&mut self) -> Result<Census, CensusError> {
        let Self { memory, module, layout, interpreters, resident, arrays } = self;
        Census::take(memory, module, layout, interpreters, arrays, resident)
    }

    /// Counts so many pools at most, in parts as short as can be: one batch each. Returns how many parts it took.
    fn count_some(&mut self, most_pools: u64, random: &mut dyn FnMut() -> u64) -> (Census, u32) {
        let Self { memory, module, layout, interpreters, resident, arrays } = self;
        let wanted = Wanted { most_pools, random };
        let mut counting = Counting::begin(memory, module, layout, interpreters, arrays, wanted)
            .expect("it holds memory");
        let mut parts = 1;
        while !counting.go_on(memory, layout, resident, Duration::from_nanos(1)) {
            parts += 1;
        }
        (counting.finish(layout), parts)
    }
}

#[test]
fn a_census_is_what_the_interpreter_says_of_each_class() {
    for python in interpreters::all() {
        let mut script = python.start(SCRIPT);
        let said = classes(&script.lines());
        assert!(said.len() > 20, "{} said nothing", python.name());
        let mut heap = Heap::of(script.pid(), python.minor);
        for round in 0..2 {
            let census = heap.count().unwrap_or_else(|error| panic!("{}: {error}", python.name()));
            note(&format!(
                "{} round {round}: {} blocks, {} pools, {} arenas, {:?}",
                python.name(),
                census.live_blocks(),
                census.pools,
                census.arenas,
                census.took
            ));
            assert!(census.is_complete(), "{}: {census:?}", python.name());
            for (bytes, (pools, live)) in &said {
                let class = census.classes.get(bytes).copied().unwrap_or_default();
                let off = class.live.abs_diff(*live);
                assert!(off <= SLACK, "{} {bytes}: {class:?}, not {live}", python.name());
                assert!(class.pools.abs_diff(*pools) <= 1, "{} {bytes}: {class:?}", python.name());
            }
            let unsaid = census.classes.keys().any(|bytes| !said.contains_key(bytes));
            assert!(!unsaid, "{}: {:?}", python.name(), census.classes.keys());
        }
    }
}

#[test]
fn some_pools_stand_for_all_within_the_interval() {
    let Some(python) = interpreters::all().pop() else { return };
    let mut script = python.start(SCRIPT);
    let _said = script.lines();
    let mut heap = Heap::of(script.pid(), python.minor);
    let mut generator = fastrand::Rng::with_seed(3);
    let mut count = |most_pools| heap.count_some(most_pools, &mut || generator.u64(..));
    let (whole, parts) = count(u64::MAX);
    assert!(parts > 2 && whole.sampled.is_none(), "{parts}");
    assert_eq!(whole.pools, count(whole.pools).0.pools);
    let (mut held, mut sum) = (0, 0.0);
    const ROUNDS: u32 = 60;
    for _ in 0..ROUNDS {
        let (some, _) = count(500);
        let sample = some.sampled.expect("there are more");
        assert_eq!((some.pools, sample.of_pools), (500, whole.pools));
        assert_eq!(some.held_bytes, whole.held_bytes);
        held += u32::from(some.live_bytes().abs_diff(whole.live_bytes()) <= sample.half_width);
        sum += some.live_bytes() as f64 / whole.live_bytes() as f64;
    }
    note(&format!("{held} of {ROUNDS} intervals hold {}", whole.live_bytes()));
    assert!(held * 100 >= ROUNDS * 90, "{held}");
    assert!((sum / f64::from(ROUNDS) - 1.0).abs() < 0.01, "{sum}");
}

/// The lines `class size pools used free` of `_PyObject_DebugMallocStats`, by size.
fn classes(lines: &[String]) -> BTreeMap<u64, (u64, u64)> {
    let row = |line: &String| -> Option<Vec<u64>> {
        line.split_whitespace().map(|word| word.parse().ok()).collect()
    };
    let rows = lines.iter().filter_map(row).filter(|row| row.len() == 5);
    rows.map(|row| (row[1], (row[2], row[3]))).collect()
}
