//! Which block pymalloc hands out next, and whose pool a block lies in, over any [`Memory`].
//!
//! Follows `Objects/obmalloc.c` (`pymalloc_alloc`, `pymalloc_realloc`, `allocate_from_new_pool`), whose
//! `struct pool_header` has been the same from 3.6 to 3.15:
//! `{ref.count: u32 (8 bytes), freeblock, nextpool, prevpool, arenaindex: u32, szidx: u32, nextoffset: u32, maxnextoffset: u32}`.

use crate::layout::PymallocLayout;
use crate::limits::{MAX_FREE_LIST, SMALL_REQUEST};
use crate::memory::{Fault, Memory, field, field32};

const POOL_COUNT: u64 = 0;
const POOL_FREEBLOCK: u64 = 8;
const POOL_SZIDX: u64 = 36;
const POOL_NEXTOFFSET: u64 = 40;
const POOL_HEADER_BYTES: u64 = 48;
/// Words to read a pool header into: the next power of two.
const POOL_WORDS: usize = 8;

/// What the next call for a size class will return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prediction {
    /// This block.
    Block(u64),
    /// The first block of a pool that is not in use yet: [`fresh_block`] tells it after the call.
    FreshPool,
}

/// What `realloc` will do with a block of pymalloc's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resize {
    /// It is not pymalloc's block: the call goes on to the raw domain.
    NotPymalloc,
    /// It stays where it is.
    Stays,
    /// It moves to a new block of a size class.
    Moves,
    /// It moves to the raw domain.
    Leaves,
}

/// Whether a request of `size` bytes is served from a pool.
#[inline(always)]
#[must_use]
pub const fn is_small(size: u64) -> bool {
    size.wrapping_sub(1) < SMALL_REQUEST
}

/// The size class of a request that [`is_small`].
#[inline(always)]
#[must_use]
pub const fn size_class(layout: &PymallocLayout, size: u64) -> u64 {
    (size - 1) >> layout.class_shift
}

/// The word of `usedpools` that leads to the first pool of a class.
#[inline(always)]
const fn used_pool(layout: &PymallocLayout, class: u64) -> u64 {
    layout.usedpools + 16 * class
}

/// The header that an empty class seems to have: `usedpools` is an array of pairs whose words are a header's
/// `nextpool` and `prevpool`, and those of an empty class lead to the pair itself, taken for a header.
#[inline(always)]
const fn empty_pool(layout: &PymallocLayout, class: u64) -> u64 {
    used_pool(layout, class) - 16
}

/// `Py_RTFLAGS_USE_MAIN_OBMALLOC` of `Include/cpython/pystate.h`, among an interpreter's `feature_flags`.
const USE_MAIN_OBMALLOC: u64 = 1 << 5;

/// The `usedpools` that `interpreter` allocates from (`get_state` in `Objects/obmalloc.c`); `None` where they are not
/// known.
#[inline(always)]
pub fn usedpools_of<M: Memory>(
    memory: &M,
    layout: &PymallocLayout,
    interpreter: u64,
) -> Option<u64> {
    if layout.interpreter == 0 || interpreter == layout.interpreter {
        return Some(layout.usedpools);
    }
    if layout.state == 0 {
        return None;
    }
    let place = interpreter.wrapping_add(layout.state);
    if layout.feature_flags != 0 {
        let flags = memory.word(interpreter.wrapping_add(layout.feature_flags)).ok()?;
        let shares = flags & USE_MAIN_OBMALLOC != 0;
        return Some(if shares { layout.usedpools } else { place });
    }
    // Until its first allocation an interpreter has none.
    memory.word(place).ok().filter(|&state| state != 0).map(|state| state.wrapping_add(layout.used))
}

