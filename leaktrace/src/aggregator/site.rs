//! One site: what it counts, and its points along the axis.

use super::domain::Domain;
use super::series::{self, Point};
use super::sizes::Sizes;

/// The numbers of a site.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Blocks born.
    pub allocations: u64,
    /// Blocks that died.
    pub frees: u64,
    /// Requested bytes of all births.
    pub allocated_bytes: u64,
    /// Requested bytes of all deaths.
    pub freed_bytes: u64,
}

/// Births, as those that were seen stand for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimated {
    /// How many.
    pub allocations: u64,
    /// Their requested bytes.
    pub bytes: u64,
}

impl Counts {
    /// Blocks that live.
    #[must_use]
    pub fn live_blocks(&self) -> u64 {
        self.allocations.saturating_sub(self.frees)
    }

    /// Requested bytes of the blocks that live.
    #[must_use]
    pub fn live_bytes(&self) -> u64 {
        self.allocated_bytes.saturating_sub(self.freed_bytes)
    }
}

/// One (stack, domain).
#[derive(Debug)]
pub(super) struct Site {
    /// Index of its stack.
    pub stack: u32,
    /// Whose blocks.
    pub domain: Domain,
    /// The interval in which something happened last; `u32::MAX` before the first.
    pub touched: u32,
    /// Its numbers.
    pub counts: Counts,
    /// The fewest live bytes in the touched interval.
    pub low_bytes: u64,
    /// The fewest live blocks in the touched interval.
    pub low_blocks: u64,
    /// First birth, on the events' clock.
    pub first_seen_ns: u64,
    /// How many births, and requested bytes of births, those that were seen stand for.
    pub estimated: Estimated,
    /// The sizes of its births.
    pub sizes: Sizes,
    /// Bytes of `sizes` when they were last counted.
    pub(super) counted_bytes: usize,
    /// What it was in the intervals before.
    pub points: Vec<Point>,
}

impl Site {
    /// A site without any block.
    #[must_use]
    pub(super) fn new(stack: u32, domain: Domain, first_seen_ns: u64) -> Self {
        Self {
            stack,
            domain,
            touched: u32::MAX,
            counts: Counts::default(),
            low_bytes: 0,
            low_blocks: 0,
            first_seen_ns,
            estimated: Estimated::default(),
            sizes: Sizes::default(),
            counted_bytes: 0,
            points: Vec::new(),
        }
    }

    /// To be called before anything changes: true for the first time in an interval.
    #[inline]
    pub(super) fn touch(&mut self, interval: u32) -> bool {
        if self.touched == interval {
            return false;
        }
        self.touched = interval;
        self.low_bytes = self.counts.live_bytes();
        self.low_blocks = self.counts.live_blocks();
        true
    }

    /// Counts a birth that stands for `weight` of them.
    #[inline]
    pub(super) fn birth(&mut self, size: u64, weight: u64) {
        self.estimated.allocations = self.estimated.allocations.saturating_add(weight);
        self.estimated.bytes = self.estimated.bytes.saturating_add(size.saturating_mul(weight));
        self.counts.allocations += 1;
        self.counts.allocated_bytes = self.counts.allocated_bytes.saturating_add(size);
        self.sizes.record(size);
    }

    /// Counts a death.
    #[inline]
    pub(super) fn death(&mut self, size: u64) {
        self.counts.frees += 1;
        self.counts.freed_bytes = self.counts.freed_bytes.saturating_add(size);
    }

    /// Counts blocks that were found alive.
    pub(super) fn enter(&mut self, size: u64, blocks: u64) {
        self.counts.allocations = self.counts.allocations.saturating_add(blocks);
        let bytes = size.saturating_mul(blocks);
        self.counts.allocated_bytes = self.counts.allocated_bytes.saturating_add(bytes);
    }

    /// Counts blocks that were found dead.
    pub(super) fn leave(&mut self, size: u64, blocks: u64) {
        self.counts.frees = self.counts.frees.saturating_add(blocks);
        let bytes = size.saturating_mul(blocks);
        self.counts.freed_bytes = self.counts.freed_bytes.saturating_add(bytes);
    }

    /// Notes how low the site is now.
    #[inline]
    pub(super) fn sink(&mut self) {
        self.low_bytes = self.low_bytes.min(self.counts.live_bytes());
        self.low_blocks = self.low_blocks.min(self.counts.live_blocks());
    }

    /// Takes a birth back that stood for `weight` of them.
    pub(super) fn unbirth(&mut self, size: u64, weight: u64) {
        self.estimated.allocations = self.estimated.allocations.saturating_sub(weight);
        self.estimated.bytes = self.estimated.bytes.saturating_sub(size.saturating_mul(weight));
        self.counts.allocations = self.counts.allocations.saturating_sub(1);
        self.counts.allocated_bytes = self.counts.allocated_bytes.saturating_sub(size);
        self.sizes.forget(size);
    }

    /// Takes a death back.
    pub(super) fn undeath(&mut self, size: u64) {
        self.counts.frees = self.counts.frees.saturating_sub(1);
        self.counts.freed_bytes = self.counts.freed_bytes.saturating_sub(size);
    }

    /// The point of the touched interval.
    #[must_use]
    pub(super) fn point(&self) -> Point {
        let blocks = self.counts.live_blocks();
        Point {
            index: self.touched,
            live_blocks: u32::try_from(blocks).unwrap_or(u32::MAX),
            low_blocks: u32::try_from(self.low_blocks.min(blocks)).unwrap_or(u32::MAX),
            survivors: 0,
            live_bytes: self.counts.live_bytes(),
            low_bytes: self.low_bytes.min(self.counts.live_bytes()),
            births: self.counts.allocations,
        }
    }

    /// Writes the point of the touched interval down. After a doubling that interval may have one already.
    pub(super) fn close(&mut self) {
        let point = self.point();
        series::push(&mut self.points, point);
    }

    /// Follows the axis when its interval doubles. The touched interval must be closed.
    pub(super) fn coarsen(&mut self) {
        series::merge(&mut self.points);
        self.touched = u32::MAX;
    }
}
