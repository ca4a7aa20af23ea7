//! Copies of a code object's bytecode, one for each thread: from 3.14 on, a thread of a free-threaded build specialises
//! and runs one of its own.
//!
//! `co_tlbc` points to them: `_PyCodeArray` of CPython's `Include/cpython/code.h`, a number and as many pointers, the first
//! of which is to the bytecode in the code object itself.

use super::{Reason, word};
use crate::cpython::layout::Layout;
use crate::target::memory::ReadMemory;

/// Copies that are looked at. A thread that comes later takes the place of one that has ended.
const MOST: u64 = 4096;

/// Bytes of an instruction (`sizeof(_Py_CODEUNIT)`).
const UNIT: u64 = 2;

/// Where in the bytecode of the code object at `address` an instruction stands, in bytes, that lies `offset` behind its
/// own bytecode, in 32 bits of the difference: that far away where it is one of a copy's.
///
/// # Errors
/// The target's memory cannot be read there.
pub(super) fn offset_in_code(
    memory: &impl ReadMemory,
    layout: &Layout,
    address: u64,
    offset: i32,
) -> Result<i32, Reason> {
    let Some(copies) = layout.code.copies else { return Ok(offset) };
    let end = word(memory, address, layout.object.size)?.saturating_mul(UNIT);
    let is_inside = |offset: i32| {
        i64::from(offset) <= i64::try_from(end).unwrap_or(i64::MAX) && offset >= -(UNIT as i32)
    };
    if is_inside(offset) {
        return Ok(offset);
    }
    let array = word(memory, address, copies)?;
    let count = word(memory, array, 0)?.min(MOST);
    let mut pointers = vec![0; count as usize * 8];
    memory.read_bytes(array.wrapping_add(8), &mut pointers).map_err(|_fault| Reason::Unreadable)?;
    let position =
        (address.wrapping_add(layout.code.code_start) as u32).wrapping_add_signed(offset);
    let found = pointers.as_chunks().0.iter().map(|pointer| {
        let start = u64::from_le_bytes(*pointer) as u32;
        position.wrapping_sub(start).cast_signed()
    });
    // A copy that is gone was a thread's that has ended: the line is not known any more.
    Ok(found.into_iter().find(|&offset| is_inside(offset)).unwrap_or(i32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use leaktrace_common::memory::Fault;

    /// Words by their addresses.
    struct Words(Vec<(u64, u64)>);

    impl ReadMemory for Words {
        fn read_bytes(&self, address: u64, buffer: &mut [u8]) -> Result<(), Fault> {
            for (index, chunk) in buffer.chunks_mut(8).enumerate() {
                let address = address + 8 * index as u64;
                let word = self.0.iter().find(|(known, _)| *known == address).ok_or(Fault)?;
                chunk.copy_from_slice(&word.1.to_le_bytes()[..chunk.len()]);
            }
            Ok(())
        }
    }

    #[test]
    fn an_instruction_of_a_copy_stands_where_it_does_in_the_code_itself() {
        const CODE: u64 = 0x7f00_0001_0000;
        const ARRAY: u64 = 0x7f00_0002_0000;
        let mut layout = Layout::for_version(3, 14).unwrap();
        let copies = layout.code.code_start + 64;
        layout.code.copies = Some(copies);
        let own = CODE + layout.code.code_start;
        // One lies before the code, one more than 4 GiB behind it.
        let starts = [own, 0x7eff_fff0_0000, 0x7f10_0000_0000];
        let memory = Words(vec![
            (CODE + layout.object.size, 100),
            (CODE + copies, ARRAY),
            (ARRAY, 3),
            (ARRAY + 8, starts[0]),
            (ARRAY + 16, starts[1]),
            (ARRAY + 24, starts[2]),
        ]);
        let at = |position: u64| {
            let offset = position.wrapping_sub(own) as i32;
            offset_in_code(&memory, &layout, CODE, offset)
        };
        for start in starts {
            assert_eq!((at(start), at(start + 60), at(start + 200)), (Ok(0), Ok(60), Ok(200)));
        }
        assert_eq!(at(starts[1] + 202), Ok(i32::MAX), "no copy has that much");
        layout.code.copies = None;
        assert_eq!(offset_in_code(&memory, &layout, CODE, 202), Ok(202));
    }
}
