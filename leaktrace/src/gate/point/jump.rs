//! Jumps from other functions to the start of one: the compiler makes a call in last place a jump.
//!
//! Such a jump leads into the function unchanged, with the arguments and the return address that whoever comes there
//! has, so that a table may hold its address. Where it is one instruction, and not the end of another, is proved by
//! reading the function that it lies in from that one's own start to its end.

use std::ops::Range;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction};

use super::{Cost, GatePoint, Kind, Text};

/// Bytes of a jump with a distance of four bytes, which is what compilers put between functions.
const JUMP_BYTES: usize = 5;
const JUMP: u8 = 0xe9;

/// All jumps to `function` from others.
pub(super) fn points(text: &impl Text, function: u64) -> Vec<GatePoint> {
    let mut points = Vec::new();
    let mut next = text.functions().next_from(0);
    while let Some(range) = next {
        if range.start != function {
            points.extend(jumps(text, &range, function).map(point));
        }
        next = text.functions().next_from(range.start + 1);
    }
    points
}

/// Whether a jump to a function of the text stands at `address`, inside of another; the one that it leads to.
pub(super) fn target(text: &impl Text, address: u64) -> Option<u64> {
    let function = target_of(text.bytes(address, JUMP_BYTES), address)?;
    text.functions().function_at(function)?;
    let around = text.functions().last_before(address)?;
    jumps(text, &around, function).any(|jump| jump == address).then_some(function)
}

/// The jumps to `function` in the function at `range`.
fn jumps(text: &impl Text, range: &Range<u64>, function: u64) -> impl Iterator<Item = u64> {
    let length = usize::try_from(range.end - range.start).unwrap_or(0);
    let code = text.bytes(range.start, length);
    let leads_there = |(at, bytes): (usize, &[u8])| {
        target_of(bytes, range.start + at as u64).is_some_and(|target| target == function)
    };
    // Reading a function takes a thousand times as long as looking at its bytes, so that is done only where they
    // promise something.
    let promising = code.windows(JUMP_BYTES).enumerate().any(leads_there);
    let read = if promising { instructions(code, range.start) } else { Vec::new() };
    read.into_iter().filter_map(move |instruction| {
        let leads_there = instruction.flow_control() == FlowControl::UnconditionalBranch
            && instruction.len() == JUMP_BYTES
            && instruction.near_branch_target() == function;
        leads_there.then(|| instruction.ip())
    })
}

fn target_of(bytes: &[u8], address: u64) -> Option<u64> {
    let &[JUMP, a, b, c, d] = bytes else { return None };
    let distance = i64::from(i32::from_le_bytes([a, b, c, d]));
    Some((address + JUMP_BYTES as u64).wrapping_add_signed(distance))
}

/// All instructions of a function; none where it does not consist of instructions alone.
fn instructions(code: &[u8], start: u64) -> Vec<Instruction> {
    let decoder = Decoder::with_ip(64, code, start, DecoderOptions::NONE);
    let all: Vec<Instruction> = decoder.into_iter().collect();
    let is_code = all.iter().all(|instruction| !instruction.is_invalid());
    if is_code { all } else { Vec::new() }
}

fn point(address: u64) -> GatePoint {
    GatePoint {
        address,
        kind: Kind::Jump,
        length: JUMP_BYTES as u8,
        cost: Cost::Emulated,
        steps: 1,
        differs_in_low_byte_only: false,
    }
}
