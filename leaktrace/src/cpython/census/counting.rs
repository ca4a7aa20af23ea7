//! A census in parts: whoever has other things to do takes it bit by bit.
//!
//! Sampling: the pools, as they lie in memory, are cut into as many equal stretches as pools are wanted, and one pool is
//! drawn out of each. Pools that lie together were often filled together, so this is closer than drawing out of all at
//! once. How close is estimated from the differences between neighbours, which leaves it rather too wide.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::arenas::{Arena, Arrays};
use super::{Census, CensusError, Header, Resident, Sample};
use crate::cpython::layout::{ArenaFields, Layout};
use crate::pools::{ArenaPools, PoolMap};
use crate::target::memory::{ReadMemory, Span};
use crate::target::module::Module;

/// Reads of one header that makes no sense, before it is skipped.
const TRIES: u32 = 3;

/// Headers that are read at once: some tenths of a millisecond.
const BATCH: usize = 1_024;

/// Standard errors to either side of an estimate that hold the truth with 95 % confidence.
const SIGMAS: f64 = 1.96;

/// How much is to be counted.
pub struct Wanted<'a> {
    /// Where there are more pools, so many of them are drawn.
    pub most_pools: u64,
    /// Gives 64 random bits each time.
    pub random: &'a mut dyn FnMut() -> u64,
}

/// A census that is being taken.
#[derive(Debug)]
pub struct Counting {
    arenas: Vec<Arena>,
    /// The pools to look at: the arena's place in `arenas`, and the pool's address. In the order of both.
    pools: Vec<(u32, u64)>,
    /// Used pools in all.
    all: u64,
    next: usize,
    /// Bytes of the blocks of each of the pools; 0 for one without live blocks, or not read.
    classes: Vec<u16>,
    /// The sum of the squares of the differences between the live bytes of pools that were drawn one after the other.
    differences: f64,
    last: Option<u64>,
    census: Census,
}

impl Counting {
    /// Finds the arenas. The arguments are those of [`Census::take`].
    ///
    /// # Errors
    /// [`CensusError`] says what was not found.
    pub fn begin(
        memory: &dyn ReadMemory,
        module: &Module,
        layout: &Layout,
        interpreters: &[u64],
        arrays: &mut Arrays,
        wanted: Wanted<'_>,
    ) -> Result<Self, CensusError> {
        let started = Instant::now();
        let mut arenas = arrays.arenas(memory, module, layout, interpreters)?;
        if arenas.is_empty() {
            return Err(CensusError::Unused);
        }
        arenas.sort_by_key(|arena| arena.base);
        let pool_bytes = layout.pool.pool_bytes;
        let held_bytes = arenas.iter().map(|arena| arena.held_bytes(pool_bytes)).sum();
        let census = Census { arenas: arenas.len() as u64, held_bytes, ..Census::default() };
        let all = arenas.iter().map(|arena| arena.used_pools(pool_bytes)).sum();
        let pools = pools(&arenas, pool_bytes, all, wanted);
        let mut counting = Self {
            arenas,
            classes: vec![0; pools.len()],
            pools,
            all,
            next: 0,
            differences: 0.0,
            last: None,
            census,
        };
        counting.census.took = started.elapsed();
        Ok(counting)
    }

    /// Counts on for about so long, and some pools at least; returns whether it is done. `resident` says what is swapped out now.
    pub fn go_on(
        &mut self,
        memory: &dyn ReadMemory,
        layout: &Layout,
        resident: &Resident,
        most: Duration,
    ) -> bool {
        let started = Instant::now();
        while self.next < self.pools.len() {
            self.batch(memory, layout, resident);
            if started.elapsed() >= most {
                break;
            }
        }
        self.census.took = self.census.took.saturating_add(started.elapsed());
        self.next >= self.pools.len()
    }

    /// What was counted, once that is done.
    #[must_use]
    pub fn finish(self, layout: &Layout) -> Census {
        let Self { arenas, pools, all, classes, differences, mut census, .. } = self;
        let pool_bytes = layout.pool.pool_bytes;
        let mut known = pools.iter().zip(classes).peekable();
        let map = |(index, arena): (u32, &Arena)| {
            let mut of_arena = vec![0; arena.used_pools(pool_bytes) as usize];
            while let Some((&(_, pool), class)) = known.next_if(|((at, _), _)| *at == index) {
                let place = ((pool - arena.base) / pool_bytes) as usize;
                of_arena[place] = u64::from(class);
            }
            ArenaPools::new(arena.base, of_arena)
        };
        census.map = PoolMap::new(pool_bytes, (0..).zip(&arenas).map(map).collect());
        if (pools.len() as u64) < all {
            // As where all are counted, those that are swapped out count nothing.
            let read = census.pools - census.skipped;
            census.stand_for(all, read, differences);
        }
        census
    }

