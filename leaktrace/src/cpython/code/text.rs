//! Python strings out of the target's memory, in all forms that CPython has had since 3.6 (PEP 393).

use super::super::layout::Layout;
use super::{Reason, has_flag, word};
use crate::target::memory::ReadMemory;

/// Characters of a string that are read at most: `PATH_MAX`.
const MAX_CHARS: u64 = 4096;

/// `Py_TPFLAGS_UNICODE_SUBCLASS` (`Include/object.h`, the same since 3.0).
const UNICODE_SUBCLASS: u64 = 1 << 28;

/// Reads the string at `address`. Lone surrogates become U+FFFD.
///
/// Strings that are not ready (`wchar_t` only, before 3.12) are refused: names of code objects never are.
pub(super) fn read(
    memory: &impl ReadMemory,
    layout: &Layout,
    address: u64,
) -> Result<String, Reason> {
    if !has_flag(memory, layout, address, UNICODE_SUBCLASS)? {
        return Err(Reason::NotText);
    }
    let chars = word(memory, address, layout.text.length)?;
    if chars > MAX_CHARS {
        return Err(Reason::TooLong);
    }
    let state = address.wrapping_add(layout.text.state);
    let state = memory.read_u32(state).map_err(|_fault| Reason::Unreadable)?;
    let start = start(memory, layout, address, state)?;
    let kind = bits(state, layout.text.kind_bit, layout.text.kind_width);
    if !matches!(kind, 1 | 2 | 4) {
        return Err(Reason::NotText);
    }
    let mut bytes = vec![0; (chars * u64::from(kind)) as usize];
    memory.read_bytes(start, &mut bytes).map_err(|_fault| Reason::Unreadable)?;
    Ok(decode(kind, &bytes))
}

/// Where the characters begin.
fn start(
    memory: &impl ReadMemory,
    layout: &Layout,
    address: u64,
    state: u32,
) -> Result<u64, Reason> {
    let text = &layout.text;
    if bits(state, text.compact_bit, 1) == 0 {
        return word(memory, address, text.data);
    }
    let ascii = bits(state, text.ascii_bit, 1) != 0;
    Ok(address.wrapping_add(if ascii { text.ascii_bytes } else { text.compact_bytes }))
}

fn bits(word: u32, first: u32, width: u32) -> u32 {
    let mask = 1u32.checked_shl(width).unwrap_or(0).wrapping_sub(1);
    word.checked_shr(first).unwrap_or(0) & mask
}

/// The characters of `kind` bytes each.
fn decode(kind: u32, bytes: &[u8]) -> String {
    let char_of = |point| char::from_u32(point).unwrap_or(char::REPLACEMENT_CHARACTER);
    match kind {
        1 => bytes.iter().map(|&byte| char::from(byte)).collect(),
        2 => {
            let points = bytes.as_chunks().0.iter();
            points.map(|&pair| char_of(u32::from(u16::from_le_bytes(pair)))).collect()
        }
        _ => bytes.as_chunks().0.iter().map(|&four| char_of(u32::from_le_bytes(four))).collect(),
    }
}
