//! Why there is no session: one line each, with what to do where something can be done.

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The process is not there, or none of its own.
    #[error(transparent)]
    Process(#[from] crate::target::process::ProcessError),
    /// It has no CPython.
    #[error(transparent)]
    Module(#[from] crate::target::module::ModuleError),
    /// Its version is not known or not supported.
    #[error(transparent)]
    Version(#[from] crate::cpython::version::VersionError),
    /// The layout of its version is not known.
    #[error(transparent)]
    Layout(#[from] crate::cpython::layout::LayoutError),
    /// What it says of its own layout cannot be used.
    #[error(transparent)]
    DebugOffsets(#[from] crate::cpython::debug_offsets::DebugOffsetsError),
    /// Its allocator tables are not found.
    #[error(transparent)]
    Tables(#[from] crate::cpython::tables::TablesError),
    /// The kernel side.
    #[error(transparent)]
    Kernel(#[from] crate::kernel::KernelError),
    /// Its memory cannot be opened.
    #[error(
        "cannot open the memory of `{pid}`: {cause}; run as root, and check that the process still runs"
    )]
    Memory {
        /// The process.
        pid: u32,
        /// Why not.
        cause: std::io::Error,
    },
    /// Nothing leads to its interpreters.
    #[error(
        "cannot trace `{pid}`: nothing leads to the interpreters of its CPython, {cause}; use a build with its dynamic \
         symbols"
    )]
    NoRoot {
        /// The process.
        pid: u32,
        /// What is missing.
        cause: crate::cpython::root::Reason,
    },
    /// No interpreter where one should be.
    #[error(
        "cannot trace `{pid}`: no interpreter of CPython {version} found in it; it is just starting or ending, or \
         this build's structures differ from those that leaktrace knows"
    )]
    NoInterpreter {
        /// The process.
        pid: u32,
        /// Its version.
        version: crate::cpython::version::Version,
    },
    /// A newer version than leaktrace knows, of which something does not check out.
    #[error(
        "cannot trace `{pid}`: leaktrace does not know CPython {version} yet, and what that says of its own structures \
         does not lead to {missing}; use a newer leaktrace"
    )]
    Unproven {
        /// The process.
        pid: u32,
        /// Its version.
        version: crate::cpython::version::Version,
        /// What was not found.
        missing: &'static str,
    },
    /// Its tables do not hold still.
    #[error(
        "cannot trace `{pid}`: hooks come and go over its allocator tables all the time; try again when it is quieter"
    )]
    Restless {
        /// The process.
        pid: u32,
    },
    /// No function has a place for a probe.
    #[error("nothing to probe: no allocator function of this CPython has a place for a probe")]
    NothingToProbe,
    /// The guard of the gate cannot be started or told.
    #[error("cannot guard the gate: {0}; trace with --exact, which needs no guard")]
    Guard(std::io::Error),
    /// Calls cannot be traced for a moment at a time.
    #[error(
        "cannot keep to a budget in `{pid}`: {why}; trace with --exact, at the full cost of every call"
    )]
    NoWindows {
        /// The process.
        pid: u32,
        /// What is in the way.
        why: &'static str,
    },
    /// The gate could not be opened or closed.
    #[error("cannot write the allocator tables: {0}; the process has probably ended")]
    Gate(std::io::Error),
}

impl From<crate::cpython::description::DescriptionError> for SessionError {
    fn from(error: crate::cpython::description::DescriptionError) -> Self {
        use crate::cpython::description::DescriptionError;
        match error {
            DescriptionError::Layout(error) => Self::Layout(error),
            DescriptionError::DebugOffsets(error) => Self::DebugOffsets(error),
        }
    }
}

impl SessionError {
    /// Whether the same process may well be fine a moment later: it is starting, or changed while it was looked at.
    pub(super) fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::NoInterpreter { .. }
                | Self::Unproven { .. }
                | Self::DebugOffsets(_)
                | Self::Version(crate::cpython::version::VersionError::Unknown { .. })
        )
    }
}
