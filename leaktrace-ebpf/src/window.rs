//! Counts the hits of a channel, and closes its gate once that is open for too long.
//!
//! A hit runs in the target's own context, so the gate is closed there and then, whatever leaktrace is doing.

use aya_ebpf::helpers::{bpf_ktime_get_ns, bpf_probe_read_user, generated};
use leaktrace_common::config::windows;
use leaktrace_common::counter::Counter;
use leaktrace_common::window::{GateSlot, Passed, SLOTS};

use crate::config;
use crate::maps::{GATES, PASSED, WINDOWS, count};

/// Counts a hit.
#[inline(always)]
pub(crate) fn hit(channel: u32) {
    if config::windows() != windows::NONE {
        count_hit(channel);
    }
}

/// What tells the window of `channel` from the next.
#[inline(always)]
pub(crate) fn current(channel: u32) -> u64 {
    if config::windows() == windows::NONE {
        return 0;
    }
    WINDOWS.get(channel).map_or(0, |window| window.id)
}

#[inline(never)]
fn count_hit(channel: u32) -> u32 {
    let (Some(window), Some(passed)) = (WINDOWS.get(channel), PASSED.get_ptr_mut(channel)) else {
        return 0;
    };
    // SAFETY: the slot is never removed. Two processors that count at once can lose one of the two, in the raw domain
    // alone: the others hold the GIL.
    let hits = unsafe { (*passed).hits } + 1;
    // SAFETY: as above.
    unsafe { (*passed).hits = hits };
    if config::windows() != windows::CLOSED {
        return 0;
    }
    // SAFETY: takes no argument.
    let now = unsafe { bpf_ktime_get_ns() };
    if now >= window.until_ns || hits >= window.until_hit {
        close_all(channel, passed, window.id, now);
    } else if now >= window.allocations_until_ns || hits >= window.allocations_until_hit {
        close_allocations(channel, passed, window.id, now);
    }
    0
}

#[inline(always)]
fn close_all(channel: u32, passed: *mut Passed, window: u64, now: u64) {
    // SAFETY: the slot is never removed. Two that find it open at once both close it.
    if unsafe { (*passed).closed } == window {
        return;
    }
    if close(channel, false) {
        // SAFETY: as above.
        unsafe { (*passed).closed_ns = now };
        // SAFETY: as above.
        unsafe { (*passed).closed = window };
    }
}

#[inline(always)]
fn close_allocations(channel: u32, passed: *mut Passed, window: u64, now: u64) {
    // SAFETY: as in `close_all`.
    if unsafe { (*passed).allocations_closed } == window {
        return;
    }
    if close(channel, true) {
        // SAFETY: as above.
        unsafe { (*passed).allocations_closed_ns = now };
        // SAFETY: as above.
        unsafe { (*passed).allocations_closed = window };
    }
}

/// Puts the functions back into the slots that lead to their gate points; false where one could not be written.
#[inline(always)]
fn close(channel: u32, allocations: bool) -> bool {
    let Some(gate) = GATES.get(channel) else { return false };
    let end = if allocations { gate.allocations } else { gate.all };
    let mut done = true;
    for (index, slot) in gate.slots.iter().enumerate() {
        if index as u64 >= end || index >= SLOTS {
            break;
        }
        done &= close_slot(slot);
    }
    if !done {
        count(Counter::GateNotClosed);
    }
    done
}

/// Always the whole pointer, after it was compared: somebody may have put a hook of his own there.
#[inline(always)]
fn close_slot(slot: &GateSlot) -> bool {
    // SAFETY: the kernel checks the address and reports a fault as an error.
    let Ok(found) = (unsafe { bpf_probe_read_user(slot.address as *const u64) }) else {
        return false;
    };
    if found != slot.open || slot.open == slot.closed {
        return true;
    }
    let closed = slot.closed;
    // SAFETY: the kernel checks the address, which is the target's, and reports a fault as an error.
    let status = unsafe {
        generated::bpf_probe_write_user(
            slot.address as *mut core::ffi::c_void,
            (&raw const closed).cast(),
            8,
        )
    };
    status == 0
}
