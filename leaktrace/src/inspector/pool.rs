//! Which blocks of a pool are handed out, as far as pymalloc's own books tell.
//!
//! A pool's header says where its free list begins (`freeblock`) and up to where blocks were ever handed out
//! (`nextoffset`); a free block's first word leads to the next one (`Objects/obmalloc.c`: `pymalloc_alloc`,
//! `insert_to_freepool`). So a block whose first word cannot be such a link is handed out, which the header and that
//! word tell; only for others the whole pool is read, in one piece, and the list is followed in the copy.
//!
//! The target runs meanwhile. A copy counts only if its list is whole: it stays in the pool, comes to no block twice,
//! ends, and is as long as the header's numbers ask for. Else the pool is read again.
//!
//! What is not known here: blocks behind debug hooks (`PYTHONMALLOC=debug`) lie 16 bytes further and are larger than
//! what was asked for. They are not to be asked about.

use super::reads::{Gap, Reads, View};
use super::{Death, Reason};
use crate::cpython::layout::Layout;
use crate::target::memory::{word, word32};

/// How often a pool is read that makes no sense.
const TRIES: u32 = 4;

/// Pools that are read at once: 1 MiB.
const MOST_POOLS: usize = 64;

/// A block to look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) address: u64,
    /// Bytes that were asked for.
    pub(super) size: u64,
}

/// What the allocator's books say of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It is handed out, to whomever.
    Live,
    /// It is not, or it was given back since.
    Free(Death),
    /// It cannot be told.
    Unknown(Reason),
}

/// The form of pools in one build of CPython.
#[derive(Clone, Debug)]
pub(super) struct Geometry {
    count: u64,
    freeblock: u64,
    szidx: u64,
    nextoffset: u64,
    /// `maxnextoffset`, where the layout has it.
    last: Option<u64>,
    pub(super) header_bytes: u64,
    pub(super) pool_bytes: u64,
    /// Bytes from one size class to the next.
    unit: u64,
}

/// A header that makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    live: u64,
    pub(super) block_bytes: u64,
    free: u64,
    next: u64,
}

/// What a header alone says of a block.
enum ByHeader {
    Known(State),
    /// It is handed out unless it is on the free list.
    Carved,
}

/// A copy of a pool whose list is whole.
#[derive(Debug)]
pub(super) struct Pool {
    address: u64,
    header: Header,
    /// Of each block that was ever handed out, whether it is free.
    free: Vec<bool>,
}

impl Geometry {
    /// `class_shift` is log2 of the bytes from one size class to the next.
    pub(super) fn new(layout: &Layout, class_shift: u64) -> Option<Self> {
        let pool = &layout.pool;
        let unit = matches!(class_shift, 3 | 4).then_some(1 << class_shift)?;
        Some(Self {
            count: pool.count,
            freeblock: pool.freeblock,
            szidx: pool.szidx,
            nextoffset: pool.nextoffset,
            last: layout.arena.as_ref().map(|arena| arena.pool_last),
            header_bytes: pool.header_bytes,
            pool_bytes: pool.pool_bytes,
            unit,
        })
    }

    /// The pool that an address lies in.
    pub(super) const fn pool_of(&self, address: u64) -> u64 {
        address & !(self.pool_bytes - 1)
    }

    /// Whether a block of `block_bytes` can hold `size`: it is of its class, or of a larger one and `size` is what
    /// `realloc` left of it without moving it (`pymalloc_realloc`: more than 3/4 of the block).
    const fn holds(&self, size: u64, block_bytes: u64) -> bool {
        let rounded = size.next_multiple_of(self.unit);
        rounded == block_bytes || (rounded < block_bytes && 4 * size > 3 * block_bytes)
    }

    /// Whether a word can be the link of a free block in `pool`.
    const fn is_link(&self, pool: u64, block_bytes: u64, word: u64) -> bool {
        word == 0
            || (self.pool_of(word) == pool
                && word >= pool + self.header_bytes
                && (word - pool - self.header_bytes).is_multiple_of(block_bytes))
    }

