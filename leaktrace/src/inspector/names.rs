//! What a type is called in a program: `collections.OrderedDict`, `shop.Order`, `dict`.
//!
//! `tp_name` has the module in it for types that C code made. For a class that Python code made it is the bare name;
//! its module is what `__module__` in its `tp_dict` says. That dict is read as it lies: its keys are looked through for
//! the string `__module__`, and the value beside it counts only if it is a plain ASCII string. Whatever is not as it
//! should be, be it torn, of an unknown version or swapped out, leaves the bare name.

use super::reads::{self, Reads, View, is_address};
use super::types::Type;
use crate::cpython::layout::Layout;
use crate::target::memory::{word, word32};

/// From `tp_flags` to `tp_dict`: eleven pointers and an offset lie between (`struct _typeobject`: v3.6.15,
/// `Include/object.h`; v3.14.7, `Include/cpython/object.h` lines 178 to 218; the same in all versions between).
const DICT_AFTER_FLAGS: u64 = 96;

/// `ma_keys` and `ma_values`, from the end of `PyObject` on, behind `ma_used` and a tag (`PyDictObject`: v3.6.15,
/// `Include/dictobject.h`; v3.14.7, `Include/cpython/dictobject.h`; the same in all versions between).
const KEYS_AFTER_HEAD: u64 = 16;
const VALUES_AFTER_HEAD: u64 = 24;

/// The module that nobody writes before a name.
const BUILTINS: &str = "builtins";

/// The key that is looked for.
const MODULE: &[u8] = b"__module__";

/// Entries of a dict that are looked through; a class statement puts `__module__` first.
const MOST_ENTRIES: u64 = 64;

/// Indices of a dict at most: a class with so many attributes is none.
const MOST_INDICES: u64 = 1 << 16;

/// Characters of a module's name at most.
const MOST_NAME: u64 = 200;

/// Where the entries of a `PyDictKeysObject` lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entries {
    start: u64,
    count: u64,
    /// Bytes of one.
    bytes: u64,
    /// Where its key is; the value follows.
    key: u64,
}

/// Names types.
#[derive(Debug)]
pub(super) struct Names {
    layout: Layout,
}

impl Names {
    pub(super) fn new(layout: &Layout) -> Self {
        Self { layout: layout.clone() }
    }

    /// The name of the type at `address`, with its module where it is not `builtins`.
    pub(super) fn of(&self, view: &mut View<'_>, address: u64, kind: &Type) -> String {
        let name = &*kind.name;
        if name.contains('.') || !kind.is_heap() {
            let plain = name.strip_prefix(BUILTINS).and_then(|rest| rest.strip_prefix('.'));
            return plain.unwrap_or(name).to_owned();
        }
        match self.module(view, address) {
            Some(module) if module != BUILTINS => format!("{module}.{name}"),
            _ => name.to_owned(),
        }
    }

    /// What `__module__` of the type at `address` says.
    fn module(&self, view: &mut View<'_>, address: u64) -> Option<String> {
        let object = &self.layout.object;
        let dict = pointer(view, address.wrapping_add(object.type_flags + DICT_AFTER_FLAGS))?;
        let fields =
            reads::read(view, dict.wrapping_add(object.size), VALUES_AFTER_HEAD + 8).ok()?;
        let keys = word(&fields, KEYS_AFTER_HEAD).filter(|&keys| is_address(keys))?;
        // With values of its own a dict shares its keys with others.
        if word(&fields, VALUES_AFTER_HEAD)? != 0 {
            return None;
        }
        let entries = self.entries(view, keys)?;
        let bytes = reads::read(view, entries.start, entries.count * entries.bytes).ok()?;
        let pairs = (0..entries.count).filter_map(|index| {
            let key = index * entries.bytes + entries.key;
            let (key, value) = (word(&bytes, key)?, word(&bytes, key + 8)?);
            (is_address(key) && is_address(value)).then_some((key, value))
        });
        self.value_of_module(view, &pairs.collect::<Vec<_>>())
    }

    /// Up to 3.10 a table begins with `dk_refcnt`, `dk_size`, `dk_lookup`, `dk_usable` and `dk_nentries`, and an entry
    /// is (hash, key, value) (v3.10.13, `Objects/dict-common.h`). From 3.11 on the logarithms of both sizes and the
    /// kind are bytes behind `dk_refcnt`, and the entries of tables with strings alone (kind 1) lack the hash
    /// (v3.11.7, `Include/internal/pycore_dict.h` lines 71 to 106; v3.14.7 likewise).
    fn entries(&self, view: &mut View<'_>, keys: u64) -> Option<Entries> {
        let head = reads::read(view, keys, 40).ok()?;
        let (head_bytes, indices_bytes, count, has_hash) = if self.layout.minor <= 10 {
            let size = word(&head, 8).filter(|&size| size <= MOST_INDICES)?;
            let width = if size <= 0xff { 1 } else { 2 };
            (40, size * width, word(&head, 32)?, true)
        } else {
            let (log2_bytes, kind) = (*head.get(9)?, *head.get(10)?);
            let indices_bytes = 1_u64.checked_shl(log2_bytes.into())?;
            (32, indices_bytes, word(&head, 24)?, kind == 0)
        };
        if indices_bytes > MOST_INDICES * 2 {
            return None;
        }
        let (bytes, key) = if has_hash { (24, 8) } else { (16, 0) };
        let start = keys + head_bytes + indices_bytes;
        Some(Entries { start, count: count.min(MOST_ENTRIES), bytes, key })
    }

    /// Of these (key, value) the value beside `__module__`, as text.
    fn value_of_module(&self, view: &mut View<'_>, pairs: &[(u64, u64)]) -> Option<String> {
        let start = self.layout.text.ascii_bytes;
        let mut reads = Reads::default();
        for &(key, _) in pairs {
            reads.add(key, start + MODULE.len() as u64);
        }
        reads.run(view);
        let is_module = |index: &usize| {
            let bytes = reads.bytes(*index).unwrap_or_default();
            self.ascii_length(bytes) == Some(MODULE.len() as u64)
                && bytes.get(start as usize..) == Some(MODULE)
        };
        let found = (0..pairs.len()).find(is_module)?;
        let str_type = word(reads.bytes(found).ok()?, self.layout.object.kind)?;
        self.text(view, pairs.get(found)?.1, str_type)
    }

    /// The `str` at `address`, if it is one in ASCII.
    fn text(&self, view: &mut View<'_>, address: u64, str_type: u64) -> Option<String> {
        let start = self.layout.text.ascii_bytes;
        let head = reads::read(view, address, start).ok()?;
        let length = self.ascii_length(&head).filter(|length| (1..=MOST_NAME).contains(length))?;
        if word(&head, self.layout.object.kind)? != str_type {
            return None;
        }
        let bytes = reads::read(view, address.wrapping_add(start), length).ok()?;
        let is_name = |byte: &u8| byte.is_ascii_graphic();
        bytes.iter().all(is_name).then(|| String::from_utf8(bytes).ok())?
    }

    /// The length of a compact ASCII string, by its head.
    fn ascii_length(&self, head: &[u8]) -> Option<u64> {
        let text = &self.layout.text;
        let state = word32(head, text.state)?;
        let is = |bit: u32| (state >> bit) & 1 == 1;
        (is(text.ascii_bit) && is(text.compact_bit)).then(|| word(head, text.length))?
    }
}

fn pointer(view: &mut View<'_>, address: u64) -> Option<u64> {
    word(&reads::read(view, address, 8).ok()?, 0).filter(|&word| is_address(word))
}
