//! What userspace fixes before the BPF programs are loaded. It lies in frozen read-only data, so the verifier sees
//! constants and drops the branches of other versions.

use crate::layout::{FrameLayout, PymallocLayout, ThreadLayout};

/// The read-only configuration of the programs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Thread group to trace, as the initial pid namespace numbers it; 0 leaves it to the kernel's own filter, which
    /// goes by address space.
    pub tgid: u64,
    /// Offset of `thread.fsbase` in the kernel's `task_struct`, from its BTF.
    pub fsbase: u64,
    /// 1 where whatever is asked of the obj and mem tables is recorded there, by return probes, and what their functions
    /// in turn ask of the raw table is not: where hooks stand in them (debug hooks, tracemalloc), where pymalloc does
    /// not serve them, or where `raw.malloc` cannot be probed.
    pub record_at_obj: u64,
    /// Whether hits are counted by channel, and close a gate that is open for too long: one of [`windows`].
    pub windows: u64,
    /// The thread state.
    pub thread: ThreadLayout,
    /// The frames.
    pub frame: FrameLayout,
    /// The pools.
    pub pymalloc: PymallocLayout,
    /// The forks.
    pub forks: Forks,
}

/// Values of [`Config::windows`].
pub mod windows {
    /// The gate is open all the time.
    pub const NONE: u64 = 0;
    /// Hits are counted; where the kernel forbids programs to write into a process, userspace alone closes the gate.
    pub const COUNTED: u64 = 1;
    /// Hits are counted, and close the gate.
    pub const CLOSED: u64 = 2;
}

/// How the target and its children are told from other processes when a process is made: offsets are the kernel's own,
/// from its BTF.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forks {
    /// Offset of `tgid` in `task_struct`.
    pub tgid: u64,
    /// Offset of `thread_pid` there.
    pub thread_pid: u64,
    /// Offset of `level` in `struct pid`.
    pub level: u64,
    /// Offset of `numbers` there.
    pub numbers: u64,
    /// Bytes of one of these numbers, which begins with the pid.
    pub number_bytes: u64,
    /// Device of the target's pid namespace, as the kernel encodes it.
    pub device: u64,
    /// Inode of that namespace; 0 where forks are not noticed.
    pub inode: u64,
    /// The target's pid in it.
    pub pid: u64,
    /// How many pid namespaces lie between the one whose pids userspace sees and the target's own.
    pub depth: u64,
}

const _: () = assert!(size_of::<Config>() == 8 * (4 + 8 + 9 + 8 + 9));

// SAFETY: `Config` is `repr(C)` and made of `u64` alone: no padding, no pointer, every bit pattern is valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Config {}

/// Who is traced, in terms that every namespace agrees on. Two leaktraces with the same identity have the same target.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TargetIdentity {
    /// Inode of the target's own pid namespace.
    pub pid_namespace: u64,
    /// Its pid there.
    pub pid: u64,
    /// When it started, in clock ticks after boot: tells a reused pid from the first one.
    pub start_ticks: u64,
}

// SAFETY: `TargetIdentity` is `repr(C)` and made of `u64` alone: no padding, no pointer, every bit pattern is valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for TargetIdentity {}

/// Indices into the map of switches, which userspace changes while the programs run.
pub mod switch {
    /// 1 once predictions have proved themselves: blocks are then predicted on entry, without a return probe.
    pub const TRUST_PREDICTION: u32 = 0;
    /// How many switches there are.
    pub const COUNT: u32 = 1;
}
