//! One leaktrace for one target, across all namespaces.
//!
//! Every leaktrace holds a BPF map of a known name that says whom it traces. BPF objects are global to the kernel and
//! go away with the process that holds them, so the lock can neither hide in a namespace nor be left behind.
//!
//! Each writes its own identity first and looks at the others then: of two that start together at least the later one
//! sees the other. Both may refuse; never do both go on.

use std::fs;

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
    if others(own).any(|(_, other)| other == target) {
        return Err(KernelError::AlreadyTraced { pid: target.pid });
    }
    Ok(())
}

/// Who has the lock for a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A leaktrace that lives.
    Living,
    /// None that can be seen from here: one that was killed, from which the kernel is still taking its probes (up to
    /// some seconds), or one in another pid namespace.
    Unseen,
}

/// Who has the lock for `target`, if anybody.
#[must_use]
pub fn holder(target: TargetIdentity) -> Option<Holder> {
    let (map, _) = others(0).find(|&(_, other)| other == target)?;
    Some(if is_open_somewhere(map) { Holder::Living } else { Holder::Unseen })
}

/// Whether a process that can be seen from here has the map of this id open. A process that is being killed has lost
/// its descriptors before what they stood for is gone.
fn is_open_somewhere(map: u32) -> bool {
    let line = format!("map_id:\t{map}");
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|process| fs::read_dir(process.path().join("fdinfo")).ok())
        .flat_map(|descriptors| descriptors.flatten())
        .filter_map(|descriptor| fs::read_to_string(descriptor.path()).ok())
        .any(|text| text.lines().any(|other| other == line))
}

/// Whom the other leaktraces on this host trace, with the ids of their maps. A map that vanishes meanwhile belongs to
/// one that ended.
fn others(own: u32) -> impl Iterator<Item = (u32, TargetIdentity)> {
    loaded_maps().filter_map(move |info| {
        let info = info.ok()?;
        if info.id() == own || info.name() != NAME.as_bytes() {
            return None;
        }
        let data = Map::Array(MapData::from_id(info.id()).ok()?);
        let target = Array::<_, TargetIdentity>::try_from(data).ok()?.get(&0, 0).ok()?;
        Some((info.id(), target))
    })
}

fn failed(cause: impl ToString) -> KernelError {
    KernelError::Map { map: NAME, cause: cause.to_string() }
}
