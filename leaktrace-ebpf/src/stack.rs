//! The Python stack of the thread that hit a probe, as an id whose frames are sent once.
//!
//! A stack is walked once to hash it and, only where the id is new, once more into the ring buffer. Between the two
//! nothing changes: the thread itself stands at the probe. So no scratch memory is needed, which a preempting thread
//! on the same CPU could overwrite.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use leaktrace_common::counter::Counter;
use leaktrace_common::event::{Frame, Head, Stack, kind, stack_end};
use leaktrace_common::limits::MAX_STEPS;
use leaktrace_common::thread::{self, NoStack, Thread};
use leaktrace_common::unwind::{FrameSink, StackHash, walk};

use crate::config;
use crate::maps::{EVENTS, KNOWN, count};
use crate::target::{Target, thread_pointer};

/// The Python thread state of the thread that runs; `None`, and counted, where it has none.
#[inline(always)]
pub(crate) fn current_thread() -> Option<Thread> {
    counted(thread::current(&Target, &config::thread(), thread_pointer()))
}

/// The same in a function that is called with the GIL alone.
#[inline(always)]
pub(crate) fn gil_holder() -> Option<Thread> {
    counted(thread::gil_holder(&Target, &config::thread(), thread_pointer()))
}

#[inline(always)]
fn counted(thread: Result<Thread, NoStack>) -> Option<Thread> {
    match thread {
        Ok(thread) => Some(thread),
        Err(reason) => {
            count(match reason {
                NoStack::NoThread => Counter::NoThread,
                NoStack::Foreign => Counter::ForeignThread,
                NoStack::Fault => Counter::ThreadFault,
            });
            None
        }
    }
}

/// The id of the stack that begins with the frame at `first`; 0 where there is no frame.
#[inline(never)]
pub(crate) fn stack_id(first: u64) -> u64 {
    let mut hash = StackHash::new();
    let walked = walk(&Target, &config::frame(), first, &mut hash);
    if walked.end == stack_end::FAULT {
        count(Counter::FrameFault);
    }
    if walked.depth == 0 {
        count(Counter::NoFrame);
        return 0;
    }
    let id = hash.id(walked);
    // SAFETY: the value is not looked at, only whether there is one.
    if unsafe { KNOWN.get(&id) }.is_none() {
        send(first, id);
    }
    id
}

/// Sends the frames of a stack whose id userspace does not know yet.
#[inline(always)]
fn send(first: u64, id: u64) {
    let Some(mut entry) = EVENTS.reserve::<Stack>(0) else {
        count(Counter::StackLost);
        return;
    };
    let record = entry.as_mut_ptr();
    let mut copy = Copy { record, hash: StackHash::new() };
    let walked = walk(&Target, &config::frame(), first, &mut copy);
    if copy.hash.id(walked) != id {
        entry.discard(crate::emit::NO_WAKEUP);
        count(Counter::StackLost);
        return;
    }
    if walked.end == stack_end::LIMIT {
        count(Counter::StackCut);
    }
    // SAFETY: takes no argument.
    let at_ns = unsafe { bpf_ktime_get_ns() };
    // SAFETY: the record is ours until it is submitted.
    unsafe { (*record).head = Head { kind: kind::STACK, domain: 0, tid: 0, at_ns } };
    // SAFETY: as above.
    unsafe { (*record).id = id };
    // SAFETY: as above.
    unsafe { (*record).depth = walked.depth };
    // SAFETY: as above.
    unsafe { (*record).end = walked.end };
    entry.submit(crate::emit::NO_WAKEUP);
    // A failure only means that the frames are sent once more.
    let _ = KNOWN.insert(&id, &1, 0);
}

/// Writes frames into a reserved record, and hashes them once more on the way.
struct Copy {
    record: *mut Stack,
    hash: StackHash,
}

impl FrameSink for Copy {
    #[inline(always)]
    fn frame(&mut self, index: u32, frame: Frame) {
        self.hash.frame(index, frame);
        if index < MAX_STEPS {
            // SAFETY: the record has `MAX_STEPS` frames, and is ours until it is submitted.
            let slot =
                unsafe { (&raw mut (*self.record).frames).cast::<Frame>().add(index as usize) };
            // SAFETY: in bounds, as above.
            unsafe { slot.write(frame) };
        }
    }
}
