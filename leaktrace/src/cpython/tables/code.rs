//! The tables by the code that uses them: disassembles the exported wrappers and follows the addresses they load.

use std::collections::{BTreeMap, BTreeSet};

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, MemorySize,
    Mnemonic, OpAccess, OpKind, Register,
};

use super::{Slot, TABLE_BYTES, TablesError};
use crate::target::memory::ReadMemory;
use crate::target::module::Module;

/// Bytes of a wrapper that are looked at: with pymalloc inlined they have up to about 1,000.
const MAX_BYTES: usize = 4096;

/// Bytes that are looked at where the unwind tables do not tell the wrapper's end.
const BYTES_OF_UNKNOWN: usize = 256;

/// Where the tables are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) raw: u64,
    pub(super) mem: u64,
    pub(super) obj: u64,
    pub(super) inlined: bool,
}

/// The wrappers of one table: what their names begin with and end with.
const RAW: &str = "PyMem_Raw";
const MEM: &str = "PyMem_";
const OBJ: &str = "PyObject_";
const WRAPPERS: [(Slot, &str); 4] = [
    (Slot::Malloc, "Malloc"),
    (Slot::Calloc, "Calloc"),
    (Slot::Realloc, "Realloc"),
    (Slot::Free, "Free"),
];

/// Follows the code of all wrappers. With link-time optimisation those of mem and obj contain raw's too, for the large
/// blocks that they pass on: what is raw's is taken away first.
pub(super) fn find(module: &Module, memory: &dyn ReadMemory) -> Result<Found, TablesError> {
    let raw = poll(module, memory, RAW);
    let (mem, obj) = (poll(module, memory, MEM), poll(module, memory, OBJ));
    let inlined = raw.inlined || mem.inlined || obj.inlined;
    let raw = raw.winner(RAW, &[])?;
    let mem = mem.winner(MEM, &[raw])?;
    let obj = obj.winner(OBJ, &[raw])?;
    if mem == obj {
        return Err(TablesError::Ambiguous { prefix: OBJ });
    }
    Ok(Found { raw, mem, obj, inlined })
}

/// How many of the wrappers of one prefix use each table.
#[derive(Debug, Default)]
struct Poll {
    votes: BTreeMap<u64, u32>,
    inlined: bool,
}

/// Wrappers that must agree on a table.
const MIN_VOTES: u32 = 2;

impl Poll {
    fn winner(&self, prefix: &'static str, without: &[u64]) -> Result<u64, TablesError> {
        let mut ranked: Vec<_> =
            self.votes.iter().filter(|(table, _)| !without.contains(table)).collect();
        ranked.sort_by_key(|(_, votes)| std::cmp::Reverse(**votes));
        match ranked.as_slice() {
            [(_, first), (_, second), ..] if first == second => {
                Err(TablesError::Ambiguous { prefix })
            }
            [(table, votes), ..] if **votes >= MIN_VOTES => Ok(**table),
            _ => Err(TablesError::NotFound { prefix }),
        }
    }
}

fn poll(module: &Module, memory: &dyn ReadMemory, prefix: &str) -> Poll {
    let mut poll = Poll::default();
    for (slot, suffix) in WRAPPERS {
        let Some(start) = module.symbol(&format!("{prefix}{suffix}")) else { continue };
        let mut reading = Reading::new(module, memory);
        reading.follow(start);
        poll.inlined |= reading.names_function;
        for table in reading.tables(slot) {
            *poll.votes.entry(table).or_default() += 1;
        }
    }
    poll
}

/// One pass over the code of a wrapper.
struct Reading<'a> {
    module: &'a Module,
    memory: &'a dyn ReadMemory,
    /// Addresses that are known to be in registers.
    known: BTreeMap<Register, u64>,
    /// Words of writable data that the code uses.
    used: BTreeSet<u64>,
    /// Whether the code names the start of a function other than to call it.
    names_function: bool,
}

impl<'a> Reading<'a> {
    fn new(module: &'a Module, memory: &'a dyn ReadMemory) -> Self {
        let (known, used) = (BTreeMap::new(), BTreeSet::new());
        Self { module, memory, known, used, names_function: false }
    }

