//! Opens and closes a gate for a window, in as few steps as can be.
//!
//! Unlike [`Gate::open`] it leaves alone what stands under other tools' hooks, and looks behind hooks only where a slot
//! holds neither of its two values when it is to be closed.

use std::io;

use super::{Gate, Outcome, Slot};
use crate::cpython::tables::Slot as Function;
use crate::target::memory::{ReadMemory as _, Span};

/// Bytes of a slot.
const POINTER: usize = size_of::<u64>();

/// Which slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// All of them.
    All,
    /// Those of functions that are not raw ones.
    Objects,
    /// Those of raw functions.
    Raw,
}

impl Reach {
    pub(super) fn covers(self, slot: &Slot) -> bool {
        match self {
            Self::All => true,
            Self::Objects => !slot.raw,
            Self::Raw => slot.raw,
        }
    }
}

impl Gate {
    /// Opens the slots of frees that hold their function. Returns whether all of them lead to a probe now.
    ///
    /// # Errors
    /// The target's memory cannot be read or written: it is gone. Some slots may be open.
    pub fn open_frees(&self, reach: Reach) -> io::Result<bool> {
        self.open_slots(|slot| reach.covers(slot) && slot.function == Function::Free)
    }

    /// Opens the slots of allocations. [`open_frees`](Self::open_frees) comes before that.
    ///
    /// # Errors
    /// As there.
    pub fn open_allocations(&self, reach: Reach) -> io::Result<bool> {
        self.open_slots(|slot| reach.covers(slot) && slot.function != Function::Free)
    }

    fn open_slots(&self, wanted: impl Fn(&Slot) -> bool) -> io::Result<bool> {
        let mut all = true;
        for slot in self.slots.iter().filter(|slot| wanted(slot)) {
            all &= if slot.moves() {
                self.replace(slot.address(), slot.closed, slot.open)? != Outcome::Foreign
            } else {
                self.memory.read_u64(slot.address()) == Ok(slot.open)
            };
        }
        Ok(all)
    }

    /// Whether a slot that can be opened is not open. Of a target that is gone none can.
    #[must_use]
    pub fn is_shut(&self, reach: Reach) -> bool {
        let slots: Vec<&Slot> =
            self.slots.iter().filter(|slot| slot.moves() && reach.covers(slot)).collect();
        let spans: Vec<Span> =
            slots.iter().map(|slot| Span { address: slot.address(), bytes: POINTER }).collect();
        let mut values = vec![0; slots.len() * POINTER];
        let read = self.memory.read_many(&spans, &mut values);
        let values = values.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes));
        slots.iter().zip(read).zip(values).any(|((slot, read), value)| read && value != slot.open)
    }

    /// Closes the slots of allocations. Frees are still seen.
    ///
    /// # Errors
    /// As [`open_frees`](Self::open_frees).
    pub fn close_allocations(&self, reach: Reach) -> io::Result<()> {
        self.close_slots(|slot| reach.covers(slot) && slot.function != Function::Free)
    }

    /// Closes the slots of frees. [`close_allocations`](Self::close_allocations) comes before that.
    ///
    /// # Errors
    /// As [`open_frees`](Self::open_frees).
    pub fn close_frees(&self, reach: Reach) -> io::Result<()> {
        self.close_slots(|slot| reach.covers(slot) && slot.function == Function::Free)
    }

    fn close_slots(&self, wanted: impl Fn(&Slot) -> bool) -> io::Result<()> {
        let slots = self.slots.iter().filter(|slot| slot.moves() && wanted(slot));
        let close = |slot: &Slot| match self.replace(slot.address(), slot.open, slot.closed)? {
            Outcome::Foreign => self.close_slot(slot).map(|_| ()),
            _ => Ok(()),
        };
        // Each is tried, whatever became of the one before.
        slots.map(close).fold(Ok(()), io::Result::and)
    }
}
