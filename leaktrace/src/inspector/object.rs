//! Which object a block holds, and whether it is still the same one.
//!
//! An object does not always begin where its block does. In front of it lie the words of the garbage collector and,
//! from 3.11 on, those of a managed dict or weak references; its type's flags say which ([`Presize`]). So an object is
//! found where a type stands at the right distance, whose flags ask for just that distance. What is no object (the
//! storage of a list, the keys of a dict) has no identity.
//!
//! An identity holds two fingerprints. `content` is of what no object changes as long as it lives. `shape` is of what
//! only the maker of an object or its single owner changes; where it differs, the object may be another one:
//!
//! | type | `content` | `shape` |
//! | --- | --- | --- |
//! | `int` | value; not from 3.15 on, whose optimiser adds in place (`_BINARY_OP_ADD_INT_INPLACE`) | from 3.15 on |
//! | `float` | value up to 3.11; 3.12 and later add in place (`DECREF_INPUTS_AND_REUSE_FLOAT`) | from 3.12 on |
//! | `str` | length, kind and hash, once it has a hash: from then on none is resized (`unicode_modifiable`) | length, kind |
//! | `bytes` | | size and first bytes: `_PyBytes_Resize` and `io.BytesIO` change them in place |
//! | `tuple` | | size and first items: `zip` and others use a tuple again that nobody else holds |
//!
//! All other types have none: their type alone tells. An object that was freed and followed by one of the same type at
//! the same address then seems to live on.

use std::collections::BTreeSet;
use std::hash::Hasher as _;

use rustc_hash::FxHasher;

use super::pool::Block;
use super::reads::{Gap, Reads, View, is_address};
use super::types::{Type, Types};
use super::{Death, Reason};
use crate::cpython::layout::Layout;
use crate::target::memory::{word, word32};

/// `Py_TPFLAGS_*` of `Include/object.h`, the same from 3.6 on.
const HEAPTYPE: u64 = 1 << 9;
const HAVE_GC: u64 = 1 << 14;
const LONG_SUBCLASS: u64 = 1 << 24;
const TUPLE_SUBCLASS: u64 = 1 << 26;
const BYTES_SUBCLASS: u64 = 1 << 27;
const UNICODE_SUBCLASS: u64 = 1 << 28;
/// `Py_TPFLAGS_MANAGED_WEAKREF` (from 3.12 on) and `Py_TPFLAGS_MANAGED_DICT` (from 3.11 on).
const MANAGED_WEAKREF: u64 = 1 << 3;
const MANAGED_DICT: u64 = 1 << 4;

/// Bytes of an object that its fingerprint is taken of.
const FINGERPRINT_BYTES: u64 = 64;

/// Bytes before an object at most.
const MOST_PRESIZE: u64 = 32;

/// A reference count of an object whose block is larger than its type asks for is below this: what else looks like a
/// count may be a pointer in a program that lies low in memory.
const MOST_REFERENCES: u64 = 1 << 16;

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Bytes from the start of the block to the object, at whose address `id()` is.
    pub offset: u64,
    /// The address of its type.
    pub type_address: u64,
    /// Fingerprint of what never changes; 0 where nothing is known to.
    pub content: u64,
    /// Fingerprint of what hardly changes; 0 where nothing does.
    pub shape: u64,
}

/// How many bytes lie between a block's start and the object (`_PyType_PreHeaderSize` of
/// `Include/internal/pycore_object.h`: v3.11.7 line 222, v3.12.1 line 339, v3.13.0 line 672, v3.14.7 line 855).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Presize {
    /// `sizeof(PyGC_Head)`: two words; up to 3.7 three, and a fourth where it is aligned to 16 bytes, as the blocks of
    /// the same build are (v3.7.16, `Include/objimpl.h` line 252). Free-threaded builds have none.
    collector: u64,
    /// The flags that ask for two more words.
    managed: u64,
}

