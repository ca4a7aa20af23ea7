//! Reading a table.

use super::{Slot, Table};
use crate::target::memory::ReadMemory;
use leaktrace_common::memory::Fault;

/// Memory whose every byte is the low byte of its address.
struct Ramp;

impl ReadMemory for Ramp {
    fn read_bytes(&self, address: u64, buffer: &mut [u8]) -> Result<(), Fault> {
        if address > 1 << 40 {
            return Err(Fault);
        }
        for (index, byte) in buffer.iter_mut().enumerate() {
            *byte = (address as usize + index) as u8;
        }
        Ok(())
    }
}

#[test]
fn a_table_is_read_slot_by_slot() {
    let table = Table::read(&Ramp, 0x10).unwrap();
    assert_eq!(table.ctx.to_le_bytes()[0], 0x10);
    for slot in Slot::ALL {
        let function = table.function(slot);
        assert_eq!(u64::from(function.to_le_bytes()[0]), table.slot_address(slot));
    }
    assert_eq!(Table::read(&Ramp, u64::MAX), None);
}
