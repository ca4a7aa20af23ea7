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
}

/// A stack whose code objects were read.
#[derive(Debug)]
struct Read {
    id: u64,
    end: u32,
    truncated: bool,
    frames: Vec<(u64, Resolved)>,
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
        self.read.push_back(Read { id: walked.id, end: walked.end, truncated, frames });
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
        if !walked.frees_seen {
            return Resolved::Unknown(Reason::Unproven);
        }
        uses.push((self.read.len(), number));
        match found {
            Ok(_) => self.codes.frame(memory, code, frame.offset, frame.owner),
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
            self.unname(&uses, Reason::Freed);
        }
    }

    fn unname(&mut self, uses: &[(usize, usize)], reason: Reason) {
        for &(stack, frame) in uses {
            self.read[stack].frames[frame].1 = Resolved::Unknown(reason);
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
                self.unname(&uses, Reason::Unproven);
            }
        }
    }

    /// The next of the stacks that were read and proven, with its id: it is told now.
    pub fn next_stack(&mut self) -> Option<(u64, Stack)> {
        let Read { id, end, truncated, frames } = self.read.pop_front()?;
        let mut named = Vec::with_capacity(frames.len());
        let (mut is_whole, mut is_doubtful) = (end != stack_end::FAULT, false);
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
                    is_whole &= matches!(reason, Reason::Freed | Reason::Unproven);
                    is_doubtful |= reason == Reason::Unproven;
                    self.listed.add(code, id, None);
                    named.push(unknown());
                    continue;
                }
            };
            self.listed.add(code, id, Some(&frame));
            named.push(frame);
        }
        if is_doubtful {
            self.doubtful.push(id);
        }
        self.stacks += 1;
        self.whole += u64::from(is_whole);
        // Frames that are left out by what was read may count again.
        named.truncate(MAX_FRAMES);
        Some((id, Stack { frames: named.into(), truncated }))
    }

    /// Told of every free behind the stacks that were told: if `block` was a code object, what it leaves behind.
    #[inline]
    pub(super) fn freed(&mut self, block: u64) -> Option<Freed> {
        self.listed.remove(block)
    }

    /// Reads all code objects anew, as frees were lost, and tells what those leave behind that are not there any more.
    pub(super) fn drop_changed(&mut self, memory: &impl ReadMemory) -> Vec<Freed> {
        let changed = self.codes.drop_changed(memory);
        changed.into_iter().filter_map(|code| self.listed.remove(code)).collect()
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

    /// Percent of the stacks that were read in full, and of which every frame has a name or was freed before; `None`
    /// without any.
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
