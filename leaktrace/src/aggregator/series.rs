//! The common time axis, and what sites looked like along it.
//!
//! Time is cut into equal intervals that all sites share. A site has a point only for an interval in which something
//! happened to it; in the others it stayed as it was. When the axis reaches [`MAX_INTERVALS`], the interval doubles
//! and points merge in pairs, so a trace of any length keeps between half of that and all of it.

/// Intervals on the axis at most: 300 points with the one at the start.
pub(super) const MAX_INTERVALS: u32 = 299;

/// For want of memory the axis is coarsened even before [`MAX_INTERVALS`], but from this many on only.
pub(super) const LEAST_INTERVALS: u64 = 4;

/// The first interval.
pub(super) const FIRST_INTERVAL_NS: u64 = 100_000_000;

/// A site at the end of one interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Point {
    /// Which interval, from 0.
    pub index: u32,
    /// Live blocks at its end.
    pub live_blocks: u32,
    /// The fewest live blocks within it.
    pub low_blocks: u32,
    /// Blocks born in this interval that are live now, or that came to count in it where they are sampled. Filled in by a
    /// snapshot alone.
    pub survivors: u32,
    /// Live bytes at its end.
    pub live_bytes: u64,
    /// The fewest live bytes within it.
    pub low_bytes: u64,
    /// Births since the site was first seen.
    pub births: u64,
}

/// Frees of blocks older than the trace, up to the end of one interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OlderFrees {
    /// Which interval, from 0.
    pub index: u32,
    /// Of pymalloc's blocks.
    pub obj: u64,
    /// Of raw blocks.
    pub raw: u64,
}

/// Where on the axis the trace is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis {
    /// When it began, on the events' clock.
    pub started_at_ns: u64,
    /// Length of one interval.
    pub interval_ns: u64,
    /// The interval that is not over yet.
    pub open: u32,
    /// When it is over.
    pub closes_at_ns: u64,
}

impl Axis {
    /// An axis that begins then.
    #[must_use]
    pub(super) fn new(started_at_ns: u64) -> Self {
        let interval_ns = FIRST_INTERVAL_NS;
        let closes_at_ns = started_at_ns.saturating_add(interval_ns);
        Self { started_at_ns, interval_ns, open: 0, closes_at_ns }
    }

    /// The interval of a time, which may lie beyond [`MAX_INTERVALS`].
    #[must_use]
    pub(super) fn index_of(&self, at_ns: u64) -> u64 {
        at_ns.saturating_sub(self.started_at_ns) / self.interval_ns
    }

    /// Opens the interval of this time. It must fit on the axis.
    pub(super) fn open_at(&mut self, at_ns: u64) {
        self.open = self.index_of(at_ns).min(u64::from(MAX_INTERVALS - 1)) as u32;
        let end = (u64::from(self.open) + 1).saturating_mul(self.interval_ns);
        self.closes_at_ns = self.started_at_ns.saturating_add(end);
    }

    /// Doubles the interval. The points must be merged with it.
    pub(super) fn coarsen(&mut self) {
        self.interval_ns = self.interval_ns.saturating_mul(2);
        self.open /= 2;
    }
}

/// Appends a point; it merges with the last one where that is of the same interval.
pub(super) fn push(points: &mut Vec<Point>, next: Point) {
    match points.last_mut() {
        Some(last) if last.index == next.index => {
            let low_bytes = last.low_bytes.min(next.low_bytes);
            let low_blocks = last.low_blocks.min(next.low_blocks);
            let survivors = last.survivors.saturating_add(next.survivors);
            *last = Point { low_bytes, low_blocks, survivors, ..next };
        }
        _ => points.push(next),
    }
}

/// Merges the points of a site in pairs.
pub(super) fn merge(points: &mut Vec<Point>) {
    let mut merged = Vec::with_capacity(points.len() / 2 + 1);
    for point in points.drain(..) {
        push(&mut merged, Point { index: point.index / 2, ..point });
    }
    *points = merged;
}

/// Brings the points of a site from an axis with one interval to one with another; both began together, and have doubled
/// theirs so many times.
pub(super) fn fit(points: &mut Vec<Point>, from_ns: u64, to: &Axis) {
    let to_ns = to.interval_ns;
    let mut interval_ns = from_ns;
    while interval_ns < to_ns {
        merge(points);
        interval_ns = interval_ns.saturating_mul(2);
    }
    let finer = u32::try_from(from_ns / to_ns.max(1)).unwrap_or(u32::MAX);
    if finer > 1 {
        // The end of a long interval is the end of the last of the short ones in it; the last is not over.
        let end = |index: u32| {
            index.saturating_mul(finer).saturating_add(finer - 1).min(to.open.max(index))
        };
        points.iter_mut().for_each(|point| point.index = end(point.index));
    }
}

/// Appends a count of older frees; it replaces the last one where that is of the same interval.
pub(super) fn push_older(points: &mut Vec<OlderFrees>, next: OlderFrees) {
    match points.last_mut() {
        Some(last) if last.index == next.index => *last = next,
        _ => points.push(next),
    }
}

/// Merges the counts of older frees in pairs.
pub(super) fn merge_older(points: &mut Vec<OlderFrees>) {
    let mut merged = Vec::with_capacity(points.len() / 2 + 1);
    for point in points.drain(..) {
        push_older(&mut merged, OlderFrees { index: point.index / 2, ..point });
    }
    *points = merged;
}

#[cfg(test)]
mod tests {
    use super::{Axis, Point, fit};

    #[test]
    fn points_move_between_axes_that_have_doubled_their_intervals_differently() {
        let point = |index, live_blocks| Point { index, live_blocks, ..Point::default() };
        let axis =
            |interval_ns, open| Axis { started_at_ns: 0, interval_ns, open, closes_at_ns: 0 };
        let points = vec![point(0, 1), point(5, 2), point(6, 3), point(7, 4)];
        let mut coarser = points.clone();
        fit(&mut coarser, 100, &axis(400, 1));
        assert_eq!(coarser, [point(0, 1), Point { low_blocks: 0, ..point(1, 4) }]);
        let mut finer = points.clone();
        fit(&mut finer, 200, &axis(100, 14));
        let indices: Vec<u32> = finer.iter().map(|point| point.index).collect();
        assert_eq!(indices, [1, 11, 13, 14]);
        let mut same = points.clone();
        fit(&mut same, 100, &axis(100, 7));
        assert_eq!(same, points);
    }
}
