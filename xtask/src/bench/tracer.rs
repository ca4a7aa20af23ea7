//! leaktrace at work on a target, as a user starts it.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use serde_json::{Map, Value};

use super::records::Tracing;
use super::running::Running;

/// How long it may take until it traces, and until it has ended.
const PATIENCE: Duration = Duration::from_secs(20);

/// The exit code that says that the command line makes no sense.
const EXIT_USAGE: i32 = 2;

/// What of `session` in its report is kept.
const KEPT: &[&str] = &[
    "mode",
    "budget_pct",
    "duration_s",
    "overhead_pct",
    "traced_fraction",
    "allocations_seen",
    "frees_seen",
    "events_lost",
    "window_overruns",
    "gate",
    "end",
];

/// A leaktrace that does not know its flags: it would refuse them on every workload.
#[derive(Debug)]
pub(super) struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "leaktrace refuses its flags: {}; --exact and --flags take others", self.0)
    }
}

impl std::error::Error for Refused {}

/// A leaktrace that traces.
pub(super) struct Tracer {
    running: Running,
    report: PathBuf,
    attach: Duration,
}

impl Tracer {
    /// Lets it trace a process for so long, and waits until it does.
    ///
    /// # Errors
    /// It does not come to that; a [`Refused`] where its flags are the reason.
    pub(super) fn attach(
        program: &Path,
        flags: &[String],
        pid: u32,
        time: Duration,
        scratch: &Path,
    ) -> Result<Self> {
        let report = scratch.join("report.json");
        // Of the one before.
        let _ = fs::remove_file(&report);
        let mut command = Command::new(program);
        command.args(["--pid", &pid.to_string(), "--format", "json", "--output"]).arg(&report);
        command.args(["--duration", &format!("{}ms", time.as_millis())]).args(flags);
        let start = Instant::now();
        let mut running = Running::start(command)?;
        let traces = |line: &str| line.starts_with("tracing ").then_some(());
        if let Err(error) = running.wait_for(PATIENCE, traces) {
            return Err(match running.exit_code() {
                Some(EXIT_USAGE) => Refused(running.complaint()).into(),
                _ => error.context("leaktrace does not trace"),
            });
        }
        Ok(Self { running, report, attach: start.elapsed() })
    }

    /// Seconds of processor time that it has used so far.
    ///
    /// # Errors
    /// It does not trace any more.
    pub(super) fn cpu_s(&mut self) -> Result<f64> {
        if !self.running.is_alive() {
            bail!("leaktrace ended too early: {}", self.running.complaint());
        }
        Ok(self.running.used().cpu_s)
    }

    /// Waits for its end and reads its report.
    ///
    /// # Errors
    /// It does not end, or says nothing.
    pub(super) fn finish(mut self, window_cpu_s: f64) -> Result<Tracing> {
        let Some(usage) = self.running.wait_end(PATIENCE) else {
            let complaint = self.running.complaint();
            self.running.end(Signal::INT);
            bail!("leaktrace did not end in time: {complaint}");
        };
        let text = fs::read(&self.report);
        let text = text.with_context(|| format!("no report: {}", self.running.complaint()))?;
        let report: Value = serde_json::from_slice(&text).context("the report is no JSON")?;
        let kept = |name: &&str| Some(((*name).to_owned(), report["session"].get(*name)?.clone()));
        let session: Map<String, Value> = KEPT.iter().filter_map(kept).collect();
        let attach_s = self.attach.as_secs_f64();
        Ok(Tracing { attach_s, usage, window_cpu_s, session })
    }

    /// Stops it, whatever it would say.
    pub(super) fn stop(self) {
        self.running.end(Signal::INT);
    }
}
