//! Blocks that were seen being handed out in a window and still lived when they were looked at later: what lives of each
//! site along the time axis, where most of what the target does goes unseen.
//!
//! Each stands for as many as its window stands for: its weight. Weights of windows that were hardly anything but probes
//! (dense ones) are right among themselves, not against others: what is known of the heap sets their scale in the end
//! (see [`Scale`]).

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use super::domain::Domain;
use super::drawn::DrawnBlock;
use super::rate::Rate;
use super::series::{Axis, Point};
use super::site::{Site, Weight};
use super::sites::{Sites, points_until_now};
use super::snapshot::{SiteSnapshot, Snapshot, ages, count_survivors};
use super::{Counts, TICK_NS};
use crate::stack::Stack;

/// The part of the trace that it takes to settle: what lives on from then is not all that grew.
const SETTLED_PART: u64 = 20;

/// How long after its birth a sampled block is looked at first, and counts from then on.
pub const FIRST_LOOK_NS: u64 = 1_000_000_000;

/// A block that was sampled.
#[derive(Clone, Debug)]
pub struct Sample<'a> {
    /// Its address.
    pub address: u64,
    /// Where it was asked for.
    pub stack: &'a Stack,
    /// Whose it is.
    pub domain: Domain,
    /// Requested bytes.
    pub size: u64,
    /// Bytes of its size class; 0 where it is not pymalloc's.
    pub class: u64,
    /// When it was handed out, on the events' clock.
    pub born_ns: u64,
    /// How many it stands for.
    pub weight: Weight,
    /// The window that it was born in.
    pub window: u32,
}

/// A sampled block that lives.
#[derive(Clone, Copy, Debug)]
struct Survivor {
    site: u32,
    size: u64,
    class: u64,
    /// When it was handed out, in [`TICK_NS`] since the trace began.
    born: u32,
    weight: Weight,
    window: u32,
}

/// How many blocks of each size class live that were handed out since the trace began, by bytes of a block.
pub type Born = BTreeMap<u64, f64>;

/// How sure the numbers of a site are that rest on samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Sampled blocks that live.
    pub blocks: u64,
    /// The independent draws that the site's share of its size classes is as good as; fewer than `blocks` where these came
    /// in few windows or have unequal weights, more where hardly anybody else uses these size classes.
    pub effective: f64,
    /// By how many blocks it grew a second.
    pub blocks_per_s: Rate,
    /// By how many requested bytes.
    pub bytes_per_s: Rate,
}

/// What turns weights into blocks: how many each block of a window stands for, by what was known of the heap.
#[derive(Clone, Debug)]
pub struct Scale {
    dense: f64,
    classes: BTreeMap<u64, f64>,
    others: f64,
}

/// Everything that is known of sampled blocks.
pub struct Sampled {
    started_at_ns: u64,
    axis: Axis,
    sites: Sites,
    blocks: FxHashMap<u64, Survivor>,
}

impl Sampled {
    /// No block so far.
    #[must_use]
    pub fn new(max_memory: usize, started_at_ns: u64) -> Self {
        Self {
            started_at_ns,
            axis: Axis::new(started_at_ns),
            sites: Sites::new(max_memory),
            blocks: FxHashMap::default(),
        }
    }

    /// The trace begins not when this was made but then, before any block.
    pub fn begin(&mut self, started_at_ns: u64) {
        self.started_at_ns = started_at_ns;
        self.axis = Axis::new(started_at_ns);
    }

    /// How many blocks live.
    #[must_use]
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Whether none does.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// A sampled block lives at `at_ns`; false where there is no room for its site.
    pub fn enter(&mut self, sample: &Sample<'_>, at_ns: u64) -> bool {
        self.leave(sample.address, at_ns);
        let Some(site) = self.sites.of(sample.stack, sample.domain, at_ns) else { return false };
        let &Sample { size, class, weight, window, .. } = sample;
        let born = sample.born_ns.saturating_sub(self.started_at_ns) / TICK_NS;
        let born = u32::try_from(born).unwrap_or(u32::MAX);
        self.sites.change(site, self.axis.open).enter(size, weight.births);
        let survivor = Survivor { site, size, class, born, weight, window };
        self.blocks.insert(sample.address, survivor);
        true
    }

