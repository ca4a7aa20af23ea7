//! One leaktrace for one target, across all namespaces.
//!
//! Every leaktrace holds a BPF map of a known name that says whom it traces. BPF objects are global to the kernel and
//! go away with the process that holds them, so the lock can neither hide in a namespace nor be left behind.
//!
//! Each writes its own identity first and looks at the others then: of two that start together at least the later one
//! sees the other. Both may refuse; never do both go on.

use std::fs;
use std::io::ErrorKind::{NotFound, PermissionDenied};

use aya::Ebpf;
use aya::maps::{Array, Map, MapData, MapError, MapInfo, loaded_maps};
use leaktrace_common::config::TargetIdentity;

use super::{KernelError, programs};

const NAME: &str = "LEAKTRACE_LOCK";

/// The lock on one target, for as long as it lives.
pub struct Lock {
    _maps: Ebpf,
}

impl Lock {
    /// Takes the lock for `target`, or says who has it.
    ///
    /// # Errors
    /// The kernel does not let maps be made or looked at.
    pub fn take(target: TargetIdentity) -> Result<Result<Self, Holder>, KernelError> {
        let mut maps = programs::load_maps()?;
        let map = maps.map_mut(NAME).ok_or_else(|| failed("missing in the object"))?;
        let Map::Array(data) = &*map else { return Err(failed("not an array")) };
        let own = data.info().map_err(failed)?.id();
        let mut lock = Array::<_, TargetIdentity>::try_from(map).map_err(failed)?;
        lock.set(0, target, 0).map_err(failed)?;
        for other in others(own) {
            let (id, other) = other?;
            if other == target {
                let living = is_open_somewhere(id);
                return Ok(Err(if living { Holder::Living } else { Holder::Unseen }));
            }
        }
        Ok(Ok(Self { _maps: maps }))
    }
}

/// All processes that a leaktrace traces now, as far as this one may know.
///
/// # Errors
/// The kernel does not let maps be looked at.
pub fn traced() -> Result<Vec<TargetIdentity>, KernelError> {
    // No map has this id.
    others(0).map(|other| Ok(other?.1)).collect()
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

/// Whom the other leaktraces on this host trace, with the ids of their maps.
fn others(own: u32) -> impl Iterator<Item = Result<(u32, TargetIdentity), KernelError>> {
    loaded_maps().filter_map(move |info| match info.and_then(|info| identity(&info, own)) {
        Ok(found) => found.map(Ok),
        // It belongs to one that ended meanwhile, or is a map that not even root may look at: a lock is not.
        Err(MapError::SyscallError(error))
            if matches!(error.io_error.kind(), NotFound | PermissionDenied) =>
        {
            None
        }
        Err(error) => Some(Err(failed(error))),
    })
}

/// Whom a map says that its leaktrace traces, if it is another's lock.
fn identity(info: &MapInfo, own: u32) -> Result<Option<(u32, TargetIdentity)>, MapError> {
    if info.id() == own || info.name() != NAME.as_bytes() {
        return Ok(None);
    }
    let data = Map::Array(MapData::from_id(info.id())?);
    let target = Array::<_, TargetIdentity>::try_from(data)?.get(&0, 0)?;
    Ok(Some((info.id(), target)))
}

fn failed(cause: impl ToString) -> KernelError {
    KernelError::Map { map: NAME, cause: cause.to_string() }
}
