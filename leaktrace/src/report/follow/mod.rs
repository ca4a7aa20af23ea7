//! The document `leaktrace.follow/1`: the reports of processes that were traced together, and what they come to in all.

mod merge;
mod series;

use std::io::{self, Write};
use std::time::SystemTime;

use serde::Serialize;

use super::document::{Memory, Report, Site};

/// The name and version of the document.
pub const FOLLOW_SCHEMA: &str = "leaktrace.follow/1";

/// Reports of processes that were traced together.
#[derive(Clone, Debug, Serialize)]
pub struct FollowReport {
    /// [`FOLLOW_SCHEMA`].
    pub schema: &'static str,
    /// The version of leaktrace.
    pub leaktrace: &'static str,
    /// One for each process, in the order in which their tracing began.
    pub processes: Vec<Report>,
    /// Percent that tracing was to cost all processes together at most; none where each had its budget for itself.
    pub budget_total_pct: Option<f64>,
    /// Percent that it cost all together, as estimated: what it cost each, added up, of the time from the first start to
    /// the last end.
    pub overhead_total_pct: Option<f64>,
    /// What they come to in all.
    pub merged: Merged,
    /// What the reader should know, in sentences.
    pub warnings: Vec<String>,
}

/// What several processes come to in all.
#[derive(Clone, Debug, Serialize)]
pub struct Merged {
    /// Every site of any of them, the worst first.
    pub sites: Vec<MergedSite>,
    /// Their memory.
    pub memory: Memory,
}

/// A site, with its numbers of all processes.
#[derive(Clone, Debug, Serialize)]
pub struct MergedSite {
    /// The sums.
    #[serde(flatten)]
    pub site: Site,
    /// In how many processes it was seen.
    pub processes: u64,
}

/// A process that was traced together with others.
#[derive(Clone, Debug)]
pub struct FollowedProcess {
    /// Its report.
    pub report: Report,
    /// When its tracing began.
    pub started_at: SystemTime,
    /// Whether it went on when its tracing ended.
    pub lived_on: bool,
}

/// Makes the document.
#[must_use]
pub fn build_follow(
    processes: Vec<FollowedProcess>,
    budget_total_pct: Option<f64>,
    warnings: Vec<String>,
) -> FollowReport {
    FollowReport {
        schema: FOLLOW_SCHEMA,
        leaktrace: env!("CARGO_PKG_VERSION"),
        budget_total_pct,
        overhead_total_pct: merge::overhead_pct(&processes),
        merged: Merged { sites: merge::sites(&processes), memory: merge::memory(&processes) },
        processes: processes.into_iter().map(|process| process.report).collect(),
        warnings,
    }
}

/// Writes the document as JSON on one line.
///
/// # Errors
/// What the writer says.
pub fn follow_json(report: &FollowReport, mut out: impl Write) -> io::Result<()> {
    serde_json::to_writer(&mut out, report)?;
    out.write_all(b"\n")
}
