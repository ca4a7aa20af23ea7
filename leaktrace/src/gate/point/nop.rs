//! NOPs: what counts as one, and which of them a probe may sit on.

use iced_x86::{Decoder, DecoderOptions, Mnemonic};

/// The forms that the kernel emulates and never replaces by anything but a breakpoint: those of its own table
/// (`x86_nops` in `arch/x86/include/asm/nops.h`) of 1 to 8 bytes, without the one of 5.
const PROBED: [&[u8]; 7] = [
    &[0x90],
    &[0x66, 0x90],
    &[0x0f, 0x1f, 0x00],
    &[0x0f, 0x1f, 0x40, 0x00],
    &[0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00],
    &[0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00],
    &[0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
];

/// Since 6.18 the kernel turns this one into a call to a page that a forked child does not have: the child dies.
const OPTIMISED: [u8; 5] = [0x0f, 0x1f, 0x44, 0x00, 0x00];

/// How many NOPs `bytes` consist of; `None` where there is anything else, or nothing.
pub(super) fn run(bytes: &[u8]) -> Option<usize> {
    let mut decoder = Decoder::new(64, bytes, DecoderOptions::NONE);
    let mut count = 0;
    while decoder.can_decode() {
        if decoder.decode().mnemonic() != Mnemonic::Nop {
            return None;
        }
        count += 1;
    }
    (count > 0).then_some(count)
}

/// The length of the NOP at the start of `bytes`, if a probe may sit on it.
pub(super) fn probed_length(bytes: &[u8]) -> Option<u8> {
    let length = Decoder::new(64, bytes, DecoderOptions::NONE).decode().len();
    let whole = bytes.get(..length)?;
    PROBED.contains(&whole).then_some(u8::try_from(length).ok()?)
}

/// Whether the kernel emulates the NOP that `instruction` is.
pub(super) fn is_emulated(instruction: &[u8]) -> bool {
    PROBED.contains(&instruction)
}

/// Whether the kernel may turn `instruction` into a call: 6.18 does so with one form of five bytes, and a later one may
/// with any, prefixed ones too.
pub(super) fn is_optimised(instruction: &[u8]) -> bool {
    instruction == OPTIMISED
        || (instruction.len() == 5 && instruction.windows(2).any(|pair| pair == [0x0f, 0x1f]))
}
