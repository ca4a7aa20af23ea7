//! The id of a site: the same for the same code in every run and on every host.

use crate::aggregator::Domain;
use crate::stack::Stack;
use fnv::FnvHasher;
use std::hash::Hasher as _;

/// 16 hex digits of FNV-1a (64 bits) over, for each frame, innermost first, the function and the file (UTF-8, each
/// followed by a zero byte) and the line (four bytes, little endian; 0 where it is not known); then the name of the
/// domain; then, for a stack whose outer frames are missing only, the word `truncated`.
#[must_use]
pub fn site_id(stack: &Stack, domain: Domain) -> String {
    let mut hash = FnvHasher::default();
    for frame in &*stack.frames {
        hash.write(frame.function.as_bytes());
        hash.write(&[0]);
        hash.write(frame.file.as_bytes());
        hash.write(&[0]);
        hash.write(&frame.line.unwrap_or(0).to_le_bytes());
    }
    hash.write(domain.name().as_bytes());
    if stack.truncated {
        hash.write(b"truncated");
    }
    format!("{:016x}", hash.finish())
}
