//! Records into the ring buffer. What does not fit is counted.

use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use leaktrace_common::counter::Counter;
use leaktrace_common::event::{Alloc, Fork, Free, Head, Realloc, kind};

use crate::maps::{EVENTS, FORKS, count};

/// Submit without waking the reader: it comes by itself, many times a second.
pub(crate) const NO_WAKEUP: u64 = BPF_RB_NO_WAKEUP as u64;

#[inline(always)]
fn head(kind: u16, domain: u16, tid: u32) -> Head {
    // SAFETY: takes no argument.
    let at_ns = unsafe { bpf_ktime_get_ns() };
    Head { kind, domain, tid, at_ns }
}

#[inline(always)]
fn submit<T: 'static>(record: T, lost: Counter) {
    let Some(mut entry) = EVENTS.reserve::<T>(0) else {
        count(lost);
        return;
    };
    entry.write(record);
    entry.submit(NO_WAKEUP);
}

/// A block was handed out.
#[inline(always)]
pub(crate) fn alloc(domain: u16, tid: u32, block: u64, size: u64, stack: u64) {
    let head = head(kind::ALLOC, domain, tid);
    submit(Alloc { head, block, size, stack }, Counter::AllocLost);
}

/// A block is given back: `kind` says in which way.
#[inline(always)]
pub(crate) fn free(kind: u16, domain: u16, tid: u32, block: u64) {
    submit(Free { head: head(kind, domain, tid), block }, Counter::FreeLost);
}

/// A pymalloc block was resized.
#[inline(always)]
pub(crate) fn realloc(domain: u16, tid: u32, old: u64, new: u64, size: u64, stack: u64) {
    let head = head(kind::REALLOC, domain, tid);
    submit(Realloc { head, old, new, size, stack }, Counter::ReallocLost);
}

/// A process was made.
#[inline(always)]
pub(crate) fn fork(tid: u32, pid: u32, tgid: u32, flags: u64) {
    let Some(mut entry) = FORKS.reserve::<Fork>(0) else {
        count(Counter::ForkLost);
        return;
    };
    entry.write(Fork { head: head(kind::FORK, 0, tid), pid, tgid, flags });
    entry.submit(NO_WAKEUP);
}
