//! Closes a gate that a leaktrace left open which could not close it any more (SIGKILL, the OOM killer).
//!
//! Nothing is remembered for that: an open slot leads into padding before a function, which nothing else does.

use std::io;

use super::point::{Held, classify};
use crate::cpython::tables::{AllocatorTables, Slot as Function, Table};
use crate::target::memory::{ProcessMemory, ReadMemory as _};
use crate::target::module::Module;

/// What was found in the slots of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repair {
    /// Slots that were looked at.
    pub slots: usize,
    /// Of these, slots that led into padding and lead to their function again.
    pub closed: usize,
    /// Copies of slots behind somebody's hooks that led into padding and lead to their function again.
    pub closed_behind_hooks: usize,
    /// Slots with somebody else's functions, which were left alone.
    pub foreign: usize,
}

/// Looks at every slot of `tables`, and closes what is open.
///
/// # Errors
/// The target's memory cannot be read or written: it is gone.
pub fn repair(
    memory: &ProcessMemory,
    module: &Module,
    tables: &AllocatorTables,
) -> io::Result<Repair> {
    let mut done = Repair::default();
    for (_, table) in tables.named() {
        for function in Function::ALL {
            done.slots += 1;
            match close(memory, module, table.slot_address(function))? {
                Some(was_open) => done.closed += usize::from(was_open),
                None => done.foreign += 1,
            }
            done.closed_behind_hooks += close_behind(memory, module, &table, function)?;
        }
    }
    Ok(done)
}

/// Closes the slot at `address`: whether it was open; `None` where it holds something else.
fn close(memory: &ProcessMemory, module: &Module, address: u64) -> io::Result<Option<bool>> {
    let value = memory.read_u64(address).map_err(|_fault| super::gone())?;
    match classify(module, value) {
        Held::Closed => Ok(Some(false)),
        Held::Foreign => Ok(None),
        Held::Open { function } => {
            super::store(memory, address, function)?;
            Ok(Some(true))
        }
    }
}

/// Closes the copies of a slot that hooks keep behind their contexts; returns how many were open.
fn close_behind(
    memory: &ProcessMemory,
    module: &Module,
    table: &Table,
    function: Function,
) -> io::Result<usize> {
    let mut closed = 0;
    for copy in super::copies(memory, table.address) {
        let address = copy.wrapping_add(function.offset());
        // Only where the copy really is a table: every one of its functions must be one.
        if Table::read(memory, copy).is_some_and(|copy| is_table(module, &copy)) {
            closed += usize::from(close(memory, module, address)? == Some(true));
        }
    }
    Ok(closed)
}

fn is_table(module: &Module, table: &Table) -> bool {
    table.functions().iter().all(|&value| classify(module, value) != Held::Foreign)
}
