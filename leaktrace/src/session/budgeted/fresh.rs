//! Records that were taken before a window is closed for good: which blocks outlived it is known before they are counted.

use leaktrace_common::event::{Event, kind};
use rustc_hash::FxHashMap;

use super::super::drain::at_ns;
use super::super::held::Held;
use super::super::intake::Source;
use super::super::now_ns;
use crate::kernel::{Drained, Mark, Programs};

/// Records that are taken at once.
const MOST: usize = 100_000;

/// How long a thread may stand at the probe of its last event.
const ON_ITS_WAY_NS: u64 = 100_000;

/// The records of a part of a window.
#[derive(Debug, Default)]
pub(in super::super) struct Fresh {
    records: Held,
    /// The blocks that were handed out in them and not given back, with their requested bytes.
    live: FxHashMap<u64, u64>,
    /// By thread, the block that its last event handed out, and when.
    last: FxHashMap<u32, (u64, u64)>,
    /// Since when the target may have been at work without a record.
    since_ns: u64,
    /// How long it was at work until then.
    active_ns: u64,
    /// Who makes no record for that long is not at work.
    pause_ns: u64,
}

impl Fresh {
    /// A part begins at `since_ns`. Who makes no record for `pause_ns` is not at work.
    pub(super) fn begin(&mut self, since_ns: u64, pause_ns: u64) {
        self.live.clear();
        self.last.clear();
        (self.since_ns, self.active_ns, self.pause_ns) = (since_ns, 0, pause_ns);
    }

    /// How long the target was at work until `now_ns`, as its records tell: between two that lie far apart it was not.
    pub(super) fn active_ns(&self, now_ns: u64) -> u64 {
        self.active_ns + now_ns.saturating_sub(self.since_ns).min(self.pause_ns)
    }

    /// Takes what there is.
    pub(super) fn take(&mut self, programs: &mut Programs) {
        let Self { records, live, last, since_ns, active_ns, pause_ns } = self;
        programs.drain(MOST, |record| {
            let Ok(event) = Event::parse(record) else { return };
            records.push(record, &event);
            let at_ns = at_ns(&event);
            *active_ns += at_ns.saturating_sub(*since_ns).min(*pause_ns);
            *since_ns = at_ns.max(*since_ns);
            match event {
                Event::Alloc(alloc) => {
                    live.insert(alloc.block, alloc.size);
                    last.insert(alloc.head.tid, (alloc.block, alloc.head.at_ns));
                }
                Event::Free(free) => {
                    if free.head.kind != kind::REALLOC_FAILED {
                        live.remove(&free.block);
                    }
                    last.remove(&free.head.tid);
                }
                Event::Realloc(realloc) => {
                    live.remove(&realloc.old);
                    live.insert(realloc.new, realloc.size);
                    last.insert(realloc.head.tid, (realloc.new, realloc.head.at_ns));
                }
                Event::Stack { .. } => {}
            }
        });
        live.remove(&0);
    }

    /// Leaves out blocks that threads may not have got so far.
    pub(super) fn leave_out_those_on_their_way(&mut self) {
        // Threads that went on long ago have what they got.
        let just_now = now_ns().saturating_sub(ON_ITS_WAY_NS);
        self.last.retain(|_, (_, at_ns)| *at_ns >= just_now);
        for (block, _) in self.last.values() {
            self.live.remove(block);
        }
    }

    /// Blocks that threads may not have got so far, as they stand at a probe: what lies there cannot be theirs yet.
    pub(super) fn on_their_way(&self) -> impl Iterator<Item = u64> + '_ {
        self.last.values().map(|&(block, _)| block)
    }

    /// The blocks that were handed out and not given back, with their requested bytes.
    pub(super) fn live(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.live.iter().map(|(&address, &size)| (address, size))
    }

    /// These records, and then those of `programs`.
    pub(in super::super) fn before<'a>(&'a mut self, programs: &'a mut Programs) -> Both<'a> {
        Both { fresh: self, programs }
    }
}

/// Records that were taken already, and those behind them.
pub(in super::super) struct Both<'a> {
    fresh: &'a mut Fresh,
    programs: &'a mut Programs,
}

impl Source for Both<'_> {
    fn written(&self) -> Mark {
        self.programs.written()
    }

    fn drain_until(&mut self, mark: Mark, most: usize, mut take: impl FnMut(&[u8])) -> Drained {
        let records = &mut self.fresh.records;
        if records.is_empty() {
            return self.programs.drain_until(mark, most, take);
        }
        let mut taken = 0;
        records.records().for_each(|record| {
            taken += 1;
            take(record);
        });
        records.drop_first(records.end());
        let drained = self.programs.drain_until(mark, most, take);
        Drained { records: drained.records + taken, ..drained }
    }

    fn frees_lost(&self) -> u64 {
        self.programs.frees_lost()
    }
}
