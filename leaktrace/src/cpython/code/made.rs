//! Code objects that tests make up.

use std::collections::BTreeMap;

use leaktrace_common::memory::Fault;

use super::super::layout::Layout;
use crate::target::memory::ReadMemory;

/// Memory that a test makes up.
#[derive(Debug, Default)]
pub(crate) struct Made(pub(crate) BTreeMap<u64, Vec<u8>>);

impl Made {
    pub(crate) fn put(&mut self, address: u64, bytes: &[u8]) {
        self.0.insert(address, bytes.to_vec());
    }
}

impl ReadMemory for Made {
    fn read_bytes(&self, address: u64, buffer: &mut [u8]) -> Result<(), Fault> {
        let (start, bytes) = self.0.range(..=address).next_back().ok_or(Fault)?;
        let skip = usize::try_from(address - start).map_err(|_too_large| Fault)?;
        let end = skip.checked_add(buffer.len()).ok_or(Fault)?;
        buffer.copy_from_slice(bytes.get(skip..end).ok_or(Fault)?);
        Ok(())
    }
}

pub(crate) const TYPE: u64 = 0x1000;
pub(crate) const STR: u64 = 0x2000;
pub(crate) const BYTES: u64 = 0x3000;
pub(crate) const CODE: u64 = 0x1_0000;
pub(crate) const NAME: u64 = 0x2_0000;
pub(crate) const FILE: u64 = 0x3_0000;
pub(crate) const LINES: u64 = 0x4_0000;

pub(crate) fn set(bytes: &mut [u8], offset: u64, value: u64) {
    bytes[offset as usize..][..8].copy_from_slice(&value.to_le_bytes());
}

/// A compact ASCII string.
pub(crate) fn string(layout: &Layout, text: &str) -> Vec<u8> {
    let mut bytes = vec![0; layout.text.ascii_bytes as usize];
    set(&mut bytes, layout.object.kind, STR);
    set(&mut bytes, layout.text.length, text.len() as u64);
    let state =
        1 << layout.text.kind_bit | 1 << layout.text.compact_bit | 1 << layout.text.ascii_bit;
    set(&mut bytes, layout.text.state, state);
    bytes.extend(text.as_bytes());
    bytes
}

/// A code object `name` in `app.py`, with its types.
pub(crate) fn made(layout: &Layout, name: &str) -> Made {
    let mut memory = Made::default();
    for (address, flags, type_name) in
        [(TYPE, 0, "code\0"), (STR, 1 << 28, "str\0"), (BYTES, 1 << 27, "bytes\0")]
    {
        let mut bytes = vec![0; 0x200];
        set(&mut bytes, layout.object.type_flags, flags);
        set(&mut bytes, layout.object.type_name, address + 0x180);
        bytes[0x180..][..type_name.len()].copy_from_slice(type_name.as_bytes());
        memory.put(address, &bytes);
    }
    let mut code = vec![0; 0x200];
    set(&mut code, layout.object.refcnt.unwrap(), 1);
    set(&mut code, layout.code.first_line, 10);
    set(&mut code, layout.object.kind, TYPE);
    set(&mut code, layout.code.qualname.unwrap_or(layout.code.name), NAME);
    set(&mut code, layout.code.filename, FILE);
    set(&mut code, layout.code.lines, LINES);
    layout.code.first_traceable.inspect(|&offset| set(&mut code, offset, 3));
    memory.put(CODE, &code);
    memory.put(NAME, &string(layout, name));
    memory.put(FILE, &string(layout, "app.py"));
    let mut lines = vec![0; layout.object.bytes_start as usize + 1];
    set(&mut lines, layout.object.kind, BYTES);
    memory.put(LINES, &lines);
    memory
}

pub(crate) fn layout(minor: u8) -> Layout {
    Layout::for_version(3, minor).unwrap()
}
