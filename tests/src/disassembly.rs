//! What stands before and at the start of the functions of a live interpreter's allocator tables.

use iced_x86::{Decoder, DecoderOptions, Formatter as _, GasFormatter, Instruction};
use leaktrace::cpython::tables::{self, Slot};
use leaktrace::cpython::version;
use leaktrace::target::memory::ProcessMemory;
use leaktrace::target::module::Module;
use serde_json::{Value, json};

/// Bytes before a function that are shown.
const MOST_BEFORE: u64 = 16;

/// Bytes of a function that are shown.
const SHOWN: usize = 16;

/// Bytes before a function in which the start of the one before it is looked for.
const FARTHEST: u64 = 64 << 10;

/// The functions of the tables of `pid`: for each its name and its disassembly, from a little before its start on.
///
/// # Panics
/// It is no CPython.
#[must_use]
pub fn allocator_functions(pid: u32) -> Value {
    let module = Module::find(pid).expect("the target is a CPython");
    let memory = ProcessMemory::open(pid).expect("its memory can be read");
    let version = version::find(&module, &memory).expect("its version is known");
    let tables = tables::find(&module, &memory, &version).expect("its tables are found");
    let mut functions = Vec::new();
    for (name, table) in tables.named() {
        for slot in Slot::ALL {
            functions.push(json!({
                "function": format!("{name}.{}", slot.name()),
                "plain": table.is_plain(slot, &module),
                "lines": lines(&module, table.function(slot)),
            }));
        }
    }
    json!({ "inlined": tables.inlined, "functions": functions })
}

/// The lines of the disassembly around the start of a function: address in the file, bytes, instruction.
fn lines(module: &Module, function: u64) -> Vec<String> {
    let functions = module.functions();
    // Instructions of the function before it are found by reading it from its own start on.
    let before = (function.saturating_sub(FARTHEST)..function)
        .rev()
        .find(|&start| functions.function_at(start).is_some())
        .unwrap_or(function);
    let Some(offset) = module.file_offset_of(before) else { return Vec::new() };
    let start = offset + (function - before);
    let code = module.bytes(before, (function - before) as usize + SHOWN);
    Decoder::with_ip(64, code, offset, DecoderOptions::NONE)
        .iter()
        .filter(|instruction| instruction.next_ip() + MOST_BEFORE > start)
        .filter(|instruction| !instruction.is_invalid())
        .map(|instruction| {
            let at = (instruction.ip() - offset) as usize;
            let bytes = code.get(at..at + instruction.len()).unwrap_or_default();
            let mark = if instruction.ip() == start { '>' } else { ' ' };
            line(mark, &instruction, bytes)
        })
        .collect()
}

fn line(mark: char, instruction: &Instruction, bytes: &[u8]) -> String {
    let mut text = String::new();
    GasFormatter::new().format(instruction, &mut text);
    let bytes: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{mark} {:x}:  {:<30} {text}", instruction.ip(), bytes.join(" "))
}
