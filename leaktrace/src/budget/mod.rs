//! How much tracing may cost the target, and when it may cost that.
//!
//! Plain arithmetic: hits and times go in, windows come out. Knows nothing of the kernel, of the target or of the clock.

#![forbid(unsafe_code)]

mod account;
mod controller;

/// The share of a budget that goes into hits. The rest is for what they cost beside themselves and nobody measures: caches
/// that are colder behind a trap, and the reading of what survived.
const HITS: f64 = 0.9;

/// The share of the target's time that its hits may take, within a budget of so many percent.
#[must_use]
pub fn share_of_hits(budget_pct: f64) -> f64 {
    budget_pct / 100.0 * HITS
}

pub use account::Account;
pub use controller::{Controller, Limits, Spell};
