//! Finds `usedpools`, from which pymalloc serves small blocks, by what stands in the data.
//!
//! It is an array of pairs (`Objects/obmalloc.c`; from 3.12 on `struct _obmalloc_pools`), one for each size class: 32 in
//! steps of 16 bytes, or 64 in steps of 8, as earlier releases of 3.6 and 3.7 have them.
//! Each pair is the ends of a ring of pools, seen as the `nextpool` and `prevpool` of a pool header that begins 16 bytes
//! before it: an empty ring leads to that header, others to pools whose links lead back to it.

#![forbid(unsafe_code)]

use super::snapshot::{self, Stretch};
use super::version::Version;
use crate::target::memory::ReadMemory;
use crate::target::module::Module;

/// How many size classes there may be, and log2 of the bytes from one to the next.
type Shape = (usize, u64);
const SHAPES: &[Shape] = &[(32, 4)];
const SHAPES_TO_3_7: &[Shape] = &[(32, 4), (64, 3)];

/// Offsets in a pool header.
const NEXTPOOL: u64 = 16;
const PREVPOOL: u64 = 24;
const SZIDX: u64 = 36;
const MAXNEXTOFFSET: u64 = 44;

/// A running target changes the rings while they are read: so often the search is repeated.
const TRIES: u32 = 6;

/// So often a pair that looks like two pools, but is no ring, is read again.
const RING_TRIES: u32 = 8;

/// Links that are followed in one search: a few hundred look like pools.
const MAX_LINKS: u32 = 100_000;

/// Where the pools in use are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsedPools {
    /// Address of the first pair.
    pub address: u64,
    /// Bytes of a pool.
    pub pool_bytes: u64,
    /// log2 of the bytes from one size class to the next.
    pub class_shift: u64,
}

/// Why they are not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// No run of pairs has the right length.
    #[error(
        "no array of pymalloc's size classes in the interpreter's data (the longest run has {longest})"
    )]
    NotFound {
        /// The longest run.
        longest: usize,
    },
    /// There are several.
    #[error("several arrays of pymalloc's size classes in the interpreter's data")]
    Ambiguous,
    /// The table of the version does not tell how far apart size classes are.
    #[error("the distance of its size classes is not known")]
    UnknownClasses,
}

/// Bytes of a pool: 16 KiB since 3.10, 4 KiB before.
#[must_use]
pub const fn pool_bytes(version: &Version) -> u64 {
    if version.minor >= 10 { 16 << 10 } else { 4 << 10 }
}

/// The shapes that the array of a version may have.
const fn shapes(version: &Version) -> &'static [Shape] {
    if version.minor >= 8 { SHAPES } else { SHAPES_TO_3_7 }
}

/// Finds the pools of the main interpreter in `module`.
///
/// # Errors
/// [`Reason`] where no such array is there (an allocator without pools, a build without pymalloc), or several are.
pub fn find(
    module: &Module,
    memory: &dyn ReadMemory,
    version: &Version,
) -> Result<UsedPools, Reason> {
    let pool_bytes = pool_bytes(version);
    let mut longest = 0;
    for _ in 0..TRIES {
        let mut search = Search { memory, pool_bytes, links: 0 };
        let runs = search.runs(&snapshot::take(memory, module.writable()));
        let mut whole = runs.iter().filter_map(|&run| search.whole(run, shapes(version)));
        match (whole.next(), whole.next()) {
            (Some(found), None) => return Ok(found),
            (Some(_), Some(_)) => return Err(Reason::Ambiguous),
            _ => {}
        }
        longest = runs.iter().map(|run| run.pairs).max().unwrap_or(0).max(longest);
    }
    Err(Reason::NotFound { longest })
}

/// Pairs in a row that are rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    address: u64,
    pairs: usize,
}

struct Search<'a> {
    memory: &'a dyn ReadMemory,
    pool_bytes: u64,
    links: u32,
}

