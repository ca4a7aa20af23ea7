//! From the address of a code object to function, file and line.
//!
//! [`read`] reads one code object out of a target that is not trusted; [`CodeCache`] remembers them and gives the
//! frames of stacks.

mod cache;
mod copies;
#[cfg(test)]
pub(crate) mod made;
#[cfg(test)]
mod tests;
mod text;

use std::sync::Arc;

use thiserror::Error;

use super::layout::{Layout, LineFormat};
use super::lines::line_at;
use crate::target::memory::ReadMemory;

pub use cache::{CacheStats, CodeCache, Resolved};

/// Bytes of a line table that are read at most. The largest of the standard library has 14 KiB. Code with a larger one
/// has no lines.
const MAX_LINES: u64 = 1 << 20;

/// Bytes of a code object's fixed part that are read at most; CPython 3.13's has 208.
const MAX_HEADER: u64 = 1024;

/// `Py_TPFLAGS_BYTES_SUBCLASS` (`Include/object.h`, the same since 3.0).
const BYTES_SUBCLASS: u64 = 1 << 27;

/// Why an address does not give a code object.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The target's memory could not be read there.
    #[error("code object not readable")]
    Unreadable,
    /// Another object lies there: the code object was freed.
    #[error("no code object at its address any more")]
    NotCode,
    /// What should be its name or file is no string.
    #[error("name or file of a code object is no string")]
    NotText,
    /// What should be its line table is no bytes object.
    #[error("line table of a code object is no bytes object")]
    NotBytes,
    /// It was freed before its names were read: other code may have been at its address by then.
    #[error("code object freed before it could be read")]
    Freed,
    /// Whether it was freed before its names were read cannot be told: frees were lost, or not seen at that time.
    #[error("code object read when frees were not seen")]
    Unproven,
}

/// A code object as the target had it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Code {
    /// `co_qualname`; `co_name` before 3.11.
    pub function: Arc<str>,
    /// `co_filename`, as it stands.
    pub file: Arc<str>,
    /// `co_firstlineno`.
    pub first_line: i32,
    /// Bytes of bytecode before the first traceable instruction; `None` before 3.11, where frames are always complete.
    pub first_traceable: Option<i64>,
    line_format: LineFormat,
    /// `None` where the table is too long.
    lines: Option<Box<[u8]>>,
}

impl Code {
    /// The line of the instruction at byte `offset` of the bytecode; `None` where it has none, or where the table of
    /// lines is too long.
    #[must_use]
    pub fn line(&self, offset: i32) -> Option<u32> {
        line_at(self.line_format, self.lines.as_deref()?, self.first_line, offset)
    }

    /// Whether a frame at byte `offset` is still being set up, if it is no generator's (`_PyFrame_IsIncomplete` of
    /// `Include/internal/pycore_frame.h`, 3.11 to 3.13). Python and tracemalloc leave such frames out.
    fn is_incomplete_at(&self, offset: i32) -> bool {
        self.first_traceable.is_some_and(|first| i64::from(offset) < first)
    }

    /// Bytes that it takes beside its strings.
    fn bytes(&self) -> usize {
        size_of::<Self>() + self.lines.as_deref().map_or(0, <[u8]>::len)
    }
}

/// What tells one code object from another that was made at the same address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    kind: u64,
    name: u64,
    file: u64,
    lines: u64,
    first_line: i32,
    first_traceable: Option<i32>,
}

impl Header {
    fn read(memory: &impl ReadMemory, layout: &Layout, address: u64) -> Result<Self, Reason> {
        let code = &layout.code;
        let name = code.qualname.unwrap_or(code.name);
        let last = [code.filename, name, code.lines, layout.object.kind, code.first_line];
        let last = last.into_iter().chain(code.first_traceable).max().unwrap_or(0);
        let bytes = last.saturating_add(8).min(MAX_HEADER);
        let mut buffer = [0; MAX_HEADER as usize];
        let buffer = &mut buffer[..bytes as usize];
        memory.read_bytes(address, buffer).map_err(|_fault| Reason::Unreadable)?;
        let word = |offset| bytes_at(buffer, offset).map(u64::from_le_bytes);
        let half = |offset| bytes_at(buffer, offset).map(i32::from_le_bytes);
        // Asked first as well: what freed code left there must not pass for code that is made while it is read.
        if !layout.object.refcnt.map(word).transpose()?.is_none_or(is_reference_count) {
            return Err(Reason::NotCode);
        }
        Ok(Self {
            kind: word(layout.object.kind)?,
            name: word(name)?,
            file: word(code.filename)?,
            lines: word(code.lines)?,
            first_line: half(code.first_line)?,
            first_traceable: code.first_traceable.map(half).transpose()?,
        })
    }

