//! The ring buffer of events, and how far its writers have come.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::{MapData, RingBuf};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// Bytes of a page. The first of a ring buffer begins with the reader's position, the second with the writers'
/// (`kernel/bpf/ringbuf.c`).
const PAGE: usize = 4096;

/// A place in the stream of records: all that were begun by then lie before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(pub u64);

/// What was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// How many records.
    pub records: usize,
    /// Whether they were all that lie before the mark.
    pub reached: bool,
}

impl Mark {
    /// Whether a reader who is at `position` has everything before it.
    #[must_use]
    pub const fn is_reached(self, position: u64) -> bool {
        self.0.wrapping_sub(position).cast_signed() <= 0
    }
}

/// The ring buffer.
pub(super) struct EventRing {
    ring: RingBuf<MapData>,
    positions: Positions,
}

impl EventRing {
    /// # Errors
    /// Its pages cannot be mapped.
    pub(super) fn new(ring: RingBuf<MapData>) -> Result<Self, rustix::io::Errno> {
        let positions = Positions::map(&ring)?;
        Ok(Self { ring, positions })
    }

    /// The end of what is being written now.
    pub(super) fn written(&self) -> Mark {
        Mark(self.positions.at(PAGE))
    }

    /// Hands up to `most` records to `take`, oldest first, but none behind `mark`. The mark is not reached where there
    /// are more, or where one of them is still being written.
    pub(super) fn drain_until(
        &mut self,
        mark: Mark,
        most: usize,
        mut take: impl FnMut(&[u8]),
    ) -> Drained {
        let mut records = 0;
        loop {
            let reached = mark.is_reached(self.positions.at(0));
            if reached || records == most {
                return Drained { records, reached };
            }
            let Some(record) = self.ring.next() else {
                // What was thrown away is passed over without a word.
                return Drained { records, reached: mark.is_reached(self.positions.at(0)) };
            };
            take(&record);
            records += 1;
        }
    }
}

/// The first two pages, mapped once more: the positions are not told otherwise.
struct Positions(NonNull<c_void>);

impl Positions {
    fn map(ring: &RingBuf<MapData>) -> Result<Self, rustix::io::Errno> {
        let start = std::ptr::null_mut();
        // SAFETY: the kernel chooses a place that is free, and nothing is written there.
        let pages = unsafe { mmap(start, 2 * PAGE, ProtFlags::READ, MapFlags::SHARED, ring, 0) }?;
        NonNull::new(pages).map(Self).ok_or(rustix::io::Errno::NOMEM)
    }

    fn at(&self, offset: usize) -> u64 {
        debug_assert!(offset <= PAGE);
        // SAFETY: within the two pages, which are mapped as long as `self` lives.
        let position = unsafe { self.0.byte_add(offset) }.cast::<u64>();
        // SAFETY: aligned to a page, and whoever writes it does so atomically. Acquire: what the kernel did before it
        // set the position is seen as well.
        unsafe { AtomicU64::from_ptr(position.as_ptr()) }.load(Ordering::Acquire)
    }
}

impl Drop for Positions {
    fn drop(&mut self) {
        // SAFETY: these two pages are ours, and no reference into them is left.
        let _ = unsafe { munmap(self.0.as_ptr(), 2 * PAGE) };
    }
}

// SAFETY: the pages are the process's, and are only read.
unsafe impl Send for Positions {}
