//! From an offset into bytecode to a line, in all formats that CPython has had since 3.6.
//!
//! Does what `PyCode_Addr2Line` of each version does. Total: garbage yields a wrong line or none, never a panic, and
//! each byte of a table is looked at once.

#[cfg(test)]
mod tests;

use super::layout::LineFormat;

/// The line of the instruction at byte `offset` of the bytecode of a code object whose first line is `first_line`.
///
/// A negative offset, which stands for "before the first instruction", gives the first line. `None` where the
/// instruction has no line (from 3.10 on), or where it lies beyond the table.
#[must_use]
pub fn line_at(format: LineFormat, table: &[u8], first_line: i32, offset: i32) -> Option<u32> {
    let first_line = i64::from(first_line);
    let offset = i64::from(offset);
    let line = match format {
        _ if offset < 0 => Some(first_line),
        LineFormat::Lnotab => Some(lnotab(table, first_line, offset)),
        LineFormat::Ranges => ranges(table, first_line, offset),
        LineFormat::Locations => locations(table, first_line, offset),
    };
    line.and_then(|line| u32::try_from(line).ok())
}

/// 3.6 to 3.9 (`Objects/lnotab_notes.txt`): pairs of a step in bytes and a signed step in lines.
fn lnotab(table: &[u8], first_line: i64, offset: i64) -> i64 {
    let mut line = first_line;
    let mut start = 0;
    for &[bytes, lines] in table.as_chunks().0 {
        start += i64::from(bytes);
        if start > offset {
            break;
        }
        line += i64::from(lines.cast_signed());
    }
    line
}

/// 3.10 (`Objects/lnotab_notes.txt`): pairs of a length in bytes and a signed step in lines; -128 marks no line.
fn ranges(table: &[u8], first_line: i64, offset: i64) -> Option<i64> {
    const NO_LINE: i8 = i8::MIN;
    let mut line = first_line;
    let mut end = 0;
    for &[bytes, lines] in table.as_chunks().0 {
        end += i64::from(bytes);
        let lines = lines.cast_signed();
        if lines != NO_LINE {
            line += i64::from(lines);
        }
        if end > offset {
            return (lines != NO_LINE).then_some(line);
        }
    }
    None
}

/// From 3.11 on (`Objects/locations.md`, later `InternalDocs/code_objects.md`): entries of a first byte, which alone
/// has bit 7 set and holds a kind and a length in instructions, and of what its kind brings along.
fn locations(table: &[u8], first_line: i64, offset: i64) -> Option<i64> {
    const NO_LINE: u8 = 15;
    let mut line = first_line;
    let mut end = 0;
    let mut rest = table;
    while let Some((&first, tail)) = rest.split_first() {
        let kind = first >> 3 & 15;
        end += 2 * (i64::from(first & 7) + 1);
        line += line_step(kind, tail);
        if end > offset {
            return (kind != NO_LINE).then_some(line);
        }
        let next = tail.iter().position(|byte| byte & 0x80 != 0).unwrap_or(tail.len());
        rest = &tail[next..];
    }
    None
}

/// How many lines an entry of a kind steps forward; `tail` is what follows its first byte.
fn line_step(kind: u8, tail: &[u8]) -> i64 {
    match kind {
        10..=12 => i64::from(kind) - 10,
        13 | 14 => signed_varint(tail),
        _ => 0,
    }
}

/// A number in pieces of 6 bits, lowest first; bit 6 marks that more follow, and the lowest bit of all is the sign.
fn signed_varint(bytes: &[u8]) -> i64 {
    let mut value = 0u32;
    for (index, byte) in bytes.iter().enumerate() {
        let piece = u32::from(byte & 0x3f);
        value |= piece.checked_shl(6 * index as u32).unwrap_or(0);
        if byte & 0x40 == 0 || index >= 5 {
            break;
        }
    }
    let magnitude = i64::from(value >> 1);
    if value & 1 == 0 { magnitude } else { -magnitude }
}
