//! What the heap's counts say of each size class along the trace, and what was sampled of it at each time: a site has its
//! share of the samples of a time of what was counted then, so that samples of one time that stood for too much or too
//! little bend nothing.

use std::collections::BTreeMap;

use super::sampled::Born;

/// Counts that are kept; of more, every second one is dropped.
const MOST_MARKS: usize = 200;

/// Samples that are few.
pub(super) const FEW: f64 = 3.0;

/// The weights of samples, by whether their windows were dense.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Weights {
    /// Of all other windows.
    pub sparse: u64,
    /// Of dense ones.
    pub dense: u64,
}

/// The weights of samples, by bytes of their size class.
pub type ClassSums = BTreeMap<u64, Weights>;

impl Weights {
    /// One more.
    pub(crate) fn add(&mut self, births: u64, dense: bool) {
        let sum = if dense { &mut self.dense } else { &mut self.sparse };
        *sum = sum.saturating_add(births);
    }

    /// One less.
    fn take(&mut self, births: u64, dense: bool) {
        let sum = if dense { &mut self.dense } else { &mut self.sparse };
        *sum = sum.saturating_sub(births);
    }

    /// The sum, where those of dense windows count `dense` times.
    pub(super) fn sum(self, dense: f64) -> f64 {
        self.sparse as f64 + dense * self.dense as f64
    }
}

/// A count of the heap.
#[derive(Clone, Debug)]
struct Mark {
    /// Since the trace began.
    at_ns: u64,
    /// What lives of each size class that was born since.
    born: Born,
    /// The samples of then that counted, and those that lived but were too young for that.
    held: ClassSums,
    young: ClassSums,
}

impl Mark {
    /// What lives of a class of those blocks that are old enough to count as samples, and the weights of these. A working set
    /// of blocks that live for less than that is in every count, and no site's.
    fn counted(&self, class: u64, dense: f64) -> (f64, f64) {
        let sum = |sums: &ClassSums| sums.get(&class).map_or(0.0, |sum| sum.sum(dense));
        let (held, young) = (sum(&self.held), sum(&self.young));
        let born = self.born.get(&class).copied().unwrap_or(0.0);
        (if held > 0.0 { born * held / (held + young) } else { born }, held)
    }
}

/// What lives of the samples of a size class at the end of one interval: the sums of their weights, by whether their windows
/// were dense, and how many.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Held {
    index: u32,
    weights: Weights,
    blocks: u32,
}

/// All counts, and the samples.
#[derive(Clone, Debug, Default)]
pub(super) struct Levels {
    marks: Vec<Mark>,
    classes: BTreeMap<u64, Vec<Held>>,
}

impl Levels {
    /// Adds a count, later than all before; `young` are the samples that lived then but did not count yet.
    pub(super) fn mark(&mut self, at_ns: u64, born: Born, young: ClassSums) {
        if self.marks.len() >= MOST_MARKS {
            let mut index = 0;
            self.marks.retain(|_| {
                index += 1;
                index % 2 == 0
            });
        }
        let last = |(&class, held): (&u64, &Vec<Held>)| Some((class, held.last()?.weights));
        let held = self.classes.iter().filter_map(last).collect();
        self.marks.push(Mark { at_ns, born, held, young });
    }

