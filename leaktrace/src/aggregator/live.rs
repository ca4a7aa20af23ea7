//! The table of live blocks: address -> site, size and time of birth, in 20 bytes a block.
//!
//! A slot takes 20 bytes and one control byte. The table doubles when 7/8 full, so a live block costs between 24
//! and 48 bytes; while it doubles, the old and the new table exist together (72 bytes a block at worst).

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use rustc_hash::{FxBuildHasher, FxHashMap};
use std::hash::BuildHasher as _;

/// Marks a size that does not fit into 32 bits; the true one is in a table aside.
const HUGE: u32 = u32::MAX;

/// A live block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// Index of its site.
    pub site: u32,
    /// Requested bytes.
    pub size: u64,
    /// Time of birth, in [`TICK_NS`](super::TICK_NS) since the trace began.
    pub born: u32,
}

/// What became of a block that was to be inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inserted {
    /// It is in.
    New,
    /// It is in, in place of one that was still held live.
    Replaced(Block),
    /// There was no room for it.
    Full,
}

// Four-byte alignment: as a `u64` the address would pad the slot to 24 bytes.
#[derive(Clone, Copy)]
struct Slot {
    address: [u32; 2],
    site: u32,
    size: u32,
    born: u32,
}

const _: () = assert!(size_of::<Slot>() == 20);

/// All live blocks.
pub(super) struct LiveTable {
    slots: HashTable<Slot>,
    huge: FxHashMap<u64, u64>,
    max_bytes: usize,
}

impl LiveTable {
    /// An empty table that never takes more than `max_bytes`, also not while it grows.
    #[must_use]
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { slots: HashTable::new(), huge: FxHashMap::default(), max_bytes }
    }

    /// How many blocks are live.
    #[must_use]
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Bytes that the table takes.
    #[must_use]
    pub(super) fn bytes(&self) -> usize {
        self.slots.allocation_size() + self.huge.capacity() * 17
    }

    /// The block at `address`.
    #[must_use]
    pub(super) fn get(&self, address: u64) -> Option<Block> {
        let slot = self.slots.find(hash(address), |slot| slot.address() == address)?;
        Some(self.block(slot))
    }

    /// Puts a block at `address`; what was there goes.
    pub(super) fn insert(&mut self, address: u64, block: Block) -> Inserted {
        let full = self.slots.len() == self.slots.capacity() && !self.may_grow();
        if full && self.get(address).is_none() {
            return Inserted::Full;
        }
        let slot = Slot::new(address, block);
        let replaced =
            match self.slots.entry(hash(address), |slot| slot.address() == address, rehash) {
                Entry::Occupied(mut entry) => Some(std::mem::replace(entry.get_mut(), slot)),
                Entry::Vacant(entry) => {
                    entry.insert(slot);
                    None
                }
            };
        let replaced = replaced.map(|slot| self.take_block(&slot));
        if slot.size == HUGE {
            self.huge.insert(address, block.size);
        }
        replaced.map_or(Inserted::New, Inserted::Replaced)
    }

    /// Takes the block at `address` out.
    pub(super) fn remove(&mut self, address: u64) -> Option<Block> {
        let entry = self.slots.find_entry(hash(address), |slot| slot.address() == address).ok()?;
        let (slot, _) = entry.remove();
        Some(self.take_block(&slot))
    }

    /// Every block's address.
    pub(super) fn addresses(&self) -> impl Iterator<Item = u64> + '_ {
        self.slots.iter().map(Slot::address)
    }

    /// Every block, with its address.
    pub(super) fn blocks(&self) -> impl Iterator<Item = (u64, Block)> + '_ {
        self.slots.iter().map(|slot| (slot.address(), self.block(slot)))
    }

    /// Every block's site and time of birth.
    pub(super) fn births(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.slots.iter().map(|slot| (slot.site, slot.born))
    }

    /// Whether the next doubling stays within the bound. Where at most half of the slots are in use, the table cleans
    /// out its tombstones in place instead of doubling.
    fn may_grow(&self) -> bool {
        let now = self.slots.allocation_size();
        let slots = self.slots.num_buckets();
        self.slots.len() < slots / 8 * 7 / 2 || now.saturating_mul(3).max(1024) <= self.max_bytes
    }

    fn block(&self, slot: &Slot) -> Block {
        let size = match slot.size {
            HUGE => self.huge.get(&slot.address()).copied().unwrap_or(u64::from(HUGE)),
            size => u64::from(size),
        };
        Block { site: slot.site, size, born: slot.born }
    }

    fn take_block(&mut self, slot: &Slot) -> Block {
        let block = self.block(slot);
        if slot.size == HUGE {
            self.huge.remove(&slot.address());
        }
        block
    }
}

impl Slot {
    fn new(address: u64, block: Block) -> Self {
        Self {
            address: [address as u32, (address >> 32) as u32],
            site: block.site,
            size: u32::try_from(block.size).unwrap_or(HUGE),
            born: block.born,
        }
    }

    fn address(&self) -> u64 {
        u64::from(self.address[1]) << 32 | u64::from(self.address[0])
    }
}

fn hash(address: u64) -> u64 {
    FxBuildHasher.hash_one(address)
}

fn rehash(slot: &Slot) -> u64 {
    hash(slot.address())
}
