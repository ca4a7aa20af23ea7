//! The fields that are read, by structure. All numbers are byte offsets unless they say otherwise.

use std::collections::BTreeMap;

use leaktrace_common::limits::SMALL_REQUEST;

use super::LayoutError;
use super::table::Table;

type Loaded<T> = Result<T, LayoutError>;

/// `PyObject`, `PyVarObject`, `PyBytesObject` and `PyTypeObject`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectFields {
    /// `PyObject.ob_refcnt`; free-threaded builds keep two counts in other fields.
    pub refcnt: Option<u64>,
    /// `PyObject.ob_type`.
    pub kind: u64,
    /// `PyVarObject.ob_size`.
    pub size: u64,
    /// `PyBytesObject.ob_sval`.
    pub bytes_start: u64,
    /// `PyTypeObject.tp_name`.
    pub type_name: u64,
    /// `PyTypeObject.tp_flags`.
    pub type_flags: u64,
}

impl ObjectFields {
    pub(super) fn load(table: &Table) -> Loaded<Self> {
        Ok(Self {
            refcnt: table.maybe_offset("PyObject.ob_refcnt"),
            kind: table.offset("PyObject.ob_type")?,
            size: table.offset("PyVarObject.ob_size")?,
            bytes_start: table.offset("PyBytesObject.ob_sval")?,
            type_name: table.offset("PyTypeObject.tp_name")?,
            type_flags: table.offset("PyTypeObject.tp_flags")?,
        })
    }
}

/// `PyASCIIObject`, `PyCompactUnicodeObject` and `PyUnicodeObject`, which extend each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextFields {
    /// `PyASCIIObject.length`, in code points.
    pub length: u64,
    /// `PyASCIIObject.state`, 4 bytes of bit fields.
    pub state: u64,
    /// Lowest bit of `state.kind`, which is [`Self::kind_width`] bits: bytes of a code point, 0 where not ready.
    pub kind_bit: u32,
    /// Width of `state.kind` in bits.
    pub kind_width: u32,
    /// Bit of `state.compact`.
    pub compact_bit: u32,
    /// Bit of `state.ascii`.
    pub ascii_bit: u32,
    /// `sizeof(PyASCIIObject)`: where the text of a compact ASCII string begins.
    pub ascii_bytes: u64,
    /// `sizeof(PyCompactUnicodeObject)`: where the text of another compact string begins.
    pub compact_bytes: u64,
    /// `PyUnicodeObject.data`: the pointer to the text of a string that is not compact.
    pub data: u64,
    /// `PyCompactUnicodeObject.utf8_length`.
    pub utf8_length: u64,
    /// `PyCompactUnicodeObject.utf8`.
    pub utf8: u64,
}

impl TextFields {
    pub(super) fn load(table: &Table) -> Loaded<Self> {
        let (kind_bit, kind_width) = table.bits("PyASCIIObject.state.kind")?;
        Ok(Self {
            length: table.offset("PyASCIIObject.length")?,
            state: table.offset("PyASCIIObject.state")?,
            kind_bit,
            kind_width,
            compact_bit: table.bits("PyASCIIObject.state.compact")?.0,
            ascii_bit: table.bits("PyASCIIObject.state.ascii")?.0,
            ascii_bytes: table.size("PyASCIIObject")?,
            compact_bytes: table.size("PyCompactUnicodeObject")?,
            data: table.offset("PyUnicodeObject.data")?,
            utf8_length: table.offset("PyCompactUnicodeObject.utf8_length")?,
            utf8: table.offset("PyCompactUnicodeObject.utf8")?,
        })
    }
}

/// How a code object's line table is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineFormat {
    /// `co_lnotab`, up to 3.9.
    Lnotab,
    /// `co_linetable` of 3.10 (PEP 626).
    Ranges,
    /// `co_linetable` from 3.11 on (PEP 657).
    Locations,
}

/// `PyCodeObject`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodeFields {
    /// `co_filename`.
    pub filename: u64,
    /// `co_name`.
    pub name: u64,
    /// `co_qualname`, from 3.11 on.
    pub qualname: Option<u64>,
    /// `co_firstlineno`, 4 bytes.
    pub first_line: u64,
    /// `co_lnotab` or `co_linetable`.
    pub lines: u64,
    /// What is behind [`Self::lines`].
    pub line_format: LineFormat,
    /// `co_code_adaptive` (the bytecode itself, from 3.11 on) or `co_code` (a pointer to bytes).
    pub code_start: u64,
    /// `_co_firsttraceable`, 4 bytes, in instructions of 2 bytes; from 3.11 on.
    pub first_traceable: Option<u64>,
    /// `co_tlbc`: copies of the bytecode, one for each thread; in free-threaded builds from 3.14 on.
    pub copies: Option<u64>,
}

