//! What CPython keeps where, seen from outside: versions, layouts, tables, threads, code objects and their lines.

pub mod census;
pub mod code;
pub mod debug_offsets;
pub mod description;
#[cfg(test)]
mod interpreters;
pub mod layout;
pub mod lines;
pub mod obmalloc;
pub mod root;
pub mod runtime;
mod snapshot;
pub mod tables;
pub mod thread_source;
pub mod usedpools;
pub mod version;
