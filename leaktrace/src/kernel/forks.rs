//! Notices the processes that a target makes.

use aya::Ebpf;
use aya::maps::{HashMap, MapData, RingBuf};
use aya::programs::RawTracePoint;
use leaktrace_common::event::{Fork, Malformed};

use super::KernelError;
use super::programs::{Programs, load_failed, map_failed};

/// The program's name in the object.
const PROGRAM: &str = "new_task";

/// The tracepoint that it sits on.
const TRACEPOINT: &str = "task_newtask";

impl Programs {
    /// Has forks of the target noticed from now on.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn watch_forks(&mut self) -> Result<(), KernelError> {
        let program: &mut RawTracePoint = self
            .ebpf
            .program_mut(PROGRAM)
            .ok_or_else(|| KernelError::Load(format!("the object has no program `{PROGRAM}`")))?
            .try_into()
            .map_err(|error| load_failed(&error))?;
        program.load().map_err(|error| load_failed(&error))?;
        program.attach(TRACEPOINT).map_err(|error| load_failed(&error))?;
        Ok(())
    }

    /// The processes that were made since this was asked last, oldest first, and how many records could not be read.
    pub fn forks(&mut self) -> (Vec<Fork>, u64) {
        let (mut forks, mut malformed) = (Vec::new(), 0);
        while let Some(record) = self.forks.next() {
            match Fork::parse(&record) {
                Ok(fork) => forks.push(fork),
                Err(Malformed) => malformed += 1,
            }
        }
        (forks, malformed)
    }

    /// Has the forks of a descendant no longer noticed; `tgid` as its record had it.
    pub fn forget_descendant(&mut self, tgid: u32) {
        let Some(map) = self.ebpf.map_mut("DESCENDANTS") else { return };
        let Ok(mut descendants) = HashMap::<_, u32, u32>::try_from(map) else { return };
        // It is not there where the map was full.
        let _ = descendants.remove(&tgid);
    }
}

/// The ring buffer of forks, out of the loaded object.
pub(super) fn take_ring(ebpf: &mut Ebpf) -> Result<RingBuf<MapData>, KernelError> {
    let forks = ebpf.take_map("FORKS").ok_or_else(|| map_failed("FORKS", "missing"))?;
    RingBuf::try_from(forks).map_err(|error| map_failed("FORKS", error))
}
