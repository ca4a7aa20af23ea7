//! Finds memory leaks in running CPython services from outside.

pub mod kernel;
pub mod target;