    /// The states of `blocks`, in their order.
    pub(super) fn look(&self, view: &mut View<'_>, blocks: &[Block]) -> Vec<State> {
        let mut states = vec![State::Unknown(Reason::Torn); blocks.len()];
        let mut open: Vec<usize> = (0..blocks.len()).collect();
        open.sort_by_key(|&index| blocks[index].address);
        for _ in 0..TRIES {
            let carved = self.by_headers(view, blocks, &open, &mut states);
            let read_on = self.by_lists(view, blocks, &carved, &mut states);
            view.counts.torn += read_on.len() as u64;
            // What makes no sense may be a pool that is just being made.
            let again = [State::Unknown(Reason::Torn), State::Free(Death::PoolGone)];
            open.retain(|&index| again.contains(&states[index]));
            if open.is_empty() {
                break;
            }
        }
        states
    }

    /// Settles what headers and first words tell of `open` (sorted by address); the rest is the answer.
    fn by_headers(
        &self,
        view: &mut View<'_>,
        blocks: &[Block],
        open: &[usize],
        states: &mut [State],
    ) -> Vec<usize> {
        let mut reads = Reads::default();
        let mut places = Vec::with_capacity(open.len());
        let mut known = None;
        for &index in open {
            let pool = self.pool_of(blocks[index].address);
            let header = match known {
                Some((last, header)) if last == pool => header,
                _ => reads.add(pool, self.header_bytes),
            };
            known = Some((pool, header));
            places.push((index, header, reads.add(blocks[index].address, 8)));
        }
        reads.run(view);
        let mut carved = Vec::new();
        for (index, header, first) in places {
            let block = blocks[index];
            let pool = self.pool_of(block.address);
            match self.judge(reads.bytes(header), pool, block) {
                ByHeader::Known(state) => states[index] = state,
                ByHeader::Carved => {
                    let bytes = self.header(reads.bytes(header).unwrap_or_default(), pool);
                    let block_bytes = bytes.map_or(self.unit, |header| header.block_bytes);
                    let first = reads.bytes(first).ok().and_then(|bytes| word(bytes, 0));
                    if first.is_some_and(|first| !self.is_link(pool, block_bytes, first)) {
                        states[index] = State::Live;
                    } else {
                        carved.push(index);
                    }
                }
            }
        }
        carved
    }

    /// Settles the rest by whole pools; the answer is what was torn.
    fn by_lists(
        &self,
        view: &mut View<'_>,
        blocks: &[Block],
        carved: &[usize],
        states: &mut [State],
    ) -> Vec<usize> {
        let mut torn = Vec::new();
        let of = |&index: &usize| self.pool_of(blocks[index].address);
        let groups: Vec<&[usize]> = carved.chunk_by(|one, other| of(one) == of(other)).collect();
        for groups in groups.chunks(MOST_POOLS) {
            let addresses = groups.iter().filter_map(|group| group.first()).map(of);
            let addresses: Vec<u64> = addresses.collect();
            let pools = self.read(view, &addresses);
            for (group, pool) in groups.iter().zip(pools) {
                for &index in *group {
                    states[index] = match &pool {
                        Ok(Some(pool)) => self.settle(pool, blocks[index]),
                        Ok(None) => State::Unknown(Reason::Torn),
                        Err(gap) => without(*gap),
                    };
                    if matches!(pool, Ok(None)) {
                        torn.push(index);
                    }
                }
            }
        }
        torn
    }

    /// Reads whole pools; `None` of one that is torn.
    pub(super) fn read(
        &self,
        view: &mut View<'_>,
        addresses: &[u64],
    ) -> Vec<Result<Option<Pool>, Gap>> {
        let mut reads = Reads::default();
        for &address in addresses {
            reads.add(address, self.pool_bytes);
        }
        reads.run(view);
        view.counts.pools_read += addresses.len() as u64;
        let copy = |(index, &address)| Ok(Pool::parse(reads.bytes(index)?, self, address));
        addresses.iter().enumerate().map(copy).collect()
    }

    fn settle(&self, pool: &Pool, block: Block) -> State {
        match self.judge_header(&pool.header, pool.address, block) {
            ByHeader::Known(state) => state,
            ByHeader::Carved if pool.is_free(self, block.address) => State::Free(Death::FreeList),
            ByHeader::Carved => State::Live,
        }
    }

