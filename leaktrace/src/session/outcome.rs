//! What a session has come to, and how it is getting on.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use leaktrace_common::counter::Counter;

use super::{Budget, Target};
use crate::aggregator::{Aggregator, Snapshot, Totals};
use crate::cpython::code::Reason;
use crate::gate::Gate;
use crate::gate::point::Kind;
use crate::kernel::Programs;
use crate::kernel::lock::Lock;
use crate::report::{End, Function, HeapInfo, TypeShare};
use crate::target::process::Process;

/// What a session has come to.
pub struct Traced {
    /// The process that was traced.
    pub target: Target,
    /// When the tracing began.
    pub started_at: SystemTime,
    /// How long it lasted.
    pub duration: Duration,
    /// How it ended.
    pub end: End,
    /// How the calls of `obj.malloc` were seen; `None` without a gate.
    pub gate: Option<Kind>,
    /// Percent of the table slots whose calls were all seen; `None` where that cannot be told.
    pub coverage_pct: Option<f64>,
    /// How the calls of each function of the tables were seen.
    pub functions: Vec<Function>,
    /// Percent of the target's time that went into probes.
    pub overhead_pct: Option<f64>,
    /// How it kept to its budget; `None` where it had none.
    pub budget: Option<Budget>,
    /// The numbers per site.
    pub snapshot: Snapshot,
    /// What the live blocks of each site are, in the same order, as far as that could be read; empty where the target was
    /// gone.
    pub types: Vec<Option<Vec<TypeShare>>>,
    /// The kernel side's counters that are not zero.
    pub counters: BTreeMap<Counter, u64>,
    /// Frames that could not be named, by the reason.
    pub unresolved: BTreeMap<Reason, u64>,
    /// What else is known of the process, from when the tracing began.
    pub about: About,
    /// The memory limit of the target's cgroup, in bytes.
    pub limit_bytes: Option<u64>,
    /// Resident bytes of the target when the tracing began.
    pub rss_start: Option<u64>,
    /// Resident bytes of the target when it ended, or when it was last seen.
    pub rss_end: Option<u64>,
    /// What the heap did, and whether what was seen explains it.
    pub heap: HeapInfo,
    /// What was seen of its children; `None` where they are not noticed.
    pub children: Option<ChildCounts>,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// The probes, which nothing hits any more, the gate, and the lock on the target. Dropping them takes the probes off,
    /// at some 0.1 s each, for which the report need not wait; then the gate is looked at once more, and closed where
    /// somebody has put back an open table meanwhile.
    pub probes: (Programs, Gate, Lock),
}

/// What the target says of itself, kept for when it is gone.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// Path of its program.
    pub exe: Option<String>,
    /// Its arguments.
    pub cmdline: Vec<String>,
    /// Name of the host.
    pub hostname: Option<String>,
    /// The cgroup that accounts for its memory.
    pub cgroup: Option<String>,
}

impl About {
    /// What `process` says.
    pub(super) fn of(process: &Process) -> Self {
        let hostname = rustix::system::uname().nodename().to_str().ok().map(str::to_owned);
        Self {
            exe: process.exe().ok().map(|exe| exe.to_string_lossy().into_owned()),
            cmdline: process.cmdline().unwrap_or_default(),
            hostname,
            cgroup: process.cgroup().ok().flatten(),
        }
    }
}

/// The processes that a target made while it was traced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChildCounts {
    /// Those with a copy of its memory, and so of its gate.
    pub seen: u64,
    /// Of these, those whose gate is closed.
    pub closed: u64,
    /// Of these, those that ended or ran another program first.
    pub gone: u64,
}

/// How a session is getting on.
#[derive(Clone, Copy)]
pub struct Progress<'a> {
    /// Since the tracing began.
    pub elapsed: Duration,
    /// What was seen so far.
    pub totals: Totals,
    /// All that is known.
    pub aggregator: &'a Aggregator,
}
