//! The gate: allocator table slots that lead to a NOP in front of their function while it is open.
//!
//! With the pointer in the table moved back onto padding, the comparison by which optimised CPythons skip the table
//! fails, every call goes through the table, hits the NOP (where the probe is) and falls into the same function.
//! Opening and closing is a store of one pointer for each slot. It differs from the one before in the lowest byte alone,
//! so that no thread can see half of it, except where the function lies on a 256-byte boundary and nothing else sees its
//! calls.
//!
//! **Safety of the target:** a slot is written only while it holds exactly what is expected, and never in two pieces.
//! Whoever copied the table while the gate was open (tracemalloc keeps such a copy behind its `ctx`) has the open
//! pointer; closing looks there as well. Opening does so too: under such hooks the calls come by the copy, and it goes
//! back into the table when the hooks go.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use crate::cpython::tables::{MOST_HOOKS, Slot as Function};
use crate::target::memory::{ProcessMemory, ReadMemory as _};

pub mod point;
pub mod repair;
mod window;

pub use window::Reach;

/// Copies of tables behind hooks that are remembered.
const MOST_COPIES: usize = 64;

/// One function pointer of one allocator table, with the two values that it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Which of the table's functions it leads to.
    pub function: Function,
    /// Address of the table.
    pub table: u64,
    /// The function: the value while the gate is closed.
    pub closed: u64,
    /// The gate point: the value while it is open. The function once more where that is probed in itself: such a slot
    /// is never written, only looked at.
    pub open: u64,
    /// Whether the function is one of the raw domain, whatever it serves beside it.
    pub raw: bool,
}

/// What opening or closing did to a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was written.
    Written,
    /// It already was as wanted.
    Unchanged,
    /// It was written in the copy that a hook keeps behind its `ctx`.
    WrittenBehindHook,
    /// It holds neither of the two values: somebody else's hook. Nothing was written.
    Foreign,
}

/// How the calls of a slot come to its probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// By the table.
    Direct,
    /// By hooks over the table, which pass them on to the copy of it behind their `ctx`.
    BehindHooks,
    /// Not at all, as far as can be told.
    None,
}

/// The slots of one target. Dropping it closes them.
#[derive(Debug)]
pub struct Gate {
    memory: Arc<ProcessMemory>,
    slots: Vec<Slot>,
    /// Copies of tables that hooks kept when they were looked at: a hook that is gone may come back with its copy.
    copies: BTreeSet<(u64, u64)>,
}

impl Slot {
    /// Address of the pointer.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.table + self.function.offset()
    }

    /// Whether opening writes anything.
    #[must_use]
    pub fn moves(&self) -> bool {
        self.open != self.closed
    }
}

impl Gate {
    /// A gate of these slots, as it is found.
    #[must_use]
    pub fn new(memory: Arc<ProcessMemory>, mut slots: Vec<Slot>) -> Self {
        // Frees first: what is allocated through the gate is then also seen freed.
        slots.sort_by_key(|slot| slot.function != Function::Free);
        Self { memory, slots, copies: BTreeSet::new() }
    }

    /// The slots, in the order in which they are opened.
    #[must_use]
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The same slots in another process, of which it has a copy.
    #[must_use]
    pub fn in_copy(&self, memory: ProcessMemory) -> Self {
        Self { memory: Arc::new(memory), slots: self.slots.clone(), copies: BTreeSet::new() }
    }

    /// Opens the slots that hold their function; returns what became of each. Under hooks that pass calls on to a copy
    /// of the table, it is the copy that is opened.
    ///
    /// # Errors
    /// The target's memory cannot be read or written: it is gone.
    pub fn open(&self) -> io::Result<Vec<Outcome>> {
        self.slots.iter().map(|slot| self.open_slot(slot)).collect()
    }

    /// Closes every slot, allocations before frees; returns what became of each.
    ///
    /// # Errors
    /// The target's memory cannot be read or written: it is gone. The other slots are tried all the same.
    pub fn close(&self) -> io::Result<Vec<Outcome>> {
        self.close_all_of(Reach::All)
    }

    /// As [`close`](Self::close), for some slots.
    ///
    /// # Errors
    /// As there.
    pub fn close_all_of(&self, reach: Reach) -> io::Result<Vec<Outcome>> {
        let slots = self.slots.iter().rev().filter(|slot| reach.covers(slot));
        let outcomes: Vec<_> = slots.map(|slot| self.close_slot(slot)).collect();
        outcomes.into_iter().collect()
    }