impl Presize {
    pub(super) const fn new(layout: &Layout, class_shift: Option<u64>) -> Self {
        let collector = match (layout.minor, class_shift) {
            _ if layout.free_threaded => 0,
            (..=7, Some(3)) => 24,
            (..=7, _) => 32,
            _ => 16,
        };
        let managed = match layout.minor {
            ..=10 => 0,
            11 => MANAGED_DICT,
            12.. => MANAGED_DICT | MANAGED_WEAKREF,
        };
        Self { collector, managed }
    }

    /// Of the objects of a type with these flags.
    pub(super) const fn of(self, flags: u64) -> u64 {
        let collector = if flags & HAVE_GC == 0 { 0 } else { self.collector };
        let managed = if flags & self.managed == 0 { 0 } else { 16 };
        collector + managed
    }

    /// All that there are, ascending.
    fn all(self) -> BTreeSet<u64> {
        [0, HAVE_GC, self.managed, HAVE_GC | self.managed].map(|flags| self.of(flags)).into()
    }
}

/// Finds objects in blocks.
#[derive(Debug)]
pub(super) struct Objects {
    layout: Layout,
    offsets: BTreeSet<u64>,
}

/// What lies in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// An object.
    Object(Identity),
    /// None.
    Nothing,
    /// It cannot be told: what would tell is swapped out, or cannot be read.
    Untold,
}

/// What a second look at an object says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// Nothing speaks against its being the same.
    Same,
    /// It is another one.
    Other(Death),
    /// It cannot be told.
    Unknown(Reason),
}

impl Objects {
    pub(super) fn new(layout: &Layout, presize: Presize) -> Self {
        Self { layout: layout.clone(), offsets: presize.all() }
    }

    /// What each of `blocks` holds.
    pub(super) fn held(
        &self,
        view: &mut View<'_>,
        types: &mut Types,
        blocks: &[Block],
    ) -> Vec<Held> {
        let mut reads = Reads::default();
        for block in blocks {
            reads.add(block.address, block.size.min(MOST_PRESIZE + FINGERPRINT_BYTES));
        }
        reads.run(view);
        let heads: Vec<&[u8]> =
            (0..blocks.len()).map(|index| reads.bytes(index).unwrap_or_default()).collect();
        let candidates = heads.iter().flat_map(|head| self.candidates(head));
        let addresses = candidates.map(|(_, address)| address).collect();
        let untold = types.resolve(view, &addresses);
        let held = |(index, block): (usize, &Block)| {
            let head = heads[index];
            let is_untold = || self.candidates(head).any(|(_, kind)| untold.contains(&kind));
            match self.object(types, block, head) {
                Some(identity) => Held::Object(identity),
                None if reads.bytes(index).is_err() || is_untold() => Held::Untold,
                None => Held::Nothing,
            }
        };
        blocks.iter().enumerate().map(held).collect()
    }

    /// The object in a block that begins with the bytes of `head`; the types that these lead to are resolved.
    fn object(&self, types: &Types, block: &Block, head: &[u8]) -> Option<Identity> {
        self.candidates(head).find_map(|(offset, type_address)| {
            let kind = types.get(type_address).filter(|kind| kind.presize == offset)?;
            let object = head.get(offset as usize..)?;
            let fits = self.fits(kind, block.size.checked_sub(offset)?, object);
            let (content, shape) = self.fingerprints(kind, object);
            fits.then_some(Identity { offset, type_address, content, shape })
        })
    }

