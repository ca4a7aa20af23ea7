//! Every bound of the kernel side, with the reason for its size.

/// Frames of one stack that are reported, innermost first. Python's own recursion limit is 1,000; a stack that is cut
/// at 128 still names the line that allocates and far more context than a report shows.
pub const MAX_FRAMES: usize = 128;

/// Frames of one stack that the kernel side follows, entry frames of the C stack included: userspace leaves those out.
/// (One index for both keeps the verifier's states few: an index of its own for real frames was refused, with over
/// a million instructions, on 6.18.)
pub const MAX_STEPS: u32 = 192;

/// Words of the part of a frame that a walk reads (`f_lasti` of CPython 3.8 lies at byte 104). The BPF stack has 512
/// bytes in all.
pub const FRAME_WORDS: usize = 16;

/// Requests of up to this many bytes are served by pymalloc (`SMALL_REQUEST_THRESHOLD` in `obmalloc.c`).
pub const SMALL_REQUEST: u64 = 512;

/// Steps along the free list of one pool: a 16 KiB pool of 16-byte blocks has 1,021 of them.
pub const MAX_FREE_LIST: u32 = 1024;

/// Stacks that the kernel side remembers as already sent. Beyond it the least recently used is sent again.
pub const KNOWN_STACKS: u32 = 65_536;

/// Threads that can be inside an allocator call at the same time.
pub const IN_FLIGHT: u32 = 8_192;

/// Interpreters with pools of their own whose fresh pools are followed at the same time.
pub const INTERPRETERS: u32 = 1_024;

/// Bytes of the event ring buffer: at 400,000 events of 48 bytes a second it bridges three seconds without a reader.
pub const RING_BYTES: u32 = 64 << 20;

/// Bytes of the ring buffer of forks: 1,600 of them between two looks, which are some hundredths of a second apart.
pub const FORK_RING_BYTES: u32 = 64 << 10;

/// Descendants of the target whose forks are noticed as well, until userspace has seen to them.
pub const DESCENDANTS: u32 = 8_192;