    /// When the heap was counted.
    pub(super) fn marks(&self) -> impl ExactSizeIterator<Item = u64> + '_ {
        self.marks.iter().map(|mark| mark.at_ns)
    }

    /// What the last count says of each size class, without what is too young to count as a sample.
    pub(super) fn counted_last(&self, dense: f64) -> Born {
        let Some(mark) = self.marks.last() else { return Born::new() };
        mark.born.keys().map(|&class| (class, mark.counted(class, dense).0)).collect()
    }

    /// A sample of this weight came to live in the open interval.
    pub(super) fn enter(&mut self, class: u64, open: u32, births: u64, dense: bool) {
        self.add(class, open, births, dense);
        self.held(class, open).blocks += 1;
    }

    /// One that lives stands for so many more.
    pub(super) fn add(&mut self, class: u64, open: u32, births: u64, dense: bool) {
        self.held(class, open).weights.add(births, dense);
    }

    /// One of them died.
    pub(super) fn leave(&mut self, class: u64, open: u32, births: u64, dense: bool) {
        let held = self.held(class, open);
        held.weights.take(births, dense);
        held.blocks = held.blocks.saturating_sub(1);
    }

    fn held(&mut self, class: u64, open: u32) -> &mut Held {
        let held = self.classes.entry(class).or_default();
        let last = held.last().copied().unwrap_or_default();
        if held.is_empty() || last.index < open {
            held.push(Held { index: open, ..last });
        }
        let last = held.len() - 1;
        &mut held[last]
    }

    /// Follows the axis when its interval doubles.
    pub(super) fn coarsen(&mut self) {
        for held in self.classes.values_mut() {
            held.iter_mut().for_each(|held| held.index /= 2);
            // Of two in one interval the later one holds at its end.
            held.reverse();
            held.dedup_by_key(|held| held.index);
            held.reverse();
        }
    }

    /// What is known of a size class of a trace of `passed_ns`, of which `in_the_end` live; samples of dense windows stand
    /// for `dense` times as many as they say. `None` where the heap was never counted.
    pub(super) fn of_class(
        &self,
        class: u64,
        dense: f64,
        (passed_ns, in_the_end): (u64, f64),
    ) -> Option<Level> {
        let marks = || self.marks.iter().filter(|mark| mark.at_ns < passed_ns);
        let first = marks().next().filter(|_| class > 0)?;
        let counted = marks().map(|mark| (mark.at_ns, mark.counted(class, dense).0));
        let counted = counted.chain([(passed_ns, in_the_end)]).collect();
        let held = self.classes.get(&class).into_iter().flatten();
        let sampled =
            held.map(|held| (held.index, held.weights.sum(dense), f64::from(held.blocks)));
        let at_first = first.counted(class, dense).1;
        Some(Level { counted, sampled: sampled.collect(), at_first })
    }
}

/// A size class along the trace.
#[derive(Clone, Debug)]
pub(super) struct Level {
    /// How many blocks live that were born since the trace began, at each count.
    counted: Vec<(u64, f64)>,
    /// The sum of the weights of the samples that live at the end of each interval, and their number.
    sampled: Vec<(u32, f64, f64)>,
    /// That sum at the first count.
    at_first: f64,
}

impl Level {
    /// How many blocks of the class a site has at the end of an interval, at `at_ns`, whose samples have a sum of weights of
    /// `weight` then. Of a few samples in all its share is drawn to the `share` that it has in the end.
    pub(super) fn blocks(&self, (index, at_ns): (u32, u64), weight: f64, share: f64) -> f64 {
        let after = self.sampled.partition_point(|&(of, ..)| of <= index);
        let (_, all, blocks) = after.checked_sub(1).map_or((0, 0.0, 0.0), |at| self.sampled[at]);
        let trust = if all > 0.0 { blocks / (blocks + FEW) } else { 0.0 };
        let now = if all > 0.0 { (weight / all).min(1.0) } else { 0.0 };
        self.counted_at(at_ns, all) * (now * trust + share * (1.0 - trust))
    }

