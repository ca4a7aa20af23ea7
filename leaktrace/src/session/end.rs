//! Notices that the target has ended, or has become another program.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::SessionError;
use super::recognise::Target;
use crate::report::End;
use crate::target::memory::ReadMemory as _;
use crate::target::process::ProcessError;

/// Looks after the target's life.
#[derive(Debug)]
pub(super) struct Watch {
    pidfd: OwnedFd,
    unreadable: u32,
    last_rss: Option<u64>,
    /// Looks so far; the resident bytes are read at some.
    looks: u32,
}

/// Looks from one reading of the resident bytes to the next.
const RSS_EVERY: u32 = 5;

/// Looks in a row that may find the memory gone and the process still there, before that is taken for an `exec`: a
/// process that ends gives up its memory a moment before it is gone.
const PATIENCE: u32 = 3;

/// How long to wait between two looks at the very end.
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

impl Watch {
    /// Watches `pid`.
    ///
    /// # Errors
    /// It is gone.
    pub(super) fn new(pid: u32) -> Result<Self, SessionError> {
        let gone = || SessionError::Process(ProcessError::NoSuchProcess { pid });
        let raw = Pid::from_raw(pid.cast_signed()).ok_or_else(gone)?;
        let pidfd = pidfd_open(raw, PidfdFlags::empty()).map_err(|_error| gone())?;
        Ok(Self { pidfd, unreadable: 0, last_rss: None, looks: 0 })
    }

    /// Whether it has ended.
    pub(super) fn look(&mut self, target: &Target) -> Option<End> {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        match poll(&mut fds, Some(&rustix::time::Timespec::default())) {
            Ok(0) => {}
            Ok(_) => return Some(End::TargetExited),
            Err(rustix::io::Errno::INTR) => return None,
            Err(_) => return Some(End::Lost),
        }
        if self.can_read(target) {
            self.unreadable = 0;
            if self.looks.is_multiple_of(RSS_EVERY) {
                self.last_rss = self.rss(target);
            }
            self.looks = self.looks.wrapping_add(1);
            return None;
        }
        self.unreadable += 1;
        (self.unreadable > PATIENCE).then_some(End::TargetExec)
    }

    fn rss(&self, target: &Target) -> Option<u64> {
        target.process.rss().ok().filter(|&rss| rss > 0).or(self.last_rss)
    }

    /// How a session really ended that is about to end in the way of `end`: a target that has just become another
    /// program would be noticed too late.
    pub(super) fn how_it_ended(&mut self, end: End, target: &Target) -> End {
        let mut end = end;
        for _ in 0..=PATIENCE {
            if self.can_read(target) || matches!(end, End::TargetExited | End::TargetExec) {
                break;
            }
            end = self.look(target).unwrap_or(end);
            std::thread::sleep(BETWEEN_LOOKS);
        }
        end
    }

    /// Whether the target's memory is there.
    pub(super) fn can_read(&self, target: &Target) -> bool {
        target.memory.read_u64(target.tables.raw.address).is_ok()
    }

    /// Resident bytes when it was last seen alive, or half a second before.
    pub(super) fn last_rss(&self) -> Option<u64> {
        self.last_rss
    }
}
