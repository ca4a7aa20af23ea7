//! Every bound of the kernel side, with the reason for its size.

/// Frames of one stack that are kept, innermost first. Python's own recursion limit is 1,000; a stack that is cut at
/// 128 still names the line that allocates and far more context than a report shows.
pub const MAX_FRAMES: u32 = 128;

/// Entry frames (`FRAME_OWNED_BY_CSTACK` and such) that a walk may skip beside [`MAX_FRAMES`] real ones. Every call
/// from C into Python adds one, so a stack alternates between the two at worst.
pub const MAX_SHIM_FRAMES: u32 = 128;

/// Words of the largest structure that a walk reads in one piece: a thread state (its `thread_id` lies at byte
/// 176 in CPython 3.15). The BPF stack has 512 bytes in all.
pub const THREAD_WORDS: usize = 32;

/// Words of the part of a frame that a walk reads (`f_lasti` of CPython 3.8 lies at byte 104).
pub const FRAME_WORDS: usize = 16;

/// Requests of up to this many bytes are served by pymalloc (`SMALL_REQUEST_THRESHOLD` in `obmalloc.c`).
pub const SMALL_REQUEST: u64 = 512;

/// Steps along the free list of one pool: a 16 KiB pool of 16-byte blocks has 1,021 of them.
pub const MAX_FREE_LIST: u32 = 1024;

/// Stacks that the kernel side remembers as already sent. Beyond it the least recently used is sent again.
pub const KNOWN_STACKS: u32 = 65_536;

/// Threads that can be inside an allocator call at the same time.
pub const IN_FLIGHT: u32 = 8_192;

/// Bytes of the event ring buffer: at 400,000 events of 48 bytes a second it bridges three seconds without a reader.
pub const RING_BYTES: u32 = 64 << 20;