    /// Looks again at what `identities` were in `blocks`.
    pub(super) fn compare(
        &self,
        view: &mut View<'_>,
        types: &mut Types,
        blocks: &[(Block, Identity)],
    ) -> Vec<Seen> {
        let mut reads = Reads::default();
        for (block, before) in blocks {
            let rest = block.size.saturating_sub(before.offset);
            reads.add(block.address.wrapping_add(before.offset), rest.min(FINGERPRINT_BYTES));
        }
        reads.run(view);
        let kinds: Vec<Option<u64>> = (0..blocks.len())
            .map(|index| word(reads.bytes(index).ok()?, self.layout.object.kind))
            .collect();
        // A type that is known need not be read again: the object that had it holds it.
        let changed = blocks.iter().zip(&kinds).flat_map(|((_, before), &now)| {
            let changed = now.is_some_and(|now| now != before.type_address);
            let both = [Some(before.type_address), now.filter(|_| changed)];
            both.into_iter().flatten().filter(move |_| changed)
        });
        let unknown = blocks.iter().map(|(_, before)| before.type_address);
        let unknown = unknown.filter(|&address| types.get(address).is_none());
        let addresses = changed.chain(unknown).collect();
        let untold = types.resolve(view, &addresses);
        let seen = |(index, (_, before)): (usize, &(Block, Identity))| match reads.bytes(index) {
            Ok(_) if kinds[index].is_some_and(|now| untold.contains(&now)) => {
                Seen::Unknown(Reason::Swapped)
            }
            Ok(object) => self.again(types, before, object),
            Err(Gap::Swapped) => Seen::Unknown(Reason::Swapped),
            Err(Gap::Unreadable) => Seen::Other(Death::Unmapped),
        };
        blocks.iter().enumerate().map(seen).collect()
    }

    fn again(&self, types: &Types, before: &Identity, object: &[u8]) -> Seen {
        let Some(now) = word(object, self.layout.object.kind) else { return Seen::Same };
        let was = types.get(before.type_address);
        if now != before.type_address {
            return match (was, types.get(now)) {
                (_, None) => Seen::Other(Death::OtherObject),
                (Some(was), Some(now)) if !was.can_become(now) => Seen::Other(Death::OtherObject),
                _ => Seen::Unknown(Reason::ClassChanged),
            };
        }
        let Some(kind) = was else { return Seen::Same };
        let (content, shape) = self.fingerprints(kind, object);
        if before.content != 0 && content != before.content {
            Seen::Other(Death::OtherObject)
        } else if before.shape != 0 && shape != before.shape {
            Seen::Unknown(Reason::Altered)
        } else {
            Seen::Same
        }
    }

    /// Where in a block an object may begin, and the address of its type.
    fn candidates<'a>(&'a self, head: &'a [u8]) -> impl Iterator<Item = (u64, u64)> + 'a {
        self.offsets.iter().filter_map(|&offset| {
            let object = head.get(offset as usize..)?;
            let type_address = word(object, self.layout.object.kind)?;
            (is_address(type_address) && self.references(object).is_some())
                .then_some((offset, type_address))
        })
    }

    /// The number of references to an object; `None` where it can be none. Immortal ones have up to 2^32 - 1, from 3.14
    /// on with flags in the upper 16 bits (v3.14.7, `Include/refcount.h`). Free-threaded builds count in other fields.
    fn references(&self, object: &[u8]) -> Option<u64> {
        const FLAGS: u32 = 48;
        let Some(offset) = self.layout.object.refcnt else { return Some(1) };
        let count = word(object, offset)?;
        let flags = if self.layout.minor >= 14 { count >> FLAGS << FLAGS } else { 0 };
        Some(count - flags).filter(|count| (1..=u64::from(u32::MAX)).contains(count))
    }

    /// Whether an object of that type can be all that lies in `room` bytes.
    fn fits(&self, kind: &Type, room: u64, object: &[u8]) -> bool {
        let basic = kind.basic_bytes();
        if kind.flags() & UNICODE_SUBCLASS != 0 && self.text_bytes(object).is_some() {
            return self.text_bytes(object).is_some_and(|bytes| bytes <= room);
        }
        if kind.item_bytes() != 0 {
            // The first item may be counted in, and the size of some types says other things than their items.
            return basic <= room.saturating_add(kind.item_bytes());
        }
        let exact = basic.next_multiple_of(16) == room.next_multiple_of(16);
        let few = self.references(object).is_some_and(|count| count < MOST_REFERENCES);
        basic <= room && (exact || few)
    }

