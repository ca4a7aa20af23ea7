//! Code objects that were read before, by address.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::copies::offset_in_code;
use super::{Code, Header, Reason, check_type, read};
use crate::cpython::layout::Layout;
use crate::stack::Frame;
use crate::target::memory::ReadMemory;

/// Code objects that are kept. A large service has some 100,000, of which few allocate.
const MAX_CODES: usize = 65_536;

/// Bytes of line tables and such that are kept; the average code object takes some 200.
const MAX_BYTES: usize = 64 << 20;

/// Different names and files that are kept; those beyond it are not shared.
const MAX_STRINGS: usize = 2 * MAX_CODES;

/// What a (code object, offset) pair turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolved {
    /// A frame.
    Frame(Frame),
    /// A frame that is being set up and that Python does not show either (`_PyFrame_IsIncomplete`, from 3.11 on).
    Incomplete,
    /// The code object could not be read.
    Unknown(Reason),
}

/// What a cache did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Code objects that were read in full.
    pub reads: u64,
    /// Of these, those in place of another that had been at the same address.
    pub replaced: u64,
    /// How often everything was dropped because a bound was reached.
    pub cleared: u64,
}

#[derive(Debug)]
struct Entry {
    header: Header,
    code: Code,
    proof: Proof,
    /// How often all code had been distrusted when it was read.
    distrusted: u64,
}

/// Whether what was read is what ran when a stack was walked, before it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proof {
    /// It is, and will be until its block is freed.
    Proven,
    /// It has been so since then; whether it was before, is not known.
    Since(u64),
    /// Nobody knows yet.
    Open,
}

/// Remembers code objects by address, and shares equal names.
///
/// What is read at an address is not known to be what was there when a stack was walked: [`Self::look`] says whether
/// it is, and whoever sees the frees tells with [`Self::prove`] or [`Self::doubt`] what has come of it. When a bound is
/// reached, everything is dropped and read anew where it is needed.
#[derive(Debug)]
pub struct CodeCache {
    layout: Layout,
    code_type: Option<u64>,
    frees_seen: bool,
    codes: FxHashMap<u64, Entry>,
    bytes: usize,
    strings: FxHashSet<Arc<str>>,
    stats: CacheStats,
    distrusted: u64,
    /// The addresses that are still to be read anew.
    unread: Vec<u64>,
    /// Where other code was found in the place of what was remembered.
    replaced: Vec<u64>,
}

impl CodeCache {
    /// An empty cache for a target. `code_type` is the address of `PyCode_Type`, where it is known.
    ///
    /// Without `frees_seen`, nothing can be proven: a new code object at the address of an old one is then told by a few
    /// words that are compared each time, and what is read is taken for what ran.
    #[must_use]
    pub fn new(layout: Layout, code_type: Option<u64>, frees_seen: bool) -> Self {
        Self {
            layout,
            code_type,
            frees_seen,
            codes: FxHashMap::default(),
            bytes: 0,
            strings: FxHashSet::default(),
            stats: CacheStats::default(),
            distrusted: 0,
            unread: Vec::new(),
            replaced: Vec::new(),
        }
    }

    /// Sees to it that the code object at `address` is remembered, which ran at the time of `ran_ns`. Returns whether it
    /// is known to be the one that ran then.
    ///
    /// # Errors
    /// [`Reason`] says why it cannot be read.
    pub fn look(
        &mut self,
        memory: &impl ReadMemory,
        address: u64,
        ran_ns: u64,
    ) -> Result<bool, Reason> {
        if let Some(entry) = self.codes.get(&address)
            && entry.proof == Proof::Proven
            && self.is_trusted(memory, address, entry)
        {
            return Ok(true);
        }
        let before = self.codes.remove(&address);
        self.bytes -= before.as_ref().map_or(0, |entry| entry.code.bytes());
        let found = self.read(memory, address);
        let is_same = |before: &Entry| found.as_ref().is_ok_and(|it| it.code == before.code);
        let same = before.as_ref().is_some_and(is_same);
        if before.is_some() && !same && self.frees_seen {
            self.replaced.push(address);
        }
        let mut entry = found?;
        self.stats.replaced += u64::from(before.is_some() && !same);
        // The same before it ran and now: so it was in between.
        let held = match before.filter(|_| same).map(|before| before.proof) {
            Some(Proof::Since(since)) => since < ran_ns,
            proof => proof == Some(Proof::Proven),
        };
        if held || !self.frees_seen {
            entry.proof = Proof::Proven;
        }
        let proven = entry.proof == Proof::Proven;
        self.insert(address, entry);
        Ok(proven)
    }

    /// Whether the code object that `entry` remembers, and that was proven, is there without any doubt.
    fn is_trusted(&self, memory: &impl ReadMemory, address: u64, entry: &Entry) -> bool {
        if self.frees_seen {
            return entry.distrusted == self.distrusted;
        }
        Header::read(memory, &self.layout, address) == Ok(entry.header)
    }

