//! The obj and mem domains: pymalloc, whose next block is read instead of awaited.
//!
//! Until predictions have proved themselves every call waits for its return probe, and is compared. From then on the
//! record is made on entry. The one thing that cannot be read beforehand is the first block of a pool that is not in
//! use yet: that call waits in [`FRESH`] for the next event, whose entry sees the pool.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::macros::{uprobe, uretprobe};
use aya_ebpf::programs::{ProbeContext, RetProbeContext};
use aya_log_ebpf::debug;
use leaktrace_common::counter::Counter;
use leaktrace_common::event::{domain, kind};
use leaktrace_common::pymalloc::{self, Prediction, Resize};
use leaktrace_common::thread;
use leaktrace_common::window::channel;

use super::argument;
use crate::config;
use crate::emit;
use crate::maps::{Call, FRESH, FRESH_OF_OTHERS, IN_OBJ, MAIN, OTHERS, count, predictions_trusted};
use crate::stack::{gil_holder, stack_id};
use crate::target::{Target, thread_id, thread_pointer};
use crate::window;

/// `obj.malloc(ctx, size)`
#[uprobe]
fn obj_malloc(ctx: ProbeContext) -> u32 {
    if let Some(tid) = thread_id() {
        window::hit(channel::OBJ);
        settle_fresh();
        enter(tid, 0, argument(&ctx, 1), false);
    }
    0
}

/// `obj.calloc(ctx, count, size)`
#[uprobe]
fn obj_calloc(ctx: ProbeContext) -> u32 {
    if let Some(tid) = thread_id() {
        window::hit(channel::OBJ);
        settle_fresh();
        enter(tid, 0, argument(&ctx, 1).wrapping_mul(argument(&ctx, 2)), false);
    }
    0
}

/// `obj.realloc(ctx, block, size)`
#[uprobe]
fn obj_realloc(ctx: ProbeContext) -> u32 {
    if let Some(tid) = thread_id() {
        window::hit(channel::OBJ);
        settle_fresh();
        resize(tid, argument(&ctx, 1), argument(&ctx, 2));
    }
    0
}

/// `obj.free(ctx, block)`
#[uprobe]
fn obj_free(ctx: ProbeContext) -> u32 {
    let block = argument(&ctx, 1);
    if block != 0
        && let Some(tid) = thread_id()
    {
        window::hit(channel::OBJ);
        settle_fresh();
        // Where `free` is probed at its own entry, a realloc that moves its block frees the old one here: its return
        // probe records that. (Once predictions are trusted there is none; userspace then tells by the order.)
        if predictions_trusted() || awaited_realloc() != block {
            emit::free(kind::FREE, domain::OBJ, tid, block);
        }
    }
    0
}

/// The end of `obj.malloc`, `obj.calloc` and `obj.realloc`, while predictions are not trusted.
#[uretprobe]
fn obj_return(ctx: RetProbeContext) -> u32 {
    if let Some(tid) = thread_id() {
        leave(&ctx, tid, ctx.ret());
    }
    0
}

/// A call that will hand out a new block; the old one of a realloc, if any, is freed by it, unless it `stays`.
#[inline(always)]
fn enter(tid: u32, old: u64, size: u64, stays: bool) {
    let mut domain = domain::OBJ;
    if !pymalloc::is_small(size) {
        if !config::record_at_obj() {
            return;
        }
        domain = domain::RAW;
    }
    let mut layout = config::pymalloc();
    let (interpreter, stack) = interpreter_and_stack(layout.interpreter);
    if stays {
        emit::realloc(domain::OBJ, tid, old, old, size, stack);
        return;
    }
    let mut call = Call {
        size,
        stack,
        predicted: 0,
        old,
        tid: u64::from(tid),
        domain: u64::from(domain),
        usedpools: 0,
    };
    if domain == domain::RAW {
        wait(&call);
        return;
    }
    let trusted = predictions_trusted();
    if layout.usedpools == 0 {
        wait(&call);
        return;
    }
    let Some(usedpools) = pymalloc::usedpools_of(&Target, &layout, interpreter) else {
        if trusted {
            count(Counter::OtherInterpreter)
        } else {
            wait(&call)
        }
        return;
    };
    layout.usedpools = usedpools;
    call.usedpools = usedpools;
    match pymalloc::predict(&Target, &layout, size) {
        Ok(Prediction::Block(block)) if trusted => record(tid, &call, block),
        Ok(Prediction::FreshPool) if trusted => defer(tid, &mut call),
        Ok(Prediction::Block(block)) => {
            call.predicted = block;
            wait(&call);
        }
        Err(_) if trusted => count(Counter::PredictionFault),
        _ => wait(&call),
    }
}

