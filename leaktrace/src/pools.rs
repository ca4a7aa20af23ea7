//! Which addresses of a target's heap lie in pymalloc's pools, and how large the blocks of each pool are.
//!
//! Plain data: a census makes it, and whoever keeps books about blocks looks addresses up in it.

#![forbid(unsafe_code)]

use std::sync::Arc;

/// Block sizes are multiples of this many bytes in all versions (`ALIGNMENT`: 8 up to 3.7, 16 from then on).
const UNIT: u64 = 8;

/// The pools of one arena, of one size and in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArenaPools {
    /// Address of the first pool.
    pub base: u64,
    /// Block bytes of each pool in [`UNIT`]s; 0 for a pool that has no live block or could not be read.
    classes: Vec<u8>,
}

/// The pools of all arenas at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolMap {
    pool_bytes: u64,
    arenas: Arc<[ArenaPools]>,
}

impl ArenaPools {
    /// The pools from `base` on, by the bytes of their blocks; 0 for those without.
    #[must_use]
    pub fn new(base: u64, block_bytes: impl IntoIterator<Item = u64>) -> Self {
        let units = |bytes: u64| u8::try_from(bytes / UNIT).unwrap_or(0);
        Self { base, classes: block_bytes.into_iter().map(units).collect() }
    }
}

impl PoolMap {
    /// The pools of `arenas`, each of `pool_bytes`.
    #[must_use]
    pub fn new(pool_bytes: u64, mut arenas: Vec<ArenaPools>) -> Self {
        arenas.sort_by_key(|arena| arena.base);
        Self { pool_bytes, arenas: arenas.into() }
    }

    /// The pools that had live blocks, with the bytes of a block.
    pub fn pools(&self) -> impl Iterator<Item = (u64, u64)> {
        let of = |arena: &'_ ArenaPools| {
            let addresses = (arena.base..).step_by(self.pool_bytes.max(1) as usize);
            let pools = addresses.zip(arena.classes.iter().map(|&units| u64::from(units) * UNIT));
            pools.filter(|&(_, block_bytes)| block_bytes > 0).collect::<Vec<_>>()
        };
        self.arenas.iter().flat_map(of)
    }

    /// Bytes of the blocks of the pool that `address` lies in; `None` where it lies in no pool with live blocks.
    #[must_use]
    pub fn block_bytes(&self, address: u64) -> Option<u64> {
        let after = self.arenas.partition_point(|arena| arena.base <= address);
        let arena = self.arenas.get(after.checked_sub(1)?)?;
        let index = (address - arena.base).checked_div(self.pool_bytes)?;
        let units = *arena.classes.get(usize::try_from(index).ok()?)?;
        (units > 0).then_some(u64::from(units) * UNIT)
    }
}

#[cfg(test)]
mod tests {
    use super::{ArenaPools, PoolMap};

    #[test]
    fn an_address_is_looked_up_in_the_pool_that_holds_it() {
        let arenas =
            vec![ArenaPools::new(0x20_0000, [512, 0, 16]), ArenaPools::new(0x10_0000, [32])];
        let map = PoolMap::new(0x4000, arenas);
        assert_eq!(map.block_bytes(0x10_0030), Some(32));
        assert_eq!(map.block_bytes(0x20_3fff), Some(512));
        assert_eq!(map.block_bytes(0x20_8000), Some(16));
        assert_eq!(map.block_bytes(0x20_4000), None);
        assert_eq!(map.block_bytes(0x20_c000), None);
        assert_eq!(map.block_bytes(0x0f_ffff), None);
        assert_eq!(PoolMap::default().block_bytes(0), None);
        let pools: Vec<_> = map.pools().collect();
        assert_eq!(pools, [(0x10_0000, 32), (0x20_0000, 512), (0x20_8000, 16)]);
    }
}
