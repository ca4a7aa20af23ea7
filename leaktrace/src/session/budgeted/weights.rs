//! What each part of a window stands for.

use crate::aggregator::Weight;
use crate::budget::Spell;

/// A window of which less than that is the target's own work is a dense one.
const DENSE: f64 = 0.5;

/// What the share of the target's own work in a dense window is taken to be.
const DENSE_WORK: f64 = 0.1;

/// Between parts of one window there is no gap but that between two readings of the clock.
const GAP_NS: f64 = 100_000.0;

/// What a window, or a part of one that goes on, has come to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    /// Its number.
    pub(super) number: u32,
    /// How many births each one that was seen stands for.
    pub(super) weight: Weight,
    /// When it ended.
    pub(super) ended_ns: u64,
}

/// What came of a window, or of a part of one, and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) spell: Spell,
    pub(super) since_ns: u64,
    pub(super) ended_ns: u64,
}

/// What a spell stands for, of which the target was at work for `active_ns`, and before which nothing was seen for `gap_ns`,
/// a `share` of them work: the target's work since the part before and in it, at the pace of what was not spent in probes, of
/// `hit_ns` each.
pub(super) fn weight(
    spell: &Spell,
    active_ns: u64,
    gap_ns: u64,
    share: f64,
    hit_ns: f64,
) -> Weight {
    let probes = spell.hits as f64 * hit_ns;
    let active = (active_ns as f64).max(probes).min(spell.open_ns.max(1) as f64);
    let work = active - probes;
    let dense = work < active * DENSE;
    // What is left of a dense window is a small difference of two large numbers: what it is taken to be instead is wrong for
    // all of them alike, and the heap's count puts it right.
    let work = if dense { active * DENSE_WORK } else { work };
    let gap = gap_ns as f64;
    let weight = if gap < GAP_NS { 1.0 } else { (gap * share + active) / work };
    Weight { births: weight.round().max(1.0) as u64, dense: dense && weight > 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_stands_for_the_work_since_the_one_before() {
        let spell = |hits, open_ns| Spell { hits, open_ns, by_hits: false };
        // Ten hits in a millisecond of work, after 99 ms of work; of a quarter of work.
        let sparse = weight(&spell(10, 1_000_000), 1_000_000, 99_000_000, 1.0, 1_000.0);
        assert_eq!(sparse, Weight { births: 101, dense: false });
        let quarter = weight(&spell(10, 1_000_000), 1_000_000, 99_000_000, 0.25, 1_000.0);
        assert_eq!(quarter.births, 26);
        // Of the time that it was open most was a pause.
        let paused = weight(&spell(10, 1_000_000), 100_000, 99_000_000, 0.25, 1_000.0);
        assert_eq!(paused.births, 276);
        // Hardly anything but probes.
        let dense = weight(&spell(180, 200_000), 200_000, 19_800_000, 1.0, 1_050.0);
        assert_eq!(dense, Weight { births: 1_000, dense: true });
        // It goes on.
        assert_eq!(weight(&spell(180, 200_000), 200_000, 50, 1.0, 1_050.0), Weight::ONE);
    }
}
