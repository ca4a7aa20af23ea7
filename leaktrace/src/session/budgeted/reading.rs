//! The heap as a whole: counted again and again between windows, and some of it read in the end.

use std::time::Duration;

use super::super::recognise::Target;
use super::super::types::{self, SiteTypes};
use super::super::{Session, now_ns, recount};
use super::{Budgeted, Earlier, sight};
use crate::aggregator::{Scale, Snapshot, allowances};
use crate::cpython::census::Census;
use crate::report::HeapPoint;

impl Budgeted {
    /// Whether no window needs to be looked at for as long as a slice of a count takes.
    fn has_time(&self) -> bool {
        !self.windows.is_open() || self.windows.idle() >= recount::SLICE
    }

    /// Counts the heap now and then, of which `start` is the first count.
    fn count(&mut self, target: &Target, start: &Census, elapsed: Duration) {
        let Some(census) = self.recount.tick(target, elapsed) else { return };
        self.older_looked_at = elapsed;
        self.older.look(&mut sight(&mut self.inspector, target));
        let (born, gone) = (self.older.born(start, &census), self.older.gone(start));
        let sampled = &mut self.sampling.sampled;
        let scale = sampled.scale(Some(&born));
        sampled.mark(now_ns(), born);
        self.earlier = Earlier::of(start, &census, scale, gone, elapsed).or(self.earlier.take());
    }

    /// What the heap held over time, between the start and the end.
    pub(in super::super) fn heap_points(&self) -> &[HeapPoint] {
        self.recount.points()
    }

    /// The count that the estimates rest on, where that is not the last one.
    pub(in super::super) fn rests_on(&self) -> Option<&Earlier> {
        self.earlier.as_ref().filter(|_| self.uses_earlier)
    }
}

impl Session {
    /// Goes on with a count of the heap, if it is time for that.
    pub(super) fn count_between_windows(&mut self) {
        let Self { budgeted: Some(budgeted), target, heap, started, .. } = self else { return };
        if budgeted.counts_next
            && budgeted.has_time()
            && let Some(start) = heap.first()
        {
            budgeted.counts_next = false;
            budgeted.count(target, start, started.elapsed());
        }
    }

    /// What the live blocks of each site of `snapshot` are. Where that is an estimate, `scale` is what it rests on. The
    /// target must still be there.
    pub(in super::super) fn read_types(
        &mut self,
        snapshot: &Snapshot,
        scale: Option<&Scale>,
    ) -> Vec<SiteTypes> {
        let allowed = allowances(&snapshot.sites, types::MOST_BLOCKS);
        let mut random = || fastrand::u64(..);
        let sampling = self.budgeted.as_ref().map(|budgeted| &budgeted.sampling.sampled);
        let drawn = match scale.zip(sampling) {
            Some((scale, sampled)) => sampled.draw(snapshot, scale, &allowed, &mut random),
            None => self.aggregator.draw(&allowed, &mut random),
        };
        match &mut self.budgeted {
            Some(budgeted) => types::read(&mut budgeted.inspector, &self.target, snapshot, &drawn),
            None => {
                let mut inspector = types::inspector(&self.target);
                types::read(&mut inspector, &self.target, snapshot, &drawn)
            }
        }
    }
}
