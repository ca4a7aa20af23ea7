//! End-to-end tests: a real CPython runs a workload, the real program traces it as root, and the report is compared
//! with what the interpreter itself says.
//!
//! A test that cannot run here says why and passes, except where `LEAKTRACE_E2E=required` (as in CI): there it fails.

mod disassembly;
mod doctor;
mod figures;
mod library;
mod limit;
mod programs;
mod python;
mod server;
mod services;
mod slots;
mod stacks;
mod symbols;
mod target;
mod text;
mod tracer;

pub use disassembly::allocator_functions;
pub use doctor::{Found, doctor};
pub use figures::{rate_between, record};
pub use library::Library;
pub use programs::c_program;
pub use python::{Python, debian_python, old_pythons, pythons, some_pythons};
pub use server::{Server, end};
pub use services::services_python;
pub use slots::Slots;
pub use stacks::{Frame, Stack, Stacks};
pub use symbols::SymbolProbes;
pub use target::{Target, leaking_line, marked_line, workload};
pub use text::Text;
pub use tracer::{Ended, Report, Site, Tracer, assert_refused_within_a_budget, leaktrace};

/// Longest time for anything that a test waits for.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// Whether the end-to-end tests can run here: as root, on a kernel with BPF.
///
/// # Panics
/// Where they must run and cannot.
#[must_use]
pub fn can_trace() -> bool {
    let root = rustix::process::geteuid().is_root();
    let uprobes = std::path::Path::new("/sys/bus/event_source/devices/uprobe").exists();
    if root && uprobes {
        return true;
    }
    let required = std::env::var("LEAKTRACE_E2E").is_ok_and(|value| value == "required");
    assert!(!required, "this test must run here: root {root}, uprobes {uprobes}");
    #[expect(clippy::print_stderr, reason = "whoever runs the tests must see what did not run")]
    {
        eprintln!("skipped: root {root}, uprobes {uprobes}");
    }
    false
}