    /// Bytes of a compact string; `None` where it is not compact.
    fn text_bytes(&self, object: &[u8]) -> Option<u64> {
        let text = &self.layout.text;
        let state = word32(object, text.state)?;
        let kind = (state >> text.kind_bit) & ((1 << text.kind_width) - 1);
        let is = |bit: u32| (state >> bit) & 1 == 1;
        let start = if is(text.ascii_bit) { text.ascii_bytes } else { text.compact_bytes };
        let characters = word(object, text.length)?.checked_add(1)?.checked_mul(kind)?;
        (is(text.compact_bit) && matches!(kind, 1 | 2 | 4))
            .then(|| start.checked_add(characters))
            .flatten()
    }

    /// `content` and `shape`; 0 stands for nothing.
    fn fingerprints(&self, kind: &Type, object: &[u8]) -> (u64, u64) {
        let flags = kind.flags();
        let object = object.get(..FINGERPRINT_BYTES as usize).unwrap_or(object);
        let by_version = |value: Option<u64>, last: u8| match value {
            Some(value) if self.layout.minor <= last => (value, 0),
            value => (0, value.unwrap_or(0)),
        };
        if flags & UNICODE_SUBCLASS != 0 {
            self.text(object).unwrap_or((0, 0))
        } else if flags & LONG_SUBCLASS != 0 {
            by_version(self.integer(kind, object), 14)
        } else if flags & BYTES_SUBCLASS != 0 {
            (0, self.sized(object, self.layout.object.bytes_start, 1).unwrap_or(0))
        } else if flags & TUPLE_SUBCLASS != 0 {
            (0, self.sized(object, kind.basic_bytes(), 8).unwrap_or(0))
        } else if flags & HEAPTYPE == 0 && &*kind.name == "float" {
            by_version(word(object, self.layout.object.size).map(|value| mixed(&[value])), 11)
        } else {
            (0, 0)
        }
    }

    fn text(&self, object: &[u8]) -> Option<(u64, u64)> {
        let text = &self.layout.text;
        let bytes = self.text_bytes(object)?;
        let length = word(object, text.length)?;
        // `PyASCIIObject.hash` follows `length` (v3.14.7, `Include/cpython/unicodeobject.h` line 101; since 3.3).
        let hash = word(object, text.length + 8)?;
        let content = if hash == u64::MAX { 0 } else { mixed(&[length, bytes, hash]) };
        Some((content, mixed(&[length, bytes])))
    }

    /// The value of an `int`, as far as it is at hand.
    fn integer(&self, kind: &Type, object: &[u8]) -> Option<u64> {
        // `ob_size` counts digits and is negative for a negative value; from 3.12 on it is `lv_tag`, which counts them
        // from bit 3 on. Its bit 2 says no more than that the value is one of the small ones (v3.14.7,
        // `Include/internal/pycore_long.h`).
        let size = word(object, self.layout.object.size)?;
        let (sign, digits) = if self.layout.minor >= 12 {
            (size & !4, size >> 3)
        } else {
            (size, size.cast_signed().unsigned_abs())
        };
        let start = self.layout.object.size as usize + 8;
        let rest = object.get(start..)?;
        let bytes = digits.saturating_mul(kind.item_bytes());
        let bytes = usize::try_from(bytes).map_or(rest.len(), |bytes| bytes.min(rest.len()));
        Some(hashed(&[sign], rest.get(..bytes)?))
    }

    /// `ob_size` and the first items, from `start` on.
    fn sized(&self, object: &[u8], start: u64, item_bytes: u64) -> Option<u64> {
        let size = word(object, self.layout.object.size)?;
        let rest = object.get(usize::try_from(start).ok()?..).unwrap_or_default();
        let bytes = usize::try_from(size.saturating_mul(item_bytes)).unwrap_or(rest.len());
        Some(hashed(&[size], rest.get(..bytes.min(rest.len()))?))
    }
}

fn mixed(words: &[u64]) -> u64 {
    hashed(words, &[])
}

/// Never 0.
fn hashed(words: &[u64], bytes: &[u8]) -> u64 {
    let mut hasher = FxHasher::default();
    words.iter().for_each(|&word| hasher.write_u64(word));
    hasher.write(bytes);
    hasher.finish() | 1
}
