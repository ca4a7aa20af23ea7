//! Draws live blocks of pymalloc's heap, each with the same probability.
//!
//! Places for blocks are drawn uniformly over all pools that a census found in use, and those that hold no live block
//! are thrown away. What is left is uniform over the live blocks, in whatever pools they crowd. A pool that serves
//! another size by now is thrown away with its places.

use std::collections::BTreeSet;

use super::pool::Geometry;
use super::reads::View;
use crate::pools::PoolMap;

/// How often places are drawn until there are enough blocks: a heap of which one place in 32 is taken still gives two
/// fifths of what was asked for.
const ROUNDS: u32 = 16;

/// Pools that are read at once.
const MOST_POOLS: usize = 64;

/// A live block that was drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Drawn {
    /// Where it begins.
    pub address: u64,
    /// Bytes of a block of its pool.
    pub block_bytes: u64,
}

/// Pools by their places.
struct Places<'a> {
    geometry: &'a Geometry,
    pools: Vec<(u64, u64)>,
    /// Of each pool, the places in it and in those before.
    ends: Vec<u64>,
}

impl<'a> Places<'a> {
    fn new(geometry: &'a Geometry, map: &PoolMap) -> Self {
        let room = geometry.pool_bytes - geometry.header_bytes;
        let pools: Vec<(u64, u64)> = map.pools().collect();
        let ends = pools.iter().scan(0, |end, &(_, block_bytes)| {
            *end += room / block_bytes;
            Some(*end)
        });
        let ends = ends.collect();
        Self { geometry, pools, ends }
    }

    /// A place in some pool: the pool, and the block that would lie there.
    fn draw(&self, random: &mut dyn FnMut() -> u64) -> Option<(u64, Drawn)> {
        let place = random().checked_rem(*self.ends.last()?)?;
        let which = self.ends.partition_point(|&end| end <= place);
        let before = which.checked_sub(1).map_or(0, |last| self.ends[last]);
        let &(pool, block_bytes) = self.pools.get(which)?;
        let address = pool + self.geometry.header_bytes + (place - before) * block_bytes;
        Some((pool, Drawn { address, block_bytes }))
    }
}

/// Up to `count` blocks of the pools in `map`, none twice, sorted by address.
pub(super) fn draw(
    view: &mut View<'_>,
    geometry: &Geometry,
    map: &PoolMap,
    count: usize,
    random: &mut dyn FnMut() -> u64,
) -> BTreeSet<Drawn> {
    let places = Places::new(geometry, map);
    let mut found = BTreeSet::new();
    for _ in 0..ROUNDS {
        let missing = count.saturating_sub(found.len());
        if missing == 0 {
            break;
        }
        let drawn = std::iter::from_fn(|| places.draw(random)).take(missing);
        let mut drawn: Vec<(u64, Drawn)> = drawn.collect();
        drawn.sort_unstable();
        let groups: Vec<_> = drawn.chunk_by(|one, other| one.0 == other.0).collect();
        for groups in groups.chunks(MOST_POOLS) {
            let addresses = groups.iter().filter_map(|group| group.first());
            let addresses: Vec<u64> = addresses.map(|&(pool, _)| pool).collect();
            for (group, pool) in groups.iter().zip(geometry.read(view, &addresses)) {
                let Ok(Some(pool)) = pool else { continue };
                let live = group
                    .iter()
                    .filter(|(_, block)| pool.is_live(geometry, block.address, block.block_bytes));
                found.extend(live.map(|&(_, block)| block));
            }
        }
    }
    found
}
