//! Many small reads of the target, done together; what is swapped out is not read.

use std::collections::BTreeSet;

use super::Counts;
use crate::cpython::census::Resident;
use crate::target::memory::{ReadMemory, Span};

/// Bytes of a page on x86-64.
pub(super) const PAGE: u64 = 4096;

/// Bytes between two spans up to which one question to the pagemap is for both: one page of its entries.
const FAR: u64 = PAGE / 8 * PAGE;

/// No address of user space lies beyond, with 4-level page tables.
const MAX_ADDRESS: u64 = 1 << 47;

/// The target while it is looked at.
pub(super) struct View<'a> {
    pub(super) memory: &'a dyn ReadMemory,
    /// Which pages are not to be read; `None` where all were just in use.
    pub(super) resident: Option<&'a Resident>,
    pub(super) counts: &'a mut Counts,
}

/// Spans that are read together, in the order in which they were added.
#[derive(Debug, Default)]
pub(super) struct Reads {
    spans: Vec<Span>,
    starts: Vec<usize>,
    bytes: Vec<u8>,
    outcomes: Vec<Outcome>,
}

/// What came of a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Read,
    Unreadable,
    Swapped,
}

/// Why there are no bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gap {
    /// Nothing is mapped there, or nothing that can be read.
    Unreadable,
    /// It is swapped out.
    Swapped,
}

impl Reads {
    /// Adds a span; the answer is what [`bytes`](Self::bytes) asks for.
    pub(super) fn add(&mut self, address: u64, bytes: u64) -> usize {
        self.spans.push(Span { address, bytes: bytes as usize });
        self.spans.len() - 1
    }

    /// Reads all.
    pub(super) fn run(&mut self, view: &mut View<'_>) {
        let swapped = self.swapped(view);
        let mut wanted = Vec::with_capacity(self.spans.len());
        let mut end = 0;
        for span in &self.spans {
            self.starts.push(end);
            let lost = !swapped.is_empty() && pages(span).any(|page| swapped.contains(&page));
            self.outcomes.push(if lost { Outcome::Swapped } else { Outcome::Unreadable });
            if !lost {
                wanted.push(*span);
                end += span.bytes;
            }
        }
        self.bytes.resize(end, 0);
        let read = view.memory.read_many(&wanted, &mut self.bytes);
        let asked = self.outcomes.iter_mut().filter(|outcome| **outcome != Outcome::Swapped);
        for (outcome, read) in asked.zip(read) {
            if read {
                *outcome = Outcome::Read;
            }
        }
    }

    /// What was read of a span.
    pub(super) fn bytes(&self, index: usize) -> Result<&[u8], Gap> {
        match self.outcomes.get(index) {
            Some(Outcome::Read) => {
                let (start, span) = (self.starts.get(index), self.spans.get(index));
                let range = start.zip(span).map(|(&start, span)| start..start + span.bytes);
                range.and_then(|range| self.bytes.get(range)).ok_or(Gap::Unreadable)
            }
            Some(Outcome::Swapped) => Err(Gap::Swapped),
            Some(Outcome::Unreadable) | None => Err(Gap::Unreadable),
        }
    }

    /// The pages of all spans that are swapped out.
    fn swapped(&self, view: &mut View<'_>) -> BTreeSet<u64> {
        let mut found = BTreeSet::new();
        let Some(resident) = view.resident.filter(|resident| !resident.is_whole()) else {
            return found;
        };
        let all: BTreeSet<u64> = self.spans.iter().flat_map(pages).collect();
        let mut pages = all.iter().copied();
        let mut range = pages.next().map(|page| page..page + PAGE);
        while let Some(known) = range.take() {
            let mut end = known.end;
            for page in pages.by_ref() {
                if page - end > FAR {
                    range = Some(page..page + PAGE);
                    break;
                }
                end = page + PAGE;
            }
            found.extend(resident.swapped(known.start..end));
        }
        found.retain(|page| all.contains(page));
        view.counts.swapped_pages += found.len() as u64;
        found
    }
}

/// One read on its own.
pub(super) fn read(view: &mut View<'_>, address: u64, bytes: u64) -> Result<Vec<u8>, Gap> {
    let mut reads = Reads::default();
    let index = reads.add(address, bytes);
    reads.run(view);
    reads.bytes(index).map(<[u8]>::to_vec)
}

/// The first addresses of a span's pages.
fn pages(span: &Span) -> impl Iterator<Item = u64> + use<> {
    let last = span.address.saturating_add(span.bytes.max(1) as u64 - 1).min(MAX_ADDRESS);
    (span.address / PAGE..=last / PAGE).map(|page| page * PAGE)
}

/// Whether a word can be the address of something that CPython made.
pub(super) const fn is_address(word: u64) -> bool {
    word >= PAGE && word < MAX_ADDRESS && word.is_multiple_of(8)
}
