//! The checked-in tables that `cargo xtask layouts` makes out of DWARF, looked up by name.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::LayoutError;

/// The table of each supported minor version of CPython 3.
const TABLES: &[(u8, &str)] = &[
    (6, include_str!("../../../layouts/cpython-3.6.json")),
    (7, include_str!("../../../layouts/cpython-3.7.json")),
    (8, include_str!("../../../layouts/cpython-3.8.json")),
    (9, include_str!("../../../layouts/cpython-3.9.json")),
    (10, include_str!("../../../layouts/cpython-3.10.json")),
    (11, include_str!("../../../layouts/cpython-3.11.json")),
    (12, include_str!("../../../layouts/cpython-3.12.json")),
    (13, include_str!("../../../layouts/cpython-3.13.json")),
    (14, include_str!("../../../layouts/cpython-3.14.json")),
    (15, include_str!("../../../layouts/cpython-3.15.json")),
];

/// The same of free-threaded builds.
const FREE_THREADED: &[(u8, &str)] = &[
    (13, include_str!("../../../layouts/cpython-3.13t.json")),
    (14, include_str!("../../../layouts/cpython-3.14t.json")),
];

/// The minor versions of CPython 3 that there is a table for, ascending.
pub fn supported() -> impl Iterator<Item = u8> {
    TABLES.iter().map(|&(minor, _)| minor)
}

/// Those whose free-threaded builds have one.
pub fn supported_free_threaded() -> impl Iterator<Item = u8> {
    FREE_THREADED.iter().map(|&(minor, _)| minor)
}

/// One version's table.
#[derive(Debug, Deserialize)]
pub(super) struct Table {
    python: String,
    pub(super) source: String,
    pub(super) offsets: BTreeMap<String, u64>,
    pointers: Vec<String>,
    bits: BTreeMap<String, String>,
    sizes: BTreeMap<String, u64>,
    lengths: BTreeMap<String, u64>,
    constants: BTreeMap<String, u64>,
}

impl Table {
    pub(super) fn load(major: u8, minor: u8, free_threaded: bool) -> Result<Self, LayoutError> {
        let tables = if free_threaded { FREE_THREADED } else { TABLES };
        let text = tables.iter().find(|&&(known, _)| major == 3 && known == minor);
        let &(_, text) = text.ok_or(LayoutError::Unsupported { major, minor })?;
        serde_json::from_str(text).map_err(|cause| LayoutError::Broken { minor, cause })
    }

    fn missing(&self, key: &str) -> LayoutError {
        LayoutError::Missing { python: self.python.clone(), key: key.to_owned() }
    }

    pub(super) fn offset(&self, key: &str) -> Result<u64, LayoutError> {
        self.maybe_offset(key).ok_or_else(|| self.missing(key))
    }

    pub(super) fn maybe_offset(&self, key: &str) -> Option<u64> {
        self.offsets.get(key).copied()
    }

    /// The offset of the one of `keys` that this version has.
    pub(super) fn one_of(&self, keys: &[&str]) -> Result<u64, LayoutError> {
        let found = keys.iter().find_map(|key| self.maybe_offset(key));
        found.ok_or_else(|| self.missing(&keys.join("` or `")))
    }

    pub(super) fn size(&self, key: &str) -> Result<u64, LayoutError> {
        self.sizes.get(key).copied().ok_or_else(|| self.missing(key))
    }

    pub(super) fn length(&self, key: &str) -> Option<u64> {
        self.lengths.get(key).copied()
    }

    pub(super) fn constant(&self, key: &str) -> Option<u64> {
        self.constants.get(key).copied()
    }

    pub(super) fn is_pointer(&self, key: &str) -> bool {
        self.pointers.iter().any(|known| known == key)
    }

    /// A bit field's lowest bit and its width.
    pub(super) fn bits(&self, key: &str) -> Result<(u32, u32), LayoutError> {
        let parts = self.bits.get(key).and_then(|text| text.split_once('+'));
        let (first, width) = parts.ok_or_else(|| self.missing(key))?;
        first.parse().ok().zip(width.parse().ok()).ok_or_else(|| self.missing(key))
    }
}
