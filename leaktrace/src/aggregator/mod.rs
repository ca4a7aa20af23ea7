//! Turns allocation events into live bytes and blocks per site.
//!
//! Knows nothing of the kernel, the clock or the screen: events go in, snapshots come out. A site is one
//! ([`Stack`], [`Domain`]), compared as a whole.
//!
//! Memory is bounded by [`Options::max_memory`]: three quarters of it are for the table of live blocks (24 to 48
//! bytes a block, 72 while the table grows), one quarter for the sites (about 1.2 KiB for a quiet one with ten frames, up
//! to 12 KiB more with a point in every interval). When points need more than their half of that, the time axis gets
//! coarser. Blocks of sites that do not fit, and blocks that do not fit into the table, are not tracked:
//! [`Totals::untracked_blocks`] counts them.

#![forbid(unsafe_code)]

mod apply;
mod books;
mod curve;
mod domain;
mod drawn;
mod levels;
mod live;
mod rate;
mod sampled;
mod scale;
mod series;
mod site;
mod sites;
mod sizes;
mod snapshot;
#[cfg(test)]
mod tests;
mod threads;

pub use domain::Domain;
pub use drawn::{DrawnBlock, allowances};
pub use levels::{ClassSums, Weights};
pub use rate::Rate;
pub use sampled::{Born, FIRST_LOOK_NS, Sample, Sampled, Sampling};
pub use scale::Scale;
pub use series::{OlderFrees, Point};
pub use site::{Counts, Estimated, Weight};
pub use snapshot::{Distribution, SiteSnapshot, Snapshot};

use crate::pools::PoolMap;
use crate::stack::Stack;

use books::Books;
use live::LiveTable;
use series::Axis;
use sites::Sites;
use threads::Threads;

/// Times of birth are kept in these units, of 4.2 ms: 32 bits of them last for 208 days.
pub const TICK_NS: u64 = 1 << 22;

/// What an aggregator is made for.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Bytes that it may take.
    pub max_memory: usize,
    /// When the trace began, on the events' clock.
    pub started_at_ns: u64,
    /// Whether frees of the raw domain are seen at all. Where not, raw blocks only seem to live on.
    pub raw_free_seen: bool,
}

/// What was seen in all. Raw counts, whatever became of the blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Blocks handed out.
    pub allocations_seen: u64,
    /// Blocks given back.
    pub frees_seen: u64,
    /// Of these, blocks that no site knows: handed out before the trace began, unseen or untracked.
    pub frees_of_older_blocks: u64,
    /// Blocks whose free was not seen: another block was handed out at their address.
    pub missed_frees: u64,
    /// Blocks that no site counts, for want of memory.
    pub untracked_blocks: u64,
    /// Blocks with a stack id that was not defined; they are counted at the empty stack.
    pub undefined_stacks: u64,
    /// Events that were lost before they came here.
    pub events_lost: u64,
}

/// Events in, numbers per site out.
pub struct Aggregator {
    options: Options,
    axis: Axis,
    live: LiveTable,
    sites: Sites,
    threads: Threads,
    totals: Totals,
    books: Books,
    older: OlderFrees,
    older_points: Vec<OlderFrees>,
    /// How many births each one that is seen stands for.
    weight: Weight,
    raw_weight: Weight,
    turnover: Option<Turnover>,
}

/// Which blocks came and went since this was asked last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turnover {
    /// Addresses of blocks that were handed out; some may be gone since.
    pub born: Vec<u64>,
    /// Addresses of blocks that were given back; others may lie there since.
    pub died: Vec<u64>,
}

/// A block that lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveBlock {
    /// The site that counts it: an index into [`Snapshot::sites`].
    pub site: u32,
    /// Requested bytes.
    pub size: u64,
    /// When it was handed out, in [`TICK_NS`] since the trace began.
    pub born: u32,
}