impl CodeFields {
    pub(super) fn load(table: &Table, minor: u8) -> Loaded<Self> {
        Ok(Self {
            filename: table.offset("PyCodeObject.co_filename")?,
            name: table.offset("PyCodeObject.co_name")?,
            qualname: table.maybe_offset("PyCodeObject.co_qualname"),
            first_line: table.offset("PyCodeObject.co_firstlineno")?,
            lines: table.one_of(&["PyCodeObject.co_linetable", "PyCodeObject.co_lnotab"])?,
            line_format: match minor {
                ..=9 => LineFormat::Lnotab,
                10 => LineFormat::Ranges,
                11.. => LineFormat::Locations,
            },
            code_start: table.one_of(&["PyCodeObject.co_code_adaptive", "PyCodeObject.co_code"])?,
            first_traceable: table.maybe_offset("PyCodeObject._co_firsttraceable"),
            copies: table.maybe_offset("PyCodeObject.co_tlbc"),
        })
    }
}

/// How a frame says which of its instructions runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// `f_lasti`, 4 bytes, up to 3.10.
    Lasti {
        /// Where it lies.
        offset: u64,
        /// Bytes of bytecode that it counts: 1 up to 3.9, 2 in 3.10 (`sizeof(_Py_CODEUNIT)`).
        unit: u64,
    },
    /// `prev_instr` (3.11, 3.12) or `instr_ptr` (from 3.13 on): an address.
    Address {
        /// Where it lies.
        offset: u64,
    },
}

/// `PyFrameObject` up to 3.10, `_PyInterpreterFrame` from 3.11 on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameFields {
    /// `f_back` or `previous`.
    pub previous: u64,
    /// `f_code` or `f_executable`.
    pub code: u64,
    /// `f_lasti`, `prev_instr` or `instr_ptr`.
    pub position: Position,
    /// `owner`, 1 byte; from 3.11 on.
    pub owner: Option<u64>,
    /// The number `FRAME_OWNED_BY_GENERATOR`; from 3.11 on.
    pub generator_owner: Option<u64>,
    /// The lowest `owner` of frames that belong to the C stack; 0 where frames have none. `enum _frameowner` of
    /// `Include/internal/pycore_frame.h` has no such owner in 3.11, `FRAME_OWNED_BY_CSTACK = 3` in 3.12 and 3.13, and
    /// `FRAME_OWNED_BY_INTERPRETER = 3` before it in 3.14.
    pub first_shim_owner: u64,
    /// Bits to clear in [`Self::code`]: from 3.14 on it is a `_PyStackRef`, whose lowest two bits are tags.
    pub code_tag: u64,
}

impl FrameFields {
    pub(super) fn load(table: &Table, minor: u8) -> Loaded<Self> {
        if minor <= 10 {
            return Self::load_object(table, minor);
        }
        let shims = ["FRAME_OWNED_BY_INTERPRETER", "FRAME_OWNED_BY_CSTACK"];
        let shim = shims.iter().find_map(|name| table.constant(name));
        let last_real = table.constant("FRAME_OWNED_BY_FRAME_OBJECT").unwrap_or(2);
        let position = ["_PyInterpreterFrame.instr_ptr", "_PyInterpreterFrame.prev_instr"];
        Ok(Self {
            previous: table.offset("_PyInterpreterFrame.previous")?,
            code: table
                .one_of(&["_PyInterpreterFrame.f_executable", "_PyInterpreterFrame.f_code"])?,
            position: Position::Address { offset: table.one_of(&position)? },
            owner: Some(table.offset("_PyInterpreterFrame.owner")?),
            generator_owner: table.constant("FRAME_OWNED_BY_GENERATOR"),
            first_shim_owner: shim.unwrap_or(last_real + 1),
            code_tag: if minor >= 14 { 3 } else { 0 },
        })
    }

