//! Counts the heap again and again while it is traced: what lives in it over time, and what is known of it where the
//! target is gone in the end.
//!
//! A count is taken in slices, so that windows are looked at in time, and the next one begins the later the longer it took.
//! Of a large heap some pools are counted alone.

use std::time::Duration;

use super::heap::HeapCheck;
use super::now_ns;
use super::recognise::Target;
use crate::cpython::census::{Census, Counting, Resident, Wanted};
use crate::report::HeapPoint;

/// From the end of a count to the next one, at first; later so large a share of the trace until then.
const EVERY: Duration = Duration::from_secs(2);
const LATER: u32 = 30;

/// That at most.
const SELDOM: Duration = Duration::from_secs(20);

/// How much later the next one comes, by how long it took: half a percent of one core.
const SPACING: u32 = 200;

/// One slice; there is one for each tick at most, when no window is to be looked at.
pub(super) const SLICE: Duration = Duration::from_millis(4);

/// Pools that are counted; where there are more, so many are drawn. 2 GiB of 16 KiB each, as they are from 3.10 on.
const MOST_POOLS: u64 = 1 << 17;

/// Points that are kept; when there are more, every second one is dropped.
const MOST_POINTS: usize = 290;

/// A count that is being taken.
#[derive(Debug)]
struct Begun {
    counting: Counting,
    /// How long after the start, and when on the events' clock.
    at: Duration,
    at_ns: u64,
}

/// A count that was taken: what there was when it began, as pools that are new since are not in it.
#[derive(Debug)]
pub(super) struct Counted {
    pub(super) census: Census,
    /// How long after the start, and when on the events' clock.
    pub(super) at: Duration,
    pub(super) at_ns: u64,
}

/// The counts of one session.
#[derive(Debug)]
pub(super) struct Recount {
    begun: Option<Begun>,
    due: Duration,
    /// How long after the start each count began, and what it said.
    points: Vec<HeapPoint>,
    /// How often every second point was dropped: one in so many counts is kept.
    thinned: u32,
    counts: u32,
}

impl Default for Recount {
    fn default() -> Self {
        Self { begun: None, due: EVERY, points: Vec::new(), thinned: 0, counts: 0 }
    }
}

impl Recount {
    /// Goes on with a count, or begins one whose time has come; the answer is one that has come to its end and says what there
    /// is.
    pub(super) fn tick(
        &mut self,
        target: &Target,
        heap: &mut HeapCheck,
        elapsed: Duration,
    ) -> Option<Counted> {
        let memory = target.memory.as_ref();
        let Some(begun) = &mut self.begun else {
            if elapsed >= self.due {
                self.begin(target, heap, elapsed);
            }
            return None;
        };
        let resident = Resident::of(target.process.pid());
        if !begun.counting.go_on(memory, &target.layout, &resident, SLICE) {
            return None;
        }
        let Begun { counting, at, at_ns } = self.begun.take()?;
        let census = counting.finish(&target.layout);
        let later = (elapsed / LATER).clamp(EVERY, SELDOM);
        self.due = elapsed + later.max(census.took.saturating_mul(SPACING));
        tracing::debug!("recount: {} bytes in {:?}", census.live_bytes(), census.took);
        // Of a target that is about to end, or to become another program, there is hardly anything to be read.
        if !census.is_good() {
            self.due = elapsed + EVERY;
            return None;
        }
        self.note(point(&census, at));
        Some(Counted { census, at, at_ns })
    }

    /// The points so far.
    pub(super) fn points(&self) -> &[HeapPoint] {
        &self.points
    }

    fn begin(&mut self, target: &Target, heap: &mut HeapCheck, elapsed: Duration) {
        let mut random = || fastrand::u64(..);
        let wanted = Wanted { most_pools: MOST_POOLS, random: &mut random };
        let at_ns = now_ns();
        match heap.begin(target, wanted) {
            Ok(counting) => self.begun = Some(Begun { counting, at: elapsed, at_ns }),
            // The arenas may be just moving.
            Err(error) => {
                tracing::debug!("no recount: {error}");
                self.due = elapsed + EVERY;
            }
        }
    }

    fn note(&mut self, point: HeapPoint) {
        self.counts += 1;
        if !self.counts.is_multiple_of(1 << self.thinned.min(31)) {
            return;
        }
        self.points.push(point);
        if self.points.len() > MOST_POINTS {
            self.thinned += 1;
            let mut is_even = true;
            self.points.retain(|_| {
                is_even = !is_even;
                is_even
            });
        }
    }
}

/// What a census of that moment says.
pub(super) fn point(census: &Census, at: Duration) -> HeapPoint {
    let live_bytes = census.live_bytes();
    let bounds = census.sampled.map(|sample| {
        (live_bytes.saturating_sub(sample.half_width), live_bytes + sample.half_width)
    });
    HeapPoint { at_s: at.as_secs_f64(), live_bytes, held_bytes: census.held_bytes, bounds }
}

#[cfg(test)]
mod tests {
    use super::{HeapPoint, MOST_POINTS, Recount};

    #[test]
    fn a_long_series_is_thinned_evenly() {
        let mut recount = Recount::default();
        for at in 1..=2000_u32 {
            let at_s = f64::from(at);
            recount.note(HeapPoint { at_s, live_bytes: 0, held_bytes: 0, bounds: None });
        }
        let points = recount.points();
        assert!(points.len() <= MOST_POINTS && points.len() > MOST_POINTS / 3);
        let steps: Vec<f64> = points.windows(2).map(|pair| pair[1].at_s - pair[0].at_s).collect();
        let longest = steps.iter().copied().fold(0.0, f64::max);
        let shortest = steps.iter().copied().fold(f64::INFINITY, f64::min);
        assert!(longest - shortest < 1e-9, "{steps:?}");
    }
}
