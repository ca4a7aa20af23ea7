//! The layout of one process: the table of its version, with what the process says of itself.

#![forbid(unsafe_code)]

use super::debug_offsets::{self, DebugOffsetsError};
use super::layout::{Layout, LayoutError};
use super::root::Root;
use super::version::{NEWEST_MINOR, Version};
use crate::target::memory::ReadMemory;

/// Why the layout of a process is not known.
#[derive(Debug, thiserror::Error)]
pub enum DescriptionError {
    /// There is no table.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// What it says of itself cannot be used.
    #[error(transparent)]
    DebugOffsets(#[from] DebugOffsetsError),
}

/// The layout of the process of this `version` with this `root`. That of a newer version than leaktrace knows is a
/// guess: see [`Layout::is_guess`].
///
/// # Errors
/// [`DescriptionError`].
pub fn layout(
    memory: &impl ReadMemory,
    root: Root,
    version: &Version,
) -> Result<Layout, DescriptionError> {
    let is_newer = version.major == 3 && version.minor > NEWEST_MINOR;
    let mut layout = if is_newer {
        Layout::for_newer(version.minor)?
    } else {
        Layout::for_version(version.major, version.minor)?
    };
    let Some(runtime) = root.runtime().filter(|_| layout.debug_offsets.is_some()) else {
        return Ok(layout);
    };
    if !is_newer && debug_offsets::is_free_threaded(memory, runtime, &layout)? {
        let minor = version.minor;
        layout = Layout::for_free_threaded(version.major, minor)
            .map_err(|_absent| DebugOffsetsError::FreeThreaded { minor })?;
    }
    debug_offsets::refine(memory, runtime, &mut layout)?;
    Ok(layout)
}