    /// Whether none of the tables leads to a gate point; copies that hooks keep aside.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.slots
            .iter()
            .filter(|slot| slot.moves())
            .all(|slot| self.memory.read_u64(slot.address()).is_ok_and(|value| value != slot.open))
    }

    /// How the calls of the slot come to its probe that are the farthest from doing so. A target that is gone has
    /// changed nothing.
    pub fn look(&mut self) -> Way {
        let mut worst = Way::Direct;
        for slot in &self.slots {
            let (way, tables) = self.way(slot);
            worst = worst.max(way);
            for table in tables {
                if self.copies.len() < MOST_COPIES {
                    self.copies.insert((slot.table, table));
                }
            }
        }
        worst
    }

    /// How the calls of `slot` come to its probe, and the copies of its table that hooks keep.
    fn way(&self, slot: &Slot) -> (Way, Vec<u64>) {
        match self.memory.read_u64(slot.address()) {
            Ok(value) if value != slot.open => {}
            _ => return (Way::Direct, Vec::new()),
        }
        let copies = copies(&self.memory, slot.table);
        let holds = |table: &u64| {
            self.memory.read_u64(table.wrapping_add(slot.function.offset())) == Ok(slot.open)
        };
        if copies.iter().any(holds) { (Way::BehindHooks, copies) } else { (Way::None, copies) }
    }

    fn open_slot(&self, slot: &Slot) -> io::Result<Outcome> {
        let outcome = self.write(slot.address(), slot.closed, slot.open)?;
        if outcome != Outcome::Foreign {
            return Ok(outcome);
        }
        for table in copies(&self.memory, slot.table) {
            let address = table.wrapping_add(slot.function.offset());
            match self.write(address, slot.closed, slot.open) {
                Ok(Outcome::Written) => return Ok(Outcome::WrittenBehindHook),
                Ok(Outcome::Unchanged) => return Ok(Outcome::Unchanged),
                _ => {}
            }
        }
        Ok(Outcome::Foreign)
    }

    /// Closes the slot wherever it is open: in the table and in every copy of it.
    fn close_slot(&self, slot: &Slot) -> io::Result<Outcome> {
        if !slot.moves() {
            return Ok(Outcome::Unchanged);
        }
        let mut outcome = self.write(slot.address(), slot.open, slot.closed)?;
        let known = self.copies.iter().filter(|(table, _)| *table == slot.table);
        let known = known.map(|(_, copy)| *copy);
        for table in copies(&self.memory, slot.table).into_iter().chain(known) {
            let address = table.wrapping_add(slot.function.offset());
            match self.write(address, slot.open, slot.closed) {
                Ok(Outcome::Written) if outcome != Outcome::Written => {
                    outcome = Outcome::WrittenBehindHook;
                }
                Ok(Outcome::Unchanged) if outcome == Outcome::Foreign => {
                    outcome = Outcome::Unchanged;
                }
                // A copy that is not one any more, or cannot be read, is none.
                _ => {}
            }
        }
        Ok(outcome)
    }

    /// Replaces the pointer at `address` if it is `from`.
    fn replace(&self, address: u64, from: u64, to: u64) -> io::Result<Outcome> {
        let found = self.memory.read_u64(address).map_err(|_fault| gone())?;
        if found == to {
            return Ok(Outcome::Unchanged);
        }
        if found != from {
            return Ok(Outcome::Foreign);
        }
        store(&self.memory, address, to)?;
        Ok(Outcome::Written)
    }

    /// As [`replace`](Self::replace), and looks at what stands there then.
    fn write(&self, address: u64, from: u64, to: u64) -> io::Result<Outcome> {
        let outcome = self.replace(address, from, to)?;
        if outcome != Outcome::Written {
            return Ok(outcome);
        }
        // Somebody may have replaced the pointer between the comparison and the store: a few microseconds, and CPython
        // writes its tables a few times in a process's life. Which of the two stores came last cannot be told then,
        // so nothing is written on top of it.
        let now = self.memory.read_u64(address).map_err(|_fault| gone())?;
        if now != to && now != from {
            tracing::warn!("the allocator table at {address:#x} changed while it was written");
        }
        Ok(Outcome::Written)
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // A target that is gone has no gate left to close.
        let _ = self.close();
    }
}

/// Where hooks over the table at `address` may keep the table that was there before: behind their contexts.
fn copies(memory: &ProcessMemory, address: u64) -> Vec<u64> {
    let mut copies = Vec::new();
    let mut tables = vec![address];
    for _ in 0..MOST_HOOKS {
        let mut behind = Vec::new();
        for table in tables {
            // tracemalloc's `ctx` is the saved table itself; a debug hook's is `{api_id, saved table}`.
            if let Ok(context) = memory.read_u64(table)
                && context != 0
            {
                behind.extend([context, context.wrapping_add(8)]);
            }
        }
        copies.extend(&behind);
        tables = behind;
    }
    copies
}

/// Stores a pointer that was just compared, always the whole of it, in one store of 8 bytes. Where the two values differ
/// in one byte, there is nothing in between that a reader could see half of; and where the target puts a hook of its own
/// there in the same moment, what stands there in the end is one pointer or the other. (One byte alone, stored into the
/// hook's address, would lead anywhere.)
fn store(memory: &ProcessMemory, address: u64, to: u64) -> io::Result<()> {
    memory.write_pointer(address, to)
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the target's memory is gone")
}
