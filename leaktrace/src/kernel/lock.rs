//! One leaktrace for one target, across all namespaces.
//!
//! Every leaktrace holds a BPF map of a known name that says whom it traces. BPF objects are global to the kernel and
//! go away with the process that holds them, so the lock can neither hide in a namespace nor be left behind.
//!
//! Each writes its own identity first and looks at the others then: of two that start together at least the later one
//! sees the other. Both may refuse; never do both go on.

use aya::Ebpf;
use aya::maps::{Array, Map, MapData, loaded_maps};
use leaktrace_common::config::TargetIdentity;

use super::KernelError;

const NAME: &str = "LEAKTRACE_LOCK";

/// Takes the lock for `target`; it is held as long as `ebpf` lives.
///
/// # Errors
/// [`KernelError::AlreadyTraced`] where another leaktrace has it.
pub(super) fn take(ebpf: &mut Ebpf, target: TargetIdentity) -> Result<(), KernelError> {
    let map = ebpf.map_mut(NAME).ok_or_else(|| failed("missing in the object"))?;
    let Map::Array(data) = &*map else { return Err(failed("not an array")) };
    let own = data.info().map_err(failed)?.id();
    let mut lock = Array::<_, TargetIdentity>::try_from(map).map_err(failed)?;
    lock.set(0, target, 0).map_err(failed)?;
    if others(own).any(|other| other == target) {
        return Err(KernelError::AlreadyTraced { pid: target.pid });
    }
    Ok(())
}

/// Whether a leaktrace has the lock for `target`.
#[must_use]
pub fn is_taken(target: TargetIdentity) -> bool {
    others(0).any(|other| other == target)
}

/// Whom the other leaktraces on this host trace. A map that vanishes meanwhile belongs to one that ended.
fn others(own: u32) -> impl Iterator<Item = TargetIdentity> {
    loaded_maps().filter_map(move |info| {
        let info = info.ok()?;
        if info.id() == own || info.name() != NAME.as_bytes() {
            return None;
        }
        let data = Map::Array(MapData::from_id(info.id()).ok()?);
        Array::<_, TargetIdentity>::try_from(data).ok()?.get(&0, 0).ok()
    })
}

fn failed(cause: impl ToString) -> KernelError {
    KernelError::Map { map: NAME, cause: cause.to_string() }
}
