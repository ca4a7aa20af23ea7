//! `leaktrace demo`: starts a small service that leaks on a known line, and traces it.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::num::NonZeroU32;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tempfile::TempDir;

use super::output::Output;
use super::{findings, trace};
use crate::cli::{self, DemoOptions, ReportOptions, Subject, TraceOptions, Wanted};
use crate::cpython::version::OLDEST_MINOR;
use crate::report::{Cmdline, Report};

/// The service; the line that leaks is marked in it.
const SERVICE: &str = include_str!("../demo/service.py");

/// What marks the line.
const MARK: &str = "# LEAK";

/// How long the service may take until it is ready.
const STARTING: Duration = Duration::from_secs(10);

/// Bytes for what is known of its live blocks.
const MAX_MEMORY: u64 = 256 << 20;

/// Runs the command.
pub(super) fn run(options: &DemoOptions) -> anyhow::Result<u8> {
    super::start_logging(false);
    let service = Service::start(options)?;
    let pid = service.pid()?;
    say(&format!("a service that leaks at service.py:{} runs as {pid}", leaking_line()));
    let report_options = ReportOptions {
        format: options.format,
        output: None,
        top: 10,
        fail_on: None,
        cmdline: Cmdline::Redacted,
    };
    let traced = super::block_on(trace::trace(
        pid,
        &TraceOptions {
            target: Subject::Running(Wanted::Pid(pid)),
            duration: Some(options.duration),
            gate: true,
            // The service has nobody to serve: every call is traced, and the report shows all of it.
            budget_pct: None,
            budget_total_pct: None,
            follow: false,
            max_processes: 1,
            report: report_options.clone(),
            max_memory: MAX_MEMORY,
            bpf_log: false,
        },
    ))?;
    let report = findings::report(&traced, Cmdline::Redacted);
    Output::Stdout.write(&trace::render(&report, &report_options)?)?;
    if finds_the_leak(&report, &service.script) {
        say("leaktrace found the planted leak, and nothing else");
        Ok(cli::EXIT_DONE)
    } else {
        say("leaktrace did not find the planted leak alone: trace for longer with --duration 60s");
        Ok(cli::EXIT_ERROR)
    }
}

/// Whether the planted line comes first, and is the only one that is called leaking.
fn finds_the_leak(report: &Report, script: &Path) -> bool {
    let mut leaking = report.sites.iter().filter(|site| site.verdict == "leaking").peekable();
    let first = report.sites.first().is_some_and(|site| site.verdict == "leaking");
    first
        && leaking.peek().is_some()
        && leaking.all(|site| {
            site.stack.first().is_some_and(|frame| {
                frame.line == Some(leaking_line()) && Path::new(&frame.file) == script
            })
        })
}

/// The number of the line that leaks.
fn leaking_line() -> u32 {
    let index = SERVICE.lines().position(|line| line.ends_with(MARK)).unwrap_or(0);
    u32::try_from(index + 1).unwrap_or(0)
}

fn say(text: &str) {
    // Whoever closed stderr does not want to know.
    let _ = writeln!(io::stderr(), "{text}");
}

/// The service while it runs, in a folder of its own. Dropping it ends it and removes the folder.
struct Service {
    child: Child,
    script: PathBuf,
    _folder: TempDir,
}

impl Service {
    fn start(options: &DemoOptions) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        let script = folder.path().join("service.py");
        fs::write(&script, SERVICE).context("cannot write the service")?;
        let child = Command::new(&options.python)
            .arg(&script)
            .arg(options.seed.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C is for leaktrace alone.
            .process_group(0)
            .spawn()
            .with_context(|| {
                format!(
                    "cannot start `{}`; name a Python with --python",
                    options.python.to_string_lossy()
                )
            })?;
        let mut service = Self { child, script, _folder: folder };
        service.wait_until_ready()?;
        Ok(service)
    }

    fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let stdout = self.child.stdout.take().context("the service has no stdout")?;
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            // Nobody listens any more if it took too long.
            let _ = sender.send(BufReader::new(stdout).read_line(&mut line).map(|_| line));
        });
        match receiver.recv_timeout(STARTING) {
            Ok(Ok(line)) if line.trim() == "ready" => Ok(()),
            _ => bail!("the service did not start; is that a CPython 3.{OLDEST_MINOR} or newer?"),
        }
    }

    fn pid(&self) -> anyhow::Result<NonZeroU32> {
        NonZeroU32::new(self.child.id()).context("the service has no pid")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_of_the_service_is_marked() {
        assert_eq!(SERVICE.lines().filter(|line| line.ends_with(MARK)).count(), 1);
        assert!(leaking_line() > 1);
    }
}
