//! Where one version of CPython keeps the fields that leaktrace reads.
//!
//! All numbers come from the checked-in tables, which `cargo xtask layouts` reads out of DWARF; from 3.13 on what the
//! target itself says wins over them (see [`debug_offsets`](super::debug_offsets)). All offsets are in bytes.
//!
//! The layouts of objects, code and frames are the same in all releases of a minor version. `PyInterpreterState` and
//! `_PyRuntimeState` are CPython's private matter: check what they lead to before you rely on it.

mod arena;
mod fields;
mod table;
#[cfg(test)]
mod tests;

use leaktrace_common::layout::{FrameLayout, PymallocLayout, ThreadLayout};
use leaktrace_common::limits::FRAME_WORDS;
use thiserror::Error;

pub use arena::{ArenaFields, ArenaList};
pub use fields::{
    CodeFields, DebugOffsetsFields, FrameFields, InterpreterFields, LineFormat, ObjectFields,
    Obmalloc, PoolFields, Position, RuntimeFields, TextFields, ThreadFields,
};
use table::Table;
pub use table::{supported, supported_free_threaded};

/// Why there is no layout.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// No table for this version.
    #[error(
        "CPython {major}.{minor} is not supported; leaktrace knows CPython {}",
        supported().map(|minor| format!("3.{minor}")).collect::<Vec<_>>().join(", ")
    )]
    Unsupported {
        /// The version's first number.
        major: u8,
        /// The version's second number.
        minor: u8,
    },
    /// A checked-in table is not what `cargo xtask layouts` writes.
    #[error("the layout table of CPython 3.{minor} is broken: {cause}; run `cargo xtask layouts`")]
    Broken {
        /// The version's second number.
        minor: u8,
        /// What is wrong.
        #[source]
        cause: serde_json::Error,
    },
    /// A checked-in table lacks a field.
    #[error("the layout table of CPython {python} has no `{key}`; run `cargo xtask layouts`")]
    Missing {
        /// The version.
        python: String,
        /// The field.
        key: String,
    },
}

/// The layout of one minor version of CPython 3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The second number of the version.
    pub minor: u8,
    /// Whether it is that of builds without a GIL.
    pub free_threaded: bool,
    /// Whether it is of a version that leaktrace has no table of: the next older one's, with what the target says of
    /// itself, and without what it does not say.
    pub is_guess: bool,
    /// Which build's DWARF the numbers are from.
    pub source: String,
    /// `PyObject`, `PyVarObject`, `PyBytesObject`, `PyTypeObject`.
    pub object: ObjectFields,
    /// `PyASCIIObject` and the structures that extend it.
    pub text: TextFields,
    /// `PyCodeObject`.
    pub code: CodeFields,
    /// `PyFrameObject` or `_PyInterpreterFrame`.
    pub frame: FrameFields,
    /// `PyThreadState`.
    pub thread: ThreadFields,
    /// `PyInterpreterState`.
    pub interpreter: InterpreterFields,
    /// `_PyRuntimeState`; from 3.7 on.
    pub runtime: Option<RuntimeFields>,
    /// `struct pool_header`.
    pub pool: PoolFields,
    /// `struct arena_object`.
    pub arena: Option<ArenaFields>,
    /// `_Py_DebugOffsets`; from 3.13 on.
    pub debug_offsets: Option<DebugOffsetsFields>,
}

impl Layout {
    /// The layout of CPython `major.minor`.
    ///
    /// # Errors
    /// [`LayoutError::Unsupported`] names the versions there are.
    pub fn for_version(major: u8, minor: u8) -> Result<Self, LayoutError> {
        Self::load(major, minor, false)
    }

    /// The layout of free-threaded builds of CPython `major.minor`.
    ///
    /// # Errors
    /// [`LayoutError::Unsupported`] where there is none.
    pub fn for_free_threaded(major: u8, minor: u8) -> Result<Self, LayoutError> {
        Self::load(major, minor, true)
    }

