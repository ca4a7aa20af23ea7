//! What a target of CPython 3.13 or later says about its own layout.
//!
//! `_PyRuntime` begins with `_Py_DebugOffsets` (`Include/internal/pycore_runtime.h`, later `pycore_debug_offsets.h`),
//! made for readers from outside. It wins over the checked-in table, which only says where its own fields lie.

#[cfg(test)]
mod tests;

use thiserror::Error;

use super::layout::{DebugOffsetsFields, Layout, Position};
use crate::target::memory::ReadMemory;

/// `_Py_Debug_Cookie`.
const COOKIE: [u8; 8] = *b"xdebugpy";

/// Bytes of `_Py_DebugOffsets` at most; in 3.13 it has 584.
const MAX_BYTES: u64 = 4096;

/// Bytes of any structure that it describes; the largest (`PyInterpreterState`, `_PyRuntimeState`) have 0.3 MiB.
const MAX_STRUCTURE: u64 = 16 << 20;

/// Bytes from its start within which a thread state's fields must lie (`thread_id` is at 152 in 3.13).
const MAX_THREAD: u64 = 256;

/// The same for a frame's fields.
const MAX_FRAME: u64 = 8 * leaktrace_common::limits::FRAME_WORDS as u64;

/// Why a target's own description is not used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum DebugOffsetsError {
    /// This version of CPython has none, or none that the table knows.
    #[error("CPython 3.{minor} does not describe its layout to leaktrace")]
    Absent {
        /// The second number of the version.
        minor: u8,
    },
    /// It could not be read.
    #[error("cannot read `_Py_DebugOffsets` at `{address:#x}`")]
    Unreadable {
        /// Where it should be.
        address: u64,
    },
    /// Something else lies there.
    #[error("no `_Py_DebugOffsets` at `{address:#x}`: it does not begin with `xdebugpy`")]
    Cookie {
        /// Where it should be.
        address: u64,
    },
    /// It is another version's.
    #[error("`_Py_DebugOffsets` is of CPython {major}.{minor}, not of 3.{expected}")]
    Version {
        /// The first number of its version.
        major: u8,
        /// The second number of its version.
        minor: u8,
        /// The second number of the expected version.
        expected: u8,
    },
    /// The build has no GIL, so that other structures lie elsewhere too.
    #[error(
        "a free-threaded build of CPython 3.{minor} is not supported; use one with the GIL, or a free-threaded one of {}",
        super::layout::supported_free_threaded().map(|minor| format!("3.{minor}")).collect::<Vec<_>>().join(", ")
    )]
    FreeThreaded {
        /// The second number of the version.
        minor: u8,
    },
    /// An offset that cannot be.
    #[error("`_Py_DebugOffsets` says `{field}` = {value}, which cannot be")]
    Insane {
        /// The field's path.
        field: String,
        /// What it says.
        value: u64,
    },
}

/// Replaces numbers of `layout` with those of the target whose `_PyRuntime` is at `runtime`.
///
/// # Errors
/// [`DebugOffsetsError`], and `layout` is then as it was.
pub fn refine(
    memory: &impl ReadMemory,
    runtime: u64,
    layout: &mut Layout,
) -> Result<(), DebugOffsetsError> {
    let minor = layout.minor;
    let fields = layout.debug_offsets.as_ref().ok_or(DebugOffsetsError::Absent { minor })?;
    let said = Said::read(memory, runtime, fields)?;
    said.check_head(runtime, minor)?;
    if said.is_free_threaded()? != layout.free_threaded {
        return Err(DebugOffsetsError::FreeThreaded { minor });
    }
    *layout = said.apply(layout.clone())?;
    Ok(())
}

/// Whether the target whose `_PyRuntime` is at `runtime`, of the version that `layout` is of, is a free-threaded build.
///
/// # Errors
/// [`DebugOffsetsError`] where it says nothing that can be believed.
pub fn is_free_threaded(
    memory: &impl ReadMemory,
    runtime: u64,
    layout: &Layout,
) -> Result<bool, DebugOffsetsError> {
    let minor = layout.minor;
    let fields = layout.debug_offsets.as_ref().ok_or(DebugOffsetsError::Absent { minor })?;
    let said = Said::read(memory, runtime, fields)?;
    said.check_head(runtime, minor)?;
    said.is_free_threaded()
}

/// The structure as it was read.
struct Said<'a> {
    bytes: Vec<u8>,
    fields: &'a DebugOffsetsFields,
}

impl<'a> Said<'a> {
    fn read(
        memory: &impl ReadMemory,
        address: u64,
        fields: &'a DebugOffsetsFields,
    ) -> Result<Self, DebugOffsetsError> {
        let mut bytes = vec![0; fields.bytes.min(MAX_BYTES) as usize];
        let unreadable = |_fault| DebugOffsetsError::Unreadable { address };
        memory.read_bytes(address, &mut bytes).map_err(unreadable)?;
        Ok(Self { bytes, fields })
    }

    /// What a field says; `None` where this version has no such field.
    fn maybe(&self, path: &str) -> Option<u64> {
        let start = usize::try_from(*self.fields.fields.get(path)?).ok()?;
        self.bytes.get(start..)?.first_chunk().copied().map(u64::from_le_bytes)
    }

    fn value(&self, path: &str) -> Result<u64, DebugOffsetsError> {
        self.maybe(path).ok_or_else(|| insane(path, 0))
    }

