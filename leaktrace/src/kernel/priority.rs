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
#[derive(Debug, Default)]
pub struct Haste {
    /// Whether it is; `None` before anything was asked for.
    is_now: Option<bool>,
    /// Whether the kernel refuses to let it be.
    refused: bool,
}

impl Haste {
    /// From now on the thread runs sooner than ordinary ones, and still shares the processor with them. Without the
    /// privilege (`CAP_SYS_NICE`) it runs like these.
    pub fn begin(&mut self) {
        if self.is_now == Some(true) || self.refused {
            return;
        }
        match set(libc::SCHED_OTHER, SOONER) {
            Ok(()) => self.is_now = Some(true),
            Err(error) => {
                tracing::debug!("leaktrace runs like any other process: {error}");
                self.refused = true;
            }
        }
    }

    /// From now on the thread takes the processor from nobody who runs when it is woken: it waits for one that is free, or
    /// for its turn.
    pub fn end(&mut self) {
        if self.is_now == Some(false) {
            return;
        }
        match set(libc::SCHED_BATCH, 0) {
            Ok(()) => self.is_now = Some(false),
            Err(error) => {
                tracing::debug!("leaktrace takes its turn like any other process: {error}")
            }
        }
    }
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

    #[test]
    fn a_thread_without_haste_takes_its_turn() {
        // In a thread of its own, which ends.
        let policy = || {
            let mut haste = Haste::default();
            haste.begin();
            haste.end();
            // SAFETY: 0 is this thread.
            unsafe { libc::sched_getscheduler(0) }
        };
        assert_eq!(std::thread::spawn(policy).join().unwrap(), libc::SCHED_BATCH);
    }
}
