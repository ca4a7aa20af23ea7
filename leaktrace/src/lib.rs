//! Finds memory leaks in running CPython services from outside.

pub mod target;
