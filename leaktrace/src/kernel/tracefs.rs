//! tracefs, as a mount that nobody else sees: it is in no folder, and is gone with its descriptor.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{Mode, OFlags, open, openat};
use rustix::io::{Errno, read, write};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// Where it is mounted on most hosts: for those who must not mount it.
const MOUNTED: &str = "/sys/kernel/tracing";

/// The file in which uprobe events are defined.
const EVENTS: &str = "uprobe_events";

/// An open tracefs.
#[derive(Debug)]
pub(super) struct Tracefs(OwnedFd);

impl Tracefs {
    /// Mounts it; where that is not permitted, takes the one that is mounted.
    ///
    /// # Errors
    /// This kernel has none, or it must not be used.
    pub(super) fn open() -> io::Result<Self> {
        let mounted = || open(MOUNTED, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let folder = mount().or_else(|_refused| mounted())?;
        // A folder that is there may still be an empty one.
        openat(&folder, EVENTS, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self(folder))
    }

    /// Defines a uprobe event or removes one, in the words of `Documentation/trace/uprobetracer.rst`.
    ///
    /// # Errors
    /// The kernel refuses it. One that is in use is not removed (`EBUSY`).
    pub(super) fn tell(&self, words: &str) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC;
        let file = openat(&self.0, EVENTS, flags, Mode::empty())?;
        let written = write(&file, format!("{words}\n").as_bytes())?;
        if written > words.len() { Ok(()) } else { Err(Errno::IO.into()) }
    }

    /// The uprobe events that are defined, one a line.
    ///
    /// # Errors
    /// They cannot be read.
    pub(super) fn events(&self) -> io::Result<String> {
        self.read(EVENTS)
    }

    /// What perf calls the event `name` of `group`.
    ///
    /// # Errors
    /// There is no such event.
    pub(super) fn id(&self, group: &str, name: &str) -> io::Result<u64> {
        let text = self.read(&format!("events/{group}/{name}/id"))?;
        text.trim().parse().map_err(|_not_a_number| Errno::INVAL.into())
    }

    fn read(&self, path: &str) -> io::Result<String> {
        let file = openat(&self.0, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let (mut text, mut piece) = (Vec::new(), [0; 4096]);
        loop {
            match read(&file, &mut piece)? {
                0 => return Ok(String::from_utf8_lossy(&text).into_owned()),
                n => text.extend_from_slice(&piece[..n]),
            }
        }
    }
}

fn mount() -> rustix::io::Result<OwnedFd> {
    let context = fsopen("tracefs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(context.as_fd())?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}
