//! `leaktrace trace`: attach to a process, watch it, report.

use std::io::{self, IsTerminal as _, Write as _};
use std::num::NonZeroU32;

use tokio::time::Instant;

use super::output::{Output, Written};
use super::progress::ProgressLine;
use super::signals::{self, Signals};
use super::{choose, findings, started, watch};
use crate::cli::{self, FailOn, Format, ReportOptions, Subject, TraceOptions};
use crate::report::{self, End, Report, TextOptions};
use crate::session::{Options, Session, Traced};

/// Columns of a report that goes to no terminal.
const DEFAULT_WIDTH: usize = 100;

/// Runs the command.
pub(super) fn run(options: &TraceOptions) -> anyhow::Result<u8> {
    super::start_logging(options.bpf_log);
    let output = Output::open(options.report.output.as_deref())?;
    let wanted = match &options.target {
        Subject::Started(command) => {
            return super::block_on(started::run(command, options, output));
        }
        Subject::Running(wanted) => wanted,
    };
    let pid = choose::pid(wanted, false)?;
    let traced = super::block_on(trace(pid, options))?;
    // The probes are taken off afterwards, which takes longer.
    deliver(&findings::report(&traced, options.report.cmdline), &options.report, output)
}

/// Writes the report; returns the exit code that it comes to.
pub(super) fn deliver(
    report: &Report,
    options: &ReportOptions,
    output: Output,
) -> anyhow::Result<u8> {
    let written = output.write(&render(report, options)?)?;
    let verdicts = report.sites.iter().map(|site| site.verdict);
    Ok(exit_code(written, verdicts, options.fail_on))
}

/// Traces `pid` until the time is over, a signal comes or the target ends.
pub(super) async fn trace(pid: NonZeroU32, options: &TraceOptions) -> anyhow::Result<Traced> {
    let mut signals = Signals::listen()?;
    let session = start(pid.get(), options, &mut signals).await?;
    announce_session(&session, options);
    until_end(session, options, &mut signals).await
}

/// Puts the probes in place.
pub(super) async fn start(
    pid: u32,
    options: &TraceOptions,
    signals: &mut Signals,
) -> anyhow::Result<Session> {
    let options = Options {
        gate: options.gate,
        budget_pct: options.budget_pct,
        max_memory: options.max_memory,
        bpf_log: options.bpf_log,
        ..Options::default()
    };
    tokio::select! {
        session = Session::start(pid, options) => Ok(session?),
        () = signals.any() => anyhow::bail!("stopped by a signal before the tracing began"),
    }
}

/// Traces until the time is over, a signal comes or the target ends.
pub(super) async fn until_end(
    mut session: Session,
    options: &TraceOptions,
    signals: &mut Signals,
) -> anyhow::Result<Traced> {
    let deadline = options.duration.map(|duration| Instant::now() + duration);
    let mut progress = ProgressLine::new(io::stderr().is_terminal());
    let stop = async {
        tokio::select! {
            biased;
            () = signals.any() => End::Signal,
            () = signals::at(deadline) => End::Duration,
        }
    };
    let end = watch::until_end(&mut session, stop, |session| progress.tick(session)).await;
    session.close();
    progress.finish();
    // With the gate closed, a second signal may end the program at once.
    signals.leave_on_next();
    Ok(session.finish(end?)?)
}

/// The line that scripts wait for.
pub(super) fn announce(pid: u32, version: &str, budget_pct: Option<f64>) {
    let how = budget_pct.map_or_else(
        || "every call, at its full cost".to_owned(),
        |percent| format!("within {percent} % of its time"),
    );
    // Whoever closed stderr does not want to know.
    let _ = writeln!(io::stderr(), "tracing {pid} (CPython {version}), {how}");
}

/// As [`announce`], of a session.
pub(super) fn announce_session(session: &Session, options: &TraceOptions) {
    let target = session.target();
    announce(target.process.pid(), &target.version.to_string(), options.budget_pct);
}

/// The report in the form that was asked for.
pub(super) fn render(report: &Report, options: &ReportOptions) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match options.format {
        Format::Json => report::json(report, &mut bytes)?,
        Format::Text => {
            report::text(report, text_options(options), &mut bytes)?;
        }
    }
    Ok(bytes)
}

/// How a text report looks where it goes.
pub(super) fn text_options(options: &ReportOptions) -> TextOptions {
    let terminal = options.output.is_none() && io::stdout().is_terminal();
    let columns =
        terminal_size::terminal_size().filter(|_| terminal).map(|(width, _)| usize::from(width.0));
    let colour = terminal && std::env::var_os("NO_COLOR").is_none();
    TextOptions { width: columns.unwrap_or(DEFAULT_WIDTH), colour, top: options.top }
}

/// The program's exit code, once the report is written; `verdicts` of all sites.
pub(super) fn exit_code(
    written: Written,
    mut verdicts: impl Iterator<Item = &'static str>,
    fail_on: Option<FailOn>,
) -> u8 {
    let fails = |verdict| match fail_on {
        None => false,
        Some(FailOn::Leaking) => verdict == "leaking",
        Some(FailOn::Growing) => matches!(verdict, "leaking" | "growing"),
    };
    match written {
        Written::ToStdoutInstead => cli::EXIT_ERROR,
        Written::AsWanted if verdicts.any(fails) => cli::EXIT_MATCHED,
        Written::AsWanted => cli::EXIT_DONE,
    }
}
