//! Whether a block of the C library's heap is handed out, as far as glibc's own books tell.
//!
//! A block lies in a chunk, whose size stands in the word before it, with flags in its lowest bits (glibc 2.42,
//! `malloc/malloc.c`, "malloc_chunk details"). That a chunk is free its own header does not say: the next chunk's does,
//! by `PREV_INUSE`, and then the word before that one's size says how large the free one is. Two kinds stay marked as
//! in use. Those in a thread's cache have a key as their second word (`tcache_entry.key`): from 2.34 on a random
//! number, from 2.29 to 2.33 the address of the thread's cache; it is learned from blocks that are known to be freed.
//! Those in fast bins, up to 128 bytes, have nothing. A chunk that was mapped on its own is unmapped when it is freed.
//!
//! What remains uncertain: a block that was freed, became part of a larger chunk and was handed out again as the
//! middle of another block looks as its memory happens to look, mostly as no chunk at all, in rare cases as alive. So
//! does one that was freed and handed out again in the same size. Before the key is known, and with glibc before 2.29,
//! a block in a thread's cache looks alive, as one in a fast bin always does. A block that grew or shrank in place is
//! not told from another one of that size. Other C libraries and allocators have other books: what has no form of a
//! chunk is unknown, but nothing here proves that a heap is glibc's.

use super::pool::{Block, State};
use super::reads::{Gap, PAGE, Reads, View};
use super::{Death, Reason};
use crate::target::memory::word;

/// Bits of the size word.
const PREV_INUSE: u64 = 1;
const IS_MMAPPED: u64 = 2;
const FLAGS: u64 = 7;

/// Bytes of a chunk before its block: `prev_size` (in use by the chunk before, unless that is free) and `size`.
const HEADER: u64 = 16;

/// `MINSIZE`; no chunk is smaller but the fence posts at the end of a heap.
const SMALLEST: u64 = 32;
const FENCE: u64 = 16;

/// `MALLOC_ALIGNMENT`.
const ALIGNMENT: u64 = 16;

/// No chunk is larger.
const LARGEST: u64 = 1 << 46;

/// `tcache_max_bytes`: up to this request a freed block goes to its thread's cache (`TCACHE_MAX_BINS` 64).
const MOST_CACHED: u64 = 1032;

/// Freed blocks whose words must agree until a word is a key. A random number has bits beyond those of addresses, a
/// word that is no such number may be in many blocks by chance.
const RANDOM_VOTES: u32 = 4;
const ADDRESS_VOTES: u32 = 16;

/// Words that have votes at the same time; each thread has a key up to 2.33.
const MOST_WORDS: usize = 64;

/// What is known of the heap.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    votes: Vec<(u64, u32)>,
}

/// What a chunk's own header says.
enum Header {
    Known(State),
    /// It has these bytes: the next chunk has the last word.
    Bytes(u64),
}

impl Chunks {
    /// Notes the second word of a block of `size` bytes that is known to be freed, unless it is not in a cache.
    pub(super) fn learn(&mut self, view: &mut View<'_>, block: Block) {
        let at = block.address.wrapping_sub(HEADER);
        let Ok(bytes) = super::reads::read(view, at, 2 * HEADER) else { return };
        let Header::Bytes(chunk) = self.header(&bytes, block) else { return };
        let next = super::reads::read(view, at.wrapping_add(chunk), HEADER);
        let size = next.ok().and_then(|bytes| word(&bytes, 8)).unwrap_or(0);
        let is_cached = size & PREV_INUSE != 0 && block.size <= MOST_CACHED;
        let is_own = is_of(chunk, wanted(block.size));
        if let Some(key) = word(&bytes, HEADER + 8).filter(|&key| key != 0 && is_cached && is_own) {
            self.vote(key);
        }
    }

    fn vote(&mut self, key: u64) {
        if let Some((_, votes)) = self.votes.iter_mut().find(|(known, _)| *known == key) {
            *votes = votes.saturating_add(1);
            return;
        }
        if self.votes.len() == MOST_WORDS {
            let least = (0..MOST_WORDS).min_by_key(|&index| self.votes[index].1);
            least.map(|index| self.votes.swap_remove(index));
        }
        self.votes.push((key, 1));
    }

    /// Whether a word marks blocks in a cache.
    pub(super) fn is_key(&self, word: u64) -> bool {
        const ADDRESS_BITS: u32 = 48;
        let needed = if word >> ADDRESS_BITS == 0 { ADDRESS_VOTES } else { RANDOM_VOTES };
        self.votes.iter().any(|&(known, votes)| known == word && votes >= needed)
    }

