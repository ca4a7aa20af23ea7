//! From a pid to what is known of the process: whether it can be watched, what runs in it, what limits it.
//!
//! `/proc/PID` is opened once: what is read later is the same process's, or an error, even where the pid is reused.

#![forbid(unsafe_code)]

mod cgroup;
mod family;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

pub use family::OwnPid;

use procfs::process::StatFlags;
use procfs::{ProcError, ProcResult, WithCurrentSystemInfo as _};

/// Why a process cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// There is no such process.
    #[error("cannot attach to `{pid}`: there is no such process; check the pid with `ps -p {pid}`")]
    NoSuchProcess {
        /// The pid that was asked for.
        pid: u32,
    },
    /// The process has ended and waits for its parent.
    #[error(
        "cannot attach to `{pid}`: the process has ended (it is a zombie); give the pid of one that runs"
    )]
    Zombie {
        /// The pid that was asked for.
        pid: u32,
    },
    /// It is a thread of the kernel.
    #[error("cannot attach to `{pid}`: it is a kernel thread; give the pid of a Python process")]
    KernelThread {
        /// The pid that was asked for.
        pid: u32,
    },
    /// It is a thread of another process.
    #[error("cannot attach to `{pid}`: it is a thread of process `{process}`; give that pid")]
    Thread {
        /// The pid that was asked for.
        pid: u32,
        /// The process that it belongs to.
        process: u32,
    },
    /// `/proc` may not be read.
    #[error("cannot read `/proc/{pid}`: permission denied; run as root")]
    Permission {
        /// The pid that was asked for.
        pid: u32,
    },
    /// Something under `/proc/PID` cannot be read.
    #[error("cannot read `/proc/{pid}`: {cause}; check that /proc is mounted")]
    Unreadable {
        /// The pid that was asked for.
        pid: u32,
        /// What went wrong.
        cause: String,
    },
}

impl ProcessError {
    fn new(pid: u32, cause: ProcError) -> Self {
        match cause {
            ProcError::NotFound(_) => Self::NoSuchProcess { pid },
            ProcError::PermissionDenied(_) => Self::Permission { pid },
            // A process that ends while it is read answers ESRCH.
            ProcError::Io(error, _) if error.raw_os_error() == Some(ESRCH) => {
                Self::NoSuchProcess { pid }
            }
            other => Self::Unreadable { pid, cause: other.to_string() },
        }
    }
}

const ESRCH: i32 = rustix::io::Errno::SRCH.raw_os_error();

/// What names a process for as long as its pid namespace exists, from inside a container and from outside alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Inode of the process's pid namespace.
    pub namespace: u64,
    /// Its pid there.
    pub pid: u32,
    /// When it started, in clock ticks since boot.
    pub started_ticks: u64,
}

/// A seccomp mode, `Seccomp:` of `/proc/PID/status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seccomp {
    /// No filter.
    Disabled,
    /// Only `read`, `write`, `exit` and `sigreturn` are allowed.
    Strict,
    /// System calls pass a filter.
    Filter,
}

impl Seccomp {
    /// Whether some system calls may be refused.
    #[must_use]
    pub fn filters(self) -> bool {
        self != Self::Disabled
    }
}

/// What the kernel's list of processes says of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name of its main thread, of at most 15 bytes.
    pub name: String,
    /// Its parent; 0 where that is out of sight.
    pub parent: u32,
    /// Its user.
    pub user: u32,
    /// Resident bytes.
    pub rss: u64,
}

/// A process.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    entry: procfs::process::Process,
    started_ticks: u64,
}

impl Process {
    /// Opens `pid`.
    ///
    /// # Errors
    /// [`ProcessError`] where it does not exist, has ended, or is no process of its own.
    pub fn open(pid: u32) -> Result<Self, ProcessError> {
        let fail = |cause| ProcessError::new(pid, cause);
        let number =
            i32::try_from(pid).map_err(|_too_large| ProcessError::NoSuchProcess { pid })?;
        let entry = procfs::process::Process::new(number).map_err(fail)?;
        let stat = entry.stat().map_err(fail)?;
        if matches!(stat.state, 'Z' | 'X' | 'x') {
            return Err(ProcessError::Zombie { pid });
        }
        if stat.flags & StatFlags::PF_KTHREAD.bits() != 0 {
            return Err(ProcessError::KernelThread { pid });
        }
        let process = entry.status().map_err(fail)?.tgid;
        match u32::try_from(process) {
            Ok(process) if process != pid => Err(ProcessError::Thread { pid, process }),
            _ => Ok(Self { pid, entry, started_ticks: stat.starttime }),
        }
    }

    /// The pid it was opened by.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// When it started, in clock ticks since boot.
    #[must_use]
    pub const fn started_ticks(&self) -> u64 {
        self.started_ticks
    }

