//! Children that the target makes while its gate is open: they have a copy of its tables, and nobody but leaktrace
//! closes those.
//!
//! A child that shares the target's memory (`vfork`, `posix_spawn`) is left alone: its tables are the target's own.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use leaktrace_common::config::Forks;
use leaktrace_common::event::Fork;

use super::Options;
use super::outcome::ChildCounts;
use super::recognise::age;
use crate::gate::Gate;
use crate::kernel::Programs;
use crate::kernel::features::Kernel;
use crate::target::memory::{ProcessMemory, ReadMemory as _};
use crate::target::process::Process;

/// Children that share the target's memory that are remembered: what they make in turn has a copy.
const MOST_SHARING: usize = 1024;

/// How old a child may be that was under way when the target's gate was closed. An older one may be traced by somebody.
const UNDER_WAY: Duration = Duration::from_millis(200);

/// How long a child whose gate was closed is looked at again. From 3.7 to 3.12 the child of an `os.fork()` saves its raw
/// table first and puts it back a moment later (`_PyRuntimeState_ReInitThreads`): open, if it was closed in between.
const SETTLING: Duration = Duration::from_secs(2);

/// Children that are looked at again at the same time; the oldest give way.
const MOST_SETTLING: usize = 256;

/// The processes that are traced together. Their gates are their own sessions' alone.
#[derive(Clone, Debug, Default)]
pub struct Followed(Arc<Mutex<HashSet<u32>>>);

impl Followed {
    /// Adds `pid`, before it is traced.
    pub fn add(&self, pid: u32) {
        self.with(|pids| pids.insert(pid));
    }

    /// Takes `pid` out, once it is not traced any more.
    pub fn remove(&self, pid: u32) {
        self.with(|pids| pids.remove(&pid));
    }

