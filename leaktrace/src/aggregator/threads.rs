//! What each thread did last: which events belong to the one before them.
//!
//! One call of Python's allocator can give several events (a large block passes the obj gate and then the raw gate;
//! an entry probe sees the malloc and the free inside a realloc). They come one after the other on one thread.

use super::live::Block;
use rustc_hash::FxHashMap;

/// Threads that are remembered. Forgetting one costs at most one event that is counted twice.
const MAX_THREADS: usize = 65_536;

/// What a thread did last.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Last {
    /// Nothing that a later event could belong to.
    #[default]
    Nothing,
    /// It got a block through the obj gate.
    ObjAlloc {
        /// Its address.
        block: u64,
    },
    /// It gave a block back through the obj gate.
    ObjFree {
        /// Its address.
        block: u64,
        /// Whether it was older than the trace.
        older: bool,
    },
    /// It gave a block back through the raw gate.
    RawFree {
        /// Its address.
        block: u64,
    },
    /// It resized a block of pymalloc's.
    ObjResize {
        /// The address before.
        old: u64,
        /// The address after; 0 where that is not known yet.
        new: u64,
        /// How to take it back, where the old block was not known: it may turn out to be a raw one.
        undo: Option<Undo>,
    },
    /// It is inside a raw realloc.
    RawResize {
        /// The old block's address.
        old: u64,
        /// The old block; none where it is older than the trace.
        held: Option<Block>,
    },
}

/// What the birth by a realloc of an unknown block changed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Undo {
    /// The block as it was recorded; none where the realloc named no new place.
    pub born: Option<Block>,
    /// The block that was held live at its address.
    pub displaced: Option<Block>,
}

/// The threads of the target.
#[derive(Default)]
pub(super) struct Threads {
    index: FxHashMap<u32, u32>,
    last: Vec<Last>,
    // Threads run for thousands of events in a row: most look-ups end here.
    current: Option<(u32, u32)>,
}

impl Threads {
    /// What the thread did last; the caller says what it does now.
    pub(super) fn last_of(&mut self, tid: u32) -> &mut Last {
        let index = match self.current {
            Some((current, index)) if current == tid => index,
            _ => self.switch_to(tid),
        };
        &mut self.last[index as usize]
    }

    fn switch_to(&mut self, tid: u32) -> u32 {
        if self.last.len() >= MAX_THREADS && !self.index.contains_key(&tid) {
            self.index.clear();
            self.last.clear();
        }
        let index = *self.index.entry(tid).or_insert_with(|| {
            self.last.push(Last::Nothing);
            (self.last.len() - 1) as u32
        });
        self.current = Some((tid, index));
        index
    }
}
