//! How soon the scheduler lets this process run.

use std::io;

/// From now on this process runs before all ordinary ones of its processor as soon as it is woken, and no quota of its
/// cgroup's processor time holds it back. It must not run for long.
///
/// # Errors
/// The privilege is missing (`CAP_SYS_NICE`), or its cgroup has no time for such processes.
pub fn before_all_others() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: 0 is this thread; the parameters live until the call returns.
    let status = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