    /// Does something with the set, which nobody changes meanwhile.
    fn with<T>(&self, action: impl FnOnce(&mut HashSet<u32>) -> T) -> T {
        action(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A process that the target or one of its descendants made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forked {
    /// Its pid.
    pub pid: u32,
    /// Whether it shares the memory of the process that made it, until it runs another program.
    pub shares_memory: bool,
}

/// The children of one target.
#[derive(Debug, Default)]
pub(super) struct Children {
    noticed: bool,
    followed: Option<Followed>,
    forked: Vec<Forked>,
    /// Those that are noticed for their own children's sake, where descendants are followed.
    noticed_on: Vec<Fork>,
    counts: ChildCounts,
    /// Those whose gate could not be closed so far.
    open: Vec<Fork>,
    /// The pids of those whose gate was closed lately, oldest first, and when.
    settling: std::collections::VecDeque<(u32, Instant)>,
    /// Those that share the target's memory, oldest first.
    sharing: std::collections::VecDeque<Fork>,
    malformed: u64,
}

/// How the kernel side tells `target` and its children from other processes; all zero where it cannot.
pub(super) fn how_to_notice(kernel: &Kernel, target: &Process) -> Forks {
    let Some((offsets, own)) = kernel.pids.zip(target.own_pid().ok().flatten()) else {
        return Forks::default();
    };
    Forks {
        tgid: offsets.tgid,
        thread_pid: offsets.thread_pid,
        level: offsets.level,
        numbers: offsets.numbers,
        number_bytes: offsets.number_bytes,
        device: kernel_device(own.device),
        inode: own.inode,
        pid: u64::from(own.pid),
        depth: u64::from(own.depth),
    }
}

/// A device number as the kernel has it, from what `stat` tells.
fn kernel_device(device: u64) -> u64 {
    u64::from(rustix::fs::major(device)) << 20 | u64::from(rustix::fs::minor(device))
}

impl Children {
    /// Notices children from now on, before the gate is opened.
    pub(super) fn watch(
        programs: &mut Programs,
        forks: Forks,
        options: &Options,
        warnings: &mut Vec<String>,
    ) -> Self {
        let refused = match forks.inode {
            0 => Some("the kernel does not say where it keeps pids".to_owned()),
            _ => programs.watch_forks().err().map(|error| error.to_string()),
        };
        if let Some(cause) = &refused {
            warnings.push(format!(
                "children that the target forks meanwhile are not noticed ({cause}): they go on with an open gate, a \
                 little slower, until `leaktrace doctor` closes it"
            ));
        }
        let followed = options.followed.clone();
        Self { noticed: refused.is_none(), followed, ..Self::default() }
    }

    /// Closes the gates of the children that were made since the last look. `gate` is the target's.
    pub(super) fn look(&mut self, programs: &mut Programs, gate: &Gate) {
        if !self.noticed {
            return;
        }
        for child in std::mem::take(&mut self.open) {
            self.close(child, programs, gate);
        }
        let (forks, malformed) = programs.forks();
        self.malformed += malformed;
        for fork in forks {
            let shares_memory = fork.shares_memory();
            if shares_memory {
                self.remember(fork, programs);
            } else {
                self.counts.seen += 1;
                self.close(fork, programs, gate);
            }
            if self.followed.is_some() {
                self.forked.push(Forked { pid: fork.pid, shares_memory });
            }
        }
    }

    /// The processes that were made since this was asked last, where descendants are followed.
    pub(super) fn forked(&mut self) -> Vec<Forked> {
        std::mem::take(&mut self.forked)
    }

    /// Looks again at children whose gate was closed lately, and forgets descendants that are gone, or whose own
    /// sessions notice what they make.
    pub(super) fn tick(&mut self, programs: &mut Programs, gate: &Gate) {
        self.settle(gate);
        let Some(followed) = &self.followed else { return };
        let needed = |child: &Fork| {
            followed.with(|pids| !pids.contains(&child.pid))
                && Process::open(child.pid).is_ok_and(|process| process.is_alive())
        };
        for child in self.noticed_on.extract_if(.., |child| !needed(child)) {
            programs.forget_descendant(child.tgid);
        }
    }

    fn settle(&mut self, gate: &Gate) {
        let followed = self.followed.as_ref();
        self.settling.retain(|&(pid, closed_at)| {
            let is_there = !matches!(close_copy(pid, gate, followed), Copy::Gone);
            is_there && closed_at.elapsed() < SETTLING
        });
    }

    /// As [`Self::look`], once the target's own gate is closed: what shares its memory can do no harm any more, so that
    /// those of its children are looked at as well that are not noticed yet.
    pub(super) fn close_all(&mut self, programs: &mut Programs, gate: &Gate, target: &Process) {
        self.look(programs, gate);
        self.settle(gate);
        for pid in target.children().unwrap_or_default() {
            // Its record may still be on the way. One that is gone, or is no copy, has nothing to close.
            if Process::open(pid).is_ok_and(|child| age(&child) < UNDER_WAY) {
                close_copy(pid, gate, self.followed.as_ref());
            }
        }
    }

    fn close(&mut self, child: Fork, programs: &mut Programs, gate: &Gate) {
        match close_copy(child.pid, gate, self.followed.as_ref()) {
            Copy::Closed => {
                self.counts.closed += 1;
                self.settling.push_back((child.pid, Instant::now()));
                if self.settling.len() > MOST_SETTLING {
                    self.settling.pop_front();
                }
                if self.followed.is_some() {
                    self.noticed_on.push(child);
                    return;
                }
            }
            Copy::Gone => self.counts.gone += 1,
            Copy::Open => return self.open.push(child),
        }
        programs.forget_descendant(child.tgid);
    }

    fn remember(&mut self, child: Fork, programs: &mut Programs) {
        if self.sharing.len() == MOST_SHARING
            && let Some(oldest) = self.sharing.pop_front()
        {
            programs.forget_descendant(oldest.tgid);
        }
        self.sharing.push_back(child);
    }

    /// What was seen; `None` where children are not noticed.
    pub(super) fn counts(&self) -> Option<ChildCounts> {
        self.noticed.then_some(self.counts)
    }

    /// What the user should know in the end.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if !self.open.is_empty() {
            let pids: Vec<String> = self.open.iter().map(|child| child.pid.to_string()).collect();
            warnings.push(format!(
                "the gate of {} forked children could not be closed (process {}): they go on a little slower until \
                 `leaktrace doctor --pid` closes it",
                pids.len(),
                pids.join(", ")
            ));
        }
        if self.malformed > 0 {
            let count = self.malformed;
            warnings.push(format!("{count} records of forked children could not be read"));
        }
        warnings
    }
}

/// What became of the gate in a copy of the target's memory.
enum Copy {
    /// It is closed.
    Closed,
    /// The process has ended, or runs another program.
    Gone,
    /// It could not be closed.
    Open,
}

fn close_copy(pid: u32, gate: &Gate, followed: Option<&Followed>) -> Copy {
    let Some(followed) = followed else { return close_unless_gone(pid, gate) };
    // Whoever is about to trace it waits meanwhile.
    followed
        .with(|pids| if pids.contains(&pid) { Copy::Closed } else { close_unless_gone(pid, gate) })
}

fn close_unless_gone(pid: u32, gate: &Gate) -> Copy {
    let memory = match ProcessMemory::open(pid) {
        Ok(memory) => memory,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => return Copy::Open,
        Err(_) => return Copy::Gone,
    };
    let copy = gate.in_copy(memory);
    match copy.close() {
        Ok(_) if copy.is_closed() => Copy::Closed,
        Ok(_) => Copy::Open,
        Err(_) => Copy::Gone,
    }
}

/// Whether `pid`, a child of the one whose open gate this is, may share its memory: its slots are open as well.
pub(super) fn may_share(pid: u32, gate: &Gate) -> bool {
    let Ok(memory) = ProcessMemory::open(pid) else { return false };
    let is_open = |slot: &crate::gate::Slot| memory.read_u64(slot.address()) == Ok(slot.open);
    !gate.slots().is_empty() && gate.slots().iter().all(is_open)
}
