//! Which stacks name a code object: when it is freed, they lose that name and are sent anew.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::stack::{Frame, Stack};

/// (code object, stack id) pairs of one generation; there are two.
const MAX_PAIRS: usize = 1 << 20;

/// Function and file.
pub(super) type Names = (Arc<str>, Arc<str>);

/// Code objects that are on stacks, by address.
///
/// When there are too many, a new generation begins: the stacks of the one before are sent anew when they come next, and
/// are listed then. Until the next time it is remembered, for what is on its way meanwhile.
#[derive(Debug, Default)]
pub(super) struct Listed {
    young: FxHashMap<u64, Entry>,
    old: FxHashMap<u64, Entry>,
    pairs: usize,
}

#[derive(Debug, Default)]
struct Entry {
    ids: Vec<u64>,
    names: Option<Names>,
}

/// What a freed code object leaves behind.
#[derive(Clone, Debug)]
pub(super) struct Freed {
    /// The stacks that it is on.
    pub(super) ids: Vec<u64>,
    names: Option<Names>,
}

impl Freed {
    /// A stack without the name of the code that was freed; `None` where it does not name it.
    ///
    /// Until its frames are sent anew, an id that comes once more stands for other code at the same address.
    pub(super) fn masked(&self, stack: &Stack) -> Option<Stack> {
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
pub(super) fn unknown() -> Frame {
    Frame { function: Arc::from("?"), file: Arc::from("?"), line: None }
}

impl Listed {
    /// The stack `id` names the code object at `code`, by `frame` if it has a name.
    pub(super) fn add(&mut self, code: u64, id: u64, frame: Option<&Frame>) {
        let entry = self.young.entry(code).or_default();
        if entry.ids.last() != Some(&id) {
            entry.ids.push(id);
            self.pairs += 1;
        }
        if entry.names.is_none() {
            entry.names = frame.map(|it| (Arc::clone(&it.function), Arc::clone(&it.file)));
        }
    }

    /// Told of every free: if `block` was a code object, what it leaves behind.
    #[inline]
    pub(super) fn remove(&mut self, block: u64) -> Option<Freed> {
        let (young, old) = (self.young.remove(&block), self.old.remove(&block));
        self.pairs -= young.as_ref().map_or(0, |entry| entry.ids.len());
        let mut entries = [young, old].into_iter().flatten();
        let Entry { mut ids, mut names } = entries.next()?;
        if let Some(entry) = entries.next() {
            ids.extend(entry.ids);
            names = names.or(entry.names);
        }
        Some(Freed { ids, names })
    }

    /// Where there are too many: begins a new generation. Returns the ids that are to be sent anew, and the code objects
    /// that are not listed any more.
    pub(super) fn age(&mut self) -> Option<(Vec<u64>, Vec<u64>)> {
        if self.pairs < MAX_PAIRS {
            return None;
        }
        let young = std::mem::take(&mut self.young);
        let dropped = std::mem::replace(&mut self.old, young);
        self.pairs = 0;
        let mut ids: Vec<u64> = self.old.values().flat_map(|entry| entry.ids.clone()).collect();
        ids.sort_unstable();
        ids.dedup();
        let gone = dropped.into_keys().filter(|code| !self.old.contains_key(code)).collect();
        Some((ids, gone))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(name: &str) -> Frame {
        Frame { function: Arc::from(name), file: Arc::from("app.py"), line: Some(3) }
    }

    #[test]
    fn a_stack_of_freed_code_loses_that_name_alone() {
        let stack = Stack { frames: [frame("kept"), frame("freed")].into(), truncated: true };
        let mut listed = Listed::default();
        listed.add(0x10, 1, Some(&frame("freed")));
        let freed = listed.remove(0x10).unwrap();
        let masked = freed.masked(&stack).unwrap();
        assert_eq!((&*masked.frames, masked.truncated), (&[frame("kept"), unknown()][..], true));
        assert_eq!(freed.masked(&masked), None, "there is nothing left to mask");
        assert!(listed.remove(0x10).is_none());
    }

    #[test]
    fn a_generation_that_is_full_is_sent_anew_and_remembered_for_one_more() {
        let mut listed = Listed::default();
        let fill = |listed: &mut Listed, code: u64| {
            (0..MAX_PAIRS as u64).for_each(|id| listed.add(code, id, Some(&frame("f"))));
        };
        fill(&mut listed, 0x10);
        let (ids, gone) = listed.age().unwrap();
        assert_eq!((ids.len(), gone.len()), (MAX_PAIRS, 0));
        assert!(listed.age().is_none());
        listed.add(0x10, 7, None);
        listed.add(0x20, 7, None);
        let freed = listed.remove(0x10).unwrap();
        assert_eq!((freed.ids.len(), freed.names.is_some()), (MAX_PAIRS + 1, true));
        listed.add(0x10, 7, None);
        fill(&mut listed, 0x30);
        assert!(listed.age().unwrap().1.is_empty());
        fill(&mut listed, 0x20);
        let (_, mut gone) = listed.age().unwrap();
        gone.sort_unstable();
        assert_eq!(gone, [0x10, 0x30], "0x20 is listed still");
    }
}
