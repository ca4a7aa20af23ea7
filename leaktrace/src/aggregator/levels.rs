//! What the heap's counts along the trace say of samples: how far those of a size class stood for too much or too little
//! at each time, against what they stand for in the end.

use std::collections::BTreeMap;

use super::sampled::{Born, FIRST_LOOK_NS};

/// Marks that are kept; of more, every second one is dropped.
const MOST_MARKS: usize = 200;

/// How far a count may correct the samples of its time.
const FARTHEST: f64 = 10.0;

/// What was sampled of a size class: the sums of the weights that live, by whether their windows were dense, and how many.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sum {
    pub(super) sparse: f64,
    pub(super) dense: f64,
    pub(super) blocks: u64,
}

/// A count of the heap.
#[derive(Clone, Debug)]
struct Mark {
    /// Since the trace began.
    at_ns: u64,
    /// What lives that was born since.
    born: Born,
    /// What was sampled of that.
    sampled: BTreeMap<u64, Sum>,
}

/// All counts.
#[derive(Clone, Debug, Default)]
pub(super) struct Levels {
    marks: Vec<Mark>,
    /// Until when everything was seen.
    whole_ns: u64,
}

impl Levels {
    /// Everything was seen until then, before the first count.
    pub(super) fn whole_until(&mut self, at_ns: u64) {
        self.whole_ns = at_ns;
    }

    /// Adds a count, later than all before.
    pub(super) fn mark(&mut self, at_ns: u64, born: Born, sampled: BTreeMap<u64, Sum>) {
        if self.marks.len() >= MOST_MARKS {
            let mut index = 0;
            self.marks.retain(|_| {
                index += 1;
                index % 2 == 0
            });
        }
        self.marks.push(Mark { at_ns, born, sampled });
    }

    /// By what to multiply what the samples of a size class say at each mark, where they are multiplied by `in_the_end` for
    /// the end, and those of dense windows by `dense` before. Of a few samples that is drawn towards 1, with `few` as
    /// strong as what was seen.
    pub(super) fn of_class(&self, class: u64, in_the_end: f64, dense: f64, few: f64) -> Level {
        let factor = |mark: &Mark| {
            let sum = mark.sampled.get(&class).copied().unwrap_or_default();
            let (weight, blocks) = (sum.sparse + dense * sum.dense, sum.blocks as f64);
            // A block counts from its first look on.
            let born = self.born(class, mark.at_ns.saturating_sub(FIRST_LOOK_NS));
            let ratio = if weight > 0.0 { born.max(0.0) / (weight * in_the_end) } else { 1.0 };
            let trust = blocks / (blocks + few);
            let ratio = ratio * trust + (1.0 - trust);
            (mark.at_ns, ratio.clamp(1.0 / FARTHEST, FARTHEST))
        };
        let factors: Vec<(u64, f64)> = self.marks.iter().map(factor).collect();
        let first = factors.first().map_or(1.0, |first| first.1);
        Level { first: (self.whole_ns, first), factors }
    }

    /// What lives of a class at a time, between two counts as if it had grown evenly.
    fn born(&self, class: u64, at_ns: u64) -> f64 {
        let born = |mark: &Mark| mark.born.get(&class).copied().unwrap_or(0.0);
        between(self.marks.iter().map(|mark| (mark.at_ns, born(mark))), (0, 0.0), at_ns)
    }
}

/// The factors of a size class.
pub(super) struct Level {
    first: (u64, f64),
    factors: Vec<(u64, f64)>,
}

impl Level {
    /// The one at a time of a trace that lasts until `end_ns`.
    pub(super) fn at(&self, at_ns: u64, end_ns: u64) -> f64 {
        // What was seen as it was needs no correction.
        if at_ns <= self.first.0 {
            return 1.0;
        }
        let points = self.factors.iter().copied().chain([(end_ns, 1.0)]);
        between(points, self.first, at_ns)
    }
}

/// The value at a time on the line through `first` and `points`, which ascend; behind the last one, the last.
fn between(points: impl Iterator<Item = (u64, f64)>, first: (u64, f64), at_ns: u64) -> f64 {
    let (mut before, mut value) = first;
    for (at, next) in points {
        if at >= at_ns {
            let part =
                at_ns.saturating_sub(before) as f64 / at.saturating_sub(before).max(1) as f64;
            return value + (next - value) * part;
        }
        (before, value) = (at, next);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn born(blocks: f64) -> Born {
        Born::from([(48, blocks)])
    }

    fn sum(dense: f64, blocks: u64) -> BTreeMap<u64, Sum> {
        BTreeMap::from([(48, Sum { sparse: 0.0, dense, blocks })])
    }

    #[test]
    fn samples_that_stood_for_too_much_early_on_are_put_right_by_the_count_of_then() {
        let mut levels = Levels::default();
        // A hundred blocks a second; early windows weigh twice as much as later ones.
        levels.mark(10 * SECOND, born(1_000.0), sum(1_800.0, 1_000));
        levels.mark(20 * SECOND, born(2_000.0), sum(1_900.0, 2_000));
        let level = levels.of_class(48, 1.0, 1.0, 0.0);
        assert!((level.at(10 * SECOND, 30 * SECOND) - 0.5).abs() < 1e-9);
        assert!((level.at(5 * SECOND, 30 * SECOND) - 0.5).abs() < 1e-9);
        assert!((level.at(20 * SECOND, 30 * SECOND) - 1.0).abs() < 1e-9);
        assert!((level.at(15 * SECOND, 30 * SECOND) - 0.75).abs() < 1e-9);
        assert!((level.at(30 * SECOND, 30 * SECOND) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn what_was_seen_as_a_whole_is_not_corrected() {
        let mut levels = Levels::default();
        levels.whole_until(8 * SECOND);
        levels.mark(10 * SECOND, born(1_000.0), sum(1_800.0, 1_000));
        let level = levels.of_class(48, 1.0, 1.0, 0.0);
        assert!((level.at(5 * SECOND, 30 * SECOND) - 1.0).abs() < 1e-9);
        assert!((level.at(9 * SECOND, 30 * SECOND) - 0.5).abs() < 1e-9);
        assert!((level.at(10 * SECOND, 30 * SECOND) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn a_few_samples_or_none_correct_nothing() {
        let mut levels = Levels::default();
        levels.mark(10 * SECOND, born(1_000.0), sum(1e9, 0));
        let level = levels.of_class(48, 1.0, 1.0, 3.0);
        assert!((level.at(10 * SECOND, 20 * SECOND) - 1.0).abs() < 1e-9);
        let none = levels.of_class(64, 1.0, 1.0, 3.0);
        assert!((none.at(10 * SECOND, 20 * SECOND) - 1.0).abs() < 1e-9);
        assert!((Levels::default().of_class(48, 1.0, 1.0, 3.0).at(5, 9) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn marks_are_bounded() {
        let mut levels = Levels::default();
        (1..10_000).for_each(|second| levels.mark(second * SECOND, born(1.0), sum(1.0, 1)));
        assert!(levels.marks.len() <= MOST_MARKS);
        assert_eq!(levels.marks.last().unwrap().at_ns, 9_999 * SECOND);
    }
}
