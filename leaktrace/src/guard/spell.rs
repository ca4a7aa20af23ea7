//! Probes that stand in the target for as long as a window is open.

use std::io;
use std::os::fd::OwnedFd;

use crate::kernel::uprobe_events;

/// What a probe sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sees {
    /// Frees.
    Frees,
    /// Returns of allocations.
    Returns,
    /// Returns of the obj and mem tables' allocations alone: not needed any more once blocks are predicted.
    ObjReturns,
    /// Allocations.
    Allocations,
}

/// A probe that is put into the target for a window and taken out again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpellProbe {
    /// What it sees.
    pub sees: Sees,
    /// What perf calls its uprobe event.
    pub event: u64,
}

impl Sees {
    const ALL: [Self; 4] = [Self::Frees, Self::Returns, Self::ObjReturns, Self::Allocations];

    const fn name(self) -> &'static str {
        match self {
            Self::Frees => "frees",
            Self::Returns => "returns",
            Self::ObjReturns => "obj-returns",
            Self::Allocations => "allocations",
        }
    }
}

impl SpellProbe {
    /// `event:frees:1234`.
    pub(super) fn to_argument(self) -> String {
        format!("event:{}:{}", self.sees.name(), self.event)
    }

    pub(super) fn from_argument(text: &str) -> Option<Self> {
        let (name, event) = text.strip_prefix("event:")?.split_once(':')?;
        let sees = Sees::ALL.into_iter().find(|sees| sees.name() == name)?;
        Some(Self { sees, event: event.parse().ok()? })
    }
}

/// What leaktrace has the guard do. Each is answered by an error number, 0 for done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Order {
    /// Put in those that see frees.
    PutFrees = b'f',
    /// Put in the others: returns first, so that no entry waits for one in vain.
    PutAllocations = b'a',
    /// Take out those that see allocations begin.
    TakeAllocations = b'A',
    /// Take out all.
    TakeAll = b'F',
    /// Never put in those on the returns of obj and mem again, and take them out.
    ForgetObjReturns = b'r',
    /// Leave the raw slots of the gate open for another moment, whatever the timer says.
    KeepRaw = b'k',
    /// Close them with the others again.
    DropRaw = b'd',
}

impl Order {
    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        [
            Self::PutFrees,
            Self::PutAllocations,
            Self::TakeAllocations,
            Self::TakeAll,
            Self::ForgetObjReturns,
            Self::KeepRaw,
            Self::DropRaw,
        ]
        .into_iter()
        .find(|order| *order as u8 == byte)
    }
}

/// The probes of one target, as its guard has them.
#[derive(Debug)]
pub(super) struct Spell {
    pid: u32,
    probes: Vec<SpellProbe>,
    standing: Vec<(Sees, OwnedFd)>,
}

impl Spell {
    pub(super) fn new(pid: u32, probes: Vec<SpellProbe>) -> Self {
        Self { pid, probes, standing: Vec::new() }
    }

    pub(super) fn follow(&mut self, order: Order) -> io::Result<()> {
        match order {
            Order::PutFrees => self.put(Sees::Frees),
            Order::PutAllocations => {
                self.put(Sees::Returns)?;
                self.put(Sees::ObjReturns)?;
                self.put(Sees::Allocations)
            }
            Order::TakeAllocations => {
                self.standing.retain(|(sees, _)| *sees != Sees::Allocations);
                Ok(())
            }
            Order::TakeAll => {
                self.take_all();
                Ok(())
            }
            Order::ForgetObjReturns => {
                self.probes.retain(|probe| probe.sees != Sees::ObjReturns);
                self.standing.retain(|(sees, _)| *sees != Sees::ObjReturns);
                Ok(())
            }
            Order::KeepRaw | Order::DropRaw => Ok(()),
        }
    }

    fn put(&mut self, sees: Sees) -> io::Result<()> {
        for probe in self.probes.iter().filter(|probe| probe.sees == sees) {
            self.standing.push((sees, uprobe_events::put(probe.event, self.pid)?));
        }
        Ok(())
    }

    /// Takes out all; returns whether there were any.
    pub(super) fn take_all(&mut self) -> bool {
        // Those on allocations first, which were put in last.
        let standing = std::mem::take(&mut self.standing);
        let any = !standing.is_empty();
        standing.into_iter().rev().for_each(drop);
        any
    }
}

#[cfg(test)]
mod tests {
    use super::{Sees, SpellProbe};

    #[test]
    fn a_probe_that_was_written_down_is_read_again() {
        for sees in Sees::ALL {
            let probe = SpellProbe { sees, event: 1234 };
            assert_eq!(SpellProbe::from_argument(&probe.to_argument()), Some(probe));
        }
        for text in ["", "event:frees", "event:frees:x", "event:all:1", "free:1:2:3"] {
            assert_eq!(SpellProbe::from_argument(text), None, "{text}");
        }
    }
}