/// The interpreter of the thread that runs, and the id of its stack; `otherwise` and 0 where it has no thread state.
#[inline(always)]
fn interpreter_and_stack(otherwise: u64) -> (u64, u64) {
    // Kernels before 6.3 refuse to read what was never written: no field of an absent thread may be kept.
    match gil_holder() {
        Some(thread) => (thread.interpreter, stack_id(thread.frame)),
        None => (otherwise, 0),
    }
}

/// `obj.realloc`. There is one way to [`enter`], as kernels verify anew, at each call, what it calls.
#[inline(always)]
fn resize(tid: u32, old: u64, size: u64) {
    let layout = config::pymalloc();
    // Without pools there is no telling from the block what will become of it: its return probe tells.
    let fate = if old == 0 || layout.usedpools == 0 {
        Resize::Moves
    } else {
        pymalloc::resize(&Target, &layout, old, size)
    };
    let freed = match fate {
        // The raw domain's realloc follows and records it.
        Resize::NotPymalloc => return,
        Resize::Leaves => {
            emit::realloc(domain::OBJ, tid, old, 0, size, 0);
            if !config::record_at_obj() {
                return;
            }
            0
        }
        Resize::Moves | Resize::Stays => old,
    };
    enter(tid, freed, size, fate == Resize::Stays);
}

/// Records a block that is known.
#[inline(always)]
fn record(tid: u32, call: &Call, block: u64) {
    if call.old == 0 {
        emit::alloc(call.domain as u16, tid, block, call.size, call.stack);
    } else {
        emit::realloc(call.domain as u16, tid, call.old, block, call.size, call.stack);
    }
}

/// Whether this thread is in a call of an obj or mem function that its return probe will record: what that asks of the
/// raw table in turn is the same block.
#[inline(always)]
pub(super) fn is_awaited() -> bool {
    // SAFETY: only this thread uses its entry, and it stands at this probe.
    unsafe { IN_OBJ.get(&bpf_get_current_pid_tgid()) }.is_some()
}

/// The old block of the realloc that this thread is in and that waits for its return probe; 0 where there is none.
#[inline(always)]
fn awaited_realloc() -> u64 {
    // SAFETY: only this thread uses its entry, and it stands at this probe.
    unsafe { IN_OBJ.get(&bpf_get_current_pid_tgid()) }.map_or(0, |call| call.old)
}

/// Leaves the call to its return probe. A malloc inside of a realloc that waits already is the same block: whichever
/// returns first tells it.
#[inline(always)]
fn wait(call: &Call) {
    if call.old == 0 && awaited_realloc() != 0 {
        return;
    }
    if call.old != 0 && config::record_at_obj() {
        // Told on entry: without a GIL another thread may be given the same address before the call is over.
        emit::free(kind::REALLOC_FREE, domain::OBJ, call.tid as u32, call.old);
    }
    if IN_OBJ.insert(&bpf_get_current_pid_tgid(), call, 0).is_err() {
        count(Counter::InFlightFull);
    }
}

