//! All sites as they are at one moment.

use super::domain::Domain;
use super::sampled::Sampling;
use super::series::{OlderFrees, Point};
use super::site::{Counts, Estimated, Site};
use super::sites::points_until_now;
use super::{Aggregator, TICK_NS, Totals};
use crate::stack::Stack;

/// Median, ninth decile and maximum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    /// Half of the values are at most this.
    pub p50: u64,
    /// Nine tenths of the values are at most this.
    pub p90: u64,
    /// The largest.
    pub max: u64,
}

/// One site.
#[derive(Clone, Debug)]
pub struct SiteSnapshot {
    /// Its stack.
    pub stack: Stack,
    /// Whose blocks.
    pub domain: Domain,
    /// Its numbers.
    pub counts: Counts,
    /// How many births those that were seen stand for.
    pub estimated: Estimated,
    /// First birth, on the events' clock.
    pub first_seen_ns: u64,
    /// Its points along the axis: one for each interval in which something happened to it.
    pub points: Vec<Point>,
    /// Requested bytes of its births.
    pub sizes: Option<Distribution>,
    /// Ages of the blocks that live, in nanoseconds (of a resolution of 4.2 ms).
    pub ages_ns: Option<Distribution>,
    /// How sure its numbers are; `None` where every event was seen.
    pub sampling: Option<Sampling>,
}

/// All sites.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// When the trace began, on the events' clock.
    pub started_at_ns: u64,
    /// When this was.
    pub at_ns: u64,
    /// Length of one interval of the axis; the last one is not over.
    pub interval_ns: u64,
    /// What was seen in all.
    pub totals: Totals,
    /// Whether frees of the raw domain are seen at all.
    pub raw_free_seen: bool,
    /// Frees of blocks older than the trace, along the axis.
    pub older_frees: Vec<OlderFrees>,
    /// In the order in which they were first seen.
    pub sites: Vec<SiteSnapshot>,
}

/// Times of birth of the live blocks, grouped by site and ascending.
struct Births {
    ticks: Vec<u32>,
    starts: Vec<usize>,
}

impl Aggregator {
    /// All sites as they are at this moment. Takes some bytes for each live block while it is made.
    #[must_use]
    pub fn snapshot(&self, at_ns: u64) -> Snapshot {
        let births = Births::new(self);
        let sites = self.sites.list.iter().enumerate();
        Snapshot {
            started_at_ns: self.options.started_at_ns,
            at_ns,
            interval_ns: self.axis.interval_ns,
            totals: self.totals,
            raw_free_seen: self.options.raw_free_seen,
            older_frees: self.older_until_now(),
            sites: sites.map(|(index, site)| self.shown(site, births.of(index), at_ns)).collect(),
        }
    }

    fn shown(&self, site: &Site, born: &[u32], at_ns: u64) -> SiteSnapshot {
        let mut points = points_until_now(site, self.axis.open);
        add_survivors(&mut points, born.iter().map(|&tick| (tick, 1.0)), self.axis.interval_ns);
        SiteSnapshot {
            stack: self.sites.stack(site).clone(),
            domain: site.domain,
            counts: site.counts,
            estimated: site.estimated,
            first_seen_ns: site.first_seen_ns,
            points,
            sizes: site.sizes.distribution(),
            ages_ns: ages(born, at_ns.saturating_sub(self.options.started_at_ns)),
            sampling: None,
        }
    }

    fn older_until_now(&self) -> Vec<OlderFrees> {
        let mut points = self.older_points.clone();
        let now = OlderFrees { index: self.axis.open, ..self.older };
        super::series::push_older(&mut points, now);
        points
    }
}

impl Births {
    /// A counting sort by site: the sites know how many blocks they have.
    fn new(aggregator: &Aggregator) -> Self {
        let mut starts = vec![0_usize; aggregator.sites.list.len() + 1];
        for (site, _) in aggregator.live.births() {
            starts[site as usize + 1] += 1;
        }
        for index in 1..starts.len() {
            starts[index] += starts[index - 1];
        }
        let mut next = starts.clone();
        let mut ticks = vec![0; aggregator.live.len()];
        for (site, born) in aggregator.live.births() {
            ticks[next[site as usize]] = born;
            next[site as usize] += 1;
        }
        for range in starts.windows(2) {
            ticks[range[0]..range[1]].sort_unstable();
        }
        Self { ticks, starts }
    }

    fn of(&self, site: usize) -> &[u32] {
        &self.ticks[self.starts[site]..self.starts[site + 1]]
    }
}

/// Adds each live block, which counts from a tick on and stands for so many, at the point of the interval of that tick. The
/// ticks ascend.
pub(super) fn add_survivors(
    points: &mut [Point],
    blocks: impl IntoIterator<Item = (u32, f64)>,
    interval_ns: u64,
) {
    let mut sums = vec![0.0; points.len()];
    let mut at = 0;
    for (tick, blocks) in blocks {
        let index = u64::from(tick) * TICK_NS / interval_ns;
        while points.get(at + 1).is_some_and(|next| u64::from(next.index) <= index) {
            at += 1;
        }
        if let Some(sum) = sums.get_mut(at) {
            *sum += blocks;
        }
    }
    for (point, sum) in points.iter_mut().zip(sums) {
        point.survivors = sum.round() as u32;
    }
}

pub(super) fn ages(born: &[u32], now_ns: u64) -> Option<Distribution> {
    let (oldest, count) = (*born.first()?, born.len());
    let age = |tick: u32| now_ns.saturating_sub(u64::from(tick) * TICK_NS);
    Some(Distribution {
        p50: age(born[count - count.div_ceil(2)]),
        p90: age(born[count / 10]),
        max: age(oldest),
    })
}
