//! The records of the event ring buffer.
//!
//! Each record starts with a [`Head`]; its `kind` says how to read the rest. Records of one target are in the order
//! in which the allocator calls happened, as far as one thread or the GIL can tell.

#[cfg(feature = "user")]
use bytes::{Buf as _, TryGetError};

/// What every record starts with.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// One of [`kind`].
    pub kind: u16,
    /// One of [`domain`].
    pub domain: u16,
    /// The thread, as the initial pid namespace numbers it.
    pub tid: u32,
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
}

/// The kinds of record.
pub mod kind {
    /// [`Alloc`](super::Alloc): a block was handed out.
    pub const ALLOC: u16 = 1;
    /// [`Free`](super::Free): a block is about to be given back.
    pub const FREE: u16 = 2;
    /// [`Realloc`](super::Realloc): a pymalloc block was resized, on the spot or moved.
    pub const REALLOC: u16 = 3;
    /// [`Stack`](super::Stack): the frames behind a stack id.
    pub const STACK: u16 = 4;
    /// [`Free`](super::Free) of the old block on entry of a `realloc` that its return probe records: a raw one, or one
    /// of obj where blocks are awaited for good. The same thread's next event of that domain's functions is the
    /// [`ALLOC`] of the new block, or [`REALLOC_FAILED`].
    pub const REALLOC_FREE: u16 = 5;
    /// [`Free`](super::Free): such a `realloc` returned NULL, its old block is still there.
    pub const REALLOC_FAILED: u16 = 6;
    /// [`Fork`](super::Fork): the target, or a child of its, made a process. In a ring buffer of its own.
    pub const FORK: u16 = 7;
}

/// The allocator domains of records.
pub mod domain {
    /// Blocks of the `obj` and `mem` tables, which share their functions: pymalloc's.
    pub const OBJ: u16 = 1;
    /// Blocks of the `raw` table, and whatever pymalloc passed on to it (over 512 bytes).
    pub const RAW: u16 = 2;
}

/// A block was handed out.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Alloc {
    /// Kind [`kind::ALLOC`].
    pub head: Head,
    /// Its address.
    pub block: u64,
    /// Requested bytes.
    pub size: u64,
    /// Id of the Python stack; 0 where there was none.
    pub stack: u64,
}

/// A block is given back. There is no record for `free(NULL)`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Free {
    /// Kind [`kind::FREE`], [`kind::REALLOC_FREE`] or [`kind::REALLOC_FAILED`].
    pub head: Head,
    /// Its address.
    pub block: u64,
}

/// A pymalloc block was resized.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Realloc {
    /// Kind [`kind::REALLOC`].
    pub head: Head,
    /// The address before.
    pub old: u64,
    /// The address after; equal to `old` where the block stayed; 0 where the block left pymalloc, so that a raw
    /// `ALLOC` of the same thread follows, or where its new place comes in an `ALLOC` record of its own.
    pub new: u64,
    /// Requested bytes.
    pub size: u64,
    /// Id of the Python stack; 0 where there was none.
    pub stack: u64,
}

/// The frames behind a stack id, sent before the first record that names it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Stack {
    /// Kind [`kind::STACK`].
    pub head: Head,
    /// The id: a 64-bit hash of the frames, never 0.
    pub id: u64,
    /// How many of `frames` are filled.
    pub depth: u32,
    /// How the walk ended: one of [`stack_end`].
    pub end: u32,
    /// Innermost first.
    pub frames: [Frame; crate::limits::MAX_STEPS as usize],
}

/// How the walk along a stack ended.
pub mod stack_end {
    /// At its outermost frame.
    pub const COMPLETE: u32 = 0;
    /// At the limit of frames.
    pub const LIMIT: u32 = 1;
    /// A frame could not be read.
    pub const FAULT: u32 = 2;
}

/// One Python frame.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// Address of the code object; 0 for an entry frame of the C stack, which is no Python frame.
    pub code: u64,
    /// Bytes from the start of the bytecode to the instruction that runs; -1 before the first one.
    pub offset: i32,
    /// `_PyInterpreterFrame.owner`; 0 up to 3.10.
    pub owner: u32,
}

/// A process was made by the target or by one of its descendants, whose tables it has a copy of, unless it shares their
/// memory.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fork {
    /// Kind [`kind::FORK`]; domain 0; the thread that made it.
    pub head: Head,
    /// Its pid, as userspace sees it.
    pub pid: u32,
    /// Its pid, as the initial pid namespace numbers it.
    pub tgid: u32,
    /// The flags of `clone`.
    pub flags: u64,
}