/// Predicts the block for a request of `size` bytes that [`is_small`].
///
/// # Errors
/// [`Fault`] where the pool could not be read.
#[inline(always)]
pub fn predict<M: Memory>(
    memory: &M,
    layout: &PymallocLayout,
    size: u64,
) -> Result<Prediction, Fault> {
    let class = size_class(layout, size);
    let pool = memory.word(used_pool(layout, class))?;
    if pool == empty_pool(layout, class) {
        return Ok(Prediction::FreshPool);
    }
    memory.word(pool + POOL_FREEBLOCK).map(Prediction::Block)
}

/// What `realloc(block, size)` will do, as far as the header of the pool that `block` would lie in can tell.
///
/// A raw block can lie behind bytes that look like a pool header; userspace, which knows where each live block came
/// from, has the last word.
#[inline(always)]
pub fn resize<M: Memory>(memory: &M, layout: &PymallocLayout, block: u64, size: u64) -> Resize {
    let pool = block & !(layout.pool_bytes - 1);
    let mut words = [0; POOL_WORDS];
    if memory.read(pool, POOL_HEADER_BYTES, &mut words).is_err() {
        return Resize::NotPymalloc;
    }
    let class = u64::from(field32(&words, POOL_SZIDX));
    if class >= SMALL_REQUEST >> layout.class_shift {
        return Resize::NotPymalloc;
    }
    let block_bytes = (class + 1) << layout.class_shift;
    let offset = (block - pool).wrapping_sub(layout.pool_header);
    let freeblock = field(&words, POOL_FREEBLOCK);
    let count = u64::from(field32(&words, POOL_COUNT));
    if block - pool < layout.pool_header
        || block - pool >= u64::from(field32(&words, POOL_NEXTOFFSET))
        || !offset.is_multiple_of(block_bytes)
        || count.wrapping_sub(1) > layout.pool_bytes >> layout.class_shift
        || (freeblock != 0 && freeblock & !(layout.pool_bytes - 1) != pool)
    {
        return Resize::NotPymalloc;
    }
    if size != 0 && size <= block_bytes && 4 * size > 3 * block_bytes {
        return Resize::Stays;
    }
    if is_small(size) { Resize::Moves } else { Resize::Leaves }
}

/// The one block that a pool handed out since its size class had no pool in use.
///
/// It is the block that is neither on the pool's free list nor beyond `nextoffset`: the sum of all carved blocks'
/// addresses less the sum of those on the list.
///
/// `None` where the class still has no pool (the call failed), where more than one block is out, or where the list
/// cannot be followed.
#[inline(always)]
pub fn fresh_block<M: Memory>(memory: &M, layout: &PymallocLayout, size: u64) -> Option<u64> {
    let class = size_class(layout, size);
    let pool = memory.word(used_pool(layout, class)).ok()?;
    if pool == empty_pool(layout, class) {
        return None;
    }
    let mut words = [0; POOL_WORDS];
    memory.read(pool, POOL_HEADER_BYTES, &mut words).ok()?;
    if field32(&words, POOL_COUNT) != 1 {
        return None;
    }
    let block_bytes = (class + 1) << layout.class_shift;
    let first = pool + layout.pool_header;
    let carved = u64::from(field32(&words, POOL_NEXTOFFSET)).saturating_sub(layout.pool_header);
    let blocks = carved.checked_div(block_bytes)?;
    let pairs = blocks.wrapping_mul(blocks.wrapping_sub(1)) / 2;
    let all = blocks.wrapping_mul(first).wrapping_add(pairs.wrapping_mul(block_bytes));
    let block = all.wrapping_sub(free_list_sum(memory, field(&words, POOL_FREEBLOCK))?);
    (block >= first && block < first + carved).then_some(block)
}

/// The sum of the addresses on a free list; `None` where it is longer than any can be, or cannot be read.
#[inline(always)]
fn free_list_sum<M: Memory>(memory: &M, head: u64) -> Option<u64> {
    let mut sum = 0u64;
    let mut block = head;
    let mut steps = 0;
    while steps < MAX_FREE_LIST {
        if block == 0 {
            return Some(sum);
        }
        sum = sum.wrapping_add(block);
        block = memory.word(block).ok()?;
        steps += 1;
    }
    None
}