    /// What can be said of CPython `3.minor`, which is newer than the newest table: all that the target must not say of
    /// itself (see [`debug_offsets`](super::debug_offsets)) is left out.
    ///
    /// # Errors
    /// A table that is broken.
    pub fn for_newer(minor: u8) -> Result<Self, LayoutError> {
        let newest = supported().max().unwrap_or(0);
        Ok(Self::for_version(3, newest)?.into_guess(minor))
    }

    /// The same for CPython `3.minor`, without the offsets that moved with earlier releases and that no target says.
    pub(super) fn into_guess(mut self, minor: u8) -> Self {
        self.minor = minor;
        self.is_guess = true;
        self.source = format!("what CPython 3.{minor} says of itself");
        self.code.first_traceable = None;
        self.pool.class_shift = None;
        self.arena = None;
        if let Some(runtime) = &mut self.runtime {
            runtime.interpreters_main = None;
        }
        self
    }

    fn load(major: u8, minor: u8, free_threaded: bool) -> Result<Self, LayoutError> {
        let table = Table::load(major, minor, free_threaded)?;
        Ok(Self {
            minor,
            free_threaded,
            is_guess: false,
            object: ObjectFields::load(&table)?,
            text: TextFields::load(&table)?,
            code: CodeFields::load(&table, minor)?,
            frame: FrameFields::load(&table, minor)?,
            thread: ThreadFields::load(&table)?,
            interpreter: InterpreterFields::load(&table)?,
            runtime: RuntimeFields::load(&table)?,
            pool: PoolFields::load(&table, minor)?,
            arena: ArenaFields::load(&table),
            debug_offsets: DebugOffsetsFields::load(&table)?,
            source: table.source,
        })
    }

    /// What the kernel side needs to go from a thread state to its frame; where that is found is left out.
    #[must_use]
    pub fn thread_layout(&self) -> ThreadLayout {
        let thread = &self.thread;
        ThreadLayout {
            source: 0,
            location: 0,
            vector_entry: 0,
            interp: thread.interp,
            thread_id: thread.thread_id,
            frame: thread.frame,
            indirect: u64::from(thread.cframe_current_frame.is_some()),
            cframe_current_frame: thread.cframe_current_frame.unwrap_or(0),
        }
    }

    /// What the kernel side needs to walk frames.
    #[must_use]
    pub fn frame_layout(&self) -> FrameLayout {
        let frame = &self.frame;
        let (position, width, lasti_unit) = match frame.position {
            Position::Lasti { offset, unit } => (offset, 4, unit),
            Position::Address { offset } => (offset, 8, 0),
        };
        let pointers = frame.previous.max(frame.code).saturating_add(8);
        let owner = frame.owner.map_or(0, |owner| owner.saturating_add(1));
        let end = pointers.max(position.saturating_add(width)).max(owner);
        FrameLayout {
            bytes: words_up_to(end, FRAME_WORDS),
            previous: frame.previous,
            code: frame.code,
            position,
            owner: frame.owner.unwrap_or(0),
            first_shim_owner: frame.first_shim_owner,
            code_start: if lasti_unit == 0 { self.code.code_start } else { 0 },
            lasti_unit,
            code_tag: frame.code_tag,
        }
    }

    /// What is needed to predict pymalloc; where the pools are, is left 0 (see [`obmalloc`](super::obmalloc)).
    ///
    /// `None` where the table does not tell how far apart size classes are.
    #[must_use]
    pub fn pymalloc_layout(&self) -> Option<PymallocLayout> {
        Some(PymallocLayout {
            usedpools: 0,
            interpreter: 0,
            state: 0,
            used: 0,
            feature_flags: 0,
            pool_bytes: self.pool.pool_bytes,
            pool_header: self.pool.header_bytes,
            class_shift: self.pool.class_shift?,
        })
    }
}

/// The multiple of 8 bytes that reaches to `end`, as far as a walk can read in one piece.
fn words_up_to(end: u64, limit: usize) -> u64 {
    end.div_ceil(8).min(limit as u64) * 8
}
