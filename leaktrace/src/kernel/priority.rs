//! How soon the scheduler lets a thread run.

use std::io;

/// How far before others, as `nice` has it.
const SOONER: i32 = -10;

/// `struct sched_attr` of `include/uapi/linux/sched/types.h`, in its first version.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// A thread that is in haste now and then. To be used by that thread alone.
#[derive(Debug)]
pub struct Haste {
    /// Whether it is; `None` before anything was asked for.
    is_now: Option<bool>,
    /// What `nice` its user has given it.
    nice: i32,
    /// Whether the kernel lets it run sooner than that.
    may_run_sooner: bool,
    /// Whether its user has chosen another policy for it, which it keeps.
    is_chosen: bool,
}

impl Default for Haste {
    fn default() -> Self {
        // SAFETY: 0 is this thread.
        let policy = unsafe { libc::sched_getscheduler(0) };
        Self {
            is_now: None,
            nice: rustix::process::getpriority_process(None).unwrap_or(0),
            may_run_sooner: true,
            is_chosen: policy != libc::SCHED_OTHER,
        }
    }
}

impl Haste {
    /// From now on the thread runs sooner than ordinary ones, and still shares the processor with them. Without the
    /// privilege (`CAP_SYS_NICE`) it runs like these.
    pub fn begin(&mut self) {
        if self.is_chosen || self.is_now == Some(true) {
            return;
        }
        if self.may_run_sooner
            && let Err(error) = before_others()
        {
            tracing::debug!("leaktrace runs like any other process: {error}");
            self.may_run_sooner = false;
        }
        if !self.may_run_sooner
            && let Err(error) = set(libc::SCHED_OTHER, self.nice)
        {
            tracing::debug!("leaktrace keeps the policy that it has: {error}");
        }
        self.is_now = Some(true);
    }

    /// From now on the thread takes the processor from nobody who runs when it is woken: it waits for one that is free, or
    /// for its turn.
    pub fn end(&mut self) {
        if self.is_chosen || self.is_now == Some(false) {
            return;
        }
        if let Err(error) = set(libc::SCHED_BATCH, self.nice) {
            tracing::debug!("leaktrace takes its turn like any other process: {error}");
        }
        self.is_now = Some(false);
    }
}

/// From now on this thread runs sooner than ordinary ones, and still shares the processor with them.
///
/// # Errors
/// The privilege is missing (`CAP_SYS_NICE`).
pub fn before_others() -> io::Result<()> {
    set(libc::SCHED_OTHER, SOONER)
}

/// Has this thread scheduled so.
fn set(policy: i32, nice: i32) -> io::Result<()> {
    let attributes = Attributes {
        size: size_of::<Attributes>() as u32,
        policy: policy as u32,
        nice,
        ..Attributes::default()
    };
    // SAFETY: 0 is this thread; the attributes have the size that they say, and live until the call returns.
    let status = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
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

#[cfg(test)]
mod tests {
    use super::Haste;

    fn policy() -> i32 {
        // SAFETY: 0 is this thread.
        unsafe { libc::sched_getscheduler(0) }
    }

    #[test]
    fn a_thread_takes_its_turn_unless_it_is_in_haste() {
        // In a thread of its own, which ends.
        let policies = || {
            let mut haste = Haste { may_run_sooner: false, ..Haste::default() };
            let nice = haste.nice;
            haste.end();
            let at_rest = policy();
            haste.begin();
            let own = rustix::process::getpriority_process(None).unwrap_or(-99);
            assert_eq!(own, nice);
            (at_rest, policy())
        };
        let found = std::thread::spawn(policies).join().unwrap();
        assert_eq!(found, (libc::SCHED_BATCH, libc::SCHED_OTHER));
    }
}
