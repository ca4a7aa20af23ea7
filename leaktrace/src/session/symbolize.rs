//! From the frames that the kernel side sends to stacks that people read.
//!
//! Names are read some time after a stack was walked. By then its code may have been freed, and other code may lie at
//! the same address: what was read is taken for true only if no free of that address was on its way before. So a stack
//! is read first, then told of what was freed, then proven.

use std::collections::{BTreeMap, VecDeque};

use leaktrace_common::event::{self, stack_end};
use leaktrace_common::limits::MAX_FRAMES;
use rustc_hash::FxHashMap;

use super::listed::{Freed, Listed, unknown};
use crate::cpython::code::{CodeCache, Reason, Resolved};
use crate::stack::Stack;
use crate::target::memory::ReadMemory;

/// Turns code objects into names, and knows which stacks a freed code object invalidates.
#[derive(Debug)]
pub struct Symbolizer {
    codes: CodeCache,
    listed: Listed,
    read: VecDeque<Read>,
    // Where code that was read just now, and is not proven, is named: numbers of a stack and of a frame in it.
    uses: FxHashMap<u64, Vec<(usize, usize)>>,
    doubtful: Vec<u64>,
    unresolved: BTreeMap<Reason, u64>,
    stacks: u64,
    whole: u64,
}

/// A stack as its record has it.
#[derive(Clone, Copy, Debug)]
pub struct Walked<'a> {
    /// Its id.
    pub id: u64,
    /// How the walk ended: one of [`stack_end`].
    pub end: u32,
    /// 16 bytes for each frame.
    pub frames: &'a [u8],
    /// When.
    pub at_ns: u64,
    /// Whether frees were seen from then on: otherwise it is not known what became of its code.
    pub frees_seen: bool,
    /// Whether the event that it was walked for is counted: only then does it matter that it has names.
    pub counts: bool,
}

/// A stack whose code objects were read.
#[derive(Debug)]
struct Read {
    id: u64,
    end: u32,
    truncated: bool,
    counts: bool,
    frames: Vec<(u64, Resolved)>,
    /// Whether it is to be sent anew: what is not known of it may be known then.
    doubtful: bool,
}

impl Symbolizer {
    /// One that knows nothing yet.
    #[must_use]
    pub fn new(codes: CodeCache) -> Self {
        Self {
            codes,
            listed: Listed::default(),
            read: VecDeque::new(),
            uses: FxHashMap::default(),
            doubtful: Vec::new(),
            unresolved: BTreeMap::new(),
            stacks: 0,
            whole: 0,
        }
    }

    /// Reads the code objects of a stack. All that are read before the next [`Self::prove`] are proven by it.
    pub fn read(&mut self, memory: &impl ReadMemory, walked: Walked<'_>) {
        let mut frames: Vec<(u64, Resolved)> = Vec::new();
        let mut shown = 0;
        let mut truncated = walked.end != stack_end::COMPLETE;
        for frame in walked.frames.as_chunks().0.iter().map(event::Frame::from_bytes) {
            if shown == MAX_FRAMES {
                truncated = true;
                break;
            }
            if frame.code != 0 {
                let resolved = self.frame(memory, walked, frame, frames.len());
                shown += usize::from(resolved != Resolved::Incomplete);
                frames.push((frame.code, resolved));
            }
        }
        let is_unknown = |(_, resolved): &(u64, Resolved)| matches!(resolved, Resolved::Unknown(_));
        let doubtful = !walked.frees_seen && frames.iter().any(is_unknown);
        let Walked { id, end, counts, .. } = walked;
        self.read.push_back(Read { id, end, truncated, counts, frames, doubtful });
    }

