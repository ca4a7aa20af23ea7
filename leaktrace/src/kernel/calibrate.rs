//! What an empty probe hit costs on this host, timed on leaktrace's own process.

use std::arch::naked_asm;
use std::num::NonZeroU32;
use std::path::Path;
use std::time::Instant;

use super::{KernelError, Probe, Programs};

/// Hits that are timed: some milliseconds in all.
const HITS: u32 = 2_000;

/// Nanoseconds of one hit of an empty program.
#[derive(Clone, Copy, Debug)]
pub struct EmptyHit {
    /// On an instruction that the kernel emulates: one trap.
    pub emulated_ns: f64,
    /// On one that it steps over: two traps.
    pub stepped_ns: f64,
}

/// Times hits on a one-byte NOP, the cheapest kind of gate point, and on an instruction that is stepped over.
///
/// # Errors
/// The probe cannot be attached to this process.
pub fn empty_hit(programs: &mut Programs) -> Result<EmptyHit, KernelError> {
    let emulated_ns = time_hit(programs, emulated)?;
    let stepped_ns = time_hit(programs, stepped)?.max(emulated_ns);
    Ok(EmptyHit { emulated_ns, stepped_ns })
}

fn time_hit(programs: &mut Programs, point: extern "C" fn()) -> Result<f64, KernelError> {
    let Some((offset, pid)) =
        own_offset(point as *const () as u64).zip(NonZeroU32::new(std::process::id()))
    else {
        return Err(KernelError::Load("this program cannot find itself in memory".to_owned()));
    };
    let bare = time_calls(point);
    programs.attach(Probe::Calibrate, Path::new("/proc/self/exe"), offset, pid)?;
    time_calls(point);
    let probed = time_calls(point);
    programs.detach(Probe::Calibrate);
    Ok((probed - bare).max(0.0))
}

/// Nanoseconds of one call.
fn time_calls(point: extern "C" fn()) -> f64 {
    let start = Instant::now();
    for _ in 0..HITS {
        point();
    }
    start.elapsed().as_nanos() as f64 / f64::from(HITS)
}

/// What is probed: a NOP as in front of a function.
#[unsafe(naked)]
extern "C" fn emulated() {
    naked_asm!("nop", "ret")
}

/// And an instruction as functions begin with.
#[unsafe(naked)]
extern "C" fn stepped() {
    naked_asm!("xor eax, eax", "ret")
}

/// Offset in this program's file of what is probed.
#[cfg(test)]
pub(super) fn probed_offset() -> Option<u64> {
    own_offset(emulated as *const () as u64)
}

/// Offset in this program's file of an address in its code.
fn own_offset(address: u64) -> Option<u64> {
    let maps = procfs::process::Process::myself().ok()?.maps().ok()?;
    let map = maps.into_iter().find(|map| (map.address.0..map.address.1).contains(&address))?;
    Some(address - map.address.0 + map.offset)
}
