//! How far the channels of a gate may be open, and what their hits have come to.

use aya::Ebpf;
use aya::maps::{Array, MapData};
use leaktrace_common::window::{GateSlots, Passed, Window};

use super::KernelError;
use super::programs::map_failed;

/// The maps that windows are told and counted in.
pub struct Windows {
    windows: Array<MapData, Window>,
    passed: Array<MapData, Passed>,
    gates: Array<MapData, GateSlots>,
}

impl Windows {
    /// Takes the maps out of `ebpf`.
    ///
    /// # Errors
    /// The object lacks them.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        Ok(Self {
            windows: take(ebpf, "WINDOWS")?,
            passed: take(ebpf, "PASSED")?,
            gates: take(ebpf, "GATES")?,
        })
    }

    /// Says which pointers a hit of `channel` closes.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn set_gate(&mut self, channel: u32, slots: &GateSlots) -> Result<(), KernelError> {
        self.gates.set(channel, slots, 0).map_err(|error| map_failed("GATES", error))
    }

    /// Says how far `channel` may be open.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn set(&mut self, channel: u32, window: &Window) -> Result<(), KernelError> {
        self.windows.set(channel, window, 0).map_err(|error| map_failed("WINDOWS", error))
    }

    /// What the hits of `channel` have come to.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn passed(&self, channel: u32) -> Result<Passed, KernelError> {
        self.passed.get(&channel, 0).map_err(|error| map_failed("PASSED", error))
    }
}

fn take<V: aya::Pod>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<Array<MapData, V>, KernelError> {
    let map = ebpf.take_map(name).ok_or_else(|| map_failed(name, "missing"))?;
    Array::try_from(map).map_err(|error| map_failed(name, error))
}
