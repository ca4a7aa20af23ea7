//! Turns what a trace found into bytes: the JSON document of `docs/schema/`, or a text for people.
//!
//! Prints nothing by itself and knows no clock, no terminal and no process: all of it comes from the caller.

#![forbid(unsafe_code)]

mod build;
mod document;
mod follow;
mod id;
mod package;
pub mod processes;
mod redact;
#[cfg(test)]
mod tests;
mod text;

pub use build::{
    End, Findings, Gate, HeapInfo, HeapPoint, MemoryInfo, Mode, SessionInfo, TargetInfo, build,
};
pub use document::{
    Breakdown, Bytes, Counter, ExitStatus, Frame, Function, Growth, HeapCount, Memory, NO_OBJECT,
    Report, SCHEMA, Seconds, SelfCheck, Session, Site, Target, TypeShare, UNKNOWN_TYPE,
};
pub use follow::{
    FOLLOW_SCHEMA, FollowReport, FollowedProcess, Merged, MergedSite, build_follow, follow_json,
};
pub use id::site_id;
pub use redact::{Cmdline, cmdline};
pub use text::{TextOptions, escaped, follow_text, text};

use std::io::{self, Write};

/// Writes the report as one JSON document on one line.
///
/// # Errors
/// What the writer says.
pub fn json(report: &Report, mut out: impl Write) -> io::Result<()> {
    serde_json::to_writer(&mut out, report)?;
    out.write_all(b"\n")
}
