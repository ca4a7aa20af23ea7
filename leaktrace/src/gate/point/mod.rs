//! From a function to the addresses that lead into it unchanged and that a probe can sit on: the gate points.
//!
//! The best one is a NOP in the padding before the function. A table that holds its address calls the very same
//! function, but no longer equals the address that inlined fast paths compare with, so that every call passes it;
//! and with the table put back, nothing passes it. That the bytes before a function are padding is proved: they lie
//! between the ends of all functions before it and its start, as the unwind tables tell them, and all decode as NOPs.
//! A `90` by itself proves nothing: it can be the last byte of a jump.

#![forbid(unsafe_code)]

mod entry;
mod jump;
mod nop;
#[cfg(test)]
mod tests;

use std::ops::Range;

use iced_x86::{Decoder, DecoderOptions, Instruction};

use crate::target::module::{Functions, Module};

/// How a gate point sees calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A NOP before the function: sees all calls while the gate is open, and none while it is closed.
    Nop,
    /// A jump to the function from another: sees all calls while the gate is open, and while it is closed those that
    /// take this jump.
    Jump,
    /// Behind the `endbr64` that the function begins with: sees all calls while the gate is open, but also those that
    /// the function gets while it is closed.
    Endbr,
    /// In the function itself, without a change to the table: sees what calls the function, and cannot be closed.
    Entry,
}

impl Kind {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nop => "nop",
            Self::Jump => "jump",
            Self::Endbr => "endbr",
            Self::Entry => "entry",
        }
    }
}

/// What a hit costs, cheapest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cost {
    /// The kernel emulates the instruction: one trap.
    Emulated,
    /// The kernel steps over a copy of the instruction: two traps.
    SingleStepped,
}

/// A place for a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatePoint {
    /// Where the probe sits; also what the table holds while the gate is open, except for [`Kind::Entry`].
    pub address: u64,
    /// How it sees calls.
    pub kind: Kind,
    /// Bytes of the instruction there.
    pub length: u8,
    /// What a hit is expected to cost.
    pub cost: Cost,
    /// Instructions from there to the function; 0 inside of it.
    pub steps: u8,
    /// Whether the address differs from the function's in the lowest byte alone: then nothing but the two can be seen
    /// while one replaces the other.
    pub differs_in_low_byte_only: bool,
}

/// What a table's slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// The start of a function of the interpreter: a closed gate, or one that never was.
    Closed,
    /// An address that leads into a function by NOPs, by a jump, or behind its `endbr64`: a gate that was left open.
    Open {
        /// The start of the function.
        function: u64,
    },
    /// Something else: another module's function, or nothing.
    Foreign,
}

/// The gate points of the function at `function`, the one to try first at the front. Empty where no function of the
/// module begins there.
#[must_use]
pub fn candidates(module: &Module, function: u64) -> Vec<GatePoint> {
    candidates_in(module, function)
}

/// Tells what a slot that holds `value` is: the inverse of [`candidates`].
#[must_use]
pub fn classify(module: &Module, value: u64) -> Held {
    classify_in(module, value)
}

/// The entry of a function of another module, a hook, whose first bytes are `bytes`: that it is called proves that an
/// instruction begins there.
#[must_use]
pub fn entry_elsewhere(bytes: &[u8], address: u64) -> Option<GatePoint> {
    let instruction = first(bytes, address)?;
    let (length, cost) = probed(bytes, &instruction)?;
    let kind = Kind::Entry;
    Some(GatePoint { address, kind, length, cost, steps: 0, differs_in_low_byte_only: false })
}

/// Whether a probe may sit on the instruction at `address`: not on one that the kernel would rewrite.
#[must_use]
pub fn may_be_probed(module: &Module, address: u64) -> bool {
    let bytes = module.bytes(address, MAX_INSTRUCTION);
    first(bytes, address).is_some_and(|instruction| probed(bytes, &instruction).is_some())
}

/// Code with its functions: a module's, or a test's.
trait Text {
    fn functions(&self) -> &Functions;
    fn bytes(&self, address: u64, length: usize) -> &[u8];
}

impl Text for Module {
    fn functions(&self) -> &Functions {
        Self::functions(self)
    }

    fn bytes(&self, address: u64, length: usize) -> &[u8] {
        Self::bytes(self, address, length)
    }
}

/// The instruction that a function begins with where indirect branches are tracked.
const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];

