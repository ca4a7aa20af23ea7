//! A target that makes, runs and frees code at three addresses while its records are taken.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use leaktrace_common::event::{Alloc, kind, stack_end};
use leaktrace_common::memory::Fault;

use super::*;
use crate::cpython::code::CodeCache;
use crate::cpython::code::made::{CODE, Made, NAME, layout, made, set, string};

pub(super) const MINOR: u8 = 12;

/// Bytes between two code objects, and between their names.
const APART: u64 = 0x400;

/// No time ends the window.
pub(super) const ALWAYS: Range<u64> = 1..u64::MAX;

thread_local! {
    pub(super) static TIME: RefCell<u64> = const { RefCell::new(10) };
}

pub(super) fn clock() -> u64 {
    TIME.with_borrow(|time| *time)
}

/// The target and the kernel side.
pub(super) struct World {
    memory: Made,
    names: [Option<String>; 3],
    made: u64,
    pub(super) records: Vec<Vec<u8>>,
    taken: usize,
    pub(super) known: BTreeSet<u64>,
    /// By block: the names on the stack that it was made at.
    pub(super) truth: BTreeMap<u64, Vec<String>>,
    pub(super) lost: u64,
    /// While this is so, frees are lost.
    pub(super) loses: bool,
    /// While this is so, frees come to no probe.
    pub(super) misses: bool,
    /// Records from this one on are still being written.
    pub(super) busy_from: usize,
    /// What the target does next, whenever somebody looks.
    pub(super) acts: Vec<fn(&mut World)>,
    /// Does something at random so often, in a hundred looks.
    pub(super) restless: u64,
    pub(super) random: u64,
}

impl World {
    pub(super) fn new() -> RefCell<Self> {
        TIME.set(10);
        let mut memory = made(&layout(MINOR), "none");
        let code = memory.0[&CODE].clone();
        for slot in 0..3 {
            let mut code = code.clone();
            set(&mut code, layout(MINOR).code.qualname.unwrap(), NAME + slot * APART);
            memory.put(CODE + slot * APART, &code);
        }
        RefCell::new(Self {
            memory,
            names: [None, None, None],
            made: 0,
            records: Vec::new(),
            taken: 0,
            known: BTreeSet::new(),
            truth: BTreeMap::new(),
            lost: 0,
            loses: false,
            misses: false,
            busy_from: usize::MAX,
            acts: Vec::new(),
            restless: 0,
            random: 7,
        })
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.random >> 33) % bound
    }

    pub(super) fn references(&mut self, slot: usize, references: u64) {
        let address = CODE + slot as u64 * APART;
        let mut code = self.memory.0[&address].clone();
        set(&mut code, layout(MINOR).object.refcnt.unwrap(), references);
        self.memory.put(address, &code);
    }

    fn record(&mut self, kind: u16, words: &[u64]) {
        let time = TIME.with_borrow_mut(|time| {
            *time += 1;
            *time
        });
        let mut record = [kind.to_le_bytes().as_slice(), &[0; 6], &time.to_le_bytes()].concat();
        record.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        self.records.push(record);
    }

    /// Makes code with a name of its own, as long as all others.
    pub(super) fn make(&mut self, slot: usize) {
        self.made += 1;
        let name = format!("f{:05}", self.made);
        self.memory.put(NAME + slot as u64 * APART, &string(&layout(MINOR), &name));
        self.references(slot, 1);
        self.names[slot] = Some(name);
    }

    pub(super) fn free(&mut self, slot: usize) {
        if self.loses {
            self.lost += 1;
        } else if !self.misses {
            self.record(kind::FREE, &[CODE + slot as u64 * APART]);
        }
        self.references(slot, 0);
        self.names[slot] = None;
    }

    /// Makes a block, called by the code in these slots, innermost first.
    pub(super) fn run(&mut self, slots: &[usize]) {
        let id = slots.iter().fold(1, |id, slot| 4 * id + *slot as u64);
        if self.known.insert(id) {
            let mut words = vec![id, slots.len() as u64 | u64::from(stack_end::COMPLETE) << 32];
            words.extend(slots.iter().flat_map(|&slot| [CODE + slot as u64 * APART, 8]));
            self.record(kind::STACK, &words);
        }
        let block = self.truth.len() as u64;
        let names = slots.iter().map(|&slot| self.names[slot].clone().expect("it is there"));
        self.truth.insert(block, names.collect());
        self.record(kind::ALLOC, &[block, 8, id]);
    }

    /// Whatever comes next, when somebody looks.
    fn act(&mut self) {
        if !self.acts.is_empty() {
            self.acts.remove(0)(self);
        }
        while self.below(100) < self.restless {
            let slot = self.below(3) as usize;
            match (self.names[slot].is_some(), self.below(20)) {
                (false, _) => self.make(slot),
                (true, 0) => self.free(slot),
                (true, 1) => {
                    self.free(slot);
                    self.make(slot);
                }
                (true, _) => {
                    let callers: Vec<usize> =
                        (0..3).filter(|&it| self.names[it].is_some()).collect();
                    let depth = self.below(callers.len() as u64) as usize;
                    self.run(&[&[slot], &callers[..depth]].concat());
                }
            }
        }
    }
}

