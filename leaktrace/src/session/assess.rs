//! Whether a process could be traced, as far as reading tells.

use super::SessionError;
use crate::cpython::description;
use crate::cpython::layout::Layout;
use crate::cpython::root::Root;
use crate::cpython::runtime::Runtime;
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

/// Whether an interpreter runs in `pid`.
#[must_use]
pub fn runs_python(pid: u32) -> bool {
    let find = || {
        let module = Module::find(pid).ok()?;
        let memory = ProcessMemory::open_to_read(pid).ok()?;
        let (layout, root) = layout(pid, &module, &memory, &mut None).ok()?;
        Runtime::read(&memory, &layout, root)
    };
    find().is_some()
}

fn check(pid: u32, seen: &mut Option<Version>) -> Result<(), SessionError> {
    let module = Module::find(pid)?;
    let memory =
        ProcessMemory::open_to_read(pid).map_err(|cause| SessionError::Memory { pid, cause })?;
    layout(pid, &module, &memory, seen).map(drop)
}

fn layout(
    pid: u32,
    module: &Module,
    memory: &ProcessMemory,
    seen: &mut Option<Version>,
) -> Result<(Layout, Root), SessionError> {
    let version = version::find(module, memory).inspect_err(|error| {
        if let version::VersionError::TooOld { version } = error {
            *seen = Some(version.clone());
        }
    })?;
    *seen = Some(version.clone());
    let root = Root::find(module, &version).map_err(|cause| SessionError::NoRoot { pid, cause })?;
    Ok((description::layout(memory, root, &version)?, root))
}
