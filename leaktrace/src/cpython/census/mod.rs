//! The census: every pool of pymalloc, read from outside, and with it the exact number of live blocks by size.
//!
//! An arena's pools lie in a row; each begins with a header that says how many of its blocks are handed out. Their sum
//! is what `sys.getallocatedblocks()` adds up (`_Py_GetAllocatedBlocks` in `Objects/obmalloc.c`). Pools that were
//! never used are not touched, nor are those that are swapped out. Nothing but headers is read, many by one system call.
//!
//! Where there are more pools than a caller wants to pay for, some of them are drawn (`counting`): one out of each of so
//! many equal stretches of them, whatever it serves. What is counted then stands for all, within an interval.
//!
//! The target may run meanwhile. What is read then is each pool's state at its own moment; a header that makes no
//! sense is read again, and counted as skipped in the end.

#![forbid(unsafe_code)]

mod arenas;
mod counting;
mod header;
mod resident;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use super::layout::Layout;
use crate::pools::PoolMap;
use crate::target::memory::ReadMemory;
use crate::target::module::Module;

pub use arenas::Arrays;
pub use counting::{Counting, Wanted};
use header::Header;
pub use resident::Resident;

/// The blocks of one size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Class {
    /// Pools of this size with live blocks.
    pub pools: u64,
    /// Blocks that are handed out.
    pub live: u64,
    /// Blocks of these pools that are not.
    pub free: u64,
}

/// What one walk over all pools found.
#[derive(Clone, Debug, Default)]
pub struct Census {
    /// By bytes of a block.
    pub classes: BTreeMap<u64, Class>,
    /// Arenas with memory.
    pub arenas: u64,
    /// Bytes of these arenas, used or not.
    pub held_bytes: u64,
    /// Pools that were looked at, with those that follow.
    pub pools: u64,
    /// Pools whose header is swapped out: not looked at.
    pub swapped: u64,
    /// Pools whose header made no sense however often it was read, or could not be read.
    pub skipped: u64,
    /// Where which size of block is.
    pub map: PoolMap,
    /// Where pools were drawn: how sure the sums are that follow. [`Self::classes`] are then of all pools, as estimated.
    pub sampled: Option<Sample>,
    /// How long it took, all of its parts together.
    pub took: Duration,
}

/// What a census that looked at some of the pools alone is a sample of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Pools in all.
    pub of_pools: u64,
    /// By how many bytes the live bytes may be off, to either side, with 95 % confidence.
    pub half_width: u64,
}

/// Why there is no census.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CensusError {
    /// The version's table lacks the arenas.
    #[error("the layout of its arenas is not known")]
    NoLayout,
    /// No array of arenas was found in the data.
    #[error("its array of arenas was not found")]
    NotFound,
    /// Several were.
    #[error("several arrays in its data look like its arenas")]
    Ambiguous,
    /// What the layout leads to cannot be an array of arenas.
    #[error("its arenas are not where this version has them")]
    Misplaced,
    /// pymalloc has no memory: another allocator serves.
    #[error("pymalloc holds no memory in it")]
    Unused,
}

impl Census {
    /// Counts. `arrays` is where earlier censuses found the arenas; `interpreters` are the addresses of all of them
    /// (up to 3.11 they share their arenas, and none need be named).
    ///
    /// # Errors
    /// [`CensusError`] says what was not found.
    pub fn take(
        memory: &dyn ReadMemory,
        module: &Module,
        layout: &Layout,
        interpreters: &[u64],
        arrays: &mut Arrays,
        resident: &Resident,
    ) -> Result<Self, CensusError> {
        let all = Wanted { most_pools: u64::MAX, random: &mut || 0 };
        let mut counting = Counting::begin(memory, module, layout, interpreters, arrays, all)?;
        counting.go_on(memory, layout, resident, Duration::MAX);
        Ok(counting.finish(layout))
    }

    /// Blocks that are handed out.
    #[must_use]
    pub fn live_blocks(&self) -> u64 {
        self.classes.values().map(|class| class.live).sum()
    }

    /// Bytes of the blocks that are handed out, rounded up to their size class.
    #[must_use]
    pub fn live_bytes(&self) -> u64 {
        self.classes.iter().map(|(bytes, class)| bytes * class.live).sum()
    }

    /// Whether every pool was looked at.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.swapped + self.skipped == 0
    }

    /// The share of the pools that were swapped out.
    #[must_use]
    pub fn swapped_share(&self) -> f64 {
        self.swapped as f64 / self.pools.max(1) as f64
    }

    /// Whether so few pools could not be read that it says what there is: they change while they are read, but not
    /// all of them.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.skipped * 1_000 <= self.pools
    }

    fn add(&mut self, header: &Header, layout: &Layout) {
        // A pool without live blocks is on its arena's list, ready for any size.
        if header.live > 0 {
            let class = self.classes.entry(header.block_bytes).or_default();
            class.pools += 1;
            class.live += header.live;
            class.free += header.capacity(layout) - header.live;
        }
    }
}
