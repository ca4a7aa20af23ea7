//! How soon the scheduler lets this process run.

use std::io;

/// How far before others, as `nice` has it.
const SOONER: i32 = -10;

/// From now on this thread runs sooner than ordinary ones, and still shares the processor with them.
///
/// # Errors
/// The privilege is missing (`CAP_SYS_NICE`).
pub fn before_others() -> io::Result<()> {
    // On Linux the priority is the thread's.
    Ok(rustix::process::setpriority_process(None, SOONER)?)
}

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
