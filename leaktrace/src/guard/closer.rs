//! The guard's own process.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, getppid, pidfd_open};
use rustix::time::Timespec;

use super::message::Message;
use super::spell::{Order, Spell, SpellProbe};
use crate::cpython::tables::Slot as Function;
use crate::gate::{Gate, Outcome, Reach, Slot};
use crate::kernel::{priority, uprobe_events};
use crate::target::memory::ProcessMemory;

/// Guards the gate of `pid`, and the probes that stand in it for windows, until `parent`, which started it, has ended. Its
/// standard input is the timer. Its standard output is a socket, by which it is told what to do with the probes, and
/// tells of each time that it had to close something. `parts` are the gate's slots and the probes.
///
/// # Errors
/// The target's memory cannot be opened, or the timer is none.
pub fn run(pid: u32, parent: u32, parts: &[String]) -> io::Result<()> {
    let parent_pid = i32::try_from(parent).ok().and_then(Pid::from_raw).ok_or_else(unusable)?;
    let lifeline = pidfd_open(parent_pid, PidfdFlags::empty())?;
    let mut closer = Closer::new(pid, parts)?;
    // Closing late is better than not at all.
    if let Err(error) = priority::before_all_others().or_else(|_| priority::before_others()) {
        tracing::debug!("the guard runs like any other process: {error}");
    }
    tell(Message::Ready)?;
    // One that ended before its end could be watched for has another number by now, or none.
    while getppid() == Some(parent_pid) {
        let (timer, orders) = (io::stdin(), io::stdout());
        let mut events = [
            PollFd::new(&timer, PollFlags::IN),
            PollFd::from_borrowed_fd(lifeline.as_fd(), PollFlags::IN),
            PollFd::new(&orders, PollFlags::IN),
        ];
        match poll(&mut events, closer.patience().as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            // Whatever is open must not stay so.
            Err(_) => break,
        }
        if !events[1].revents().is_empty() {
            break;
        }
        let orders_came = !events[2].revents().is_empty();
        // What is overdue comes before what is wanted.
        match rustix::io::read(&timer, &mut [0; 8]) {
            Ok(_) => closer.close(),
            // It was unset meanwhile, or is not due.
            Err(Errno::AGAIN | Errno::INTR) => {}
            // Whoever runs before all others must not try for ever. Leaktrace starts another.
            Err(_) => break,
        }
        closer.close_kept();
        if orders_came && !closer.take_order()? {
            break;
        }
    }
    closer.raw_until = None;
    closer.close();
    if closer.has_probes {
        uprobe_events::sweep_after(parent);
    }
    Ok(())
}

/// How long raw slots that are kept open stay so without another word: a busy host may hold leaktrace back for a while, and
/// they are kept only where their calls are few.
const KEPT: Duration = Duration::from_millis(300);

/// What the guard closes.
struct Closer {
    gate: Gate,
    spell: Spell,
    has_probes: bool,
    /// Until when raw slots stay open, where they are kept so.
    raw_until: Option<Instant>,
}

impl Closer {
    fn new(pid: u32, parts: &[String]) -> io::Result<Self> {
        let (probes, slots): (Vec<&String>, Vec<&String>) =
            parts.iter().partition(|part| part.starts_with("event:"));
        let slots: Option<Vec<Slot>> = slots.into_iter().map(|slot| from_argument(slot)).collect();
        let probes: Option<Vec<SpellProbe>> =
            probes.into_iter().map(|probe| SpellProbe::from_argument(probe)).collect();
        let (slots, probes) = slots.zip(probes).ok_or_else(unusable)?;
        let memory = ProcessMemory::open(pid)?;
        Ok(Self {
            gate: Gate::new(Arc::new(memory), slots),
            has_probes: !probes.is_empty(),
            raw_until: None,
            spell: Spell::new(pid, probes),
        })
    }