    /// Goes through the code in the order of its addresses. Where branches meet, a register may be taken for known
    /// though it is not; what follows is only a vote, and counts only where a table is.
    fn follow(&mut self, start: u64) {
        let length = self.module.functions().function_at(start).map_or(BYTES_OF_UNKNOWN, |range| {
            usize::try_from(range.end - range.start).unwrap_or(MAX_BYTES)
        });
        let code = self.module.bytes(start, length.min(MAX_BYTES));
        let mut registers = InstructionInfoFactory::new();
        for instruction in Decoder::with_ip(64, code, start, DecoderOptions::NONE) {
            if instruction.code() == Code::INVALID {
                break;
            }
            self.step(&instruction, &mut registers);
        }
    }

    fn step(&mut self, instruction: &Instruction, registers: &mut InstructionInfoFactory) {
        let address = self.memory_address(instruction);
        let result = self.result(instruction, address);
        self.names_function |= result.is_some_and(|value| self.begins_function(value))
            || self.compares_with_function(instruction);
        if let Some(address) = address.filter(|_| instruction.mnemonic() != Mnemonic::Lea) {
            self.note(address, instruction.memory_size());
        }
        if instruction.flow_control() == FlowControl::Call
            || instruction.flow_control() == FlowControl::IndirectCall
        {
            self.known.clear();
            return;
        }
        for used in registers.info(instruction).used_registers() {
            if !matches!(used.access(), OpAccess::Read | OpAccess::CondRead | OpAccess::None) {
                self.known.remove(&used.register().full_register());
            }
        }
        if let Some(value) = result {
            self.known.insert(instruction.op0_register().full_register(), value);
        }
    }

    /// The address of the memory operand, where it is the same each time.
    fn memory_address(&self, instruction: &Instruction) -> Option<u64> {
        let has_memory = (0..instruction.op_count())
            .any(|operand| instruction.op_kind(operand) == OpKind::Memory);
        let plain = !matches!(instruction.segment_prefix(), Register::FS | Register::GS)
            && instruction.memory_index() == Register::None;
        if !has_memory || !plain {
            return None;
        }
        let displacement = instruction.memory_displacement64();
        match instruction.memory_base() {
            // The displacement of these already is the address.
            Register::None | Register::RIP | Register::EIP => Some(displacement),
            base => Some(self.known.get(&base.full_register())?.wrapping_add(displacement)),
        }
    }

    /// The address that the instruction leaves in its first operand, a register.
    fn result(&self, instruction: &Instruction, address: Option<u64>) -> Option<u64> {
        if instruction.op0_kind() != OpKind::Register {
            return None;
        }
        match instruction.mnemonic() {
            Mnemonic::Lea => address,
            Mnemonic::Mov => match instruction.op1_kind() {
                OpKind::Register => {
                    self.known.get(&instruction.op1_register().full_register()).copied()
                }
                // A pointer out of the global offset table; any other word is not followed.
                OpKind::Memory => self
                    .memory
                    .read_u64(address?)
                    .ok()
                    .filter(|&word| self.module.is_writable(word)),
                OpKind::Immediate32 | OpKind::Immediate64 | OpKind::Immediate32to64 => {
                    Some(instruction.immediate(1))
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// In a program at a fixed address, functions are numbers.
    fn compares_with_function(&self, instruction: &Instruction) -> bool {
        instruction.mnemonic() == Mnemonic::Cmp
            && matches!(instruction.op1_kind(), OpKind::Immediate32 | OpKind::Immediate32to64)
            && self.begins_function(instruction.immediate(1))
    }

    fn begins_function(&self, value: u64) -> bool {
        self.module.functions().function_at(value).is_some()
    }

    /// Notes the words of writable data at `address`.
    fn note(&mut self, address: u64, size: MemorySize) {
        for word in (0..size.size().clamp(8, 32) as u64).step_by(8) {
            let address = address.wrapping_add(word);
            if address.is_multiple_of(8) && self.module.is_writable(address) {
                self.used.insert(address);
            }
        }
    }

    /// The tables whose context and whose function of `slot` the code uses.
    fn tables(&self, slot: Slot) -> impl Iterator<Item = u64> {
        self.used.iter().copied().filter(move |&base| {
            self.used.contains(&base.wrapping_add(slot.offset())) && self.is_table(base)
        })
    }

    /// Whether what stands there can be a table: four pointers that are not nothing. They may lead anywhere: a hook
    /// can be another module's.
    fn is_table(&self, base: u64) -> bool {
        let end = base.wrapping_add(TABLE_BYTES - 1);
        self.module.is_writable(end)
            && super::Table::read(self.memory, base)
                .is_some_and(|table| table.functions().iter().all(|&function| function >= 4096))
    }
}