    /// The block at `address`, if there is one that was sampled, is gone at `at_ns`.
    pub fn leave(&mut self, address: u64, at_ns: u64) {
        self.pass(at_ns);
        if let Some(block) = self.blocks.remove(&address) {
            let site = self.sites.change(block.site, self.axis.open);
            site.leave(block.size, block.weight.births);
            site.sink();
        }
    }

    /// The block at `address` stands for twice as many from now on, as another was dropped.
    pub fn double(&mut self, address: u64) {
        if let Some(block) = self.blocks.get_mut(&address) {
            self.sites.change(block.site, self.axis.open).enter(block.size, block.weight.births);
            block.weight.births *= 2;
        }
    }

    /// Lets time pass.
    pub fn pass(&mut self, at_ns: u64) {
        if at_ns >= self.axis.closes_at_ns {
            self.sites.go_on(&mut self.axis, at_ns);
        }
    }

    /// The snapshot `seen` of what was seen, with what lives of each site as it is estimated. `born` is what a census says
    /// of all sites together; `None` where pools cannot be counted. Returned with it: how many blocks of each size class
    /// that makes.
    #[must_use]
    pub fn estimate(&self, seen: &Snapshot, born: Option<&Born>) -> (Snapshot, Born) {
        self.estimate_by(seen, &self.scale(born))
    }

    /// What the sampled blocks that live stand for. `born` is what a census that was just taken says of all sites together;
    /// `None` where pools cannot be counted: then they stand for what their windows say.
    #[must_use]
    pub fn scale(&self, born: Option<&Born>) -> Scale {
        Scale::of(self.blocks.values(), born)
    }

    /// As [`Self::estimate`], by a scale that was found earlier, or just now.
    #[must_use]
    pub fn estimate_by(&self, seen: &Snapshot, scale: &Scale) -> (Snapshot, Born) {
        let mut own: FxHashMap<u32, Vec<&Survivor>> = FxHashMap::default();
        for block in self.blocks.values() {
            own.entry(block.site).or_default().push(block);
        }
        let weights = ClassWeights::of(self.blocks.values(), scale);
        let mut snapshot = seen.clone();
        snapshot.interval_ns = self.axis.interval_ns;
        for site in &mut snapshot.sites {
            site.estimated = site.estimated.scaled(scale.dense);
            let index = self.sites.index_of(&site.stack, site.domain);
            let known = index.map(|index| (&self.sites.list[index as usize], own.get(&index)));
            match known {
                Some((known, blocks)) => {
                    let blocks = blocks.map_or(&[][..], Vec::as_slice);
                    self.fill(site, known, blocks, scale, &weights, seen.at_ns);
                }
                None => fill_empty(site),
            }
        }
        (snapshot, weights.0)
    }

    /// How many sites have, or had, a sampled block.
    pub(super) fn site_count(&self) -> usize {
        self.sites.list.len()
    }

    /// Which of these `site` is.
    pub(super) fn index_of(&self, site: &SiteSnapshot) -> Option<usize> {
        self.sites.index_of(&site.stack, site.domain).map(|index| index as usize)
    }

