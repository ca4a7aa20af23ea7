//! Holds what was seen against what the heap did: a census before the gate opens and one after it has closed.

use std::time::Duration;

use crate::aggregator::Aggregator;
use crate::cpython::census::{Arrays, Census, CensusError, Counting, Resident, Wanted};
use crate::cpython::runtime::Runtime;
use crate::report::{HeapInfo, HeapPoint};

use super::recognise::Target;
use super::recount::point;

/// A heap that changed by less than this says nothing of what was seen: the report's contract.
const LEAST_CHANGE: u64 = 1 << 20;

/// Percent of the heap's change within which all is taken to have been seen. Where nothing was lost, 100.0 was
/// measured on every build; what the target does between a census and the gate, some hundredths of a second, is the
/// rest.
const EXPLAINED_PCT: std::ops::RangeInclusive<f64> = 95.0..=105.0;

/// The censuses of one session.
pub(super) struct HeapCheck {
    arrays: Arrays,
    start: Result<Census, CensusError>,
}

impl HeapCheck {
    /// Counts, and tells `aggregator` where the pools are. The gate is about to be opened.
    pub(super) fn start(target: &Target, aggregator: &mut Aggregator) -> Self {
        let mut arrays = Arrays::default();
        let start = census(target, &mut arrays);
        match &start {
            Ok(census) => {
                tracing::debug!(
                    "census: {} blocks in {} pools, {:?}",
                    census.live_blocks(),
                    census.pools,
                    census.took
                );
                aggregator.know_pools(census.map.clone());
            }
            Err(error) => tracing::debug!("no census: {error}"),
        }
        Self { arrays, start }
    }

    /// The census at the start.
    pub(super) fn first(&self) -> Option<&Census> {
        self.start.as_ref().ok()
    }

    /// Begins a census that is taken in parts.
    pub(super) fn begin(
        &mut self,
        target: &Target,
        wanted: Wanted<'_>,
    ) -> Result<Counting, CensusError> {
        let (memory, interpreters) = (target.memory.as_ref(), interpreters(target));
        let (module, layout) = (&target.module, &target.layout);
        Counting::begin(memory, module, layout, &interpreters, &mut self.arrays, wanted)
    }

    /// Counts again. The gate has just been closed.
    pub(super) fn count_again(&mut self, target: &Target) -> Result<Census, CensusError> {
        match &self.start {
            Ok(_) => census(target, &mut self.arrays),
            Err(error) => Err(*error),
        }
    }

    /// What is known of the heap, once `aggregator` has seen all events; `end` is the census at the end, of a target
    /// that was there for it. `estimated` is by how many bytes the heap changed for all that is estimated, where not every
    /// event was seen; `meanwhile` are the counts in between, and `duration` is how long the trace lasted.
    pub(super) fn close_books(
        self,
        end: Option<Result<Census, CensusError>>,
        aggregator: &Aggregator,
        (estimated, meanwhile, duration): (Option<i64>, Vec<HeapPoint>, Duration),
        warnings: &mut Vec<String>,
    ) -> HeapInfo {
        let start = self.start.as_ref();
        let mut heap = HeapInfo {
            live_start: start.ok().map(Census::live_bytes),
            census: "none",
            ..HeapInfo::default()
        };
        let last = end.as_ref().and_then(|end| end.as_ref().ok());
        heap.points = start.ok().map(|start| {
            let first = point(start, Duration::ZERO);
            let last = last.map(|end| point(end, duration));
            [first].into_iter().chain(meanwhile).chain(last).collect()
        });
        match (start, end.as_ref().map(Result::as_ref)) {
            (Ok(start), Some(Ok(end))) => {
                heap.live_end = Some(end.live_bytes());
                heap.held_end = Some(end.held_bytes);
                let exact = start.is_complete() && end.is_complete();
                heap.census = if exact { "exact" } else { "partial" };
                heap.census_age_s = Some(0.0);
                let seen = estimated.unwrap_or_else(|| aggregator.net_pool_bytes(&end.map));
                heap.explained_pct = explained_pct(start, end, seen);
                warnings.extend(unread(start, end));
                warnings.extend(heap.explained_pct.and_then(|pct| words(pct, start, end)));
            }
            // Without pools there is nothing to count, and nothing to be said about it.
            (Err(CensusError::Unused), _) | (_, None) => {}
            (Err(error), _) | (_, Some(Err(error))) => warnings.push(format!(
                "nothing checks that all of the heap's growth was seen: pymalloc's pools were not counted, {error}"
            )),
        }
        heap
    }
}

fn census(target: &Target, arrays: &mut Arrays) -> Result<Census, CensusError> {
    let memory = target.memory.as_ref();
    let interpreters = interpreters(target);
    let resident = Resident::of(target.process.pid());
    Census::take(memory, &target.module, &target.layout, &interpreters, arrays, &resident)
}

fn interpreters(target: &Target) -> Vec<u64> {
    let runtime = Runtime::read(target.memory.as_ref(), &target.layout, target.root);
    runtime.map(|runtime| runtime.interpreters).unwrap_or_default()
}

/// Bytes by which the heap grew, or shrank.
fn change(start: &Census, end: &Census) -> i64 {
    end.live_bytes().cast_signed() - start.live_bytes().cast_signed()
}

fn explained_pct(start: &Census, end: &Census, seen: i64) -> Option<f64> {
    let change = change(start, end);
    (change.unsigned_abs() >= LEAST_CHANGE).then(|| 100.0 * seen as f64 / change as f64)
}

fn unread(start: &Census, end: &Census) -> Option<String> {
    let swapped = start.swapped.max(end.swapped);
    let skipped = start.skipped.max(end.skipped);
    (swapped + skipped > 0).then(|| {
        format!(
            "the count of pymalloc's blocks lacks {swapped} pools that are swapped out and {skipped} that changed \
             while they were read"
        )
    })
}

fn words(pct: f64, start: &Census, end: &Census) -> Option<String> {
    if EXPLAINED_PCT.contains(&pct) {
        return None;
    }
    let change = change(start, end);
    let moved = if change > 0 { "grew" } else { "shrank" };
    let mib = change.unsigned_abs() as f64 / f64::from(1 << 20);
    Some(format!(
        "what was seen explains {pct:.0} % of the heap's true change: pymalloc's live blocks {moved} by {mib:.1} MiB. \
         Allocations or frees went unseen (lost or untracked, in code without a probe, in another interpreter, or \
         around the trace itself): the numbers of lines are not the whole truth"
    ))
}
