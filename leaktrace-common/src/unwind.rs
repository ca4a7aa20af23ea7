//! The walk along Python frames, over any [`Memory`].

use crate::event::{Frame, stack_end};
use crate::layout::FrameLayout;
use crate::limits::{FRAME_WORDS, MAX_STEPS};
use crate::memory::{Memory, field, field8, field32};

/// Takes the frames of a walk, innermost first.
pub trait FrameSink {
    /// Takes frame number `index`, below [`MAX_STEPS`].
    fn frame(&mut self, index: u32, frame: Frame);
}

/// Where and how a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walked {
    /// Frames that the sink was given.
    pub depth: u32,
    /// One of [`stack_end`].
    pub end: u32,
}

/// Walks from the frame at address `first` outwards. Every chain ends, after [`MAX_STEPS`] frames at the latest.
#[inline(always)]
pub fn walk<M: Memory, S: FrameSink>(
    memory: &M,
    layout: &FrameLayout,
    first: u64,
    sink: &mut S,
) -> Walked {
    let mut words = [0; FRAME_WORDS];
    let mut address = first;
    let mut depth = 0;
    while depth < MAX_STEPS {
        if address == 0 {
            return Walked { depth, end: stack_end::COMPLETE };
        }
        if memory.read(address, layout.bytes, &mut words).is_err() {
            return Walked { depth, end: stack_end::FAULT };
        }
        sink.frame(depth, decode(layout, &words));
        depth += 1;
        address = field(&words, layout.previous);
    }
    Walked { depth, end: stack_end::LIMIT }
}

/// The frame that was read into `words`; its code is 0 where it belongs to the C stack.
#[inline(always)]
fn decode(layout: &FrameLayout, words: &[u64; FRAME_WORDS]) -> Frame {
    let mut owner = 0;
    if layout.first_shim_owner != 0 {
        owner = u32::from(field8(words, layout.owner));
        if u64::from(owner) >= layout.first_shim_owner {
            return Frame { code: 0, offset: 0, owner };
        }
    }
    let code = field(words, layout.code) & !layout.code_tag;
    let offset = if layout.code_start == 0 {
        field32(words, layout.position).cast_signed().wrapping_mul(layout.lasti_unit as i32)
    } else {
        field(words, layout.position).wrapping_sub(code.wrapping_add(layout.code_start)) as i32
    };
    Frame { code, offset, owner }
}

/// A 64-bit hash of frames: the stack id.
#[derive(Clone, Copy, Debug)]
pub struct StackHash(u64);

impl StackHash {
    /// The hash of no frames.
    #[must_use]
    #[inline(always)]
    pub const fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    /// The id of what was hashed, with how the walk ended; never 0, which stands for no stack.
    #[must_use]
    #[inline(always)]
    pub const fn id(self, walked: Walked) -> u64 {
        let id = mix(self.0 ^ ((walked.depth as u64) << 8 | walked.end as u64));
        if id == 0 { 1 } else { id }
    }
}

impl Default for StackHash {
    fn default() -> Self {
        Self::new()
    }
}

impl FrameSink for StackHash {
    #[inline(always)]
    fn frame(&mut self, _index: u32, frame: Frame) {
        self.0 = mix(self.0 ^ frame.code);
        self.0 =
            mix(self.0 ^ u64::from(frame.offset.cast_unsigned()) ^ u64::from(frame.owner) << 32);
    }
}

/// One round of a multiply-and-shift mix (the finaliser of `splitmix64`, shortened to one multiplication per word:
/// two rounds are made for each frame).
#[inline(always)]
const fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    word ^ (word >> 29)
}