/// Bytes of the longest instruction.
pub const MAX_INSTRUCTION: usize = 15;

/// Bytes of padding that are looked at; more is not between two functions.
const MAX_PADDING: u64 = 256;

fn candidates_in(text: &impl Text, function: u64) -> Vec<GatePoint> {
    let Some(range) = text.functions().function_at(function) else { return Vec::new() };
    let mut points = nops(text, function);
    // Looked for in all of the text, and only where there is nothing better.
    if points.is_empty() {
        points.extend(jump::points(text, function));
    }
    points.extend(behind_endbr(text, &range));
    points.extend(entry::points(text, &range));
    points.sort_by_key(|point| {
        let wide = !point.differs_in_low_byte_only;
        (point.kind, wide, point.cost, point.steps, point.address.abs_diff(function))
    });
    points
}

fn classify_in(text: &impl Text, value: u64) -> Held {
    if text.functions().function_at(value).is_some() {
        return Held::Closed;
    }
    let behind = text.functions().next_from(value).map(|range| range.start);
    if let Some(function) = behind
        && padding(text, function).is_some_and(|padding| padding.contains(&value))
        && nop::run(text.bytes(value, (function - value) as usize)).is_some()
    {
        return Held::Open { function };
    }
    let before = value.wrapping_sub(ENDBR64.len() as u64);
    if text.functions().function_at(before).is_some() && text.bytes(before, 4) == ENDBR64 {
        return Held::Open { function: before };
    }
    jump::target(text, value).map_or(Held::Foreign, |function| Held::Open { function })
}

/// The proven padding before `function`; not empty.
fn padding(text: &impl Text, function: u64) -> Option<Range<u64>> {
    text.functions().function_at(function)?;
    let start = text.functions().previous_end(function)?;
    let length = function.checked_sub(start).filter(|length| (1..=MAX_PADDING).contains(length))?;
    let bytes = text.bytes(start, length as usize);
    (bytes.len() as u64 == length && nop::run(bytes).is_some()).then_some(start..function)
}

/// The NOPs in the padding from which `function` is reached. On a 256-byte boundary they differ from it in more than one
/// byte: the table's pointer must be stored whole then.
fn nops(text: &impl Text, function: u64) -> Vec<GatePoint> {
    let Some(padding) = padding(text, function) else { return Vec::new() };
    padding
        .filter_map(|address| {
            let bytes = text.bytes(address, (function - address) as usize);
            let steps = nop::run(bytes)?;
            let length = nop::probed_length(bytes)?;
            Some(GatePoint {
                address,
                kind: Kind::Nop,
                length,
                cost: Cost::Emulated,
                steps: u8::try_from(steps).ok()?,
                differs_in_low_byte_only: differs_in_low_byte_only(address, function),
            })
        })
        .collect()
}

fn behind_endbr(text: &impl Text, range: &Range<u64>) -> Option<GatePoint> {
    let address = range.start.saturating_add(ENDBR64.len() as u64);
    if text.bytes(range.start, 4) != ENDBR64 || address >= range.end {
        return None;
    }
    let bytes = text.bytes(address, MAX_INSTRUCTION);
    let instruction = first(bytes, address)?;
    let (length, cost) = probed(bytes, &instruction)?;
    Some(GatePoint {
        address,
        kind: Kind::Endbr,
        length,
        cost,
        steps: 0,
        differs_in_low_byte_only: differs_in_low_byte_only(address, range.start),
    })
}

const fn differs_in_low_byte_only(one: u64, other: u64) -> bool {
    one != other && (one ^ other) < 256
}

/// The instruction at the start of `bytes`.
fn first(bytes: &[u8], address: u64) -> Option<Instruction> {
    let mut decoder = Decoder::with_ip(64, bytes, address, DecoderOptions::NONE);
    Some(decoder.decode()).filter(|instruction| !instruction.is_invalid())
}

/// Length and cost of a probed instruction; `None` for one that must not be probed.
fn probed(bytes: &[u8], instruction: &Instruction) -> Option<(u8, Cost)> {
    let bytes = bytes.get(..instruction.len())?;
    if nop::is_optimised(bytes) {
        return None;
    }
    let cost = if entry::is_emulated(bytes) { Cost::Emulated } else { Cost::SingleStepped };
    Some((u8::try_from(bytes.len()).ok()?, cost))
}
