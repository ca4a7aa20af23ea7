//! How many blocks each sampled one stands for: what its window says, as the heap's count puts it right.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use super::levels::{FEW, Level, Levels};
use super::sampled::{Born, Survivor};
use super::site::Weight;

/// What turns weights into blocks: how many each block of a window stands for, by what was known of the heap.
#[derive(Clone, Debug)]
pub struct Scale {
    pub(super) dense: f64,
    classes: BTreeMap<u64, f64>,
    pub(super) others: f64,
    /// Whether the heap was counted.
    counted: bool,
}

impl Scale {
    /// The scale of dense windows is what makes all classes together what the census says; then each class is made what it
    /// says of that class, as far as enough of it was sampled.
    pub(super) fn of<'a>(
        blocks: impl Iterator<Item = &'a Survivor> + Clone,
        born: Option<&Born>,
    ) -> Self {
        let Some(born) = born else {
            return Self { dense: 1.0, classes: BTreeMap::new(), others: 1.0, counted: false };
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
        let mut scale = Self { dense: 1.0, classes: BTreeMap::new(), others: 1.0, counted: true };
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

    /// The share of `blocks` that come from dense windows and are of no size class that the heap's count knows: nothing says
    /// what those windows stand for.
    pub(super) fn loose_share(&self, blocks: &[&Survivor]) -> f64 {
        let sum = |loose: bool| -> f64 {
            let is_loose = |block: &Survivor| {
                block.weight.dense && !(self.counted && self.classes.contains_key(&block.class))
            };
            let wanted = blocks.iter().filter(|block| !loose || is_loose(block));
            wanted.map(|block| self.blocks(block)).sum()
        };
        let all = sum(false);
        if all > 0.0 { sum(true) / all } else { 0.0 }
    }

    /// What a block stands for by its window.
    pub(super) fn window(&self, block: &Survivor) -> f64 {
        let Weight { births, dense } = block.weight;
        births as f64 * if dense { self.dense } else { 1.0 }
    }

    /// What a block stands for.
    pub(super) fn blocks(&self, block: &Survivor) -> f64 {
        let class = self.classes.get(&block.class).copied().unwrap_or(self.others);
        self.window(block) * class
    }
}

/// What all sites together have in each size class, and what is known of it along the trace.
pub(super) struct ClassWeights {
    /// In blocks.
    pub(super) all: BTreeMap<u64, f64>,
    levels: BTreeMap<u64, Level>,
}

/// What a site has of one size class in the end.
pub(super) struct ClassPart<'a> {
    /// Its share of the site's samples, by what their windows stand for.
    part: f64,
    /// How many blocks that is in the end, and a sample with a weight of one.
    own: f64,
    scale: f64,
    /// The site's share of the class.
    share: f64,
    level: Option<&'a Level>,
}

impl ClassPart<'_> {
    /// How many blocks of the class a site has at the end of an interval, at `at_ns`, whose samples have a sum of weights
    /// of `weight` then.
    pub(super) fn blocks(&self, at: (u32, u64), weight: f64) -> f64 {
        let own = weight * self.part;
        self.level.map_or(own * self.scale, |level| level.blocks(at, own, self.share))
    }
}

impl ClassWeights {
    /// Of all sampled blocks, and what `levels` knows of a trace of `passed_ns`.
    pub(super) fn of<'a>(
        blocks: impl Iterator<Item = &'a Survivor>,
        scale: &Scale,
        levels: &Levels,
        passed_ns: u64,
    ) -> Self {
        let mut all: BTreeMap<u64, f64> = BTreeMap::new();
        for block in blocks.filter(|block| block.class > 0) {
            *all.entry(block.class).or_default() += scale.blocks(block);
        }
        let level =
            |(&class, &all)| Some((class, levels.of_class(class, scale.dense, (passed_ns, all))?));
        let levels = all.iter().filter_map(level).collect();
        Self { all, levels }
    }

    /// The size classes of a site, as its blocks are in the end.
    pub(super) fn parts(&self, blocks: &[&Survivor], scale: &Scale) -> Vec<ClassPart<'_>> {
        let mut classes: BTreeMap<u64, (f64, f64)> = BTreeMap::new();
        for block in blocks {
            let sums = classes.entry(block.class).or_default();
            sums.0 += scale.window(block);
            sums.1 += scale.blocks(block);
        }
        let sum: f64 = classes.values().map(|sums| sums.0).sum();
        let part = |(class, (weight, own)): (u64, (f64, f64))| ClassPart {
            part: if sum > 0.0 { weight / sum } else { 0.0 },
            own,
            scale: if weight > 0.0 { own / weight } else { scale.others },
            share: self.all.get(&class).map_or(0.0, |all| own / all.max(1e-9)),
            level: self.levels.get(&class),
        };
        classes.into_iter().map(part).collect()
    }
}

/// See [`Sampling::effective`](super::Sampling::effective): of the blocks of a site, whose size classes are `parts`. Blocks of
/// one window are one draw.
pub(super) fn effective(blocks: &[&Survivor], parts: &[ClassPart<'_>], scale: &Scale) -> f64 {
    let sum: f64 = parts.iter().map(|part| part.own).sum();
    if sum <= 0.0 {
        return 0.0;
    }
    let mut windows: FxHashMap<u32, f64> = FxHashMap::default();
    for block in blocks {
        *windows.entry(block.window).or_default() += scale.blocks(block);
    }
    let squares: f64 = windows.values().map(|weight| weight * weight).sum();
    let share: f64 = parts.iter().map(|part| part.own / sum * part.share).sum();
    sum * sum / squares / (1.0 - share).max(LEAST_REST)
}

/// However much of a size class is a site's, the heap's count is no better than that.
const LEAST_REST: f64 = 0.02;