    /// Every sampled block that lives, with its site.
    pub(super) fn weighed<'a>(
        &'a self,
        scale: &'a Scale,
    ) -> impl Iterator<Item = (usize, DrawnBlock)> + 'a {
        self.blocks.iter().map(|(&address, block)| {
            let drawn = DrawnBlock { address, size: block.size, weight: scale.blocks(block) };
            (block.site as usize, drawn)
        })
    }

    fn fill(
        &self,
        shown: &mut SiteSnapshot,
        site: &Site,
        blocks: &[&Survivor],
        scale: &Scale,
        weights: &ClassWeights,
        at_ns: u64,
    ) {
        let raw: f64 = blocks.iter().map(|block| block.weight.births as f64).sum();
        let scaled: f64 = blocks.iter().map(|block| scale.blocks(block)).sum();
        let bytes: f64 = blocks.iter().map(|b| scale.blocks(b) * b.size as f64).sum();
        let factor = if raw > 0.0 { scaled / raw } else { scale.others };
        let mut points = points_until_now(site, self.axis.open);
        let mut born: Vec<u32> = blocks.iter().map(|block| block.born).collect();
        born.sort_unstable();
        count_survivors(&mut points, &born, self.axis.interval_ns);
        let mean = scaled / blocks.len().max(1) as f64;
        points.iter_mut().for_each(|point| rescale(point, factor, mean));
        let effective = weights.effective(blocks, scale);
        let end = (scaled, bytes);
        let passed_ns = at_ns.saturating_sub(self.started_at_ns);
        let rates = self.growth(&points, &born, end, effective, passed_ns);
        shown.points = points;
        shown.ages_ns = ages(&born, passed_ns);
        shown.counts = counts(shown, scaled, bytes);
        let (blocks_per_s, bytes_per_s) = rates;
        let blocks = blocks.len() as u64;
        shown.sampling = Some(Sampling { blocks, effective, blocks_per_s, bytes_per_s });
    }

    /// Blocks and bytes by which a site grew a second: what lives in the end. Of a count that only adds up, this uses all
    /// there is; no line through its points is closer. Where more of it came at the very beginning than chance would have
    /// it, as when caches are filled, what lived then is left out.
    fn growth(
        &self,
        points: &[Point],
        born: &[u32],
        end: (f64, f64),
        effective: f64,
        passed_ns: u64,
    ) -> (Rate, Rate) {
        let from_ns = passed_ns / SETTLED_PART;
        let early = born.partition_point(|&tick| u64::from(tick) * TICK_NS < from_ns) as f64;
        let expected = born.len() as f64 / SETTLED_PART as f64;
        if early <= expected + 3.0 * expected.sqrt() + 1.0 {
            let seconds = passed_ns.max(1) as f64 / 1e9;
            let rate = |grown: f64| Rate::of(grown / seconds, effective);
            return (rate(end.0), rate(end.1));
        }
        // A block counts from its first look on, which comes that much after its birth.
        let index = from_ns.saturating_add(FIRST_LOOK_NS) / self.axis.interval_ns;
        let before = points.iter().rev().find(|point| u64::from(point.index) < index.max(1));
        let before = before.copied().unwrap_or_default();
        let seconds = (passed_ns - from_ns).max(1) as f64 / 1e9;
        let rate = |grown: f64| Rate::of(grown / seconds, effective);
        (rate(end.0 - f64::from(before.live_blocks)), rate(end.1 - before.live_bytes as f64))
    }
}

/// A site of whose sampled births none outlived its window.
fn fill_empty(site: &mut SiteSnapshot) {
    site.points.clear();
    site.ages_ns = None;
    site.counts = counts(site, 0.0, 0.0);
    let none = Rate::of(0.0, 0.0);
    site.sampling =
        Some(Sampling { blocks: 0, effective: 0.0, blocks_per_s: none, bytes_per_s: none });
}

/// All births as they are estimated; those that do not live have died.
fn counts(site: &SiteSnapshot, live: f64, live_bytes: f64) -> Counts {
    let (live, live_bytes) = (live.round() as u64, live_bytes.round() as u64);
    let allocations = site.estimated.allocations.max(live);
    let allocated_bytes = site.estimated.bytes.max(live_bytes);
    Counts {
        allocations,
        frees: allocations - live,
        allocated_bytes,
        freed_bytes: allocated_bytes - live_bytes,
    }
}

fn rescale(point: &mut Point, factor: f64, mean: f64) {
    let times = |count: u32| (f64::from(count) * factor).round() as u32;
    let bytes = |count: u64| (count as f64 * factor).round() as u64;
    point.live_blocks = times(point.live_blocks);
    point.low_blocks = times(point.low_blocks);
    point.live_bytes = bytes(point.live_bytes);
    point.low_bytes = bytes(point.low_bytes);
    point.births = bytes(point.births);
    point.survivors = (f64::from(point.survivors) * mean).round() as u32;
}