    fn batch(&mut self, memory: &dyn ReadMemory, layout: &Layout, resident: &Resident) {
        let places = self.next..self.pools.len().min(self.next + BATCH);
        self.next = places.end;
        let Some(fields) = layout.arena.as_ref() else { return };
        self.census.pools += places.len() as u64;
        let places = self.without_swapped(places, layout, resident);
        let bytes = layout.pool.header_bytes as usize;
        let span = |&place: &usize| Span { address: self.pools[place].1, bytes };
        let spans: Vec<Span> = places.iter().map(span).collect();
        let mut buffer = vec![0; bytes * spans.len()];
        let came = memory.read_many(&spans, &mut buffer);
        for ((place, bytes), came) in places.into_iter().zip(buffer.chunks(bytes)).zip(came) {
            let (arena, pool) = self.pools[place];
            let index = self.arenas[arena as usize].index;
            let first = came.then(|| Header::parse(bytes, layout, fields, index, pool)).flatten();
            match first.or_else(|| again(memory, layout, fields, index, pool)) {
                Some(header) => self.add(&header, layout, place),
                None => self.census.skipped += 1,
            }
        }
    }

    /// The places of those pools that can be read without bringing them back.
    fn without_swapped(
        &mut self,
        places: Range<usize>,
        layout: &Layout,
        resident: &Resident,
    ) -> Vec<usize> {
        if resident.is_whole() {
            return places.collect();
        }
        let pools = &self.pools[places.clone()];
        let of_arenas = pools.chunk_by(|one, other| one.0 == other.0).flat_map(|pools| {
            let (first, last) = (pools[0].1, pools[pools.len() - 1].1);
            let swapped = resident.swapped(first..last + layout.pool.header_bytes);
            pools.iter().map(move |(_, pool)| swapped.contains(pool)).collect::<Vec<_>>()
        });
        let kept = places.zip(of_arenas).filter_map(|(place, swapped)| (!swapped).then_some(place));
        let kept: Vec<usize> = kept.collect();
        self.census.swapped += (pools.len() - kept.len()) as u64;
        kept
    }

    fn add(&mut self, header: &Header, layout: &Layout, place: usize) {
        self.census.add(header, layout);
        if header.live > 0 {
            self.classes[place] = header.block_bytes as u16;
        }
        let live = header.live * header.block_bytes;
        match self.last.take() {
            Some(last) => self.differences += (live.abs_diff(last) as f64).powi(2),
            None => self.last = Some(live),
        }
    }
}

impl Arena {
    /// Pools that were in use at some time.
    fn used_pools(&self, pool_bytes: u64) -> u64 {
        (self.used_end - self.base) / pool_bytes
    }
}

/// All used pools, or as many of them as are wanted.
fn pools(arenas: &[Arena], pool_bytes: u64, all: u64, wanted: Wanted<'_>) -> Vec<(u32, u64)> {
    let of_arena = |(index, arena): (usize, &Arena)| {
        let addresses = (arena.base..arena.used_end).step_by(pool_bytes as usize);
        addresses.map(move |pool| (index as u32, pool))
    };
    let mut used = arenas.iter().enumerate().flat_map(of_arena);
    if all <= wanted.most_pools {
        return used.collect();
    }
    let (mut drawn, mut at) = (Vec::with_capacity(wanted.most_pools as usize), 0);
    for stretch in 0..wanted.most_pools {
        // The products stay below 2^64: there are at most 2^24 pools.
        let (start, end) =
            (stretch * all / wanted.most_pools, (stretch + 1) * all / wanted.most_pools);
        let place = start + (wanted.random)() % (end - start).max(1);
        drawn.extend(used.nth((place - at) as usize));
        at = place + 1;
    }
    drawn
}

/// Reads a header that was torn.
fn again(
    memory: &dyn ReadMemory,
    layout: &Layout,
    fields: &ArenaFields,
    arena: u64,
    pool: u64,
) -> Option<Header> {
    (1..TRIES).find_map(|_| Header::read(memory, layout, fields, arena, pool))
}

impl Census {
    /// Lets what was counted in `read` pools stand for `all`. `differences` are those of disjoint pairs of neighbours.
    fn stand_for(&mut self, all: u64, read: u64, differences: f64) {
        let factor = all as f64 / read.max(1) as f64;
        let times = |count: u64| (count as f64 * factor).round() as u64;
        for class in self.classes.values_mut() {
            class.pools = times(class.pools);
            class.live = times(class.live);
            class.free = times(class.free);
        }
        // The square of the difference of two is what the variance of their sum is expected to be, or more.
        let missing = 1.0 - read as f64 / all.max(1) as f64;
        let error = factor * (differences * missing.max(0.0)).sqrt();
        self.sampled = Some(Sample { of_pools: all, half_width: (SIGMAS * error).ceil() as u64 });
    }
}