/// What a session does with what it is told, and whether that is true.
#[derive(Default)]
pub(super) struct Listener {
    stacks: BTreeMap<u64, Stack>,
    stale: Vec<u64>,
    /// Names of the blocks that were told, in order.
    pub(super) told: Vec<Vec<String>>,
}

impl Listener {
    pub(super) fn hear(&mut self, told: Told<'_>) {
        match told {
            Told::Stack(id, stack) => drop(self.stacks.insert(id, stack)),
            Told::Freed(freed) => {
                for id in &freed.ids {
                    if let Some(masked) = self.stacks.get(id).and_then(|s| freed.masked(s)) {
                        self.stacks.insert(*id, masked);
                    }
                }
                self.stale.extend(freed.ids);
            }
            Told::Event(Event::Alloc(Alloc { block, stack, .. })) => {
                assert_eq!(block, self.told.len() as u64, "all are told, in their order");
                let frames = self.stacks[&stack].frames.iter();
                self.told.push(frames.map(|frame| frame.function.to_string()).collect());
            }
            Told::Event(_) => {}
            Told::Malformed => panic!("all records are whole"),
        }
    }

    /// How many names were told; none of them is wrong.
    pub(super) fn right(&self, world: &World) -> usize {
        for (told, truth) in self.told.iter().zip(world.truth.values()) {
            assert_eq!(told.len(), truth.len());
            let is_true = |(told, truth): (&String, &String)| told == truth || told == "?";
            assert!(told.iter().zip(truth).all(is_true), "told {told:?}, it was {truth:?}");
        }
        self.told.iter().flatten().filter(|name| *name != "?").count()
    }
}

pub(super) struct Records<'a>(pub(super) &'a RefCell<World>);

impl Source for Records<'_> {
    fn written(&self) -> Mark {
        self.0.borrow_mut().act();
        Mark(self.0.borrow().records.len() as u64)
    }

    fn drain_until(&mut self, mark: Mark, most: usize, mut take: impl FnMut(&[u8])) -> Drained {
        let mut records = 0;
        loop {
            let mut world = self.0.borrow_mut();
            let reached = mark.is_reached(world.taken as u64);
            if reached || records == most || world.taken == world.busy_from {
                return Drained { records, reached };
            }
            let record = world.records[world.taken].clone();
            world.taken += 1;
            drop(world);
            take(&record);
            records += 1;
        }
    }

    fn frees_lost(&self) -> u64 {
        self.0.borrow().lost
    }
}

pub(super) struct Memory<'a>(pub(super) &'a RefCell<World>);

impl ReadMemory for Memory<'_> {
    fn read_bytes(&self, address: u64, buffer: &mut [u8]) -> Result<(), Fault> {
        self.0.borrow_mut().act();
        self.0.borrow().memory.read_bytes(address, buffer)
    }
}

pub(super) fn intake() -> Intake {
    Intake::new(Symbolizer::new(CodeCache::new(layout(MINOR), None, true)))
}

/// One look at the records, as a session does it.
pub(super) fn round(
    intake: &mut Intake,
    world: &RefCell<World>,
    window: &Range<u64>,
    heard: &mut Listener,
) {
    let memory = Memory(world);
    let now = Now { memory: &memory, window, clock };
    intake.round(&mut Records(world), &now, |told| heard.hear(told));
    heard.stale.extend(intake.symbolizer.take_stale());
    let mut world = world.borrow_mut();
    world.known.retain(|id| !heard.stale.contains(id));
    heard.stale.clear();
}

pub(super) fn names(heard: &Listener) -> Vec<&str> {
    heard.told.iter().map(|names| names[0].as_str()).collect()
}
