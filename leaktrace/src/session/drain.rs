//! Takes what the kernel side has recorded, and has it counted.

use std::time::{Duration, Instant};

use leaktrace_common::event::Event;

use super::budgeted::Budgeted;
use super::intake::{Now, Told};
use super::{Session, now_ns};

/// Rounds of taking records in a row, where each brings new stacks whose names are known in the next.
const ROUNDS: usize = 4;

/// How long records are still waited for once the gate is closed.
const LAST_RECORDS: Duration = Duration::from_secs(2);

/// Whether more records are to come.
#[derive(Clone, Copy, Debug)]
enum Last {
    No,
    Yes,
}

impl Session {
    /// Takes the records that are there. Returns how many, and not 0 while some wait for names.
    pub fn drain(&mut self) -> usize {
        let drained = self.take_records();
        self.admit_between();
        drained
    }

    /// As [`Self::drain`], of a window whose blocks the caller sees to.
    pub(super) fn take_records(&mut self) -> usize {
        let mut drained = 0;
        for _ in 0..ROUNDS {
            // A child goes on with its open gate until then.
            self.children.look(&mut self.programs, &self.attached.gate);
            // A target without memory has ended, or has become another program whose records are none of ours: which
            // of the two, the next looks tell. The ring buffer keeps what there is meanwhile.
            if self.window.end == u64::MAX && !self.watch.can_read(&self.target) {
                break;
            }
            drained += self.take(Last::No);
            if !self.intake.has_new_stacks() {
                break;
            }
        }
        self.programs.flush_log();
        drained
    }

    /// Tells what waits for records that will not be taken any more.
    pub(super) fn give_up(&mut self) {
        self.take(Last::Yes);
    }

    fn take(&mut self, last: Last) -> usize {
        let Self {
            attached,
            programs,
            aggregator,
            intake,
            target,
            malformed,
            window,
            unwanted,
            budgeted,
            ..
        } = self;
        let (fresh, sampled) = budgeted.as_mut().map(Budgeted::parts).unzip();
        let mut stale = Vec::new();
        let now = Now { memory: target.memory.as_ref(), window: &*window, clock: now_ns };
        let tell = |told: Told<'_>| match told {
            Told::Stack(id, stack) => {
                aggregator.define_stack(id, stack);
            }
            Told::Freed(freed) => {
                for &id in &freed.ids {
                    if let Some(masked) = aggregator.stack(id).and_then(|s| freed.masked(s)) {
                        aggregator.define_stack(id, masked);
                    }
                }
                stale.extend(freed.ids);
            }
            // By a probe that a closed gate does not keep calls from.
            Told::Event(Event::Alloc(alloc))
                if sampled.is_some_and(|windows| !windows.saw(&alloc.head)) => {}
            Told::Event(event) if window.contains(&at_ns(&event)) => aggregator.apply(&event),
            Told::Event(event) if attached.closes(&event) => unwanted.count(at_ns(&event), window),
            Told::Event(_) => {}
            Told::Malformed => *malformed += 1,
        };
        let taken = match last {
            Last::No => match fresh {
                Some(fresh) => intake.round(&mut fresh.before(programs), &now, tell),
                None => intake.round(programs, &now, tell),
            },
            Last::Yes => intake.give_up(&now, tell),
        };
        stale.extend(intake.symbolizer.take_stale());
        programs.forget_stacks(stale);
        taken
    }

    /// Takes what is still to come once the gate is closed.
    pub(super) fn drain_rest(&mut self) {
        let deadline = Instant::now() + LAST_RECORDS;
        while self.drain() > 0 && Instant::now() < deadline {}
        self.give_up();
    }
}

/// When a record was made; 0 for the frames of a stack.
pub(super) const fn at_ns(event: &Event<'_>) -> u64 {
    match event {
        Event::Alloc(alloc) => alloc.head.at_ns,
        Event::Free(free) => free.head.at_ns,
        Event::Realloc(realloc) => realloc.head.at_ns,
        Event::Stack { .. } => 0,
    }
}
