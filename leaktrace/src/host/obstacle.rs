//! Why a process cannot be traced, as a word for a table and as a sentence.

use std::io;

use crate::cpython::debug_offsets::DebugOffsetsError;
use crate::cpython::version::VersionError;
use crate::session::SessionError;

/// Why a process cannot be traced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// In a word or two.
    pub word: &'static str,
    /// With what can be done about it.
    pub reason: String,
}

impl Obstacle {
    /// What tracing it would say.
    pub(super) fn of(error: &SessionError) -> Self {
        let word = match error {
            SessionError::Version(VersionError::TooOld { .. }) => "too old",
            SessionError::Layout(_) => "unknown version",
            SessionError::DebugOffsets(DebugOffsetsError::FreeThreaded { .. }) => "free-threaded",
            SessionError::Memory { .. } => "no permission",
            _ => "unsupported",
        };
        Self { word, reason: error.to_string() }
    }

    /// Whether it is the same for every process of the same build: nothing that was said of one process alone.
    pub(super) fn is_of_the_build(error: &SessionError) -> bool {
        matches!(
            error,
            SessionError::Version(VersionError::TooOld { .. })
                | SessionError::Layout(_)
                | SessionError::DebugOffsets(DebugOffsetsError::FreeThreaded { .. })
        )
    }

    /// It may not be looked into.
    pub(super) fn hidden(pid: u32, error: &io::Error) -> Self {
        let reason = format!("cannot look into process {pid}: {error}; run as root");
        Self { word: "no permission", reason }
    }

    /// Another leaktrace is at it.
    pub(super) fn traced() -> Self {
        Self { word: "traced", reason: "another leaktrace traces it now".to_owned() }
    }

    /// Nothing can be traced here.
    pub(super) fn host(reason: String) -> Self {
        Self { word: "not here", reason }
    }
}
