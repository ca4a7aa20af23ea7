//! Places inside of a function that see each call of it once, with its arguments still in their registers.

use std::ops::Range;

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, OpAccess, Register,
};

use super::{Cost, GatePoint, Kind, Text, nop, probed};

/// Instructions at the start of a function among which one that is emulated is looked for.
const NEAR: usize = 8;

/// Bytes of a function that are searched for jumps back to its start.
const MAX_BYTES: usize = 64 << 10;

/// What must be as the caller left it: the arguments of an allocator's function, and where the return address lies.
const KEPT: [Register; 5] =
    [Register::RDI, Register::RSI, Register::RDX, Register::RCX, Register::RSP];

/// The first instruction near the start that the kernel emulates, and the start itself.
pub(super) fn points(text: &impl Text, range: &Range<u64>) -> Vec<GatePoint> {
    let length = usize::try_from(range.end - range.start).unwrap_or(MAX_BYTES).min(MAX_BYTES);
    let code = text.bytes(range.start, length);
    let start = range.start;
    let mut points = Vec::new();
    for instruction in undisturbed(code, start) {
        let at = (instruction.ip() - start) as usize;
        let Some((length, cost)) = probed(code.get(at..).unwrap_or_default(), &instruction) else {
            continue;
        };
        let is_start = instruction.ip() == start;
        if is_start || cost == Cost::Emulated && !jumped_to(code, start, instruction.ip()) {
            points.push(GatePoint {
                address: instruction.ip(),
                kind: Kind::Entry,
                length,
                cost,
                steps: 0,
                differs_in_low_byte_only: (instruction.ip() ^ start) < 256 && !is_start,
            });
        }
        if cost == Cost::Emulated {
            break;
        }
    }
    points
}

/// The instructions that each call runs first, up to one behind which the arguments may be gone.
fn undisturbed(code: &[u8], start: u64) -> Vec<Instruction> {
    let mut registers = InstructionInfoFactory::new();
    let mut found = Vec::new();
    for instruction in Decoder::with_ip(64, code, start, DecoderOptions::NONE).iter().take(NEAR) {
        if instruction.is_invalid() {
            break;
        }
        found.push(instruction);
        let disturbs = registers.info(&instruction).used_registers().iter().any(|used| {
            !matches!(used.access(), OpAccess::Read | OpAccess::CondRead | OpAccess::None)
                && KEPT.contains(&used.register().full_register())
        });
        if disturbs || instruction.flow_control() != FlowControl::Next {
            break;
        }
    }
    found
}

/// Whether the function jumps back to somewhere behind its start and not behind `place`, so that one call would be
/// seen more than once.
fn jumped_to(code: &[u8], start: u64, place: u64) -> bool {
    Decoder::with_ip(64, code, start, DecoderOptions::NONE).iter().any(|instruction| {
        matches!(
            instruction.flow_control(),
            FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch
        ) && (start + 1..=place).contains(&instruction.near_branch_target())
    })
}

/// Whether the kernel emulates an instruction (`arch/x86/kernel/uprobes.c`, `branch_setup_xol_ops` and
/// `push_setup_xol_ops`): NOPs, near jumps and calls, and pushes of a register.
pub(super) fn is_emulated(instruction: &[u8]) -> bool {
    nop::is_emulated(instruction)
        || matches!(
            instruction,
            [0x50..=0x57]
                | [0x41, 0x50..=0x57]
                | [0xeb | 0x70..=0x7f, _]
                | [0xe8 | 0xe9, _, _, _, _]
                | [0x0f, 0x80..=0x8f, _, _, _, _]
        )
}