    fn load_object(table: &Table, minor: u8) -> Loaded<Self> {
        let unit = if minor == 10 { 2 } else { 1 };
        Ok(Self {
            previous: table.offset("PyFrameObject.f_back")?,
            code: table.offset("PyFrameObject.f_code")?,
            position: Position::Lasti { offset: table.offset("PyFrameObject.f_lasti")?, unit },
            owner: None,
            generator_owner: None,
            first_shim_owner: 0,
            code_tag: 0,
        })
    }
}

/// `PyThreadState`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadFields {
    /// `next`.
    pub next: u64,
    /// `prev`.
    pub prev: u64,
    /// `interp`.
    pub interp: u64,
    /// `frame` (up to 3.10), `cframe` (3.11, 3.12) or `current_frame` (from 3.13 on).
    pub frame: u64,
    /// `_PyCFrame.current_frame`, where [`Self::frame`] leads to a `_PyCFrame`.
    pub cframe_current_frame: Option<u64>,
    /// `thread_id`: the thread pointer, on glibc and musl.
    pub thread_id: u64,
    /// `native_thread_id`, what `gettid` gives; from 3.11 on.
    pub native_thread_id: Option<u64>,
    /// Its size.
    pub bytes: u64,
}

impl ThreadFields {
    pub(super) fn load(table: &Table) -> Loaded<Self> {
        // 3.10 has a `cframe` too, but it does not lead to the frame.
        let frames = ["PyThreadState.frame", "PyThreadState.current_frame", "PyThreadState.cframe"];
        Ok(Self {
            next: table.offset("PyThreadState.next")?,
            prev: table.offset("PyThreadState.prev")?,
            interp: table.offset("PyThreadState.interp")?,
            frame: table.one_of(&frames)?,
            cframe_current_frame: table.maybe_offset("_PyCFrame.current_frame"),
            thread_id: table.offset("PyThreadState.thread_id")?,
            native_thread_id: table.maybe_offset("PyThreadState.native_thread_id"),
            bytes: table.size("PyThreadState")?,
        })
    }
}

/// How an interpreter holds the state of pymalloc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obmalloc {
    /// Not at all: up to 3.11 it is a static array `usedpools`.
    Static,
    /// `PyInterpreterState.obmalloc` is the state (3.12).
    Embedded {
        /// Of `obmalloc.pools.used` in the interpreter.
        used: u64,
        /// Of `feature_flags` in the interpreter, which say whether it uses the main interpreter's state instead.
        feature_flags: u64,
    },
    /// `PyInterpreterState.obmalloc` points to the state (from 3.13 on).
    Pointer {
        /// Of the pointer in the interpreter.
        pointer: u64,
        /// Of `pools.used` in the state.
        used: u64,
    },
}

/// `PyInterpreterState`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterpreterFields {
    /// `next`.
    pub next: u64,
    /// `tstate_head` or `threads.head`: the first thread state.
    pub threads: u64,
    /// `ceval.gil`, a pointer to a `_gil_runtime_state`; from 3.12 on.
    pub gil: Option<u64>,
    /// The state of pymalloc.
    pub obmalloc: Obmalloc,
    /// Its size.
    pub bytes: u64,
}

impl InterpreterFields {
    pub(super) fn load(table: &Table) -> Loaded<Self> {
        const OBMALLOC: &str = "PyInterpreterState.obmalloc";
        let obmalloc = match table.maybe_offset(OBMALLOC) {
            None => Obmalloc::Static,
            Some(pointer) if table.is_pointer(OBMALLOC) => {
                Obmalloc::Pointer { pointer, used: table.offset("_obmalloc_state.pools.used")? }
            }
            Some(_) => Obmalloc::Embedded {
                used: table.offset("PyInterpreterState.obmalloc.pools.used")?,
                feature_flags: table.offset("PyInterpreterState.feature_flags")?,
            },
        };
        Ok(Self {
            next: table.offset("PyInterpreterState.next")?,
            threads: table
                .one_of(&["PyInterpreterState.threads.head", "PyInterpreterState.tstate_head"])?,
            gil: table.maybe_offset("PyInterpreterState.ceval.gil"),
            obmalloc,
            bytes: table.size("PyInterpreterState")?,
        })
    }
}