impl Scale {
    /// The scale of dense windows is what makes all classes together what the census says; then each class is made what it
    /// says of that class, as far as enough of it was sampled.
    fn of<'a>(blocks: impl Iterator<Item = &'a Survivor> + Clone, born: Option<&Born>) -> Self {
        let Some(born) = born else {
            return Self { dense: 1.0, classes: BTreeMap::new(), others: 1.0 };
        };
        let pooled = |dense: bool| -> f64 {
            blocks
                .clone()
                .filter(|block| block.class > 0 && block.weight.dense == dense)
                .map(|block| block.weight.births as f64)
                .sum()
        };
        let all: f64 = born.values().sum();
        let (sparse, dense) = (pooled(false), pooled(true));
        let mut scale = Self { dense: 1.0, classes: BTreeMap::new(), others: 1.0 };
        if dense > 0.0 && all > sparse {
            scale.dense = (all - sparse) / dense;
        }
        let mut sums: BTreeMap<u64, (f64, u64)> = BTreeMap::new();
        for block in blocks.filter(|block| block.class > 0) {
            let sum = sums.entry(block.class).or_default();
            sum.0 += scale.window(block);
            sum.1 += 1;
        }
        for (class, (weight, count)) in sums {
            let known = born.get(&class).copied().unwrap_or(0.0).max(0.0);
            let ratio = if weight > 0.0 { known / weight } else { 1.0 };
            // Of a few samples the ratio is chance: it is drawn towards what holds for all.
            let trust = count as f64 / (count as f64 + FEW);
            scale.classes.insert(class, ratio * trust + (1.0 - trust));
        }
        scale
    }

    /// What a block stands for by its window.
    fn window(&self, block: &Survivor) -> f64 {
        let Weight { births, dense } = block.weight;
        births as f64 * if dense { self.dense } else { 1.0 }
    }

    /// What a block stands for.
    fn blocks(&self, block: &Survivor) -> f64 {
        let class = self.classes.get(&block.class).copied().unwrap_or(self.others);
        self.window(block) * class
    }
}

/// Samples of a size class that are few.
const FEW: f64 = 3.0;

/// What all sites together have in each size class.
struct ClassWeights(BTreeMap<u64, f64>);

impl ClassWeights {
    fn of<'a>(blocks: impl Iterator<Item = &'a Survivor>, scale: &Scale) -> Self {
        let mut weights: BTreeMap<u64, f64> = BTreeMap::new();
        for block in blocks.filter(|block| block.class > 0) {
            *weights.entry(block.class).or_default() += scale.blocks(block);
        }
        Self(weights)
    }

    /// See [`Sampling::effective`]. Blocks of one window are one draw.
    fn effective(&self, blocks: &[&Survivor], scale: &Scale) -> f64 {
        let sum: f64 = blocks.iter().map(|block| scale.blocks(block)).sum();
        if sum <= 0.0 {
            return 0.0;
        }
        let mut windows: FxHashMap<u32, f64> = FxHashMap::default();
        for block in blocks {
            *windows.entry(block.window).or_default() += scale.blocks(block);
        }
        let squares: f64 = windows.values().map(|weight| weight * weight).sum();
        let mut classes: BTreeMap<u64, f64> = BTreeMap::new();
        for block in blocks.iter().filter(|block| block.class > 0) {
            *classes.entry(block.class).or_default() += scale.blocks(block);
        }
        let share = |(class, own): (&u64, &f64)| own / sum * own / self.0[class].max(1e-9);
        let share: f64 = classes.iter().map(share).sum();
        sum * sum / squares / (1.0 - share).max(LEAST_REST)
    }
}

/// However much of a size class is a site's, the heap's count is no better than that.
const LEAST_REST: f64 = 0.02;
