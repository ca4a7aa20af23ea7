//! How far a window may be open, as the kernel side and the guard are told, and what they say came of it.

use leaktrace_common::config::windows;
use leaktrace_common::window::{GateSlot, GateSlots, Window, channel};

use super::super::{SessionError, now_ns};
use super::windows::Windows;
use crate::cpython::tables::Slot as Function;
use crate::gate::{Reach, Slot};
use crate::kernel::{Programs, features};

/// How much longer than allocations the frees of a window may be seen: until what survived it was looked at.
const FREES_NS: u64 = 500_000;

/// How long the guard waits beyond that before it closes the gate itself.
const LATE_NS: u64 = 500_000;

/// What closes a gate that is open for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Closer {
    /// The hit that finds it so, and the guard.
    Kernel,
    /// The guard alone: this kernel forbids BPF programs to write into a process.
    Guard,
}

impl Closer {
    /// What this kernel permits.
    pub(in super::super) fn find() -> Self {
        if features::may_write_into_processes() { Self::Kernel } else { Self::Guard }
    }

    /// As the configuration of the programs has it.
    pub(in super::super) const fn windows(self) -> u64 {
        match self {
            Self::Kernel => windows::CLOSED,
            Self::Guard => windows::COUNTED,
        }
    }
}

impl Windows {
    /// Sets until when the window may be open: first for the guard, which needs nobody.
    pub(super) fn limit(
        &mut self,
        programs: &mut Programs,
        length_ns: u64,
        most: u64,
    ) -> Result<(), SessionError> {
        let allocations_until_ns = now_ns() + length_ns;
        let until_ns = allocations_until_ns + FREES_NS + self.switch.switching_ns();
        self.switch.arm(until_ns + LATE_NS).map_err(SessionError::Guard)?;
        if self.closer == Closer::Kernel {
            for index in self.channels() {
                let allocations_until_hit = programs.windows.passed(index)?.hits + most;
                let window = Window {
                    id: self.last_id,
                    allocations_until_ns,
                    allocations_until_hit,
                    until_ns,
                    until_hit: allocations_until_hit + most,
                };
                programs.windows.set(index, &window)?;
            }
        }
        Ok(())
    }

    pub(super) fn was_closed(&self, programs: &Programs, id: u64) -> Result<bool, SessionError> {
        for index in self.channels() {
            if programs.windows.passed(index)?.closed == id {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) fn hits(&self, programs: &Programs) -> Result<u64, SessionError> {
        hits(programs, self.lane.is_open())
    }

    /// What windows open.
    pub(super) fn reach(&self) -> Reach {
        if self.lane.is_open() { Reach::Objects } else { Reach::All }
    }

    /// The same, as the kernel side has it: without channels that have no gate to be closed.
    fn channels(&self) -> impl Iterator<Item = u32> {
        let is_kept = |index: u32| index == channel::RAW && self.lane.is_open();
        self.gated.iter().copied().filter(move |&index| !is_kept(index))
    }
}

/// Hits of the channels that windows open; raw ones are counted apart where their slots are `kept` open.
pub(super) fn hits(programs: &Programs, kept: bool) -> Result<u64, SessionError> {
    let raw = if kept { 0 } else { programs.windows.passed(channel::RAW)?.hits };
    Ok(programs.windows.passed(channel::OBJ)?.hits + raw)
}

pub(super) fn gate_slots<'a>(slots: impl Iterator<Item = &'a Slot>) -> GateSlots {
    let (frees, allocations): (Vec<&Slot>, Vec<&Slot>) =
        slots.partition(|slot| slot.function == Function::Free);
    let mut gate = GateSlots {
        allocations: allocations.len() as u64,
        all: (allocations.len() + frees.len()) as u64,
        ..GateSlots::default()
    };
    for (place, slot) in gate.slots.iter_mut().zip(allocations.into_iter().chain(frees)) {
        *place = GateSlot { address: slot.address(), open: slot.open, closed: slot.closed };
    }
    gate
}
