//! Live blocks of a whole heap.

use super::super::{Drawn, Inspector};
use super::memory::Made;
use super::{POOL, inspector};
use crate::cpython::census::Resident;
use crate::pools::{ArenaPools, PoolMap};

const POOL_BYTES: u64 = 16 << 10;

fn random() -> impl FnMut() -> u64 {
    let mut generator = fastrand::Rng::with_seed(7);
    move || generator.u64(..)
}

fn draw(inspector: &mut Inspector, made: &Made, map: &PoolMap, count: usize) -> Vec<Drawn> {
    inspector.draw(made, &Resident::default(), map, count, &mut random())
}

#[test]
fn live_blocks_are_drawn_evenly_from_crowded_and_empty_pools() {
    let made = Made::new();
    // Of 1020 places for blocks of 16 bytes 900 and 100 are taken, of 255 for 64 bytes 200.
    let free: Vec<u64> = (0..800).map(|number| number + 50).collect();
    made.add_pool(POOL, 16, 900, &[]);
    made.add_pool(POOL + POOL_BYTES, 16, 900, &free);
    made.add_pool(POOL + 2 * POOL_BYTES, 64, 200, &[]);
    let map = PoolMap::new(POOL_BYTES, vec![ArenaPools::new(POOL, [16, 16, 64])]);
    let mut counted = [0_u32; 3];
    let mut inspector = inspector(12);
    let (mut random, resident) = (random(), Resident::default());
    for _ in 0..600 {
        for block in inspector.draw(&made, &resident, &map, 8, &mut random) {
            counted[((block.address - POOL) / POOL_BYTES) as usize] += 1;
        }
    }
    let all: u32 = counted.iter().sum();
    assert_eq!(all, 4800);
    for (count, live) in counted.into_iter().zip([900, 100, 200]) {
        let expected = all * live / 1200;
        assert!(count.abs_diff(expected) < expected / 5, "{counted:?}");
    }
}

#[test]
fn no_block_is_drawn_twice_and_none_that_is_not_there() {
    let made = Made::new();
    made.add_pool(POOL, 512, 6, &[2]);
    made.add_pool(POOL + POOL_BYTES, 512, 4, &[]);
    let classes = [512, 256, 32];
    let map = PoolMap::new(POOL_BYTES, vec![ArenaPools::new(POOL, classes)]);
    let mut inspector = inspector(12);
    let drawn = draw(&mut inspector, &made, &map, 100);
    let live = [0, 1, 3, 4, 5].map(|number| POOL + 48 + 512 * number);
    let addresses: Vec<u64> = drawn.iter().map(|block| block.address).collect();
    // Sixteen rounds of a hundred draws each leave none out.
    assert_eq!(addresses, live);
    let listed = inspector.live_blocks(&made, &Resident::default(), POOL);
    assert_eq!(listed.as_deref(), Some(live.as_slice()));
    assert_eq!(inspector.live_blocks(&made, &Resident::default(), POOL + 2 * POOL_BYTES), None);
    assert_eq!(draw(&mut inspector, &made, &PoolMap::default(), 10), []);
}
