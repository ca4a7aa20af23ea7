//! A process is made: a child of the target has a copy of its tables, with the gate as it stands.
//!
//! Runs in the one that makes it, once the child's memory is there and before it runs.

use aya_ebpf::bindings::bpf_pidns_info;
use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid, bpf_get_current_task, bpf_probe_read_kernel, generated,
};
use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;
use leaktrace_common::config::Forks;
use leaktrace_common::counter::Counter;
use leaktrace_common::event::clone_flag;

use crate::config;
use crate::emit;
use crate::maps::{DESCENDANTS, count};

/// `task_newtask(task, clone_flags)`
#[raw_tracepoint(tracepoint = "task_newtask")]
fn new_task(ctx: RawTracePointContext) {
    let flags: u64 = ctx.arg(1);
    if flags & clone_flag::THREAD == 0 {
        made(ctx.arg(0), flags);
    }
}

#[inline(always)]
fn made(child: u64, flags: u64) {
    let forks = config::forks();
    let parent = bpf_get_current_pid_tgid();
    let Some(level) = level_for((parent >> 32) as u32, &forks) else { return };
    let Some((pid, tgid)) = numbers(child, level, &forks) else {
        count(Counter::ForkLost);
        return;
    };
    if DESCENDANTS.insert(&tgid, &level, 0).is_err() {
        count(Counter::ForkLost);
    }
    emit::fork(parent as u32, pid, tgid, flags);
}

/// Where the process that runs is the target or one of its descendants: the level of the pid namespace that userspace
/// sees.
#[inline(always)]
fn level_for(tgid: u32, forks: &Forks) -> Option<u32> {
    // SAFETY: the value is copied out at once; an entry that is replaced meanwhile has the same value.
    if let Some(&level) = unsafe { DESCENDANTS.get(&tgid) } {
        return Some(level);
    }
    if !is_target(forks) {
        return None;
    }
    // SAFETY: takes no argument, returns the current task's address.
    let task = unsafe { bpf_get_current_task() };
    let level = read_u32(read(task + forks.thread_pid)? + forks.level)?;
    level.checked_sub(forks.depth as u32)
}

/// Whether the process that runs is the target: its pid namespace and its pid in there say so wherever leaktrace runs.
#[inline(always)]
fn is_target(forks: &Forks) -> bool {
    let mut ids = bpf_pidns_info { pid: 0, tgid: 0 };
    let size = size_of::<bpf_pidns_info>() as u32;
    // SAFETY: the destination has `size` bytes.
    let status = unsafe {
        generated::bpf_get_ns_current_pid_tgid(forks.device, forks.inode, &raw mut ids, size)
    };
    status == 0 && u64::from(ids.tgid) == forks.pid
}

/// The new process's pid in the pid namespace of that level, and in the initial one.
#[inline(always)]
fn numbers(child: u64, level: u32, forks: &Forks) -> Option<(u32, u32)> {
    let tgid = read_u32(child + forks.tgid)?;
    let pid = read(child + forks.thread_pid)?;
    let number = pid + forks.numbers + u64::from(level) * forks.number_bytes;
    Some((read_u32(number)?, tgid))
}

#[inline(always)]
fn read(address: u64) -> Option<u64> {
    // SAFETY: the kernel checks the address and reports a fault as an error.
    unsafe { bpf_probe_read_kernel(address as *const u64) }.ok()
}

#[inline(always)]
fn read_u32(address: u64) -> Option<u32> {
    // SAFETY: as above.
    unsafe { bpf_probe_read_kernel(address as *const u32) }.ok()
}