/// `_PyRuntimeState`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeFields {
    /// `interpreters.head`.
    pub interpreters_head: u64,
    /// `interpreters.main`; where it is not known, the main interpreter is the last one of the list.
    pub interpreters_main: Option<u64>,
    /// `gilstate.tstate_current`, up to 3.11.
    pub tstate_current: Option<u64>,
    /// `gilstate.autoTSSkey` or `autoTSSkey`, a `Py_tss_t`.
    pub auto_tss_key: Option<u64>,
    /// `ceval.gil`, the `_gil_runtime_state` itself; up to 3.11.
    pub gil: Option<u64>,
    /// `_gil_runtime_state.last_holder`.
    pub last_holder: u64,
    /// Its size.
    pub bytes: u64,
}

impl RuntimeFields {
    pub(super) fn load(table: &Table) -> Loaded<Option<Self>> {
        let Some(interpreters_head) = table.maybe_offset("_PyRuntimeState.interpreters.head")
        else {
            return Ok(None);
        };
        let keys = ["_PyRuntimeState.autoTSSkey", "_PyRuntimeState.gilstate.autoTSSkey"];
        Ok(Some(Self {
            interpreters_head,
            interpreters_main: table.maybe_offset("_PyRuntimeState.interpreters.main"),
            tstate_current: table.maybe_offset("_PyRuntimeState.gilstate.tstate_current"),
            auto_tss_key: table.one_of(&keys).ok(),
            gil: table.maybe_offset("_PyRuntimeState.ceval.gil"),
            last_holder: table.offset("_gil_runtime_state.last_holder")?,
            bytes: table.size("_PyRuntimeState")?,
        }))
    }
}

/// `struct pool_header`, and the constants of `Objects/obmalloc.c` that no DWARF holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolFields {
    /// `ref.count`, 4 bytes: blocks that are handed out.
    pub count: u64,
    /// `freeblock`.
    pub freeblock: u64,
    /// `nextpool`.
    pub nextpool: u64,
    /// `prevpool`.
    pub prevpool: u64,
    /// `szidx`, 4 bytes: the size class.
    pub szidx: u64,
    /// `nextoffset`, 4 bytes: where the blocks begin that were never handed out.
    pub nextoffset: u64,
    /// Its size, where the first block begins (`POOL_OVERHEAD`).
    pub header_bytes: u64,
    /// `POOL_SIZE`: a page of 4 KiB up to 3.9, 16 KiB from 3.10 on (`POOL_BITS` 14 in `Objects/obmalloc.c` with
    /// `WITH_PYMALLOC_RADIX_TREE`, later in `Include/internal/pycore_obmalloc.h`).
    pub pool_bytes: u64,
    /// `ALIGNMENT_SHIFT`, from the length of `usedpools`: two entries a class. Releases of 3.6 and 3.7 differ in it: what
    /// [`usedpools`](crate::cpython::usedpools) finds in the process has the last word.
    pub class_shift: Option<u64>,
}

impl PoolFields {
    pub(super) fn load(table: &Table, minor: u8) -> Loaded<Self> {
        let used = table.length("usedpools").or(table.length("_obmalloc_state.pools.used"));
        let class_bytes = used.and_then(|used| SMALL_REQUEST.checked_div(used / 2));
        let shift = class_bytes.and_then(u64::checked_ilog2).map(u64::from);
        Ok(Self {
            count: table.offset("pool_header.ref.count")?,
            freeblock: table.offset("pool_header.freeblock")?,
            nextpool: table.offset("pool_header.nextpool")?,
            prevpool: table.offset("pool_header.prevpool")?,
            szidx: table.offset("pool_header.szidx")?,
            nextoffset: table.offset("pool_header.nextoffset")?,
            header_bytes: table.size("pool_header")?,
            pool_bytes: if minor >= 10 { 16 << 10 } else { 4 << 10 },
            class_shift: shift,
        })
    }
}

/// `_Py_DebugOffsets`, with which `_PyRuntime` begins from 3.13 on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DebugOffsetsFields {
    /// Its size.
    pub bytes: u64,
    /// Where each of its 8-byte fields lies, by its path (`interpreter_frame.previous`).
    pub fields: BTreeMap<String, u64>,
}

impl DebugOffsetsFields {
    pub(super) fn load(table: &Table) -> Loaded<Option<Self>> {
        let named = |(key, &offset): (&String, &u64)| {
            key.strip_prefix("_Py_DebugOffsets.").map(|path| (path.to_owned(), offset))
        };
        let fields: BTreeMap<_, _> = table.offsets.iter().filter_map(named).collect();
        if fields.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self { bytes: table.size("_Py_DebugOffsets")?, fields }))
    }
}