    fn judge(&self, bytes: Result<&[u8], Gap>, pool: u64, block: Block) -> ByHeader {
        match bytes {
            Err(gap) => ByHeader::Known(without(gap)),
            Ok(bytes) => match self.header(bytes, pool) {
                None => ByHeader::Known(State::Free(Death::PoolGone)),
                Some(header) => self.judge_header(&header, pool, block),
            },
        }
    }

    fn judge_header(&self, header: &Header, pool: u64, block: Block) -> ByHeader {
        let offset = (block.address - pool).checked_sub(self.header_bytes);
        let in_place = offset.is_some_and(|offset| offset.is_multiple_of(header.block_bytes));
        if header.live == 0 {
            ByHeader::Known(State::Free(Death::PoolGone))
        } else if !in_place || !self.holds(block.size, header.block_bytes) {
            ByHeader::Known(State::Free(Death::OtherClass))
        } else if block.address - pool >= header.next {
            ByHeader::Known(State::Free(Death::HighWater))
        } else if header.free == 0 {
            ByHeader::Known(State::Live)
        } else {
            ByHeader::Carved
        }
    }

    /// The header of `pool`, if what stands there can be one.
    fn header(&self, bytes: &[u8], pool: u64) -> Option<Header> {
        let class = word32(bytes, self.szidx)?;
        let block_bytes = class.checked_add(1)?.checked_mul(self.unit)?;
        let header = Header {
            live: word32(bytes, self.count)?,
            block_bytes,
            free: word(bytes, self.freeblock)?,
            next: word32(bytes, self.nextoffset)?,
        };
        let last_fits = match self.last {
            Some(last) => word32(bytes, last)? == self.pool_bytes.checked_sub(block_bytes)?,
            None => true,
        };
        let carved = header.next.checked_sub(self.header_bytes)?;
        let sensible = last_fits
            && block_bytes <= leaktrace_common::limits::SMALL_REQUEST
            && header.next <= self.pool_bytes
            && carved.is_multiple_of(block_bytes)
            && header.live <= carved / block_bytes
            && (header.free == 0 || self.is_link(pool, block_bytes, header.free));
        sensible.then_some(header)
    }
}

impl Pool {
    /// `None` where the free list is not what the header says.
    fn parse(bytes: &[u8], geometry: &Geometry, address: u64) -> Option<Self> {
        let header = geometry.header(bytes, address)?;
        let carved = (header.next - geometry.header_bytes) / header.block_bytes;
        let mut pool = Self { address, header, free: vec![false; carved as usize] };
        let (mut block, mut left) = (header.free, carved - header.live);
        while block != 0 {
            left = left.checked_sub(1)?;
            if !geometry.is_link(address, header.block_bytes, block) {
                return None;
            }
            let index = pool.index(geometry, block)?;
            if std::mem::replace(pool.free.get_mut(index)?, true) {
                return None;
            }
            block = word(bytes, block - address)?;
        }
        (left == 0).then_some(pool)
    }

    /// Whether the block at `address` is handed out, one of `block_bytes`.
    pub(super) fn is_live(&self, geometry: &Geometry, address: u64, block_bytes: u64) -> bool {
        let index = self.index(geometry, address);
        self.header.block_bytes == block_bytes
            && index.is_some_and(|index| self.free.get(index) == Some(&false))
    }

    /// The blocks that are handed out.
    pub(super) fn live_blocks(&self, geometry: &Geometry) -> impl Iterator<Item = u64> {
        let first = self.address + geometry.header_bytes;
        let blocks = (first..).step_by(self.header.block_bytes as usize);
        blocks.zip(&self.free).filter(|&(_, &free)| !free).map(|(block, _)| block)
    }

    fn is_free(&self, geometry: &Geometry, address: u64) -> bool {
        self.index(geometry, address).and_then(|index| self.free.get(index)) == Some(&true)
    }

    /// Which of the pool's blocks begins at `address`.
    fn index(&self, geometry: &Geometry, address: u64) -> Option<usize> {
        let offset = address.checked_sub(self.address + geometry.header_bytes)?;
        let index = usize::try_from(offset / self.header.block_bytes).ok()?;
        offset.is_multiple_of(self.header.block_bytes).then_some(index)
    }
}

/// What is known of a block that cannot be read.
const fn without(gap: Gap) -> State {
    match gap {
        Gap::Unreadable => State::Free(Death::Unmapped),
        Gap::Swapped => State::Unknown(Reason::Swapped),
    }
}
