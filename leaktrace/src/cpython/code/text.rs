//! Python strings out of the target's memory, in all forms that CPython has had since 3.6 (PEP 393).

use std::fmt::Write as _;

use super::super::layout::Layout;
use super::{Reason, has_flag, word};
use crate::target::memory::ReadMemory;

/// Characters of a string that are read at most: `PATH_MAX`. What is longer ends with [`CUT`].
const MAX_CHARS: u64 = 4096;

/// Stands for the characters that are left out.
const CUT: char = '\u{2026}';

/// No string is longer (`PY_SSIZE_T_MAX`): something else lies there.
const MAX_LENGTH: u64 = i64::MAX as u64;

/// `Py_TPFLAGS_UNICODE_SUBCLASS` (`Include/object.h`, the same since 3.0).
const UNICODE_SUBCLASS: u64 = 1 << 28;

/// Reads the string at `address`, or the beginning of one that is too long.
///
/// Lone surrogates, which stand for the bytes of file names that are no UTF-8 (PEP 383), become `\udce9`, as in Python's
/// own tracebacks: names that differ stay different.
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
    if chars > MAX_LENGTH {
        return Err(Reason::NotText);
    }
    let state = address.wrapping_add(layout.text.state);
    let state = memory.read_u32(state).map_err(|_fault| Reason::Unreadable)?;
    let start = start(memory, layout, address, state)?;
    let kind = bits(state, layout.text.kind_bit, layout.text.kind_width);
    if !matches!(kind, 1 | 2 | 4) {
        return Err(Reason::NotText);
    }
    let mut bytes = vec![0; (chars.min(MAX_CHARS) * u64::from(kind)) as usize];
    memory.read_bytes(start, &mut bytes).map_err(|_fault| Reason::Unreadable)?;
    let mut text = decode(kind, &bytes);
    if chars > MAX_CHARS {
        text.push(CUT);
    }
    Ok(text)
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
    let mut text = String::with_capacity(bytes.len());
    match kind {
        1 => text.extend(bytes.iter().map(|&byte| char::from(byte))),
        2 => {
            let points = bytes.as_chunks().0.iter();
            points.for_each(|&pair| push(&mut text, u32::from(u16::from_le_bytes(pair))));
        }
        _ => {
            let points = bytes.as_chunks().0.iter();
            points.for_each(|&four| push(&mut text, u32::from_le_bytes(four)));
        }
    }
    text
}

fn push(text: &mut String, point: u32) {
    const SURROGATES: std::ops::RangeInclusive<u32> = 0xd800..=0xdfff;
    match char::from_u32(point) {
        Some(known) => text.push(known),
        // Nothing can go wrong where a string is written to.
        None if SURROGATES.contains(&point) => drop(write!(text, "\\u{point:x}")),
        None => text.push(char::REPLACEMENT_CHARACTER),
    }
}
