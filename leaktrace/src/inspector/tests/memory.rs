//! Memory that is made up: stretches of bytes, some of which change after so many reads.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use leaktrace_common::memory::Fault;

use super::super::pool::Geometry;
use crate::cpython::layout::Layout;
use crate::target::memory::ReadMemory;

/// Where `type` is.
pub(super) const TYPE: u64 = 0x0090_0000;

/// Bytes of a stretch that types are put into.
const TYPE_BYTES: usize = 1024;

/// A store that happens later.
struct Later {
    after_reads: u64,
    address: u64,
    word: u64,
}

#[derive(Default)]
pub(super) struct Made {
    stretches: RefCell<BTreeMap<u64, Vec<u8>>>,
    later: RefCell<Vec<Later>>,
    reads: Cell<u64>,
}

impl Made {
    /// With `type` alone.
    pub(super) fn new() -> Self {
        let made = Self::default();
        made.add_type(TYPE, TYPE, "type", 920, (1 << 31) | (1 << 14));
        made
    }

    pub(super) fn map(&self, address: u64, bytes: usize) {
        self.stretches.borrow_mut().insert(address, vec![0; bytes]);
    }

    pub(super) fn unmap(&self, address: u64) {
        self.stretches.borrow_mut().remove(&address);
    }

    pub(super) fn write(&self, address: u64, bytes: &[u8]) {
        let mut stretches = self.stretches.borrow_mut();
        let (start, stretch) = stretches.range_mut(..=address).next_back().expect("it is mapped");
        let offset = (address - start) as usize;
        stretch[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    pub(super) fn set(&self, address: u64, word: u64) {
        self.write(address, &word.to_le_bytes());
    }

    pub(super) fn words(&self, address: u64, words: &[u64]) {
        (address..).step_by(8).zip(words).for_each(|(address, &word)| self.set(address, word));
    }

    /// Stores a word after that many more reads.
    pub(super) fn set_later(&self, after_reads: u64, address: u64, word: u64) {
        let after_reads = self.reads.get() + after_reads;
        self.later.borrow_mut().push(Later { after_reads, address, word });
    }

    /// A pool of 3.12 with blocks of `block_bytes`: `carved` of them were ever handed out, and those in `free`
    /// (by number) are on the list, in that order.
    pub(super) fn add_pool(&self, pool: u64, block_bytes: u64, carved: u64, free: &[u64]) {
        self.map(pool, 16 << 10);
        let live = carved - free.len() as u64;
        let block = |&number: &u64| pool + 48 + number * block_bytes;
        (0..carved).for_each(|number| self.set(block(&number), 1));
        let links = free.iter().map(block).chain([0]);
        let places = [pool + 8].into_iter().chain(free.iter().map(block));
        places.zip(links).for_each(|(place, link)| self.set(place, link));
        self.set(pool, live);
        let halves = [0, block_bytes / 16 - 1, 48 + carved * block_bytes, (16 << 10) - block_bytes];
        for (offset, half) in [32, 36, 40, 44].into_iter().zip(halves) {
            self.write(pool + offset, &(half as u32).to_le_bytes());
        }
    }

    /// A type of type `meta`.
    pub(super) fn add_type(&self, address: u64, meta: u64, name: &str, basic: u64, flags: u64) {
        self.map(address, TYPE_BYTES);
        let text = address + 512;
        self.write(text, name.as_bytes());
        self.words(address, &[1, meta, 0, text, basic, 0]);
        self.set(address + 168, flags);
    }
}

impl ReadMemory for Made {
    fn read_bytes(&self, address: u64, buffer: &mut [u8]) -> Result<(), Fault> {
        self.reads.set(self.reads.get() + 1);
        let due: Vec<Later> = {
            let mut later = self.later.borrow_mut();
            later.extract_if(.., |later| later.after_reads < self.reads.get()).collect()
        };
        due.iter().for_each(|later| self.set(later.address, later.word));
        let stretches = self.stretches.borrow();
        let (start, stretch) = stretches.range(..=address).next_back().ok_or(Fault)?;
        let offset = usize::try_from(address - start).map_err(|_cause| Fault)?;
        let end = offset.checked_add(buffer.len()).ok_or(Fault)?;
        buffer.copy_from_slice(stretch.get(offset..end).ok_or(Fault)?);
        Ok(())
    }
}

#[test]
fn a_made_pool_is_one() {
    let made = Made::new();
    made.add_pool(super::POOL, 64, 10, &[3, 7, 9]);
    let geometry = Geometry::new(&Layout::for_version(3, 12).unwrap(), 4).unwrap();
    assert_eq!(geometry.pool_of(super::FIRST + 64), super::POOL);
    assert_eq!(made.read_u64(super::FIRST + 3 * 64), Ok(super::FIRST + 7 * 64));
}