    /// Whether it still runs: neither gone nor a zombie.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.entry.stat().is_ok_and(|stat| !matches!(stat.state, 'Z' | 'X' | 'x'))
    }

    /// The path of its program, as seen from here; ` (deleted)` follows where the file was replaced or removed.
    ///
    /// # Errors
    /// [`ProcessError`] where the process is gone or may not be read.
    pub fn exe(&self) -> Result<PathBuf, ProcessError> {
        self.ask(self.entry.exe())
    }

    /// Its arguments; bytes that are not UTF-8 are replaced.
    ///
    /// # Errors
    /// [`ProcessError`] where the process is gone or may not be read.
    pub fn cmdline(&self) -> Result<Vec<String>, ProcessError> {
        let bytes = self.ask(self.read("cmdline"))?;
        Ok(split_arguments(&bytes))
    }

    /// What the kernel's list says of it.
    ///
    /// # Errors
    /// [`ProcessError`] where the process is gone or may not be read.
    pub fn entry(&self) -> Result<Entry, ProcessError> {
        let stat = self.ask(self.entry.stat())?;
        Ok(Entry {
            rss: stat.rss_bytes().get(),
            name: stat.comm,
            parent: u32::try_from(stat.ppid).unwrap_or(0),
            user: self.ask(self.entry.uid())?,
        })
    }

    /// Resident memory in bytes.
    ///
    /// # Errors
    /// [`ProcessError`] where the process is gone or may not be read.
    pub fn rss(&self) -> Result<u64, ProcessError> {
        Ok(self.ask(self.entry.stat())?.rss_bytes().get())
    }

    /// Whether system calls of any thread of the process are filtered; `None` where the kernel does not say. (A thread
    /// may put itself under a filter alone.)
    ///
    /// # Errors
    /// [`ProcessError`] where the process is gone or may not be read.
    pub fn seccomp(&self) -> Result<Option<Seccomp>, ProcessError> {
        let of_threads = self.ask(self.entry.tasks())?.filter_map(|task| task.ok()?.status().ok());
        Ok(of_threads.filter_map(|status| status.seccomp).max().map(|mode| match mode {
            0 => Seccomp::Disabled,
            1 => Seccomp::Strict,
            _ => Seccomp::Filter,
        }))
    }

    /// Whether a thread of the process runs with a shadow stack, as far as the kernel says
    /// (`x86_Thread_features` of `/proc/PID/status`, 6.6 and newer).
    #[must_use]
    pub fn has_shadow_stack(&self) -> bool {
        self.read("status").is_ok_and(|status| {
            String::from_utf8_lossy(&status).lines().any(|line| {
                line.strip_prefix("x86_Thread_features:")
                    .is_some_and(|features| features.split_whitespace().any(|name| name == "shstk"))
            })
        })
    }

    /// What names this process everywhere.
    ///
    /// # Errors
    /// [`ProcessError`] where the process is gone or may not be read.
    pub fn identity(&self) -> Result<Identity, ProcessError> {
        let namespaces = self.ask(self.entry.namespaces())?.0;
        let namespace =
            namespaces.get(std::ffi::OsStr::new("pid")).map_or(0, |namespace| namespace.identifier);
        let innermost = self.ask(self.entry.status())?.nspid.and_then(|pids| pids.last().copied());
        let pid = innermost.and_then(|pid| u32::try_from(pid).ok()).unwrap_or(self.pid);
        Ok(Identity { namespace, pid, started_ticks: self.started_ticks })
    }

    /// The path of the cgroup that accounts for its memory, as seen from here; `None` where there is none.
    ///
    /// # Errors
    /// [`ProcessError`] where the process is gone or may not be read.
    pub fn cgroup(&self) -> Result<Option<String>, ProcessError> {
        Ok(cgroup::path(&self.cgroups()?))
    }

    /// The bytes of memory that its cgroup, or one above it, allows; `None` where there is no limit, or none that can
    /// be read from here.
    ///
    /// # Errors
    /// [`ProcessError`] where the process is gone or may not be read.
    pub fn memory_limit(&self) -> Result<Option<u64>, ProcessError> {
        Ok(cgroup::memory_limit(&self.cgroups()?, &cgroup::mounts()))
    }

    /// The text of `/proc/PID/cgroup`: a line for each hierarchy.
    ///
    /// # Errors
    /// [`ProcessError`] where the process is gone or may not be read.
    pub fn cgroups(&self) -> Result<String, ProcessError> {
        Ok(String::from_utf8_lossy(&self.ask(self.read("cgroup"))?).into_owned())
    }

    fn read(&self, name: &str) -> ProcResult<Vec<u8>> {
        use std::io::Read as _;
        let mut bytes = Vec::new();
        self.entry.open_relative(name)?.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn ask<T>(&self, answer: ProcResult<T>) -> Result<T, ProcessError> {
        answer.map_err(|cause| ProcessError::new(self.pid, cause))
    }
}

/// Bytes of `cmdline` and `cgroup` that are read: the kernel allows arguments of up to 6 MiB.
const MAX_FILE_BYTES: u64 = 8 << 20;

/// The arguments in the bytes of `/proc/PID/cmdline`: each ends with a NUL, unless the process overwrote them.
fn split_arguments(bytes: &[u8]) -> Vec<String> {
    if bytes.is_empty() {
        return Vec::new();
    }
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    bytes
        .split(|&byte| byte == 0)
        .map(|argument| String::from_utf8_lossy(argument).into_owned())
        .collect()
}
