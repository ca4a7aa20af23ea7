//! Which addresses are types, and what leaktrace needs to know of each.
//!
//! A type is an object whose own type is `type`, or a metaclass: one whose flags say that it derives from `type`, and
//! which is a type itself. Types are remembered by address. One made by a `class` statement can be freed and its memory
//! used for something else, so its first bytes are read again, all at once, for each lot of objects: as long as its
//! type, its sizes and the place of its name are the same, what is known of it holds.
//!
//! Addresses that are no types are not remembered: one read tells them from types, and the same read would be needed
//! to trust what was remembered.

use std::collections::{BTreeSet, HashMap};

use super::object::Presize;
use super::reads::{self, Gap, PAGE, Reads, View, is_address};
use crate::cpython::layout::Layout;
use crate::target::memory::word;

/// `tp_basicsize` and `tp_itemsize` follow `tp_name` (`struct _typeobject`: 3.6.15, `Include/object.h`; v3.14.7,
/// `Include/cpython/object.h` lines 150 and 151; the same in all versions between).
const BASICSIZE_AFTER_NAME: u64 = 8;
const ITEMSIZE_AFTER_NAME: u64 = 16;

/// `Py_TPFLAGS_*` of `Include/object.h`, the same from 3.6 on.
const HEAPTYPE: u64 = 1 << 9;
const TYPE_SUBCLASS: u64 = 1 << 31;
/// `Py_TPFLAGS_IMMUTABLETYPE`, from 3.10 on.
const IMMUTABLETYPE: u64 = 1 << 8;

/// Types that are remembered; services have a few thousand.
const MOST_TYPES: usize = 1 << 14;

/// Bytes of a name that are kept.
const MOST_NAME: usize = 256;

/// Bytes of a name that are read at first.
const FIRST_NAME: u64 = 64;

/// A metaclass of a metaclass, and so on: so many are followed.
const MOST_METACLASSES: u32 = 4;

/// A type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Type {
    head: Head,
    /// `tp_name`: bare for a class that Python code made, with its module for others.
    pub(super) name: Box<str>,
    /// Bytes of its blocks before the object.
    pub(super) presize: u64,
    /// Whether `__class__` of its instances can be set.
    can_be_left: bool,
}

/// The start of a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    meta: u64,
    name: u64,
    basic_bytes: u64,
    item_bytes: u64,
    flags: u64,
}

/// All types that were met.
#[derive(Debug)]
pub(super) struct Types {
    known: HashMap<u64, Type>,
    /// The address of `type`.
    root: Option<u64>,
    presize: Presize,
    kind: u64,
    name: u64,
    flags: u64,
    immutable: u64,
}

impl Type {
    pub(super) const fn flags(&self) -> u64 {
        self.head.flags
    }

    /// Whether it was made at run time (`Py_TPFLAGS_HEAPTYPE`), as every class of Python code was.
    pub(super) const fn is_heap(&self) -> bool {
        self.head.flags & HEAPTYPE != 0
    }

    /// `tp_basicsize`.
    pub(super) const fn basic_bytes(&self) -> u64 {
        self.head.basic_bytes
    }

    /// `tp_itemsize`.
    pub(super) const fn item_bytes(&self) -> u64 {
        self.head.item_bytes
    }

    /// Whether an object can go from this type to the other by an assignment to `__class__`: both let it, and their
    /// instances have the same form (v3.14.7, `Objects/typeobject.c`: `object_set_class_world_stopped`,
    /// `compatible_for_assignment`).
    pub(super) fn can_become(&self, other: &Self) -> bool {
        self.can_be_left
            && other.can_be_left
            && self.presize == other.presize
            && self.head.basic_bytes == other.head.basic_bytes
    }
}

impl Head {
    /// Whether what is known of a type with the other head holds for this one.
    const fn is_of_same(&self, other: &Self) -> bool {
        self.meta == other.meta
            && self.name == other.name
            && self.basic_bytes == other.basic_bytes
            && self.item_bytes == other.item_bytes
    }
}

impl Types {
    /// `root` is the address of `type`, where it is known; else it is what has itself as its type.
    pub(super) fn new(layout: &Layout, presize: Presize, root: Option<u64>) -> Self {
        Self {
            known: HashMap::new(),
            root,
            presize,
            kind: layout.object.kind,
            name: layout.object.type_name,
            flags: layout.object.type_flags,
            immutable: if layout.minor >= 10 { IMMUTABLETYPE } else { 0 },
        }
    }

    /// The address of `type`.
    pub(super) const fn root(&self) -> Option<u64> {
        self.root
    }

    pub(super) fn get(&self, address: u64) -> Option<&Type> {
        self.known.get(&address)
    }