    /// How many there are at a time at which the samples have a sum of weights of `all`: before the first count as these say,
    /// between two as if it had grown evenly.
    fn counted_at(&self, at_ns: u64, all: f64) -> f64 {
        let after = self.counted.partition_point(|&(at, _)| at < at_ns);
        match (after.checked_sub(1).and_then(|at| self.counted.get(at)), self.counted.get(after)) {
            (Some(&(from, before)), Some(&(to, next))) => {
                let part = (at_ns - from) as f64 / (to - from).max(1) as f64;
                before + (next - before) * part
            }
            (Some(&(_, last)), None) => last,
            // Not more: samples that were wrong went before they could be set right.
            (None, Some(&(_, first))) if self.at_first > 0.0 => {
                first * (all / self.at_first).min(1.0)
            }
            (None, Some(&(to, first))) => first * at_ns as f64 / to.max(1) as f64,
            (None, None) => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn born(blocks: f64) -> Born {
        Born::from([(48, blocks)])
    }

    fn near(value: f64, expected: f64) {
        assert!((value - expected).abs() < 1e-9, "{value} of {expected}");
    }

    /// A hundred blocks a second for 30 s; one interval is a second.
    fn counted() -> Levels {
        let mut levels = Levels::default();
        levels.mark(10 * SECOND, born(1_000.0), ClassSums::new());
        levels.mark(20 * SECOND, born(2_000.0), ClassSums::new());
        levels
    }

    #[test]
    fn samples_that_stood_for_too_much_early_on_bend_nothing() {
        let mut levels = counted();
        // All of the class is one site's; its early windows weigh ten times as much as the later ones.
        (0..1_000).for_each(|n| levels.enter(48, n / 100, if n < 200 { 10 } else { 1 }, true));
        let level = levels.of_class(48, 0.5, (30 * SECOND, 3_000.0)).unwrap();
        let blocks = |second: u32, weight| {
            level.blocks((second - 1, u64::from(second) * SECOND), weight, 1.0)
        };
        near(blocks(2, 1_000.0), 200.0);
        near(blocks(10, 0.5 * 2_800.0), 1_000.0);
        near(blocks(15, 0.5 * 2_800.0), 1_500.0);
        near(blocks(30, 0.5 * 2_800.0), 3_000.0);
    }

    #[test]
    fn a_site_has_its_share_of_the_samples_of_each_time() {
        let mut levels = counted();
        (0..997).for_each(|_| levels.enter(48, 4, 2, false));
        (0..997).for_each(|_| levels.enter(48, 14, 1, true));
        let level = levels.of_class(48, 2.0, (30 * SECOND, 3_000.0)).unwrap();
        // All of the first samples, and then half of all.
        near(level.blocks((9, 10 * SECOND), 1_994.0, 0.5), 1_000.0 * (997.0 + 1.5) / 1_000.0);
        let later = level.blocks((19, 20 * SECOND), 1_994.0, 0.5);
        near(later, 1_000.0);
        (0..997).for_each(|_| levels.leave(48, 25, 2, false));
        let level = levels.of_class(48, 2.0, (30 * SECOND, 3_000.0)).unwrap();
        near(level.blocks((29, 30 * SECOND), 1_994.0, 1.0), 3_000.0);
    }

    #[test]
    fn a_working_set_that_is_too_young_to_count_is_no_sites() {
        let mut levels = Levels::default();
        // Ten blocks a second are kept, and 900 others live for some milliseconds.
        (0..100).for_each(|n| levels.enter(48, n / 10, 1, true));
        let young = ClassSums::from([(48, Weights { sparse: 0, dense: 900 })]);
        levels.mark(10 * SECOND, born(2_000.0), young);
        near(levels.counted_last(2.0)[&48], 200.0);
        let level = levels.of_class(48, 2.0, (20 * SECOND, 400.0)).unwrap();
        near(level.blocks((9, 10 * SECOND), 200.0, 1.0), 200.0);
        // Before the first count it grows as the samples do.
        near(level.blocks((4, 5 * SECOND), 100.0, 1.0), 100.0);
        near(level.blocks((14, 15 * SECOND), 200.0, 1.0), 300.0);
    }

    #[test]
    fn before_anything_was_sampled_a_site_has_its_share_in_the_end() {
        let level = counted().of_class(48, 1.0, (30 * SECOND, 3_000.0)).unwrap();
        near(level.blocks((4, 5 * SECOND), 0.0, 0.25), 125.0);
        assert!(counted().of_class(0, 1.0, (30 * SECOND, 0.0)).is_none());
        assert!(Levels::default().of_class(48, 1.0, (30 * SECOND, 3_000.0)).is_none());
    }

    #[test]
    fn intervals_are_merged_in_pairs() {
        let mut levels = counted();
        (0..4).for_each(|index| levels.enter(48, index, 1, false));
        levels.coarsen();
        let level = levels.of_class(48, 1.0, (30 * SECOND, 3_000.0)).unwrap();
        assert_eq!(level.sampled, [(0, 2.0, 2.0), (1, 4.0, 4.0)]);
    }

    #[test]
    fn counts_are_bounded() {
        let mut levels = Levels::default();
        (1..10_000).for_each(|second| levels.mark(second * SECOND, born(1.0), ClassSums::new()));
        assert!(levels.marks.len() <= MOST_MARKS);
        assert_eq!(levels.marks().last(), Some(9_999 * SECOND));
    }
}
