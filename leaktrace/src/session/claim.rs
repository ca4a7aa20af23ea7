//! Takes a process for this leaktrace alone, and puts right what a killed one left behind in it.

use std::time::{Duration, Instant};

use leaktrace_common::config::TargetIdentity;

use super::SessionError;
use super::recognise::{STARTING, Target};
use crate::cpython::{tables, version};
use crate::gate::point::{Held, classify};
use crate::gate::repair::{Repair, repair};
use crate::kernel::KernelError;
use crate::kernel::lock::{Holder, Lock};
use crate::target::memory::ProcessMemory;
use crate::target::module::Module;
use crate::target::process::{Process, ProcessError};

/// How long the kernel may take to take off the probes of a leaktrace that was killed: its lock lives as long.
const DYING: Duration = Duration::from_secs(10);

/// Descendants of a process that are looked at.
const MOST_DESCENDANTS: usize = 10_000;

/// How often its lock is looked for meanwhile.
const RETRY: Duration = Duration::from_millis(50);

/// How often the tables are looked at until they hold still.
const MOST_TRIES: u32 = 10;

/// A process that no other leaktrace traces while this lives.
pub(super) struct Claim {
    process: Process,
    lock: Lock,
}

impl Claim {
    /// Takes the lock on `pid`.
    ///
    /// # Errors
    /// The process is gone, or another leaktrace has the lock.
    pub(super) async fn on(pid: u32) -> Result<Self, SessionError> {
        let process = Process::open(pid)?;
        let identity = identity(&process)?;
        let deadline = Instant::now() + DYING;
        loop {
            match Lock::take(identity)? {
                Ok(lock) => return Ok(Self { process, lock }),
                Err(holder) if holder == Holder::Living || Instant::now() >= deadline => {
                    return Err(KernelError::AlreadyTraced { pid: identity.pid }.into());
                }
                Err(_) => tokio::time::sleep(RETRY).await,
            }
        }
    }

    /// Closes a gate that was left open: knowing the process's tables is enough.
    ///
    /// # Errors
    /// It has no allocator tables that can be found, or is gone.
    pub(super) fn close_left_open(&self) -> Result<Repair, SessionError> {
        let pid = self.process.pid();
        let module = Module::find(pid)?;
        let memory =
            ProcessMemory::open(pid).map_err(|cause| SessionError::Memory { pid, cause })?;
        let version = version::find(&module, &memory)?;
        let tables = tables::find(&module, &memory, &version)?;
        self.check()?;
        repair(&memory, &module, &tables).map_err(SessionError::Gate)
    }

    /// Closes a gate that was left open, and recognises the process as it is then; with whether there was one. Hooks that go
    /// in between put back the tables that they saved, open as these were: then once more.
    ///
    /// # Errors
    /// As [`Self::close_left_open`] and [`Target::recognise`], and [`SessionError::Restless`]: what is taken for a closed
    /// slot while it is open would be put back open in the end.
    pub(super) async fn recognise(&self) -> Result<(Target, bool), SessionError> {
        let mut was_open = false;
        for _ in 0..MOST_TRIES {
            let repair = self.close_left_open()?;
            was_open |= repair.closed + repair.closed_behind_hooks > 0;
            let target = Target::recognise(self.process.pid()).await?;
            if !is_open(&target) {
                return Ok((target, was_open));
            }
        }
        Err(SessionError::Restless { pid: self.process.pid() })
    }

    /// The lock alone.
    ///
    /// # Errors
    /// The process is gone: what has its pid now is not locked.
    pub(super) fn into_lock(self) -> Result<Lock, SessionError> {
        self.check()?;
        Ok(self.lock)
    }

    /// What was opened by number since is the same process as long as this one lives.
    fn check(&self) -> Result<(), SessionError> {
        if self.process.is_alive() {
            return Ok(());
        }
        Err(ProcessError::NoSuchProcess { pid: self.process.pid() }.into())
    }
}

/// Whether one of the target's tables leads to a gate point.
fn is_open(target: &Target) -> bool {
    target.tables.named().iter().any(|(_, table)| {
        let leads = |&function| matches!(classify(&target.module, function), Held::Open { .. });
        table.functions().iter().any(leads)
    })
}

/// Locks `pid` and closes a gate that was left open in it: what `leaktrace doctor` does. One that is just starting is
/// waited for.
///
/// # Errors
/// It is no CPython, another leaktrace traces it, or it is gone.
pub async fn heal(pid: u32) -> Result<Repair, SessionError> {
    crate::kernel::features::Kernel::check()?;
    let claim = Claim::on(pid).await?;
    let deadline = Instant::now() + STARTING;
    loop {
        match claim.close_left_open() {
            Err(error) if error.may_pass() && Instant::now() < deadline => {
                tokio::time::sleep(RETRY).await;
            }
            done => return done,
        }
    }
}

/// What was found in the descendants of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Family {
    /// Descendants that are CPythons.
    pub pythons: usize,
    /// Of these, those with an open gate, which was closed.
    pub closed: usize,
    /// Descendants that another leaktrace traces: they, and what they made, were left alone.
    pub traced: usize,
}

/// As [`heal`], for each descendant of `pid`: they have a copy of a gate that was open when they were forked. Those
/// that are no CPython, or end meanwhile, are passed over.
pub async fn heal_descendants(pid: u32) -> Family {
    let mut family = Family::default();
    let mut found = children(pid);
    let mut next = 0;
    while let Some(&pid) = found.get(next).filter(|_| next < MOST_DESCENDANTS) {
        next += 1;
        match heal(pid).await {
            Ok(repair) => {
                family.pythons += 1;
                family.closed += usize::from(repair.closed + repair.closed_behind_hooks > 0);
            }
            // Its children may share the memory of one whose gate is open for good reason.
            Err(SessionError::Kernel(KernelError::AlreadyTraced { .. })) => {
                family.traced += 1;
                continue;
            }
            Err(_) => {}
        }
        let new: Vec<u32> = children(pid).into_iter().filter(|pid| !found.contains(pid)).collect();
        found.extend(new);
    }
    family
}

fn children(pid: u32) -> Vec<u32> {
    Process::open(pid).and_then(|process| process.children()).unwrap_or_default()
}

/// Who this is, in terms that every namespace agrees on.
fn identity(process: &Process) -> Result<TargetIdentity, SessionError> {
    let identity = process.identity()?;
    Ok(TargetIdentity {
        pid_namespace: identity.namespace,
        pid: u64::from(identity.pid),
        start_ticks: identity.started_ticks,
    })
}
