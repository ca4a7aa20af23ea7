//! What the kernel side and userspace must agree on, and the logic that both of them run.
//!
//! Nothing in here knows of BPF, of files or of the clock: addresses and words go in, numbers come out. The same
//! source is compiled into the BPF object and into host tests that run it on captured memory.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_op_in_unsafe_fn)]

pub mod config;
pub mod counter;
pub mod event;
pub mod layout;
pub mod limits;
pub mod memory;
pub mod pymalloc;
pub mod thread;
pub mod unwind;
pub mod window;