    fn frame(
        &mut self,
        memory: &impl ReadMemory,
        walked: Walked<'_>,
        frame: event::Frame,
        number: usize,
    ) -> Resolved {
        let code = frame.code;
        let just_read = self.codes.contains(code) && self.uses.contains_key(&code);
        let found = if just_read { Ok(false) } else { self.codes.look(memory, code, walked.at_ns) };
        if found == Ok(true) && !self.codes.reads_for_frames() {
            return self.codes.frame(memory, code, frame.offset, frame.owner);
        }
        let uses = self.uses.entry(code).or_default();
        if walked.frees_seen {
            uses.push((self.read.len(), number));
        }
        match found {
            Ok(_) if walked.frees_seen => self.codes.frame(memory, code, frame.offset, frame.owner),
            Ok(_) => Resolved::Unknown(Reason::Unproven),
            Err(reason) => Resolved::Unknown(reason),
        }
    }

    /// A block is freed, behind the stacks that were read so far and before those that will be.
    pub fn forget(&mut self, block: u64) {
        self.codes.forget(block);
        self.freed_since(block);
    }

    /// A block is freed, behind the stacks that were read so far: none of these can be proven if it was not before.
    #[inline]
    pub fn freed_since(&mut self, block: u64) {
        if self.uses.is_empty() {
            return;
        }
        if let Some(uses) = self.uses.remove(&block) {
            self.codes.forget(block);
            for (stack, frame) in uses {
                self.read[stack].frames[frame].1 = Resolved::Unknown(Reason::Freed);
            }
        }
    }

    /// Every free was told of that was on its way when names were read: the others are true. If `all` is false, some
    /// may be missing, and it is not known which names are true. `now_ns` is after the reading.
    pub fn prove(&mut self, all: bool, now_ns: u64) {
        for (code, uses) in std::mem::take(&mut self.uses) {
            if all {
                self.codes.prove(code);
            } else {
                self.codes.doubt(code, now_ns);
                uses.into_iter().for_each(|(stack, frame)| self.doubt(stack, frame));
            }
        }
    }

    /// Takes back a name that may be another's. Why there was none before is still true.
    fn doubt(&mut self, stack: usize, frame: usize) {
        let read = &mut self.read[stack];
        read.doubtful = true;
        let resolved = &mut read.frames[frame].1;
        if !matches!(resolved, Resolved::Unknown(_)) {
            *resolved = Resolved::Unknown(Reason::Unproven);
        }
    }

    /// The next of the stacks that were read and proven, with its id: it is told now.
    pub fn next_stack(&mut self) -> Option<(u64, Stack)> {
        let Read { id, end, truncated, counts, frames, doubtful } = self.read.pop_front()?;
        let mut named = Vec::with_capacity(frames.len());
        let mut is_whole = end != stack_end::FAULT;
        for (code, resolved) in frames {
            let frame = match resolved {
                Resolved::Frame(frame) => frame,
                Resolved::Incomplete => {
                    self.listed.add(code, id, None);
                    continue;
                }
                Resolved::Unknown(reason) => {
                    *self.unresolved.entry(reason).or_default() += 1;
                    // That says something of the target's code, and nothing of how well its build is seen.
                    is_whole &= reason == Reason::Freed;
                    self.listed.add(code, id, None);
                    named.push(unknown());
                    continue;
                }
            };
            self.listed.add(code, id, Some(&frame));
            named.push(frame);
        }
        if doubtful {
            self.doubtful.push(id);
        }
        self.stacks += u64::from(counts);
        self.whole += u64::from(counts && is_whole);
        // Frames that are left out by what was read may count again.
        named.truncate(MAX_FRAMES);
        Some((id, Stack { frames: named.into(), truncated }))
    }

    /// Told of every free behind the stacks that were told: if `block` was a code object, what it leaves behind.
    #[inline]
    pub(super) fn freed(&mut self, block: u64) -> Option<Freed> {
        self.listed.remove(block)
    }

    /// Frees were missed: no code that was proven so far is named before it was read once more.
    pub(super) fn distrust(&mut self) {
        self.codes.distrust();
    }

    /// From now on [`Self::drop_changed`] reads all code objects anew.
    pub(super) fn begin_to_read_anew(&mut self) {
        self.codes.begin_to_read_anew();
    }

    /// Whether some of them were not read yet.
    pub(super) fn reads_anew(&self) -> bool {
        self.codes.reads_anew()
    }