/// Leaves the call's block to the next event of its interpreter; what it frees is told now.
#[inline(always)]
fn defer(tid: u32, call: &mut Call) {
    if call.old != 0 {
        emit::realloc(domain::OBJ, tid, call.old, 0, call.size, 0);
    }
    call.predicted = window::current(channel::OBJ);
    if call.usedpools == config::pymalloc().usedpools {
        put(MAIN, call);
        return;
    }
    if FRESH_OF_OTHERS.insert(&call.usedpools, &*call, 0).is_err() {
        count(Counter::FreshPoolLost);
        return;
    }
    put(OTHERS, &Call { size: 1, ..*call });
}

#[inline(always)]
fn put(index: u32, call: &Call) {
    if let Some(fresh) = FRESH.get_ptr_mut(index) {
        // SAFETY: the slot is never removed. At MAIN, the GIL is held by this thread, which alone writes here; at OTHERS,
        // nobody reads anything but that `size` is not 0.
        unsafe { *fresh = *call };
    }
}

/// Records the block of the last call of this thread's interpreter, if it came from a fresh pool.
#[inline(always)]
fn settle_fresh() {
    let is_pending = |index| {
        // SAFETY: the slot is never removed, and one word is read.
        FRESH.get_ptr(index).is_some_and(|fresh| unsafe { (*fresh).size } != 0)
    };
    if is_pending(MAIN) || is_pending(OTHERS) {
        settle_own();
    }
}

#[inline(never)]
fn settle_own() -> u32 {
    let layout = config::pymalloc();
    let mut usedpools = layout.usedpools;
    if layout.interpreter != 0
        && let Ok(thread) = thread::gil_holder(&Target, &config::thread(), thread_pointer())
    {
        usedpools = pymalloc::usedpools_of(&Target, &layout, thread.interpreter).unwrap_or(0);
    }
    let fresh = if usedpools == layout.usedpools {
        FRESH.get_ptr_mut(MAIN)
    } else {
        FRESH_OF_OTHERS.get_ptr_mut(&usedpools)
    };
    if let Some(fresh) = fresh {
        settle(fresh);
    }
    0
}

#[inline(always)]
fn settle(fresh: *mut Call) {
    // SAFETY: the GIL of the interpreter is held by this thread; an entry that gives way to another's is not reused
    // before this program is over.
    let call = unsafe { *fresh };
    if call.size == 0 {
        return;
    }
    // SAFETY: as above.
    unsafe { (*fresh).size = 0 };
    if call.predicted != window::current(channel::OBJ) {
        // What the pool has handed out meanwhile was not seen.
        count(Counter::FreshPoolOutlived);
        return;
    }
    let mut layout = config::pymalloc();
    layout.usedpools = call.usedpools;
    match pymalloc::fresh_block(&Target, &layout, call.size) {
        Some(block) => {
            count(Counter::FreshPoolFound);
            emit::alloc(domain::OBJ, call.tid as u32, block, call.size, call.stack);
        }
        None => count(Counter::FreshPoolLost),
    }
}

/// The end of a call that waited.
#[inline(always)]
fn leave(ctx: &RetProbeContext, tid: u32, block: u64) {
    let key = bpf_get_current_pid_tgid();
    // SAFETY: only this thread uses its entry, and it stands at this probe.
    let Some(&call) = (unsafe { IN_OBJ.get(&key) }) else { return };
    // It was there a moment ago, and nobody else removes it.
    let _ = IN_OBJ.remove(&key);
    if block == 0 {
        count(Counter::AllocationFailed);
        if call.old != 0 && config::record_at_obj() {
            emit::free(kind::REALLOC_FAILED, domain::OBJ, tid, call.old);
        }
        return;
    }
    if call.predicted != 0 {
        let right = call.predicted == block;
        count(if right { Counter::PredictionRight } else { Counter::PredictionWrong });
        if !right {
            debug!(ctx, "predicted {:x} for {} bytes, got {:x}", call.predicted, call.size, block);
        }
    }
    if call.old != 0 && config::record_at_obj() {
        // Old and new block may be of any domain.
        emit::alloc(call.domain as u16, tid, block, call.size, call.stack);
    } else {
        record(tid, &call, block);
    }
}
