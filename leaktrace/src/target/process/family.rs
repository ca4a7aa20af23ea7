//! A process among others: its children, and its pid where it lives.

use std::ffi::OsStr;

use procfs::process::StatFlags;

use super::{Process, ProcessError};

/// A process's pid in its own pid namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnPid {
    /// Device of the namespace's file.
    pub device: u64,
    /// Its inode.
    pub inode: u64,
    /// The pid.
    pub pid: u32,
    /// How many pid namespaces lie between the one that `/proc` shows and this one.
    pub depth: u32,
}

impl Process {
    /// Its pid in its own pid namespace; `None` where the kernel does not say.
    ///
    /// # Errors
    /// [`ProcessError`] where the process is gone or may not be read.
    pub fn own_pid(&self) -> Result<Option<OwnPid>, ProcessError> {
        let namespaces = self.ask(self.entry.namespaces())?.0;
        let pids = self.ask(self.entry.status())?.nspid.unwrap_or_default();
        let namespace = namespaces.get(OsStr::new("pid"));
        let pid = pids.last().and_then(|&pid| u32::try_from(pid).ok());
        let depth = u32::try_from(pids.len()).unwrap_or(0).checked_sub(1);
        Ok(namespace.zip(pid).zip(depth).map(|((namespace, pid), depth)| OwnPid {
            device: namespace.device_id,
            inode: namespace.identifier,
            pid,
            depth,
        }))
    }

    /// Whether it runs the program of the process that forked it, having run no other: it may even share its memory.
    ///
    /// # Errors
    /// [`ProcessError`] where the process is gone or may not be read.
    pub fn runs_its_parents_program(&self) -> Result<bool, ProcessError> {
        let flags = self.ask(self.entry.stat())?.flags;
        Ok(flags & StatFlags::PF_FORKNOEXEC.bits() != 0)
    }

    /// The processes that it is the parent of, as far as the kernel says.
    ///
    /// # Errors
    /// [`ProcessError`] where the process is gone or may not be read.
    pub fn children(&self) -> Result<Vec<u32>, ProcessError> {
        let tasks = self.ask(self.entry.tasks())?;
        // A thread that ends meanwhile leaves its children to another one of the process.
        let children = tasks.filter_map(|task| task.ok()?.children().ok());
        Ok(children.flatten().collect())
    }
}
