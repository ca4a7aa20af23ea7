//! The raw domain: `malloc` of the C library, which only its return value tells the block of.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::macros::{uprobe, uretprobe};
use aya_ebpf::programs::{ProbeContext, RetProbeContext};
use leaktrace_common::counter::Counter;
use leaktrace_common::event::{domain, kind};
use leaktrace_common::window::channel;

use super::argument;
use super::obj::is_awaited;
use crate::config;
use crate::emit;
use crate::maps::{Call, IN_RAW, count};
use crate::stack::{current_thread, stack_id};
use crate::target::thread_id;
use crate::window;

/// `raw.malloc(ctx, size)`
#[uprobe]
fn raw_malloc(ctx: ProbeContext) -> u32 {
    enter(0, argument(&ctx, 1));
    0
}

/// `raw.calloc(ctx, count, size)`
#[uprobe]
fn raw_calloc(ctx: ProbeContext) -> u32 {
    enter(0, argument(&ctx, 1).wrapping_mul(argument(&ctx, 2)));
    0
}

/// `raw.realloc(ctx, block, size)`
#[uprobe]
fn raw_realloc(ctx: ProbeContext) -> u32 {
    enter(argument(&ctx, 1), argument(&ctx, 2));
    0
}

/// `raw.free(ctx, block)`
#[uprobe]
fn raw_free(ctx: ProbeContext) -> u32 {
    let block = argument(&ctx, 1);
    if block != 0
        && let Some(tid) = thread_id()
    {
        window::hit(channel::RAW);
        emit::free(kind::FREE, domain::RAW, tid, block);
    }
    0
}

/// The end of `raw.malloc`, `raw.calloc` and `raw.realloc`.
#[uretprobe]
fn raw_return(ctx: RetProbeContext) -> u32 {
    leave(ctx.ret());
    0
}

#[inline(always)]
fn enter(old: u64, size: u64) {
    let Some(tid) = thread_id() else { return };
    window::hit(channel::RAW);
    if config::record_at_obj() && is_awaited() {
        return;
    }
    let stack = current_thread().map_or(0, |thread| stack_id(thread.frame));
    if old != 0 {
        // Told on entry: before the call is over, another thread may be given the same address.
        emit::free(kind::REALLOC_FREE, domain::RAW, tid, old);
    }
    let call = Call {
        size,
        stack,
        predicted: 0,
        old,
        tid: u64::from(tid),
        domain: u64::from(domain::RAW),
        usedpools: 0,
    };
    if IN_RAW.insert(&bpf_get_current_pid_tgid(), &call, 0).is_err() {
        count(Counter::InFlightFull);
    }
}

#[inline(always)]
fn leave(block: u64) {
    let Some(tid) = thread_id() else { return };
    let key = bpf_get_current_pid_tgid();
    // SAFETY: only this thread uses its entry, and it stands at this probe.
    let Some(&call) = (unsafe { IN_RAW.get(&key) }) else {
        if !config::record_at_obj() {
            count(Counter::ReturnWithoutEntry);
        }
        return;
    };
    // It was there a moment ago, and nobody else removes it.
    let _ = IN_RAW.remove(&key);
    if block != 0 {
        emit::alloc(domain::RAW, tid, block, call.size, call.stack);
        return;
    }
    count(Counter::AllocationFailed);
    if call.old != 0 {
        emit::free(kind::REALLOC_FAILED, domain::RAW, tid, call.old);
    }
}
