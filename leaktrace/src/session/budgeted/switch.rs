//! What a window opens and closes: the gate, and the probes of functions that it does not keep calls from.

use std::io;

use super::super::now_ns;
use crate::cpython::tables::Slot as Function;
use crate::gate::{Gate, Reach, Slot};
use crate::guard::{Closings, Guard, Order, Sees, SpellProbe};

/// How long it may take to put probes in or out: the kernel may have to wait until others have done with it.
const SWITCHING_NS: u64 = 30_000_000;

/// The gate of one target is its session's: it is lent.
#[derive(Debug)]
pub(super) struct Switch {
    pid: u32,
    guard: Guard,
    probes: Vec<SpellProbe>,
    /// Orders that the guard could not follow: it is gone, and its probes with it.
    failures: u64,
}

/// How an opening went.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opened<T> {
    /// Since when allocations are seen.
    pub(super) since_ns: u64,
    /// What was counted until then: some frees, perhaps.
    pub(super) counted: T,
    /// Whether every slot of the gate was opened.
    pub(super) all: bool,
}

impl Switch {
    /// # Errors
    /// The guard cannot be started.
    pub(super) fn new(pid: u32, gate: &Gate, probes: Vec<SpellProbe>) -> io::Result<Self> {
        let guard = Guard::start(pid, gate.slots(), &probes)?;
        Ok(Self { pid, guard, probes, failures: 0 })
    }

    /// Starts another guard where the one that was is gone: without it nothing may be opened. Returns whether it did.
    ///
    /// # Errors
    /// It cannot be started.
    pub(super) fn revive(&mut self, gate: &Gate) -> io::Result<bool> {
        let is_gone = !self.guard.is_alive();
        if is_gone {
            self.guard = Guard::start(self.pid, gate.slots(), &self.probes)?;
        }
        Ok(is_gone)
    }

    /// Nanoseconds by which opening, or closing, may take longer than some stores.
    pub(super) fn switching_ns(&self) -> u64 {
        if self.probes.is_empty() { 0 } else { SWITCHING_NS }
    }

    /// Opens what is in `reach`, and all probes, frees first; `count` is called before allocations.
    ///
    /// # Errors
    /// The target or the guard is gone. What could be opened is closed again, by the guard if need be.
    pub(super) fn open<T>(
        &mut self,
        (gate, reach): (&Gate, Reach),
        count: impl FnOnce() -> T,
    ) -> io::Result<Opened<T>> {
        let opened = self.open_in_turn((gate, reach), count);
        opened.inspect_err(|_gone| {
            let _ = gate.close_all_of(reach);
            self.order(Order::TakeAll, |_| true);
        })
    }

    fn open_in_turn<T>(
        &mut self,
        (gate, reach): (&Gate, Reach),
        count: impl FnOnce() -> T,
    ) -> io::Result<Opened<T>> {
        if self.has(|sees| sees == Sees::Frees) {
            self.guard.order(Order::PutFrees)?;
        }
        let frees = gate.open_frees(reach)?;
        let (counted, since_ns) = (count(), now_ns());
        if self.has(|sees| sees != Sees::Frees) {
            self.guard.order(Order::PutAllocations)?;
        }
        let allocations = gate.open_allocations(reach)?;
        Ok(Opened { since_ns, counted, all: frees && allocations })
    }

    /// Whether everything is open, as far as can be told.
    pub(super) fn is_open(&mut self, gate: &Gate) -> bool {
        !gate.is_shut(Reach::All) && self.guard.is_alive()
    }

    /// Closes what sees allocations. Frees are still seen.
    ///
    /// # Errors
    /// The target is gone.
    pub(super) fn close_allocations(&mut self, gate: &Gate, reach: Reach) -> io::Result<()> {
        let closed = gate.close_allocations(reach);
        self.order(Order::TakeAllocations, |sees| sees == Sees::Allocations);
        closed
    }

    /// Closes the rest.
    ///
    /// # Errors
    /// The target is gone.
    pub(super) fn close_frees(&mut self, gate: &Gate, reach: Reach) -> io::Result<()> {
        let closed = gate.close_frees(reach);
        self.order(Order::TakeAll, |_| true);
        closed
    }

    /// Probes on returns of obj and mem are not needed any more.
    pub(super) fn forget_obj_returns(&mut self) {
        self.order(Order::ForgetObjReturns, |sees| sees == Sees::ObjReturns);
        self.probes.retain(|probe| probe.sees != Sees::ObjReturns);
    }

    /// From now on everything is closed at `deadline_ns` of `CLOCK_MONOTONIC`, whatever becomes of leaktrace.
    ///
    /// # Errors
    /// The timer cannot be set: nothing must be opened.
    pub(super) fn arm(&self, deadline_ns: u64) -> io::Result<()> {
        self.guard.arm(deadline_ns)
    }

    /// Everything is closed.
    ///
    /// # Errors
    /// The timer cannot be set.
    pub(super) fn disarm(&self) -> io::Result<()> {
        self.guard.disarm()
    }

    /// Has the guard leave raw slots open for another moment; false where it cannot.
    pub(super) fn keep_raw(&mut self) -> bool {
        self.guard.order(Order::KeepRaw).is_ok()
    }

    /// Has the guard close raw slots with all others again.
    pub(super) fn drop_raw(&mut self) {
        self.order(Order::DropRaw, |_| true);
    }

    /// What the guard found open and closed, since this was asked last. A guard that is gone has closed everything.
    pub(super) fn closings(&mut self) -> Closings {
        let Closings { windows, raw } = self.guard.closings();
        let failures = std::mem::take(&mut self.failures);
        Closings { windows: windows + failures, raw: raw + failures }
    }

    /// Whether all calls of raw functions come by the gate.
    pub(super) fn has_raw_in(&self, gate: &Gate) -> bool {
        let raw: Vec<&Slot> = gate.slots().iter().filter(|slot| slot.raw).collect();
        let has = |function| raw.iter().any(|slot| slot.function == function);
        Function::ALL.into_iter().all(has) && raw.iter().all(|slot| slot.moves())
    }

    fn has(&self, wanted: impl Fn(Sees) -> bool) -> bool {
        self.probes.iter().any(|probe| wanted(probe.sees))
    }

    /// Has the guard take out probes, where it has any that are `meant`.
    fn order(&mut self, order: Order, meant: impl Fn(Sees) -> bool) {
        let is_meant = self.has(meant) || order == Order::DropRaw;
        if is_meant && let Err(error) = self.guard.order(order) {
            tracing::debug!("the guard does not follow {order:?}: {error}");
            self.failures += 1;
        }
    }
}
