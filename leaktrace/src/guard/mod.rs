//! The guard: a process beside leaktrace that closes a gate which is open for too long, and does nothing else.
//!
//! Leaktrace sets a timer before it opens the gate, and unsets it once the gate is closed. If it is stopped, throttled
//! or dead by then, the timer wakes the guard, which closes the gate, and looks again ten times a second for as long
//! as the timer is set: whatever leaktrace was about to write when it was stopped cannot stay. The guard runs before all
//! ordinary processes of its processor. Where leaktrace has ended it closes the gate and ends as well.

#![forbid(unsafe_code)]

mod closer;

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use crate::cli::GUARD;
use crate::gate::Slot;

pub use closer::run;

/// How often a gate is looked at again for as long as the timer is set.
const AGAIN_NS: i64 = 100_000_000;

/// How long it may take to start.
const STARTING: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };

/// The guard of one target's gate.
#[derive(Debug)]
pub struct Guard {
    child: Child,
    timer: OwnedFd,
    closings: OwnedFd,
}

impl Guard {
    /// Starts the guard of `slots` in the process `pid`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(pid: u32, slots: &[Slot]) -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let closings = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        // What it inherits are its standard input and output alone.
        let child = Command::new("/proc/self/exe")
            .arg0("leaktrace")
            // Ctrl-C and Ctrl-Z are for leaktrace alone.
            .process_group(0)
            .args([GUARD, &pid.to_string(), &std::process::id().to_string()])
            .args(slots.iter().map(closer::to_argument))
            .stdin(Stdio::from(timer.try_clone()?))
            .stdout(Stdio::from(closings.try_clone()?))
            .spawn()?;
        let guard = Self { child, timer, closings };
        guard.wait_until_ready()?;
        Ok(guard)
    }

    /// Waits for its first word: from then on it can close the gate.
    fn wait_until_ready(&self) -> io::Result<()> {
        let mut events = [PollFd::new(&self.closings, PollFlags::IN)];
        let ready = poll(&mut events, Some(&STARTING))?;
        if ready == 0 || self.closings() == 0 {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the guard did not start"));
        }
        Ok(())
    }

    /// From now on the gate is closed at `deadline_ns` of `CLOCK_MONOTONIC`.
    ///
    /// # Errors
    /// The timer cannot be set: the gate must not be opened.
    pub fn arm(&self, deadline_ns: u64) -> io::Result<()> {
        self.set(AGAIN_NS, deadline_ns.max(1))
    }

    /// The gate is closed.
    ///
    /// # Errors
    /// The timer cannot be set.
    pub fn disarm(&self) -> io::Result<()> {
        self.set(0, 0)
    }

    fn set(&self, interval_ns: i64, deadline_ns: u64) -> io::Result<()> {
        let timespec =
            |ns: i64| Timespec { tv_sec: ns / 1_000_000_000, tv_nsec: ns % 1_000_000_000 };
        let it_interval = timespec(interval_ns);
        let it_value = timespec(deadline_ns.cast_signed());
        let times = Itimerspec { it_interval, it_value };
        timerfd_settime(self.timer.as_fd(), TimerfdTimerFlags::ABSTIME, &times)?;
        Ok(())
    }

    /// How often it found the gate open and closed it, since this was asked last.
    pub fn closings(&self) -> u64 {
        let mut count = [0; 8];
        match rustix::io::read(&self.closings, &mut count) {
            Ok(8) => u64::from_ne_bytes(count),
            // It was not needed.
            _ => 0,
        }
    }

    /// Whether it is still there: without it no gate may be opened.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // By now the gate is closed, or the guard has seen to it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
