//! From the frames that the kernel side sends to stacks that people read.

use std::collections::BTreeMap;
use std::sync::Arc;

use leaktrace_common::event::{self, stack_end};
use leaktrace_common::limits::MAX_FRAMES;
use rustc_hash::FxHashMap;

use crate::cpython::code::{CodeCache, Reason, Resolved};
use crate::stack::{Frame, Stack};
use crate::target::memory::ReadMemory;

/// (code object, stack id) pairs that are kept, so that the stacks of a freed code object can be sent anew.
const MAX_PAIRS: usize = 1 << 20;

/// Turns code objects into names, and knows which stacks a freed code object invalidates.
#[derive(Debug)]
pub struct Symbolizer {
    codes: CodeCache,
    stacks_of: FxHashMap<u64, Vec<u64>>,
    pairs: usize,
    unresolved: BTreeMap<Reason, u64>,
    stacks: u64,
    whole: u64,
}

/// What a freed code object leaves behind.
#[derive(Clone, Debug)]
pub struct Freed {
    /// The stacks that it is on.
    pub ids: Vec<u64>,
    names: Option<(Arc<str>, Arc<str>)>,
}

impl Freed {
    /// A stack without the name of the code that was freed; `None` where it does not name it.
    ///
    /// Until its frames are sent anew, an id that comes once more stands for other code at the same address.
    #[must_use]
    pub fn masked(&self, stack: &Stack) -> Option<Stack> {
        let (function, file) = self.names.as_ref()?;
        let is_freed = |frame: &Frame| frame.function == *function && frame.file == *file;
        if !stack.frames.iter().any(is_freed) {
            return None;
        }
        let mask = |frame: &Frame| if is_freed(frame) { unknown() } else { frame.clone() };
        Some(Stack { frames: stack.frames.iter().map(mask).collect(), truncated: stack.truncated })
    }
}

/// A frame that has no name.
fn unknown() -> Frame {
    Frame { function: Arc::from("?"), file: Arc::from("?"), line: None }
}

impl Symbolizer {
    /// One that knows nothing yet.
    #[must_use]
    pub fn new(codes: CodeCache) -> Self {
        Self {
            codes,
            stacks_of: FxHashMap::default(),
            pairs: 0,
            unresolved: BTreeMap::new(),
            stacks: 0,
            whole: 0,
        }
    }

    /// The stack behind `id`, whose frames are `frames` as the record holds them: 16 bytes each.
    pub fn stack(&mut self, memory: &impl ReadMemory, id: u64, end: u32, frames: &[u8]) -> Stack {
        let mut named = Vec::new();
        let unnamed = self.unnamed();
        let mut truncated = end != stack_end::COMPLETE;
        for frame in frames.as_chunks().0.iter().map(event::Frame::from_bytes) {
            if named.len() == MAX_FRAMES {
                truncated = true;
                break;
            }
            if frame.code != 0
                && let Some(frame) = self.frame(memory, id, frame)
            {
                named.push(frame);
            }
        }
        self.stacks += 1;
        let is_whole = end != stack_end::FAULT && self.unnamed() == unnamed;
        self.whole += u64::from(is_whole);
        Stack { frames: Arc::from(named), truncated }
    }

    /// Percent of the stacks of which every frame had a name and none could not be read; `None` without any.
    #[must_use]
    pub fn whole_pct(&self) -> Option<f64> {
        (self.stacks > 0).then(|| 100.0 * self.whole as f64 / self.stacks as f64)
    }

    fn unnamed(&self) -> u64 {
        self.unresolved.values().sum()
    }

    /// Told of every free: if `block` was a code object, the stacks that name it.
    pub fn freed(&mut self, block: u64) -> Option<Freed> {
        // Not the cache is asked, which may have dropped the code object itself.
        let ids = self.stacks_of.remove(&block)?;
        self.pairs -= ids.len();
        let code = self.codes.forget(block);
        Some(Freed { ids, names: code.map(|code| (code.function, code.file)) })
    }

    /// Frames that could not be named, by the reason.
    #[must_use]
    pub fn unresolved(&self) -> &BTreeMap<Reason, u64> {
        &self.unresolved
    }

    fn frame(&mut self, memory: &impl ReadMemory, id: u64, frame: event::Frame) -> Option<Frame> {
        self.remember(frame.code, id);
        match self.codes.resolve(memory, frame.code, frame.offset, frame.owner) {
            Resolved::Frame(frame) => Some(frame),
            Resolved::Incomplete => None,
            Resolved::Unknown(reason) => {
                *self.unresolved.entry(reason).or_default() += 1;
                Some(unknown())
            }
        }
    }

    fn remember(&mut self, code: u64, id: u64) {
        if self.pairs >= MAX_PAIRS {
            // Stacks of code objects that are freed later keep their old names until they are sent again.
            self.stacks_of.clear();
            self.pairs = 0;
        }
        let ids = self.stacks_of.entry(code).or_default();
        if ids.last() != Some(&id) {
            ids.push(id);
            self.pairs += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_of_freed_code_loses_that_name_alone() {
        let frame = |name: &str| Frame {
            function: Arc::from(name),
            file: Arc::from("app.py"),
            line: Some(3),
        };
        let stack = Stack { frames: [frame("kept"), frame("freed")].into(), truncated: true };
        let names = frame("freed");
        let freed = Freed { ids: vec![1], names: Some((names.function, names.file)) };
        let masked = freed.masked(&stack).unwrap();
        assert_eq!((&*masked.frames, masked.truncated), (&[frame("kept"), unknown()][..], true));
        assert_eq!(freed.masked(&masked), None, "there is nothing left to mask");
    }
}