impl Search<'_> {
    fn runs(&mut self, data: &[Stretch]) -> Vec<Run> {
        let mut runs = Vec::new();
        for stretch in data {
            let words: Vec<(u64, u64)> = stretch.words().collect();
            let mut at = 0;
            while let Some(&(address, _)) = words.get(at) {
                let pairs = self.pairs_from(words.get(at..).unwrap_or_default());
                if pairs > 1 {
                    runs.push(Run { address, pairs });
                }
                at += (2 * pairs).max(1);
            }
        }
        runs
    }

    /// How many pairs at the start of `words` are rings.
    fn pairs_from(&mut self, words: &[(u64, u64)]) -> usize {
        words
            .as_chunks()
            .0
            .iter()
            .take_while(|&&[(address, next), (_, previous)]| self.is_ring(address, next, previous))
            .count()
    }

    /// Whether the pair at `address` is a ring. One that a busy target changes between two reads is read again: of 32 pairs
    /// there would always be one.
    fn is_ring(&mut self, address: u64, next: u64, previous: u64) -> bool {
        if self.closes(address, next, previous) {
            return true;
        }
        if !self.is_pool(next) || !self.is_pool(previous) {
            return false;
        }
        (0..RING_TRIES).any(|_| {
            let mut pair = [0; 16];
            self.memory.read_bytes(address, &mut pair).is_ok()
                && matches!(pair.as_chunks().0, [next, previous]
                    if self.closes(address, u64::from_le_bytes(*next), u64::from_le_bytes(*previous)))
        })
    }

    fn closes(&mut self, address: u64, next: u64, previous: u64) -> bool {
        let header = address.wrapping_sub(NEXTPOOL);
        if next == header || previous == header {
            return next == previous;
        }
        self.is_pool(next)
            && self.is_pool(previous)
            && self.leads(next, PREVPOOL, header)
            && self.leads(previous, NEXTPOOL, header)
    }

    /// The array that a run is: it has as many pairs as one of `shapes`, and some pool in it is of its class and has
    /// blocks of its size. A part of another array, cut off by a change, has not.
    fn whole(&self, run: Run, shapes: &[Shape]) -> Option<UsedPools> {
        let Run { address, pairs } = run;
        let &(_, class_shift) = shapes.iter().find(|(classes, _)| *classes == pairs)?;
        let fits = (0..pairs as u64).any(|class| self.serves(address, class, class_shift));
        let pool_bytes = self.pool_bytes;
        fits.then_some(UsedPools { address, pool_bytes, class_shift })
    }

    /// Whether the ring of `class` in the array at `address` has a pool with blocks of that class.
    fn serves(&self, address: u64, class: u64, class_shift: u64) -> bool {
        let Ok(pool) = self.memory.read_u64(address.wrapping_add(16 * class)) else { return false };
        let field = |offset| self.memory.read_u32(pool.wrapping_add(offset)).map(u64::from);
        let block_bytes = (class + 1) << class_shift;
        self.is_pool(pool)
            && field(SZIDX) == Ok(class)
            && field(MAXNEXTOFFSET) == Ok(self.pool_bytes - block_bytes)
    }

    const fn is_pool(&self, address: u64) -> bool {
        address != 0 && address & (self.pool_bytes - 1) == 0
    }

    fn leads(&mut self, pool: u64, offset: u64, header: u64) -> bool {
        self.links += 1;
        self.links <= MAX_LINKS
            && self.memory.read_u64(pool.wrapping_add(offset)).is_ok_and(|word| word == header)
    }
}

#[cfg(test)]
mod tests {
    use leaktrace_common::memory::Fault;

    use super::{Run, SHAPES, SHAPES_TO_3_7, Search, Stretch, UsedPools};
    use crate::target::memory::ReadMemory;

    const BASE: u64 = 0x1000;
    const POOL: u64 = 0x8000;
    const POOL_BYTES: u64 = 0x4000;

    /// An array at [`BASE`] with one pool, alone in the ring of class 1.
    struct OnePool {
        block_bytes: u32,
    }

    impl ReadMemory for OnePool {
        fn read_bytes(&self, address: u64, buffer: &mut [u8]) -> Result<(), Fault> {
            let word = match address {
                at if at == POOL + 16 || at == POOL + 24 => BASE,
                at if at == POOL + 36 => 1,
                at if at == POOL + 44 => POOL_BYTES - u64::from(self.block_bytes),
                at if at == BASE + 16 => POOL,
                at if at < POOL && at.is_multiple_of(16) => at - 16,
                _ => return Err(Fault),
            };
            buffer.copy_from_slice(word.to_le_bytes().get(..buffer.len()).ok_or(Fault)?);
            Ok(())
        }
    }

    fn search(memory: &OnePool) -> Search<'_> {
        Search { memory, pool_bytes: POOL_BYTES, links: 0 }
    }

    /// Rings in a row, with something else before and behind them.
    fn rings(count: u64) -> [Stretch; 1] {
        let mut words = vec![7];
        for class in 0..count {
            let header = BASE + 16 * class - 16;
            words.extend(if class == 1 { [POOL, POOL] } else { [header, header] });
        }
        words.push(0);
        let bytes = words.iter().flat_map(|word: &u64| word.to_le_bytes()).collect();
        [Stretch { address: BASE - 8, bytes }]
    }

    #[test]
    fn rings_in_a_row_are_counted() {
        for pairs in [32, 64] {
            let runs = search(&OnePool { block_bytes: 32 }).runs(&rings(pairs as u64));
            assert_eq!(runs, [Run { address: BASE, pairs }]);
        }
    }

    #[test]
    fn words_that_are_no_rings_are_no_run() {
        for word in [0, u64::MAX, POOL] {
            let bytes = [word; 101].iter().flat_map(|word| word.to_le_bytes()).collect();
            let data = [Stretch { address: BASE, bytes }];
            assert!(search(&OnePool { block_bytes: 32 }).runs(&data).is_empty());
        }
    }

    #[test]
    fn classes_are_as_far_apart_as_their_blocks_say() {
        let found = |pairs, block_bytes, shapes| {
            let memory = OnePool { block_bytes };
            let whole = search(&memory).whole(Run { address: BASE, pairs }, shapes);
            whole.map(|UsedPools { class_shift, .. }| class_shift)
        };
        assert_eq!(found(32, 32, SHAPES), Some(4));
        assert_eq!(found(32, 32, SHAPES_TO_3_7), Some(4));
        assert_eq!(found(64, 16, SHAPES_TO_3_7), Some(3));
        assert_eq!(found(64, 16, SHAPES), None, "not from 3.8 on");
        assert_eq!(found(32, 16, SHAPES_TO_3_7), None, "half of an array");
        assert_eq!(found(31, 32, SHAPES), None);
    }

    #[test]
    fn an_array_that_begins_elsewhere_has_pools_of_other_classes() {
        let memory = OnePool { block_bytes: 48 };
        assert_eq!(search(&memory).whole(Run { address: BASE - 16, pairs: 32 }, SHAPES), None);
    }
}
