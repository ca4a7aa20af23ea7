//! Finds memory leaks in running CPython services from outside.

pub mod aggregator;
pub mod budget;
pub mod cli;
pub mod commands;
pub mod cpython;
pub mod detector;
pub mod gate;
pub mod guard;
pub mod host;
pub mod inspector;
pub mod kernel;
pub mod launch;
pub mod pools;
pub mod report;
pub mod session;
pub mod stack;
pub mod target;
