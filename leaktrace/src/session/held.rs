//! Records that wait, from the first new stack on, until it is known that its names are its own.

use std::mem::offset_of;
use std::ops::Range;

use leaktrace_common::event::{Event, Head, Stack};

/// Bytes of records from which on no more are waited for.
const MAX_BYTES: usize = 32 << 20;

/// Bytes that are kept for the next ones.
const KEPT_BYTES: usize = 1 << 20;

/// Bytes in front of each record: its length.
const PREFIX: usize = size_of::<u32>();

/// Records as they came, oldest first.
#[derive(Debug, Default)]
pub(super) struct Held {
    bytes: Vec<u8>,
    stacks: usize,
}

impl Held {
    /// Keeps a record that was read as `event`; what of a stack's is not filled is left out.
    pub(super) fn push(&mut self, record: &[u8], event: &Event<'_>) {
        let length = match event {
            Event::Stack { frames, .. } => offset_of!(Stack, frames) + frames.len(),
            _ => record.len(),
        };
        self.stacks += usize::from(matches!(event, Event::Stack { .. }));
        self.bytes.extend((length as u32).to_le_bytes());
        self.bytes.extend(&record[..length]);
    }

    /// Where the next record will lie.
    pub(super) fn end(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether no more should be waited for.
    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() > MAX_BYTES
    }

    /// Whether there are new stacks among them.
    pub(super) fn has_stacks(&self) -> bool {
        self.stacks > 0
    }

    /// The records in a part that begins and ends between two.
    pub(super) fn events(&self, part: Range<usize>) -> impl Iterator<Item = (u64, Event<'_>)> {
        // They were read once already.
        records(&self.bytes[part]).map_while(|it| Some((at_ns(it)?, Event::parse(it).ok()?)))
    }

    /// All records.
    pub(super) fn records(&self) -> impl Iterator<Item = &[u8]> {
        records(&self.bytes)
    }

    /// Drops all before `end`, which have been told.
    pub(super) fn drop_first(&mut self, end: usize) {
        let stacks = |(_, event): &(u64, Event<'_>)| matches!(event, Event::Stack { .. });
        self.stacks -= self.events(0..end).filter(stacks).count();
        self.bytes.drain(..end);
        if self.bytes.is_empty() && self.bytes.capacity() > KEPT_BYTES {
            self.bytes = Vec::new();
        }
    }
}

/// When a record was made.
fn at_ns(record: &[u8]) -> Option<u64> {
    record.get(offset_of!(Head, at_ns)..)?.first_chunk().copied().map(u64::from_le_bytes)
}

fn records(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (prefix, tail) = rest.split_first_chunk::<PREFIX>()?;
        let (record, tail) = tail.split_at_checked(u32::from_le_bytes(*prefix) as usize)?;
        rest = tail;
        Some(record)
    })
}

#[cfg(test)]
mod tests {
    use leaktrace_common::event::kind;

    use super::*;

    #[test]
    fn records_come_out_as_they_went_in() {
        let mut held = Held::default();
        let mut free = [kind::FREE.to_le_bytes().as_slice(), &[0; 6], &7u64.to_le_bytes()].concat();
        free.extend(0x1000u64.to_le_bytes());
        let mut stack =
            [kind::STACK.to_le_bytes().as_slice(), &[0; 6], &9u64.to_le_bytes()].concat();
        stack.extend(5u64.to_le_bytes());
        stack.extend([1, 0, 0, 0, 0, 0, 0, 0]);
        stack.extend([3; 192 * 16]);
        for record in [&free, &stack, &free] {
            held.push(record, &Event::parse(record).unwrap());
        }
        assert!(held.has_stacks());
        let all: Vec<_> = held.events(0..held.end()).collect();
        assert_eq!(all.iter().map(|(at_ns, _)| *at_ns).collect::<Vec<_>>(), [7, 9, 7]);
        assert!(matches!(all[0].1, Event::Free(free) if free.block == 0x1000));
        assert!(matches!(all[1].1, Event::Stack { id: 5, frames, .. } if frames == [3; 16]));
        assert!(held.end() < 200, "frames that are not filled are left out");
        let two = held.end() - PREFIX - free.len();
        held.drop_first(two);
        assert!(!held.has_stacks() && !held.is_empty());
        held.drop_first(held.end());
        assert!(held.is_empty());
    }
}
