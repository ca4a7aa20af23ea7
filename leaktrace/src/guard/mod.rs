//! The guard: a process beside leaktrace that closes a gate which is open for too long, and does nothing else.
//!
//! Leaktrace sets a timer before it opens the gate, and unsets it once the gate is closed. If it is stopped, throttled
//! or dead by then, the timer wakes the guard, which closes the gate, and looks again ten times a second for as long
//! as the timer is set: whatever leaktrace was about to write when it was stopped cannot stay. The guard runs before all
//! ordinary processes of its processor. Where leaktrace has ended it closes the gate and ends as well.
//!
//! Functions without a gate have probes of their own for each window ([`SpellProbe`]). It is the guard that puts them into
//! the target and takes them out: were they leaktrace's, nobody but leaktrace could.

#![forbid(unsafe_code)]

mod closer;
mod message;
mod spell;

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use crate::cli::GUARD;
use crate::gate::Slot;

pub use closer::run;
pub use spell::{Order, Sees, SpellProbe};

use message::Message;

/// How often a gate is looked at again for as long as the timer is set.
const AGAIN_NS: i64 = 100_000_000;

/// How long it may take to start, or to follow an order: the kernel may have to wait some hundredths of a second.
const PATIENCE: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };

/// The guard of one target's gate.
#[derive(Debug)]
pub struct Guard {
    child: Child,
    timer: OwnedFd,
    socket: OwnedFd,
    /// What it told and nobody asked for so far.
    closings: Closings,
}

/// What the guard had to close.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Closings {
    /// How often it was what a window had opened.
    pub windows: u64,
    /// How often it was raw slots that were kept open.
    pub raw: u64,
}

impl Guard {
    /// Starts the guard of `slots` in the process `pid`, and of `probes` that are put into it for windows.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(pid: u32, slots: &[Slot], probes: &[SpellProbe]) -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (socket, its) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        // What it inherits are its standard input and output alone.
        let child = Command::new("/proc/self/exe")
            .arg0("leaktrace")
            // Ctrl-C and Ctrl-Z are for leaktrace alone.
            .process_group(0)
            .args([GUARD, &pid.to_string(), &std::process::id().to_string()])
            .args(slots.iter().map(closer::to_argument))
            .args(probes.iter().map(|probe| probe.to_argument()))
            .stdin(Stdio::from(timer.try_clone()?))
            .stdout(Stdio::from(its))
            .spawn()?;
        let mut guard = Self { child, timer, socket, closings: Closings::default() };
        // From its first word on it can close the gate.
        guard.wait_for(|message| message == Message::Ready)?;
        Ok(guard)
    }

    /// Has the guard do something with its probes, and waits until that is done. Where it cannot, none stands in the target
    /// any more.
    ///
    /// # Errors
    /// The target is gone, or the guard is.
    pub fn order(&mut self, order: Order) -> io::Result<()> {
        let written = rustix::io::write(&self.socket, &[order as u8]).map_err(io::Error::from);
        let answer =
            written.and_then(|_| self.wait_for(|message| matches!(message, Message::Done(_))));
        match answer {
            Ok(Message::Done(errno)) if errno != 0 => Err(io::Error::from_raw_os_error(errno)),
            Ok(_) => Ok(()),
            Err(error) => {
                // Its probes go with it, if it is not gone already.
                let _ = self.child.kill();
                Err(error)
            }
        }
    }

    /// Waits for a message that is `wanted`, and counts the others.
    fn wait_for(&mut self, wanted: impl Fn(Message) -> bool) -> io::Result<Message> {
        loop {
            let mut events = [PollFd::new(&self.socket, PollFlags::IN)];
            match poll(&mut events, Some(&PATIENCE)) {
                Ok(0) => {
                    let cause = "the guard does not answer";
                    return Err(io::Error::new(io::ErrorKind::TimedOut, cause));
                }
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            match self.receive()? {
                Some(message) if wanted(message) => return Ok(message),
                Some(message) => self.count(message),
                None => {}
            }
        }
    }

    fn receive(&self) -> io::Result<Option<Message>> {
        let mut bytes = [0; Message::BYTES];
        match rustix::io::read(&self.socket, &mut bytes) {
            Ok(0) => Err(io::Error::new(io::ErrorKind::BrokenPipe, "the guard has ended")),
            Ok(_) => Ok(Message::from_bytes(bytes)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
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

    /// What it found open and closed, since this was asked last.
    pub fn closings(&mut self) -> Closings {
        while let Ok(Some(message)) = self.receive() {
            self.count(message);
        }
        std::mem::take(&mut self.closings)
    }

    fn count(&mut self, message: Message) {
        match message {
            Message::Closed => self.closings.windows += 1,
            Message::ClosedRaw => self.closings.raw += 1,
            Message::Ready | Message::Done(_) => {}
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
