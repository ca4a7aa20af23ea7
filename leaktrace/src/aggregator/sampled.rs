//! Blocks that were seen being handed out in a window and still lived when they were looked at later: what lives of each
//! site along the time axis, where most of what the target does goes unseen.
//!
//! Each stands for as many as its window stands for: its weight. Weights of windows that were hardly anything but probes
//! (dense ones) are right among themselves, not against others: what is known of the heap sets their scale in the end
//! (see [`Scale`]).

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use super::curve::{Spot, joined};
use super::domain::Domain;
use super::drawn::DrawnBlock;
use super::levels::{ClassSums, Levels};
use super::rate::Rate;
use super::scale::{ClassWeights, Scale, effective};
use super::series::{self, Axis, Point};
use super::site::Weight;
use super::sites::{Sites, points_until_now};
use super::snapshot::{SiteSnapshot, Snapshot, add_survivors, ages};
use super::{Counts, TICK_NS};
use crate::stack::Stack;

/// The part of the trace that it takes to settle: what lives on from then is not all that grew.
const SETTLED_PART: u64 = 20;

/// How far what is taken for a dense window's own work may be off, either way.
const LOOSE: f64 = 10.0;

/// Sampled blocks that a site must have for its series to follow what the heap did between its own changes.
const FOLLOWED: usize = 8;

/// Counts that it follows at most, evenly spread.
const MOST_FOLLOWED: usize = 60;

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
pub(super) struct Survivor {
    site: u32,
    size: u64,
    pub(super) class: u64,
    /// When it was handed out, in [`TICK_NS`] since the trace began.
    born: u32,
    /// When it came to count, likewise.
    counts_from: u32,
    pub(super) weight: Weight,
    pub(super) window: u32,
}

/// How many blocks of each size class live that were handed out since the trace began, by bytes of a block.
pub type Born = BTreeMap<u64, f64>;

/// How sure the numbers of a site are that rest on samples.
#[derive(Clone, Debug, PartialEq)]
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
    /// For each point the fewest live blocks, and those at the end of its interval, as windows alone say, in proportion: what
    /// [`Point::survivors`] are to be held against, as they are counted by the same weights. `None` where nothing was
    /// sampled.
    pub by_windows: Option<Vec<(f64, f64)>>,
}