    /// Finds out which of `addresses` are types now; [`get`](Self::get) knows those, and none of the others. The answer
    /// is those that cannot be told, as what would tell is swapped out.
    pub(super) fn resolve(
        &mut self,
        view: &mut View<'_>,
        addresses: &BTreeSet<u64>,
    ) -> BTreeSet<u64> {
        let mut untold = BTreeSet::new();
        let mut reads = Reads::default();
        let asked: Vec<u64> =
            addresses.iter().copied().filter(|&address| is_address(address)).collect();
        for &address in &asked {
            reads.add(address, self.flags + 8);
        }
        reads.run(view);
        if self.known.len() + asked.len() > MOST_TYPES {
            self.known.clear();
        }
        for (index, &address) in asked.iter().enumerate() {
            let head = reads.bytes(index).ok().and_then(|bytes| self.head(bytes));
            let known = self.known.remove(&address);
            let swapped_before = view.counts.swapped_pages;
            let found = head.and_then(|head| match known {
                Some(known) if known.head.is_of_same(&head) => Some(self.made(head, known.name)),
                _ => self.meet(view, head),
            });
            let is_swapped = reads.bytes(index) == Err(Gap::Swapped)
                || view.counts.swapped_pages > swapped_before;
            match found {
                Some(found) => drop(self.known.insert(address, found)),
                None if is_swapped => drop(untold.insert(address)),
                None => {}
            }
        }
        untold
    }

    /// A type that is not known.
    fn meet(&mut self, view: &mut View<'_>, head: Head) -> Option<Type> {
        if !self.is_metaclass(view, head.meta, MOST_METACLASSES) {
            return None;
        }
        name(view, head.name).map(|name| self.made(head, name))
    }

    fn made(&self, head: Head, name: Box<str>) -> Type {
        let is_heap = head.flags & HEAPTYPE != 0 && head.flags & self.immutable == 0;
        Type {
            presize: self.presize.of(head.flags),
            // Modules alone among others can change their class.
            can_be_left: is_heap || &*name == "module",
            head,
            name,
        }
    }

    /// Whether the objects of type `address` are types.
    fn is_metaclass(&mut self, view: &mut View<'_>, address: u64, depth: u32) -> bool {
        if Some(address) == self.root {
            return true;
        }
        if depth == 0 || !is_address(address) {
            return false;
        }
        let head = reads::read(view, address, self.flags + 8).ok();
        let Some(head) = head.and_then(|bytes| self.head(&bytes)) else { return false };
        if head.flags & TYPE_SUBCLASS == 0 {
            return false;
        }
        if head.meta != address {
            return self.is_metaclass(view, head.meta, depth - 1);
        }
        let is_root = self.root.is_none() && name(view, head.name).as_deref() == Some("type");
        if is_root {
            self.root = Some(address);
        }
        is_root
    }

    /// `None` where the sizes are none that a type has.
    fn head(&self, bytes: &[u8]) -> Option<Head> {
        const MOST_BYTES: u64 = 1 << 20;
        let head = Head {
            meta: word(bytes, self.kind)?,
            name: word(bytes, self.name)?,
            basic_bytes: word(bytes, self.name + BASICSIZE_AFTER_NAME)?,
            item_bytes: word(bytes, self.name + ITEMSIZE_AFTER_NAME)?,
            flags: word(bytes, self.flags)?,
        };
        (head.basic_bytes < MOST_BYTES && head.item_bytes < MOST_BYTES).then_some(head)
    }
}

/// The C string at `address`, cut where it is long; `None` where it is empty, or no text.
fn name(view: &mut View<'_>, address: u64) -> Option<Box<str>> {
    // What follows in the same page can be read; a longer name goes on in the next.
    let near = (PAGE - address % PAGE).min(FIRST_NAME);
    let mut bytes = reads::read(view, address, near).ok()?;
    let mut end = bytes.iter().position(|&byte| byte == 0);
    if end.is_none() {
        let rest = MOST_NAME as u64 - near;
        let next = reads::read(view, address + near, rest.min(PAGE - (address + near) % PAGE));
        bytes.extend(next.unwrap_or_default());
        end = bytes.iter().position(|&byte| byte == 0);
    }
    bytes.truncate(end.unwrap_or(bytes.len()));
    let text = match std::str::from_utf8(&bytes) {
        Ok(text) => text,
        // A cut may go through a character.
        Err(error) if end.is_none() && error.error_len().is_none() => {
            std::str::from_utf8(bytes.get(..error.valid_up_to())?).ok()?
        }
        Err(_) => return None,
    };
    (!text.is_empty()).then(|| text.into())
}
