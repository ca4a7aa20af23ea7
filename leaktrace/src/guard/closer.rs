//! The guard's own process.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, getppid, pidfd_open};

use crate::cpython::tables::Slot as Function;
use crate::gate::{Gate, Outcome, Slot};
use crate::kernel::priority;
use crate::target::memory::ProcessMemory;

/// Guards the gate of `pid` that consists of `slots` until `parent`, which started it, has ended. Its standard input is
/// the timer; to its standard output it tells of each time that it had to close the gate.
///
/// # Errors
/// The target's memory cannot be opened, or the timer is none.
pub fn run(pid: u32, parent: u32, slots: &[String]) -> io::Result<()> {
    let parent = i32::try_from(parent).ok().and_then(Pid::from_raw).ok_or_else(unusable)?;
    let slots: Option<Vec<Slot>> = slots.iter().map(|slot| from_argument(slot)).collect();
    let memory = ProcessMemory::open(pid)?;
    let gate = Gate::new(Arc::new(memory), slots.ok_or_else(unusable)?);
    let lifeline = pidfd_open(parent, PidfdFlags::empty())?;
    // Closing late is better than not at all.
    if let Err(error) = priority::before_all_others() {
        tracing::debug!("the guard runs like any other process: {error}");
    }
    tell()?;
    // One that ended before its end could be watched for has another number by now, or none.
    while getppid() == Some(parent) {
        let timer = io::stdin();
        let mut events = [
            PollFd::new(&timer, PollFlags::IN),
            PollFd::from_borrowed_fd(lifeline.as_fd(), PollFlags::IN),
        ];
        poll(&mut events, None)?;
        if !events[1].revents().is_empty() {
            break;
        }
        let mut expirations = [0; 8];
        match rustix::io::read(&timer, &mut expirations) {
            Ok(_) => close(&gate),
            // It was unset meanwhile.
            Err(Errno::AGAIN | Errno::INTR) => {}
            // Whoever runs before all others must not try for ever. Leaktrace starts another.
            Err(_) => break,
        }
    }
    close(&gate);
    Ok(())
}

fn close(gate: &Gate) {
    let was_open =
        |outcome: &Outcome| matches!(outcome, Outcome::Written | Outcome::WrittenBehindHook);
    // A target that is gone has no gate left to close.
    if gate.close().is_ok_and(|outcomes| outcomes.iter().any(was_open)) {
        let _ = tell();
    }
}

/// Counts one more for leaktrace: first that it is ready, then each time that it had to close the gate.
fn tell() -> io::Result<()> {
    rustix::io::write(io::stdout(), &1_u64.to_ne_bytes())?;
    Ok(())
}

fn unusable() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "not what leaktrace starts its guard with")
}

/// `free:7f12aa00:55d0aa10:55d0aa08`: a function, the address of its table, its address, and that of its gate point.
pub(super) fn to_argument(slot: &Slot) -> String {
    let Slot { function, table, closed, open } = slot;
    format!("{}:{table:x}:{closed:x}:{open:x}", function.name())
}

fn from_argument(text: &str) -> Option<Slot> {
    let mut parts = text.split(':');
    let name = parts.next()?;
    let function = Function::ALL.into_iter().find(|function| function.name() == name)?;
    let mut number = || u64::from_str_radix(parts.next()?, 16).ok();
    Some(Slot { function, table: number()?, closed: number()?, open: number()? })
}

#[cfg(test)]
mod tests {
    use super::{from_argument, to_argument};
    use crate::cpython::tables::Slot as Function;
    use crate::gate::Slot;

    #[test]
    fn a_slot_that_was_written_down_is_read_again() {
        let slot = Slot { function: Function::Realloc, table: u64::MAX, closed: 0, open: 0x10ab };
        assert_eq!(from_argument(&to_argument(&slot)), Some(slot));
        for text in ["", "free", "free:1:2", "trim:1:2:3", "free:1:2:x"] {
            assert_eq!(from_argument(text), None, "{text}");
        }
    }
}
