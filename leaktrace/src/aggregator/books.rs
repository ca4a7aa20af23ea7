//! What the frees of blocks older than the trace took off the heap, in bytes of their size class.
//!
//! An older block lived when the trace began, so its pool was in use then, and a pool keeps its size of block until it
//! is empty: where the pool was when the trace began is what the size of its blocks still is. Nothing of the target has
//! to be read at a free. A block without such a pool is not pymalloc's.

use crate::pools::PoolMap;

/// Frees of older blocks, by what the pools were when the trace began.
#[derive(Debug, Default)]
pub(super) struct Books {
    pools: PoolMap,
    older_bytes: i64,
}

impl Books {
    /// Nothing freed so far.
    pub(super) fn new(pools: PoolMap) -> Self {
        Self { pools, older_bytes: 0 }
    }

    /// Counts a free of an older block at `address`, or (-1) takes that back.
    pub(super) fn older(&mut self, address: u64, times: i64) {
        let bytes = self.pools.block_bytes(address).unwrap_or(0);
        self.older_bytes += times * bytes.cast_signed();
    }

    /// Bytes of all of them.
    pub(super) const fn older_bytes(&self) -> i64 {
        self.older_bytes
    }
}
