//! Whether a process could be traced, as far as reading tells.

use super::SessionError;
use crate::cpython::description;
use crate::cpython::version::{self, Version};
use crate::target::memory::ProcessMemory;
use crate::target::module::Module;

/// What is known of a CPython, and what stands in the way of tracing it.
#[derive(Debug)]
pub struct Assessment {
    /// Its version, if it could be told.
    pub version: Option<Version>,
    /// Why it cannot be traced.
    pub obstacle: Option<SessionError>,
}

/// Looks at the CPython in `pid` without touching it. A session looks at more, and may still refuse it.
#[must_use]
pub fn assess(pid: u32) -> Assessment {
    let mut version = None;
    let obstacle = check(pid, &mut version).err();
    Assessment { version, obstacle }
}

fn check(pid: u32, seen: &mut Option<Version>) -> Result<(), SessionError> {
    let module = Module::find(pid)?;
    let memory =
        ProcessMemory::open_to_read(pid).map_err(|cause| SessionError::Memory { pid, cause })?;
    let version = version::find(&module, &memory).inspect_err(|error| {
        if let version::VersionError::TooOld { version } = error {
            *seen = Some(version.clone());
        }
    })?;
    *seen = Some(version.clone());
    let runtime = module.symbol("_PyRuntime").ok_or(SessionError::NoRuntime { pid })?;
    description::layout(&memory, runtime, &version)?;
    Ok(())
}