    /// Reads what the header of the code object at `address` points to.
    fn follow(
        &self,
        memory: &impl ReadMemory,
        layout: &Layout,
        address: u64,
    ) -> Result<Code, Reason> {
        let code = Code {
            function: text::read(memory, layout, self.name)?.into(),
            file: text::read(memory, layout, self.file)?.into(),
            first_line: self.first_line,
            first_traceable: self.first_traceable.map(|units| 2 * i64::from(units)),
            line_format: layout.code.line_format,
            lines: read_line_table(memory, layout, self.lines)?,
        };
        // Asked last: a code object that lives now has kept all of that alive.
        if is_alive(memory, layout, address)? { Ok(code) } else { Err(Reason::NotCode) }
    }
}

/// Whether the object at `address` is in use. In free-threaded builds that cannot be told.
fn is_alive(memory: &impl ReadMemory, layout: &Layout, address: u64) -> Result<bool, Reason> {
    let Some(offset) = layout.object.refcnt else { return Ok(true) };
    word(memory, address, offset).map(is_reference_count)
}

/// Whether that is the number of references to an object in use. A freed one keeps its content but for the first word,
/// where every allocator links free blocks together (pymalloc's last link is 0): that is no number of references, of
/// which there are some, fewer than 2^32. (From 3.14 on the upper 16 bits are flags.)
fn is_reference_count(word: u64) -> bool {
    const FLAGS: u32 = 48;
    (1..=u64::from(u32::MAX)).contains(&(word & ((1 << FLAGS) - 1)))
}

/// The fixed number of bytes at `offset`; what lies outside of `buffer` counts as not readable.
fn bytes_at<const N: usize>(buffer: &[u8], offset: u64) -> Result<[u8; N], Reason> {
    let start = usize::try_from(offset).ok();
    let rest = start.and_then(|start| buffer.get(start..));
    rest.and_then(|rest| rest.first_chunk()).copied().ok_or(Reason::Unreadable)
}

/// Reads the code object at `address`.
///
/// `code_type` is the address of `PyCode_Type`, where it is known; otherwise the name of the object's type decides.
///
/// # Errors
/// [`Reason`] says what lies there instead, or what could not be read.
pub fn read(
    memory: &impl ReadMemory,
    layout: &Layout,
    address: u64,
    code_type: Option<u64>,
) -> Result<Code, Reason> {
    let header = Header::read(memory, layout, address)?;
    check_type(memory, layout, header.kind, code_type)?;
    header.follow(memory, layout, address)
}

/// Whether `kind` is the type of code objects.
fn check_type(
    memory: &impl ReadMemory,
    layout: &Layout,
    kind: u64,
    code_type: Option<u64>,
) -> Result<(), Reason> {
    const NAME: [u8; 5] = *b"code\0";
    let same = match code_type {
        Some(known) => kind == known,
        None => {
            let mut name = [0; NAME.len()];
            let start =
                word(memory, kind, layout.object.type_name).map_err(|_cause| Reason::NotCode)?;
            memory.read_bytes(start, &mut name).map_err(|_fault| Reason::NotCode)?;
            name == NAME
        }
    };
    if same { Ok(()) } else { Err(Reason::NotCode) }
}

fn read_line_table(
    memory: &impl ReadMemory,
    layout: &Layout,
    address: u64,
) -> Result<Option<Box<[u8]>>, Reason> {
    if !has_flag(memory, layout, address, BYTES_SUBCLASS)? {
        return Err(Reason::NotBytes);
    }
    let size = word(memory, address, layout.object.size)?;
    if size > MAX_LINES {
        return Ok(None);
    }
    let mut table = vec![0; size as usize].into_boxed_slice();
    let start = address.wrapping_add(layout.object.bytes_start);
    memory.read_bytes(start, &mut table).map_err(|_fault| Reason::Unreadable)?;
    Ok(Some(table))
}

/// Whether the type of the object at `address` has a `tp_flags` bit.
fn has_flag(
    memory: &impl ReadMemory,
    layout: &Layout,
    address: u64,
    flag: u64,
) -> Result<bool, Reason> {
    let kind = word(memory, address, layout.object.kind)?;
    Ok(word(memory, kind, layout.object.type_flags)? & flag != 0)
}

/// The 8-byte field at `offset` of the structure at `address`.
fn word(memory: &impl ReadMemory, address: u64, offset: u64) -> Result<u64, Reason> {
    memory.read_u64(address.wrapping_add(offset)).map_err(|_fault| Reason::Unreadable)
}