    fn check_head(&self, address: u64, expected: u8) -> Result<(), DebugOffsetsError> {
        if self.value("cookie")?.to_le_bytes() != COOKIE {
            return Err(DebugOffsetsError::Cookie { address });
        }
        // `PY_VERSION_HEX`: major, minor, micro and level, a byte each.
        let [_, _, minor, major, ..] = self.value("version")?.to_le_bytes();
        if (major, minor) != (3, expected) {
            return Err(DebugOffsetsError::Version { major, minor, expected });
        }
        Ok(())
    }

    fn is_free_threaded(&self) -> Result<bool, DebugOffsetsError> {
        Ok(self.value("free_threaded")? != 0)
    }

    /// The size of a structure.
    fn size(&self, structure: &str) -> Result<u64, DebugOffsetsError> {
        let path = format!("{structure}.size");
        let size = self.value(&path)?;
        if size > MAX_STRUCTURE { Err(insane(&path, size)) } else { Ok(size) }
    }

    /// The offset of a field that is `width` bytes wide, aligned to that, and inside its structure.
    fn offset(
        &self,
        structure: &str,
        field: &str,
        width: u64,
        limit: u64,
    ) -> Result<u64, DebugOffsetsError> {
        let path = format!("{structure}.{field}");
        let offset = self.value(&path)?;
        let end = self.size(structure)?.min(limit);
        let inside = offset.checked_add(width).is_some_and(|field_end| field_end <= end);
        if inside && offset.is_multiple_of(width) { Ok(offset) } else { Err(insane(&path, offset)) }
    }

    /// The offset of a pointer or another 8-byte field.
    fn pointer(&self, structure: &str, field: &str) -> Result<u64, DebugOffsetsError> {
        self.offset(structure, field, 8, MAX_STRUCTURE)
    }

    fn apply(&self, mut layout: Layout) -> Result<Layout, DebugOffsetsError> {
        self.apply_interpreter(&mut layout)?;
        self.apply_thread(&mut layout)?;
        self.apply_frame(&mut layout)?;
        self.apply_code(&mut layout)?;
        self.apply_objects(&mut layout)?;
        Ok(layout)
    }

    fn apply_interpreter(&self, layout: &mut Layout) -> Result<(), DebugOffsetsError> {
        if let Some(runtime) = &mut layout.runtime {
            runtime.interpreters_head = self.pointer("runtime_state", "interpreters_head")?;
            runtime.bytes = self.size("runtime_state")?;
        }
        let interpreter = &mut layout.interpreter;
        interpreter.next = self.pointer("interpreter_state", "next")?;
        interpreter.threads = self.pointer("interpreter_state", "threads_head")?;
        interpreter.gil = Some(self.pointer("interpreter_state", "ceval_gil")?);
        interpreter.bytes = self.size("interpreter_state")?;
        Ok(())
    }

    fn apply_thread(&self, layout: &mut Layout) -> Result<(), DebugOffsetsError> {
        let field = |name| self.offset("thread_state", name, 8, MAX_THREAD);
        let thread = &mut layout.thread;
        thread.prev = field("prev")?;
        thread.next = field("next")?;
        thread.interp = field("interp")?;
        thread.frame = field("current_frame")?;
        thread.thread_id = field("thread_id")?;
        thread.native_thread_id = Some(field("native_thread_id")?);
        thread.cframe_current_frame = None;
        thread.bytes = self.size("thread_state")?;
        Ok(())
    }

    fn apply_frame(&self, layout: &mut Layout) -> Result<(), DebugOffsetsError> {
        let field = |name, width| self.offset("interpreter_frame", name, width, MAX_FRAME);
        let frame = &mut layout.frame;
        frame.previous = field("previous", 8)?;
        frame.code = field("executable", 8)?;
        frame.position = Position::Address { offset: field("instr_ptr", 8)? };
        frame.owner = Some(field("owner", 1)?);
        Ok(())
    }

    fn apply_code(&self, layout: &mut Layout) -> Result<(), DebugOffsetsError> {
        let code = &mut layout.code;
        code.filename = self.pointer("code_object", "filename")?;
        code.name = self.pointer("code_object", "name")?;
        code.qualname = Some(self.pointer("code_object", "qualname")?);
        code.lines = self.pointer("code_object", "linetable")?;
        code.first_line = self.offset("code_object", "firstlineno", 4, MAX_STRUCTURE)?;
        code.code_start = self.offset("code_object", "co_code_adaptive", 2, MAX_STRUCTURE)?;
        Ok(())
    }

    fn apply_objects(&self, layout: &mut Layout) -> Result<(), DebugOffsetsError> {
        let object = &mut layout.object;
        object.kind = self.pointer("pyobject", "ob_type")?;
        object.type_name = self.pointer("type_object", "tp_name")?;
        object.type_flags = self.pointer("type_object", "tp_flags")?;
        object.size = self.pointer("bytes_object", "ob_size")?;
        object.bytes_start = self.offset("bytes_object", "ob_sval", 1, MAX_STRUCTURE)?;
        layout.text.state = self.offset("unicode_object", "state", 4, MAX_STRUCTURE)?;
        layout.text.length = self.pointer("unicode_object", "length")?;
        layout.text.ascii_bytes = self.offset("unicode_object", "asciiobject_size", 1, 4096)?;
        Ok(())
    }
}

fn insane(field: &str, value: u64) -> DebugOffsetsError {
    DebugOffsetsError::Insane { field: field.to_owned(), value }
}