    /// Closes what a window opens.
    fn close(&mut self) {
        let reach = if self.raw_until.is_some() { Reach::Objects } else { Reach::All };
        let slots = self.close_slots(reach);
        if self.spell.take_all() || slots {
            // Leaktrace may be stopped, with all that it can hold untold: it has been told then.
            let _ = tell(Message::Closed);
        }
    }

    /// Closes raw slots that were kept open for too long.
    fn close_kept(&mut self) {
        if self.raw_until.take_if(|until| Instant::now() >= *until).is_some()
            && self.close_slots(Reach::Raw)
        {
            let _ = tell(Message::ClosedRaw);
        }
    }

    /// Closes slots; returns whether any was open. A target that is gone has none left.
    fn close_slots(&self, reach: Reach) -> bool {
        let was_open =
            |outcome: &Outcome| matches!(outcome, Outcome::Written | Outcome::WrittenBehindHook);
        self.gate.close_all_of(reach).is_ok_and(|outcomes| outcomes.iter().any(was_open))
    }

    /// How long nothing needs to be closed unless the timer says so.
    fn patience(&self) -> Option<Timespec> {
        let left = self.raw_until?.saturating_duration_since(Instant::now());
        Timespec::try_from(left).ok()
    }

    /// Follows one order and answers it; false where nobody gives any more.
    fn take_order(&mut self) -> io::Result<bool> {
        let mut byte = [0];
        if rustix::io::read(io::stdout(), &mut byte)? == 0 {
            return Ok(false);
        }
        let order = Order::from_byte(byte[0]).ok_or_else(unusable)?;
        match order {
            Order::KeepRaw => self.raw_until = Some(Instant::now() + KEPT),
            Order::DropRaw => self.raw_until = None,
            _ => {}
        }
        let done = self.spell.follow(order).inspect_err(|_refused| {
            self.spell.take_all();
        });
        tell(Message::Done(
            done.err().map_or(0, |error| error.raw_os_error().unwrap_or(Errno::IO.raw_os_error())),
        ))?;
        Ok(true)
    }
}

fn tell(message: Message) -> io::Result<()> {
    rustix::io::write(io::stdout(), &message.to_bytes())?;
    Ok(())
}

/// What slots are called by.
const RAW: &str = "raw";
const OBJ: &str = "obj";

fn unusable() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "not what leaktrace starts its guard with")
}

/// `obj.free:7f12aa00:55d0aa10:55d0aa08`: a function, the address of its table, its address, and that of its gate point.
pub(super) fn to_argument(slot: &Slot) -> String {
    let Slot { function, table, closed, open, raw } = slot;
    let domain = if *raw { RAW } else { OBJ };
    format!("{domain}.{}:{table:x}:{closed:x}:{open:x}", function.name())
}

fn from_argument(text: &str) -> Option<Slot> {
    let mut parts = text.split(':');
    let (domain, name) = parts.next()?.split_once('.')?;
    let raw = domain == RAW;
    if !raw && domain != OBJ {
        return None;
    }
    let function = Function::ALL.into_iter().find(|function| function.name() == name)?;
    let mut number = || u64::from_str_radix(parts.next()?, 16).ok();
    Some(Slot { function, table: number()?, closed: number()?, open: number()?, raw })
}

#[cfg(test)]
mod tests {
    use super::{from_argument, to_argument};
    use crate::cpython::tables::Slot as Function;
    use crate::gate::Slot;

    #[test]
    fn a_slot_that_was_written_down_is_read_again() {
        for raw in [false, true] {
            let function = Function::Realloc;
            let slot = Slot { function, table: u64::MAX, closed: 0, open: 0x10ab, raw };
            assert_eq!(from_argument(&to_argument(&slot)), Some(slot));
        }
        for text in ["", "free", "free:1:2:3", "obj.free:1:2", "obj.trim:1:2:3", "mem.free:1:2:3"] {
            assert_eq!(from_argument(text), None, "{text}");
        }
    }
}
