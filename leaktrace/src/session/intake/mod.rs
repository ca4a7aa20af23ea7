//! From the records of the kernel side to what is counted, in their order, with names that are known to be right.
//!
//! A free is recorded before it happens, and all records are in one ring buffer. So of what was read in the target's
//! memory everything is known that had been freed by then, once all records are here that were begun by then. From a
//! new stack on, records therefore wait: until what its code objects are was read, and what was recorded meanwhile was
//! looked through for their frees. Where there is no new stack, and that is nearly always, nothing waits.

mod losses;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

use std::ops::Range;

use leaktrace_common::counter::Counter;
use leaktrace_common::event::Event;

use super::held::Held;
use super::listed::Freed;
use super::symbolize::{Symbolizer, Walked};
use crate::kernel::{Drained, Mark, Programs};
use crate::stack::Stack;
use crate::target::memory::ReadMemory;
use losses::Losses;

/// Records that are taken before anything else is looked at.
const BATCH: usize = 100_000;

/// Where records come from.
pub(super) trait Source {
    /// See [`Programs::written`].
    fn written(&self) -> Mark;
    /// See [`Programs::drain_until`].
    fn drain_until(&mut self, mark: Mark, most: usize, take: impl FnMut(&[u8])) -> Drained;
    /// How many frees were lost so far.
    fn frees_lost(&self) -> u64;
}

impl Source for Programs {
    fn written(&self) -> Mark {
        Self::written(self)
    }

    fn drain_until(&mut self, mark: Mark, most: usize, take: impl FnMut(&[u8])) -> Drained {
        Self::drain_until(self, mark, most, take)
    }

    fn frees_lost(&self) -> u64 {
        // Whoever cannot know takes them for lost.
        self.counter(Counter::FreeLost).unwrap_or(u64::MAX)
    }
}

/// What is told of the records, in their order.
#[derive(Debug)]
pub(super) enum Told<'a> {
    /// What an id stands for from now on.
    Stack(u64, Stack),
    /// Code is freed: the ids of its stacks stand for other code from now on, until they are told anew.
    Freed(Freed),
    /// An event to count.
    Event(Event<'a>),
    /// A record that cannot be read.
    Malformed,
}

/// The target, as it is now.
#[derive(Debug)]
pub(super) struct Now<'a, M> {
    /// Its memory.
    pub(super) memory: &'a M,
    /// When frees are seen.
    pub(super) window: &'a Range<u64>,
    /// The clock of the records.
    pub(super) clock: fn() -> u64,
}

/// Takes records.
#[derive(Debug)]
pub(super) struct Intake {
    pub(super) symbolizer: Symbolizer,
    held: Held,
    /// The part of `held` whose stacks were read, and the records that are still to come before these can be proven.
    awaited: Option<(usize, Mark)>,
    losses: Losses,
}

impl Intake {
    pub(super) fn new(symbolizer: Symbolizer) -> Self {
        Self { symbolizer, held: Held::default(), awaited: None, losses: Losses::default() }
    }

    /// Since this was said last, or ever, frees came to no probe that nobody counts as lost, and do so still if `still`.
    pub(super) fn frees_unseen(&mut self, still: bool) {
        self.losses.unseen(still);
    }

    /// Whether new stacks wait for their names.
    pub(super) fn has_new_stacks(&self) -> bool {
        self.held.has_stacks()
    }

