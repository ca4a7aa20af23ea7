//! One pool's header, and whether it makes sense.

use crate::cpython::layout::{ArenaFields, Layout};
use crate::target::memory::{ReadMemory, word, word32};

/// Bytes that a header is read into; it has 48 in all versions so far.
const MOST_BYTES: usize = 64;

/// What a pool's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Blocks that are handed out.
    pub(super) live: u64,
    /// Bytes of a block; of a pool without live blocks, those that it served last.
    pub(super) block_bytes: u64,
}

impl Header {
    /// Reads the header of `pool`, which lies in the arena of this index; `None` where it cannot be read, or is torn:
    /// the target is just making it.
    pub(super) fn read(
        memory: &dyn ReadMemory,
        layout: &Layout,
        fields: &ArenaFields,
        arena: u64,
        pool: u64,
    ) -> Option<Self> {
        let mut buffer = [0; MOST_BYTES];
        let bytes = buffer.get_mut(..layout.pool.header_bytes as usize)?;
        memory.read_bytes(pool, bytes).ok()?;
        Self::parse(bytes, layout, fields, arena, pool)
    }

    /// What the bytes of a header say; `None` where it is torn.
    pub(super) fn parse(
        bytes: &[u8],
        layout: &Layout,
        fields: &ArenaFields,
        arena: u64,
        pool: u64,
    ) -> Option<Self> {
        let known = &layout.pool;
        if word32(bytes, fields.pool_arena)? != arena {
            return None;
        }
        let live = word32(bytes, known.count)?;
        let class = word32(bytes, known.szidx)?;
        // `maxnextoffset = POOL_SIZE - size` (`allocate_from_new_pool`): the one place that says how far apart the
        // classes of this build are.
        let block_bytes = known.pool_bytes.checked_sub(word32(bytes, fields.pool_last)?)?;
        let header = Self { live, block_bytes };
        if live == 0 {
            return Some(header);
        }
        let is_class = [8, 16].iter().any(|unit| (class + 1) * unit == block_bytes);
        let free = word(bytes, known.freeblock)?;
        let next = word32(bytes, known.nextoffset)?;
        let in_pool = free == 0 || free & !(known.pool_bytes - 1) == pool;
        let sensible = is_class
            && block_bytes <= leaktrace_common::limits::SMALL_REQUEST
            && live <= header.capacity(layout)
            && next <= known.pool_bytes
            && in_pool;
        sensible.then_some(header)
    }

    /// How many blocks the pool has room for.
    pub(super) fn capacity(&self, layout: &Layout) -> u64 {
        let room = layout.pool.pool_bytes - layout.pool.header_bytes;
        room.checked_div(self.block_bytes).unwrap_or(0)
    }
}