    /// The states of `blocks`, in their order.
    pub(super) fn look(&self, view: &mut View<'_>, blocks: &[Block]) -> Vec<State> {
        let mut heads = Reads::default();
        for block in blocks {
            heads.add(block.address.wrapping_sub(HEADER), 2 * HEADER);
        }
        heads.run(view);
        let mut nexts = Reads::default();
        let headers: Vec<(Header, usize)> = blocks
            .iter()
            .enumerate()
            .map(|(index, &block)| {
                let header = match heads.bytes(index) {
                    Ok(bytes) => self.header(bytes, block),
                    Err(Gap::Unreadable) => Header::Known(State::Free(Death::Unmapped)),
                    Err(Gap::Swapped) => Header::Known(State::Unknown(Reason::Swapped)),
                };
                let chunk =
                    if let Header::Bytes(bytes) = header { bytes } else { return (header, 0) };
                (header, nexts.add(block.address.wrapping_sub(HEADER).wrapping_add(chunk), HEADER))
            })
            .collect();
        nexts.run(view);
        let states = headers.into_iter().zip(blocks).map(|((header, next), &block)| match header {
            Header::Known(state) => state,
            Header::Bytes(chunk) => by_next(chunk, nexts.bytes(next), block),
        });
        states.collect()
    }

    /// `bytes` begin with the chunk and end with the first two words of its block.
    fn header(&self, bytes: &[u8], block: Block) -> Header {
        let size = word(bytes, 8).unwrap_or(0);
        let (chunk, wanted) = (size & !FLAGS, wanted(block.size));
        let sensible = block.address.is_multiple_of(ALIGNMENT)
            && chunk.is_multiple_of(ALIGNMENT)
            && (SMALLEST..LARGEST).contains(&chunk);
        if !sensible {
            return Header::Known(State::Unknown(Reason::NoChunk));
        }
        if size & IS_MMAPPED != 0 {
            return Header::Known(mapped(word(bytes, 0), chunk, block));
        }
        let is_own = is_of(chunk, wanted);
        if is_own && word(bytes, HEADER + 8).is_some_and(|key| self.is_key(key)) {
            return Header::Known(State::Free(Death::ChunkFree));
        }
        Header::Bytes(chunk)
    }
}

/// Whether a chunk can serve a request that wants so many: one that is 16 bytes larger is not split.
fn is_of(chunk: u64, wanted: u64) -> bool {
    (wanted..=wanted.saturating_add(ALIGNMENT)).contains(&chunk)
}

/// The bytes of the chunk that a request is served by.
const fn wanted(size: u64) -> u64 {
    let wanted = size.saturating_add(8 + ALIGNMENT - 1) & !(ALIGNMENT - 1);
    if wanted < SMALLEST { SMALLEST } else { wanted }
}

/// A chunk that says that it was mapped on its own: it begins with its mapping, which has whole pages.
fn mapped(before: Option<u64>, chunk: u64, block: Block) -> State {
    let start = before.and_then(|before| (block.address - HEADER).checked_sub(before));
    let whole = start.is_some_and(|start| {
        start.is_multiple_of(PAGE) && (block.address - HEADER - start + chunk).is_multiple_of(PAGE)
    });
    let room = chunk - HEADER;
    match whole {
        true if (block.size..block.size.saturating_add(PAGE)).contains(&room) => State::Live,
        true => State::Unknown(Reason::Resized),
        false => State::Unknown(Reason::NoChunk),
    }
}

/// What the header behind a chunk of `chunk` bytes says of it.
fn by_next(chunk: u64, next: Result<&[u8], Gap>, block: Block) -> State {
    let wanted = wanted(block.size);
    let next = match next {
        Ok(next) => next,
        Err(Gap::Swapped) => return State::Unknown(Reason::Swapped),
        // The last chunk of a heap is what was never handed out: it reaches to the end of its last page.
        Err(Gap::Unreadable) => {
            let is_last = (block.address - HEADER).wrapping_add(chunk).is_multiple_of(PAGE);
            return match is_last && chunk > wanted.saturating_add(ALIGNMENT) {
                true => State::Free(Death::ChunkFree),
                false => State::Unknown(Reason::NoChunk),
            };
        }
    };
    let (before, size) = (word(next, 0).unwrap_or(0), word(next, 8).unwrap_or(0));
    let bytes = size & !FLAGS;
    let sensible = bytes.is_multiple_of(ALIGNMENT) && (FENCE..LARGEST).contains(&bytes);
    if !sensible {
        State::Unknown(Reason::NoChunk)
    } else if size & PREV_INUSE == 0 {
        // What is free may have begun before, with a neighbour that was free already.
        let fits = (chunk..LARGEST).contains(&before) && before.is_multiple_of(ALIGNMENT);
        if fits { State::Free(Death::ChunkFree) } else { State::Unknown(Reason::NoChunk) }
    } else if is_of(chunk, wanted) {
        State::Live
    } else {
        State::Unknown(Reason::Resized)
    }
}
