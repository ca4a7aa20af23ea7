//! Code objects and stacks: of live interpreters, and made up.

mod live;
mod made;

use super::{CodeCache, Resolved};
use crate::target::memory::ReadMemory;

/// What a frame is by what is read now.
fn resolve(
    cache: &mut CodeCache,
    memory: &impl ReadMemory,
    address: u64,
    offset: i32,
    owner: u32,
) -> Resolved {
    match cache.look(memory, address, 0) {
        Ok(_) => cache.frame(memory, address, offset, owner),
        Err(reason) => Resolved::Unknown(reason),
    }
}
