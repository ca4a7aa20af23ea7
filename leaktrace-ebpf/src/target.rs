//! The thread that hit a probe, and its memory.

use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid, bpf_get_current_task, bpf_probe_read_kernel, generated,
};
use leaktrace_common::memory::{Fault, Memory};

use crate::config;

/// The memory of the process that hit the probe. A page that is not resident is a fault: a probe cannot wait for it.
pub(crate) struct Target;

impl Memory for Target {
    #[inline(always)]
    fn read<const N: usize>(
        &self,
        address: u64,
        bytes: u64,
        words: &mut [u64; N],
    ) -> Result<(), Fault> {
        let capacity = 8 * N as u64;
        let bytes = if bytes > capacity { capacity } else { bytes };
        // SAFETY: the destination has `bytes` bytes, which the verifier checks once more; the source is checked by
        // the kernel.
        let status = unsafe {
            generated::bpf_probe_read_user(
                words.as_mut_ptr().cast(),
                bytes as u32,
                address as *const core::ffi::c_void,
            )
        };
        if status == 0 { Ok(()) } else { Err(Fault) }
    }
}

/// The thread, if it belongs to the process that is traced.
#[inline(always)]
pub(crate) fn thread_id() -> Option<u32> {
    let pid_tgid = bpf_get_current_pid_tgid();
    let wanted = config::tgid();
    if wanted != 0 && pid_tgid >> 32 != wanted {
        return None;
    }
    Some(pid_tgid as u32)
}

/// The thread pointer of the thread that runs, which glibc and musl have for `pthread_self()` as well.
#[inline(always)]
pub(crate) fn thread_pointer() -> u64 {
    // SAFETY: takes no argument, returns the current task's address.
    let task = unsafe { bpf_get_current_task() };
    let field = task + config::fsbase();
    // SAFETY: the kernel checks the address and reports a fault as an error.
    unsafe { bpf_probe_read_kernel(field as *const u64) }.unwrap_or(0)
}
