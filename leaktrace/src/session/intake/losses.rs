//! Frees that are in no record, and what is done about them: all code that is known is read anew, and what has changed
//! is taken for freed.
//!
//! A free is counted as lost before it happens. So code is read at once, and once more when it is quiet; until then no
//! code that is known is believed without another look at it.

use std::time::Duration;

use super::{Now, Source};
use crate::session::listed::Freed;
use crate::session::symbolize::Symbolizer;
use crate::target::memory::ReadMemory;

/// While frees are missed, code objects are read anew: for one part in so many of the time at most, where that takes
/// long. Code that is replaced in between lends its name to other code until the next time.
const READING_SHARE: u32 = 10;

/// What is not long.
const SHORT_READING: Duration = Duration::from_millis(1);

/// Code objects that are read anew at a time: some 8 ms. The ring buffer of a followed process bridges 400.
const AT_ONCE: usize = 500;

/// How long a thread may take from the probe to the end of its free.
const UNDER_WAY: Duration = Duration::from_millis(20);

/// What is known of frees that nobody recorded.
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// How many were counted as lost.
    counted: u64,
    /// Whether some came to no probe.
    unseen: bool,
    /// Whether some still do not.
    still_unseen: bool,
    /// When it was last noticed that some were missed.
    noticed_ns: u64,
    /// Whether that was since code was begun to be read anew.
    is_due: bool,
    /// Whether some may still be under way.
    is_unsettled: bool,
    /// What the reading has taken that is under way, or was last.
    took: Duration,
    next_reading_ns: u64,
}

impl Losses {
    /// See [`super::Intake::frees_unseen`].
    pub(super) fn unseen(&mut self, still: bool) {
        self.unseen = true;
        self.still_unseen = still;
    }

    /// Whether frees were missed since [`Self::look`] was called, or may be now.
    pub(super) fn since_look(&self, source: &impl Source) -> bool {
        self.unseen || source.frees_lost() != self.counted
    }

    /// Whether frees may have been missed after `at_ns`, as the last look told.
    pub(super) fn after(&self, at_ns: u64) -> bool {
        at_ns <= self.noticed_ns
    }

    /// Looks whether frees were missed. Returns what is to be taken for freed before any record that is still to be told.
    pub(super) fn look<M: ReadMemory>(
        &mut self,
        source: &impl Source,
        symbolizer: &mut Symbolizer,
        now: &Now<'_, M>,
    ) -> Vec<Freed> {
        let lost = source.frees_lost();
        let now_ns = (now.clock)();
        if self.unseen || lost != self.counted {
            self.counted = lost;
            self.unseen = self.still_unseen;
            self.noticed_ns = now_ns;
            (self.is_due, self.is_unsettled) = (true, true);
        }
        if self.is_unsettled {
            symbolizer.distrust();
        }
        // Once the gate is closed, the target may be gone as well: what is found then says little of what is left to tell.
        let is_over = now.window.end <= now_ns;
        if is_over && !self.is_due {
            return Vec::new();
        }
        if !symbolizer.reads_anew() && !self.begins(now_ns, symbolizer) {
            return Vec::new();
        }
        self.read(symbolizer, now, if is_over { usize::MAX } else { AT_ONCE })
    }

    /// Begins to read everything anew, if it is time to.
    fn begins(&mut self, now_ns: u64, symbolizer: &mut Symbolizer) -> bool {
        let is_quiet = now_ns >= self.noticed_ns + UNDER_WAY.as_nanos() as u64;
        let is_time = self.is_due || (self.is_unsettled && is_quiet);
        if !is_time || now_ns < self.next_reading_ns {
            return false;
        }
        self.is_due = false;
        self.is_unsettled &= !is_quiet;
        self.took = Duration::ZERO;
        symbolizer.begin_to_read_anew();
        true
    }

    fn read<M: ReadMemory>(
        &mut self,
        symbolizer: &mut Symbolizer,
        now: &Now<'_, M>,
        most: usize,
    ) -> Vec<Freed> {
        let began_ns = (now.clock)();
        let changed = symbolizer.drop_changed(now.memory, most);
        let ended_ns = (now.clock)();
        self.took += Duration::from_nanos(ended_ns.saturating_sub(began_ns));
        if !symbolizer.reads_anew() && self.took > SHORT_READING {
            self.next_reading_ns = ended_ns + (self.took * READING_SHARE).as_nanos() as u64;
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use leaktrace_common::event::stack_end;

    use super::*;
    use crate::cpython::code::CodeCache;
    use crate::cpython::code::made::{CODE, Made, layout, made, set};
    use crate::kernel::{Drained, Mark};
    use crate::session::intake::world::{ALWAYS, MINOR, TIME, clock};
    use crate::session::symbolize::Walked;

    /// Code that is known.
    const COUNT: u64 = 2 * AT_ONCE as u64 + 7;

    /// A kernel side that has lost so many frees.
    struct Lost(u64);

    impl Source for Lost {
        fn written(&self) -> Mark {
            Mark(0)
        }

        fn drain_until(&mut self, _: Mark, _: usize, _: impl FnMut(&[u8])) -> Drained {
            Drained { records: 0, reached: true }
        }

        fn frees_lost(&self) -> u64 {
            self.0
        }
    }

    fn address(number: u64) -> u64 {
        0x100_0000 + number * 0x400
    }

    /// Reads a stack of this code and proves it. Returns which stacks stand for code that is not there any more.
    fn walk(symbolizer: &mut Symbolizer, memory: &Made, id: u64) -> Vec<u64> {
        let frames = [address(id), 8].map(u64::to_le_bytes).concat();
        let (end, at_ns, frees_seen, counts) = (stack_end::COMPLETE, 20, true, true);
        symbolizer.read(memory, Walked { id, end, frames: &frames, at_ns, frees_seen, counts });
        let freed = symbolizer.take_replaced();
        symbolizer.prove(true, 30);
        assert!(symbolizer.next_stack().is_some());
        freed.into_iter().flat_map(|freed| freed.ids).collect()
    }

    #[test]
    fn much_code_is_read_anew_little_by_little() {
        TIME.set(10);
        let mut memory = made(&layout(MINOR), "f");
        let mut code = memory.0[&CODE].clone();
        let mut symbolizer = Symbolizer::new(CodeCache::new(layout(MINOR), None, true));
        for number in 0..COUNT {
            memory.put(address(number), &code);
            walk(&mut symbolizer, &memory, number);
        }
        set(&mut code, layout(MINOR).object.refcnt.unwrap(), 0);
        (0..COUNT).for_each(|number| memory.put(address(number), &code));
        let mut losses = Losses::default();
        let mut look = |symbolizer: &mut Symbolizer, lost| {
            let now = Now { memory: &memory, window: &ALWAYS, clock };
            let freed = losses.look(&Lost(lost), symbolizer, &now);
            freed.into_iter().flat_map(|freed| freed.ids).collect::<Vec<_>>()
        };
        assert!(look(&mut symbolizer, 0).is_empty(), "none was lost");
        let mut gone = look(&mut symbolizer, 1);
        assert_eq!(gone.len(), AT_ONCE);
        let next = (0..COUNT).find(|number| !gone.contains(number)).unwrap();
        assert_eq!(walk(&mut symbolizer, &memory, next), [next], "it is read before its turn");
        gone.push(next);
        (0..2).for_each(|_| gone.extend(look(&mut symbolizer, 1)));
        gone.sort_unstable();
        assert!(gone.into_iter().eq(0..COUNT));
        assert!(!symbolizer.reads_anew());
    }
}
