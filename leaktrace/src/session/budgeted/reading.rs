//! The heap as a whole: counted again and again between windows, and some of it read in the end.

use std::time::Duration;

use super::super::heap::HeapCheck;
use super::super::recognise::Target;
use super::super::recount::Counted;
use super::super::types::{self, SiteTypes};
use super::super::{Session, recount};
use super::earlier::{Earlier, says_more_than_windows};
use super::{Budgeted, sight};
use crate::aggregator::{Scale, Snapshot, allowances};
use crate::report::HeapPoint;

impl Budgeted {
    /// Whether no window needs to be looked at for as long as a slice of a count takes.
    fn has_time(&self) -> bool {
        !self.windows.is_open() || self.windows.idle() >= recount::SLICE
    }

    /// Counts the heap now and then.
    fn count(&mut self, target: &Target, heap: &mut HeapCheck, elapsed: Duration) {
        let Some(Counted { census, at, at_ns }) = self.recount.tick(target, heap, elapsed) else {
            return;
        };
        // As long as everything is seen, nothing is to be set right; and an open window is to be looked at soon.
        let Some(start) = heap.first().filter(|_| !self.is_whole() && !self.windows.is_open())
        else {
            return;
        };
        self.older_looked_at = elapsed;
        let mut sight = sight(&mut self.inspector, target);
        self.older.look(&mut sight);
        if !says_more_than_windows(start, &census) {
            return;
        }
        let (born, gone) = (self.older.born(start, &census), self.older.gone(start));
        let young = self.sampling.young(&mut sight);
        let scale = self.sampling.sampled.mark(at_ns, born, young);
        self.earlier = Some(Earlier::of(start, &census, scale, gone, at));
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
        if budgeted.counts_next && budgeted.has_time() && heap.first().is_some() {
            budgeted.counts_next = false;
            budgeted.count(target, heap, started.elapsed());
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