impl Aggregator {
    /// Nothing seen so far.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            options,
            axis: Axis::new(options.started_at_ns),
            live: LiveTable::new(options.max_memory / 4 * 3),
            sites: Sites::new(options.max_memory / 4),
            threads: Threads::default(),
            totals: Totals::default(),
            books: Books::default(),
            older: OlderFrees::default(),
            older_points: Vec::new(),
            weight: Weight::ONE,
            raw_weight: Weight::ONE,
            turnover: None,
        }
    }

    /// From now on every birth that is seen stands for so many, those of `raw` blocks for others.
    pub fn weigh(&mut self, weight: Weight, raw: Weight) {
        (self.weight, self.raw_weight) = (weight, raw);
    }

    /// From now on it is noted which blocks come and go.
    pub fn note_turnover(&mut self) {
        self.turnover = Some(Turnover::default());
    }

    /// Which blocks came and went since this was asked last, where that is noted.
    pub fn take_turnover(&mut self) -> Turnover {
        self.turnover.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The block that lives at `address`.
    #[must_use]
    pub fn block(&self, address: u64) -> Option<LiveBlock> {
        let live::Block { site, size, born } = self.live.get(address)?;
        Some(LiveBlock { site, size, born })
    }

    /// The stack and the domain of a site, by its index.
    #[must_use]
    pub fn site(&self, index: u32) -> Option<(&Stack, Domain)> {
        let site = self.sites.list.get(index as usize)?;
        Some((self.sites.stack(site), site.domain))
    }

    /// The block at `address` is gone, although no free of it was seen.
    pub fn find_dead(&mut self, address: u64) {
        if let Some(block) = self.live.remove(address) {
            self.end(&block);
        }
    }

    /// Says what the stack id stands for from now on. Several ids may stand for the same stack; id 0 always is the
    /// empty one. False where there is no memory for it: its blocks then go to the empty stack.
    pub fn define_stack(&mut self, id: u64, stack: Stack) -> bool {
        self.sites.define(id, stack)
    }

    /// What the stack id stands for; `None` where it was not defined.
    #[must_use]
    pub fn stack(&self, id: u64) -> Option<&Stack> {
        self.sites.stack_behind(id)
    }

    /// The trace begins not when this was made but then, before any event.
    pub fn begin(&mut self, started_at_ns: u64) {
        self.options.started_at_ns = started_at_ns;
        self.axis = Axis::new(started_at_ns);
    }

    /// Says where the pools were when the trace began, by which frees of older blocks are known to be pymalloc's.
    pub fn know_pools(&mut self, pools: PoolMap) {
        self.books = Books::new(pools);
    }

    /// By how many bytes, rounded up to size classes, the events so far changed what pymalloc hands out: blocks that
    /// live in `pools` as they are now, less the older ones that were freed.
    #[must_use]
    pub fn net_pool_bytes(&self, pools: &PoolMap) -> i64 {
        let live = self.live.addresses().filter_map(|address| pools.block_bytes(address));
        live.sum::<u64>().cast_signed() - self.books.older_bytes()
    }

    /// How many events were lost so far.
    pub fn set_losses(&mut self, events_lost: u64) {
        self.totals.events_lost = events_lost;
    }

    /// Lets time pass up to then. Costs as much as there are sites that changed since the last time.
    pub fn sample(&mut self, at_ns: u64) {
        if at_ns < self.axis.closes_at_ns {
            return;
        }
        self.older.index = self.axis.open;
        series::push_older(&mut self.older_points, self.older);
        for _ in 0..self.sites.go_on(&mut self.axis, at_ns) {
            series::merge_older(&mut self.older_points);
        }
    }

    /// What was seen so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Blocks that live and have a site.
    #[must_use]
    pub fn live_blocks(&self) -> usize {
        self.live.len()
    }

    /// How many sites there are.
    #[must_use]
    pub fn site_count(&self) -> usize {
        self.sites.list.len()
    }

    /// Bytes that all of this takes, about.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.live.bytes() + self.sites.bytes()
    }
}
