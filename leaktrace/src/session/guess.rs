//! Checks a layout that is a guess on the process itself, before anything is done to that.

use leaktrace_common::event::Frame;
use leaktrace_common::layout::{THREAD_NONE, ThreadLayout};
use leaktrace_common::unwind::{FrameSink, walk};

use crate::cpython::code;
use crate::cpython::layout::Layout;
use crate::cpython::runtime::Runtime;
use crate::target::memory::{ProcessMemory, ReadMemory as _};

/// A thread runs on while its frames are read: so often some stack is looked for that resolves.
const TRIES: u32 = 50;

/// Threads that are looked at in one try.
const MAX_THREADS: usize = 64;

/// What `layout` does not lead to in the process, if anything: a thread's own state, the code objects of its frames.
pub(super) fn missing(
    memory: &ProcessMemory,
    layout: &Layout,
    runtime: &Runtime,
    thread: &ThreadLayout,
) -> Option<&'static str> {
    if thread.source == THREAD_NONE {
        return Some("the thread states of its threads");
    }
    let resolves = || {
        let states = runtime.threads.iter().take(MAX_THREADS);
        states.into_iter().any(|known| is_whole(memory, layout, known.state))
    };
    (!(0..TRIES).any(|_| resolves())).then_some("the code objects of its frames")
}

/// Whether the stack of a thread state can be read, and all of its code objects are some.
fn is_whole(memory: &ProcessMemory, layout: &Layout, state: u64) -> bool {
    let frame = memory.read_u64(state.wrapping_add(layout.thread.frame));
    let Ok(first) = frame else { return false };
    let mut frames = Frames::default();
    walk(memory, &layout.frame_layout(), first, &mut frames);
    let codes: Vec<u64> =
        frames.0.iter().map(|frame| frame.code).filter(|&code| code != 0).collect();
    let is_code = |code: &u64| code::read(memory, layout, *code, None).is_ok();
    !codes.is_empty() && codes.iter().all(is_code)
}

#[derive(Default)]
struct Frames(Vec<Frame>);

impl FrameSink for Frames {
    fn frame(&mut self, _index: u32, frame: Frame) {
        self.0.push(frame);
    }
}
