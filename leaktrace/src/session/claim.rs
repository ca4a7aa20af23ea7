//! Takes a process for this leaktrace alone, and puts right what a killed one left behind in it.

use std::time::{Duration, Instant};

use leaktrace_common::config::TargetIdentity;

use super::SessionError;
use crate::cpython::{tables, version};
use crate::gate::repair::{Repair, repair};
use crate::kernel::KernelError;
use crate::kernel::lock::{Holder, Lock};
use crate::target::memory::ProcessMemory;
use crate::target::module::Module;
use crate::target::process::Process;

/// How long the kernel may take to take off the probes of a leaktrace that was killed: its lock lives as long.
const DYING: Duration = Duration::from_secs(10);

/// How often its lock is looked for meanwhile.
const RETRY: Duration = Duration::from_millis(50);

/// Takes the lock on `pid`.
///
/// # Errors
/// The process is gone, or another leaktrace has the lock.
pub(super) async fn claim(pid: u32) -> Result<Lock, SessionError> {
    let identity = identity(pid)?;
    let deadline = Instant::now() + DYING;
    loop {
        match Lock::take(identity)? {
            Ok(lock) => return Ok(lock),
            Err(holder) if holder == Holder::Living || Instant::now() >= deadline => {
                return Err(KernelError::AlreadyTraced { pid: identity.pid }.into());
            }
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}

/// Closes a gate that was left open in `pid`, which is locked: knowing its tables is enough.
///
/// # Errors
/// It has no allocator tables that can be found, or is gone.
pub(super) fn close_left_open(pid: u32, _lock: &Lock) -> Result<Repair, SessionError> {
    let module = Module::find(pid)?;
    let memory = ProcessMemory::open(pid).map_err(|cause| SessionError::Memory { pid, cause })?;
    let version = version::find(&module, &memory)?;
    let tables = tables::find(&module, &memory, &version)?;
    repair(&memory, &module, &tables).map_err(SessionError::Gate)
}

/// Locks `pid` and closes a gate that was left open in it: what `leaktrace doctor` does.
///
/// # Errors
/// It is no CPython, another leaktrace traces it, or it is gone.
pub async fn heal(pid: u32) -> Result<Repair, SessionError> {
    crate::kernel::features::Kernel::check()?;
    let lock = claim(pid).await?;
    close_left_open(pid, &lock)
}

/// Who this is, in terms that every namespace agrees on.
fn identity(pid: u32) -> Result<TargetIdentity, SessionError> {
    let identity = Process::open(pid)?.identity()?;
    Ok(TargetIdentity {
        pid_namespace: identity.namespace,
        pid: u64::from(identity.pid),
        start_ticks: identity.started_ticks,
    })
}
