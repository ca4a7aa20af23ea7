//! The kernel side: what it can do, the BPF programs in it, their records and counters.
//!
//! The only module that names aya.

mod btf;
pub mod calibrate;
pub mod features;
mod forks;
pub mod lock;
pub mod priority;
mod probe;
pub mod programs;
mod ring;
mod tracefs;
pub mod uprobe_events;
mod windows;

pub use btf::PidOffsets;
pub use probe::Probe;
pub use programs::{Programs, Runs};
pub use ring::{Drained, Mark};
pub use windows::Windows;

/// Why the kernel side cannot do its part.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// Not this architecture.
    #[error("this machine is `{0}`: leaktrace runs on x86-64 only")]
    Architecture(&'static str),
    /// The kernel is too old.
    #[error("the kernel is {found}: leaktrace needs Linux 5.10 or newer")]
    TooOld {
        /// Its release.
        found: String,
    },
    /// Something that cannot be read out of `/proc` or `/sys`.
    #[error("cannot read `{path}`: {cause}")]
    Read {
        /// What was read.
        path: &'static str,
        /// Why not.
        cause: std::io::Error,
    },
    /// No BTF.
    #[error(
        "the kernel has no BTF in `/sys/kernel/btf/vmlinux` ({0}): it must be built with CONFIG_DEBUG_INFO_BTF"
    )]
    NoBtf(String),
    /// No uprobes.
    #[error(
        "the kernel has no uprobes (`/sys/bus/event_source/devices/uprobe` is missing): it must be built with CONFIG_UPROBE_EVENTS"
    )]
    NoUprobes,
    /// Missing privileges.
    #[error("not permitted: leaktrace lacks {0}; run it with sudo")]
    Privileges(String),
    /// Kernel lockdown.
    #[error(
        "the kernel is locked down in mode `confidentiality`, which forbids reading memory from BPF: boot without lockdown=confidentiality"
    )]
    Lockdown,
    /// The object was refused.
    #[error("the kernel refused the BPF programs: {0}")]
    Load(String),
    /// A probe was refused.
    #[error("cannot attach `{probe}` at {file}+{offset:#x}: {cause}")]
    Attach {
        /// The program.
        probe: &'static str,
        /// The file that holds the instruction.
        file: String,
        /// Its offset in there.
        offset: u64,
        /// Why not.
        cause: String,
    },
    /// A map operation failed.
    #[error("BPF map `{map}`: {cause}")]
    Map {
        /// The map.
        map: &'static str,
        /// Why not.
        cause: String,
    },
    /// Another leaktrace is at it.
    #[error("process {pid} is already traced by another leaktrace; wait for it to end, or stop it")]
    AlreadyTraced {
        /// The target's pid in its own pid namespace.
        pid: u64,
    },
}

/// Has the kernel measure the runs of BPF programs for as long as the descriptor is open; `None` where it cannot.
#[must_use]
pub fn measure_runs() -> Option<std::os::fd::OwnedFd> {
    aya::sys::enable_stats(aya::sys::Stats::RunTime).ok()
}