    /// Reads `most` of them, and tells what those leave behind that are not there any more.
    pub(super) fn drop_changed(&mut self, memory: &impl ReadMemory, most: usize) -> Vec<Freed> {
        let changed = self.codes.drop_changed(memory, most);
        changed.into_iter().filter_map(|code| self.listed.remove(code)).collect()
    }

    /// What those leave behind in whose place other code was found as stacks were read.
    pub(super) fn take_replaced(&mut self) -> Vec<Freed> {
        let replaced = self.codes.take_replaced();
        replaced.into_iter().filter_map(|code| self.listed.remove(code)).collect()
    }

    /// The ids whose frames are to be sent anew, as what they stand for is not known, or not remembered any more.
    pub(super) fn take_stale(&mut self) -> Vec<u64> {
        let mut ids = std::mem::take(&mut self.doubtful);
        if let Some((aged, unlisted)) = self.listed.age() {
            unlisted.into_iter().for_each(|code| self.codes.forget(code));
            ids.extend(aged);
        }
        ids
    }

    /// Percent of the stacks that were read in full, and of which the code of every frame has a name or was freed before
    /// it could be read; `None` without any.
    #[must_use]
    pub fn whole_pct(&self) -> Option<f64> {
        (self.stacks > 0).then(|| 100.0 * self.whole as f64 / self.stacks as f64)
    }

    /// Frames that could not be named, by the reason.
    #[must_use]
    pub fn unresolved(&self) -> &BTreeMap<Reason, u64> {
        &self.unresolved
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpython::code::made::{CODE, Made, NAME, layout, made};

    const MINOR: u8 = 12;

    /// What is read of a stack of one frame, before it is proven.
    fn read(symbolizer: &mut Symbolizer, memory: &Made, frees_seen: bool, counts: bool) {
        let frames = [CODE, 8].map(u64::to_le_bytes).concat();
        let (id, end, at_ns) = (1, stack_end::COMPLETE, 5);
        let walked = Walked { id, end, frames: &frames, at_ns, frees_seen, counts };
        symbolizer.read(memory, walked);
    }

    fn symbolizer() -> Symbolizer {
        Symbolizer::new(CodeCache::new(layout(MINOR), None, true))
    }

    #[test]
    fn code_that_cannot_be_read_says_why_where_frees_were_lost_too_and_is_tried_again() {
        let mut memory = made(&layout(MINOR), "f");
        memory.0.remove(&NAME);
        for frees_seen in [true, false] {
            let mut symbolizer = symbolizer();
            read(&mut symbolizer, &memory, frees_seen, true);
            symbolizer.prove(false, 10);
            assert!(symbolizer.next_stack().is_some());
            assert_eq!(*symbolizer.unresolved(), BTreeMap::from([(Reason::Unreadable, 1)]));
            assert_eq!(symbolizer.whole_pct(), Some(0.0));
            assert_eq!(symbolizer.take_stale(), [1]);
        }
    }

    #[test]
    fn names_that_are_not_proven_are_missing_and_those_of_freed_code_are_not() {
        let memory = made(&layout(MINOR), "f");
        let mut symbolizer = symbolizer();
        read(&mut symbolizer, &memory, true, true);
        symbolizer.freed_since(CODE);
        symbolizer.prove(true, 10);
        assert!(symbolizer.next_stack().is_some());
        assert_eq!(symbolizer.whole_pct(), Some(100.0));
        read(&mut symbolizer, &memory, false, false);
        symbolizer.prove(false, 10);
        assert!(symbolizer.next_stack().is_some());
        assert_eq!(symbolizer.whole_pct(), Some(100.0), "what was before the gate opened");
        symbolizer.forget(CODE);
        read(&mut symbolizer, &memory, true, true);
        symbolizer.prove(false, 10);
        assert!(symbolizer.next_stack().is_some());
        assert_eq!(symbolizer.whole_pct(), Some(50.0));
        assert_eq!(symbolizer.unresolved()[&Reason::Unproven], 2);
    }
}