/// Flags of `clone` (`include/uapi/linux/sched.h`).
pub mod clone_flag {
    /// The new process shares the memory of the one that made it, until it ends or runs another program.
    pub const VM: u64 = 0x100;
    /// No process is made, but a thread.
    pub const THREAD: u64 = 0x1_0000;
}

const _: () = assert!(size_of::<Head>() == 16);
const _: () = assert!(size_of::<Alloc>() == 40);
const _: () = assert!(size_of::<Free>() == 24);
const _: () = assert!(size_of::<Realloc>() == 48);
const _: () = assert!(size_of::<Frame>() == 16);
const _: () = assert!(size_of::<Fork>() == 32);
const _: () = assert!(core::mem::offset_of!(Fork, flags) == 24);
const _: () = assert!(core::mem::offset_of!(Stack, frames) == 32);

/// A record as userspace reads it.
#[cfg(feature = "user")]
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A block was handed out.
    Alloc(Alloc),
    /// A block is given back.
    Free(Free),
    /// A pymalloc block was resized.
    Realloc(Realloc),
    /// The frames behind a stack id.
    Stack {
        /// The id that later records carry.
        id: u64,
        /// One of [`stack_end`].
        end: u32,
        /// The frames' bytes, 16 each: see [`Frame::from_bytes`].
        frames: &'a [u8],
    },
}

/// A record that is too short for its kind, or of no known kind.
#[cfg(feature = "user")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

#[cfg(feature = "user")]
impl Frame {
    /// Reads a frame out of its 16 bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 16]) -> Self {
        let mut fields = bytes.as_slice();
        Self { code: fields.get_u64_le(), offset: fields.get_i32_le(), owner: fields.get_u32_le() }
    }
}

#[cfg(feature = "user")]
impl Head {
    fn read(record: &mut &[u8]) -> Result<Self, TryGetError> {
        Ok(Self {
            kind: record.try_get_u16_le()?,
            domain: record.try_get_u16_le()?,
            tid: record.try_get_u32_le()?,
            at_ns: record.try_get_u64_le()?,
        })
    }
}

#[cfg(feature = "user")]
impl Fork {
    /// Reads one record of the ring buffer of forks.
    ///
    /// # Errors
    /// [`Malformed`] where it is of another kind, or too short.
    pub fn parse(record: &[u8]) -> Result<Self, Malformed> {
        let fork = Self::read(record).map_err(|_short| Malformed)?;
        if fork.head.kind == kind::FORK { Ok(fork) } else { Err(Malformed) }
    }

    fn read(mut record: &[u8]) -> Result<Self, TryGetError> {
        Ok(Self {
            head: Head::read(&mut record)?,
            pid: record.try_get_u32_le()?,
            tgid: record.try_get_u32_le()?,
            flags: record.try_get_u64_le()?,
        })
    }

    /// Whether it shares the memory of the process that made it.
    #[must_use]
    pub const fn shares_memory(&self) -> bool {
        self.flags & clone_flag::VM != 0
    }
}

#[cfg(feature = "user")]
impl<'a> Event<'a> {
    /// Reads one record.
    ///
    /// # Errors
    /// [`Malformed`] where the record is of no known kind, or shorter than its kind needs.
    pub fn parse(record: &'a [u8]) -> Result<Self, Malformed> {
        Self::read(record).map_err(|_short| Malformed)?.ok_or(Malformed)
    }

    /// `None` for a kind that is not known.
    fn read(mut record: &'a [u8]) -> Result<Option<Self>, TryGetError> {
        let head = Head::read(&mut record)?;
        Ok(Some(match head.kind {
            kind::ALLOC => Self::Alloc(Alloc {
                head,
                block: record.try_get_u64_le()?,
                size: record.try_get_u64_le()?,
                stack: record.try_get_u64_le()?,
            }),
            kind::FREE | kind::REALLOC_FREE | kind::REALLOC_FAILED => {
                Self::Free(Free { head, block: record.try_get_u64_le()? })
            }
            kind::REALLOC => Self::Realloc(Realloc {
                head,
                old: record.try_get_u64_le()?,
                new: record.try_get_u64_le()?,
                size: record.try_get_u64_le()?,
                stack: record.try_get_u64_le()?,
            }),
            kind::STACK => {
                let id = record.try_get_u64_le()?;
                let depth = record.try_get_u32_le()?.min(crate::limits::MAX_STEPS) as usize;
                let end = record.try_get_u32_le()?;
                let Some(frames) = record.get(..depth * size_of::<Frame>()) else {
                    return Ok(None);
                };
                Self::Stack { id, end, frames }
            }
            _ => return Ok(None),
        }))
    }
}
