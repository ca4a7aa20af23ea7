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

#[cfg(test)]
mod tests {
    use super::Books;
    use crate::pools::{ArenaPools, PoolMap};

    #[test]
    fn an_older_block_counts_by_the_pool_that_it_lay_in_at_the_start() {
        let pools = PoolMap::new(0x4000, vec![ArenaPools::new(0x10_0000, [64, 0, 512])]);
        let mut books = Books::new(pools);
        books.older(0x10_0040, 1);
        books.older(0x10_8040, 1);
        // A pool without blocks then, and an address that is no pool: not pymalloc's.
        books.older(0x10_4040, 1);
        books.older(0x50_0000, 1);
        assert_eq!(books.older_bytes(), 576);
        books.older(0x10_8040, -1);
        assert_eq!(books.older_bytes(), 64);
    }
}
