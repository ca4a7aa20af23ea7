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

/// How many births one that is seen stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weight {
    /// So many.
    pub births: u64,
    /// Whether that is right against others of its kind alone: see [`Sampled`](super::Sampled).
    pub dense: bool,
}

impl Weight {
    /// Every birth is seen.
    pub const ONE: Self = Self { births: 1, dense: false };
}

/// Births, as those that were seen stand for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimated {
    /// How many.
    pub allocations: u64,
    /// Their requested bytes.
    pub bytes: u64,
    /// How many in dense windows.
    pub dense_allocations: u64,
    /// Their requested bytes.
    pub dense_bytes: u64,
}

impl Estimated {
    /// The two that a weight counts for.
    fn of(&mut self, weight: Weight) -> (&mut u64, &mut u64) {
        if weight.dense {
            (&mut self.dense_allocations, &mut self.dense_bytes)
        } else {
            (&mut self.allocations, &mut self.bytes)
        }
    }

    /// All of them, where those of dense windows stand for `dense` times as many.
    #[must_use]
    pub(super) fn scaled(&self, dense: f64) -> Self {
        let sum = |sparse: u64, of_dense: u64| sparse + (of_dense as f64 * dense).round() as u64;
        Self {
            allocations: sum(self.allocations, self.dense_allocations),
            bytes: sum(self.bytes, self.dense_bytes),
            ..Self::default()
        }
    }
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
    pub(super) fn birth(&mut self, size: u64, weight: Weight) {
        let (allocations, bytes) = self.estimated.of(weight);
        *allocations = allocations.saturating_add(weight.births);
        *bytes = bytes.saturating_add(size.saturating_mul(weight.births));
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
    pub(super) fn unbirth(&mut self, size: u64, weight: Weight) {
        let (allocations, bytes) = self.estimated.of(weight);
        *allocations = allocations.saturating_sub(weight.births);
        *bytes = bytes.saturating_sub(size.saturating_mul(weight.births));
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