    /// Function, file and line of the code object at `address`, as it is remembered, where it runs the instruction at
    /// byte `offset`, in a frame with this `owner` (0 up to 3.10).
    pub fn frame(
        &self,
        memory: &impl ReadMemory,
        address: u64,
        offset: i32,
        owner: u32,
    ) -> Resolved {
        let Some(Entry { code, .. }) = self.codes.get(&address) else {
            return Resolved::Unknown(Reason::Unreadable);
        };
        let generator = self.layout.frame.generator_owner == Some(u64::from(owner));
        match offset_in_code(memory, &self.layout, address, offset) {
            Err(reason) => Resolved::Unknown(reason),
            Ok(offset) if !generator && code.is_incomplete_at(offset) => Resolved::Incomplete,
            Ok(offset) => Resolved::Frame(Frame {
                function: Arc::clone(&code.function),
                file: Arc::clone(&code.file),
                line: code.line(offset),
            }),
        }
    }

    /// Whether [`Self::frame`] depends on what it reads, beside what is remembered.
    #[must_use]
    pub fn reads_for_frames(&self) -> bool {
        self.layout.code.copies.is_some()
    }

    /// What was read at `address` is what ran: it was not freed in between.
    pub fn prove(&mut self, address: u64) {
        if let Some(entry) = self.codes.get_mut(&address) {
            entry.proof = Proof::Proven;
        }
    }

    /// What was read at `address`, if it was not proven before, may be other than what ran; it is there since `now_ns` at
    /// the latest.
    pub fn doubt(&mut self, address: u64, now_ns: u64) {
        if let Some(entry) = self.codes.get_mut(&address)
            && entry.proof != Proof::Proven
        {
            entry.proof = Proof::Since(now_ns);
        }
    }

    /// Something may have been freed that nobody was told of: what was proven is looked at once more before it counts.
    pub fn distrust(&mut self) {
        self.distrusted += 1;
    }

    /// The same; from now on [`Self::drop_changed`] reads all that is remembered.
    pub fn begin_to_read_anew(&mut self) {
        self.distrust();
        self.unread.clear();
        self.unread.extend(self.codes.keys());
    }

    /// Whether some of that was not read yet.
    #[must_use]
    pub fn reads_anew(&self) -> bool {
        !self.unread.is_empty()
    }

    /// Reads so many of them at `most`, and drops those that are not there any more though nobody was told that they
    /// were freed.
    pub fn drop_changed(&mut self, memory: &impl ReadMemory, most: usize) -> Vec<u64> {
        let mut changed = Vec::new();
        let rest = self.unread.len().saturating_sub(most);
        for address in self.unread.split_off(rest) {
            let Some(entry) = self.codes.get_mut(&address) else { continue };
            let found = read(memory, &self.layout, address, self.code_type);
            if found.as_ref() == Ok(&entry.code) {
                entry.distrusted = self.distrusted;
            } else {
                self.forget(address);
                changed.push(address);
            }
        }
        changed
    }

    /// The addresses at which [`Self::look`] found other code than was remembered, or none, since this was asked last.
    /// Without `frees_seen` there are none.
    pub fn take_replaced(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.replaced)
    }

    /// Whether a code object at `address` is remembered: its block may be freed.
    #[must_use]
    pub fn contains(&self, address: u64) -> bool {
        self.codes.contains_key(&address)
    }

    /// Drops the code object at `address`, whose block was freed.
    pub fn forget(&mut self, address: u64) {
        if let Some(Entry { code, .. }) = self.codes.remove(&address) {
            self.bytes -= code.bytes();
        }
    }

    /// What was done so far.
    #[must_use]
    pub const fn stats(&self) -> CacheStats {
        self.stats
    }

    fn read(&mut self, memory: &impl ReadMemory, address: u64) -> Result<Entry, Reason> {
        let header = Header::read(memory, &self.layout, address)?;
        check_type(memory, &self.layout, header.kind, self.code_type)?;
        self.code_type = Some(header.kind);
        let mut code = header.follow(memory, &self.layout, address)?;
        self.stats.reads += 1;
        code.function = self.share(code.function);
        code.file = self.share(code.file);
        Ok(Entry { header, code, proof: Proof::Open, distrusted: self.distrusted })
    }

    fn insert(&mut self, address: u64, entry: Entry) {
        self.bytes += entry.code.bytes();
        if self.codes.len() >= MAX_CODES || self.bytes > MAX_BYTES {
            self.stats.cleared += 1;
            self.codes.clear();
            self.bytes = entry.code.bytes();
        }
        self.codes.insert(address, entry);
    }

    /// The one copy of a string.
    fn share(&mut self, text: Arc<str>) -> Arc<str> {
        if let Some(shared) = self.strings.get(&text) {
            return Arc::clone(shared);
        }
        if self.strings.len() >= MAX_STRINGS {
            self.strings.retain(|kept| Arc::strong_count(kept) > 1);
        }
        if self.strings.len() < MAX_STRINGS {
            self.strings.insert(Arc::clone(&text));
        }
        text
    }
}
