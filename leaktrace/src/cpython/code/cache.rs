//! Code objects that were read before, by address.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::copies::offset_in_code;
use super::{Code, Header, Reason, check_type};
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
}

/// Remembers code objects by address, and shares equal names.
///
/// Each [`Self::resolve`] compares a few words with the target, so that a new code object at the address of an old
/// one is noticed. When a bound is reached, everything is dropped and read anew where it is needed.
#[derive(Debug)]
pub struct CodeCache {
    layout: Layout,
    code_type: Option<u64>,
    codes: FxHashMap<u64, Entry>,
    bytes: usize,
    strings: FxHashSet<Arc<str>>,
    stats: CacheStats,
}

impl CodeCache {
    /// An empty cache for a target. `code_type` is the address of `PyCode_Type`, where it is known.
    #[must_use]
    pub fn new(layout: Layout, code_type: Option<u64>) -> Self {
        Self {
            layout,
            code_type,
            codes: FxHashMap::default(),
            bytes: 0,
            strings: FxHashSet::default(),
            stats: CacheStats::default(),
        }
    }

    /// Function, file and line of the code object at `address` where it runs the instruction at byte `offset`, in a
    /// frame with this `owner` (0 up to 3.10).
    pub fn resolve(
        &mut self,
        memory: &impl ReadMemory,
        address: u64,
        offset: i32,
        owner: u32,
    ) -> Resolved {
        let generator = self.layout.frame.generator_owner == Some(u64::from(owner));
        let offset = match offset_in_code(memory, &self.layout, address, offset) {
            Ok(offset) => offset,
            Err(reason) => return Resolved::Unknown(reason),
        };
        match self.code(memory, address) {
            Err(reason) => Resolved::Unknown(reason),
            Ok(code) if !generator && code.is_incomplete_at(offset) => Resolved::Incomplete,
            Ok(code) => Resolved::Frame(Frame {
                function: Arc::clone(&code.function),
                file: Arc::clone(&code.file),
                line: code.line(offset),
            }),
        }
    }

    /// Whether a code object at `address` is remembered: its block may be freed.
    #[must_use]
    pub fn contains(&self, address: u64) -> bool {
        self.codes.contains_key(&address)
    }

    /// Drops the code object at `address`, whose block was freed, and gives what was known of it.
    pub fn forget(&mut self, address: u64) -> Option<Code> {
        let Entry { code, .. } = self.codes.remove(&address)?;
        self.bytes = self.bytes.saturating_sub(code.bytes());
        Some(code)
    }

    /// What was done so far.
    #[must_use]
    pub const fn stats(&self) -> CacheStats {
        self.stats
    }

    /// The code object at `address`, as it is now.
    fn code(&mut self, memory: &impl ReadMemory, address: u64) -> Result<&Code, Reason> {
        let header = Header::read(memory, &self.layout, address);
        let known = self.codes.get(&address).map(|entry| entry.header);
        if known.is_none() || known != header.ok() {
            self.forget(address);
            let entry = self.read(memory, header?, address)?;
            self.stats.replaced += u64::from(known.is_some());
            self.insert(address, entry);
        }
        self.codes.get(&address).map(|entry| &entry.code).ok_or(Reason::Unreadable)
    }

    fn read(
        &mut self,
        memory: &impl ReadMemory,
        header: Header,
        address: u64,
    ) -> Result<Entry, Reason> {
        check_type(memory, &self.layout, header.kind, self.code_type)?;
        self.code_type = Some(header.kind);
        let mut code = header.follow(memory, &self.layout, address)?;
        self.stats.reads += 1;
        code.function = self.share(code.function);
        code.file = self.share(code.file);
        Ok(Entry { header, code })
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
