//! The gate: allocator table slots that lead to a NOP in front of their function while it is open.
//!
//! With the pointer in the table moved back onto padding, the comparison by which optimised CPythons skip the table
//! fails, every call goes through the table, hits the NOP (where the probe is) and falls into the same function.
//! Opening and closing is a store of one byte for each slot, which no thread can see half done; where the function lies
//! on a 256-byte boundary and nothing else sees its calls, a store of the whole aligned pointer.
//!
//! **Safety of the target:** a slot is written only while it holds exactly what is expected, and never in two pieces. Whoever copied the table while the gate was open (tracemalloc keeps such a
//! copy behind its `ctx`) has the open pointer; closing looks there as well.

use std::io;
use std::sync::Arc;

use crate::cpython::tables::Slot as Function;
use crate::target::memory::{ProcessMemory, ReadMemory as _};

pub mod point;
pub mod repair;

/// Hooks that may be stacked over a table: tracemalloc over debug hooks, and room for one more.
const MOST_HOOKS: usize = 3;

/// One function pointer of one allocator table, with the two values that it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Which of the table's functions it leads to.
    pub function: Function,
    /// Address of the table.
    pub table: u64,
    /// The function: the value while the gate is closed.
    pub closed: u64,
    /// The gate point: the value while it is open.
    pub open: u64,
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

/// The slots of one target. Dropping it closes them.
#[derive(Debug)]
pub struct Gate {
    memory: Arc<ProcessMemory>,
    slots: Vec<Slot>,
}

impl Slot {
    /// Address of the pointer.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.table + self.function.offset()
    }
}

impl Gate {
    /// A gate of these slots, as it is found.
    #[must_use]
    pub fn new(memory: Arc<ProcessMemory>, mut slots: Vec<Slot>) -> Self {
        // Frees first: what is allocated through the gate is then also seen freed.
        slots.sort_by_key(|slot| slot.function != Function::Free);
        Self { memory, slots }
    }

    /// The slots, in the order in which they are opened.
    #[must_use]
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The same slots in another process, of which it has a copy.
    #[must_use]
    pub fn in_copy(&self, memory: ProcessMemory) -> Self {
        Self { memory: Arc::new(memory), slots: self.slots.clone() }
    }

    /// Opens the slots that hold their function; returns what became of each.
    ///
    /// # Errors
    /// The target's memory cannot be read or written: it is gone.
    pub fn open(&self) -> io::Result<Vec<Outcome>> {
        self.slots.iter().map(|slot| self.write(slot.address(), slot.closed, slot.open)).collect()
    }

    /// Closes every slot, allocations before frees; returns what became of each.
    ///
    /// # Errors
    /// The target's memory cannot be read or written: it is gone. The other slots are tried all the same.
    pub fn close(&self) -> io::Result<Vec<Outcome>> {
        let outcomes: Vec<_> = self.slots.iter().rev().map(|slot| self.close_slot(slot)).collect();
        outcomes.into_iter().collect()
    }

    /// Whether all slots lead to their functions, hooks that somebody else put there aside.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.slots
            .iter()
            .all(|slot| self.memory.read_u64(slot.address()).is_ok_and(|value| value != slot.open))
    }

    /// Whether all slots hold what opening put there. A target that is gone has changed nothing.
    #[must_use]
    pub fn is_as_opened(&self) -> bool {
        self.slots.iter().all(|slot| {
            self.memory.read_u64(slot.address()).map_or(true, |value| value == slot.open)
        })
    }

    fn close_slot(&self, slot: &Slot) -> io::Result<Outcome> {
        let outcome = self.write(slot.address(), slot.open, slot.closed)?;
        if outcome != Outcome::Foreign {
            return Ok(outcome);
        }
        for table in copies(&self.memory, slot.table) {
            let address = table.wrapping_add(slot.function.offset());
            if self.memory.read_u64(address) == Ok(slot.open) {
                self.write(address, slot.open, slot.closed)?;
                return Ok(Outcome::WrittenBehindHook);
            }
        }
        Ok(Outcome::Foreign)
    }

    /// Replaces the pointer at `address` if it is `from`.
    fn write(&self, address: u64, from: u64, to: u64) -> io::Result<Outcome> {
        let found = self.memory.read_u64(address).map_err(|_fault| gone())?;
        if found == to {
            return Ok(Outcome::Unchanged);
        }
        if found != from {
            return Ok(Outcome::Foreign);
        }
        store(&self.memory, address, from, to)?;
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
    let mut table = address;
    for _ in 0..MOST_HOOKS {
        match memory.read_u64(table) {
            // tracemalloc's `ctx` is the saved table itself; a debug hook's is `{api_id, saved table}`.
            Ok(context) if context != 0 => copies.extend([context, context.wrapping_add(8)]),
            _ => break,
        }
        table = copies.last().map_or(0, |copy| copy.wrapping_sub(8));
    }
    copies
}

/// Stores `to` over `from` in one piece: the lowest byte where that is all in which they differ, which leaves the other
/// bytes to whoever writes them at the same moment; else the whole pointer.
fn store(memory: &ProcessMemory, address: u64, from: u64, to: u64) -> io::Result<()> {
    if from ^ to <= 0xff {
        memory.write_byte(address, to as u8)
    } else {
        memory.write_pointer(address, to)
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the target's memory is gone")
}
