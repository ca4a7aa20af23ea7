//! The process that is watched: its memory, its files, its end.

pub mod maps;
pub mod memory;
pub mod module;
pub mod process;
