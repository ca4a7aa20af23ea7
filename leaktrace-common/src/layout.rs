//! Where CPython keeps what the kernel side reads, as plain numbers.
//!
//! Userspace fills these in for one target: from the checked-in table of its version, from `_Py_DebugOffsets`, and
//! from addresses found in the running process. Everything is a `u64` so that the verifier sees whole constants.

/// How to find the thread state of the thread that runs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThreadLayout {
    /// One of the `THREAD_*` numbers below.
    pub source: u64,
    /// For [`THREAD_TLS`] the (wrapping) offset from the thread pointer, for [`THREAD_POINTER`] an address, for
    /// [`THREAD_VECTOR`] the offset in a block.
    pub location: u64,
    /// For [`THREAD_VECTOR`] the offset in a thread's dynamic thread vector of the word that leads to the block.
    pub vector_entry: u64,
    /// Offset of `PyThreadState.interp`.
    pub interp: u64,
    /// Offset of `PyThreadState.thread_id`: the thread pointer, on glibc and musl.
    pub thread_id: u64,
    /// Offset of `PyThreadState.frame` (up to 3.10), `.cframe` (3.11, 3.12) or `.current_frame` (from 3.13 on).
    pub frame: u64,
    /// 1 where [`Self::frame`] leads to a `_PyCFrame`, whose `current_frame` is the frame.
    pub indirect: u64,
    /// Offset of `_PyCFrame.current_frame`, where [`Self::indirect`].
    pub cframe_current_frame: u64,
}

/// No thread state can be found: stacks are empty.
pub const THREAD_NONE: u64 = 0;
/// The thread state is the word at `thread pointer + location` (`_Py_tss_tstate`, from 3.12 on).
pub const THREAD_TLS: u64 = 1;
/// The thread state is the word at the address `location` (`gilstate.tstate_current`, the GIL's `last_holder`).
pub const THREAD_POINTER: u64 = 2;
/// The thread state is the word at `block + location`, where the thread's dynamic thread vector leads to the block: a
/// library that was loaded by `dlopen` has one for each thread, anywhere (`_Py_tss_tstate` there, from 3.12 on).
pub const THREAD_VECTOR: u64 = 3;

/// The word at this offset from the thread pointer leads to the dynamic thread vector, on glibc and musl.
pub const DYNAMIC_THREAD_VECTOR: u64 = 8;

/// How to walk the frames of a thread.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameLayout {
    /// Bytes of a frame that are read, a multiple of 8, at most `8 * FRAME_WORDS`.
    pub bytes: u64,
    /// Offset of the link to the caller: `f_back` or `previous`.
    pub previous: u64,
    /// Offset of the code object: `f_code` or `f_executable`.
    pub code: u64,
    /// Offset of the position: `f_lasti` (4 bytes, up to 3.10), `prev_instr` or `instr_ptr` (8 bytes, an address).
    pub position: u64,
    /// Offset of `_PyInterpreterFrame.owner` (1 byte); 0 up to 3.10, where frames have none.
    pub owner: u64,
    /// Frames with this owner or a higher one belong to the C stack and are skipped; 0 where frames have no owner.
    pub first_shim_owner: u64,
    /// Offset of `PyCodeObject.co_code_adaptive`, from where an address is counted; 0 where the position is `f_lasti`.
    pub code_start: u64,
    /// Bytes of one unit of `f_lasti`: 1 up to 3.9, 2 in 3.10.
    pub lasti_unit: u64,
    /// Bits that are cleared in a code pointer: the tag of a `_PyStackRef` from 3.14 on, else 0.
    pub code_tag: u64,
}

/// What is needed to know which block pymalloc hands out next.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PymallocLayout {
    /// Address of `usedpools` (`obmalloc_state.pools.used`) of the main interpreter; 0 where it is not known.
    pub usedpools: u64,
    /// Address of the main interpreter, whose pools these are; 0 where all interpreters share them.
    pub interpreter: u64,
    /// Offset in an interpreter of the pointer to its `obmalloc` state (from 3.13 on), or of `obmalloc.pools.used` itself
    /// (3.12); 0 where the pools of other interpreters than the main one are not known.
    pub state: u64,
    /// Offset of `pools.used` in the state that the pointer leads to.
    pub used: u64,
    /// Offset of `PyInterpreterState.feature_flags` in 3.12, where one of them says whose pools an interpreter uses; 0
    /// where [`Self::state`] is of a pointer, which says it.
    pub feature_flags: u64,
    /// Bytes of a pool (`POOL_SIZE`): 4 KiB up to 3.9, 16 KiB from 3.10 on. A power of two.
    pub pool_bytes: u64,
    /// Bytes between a pool's start and its first block (`POOL_OVERHEAD`).
    pub pool_header: u64,
    /// log2 of the distance of size classes (`ALIGNMENT_SHIFT`): 4, before 3.8 it was 3.
    pub class_shift: u64,
}