/// Everything that is known of sampled blocks.
pub struct Sampled {
    started_at_ns: u64,
    axis: Axis,
    sites: Sites,
    blocks: FxHashMap<u64, Survivor>,
    levels: Levels,
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
            levels: Levels::default(),
        }
    }

    /// A census at `at_ns` says that so much lives that was born since the trace began; `young` are the samples that lived then
    /// and had not been entered. Returned is what those that were entered stand for.
    pub fn mark(&mut self, at_ns: u64, born: Born, young: ClassSums) -> Scale {
        self.pass(at_ns);
        let dense = self.scale(Some(&born)).dense;
        self.levels.mark(at_ns.saturating_sub(self.started_at_ns), born, young);
        self.scale(Some(&self.levels.counted_last(dense)))
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
        let &Sample { stack, domain, size, class, weight, window, .. } = sample;
        let Some(site) = self.sites.of(stack, (domain, weight.dense), at_ns) else { return false };
        let tick = |at_ns: u64| {
            let ticks = at_ns.saturating_sub(self.started_at_ns) / TICK_NS;
            u32::try_from(ticks).unwrap_or(u32::MAX)
        };
        let (born, counts_from) = (tick(sample.born_ns), tick(at_ns));
        self.sites.change(site, self.axis.open).enter(size, weight.births);
        self.levels.enter(class, self.axis.open, weight.births, weight.dense);
        let survivor = Survivor { site, size, class, born, counts_from, weight, window };
        self.blocks.insert(sample.address, survivor);
        true
    }

    /// The block at `address`, if there is one that was sampled, is gone at `at_ns`.
    pub fn leave(&mut self, address: u64, at_ns: u64) {
        self.pass(at_ns);
        if let Some(block) = self.blocks.remove(&address) {
            let site = self.sites.change(block.site, self.axis.open);
            let Weight { births, dense } = block.weight;
            site.leave(block.size, births);
            site.sink();
            self.levels.leave(block.class, self.axis.open, births, dense);
        }
    }

    /// The block at `address` stands for twice as many from now on, as another was dropped.
    pub fn double(&mut self, address: u64) {
        if let Some(block) = self.blocks.get_mut(&address) {
            let Weight { births, dense } = block.weight;
            self.sites.change(block.site, self.axis.open).enter(block.size, births);
            self.levels.add(block.class, self.axis.open, births, dense);
            block.weight.births *= 2;
        }
    }

    /// Lets time pass.
    pub fn pass(&mut self, at_ns: u64) {
        if at_ns >= self.axis.closes_at_ns {
            for _ in 0..self.sites.go_on(&mut self.axis, at_ns) {
                self.levels.coarsen();
            }
        }
    }

    /// What the sampled blocks that live stand for. `born` is what a census that was just taken says of all sites together;
    /// `None` where pools cannot be counted: then they stand for what their windows say.
    #[must_use]
    pub fn scale(&self, born: Option<&Born>) -> Scale {
        Scale::of(self.blocks.values(), born)
    }

    /// The snapshot `seen` of what was seen, with what lives of each site as it is estimated: `scale` was found just now or
    /// earlier. With `whole_raw` the numbers of raw sites are true as they were seen. Returned with it: how many blocks of
    /// each size class that makes.
    #[must_use]
    pub fn estimate(&self, seen: &Snapshot, scale: &Scale, whole_raw: bool) -> (Snapshot, Born) {
        let mut own: FxHashMap<u32, Vec<&Survivor>> = FxHashMap::default();
        for block in self.blocks.values() {
            own.entry(block.site).or_default().push(block);
        }
        let passed_ns = seen.at_ns.saturating_sub(self.started_at_ns);
        let weights = ClassWeights::of(self.blocks.values(), scale, &self.levels, passed_ns);
        let mut snapshot = seen.clone();
        snapshot.interval_ns = self.axis.interval_ns;
        for site in &mut snapshot.sites {
            if whole_raw && site.domain == Domain::Raw {
                series::fit(&mut site.points, seen.interval_ns, &self.axis);
                continue;
            }
            site.estimated = site.estimated.scaled(scale.dense);
            let known = self.sites.indices_of(&site.stack, site.domain);
            if known == [None; 2] {
                fill_empty(site);
                continue;
            }
            let blocks = known.iter().flatten().filter_map(|index| own.get(index)).flatten();
            let blocks: Vec<&Survivor> = blocks.copied().collect();
            self.fill(site, (known, &blocks), scale, &weights, passed_ns);
        }
        (snapshot, weights.all)
    }

    /// How many sites have, or had, a sampled block.
    pub(super) fn site_count(&self) -> usize {
        self.sites.list.len()
    }

    /// Which of these `site` is: it is as many as there are kinds of windows.
    pub(super) fn indices_of(&self, site: &SiteSnapshot) -> impl Iterator<Item = usize> {
        let indices = self.sites.indices_of(&site.stack, site.domain);
        indices.into_iter().flatten().map(|index| index as usize)
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
        (known, blocks): ([Option<u32>; 2], &[&Survivor]),
        scale: &Scale,
        weights: &ClassWeights,
        passed_ns: u64,
    ) {
        let by_windows: f64 = blocks.iter().map(|block| scale.window(block)).sum();
        let scaled: f64 = blocks.iter().map(|block| scale.blocks(block)).sum();
        let bytes: f64 = blocks.iter().map(|b| scale.blocks(b) * b.size as f64).sum();
        let factor = if by_windows > 0.0 { scaled / by_windows } else { scale.others };
        let spots = self.spots(known, scale, blocks.len(), passed_ns);
        let parts = weights.parts(blocks, scale);
        let point = |spot: &Spot| {
            let end_ns = (u64::from(spot.index) + 1).saturating_mul(self.axis.interval_ns);
            let at = (spot.index, end_ns.min(passed_ns));
            let all: f64 = parts.iter().map(|part| part.blocks(at, spot.live)).sum();
            let rate = if parts.is_empty() { factor } else { all / spot.live };
            spot.point(if spot.live > 0.0 { rate } else { 0.0 }, factor)
        };
        let mut points: Vec<Point> = spots.iter().map(point).collect();
        // Held against what was counted at the same time: from when they count, not from their birth.
        let survivor = |block: &&Survivor| (block.counts_from, scale.window(block) * factor);
        let mut survivors: Vec<(u32, f64)> = blocks.iter().map(survivor).collect();
        survivors.sort_unstable_by_key(|&(tick, _)| tick);
        add_survivors(&mut points, survivors, self.axis.interval_ns);
        let mut born: Vec<u32> = blocks.iter().map(|block| block.born).collect();
        born.sort_unstable();
        let effective = effective(blocks, &parts, scale);
        let rates = self.growth(&points, &born, (scaled, bytes), effective, passed_ns);
        shown.points = points;
        shown.ages_ns = ages(&born, passed_ns);
        shown.counts = counts(shown, scaled, bytes);
        let loose = scale.loose_share(blocks);
        shown.sampling = Some(Sampling {
            blocks: blocks.len() as u64,
            effective,
            blocks_per_s: rates.0.loosened(loose, LOOSE),
            bytes_per_s: rates.1.loosened(loose, LOOSE),
            by_windows: Some(
                spots.iter().map(|spot| (spot.low * factor, spot.live * factor)).collect(),
            ),
        });
    }

    /// A site along the axis; one that rests on enough `blocks` also at the time of each count, as it shares in what the
    /// heap did between its own changes.
    fn spots(
        &self,
        known: [Option<u32>; 2],
        scale: &Scale,
        blocks: usize,
        passed_ns: u64,
    ) -> Vec<Spot> {
        let points = known.map(|index| {
            let site = index.and_then(|index| self.sites.list.get(index as usize));
            site.map_or_else(Vec::new, |site| points_until_now(site, self.axis.open))
        });
        let step = self.levels.marks().len().div_ceil(MOST_FOLLOWED).max(1);
        let marks = self.levels.marks().step_by(step).filter(|_| blocks >= FOLLOWED);
        // In the end all have what their blocks stand for.
        let end = (blocks > 0).then_some(passed_ns);
        let index = |at_ns: u64| (at_ns.min(passed_ns) / self.axis.interval_ns) as u32;
        let more = marks.chain(end).map(index);
        joined(&points[0], (&points[1], scale.dense), more)
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
    site.sampling = Some(Sampling {
        blocks: 0,
        effective: 0.0,
        blocks_per_s: none,
        bytes_per_s: none,
        by_windows: None,
    });
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
