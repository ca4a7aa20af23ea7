//! How much tracing may cost the target, and when it may cost that.
//!
//! Plain arithmetic: hits and times go in, windows come out. Knows nothing of the kernel, of the target or of the clock.

#![forbid(unsafe_code)]

mod account;
mod controller;

pub use account::Account;
pub use controller::{Controller, Limits, Spell};
