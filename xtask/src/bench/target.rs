//! A workload that runs and counts what it does, with a client where it needs one.

use std::ffi::OsString;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use serde_json::Value;

use super::clock;
use super::latencies::Latencies;
use super::load::Load;
use super::meter::{Meter, Work};
use super::running::{self, Running};
use super::workloads::{Pace, Workload};
use crate::shell;

/// How long a workload may take until it says that it is ready: a profiler in it makes imports slow.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where workloads come from.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The interpreter that has what they need.
    pub(super) python: PathBuf,
    /// The folder of their files.
    pub(super) folder: PathBuf,
    /// A folder for what a tool writes.
    pub(super) scratch: PathBuf,
}

/// The processor that twins share.
const PROCESSOR: &str = "0";

/// What a target and its twin, if it has one, did in the same time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Both {
    pub(super) work: Work,
    pub(super) twin: Option<Work>,
}

/// A workload that runs. It is ended when it is dropped.
pub(super) struct Target {
    load: Option<Load>,
    twin: Option<Box<Target>>,
    running: Running,
    meter: Meter,
    /// The process that does the work: a server's worker is not the process that was started.
    pub(super) pid: u32,
    /// When it was started.
    pub(super) started_ns: u64,
}

impl Target {
    /// Starts a workload, with words between the interpreter and the script that make the interpreter load a tool. It
    /// ends by itself after `lifetime`.
    ///
    /// # Errors
    /// It does not come to work.
    pub(super) fn start(
        workload: &Workload,
        place: &Place,
        tool: &[OsString],
        lifetime: Duration,
    ) -> Result<Self> {
        let started_ns = clock::now_ns();
        let meter = Meter::make()?;
        let mut command = Command::new(&place.python);
        command.args(tool).arg(place.folder.join(workload.script[0])).args(&workload.script[1..]);
        command.env("LEAKTRACE_BENCH_METER", meter.path());
        command.env("LEAKTRACE_BENCH_SECONDS", lifetime.as_secs().max(1).to_string());
        command.env("PYTHONHASHSEED", "0").env("PYTHONDONTWRITEBYTECODE", "1");
        // More threads than one would be as many as there are processors, and differ from host to host.
        command.env("OMP_NUM_THREADS", "1").env("OPENBLAS_NUM_THREADS", "1");
        let mut running = Running::start(command)?;
        let (pid, port) = running.wait_for(PATIENCE, ready).context("the workload is not ready")?;
        let load = match (workload.pace, port) {
            (Pace::Load(rate), Some(port)) => Some(Load::start(port, rate, lifetime)?),
            _ => None,
        };
        Ok(Self { load, twin: None, running, meter, pid, started_ns })
    }

    /// Starts the same workload once more, and has both run on the same processor from now on: whatever the host does to one
    /// of them within some hundredths of a second, it does to the other.
    ///
    /// # Errors
    /// It does not come to work, or the target cannot be bound to a processor.
    pub(super) fn bring_twin(
        &mut self,
        workload: &Workload,
        place: &Place,
        lifetime: Duration,
    ) -> Result<()> {
        let twin = Self::start(workload, place, &[], lifetime)?;
        for pid in [self.pid, twin.pid] {
            let pid = pid.to_string();
            shell::capture(Command::new("taskset").args(["-a", "-p", "-c", PROCESSOR, &pid]))?;
        }
        self.twin = Some(Box::new(twin));
        Ok(())
    }

    /// What it, and its twin, do in the time to come, and when that time began and ended, in nanoseconds of the shared clock.
    ///
    /// # Errors
    /// One does nothing, or has ended.
    pub(super) fn work(&mut self, time: Duration) -> Result<(Both, Range<u64>)> {
        let twin = |target: &Self| target.twin.as_ref().map(|twin| twin.meter.sample()).transpose();
        let (from_ns, from, twin_from) = (clock::now_ns(), self.meter.sample()?, twin(self)?);
        thread::sleep(time);
        let (to_ns, to, twin_to) = (clock::now_ns(), self.meter.sample()?, twin(self)?);
        let twin = twin_from.zip(twin_to).map(|(from, to)| from.until(&to));
        match (from.until(&to), twin) {
            (Some(work), None) => Ok((Both { work, twin: None }, from_ns..to_ns)),
            (Some(work), Some(Some(twin))) => Ok((Both { work, twin: Some(twin) }, from_ns..to_ns)),
            _ => {
                let complaint = self.running.complaint();
                bail!(
                    "the workload, or its twin, finished nothing in {} s: {complaint}",
                    time.as_secs_f64()
                )
            }
        }
    }

    /// The latencies of the requests that were due in a time that is over; `None` where nobody asks.
    ///
    /// # Errors
    /// The client has ended.
    pub(super) fn latencies(&mut self, due: Range<u64>) -> Result<Option<Latencies>> {
        self.load.as_mut().map(|load| load.take(due.start, due.end)).transpose()
    }

    /// The most that the process has had resident so far.
    pub(super) fn peak_rss_bytes(&self) -> u64 {
        running::usage(self.pid).map_or(0, |(usage, _)| usage.peak_rss_bytes)
    }

    /// Ends it, after its client, and its twin.
    pub(super) fn stop(self) {
        if let Some(twin) = self.twin {
            twin.stop();
        }
        if let Some(load) = self.load {
            load.stop();
        }
        self.running.end(Signal::TERM);
    }
}

/// The process and the port that a workload says. Tools in it may say other things before.
fn ready(line: &str) -> Option<(u32, Option<u16>)> {
    let said: Value = serde_json::from_str(line).ok()?;
    let pid = u32::try_from(said["pid"].as_u64()?).ok()?;
    let port = said["port"].as_u64().and_then(|port| u16::try_from(port).ok());
    Some((pid, port))
}

/// The C library that a process has loaded.
pub(super) fn c_library(pid: u32) -> Option<PathBuf> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    let paths = maps.lines().filter_map(|line| line.split_whitespace().nth(5));
    let is_libc = |path: &&str| Path::new(path).file_name().is_some_and(|name| name == "libc.so.6");
    paths.into_iter().find(is_libc).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_is_ready_when_it_names_its_process() {
        assert_eq!(ready(r#"{"pid": 7}"#), Some((7, None)));
        assert_eq!(ready(r#"{"pid": 7, "port": 8080}"#), Some((7, Some(8080))));
        assert_eq!(ready("7"), None);
        assert_eq!(ready("a warning {"), None);
    }
}
