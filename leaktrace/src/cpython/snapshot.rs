//! A copy of the writable data of a module, to be searched at leisure.

use std::ops::Range;

use crate::target::memory::ReadMemory;

/// Bytes that are copied at most: interpreters have 1 to 3 MiB of writable data, programs with one inside more.
const MAX_BYTES: u64 = 64 << 20;

/// Bytes that are read at once; where a piece cannot be read, it is left out alone.
const PIECE: u64 = 1 << 20;

/// One stretch of memory.
#[derive(Debug)]
pub(super) struct Stretch {
    /// Address of the first byte, a multiple of 8.
    pub(super) address: u64,
    /// The bytes.
    pub(super) bytes: Vec<u8>,
}

impl Stretch {
    /// The addresses of its whole words, and the words.
    pub(super) fn words(&self) -> impl Iterator<Item = (u64, u64)> {
        let (words, _rest) = self.bytes.as_chunks();
        (self.address..).step_by(8).zip(words.iter().map(|word| u64::from_le_bytes(*word)))
    }
}

/// Copies what can be read of `ranges`.
pub(super) fn take(memory: &dyn ReadMemory, ranges: &[Range<u64>]) -> Vec<Stretch> {
    let mut left = MAX_BYTES;
    let mut stretches = Vec::new();
    for range in ranges {
        let size = range.end.saturating_sub(range.start).min(left);
        left -= size;
        stretches.extend(copy(memory, range.start.next_multiple_of(8), size));
    }
    stretches
}

/// Copies `size` bytes in pieces; readable neighbours become one stretch.
fn copy(memory: &dyn ReadMemory, start: u64, size: u64) -> Vec<Stretch> {
    let mut stretches: Vec<Stretch> = Vec::new();
    let mut broken = true;
    let mut done = 0;
    while done < size {
        let address = start + done;
        let mut piece = vec![0; PIECE.min(size - done) as usize];
        done += piece.len() as u64;
        if memory.read_bytes(address, &mut piece).is_err() {
            broken = true;
            continue;
        }
        match stretches.last_mut() {
            Some(last) if !broken => last.bytes.append(&mut piece),
            _ => stretches.push(Stretch { address, bytes: piece }),
        }
        broken = false;
    }
    stretches
}
