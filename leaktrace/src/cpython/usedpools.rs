//! Finds `usedpools`, from which pymalloc serves small blocks, by what stands in the data.
//!
//! It is an array of 32 pairs (`Objects/obmalloc.c`; from 3.12 on `struct _obmalloc_pools`), one for each size class.
//! Each pair is the ends of a ring of pools, seen as the `nextpool` and `prevpool` of a pool header that begins 16 bytes
//! before it: an empty ring leads to that header, others to pools whose links lead back to it.

#![forbid(unsafe_code)]

use super::snapshot::{self, Stretch};
use super::version::Version;
use crate::target::memory::ReadMemory;
use crate::target::module::Module;

/// Size classes: 512 bytes in steps of 16, since 3.8 (before, 64 in steps of 8).
pub const CLASSES: usize = 32;

/// Offsets in a pool header.
const NEXTPOOL: u64 = 16;
const PREVPOOL: u64 = 24;

/// A running target changes the rings while they are read: so often the search is repeated.
const TRIES: u32 = 6;

/// Links that are followed in one search: a few hundred look like pools.
const MAX_LINKS: u32 = 100_000;

/// Where the pools in use are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsedPools {
    /// Address of the first pair.
    pub address: u64,
    /// Bytes of a pool.
    pub pool_bytes: u64,
}

/// Why they are not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// No run of pairs has the right length.
    #[error(
        "no array of {CLASSES} size classes in the interpreter's data (the longest run has {longest})"
    )]
    NotFound {
        /// The longest run.
        longest: usize,
    },
    /// There are several.
    #[error("several arrays of {CLASSES} size classes in the interpreter's data")]
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
        let runs = Search { memory, pool_bytes, links: 0 }
            .runs(&snapshot::take(memory, module.writable()));
        let mut whole = runs.iter().filter(|run| run.pairs == CLASSES);
        match (whole.next(), whole.next()) {
            (Some(run), None) => return Ok(UsedPools { address: run.address, pool_bytes }),
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

    fn is_ring(&mut self, address: u64, next: u64, previous: u64) -> bool {
        let header = address.wrapping_sub(NEXTPOOL);
        if next == header || previous == header {
            return next == previous;
        }
        self.is_pool(next)
            && self.is_pool(previous)
            && self.leads(next, PREVPOOL, header)
            && self.leads(previous, NEXTPOOL, header)
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

    use super::{Run, Search, Stretch};
    use crate::target::memory::ReadMemory;

    const BASE: u64 = 0x1000;
    const POOL: u64 = 0x8000;

    /// One pool, alone in the ring of class 1.
    struct OnePool;

    impl ReadMemory for OnePool {
        fn read_bytes(&self, address: u64, buffer: &mut [u8]) -> Result<(), Fault> {
            if address != POOL + 16 && address != POOL + 24 {
                return Err(Fault);
            }
            buffer.copy_from_slice(&(BASE + 8 + 16 - 16).to_le_bytes());
            Ok(())
        }
    }

    fn runs(words: &[u64]) -> Vec<Run> {
        let bytes = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        Search { memory: &OnePool, pool_bytes: 0x4000, links: 0 }
            .runs(&[Stretch { address: BASE, bytes }])
    }

    #[test]
    fn rings_in_a_row_are_counted() {
        let mut words = vec![7];
        for class in 0..32 {
            let header = BASE + 8 + 16 * class - 16;
            words.extend(if class == 1 { [POOL, POOL] } else { [header, header] });
        }
        words.push(0);
        assert_eq!(runs(&words), [Run { address: BASE + 8, pairs: 32 }]);
    }

    #[test]
    fn words_that_are_no_rings_are_no_run() {
        assert!(runs(&[0; 100]).is_empty());
        assert!(runs(&[u64::MAX; 100]).is_empty());
        assert!(runs(&[POOL; 101]).is_empty());
    }
}
