//! Hardware breakpoints on a process that ptrace holds: the processor's debug registers, not a byte of the process.
//!
//! An `exec` clears them.

use std::mem::offset_of;

use nix::errno::Errno;
use nix::libc::user;
use nix::sys::ptrace;
use nix::unistd::Pid;

/// Breakpoints of the processor.
pub(super) const COUNT: usize = 4;

/// The register that switches them: bit `2 * n` is breakpoint n in this process. Zeros elsewhere mean "on execution".
const CONTROL: usize = 7;

/// Breakpoints on one process.
#[derive(Debug)]
pub(super) struct Breakpoints {
    pid: Pid,
    places: Vec<u64>,
}

impl Breakpoints {
    pub(super) const fn of(pid: Pid) -> Self {
        Self { pid, places: Vec::new() }
    }

    /// Puts them at `places`, of which the first [`COUNT`] are taken.
    ///
    /// # Errors
    /// The kernel refuses; none is set then.
    pub(super) fn set(&mut self, places: &[u64]) -> Result<(), Errno> {
        self.clear()?;
        let places = places.get(..COUNT).unwrap_or(places);
        for (number, &place) in places.iter().enumerate() {
            self.write(number, place)?;
        }
        let switches = (0..places.len()).fold(0, |bits, number| bits | 1 << (2 * number));
        self.write(CONTROL, switches)?;
        places.clone_into(&mut self.places);
        Ok(())
    }

    /// Takes them off.
    ///
    /// # Errors
    /// The process is gone.
    pub(super) fn clear(&mut self) -> Result<(), Errno> {
        self.places.clear();
        self.write(CONTROL, 0)
    }

    /// Whether the process stands at one of them.
    pub(super) fn is_hit(&self) -> bool {
        ptrace::getregs(self.pid).is_ok_and(|registers| self.places.contains(&registers.rip))
    }

    fn write(&self, register: usize, value: u64) -> Result<(), Errno> {
        let offset = offset_of!(user, u_debugreg) + register * size_of::<u64>();
        ptrace::write_user(self.pid, std::ptr::without_provenance_mut(offset), value.cast_signed())
    }
}
