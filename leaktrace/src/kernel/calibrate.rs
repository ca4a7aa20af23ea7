//! What an empty probe hit costs on this host, timed on leaktrace's own process.

use std::arch::naked_asm;
use std::num::NonZeroU32;
use std::path::Path;
use std::time::Instant;

use super::{KernelError, Probe, Programs};

/// Hits that are timed: a few milliseconds in all.
const HITS: u32 = 2_000;

/// Nanoseconds of one hit of an empty program on a one-byte NOP, the cheapest kind of gate point.
///
/// # Errors
/// The probe cannot be attached to this process.
pub fn empty_hit_ns(programs: &mut Programs) -> Result<f64, KernelError> {
    let Some((offset, pid)) =
        own_offset(point as *const () as u64).zip(NonZeroU32::new(std::process::id()))
    else {
        return Err(KernelError::Load("this program cannot find itself in memory".to_owned()));
    };
    let bare = time_calls();
    programs.attach(Probe::Calibrate, Path::new("/proc/self/exe"), offset, pid)?;
    time_calls();
    let probed = time_calls();
    programs.detach(Probe::Calibrate);
    Ok((probed - bare).max(0.0))
}

/// Nanoseconds of one call.
fn time_calls() -> f64 {
    let start = Instant::now();
    for _ in 0..HITS {
        point();
    }
    start.elapsed().as_nanos() as f64 / f64::from(HITS)
}

/// What is probed: a NOP as in front of a function.
#[unsafe(naked)]
extern "C" fn point() {
    naked_asm!("nop", "ret")
}

/// Offset in this program's file of an address in its code.
fn own_offset(address: u64) -> Option<u64> {
    let maps = procfs::process::Process::myself().ok()?.maps().ok()?;
    let map = maps.into_iter().find(|map| (map.address.0..map.address.1).contains(&address))?;
    Some(address - map.address.0 + map.offset)
}