    /// Takes the records that are there, at most [`BATCH`], and as many that came meanwhile. Returns how many; where
    /// records still wait, that is one at least.
    pub(super) fn round<M: ReadMemory>(
        &mut self,
        source: &mut impl Source,
        now: &Now<'_, M>,
        mut tell: impl FnMut(Told<'_>),
    ) -> usize {
        let mut taken = 0;
        let (first, mark) = match self.awaited {
            Some(awaited) => awaited,
            None => {
                let mark = source.written();
                let freed = self.losses.look(source, &mut self.symbolizer, now);
                freed.into_iter().map(Told::Freed).for_each(&mut tell);
                taken += self.take(source, mark, &mut tell);
                if self.held.is_empty() {
                    return taken;
                }
                self.read_names(now, &mut tell);
                (self.held.end(), source.written())
            }
        };
        let ahead = self.look_ahead(source, mark, &mut tell);
        taken += ahead.records;
        if !ahead.reached && !self.held.is_full() {
            self.awaited = Some((first, mark));
            return taken.max(1);
        }
        self.awaited = None;
        let now_ns = (now.clock)();
        let is_complete =
            ahead.reached && !self.losses.since_look(source) && now.window.end > now_ns;
        self.symbolizer.prove(is_complete, now_ns);
        self.tell_first(first, &mut tell);
        if is_complete && !self.held.has_stacks() {
            // All of these were begun before it was asked what was lost.
            self.forget_freed();
            self.tell_first(self.held.end(), &mut tell);
        }
        taken.max(usize::from(!self.held.is_empty()))
    }

    /// Tells what still waits, with the names that are known: nothing more is to come, and 0 records are taken.
    pub(super) fn give_up<M: ReadMemory>(
        &mut self,
        now: &Now<'_, M>,
        mut tell: impl FnMut(Told<'_>),
    ) -> usize {
        if let Some((first, _)) = self.awaited.take() {
            self.symbolizer.prove(false, (now.clock)());
            self.tell_first(first, &mut tell);
        }
        self.read_names(now, &mut tell);
        self.symbolizer.prove(false, (now.clock)());
        self.tell_first(self.held.end(), &mut tell);
        0
    }

    /// Takes what lies before `mark`. Tells of it at once up to the first new stack.
    fn take(
        &mut self,
        source: &mut impl Source,
        mark: Mark,
        tell: &mut impl FnMut(Told<'_>),
    ) -> usize {
        let Self { symbolizer, held, .. } = self;
        let taken = source.drain_until(mark, BATCH, |record| {
            let event = match Event::parse(record) {
                Ok(event) => event,
                Err(_malformed) => return tell(Told::Malformed),
            };
            if !held.is_empty() || matches!(event, Event::Stack { .. }) {
                return held.push(record, &event);
            }
            if let Event::Free(free) = event
                && let Some(freed) = symbolizer.freed(free.block)
            {
                symbolizer.forget(free.block);
                tell(Told::Freed(freed));
            }
            tell(Told::Event(event));
        });
        taken.records
    }

    /// Reads the code objects of all new stacks that wait. What is found replaced then is taken for freed before any of
    /// them.
    fn read_names<M: ReadMemory>(&mut self, now: &Now<'_, M>, tell: &mut impl FnMut(Told<'_>)) {
        for (at_ns, event) in self.held.events(0..self.held.end()) {
            match event {
                Event::Stack { id, end, frames } => {
                    let counts = now.window.contains(&at_ns);
                    let frees_seen = counts && !self.losses.after(at_ns);
                    let walked = Walked { id, end, frames, at_ns, frees_seen, counts };
                    self.symbolizer.read(now.memory, walked);
                }
                Event::Free(free) => self.symbolizer.forget(free.block),
                Event::Alloc(_) | Event::Realloc(_) => {}
            }
        }
        self.symbolizer.take_replaced().into_iter().map(Told::Freed).for_each(tell);
    }

    /// The same for records without new stacks.
    fn forget_freed(&mut self) {
        for (_, event) in self.held.events(0..self.held.end()) {
            if let Event::Free(free) = event {
                self.symbolizer.forget(free.block);
            }
        }
    }

    /// Takes what was begun while names were read, and looks for frees in it.
    fn look_ahead(
        &mut self,
        source: &mut impl Source,
        mark: Mark,
        tell: &mut impl FnMut(Told<'_>),
    ) -> Drained {
        let Self { symbolizer, held, .. } = self;
        source.drain_until(mark, BATCH, |record| {
            let Ok(event) = Event::parse(record) else { return tell(Told::Malformed) };
            if let Event::Free(free) = event {
                symbolizer.freed_since(free.block);
            }
            held.push(record, &event);
        })
    }

    /// Tells of what waits before `end`.
    fn tell_first(&mut self, end: usize, tell: &mut impl FnMut(Told<'_>)) {
        for (_, event) in self.held.events(0..end) {
            match event {
                Event::Stack { .. } => {
                    if let Some((id, stack)) = self.symbolizer.next_stack() {
                        tell(Told::Stack(id, stack));
                    }
                    continue;
                }
                Event::Free(free) => {
                    self.symbolizer
                        .freed(free.block)
                        .map(Told::Freed)
                        .into_iter()
                        .for_each(&mut *tell);
                }
                Event::Alloc(_) | Event::Realloc(_) => {}
            }
            tell(Told::Event(event));
        }
        self.held.drop_first(end);
    }
}
