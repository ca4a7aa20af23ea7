//! `leaktrace trace`: attach to a process, watch it, report.

use std::io::{self, IsTerminal as _, Write as _};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use super::output::{Output, Written};
use super::progress::ProgressLine;
use super::{choose, findings, watch};
use crate::cli::{self, FailOn, Format, ReportOptions, TraceOptions};
use crate::report::{self, End, Report, TextOptions};
use crate::session::{Options, Session, Traced};

/// Columns of a report that goes to no terminal.
const DEFAULT_WIDTH: usize = 100;

/// Runs the command.
pub(super) fn run(options: &TraceOptions) -> anyhow::Result<u8> {
    super::start_logging(options.bpf_log);
    let output = Output::open(options.report.output.as_deref())?;
    let pid = choose::pid(&options.target, false)?;
    let traced = super::block_on(trace(pid, options))?;
    let report = findings::report(&traced, options.report.cmdline);
    let written = output.write(&render(&report, &options.report)?)?;
    let verdicts = report.sites.iter().map(|site| site.verdict);
    Ok(exit_code(written, verdicts, options.report.fail_on))
}

/// Traces `pid` until the time is over, a signal comes or the target ends.
pub(super) async fn trace(pid: NonZeroU32, options: &TraceOptions) -> anyhow::Result<Traced> {
    let mut signals = Signals::listen()?;
    let mut session = tokio::select! {
        session = Session::start(
            pid.get(),
            Options {
                gate: options.gate,
                max_memory: options.max_memory,
                bpf_log: options.bpf_log,
                ..Options::default()
            },
        ) => session?,
        () = signals.any() => anyhow::bail!("stopped by a signal before the tracing began"),
    };
    announce(&session);
    let deadline = options.duration.map(|duration| Instant::now() + duration);
    let mut progress = ProgressLine::new(io::stderr().is_terminal());
    let stop = async {
        tokio::select! {
            biased;
            () = signals.any() => End::Signal,
            () = at(deadline) => End::Duration,
        }
    };
    let end = watch::until_end(&mut session, stop, |session| progress.tick(session)).await;
    session.close();
    progress.finish();
    // With the gate closed, a second signal may end the program at once.
    signals.leave_on_next();
    Ok(session.finish(end?)?)
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// The line that scripts wait for.
fn announce(session: &Session) {
    let target = session.target();
    let pid = target.process.pid();
    // Whoever closed stderr does not want to know.
    let _ = writeln!(io::stderr(), "tracing {pid} (CPython {})", target.version);
}

/// The signals that end the tracing.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
    quit: Signal,
    armed: Arc<AtomicBool>,
}

impl Signals {
    /// Listens from now on.
    pub(super) fn listen() -> anyhow::Result<Self> {
        let armed = Arc::new(AtomicBool::new(false));
        for number in [SIGINT, SIGTERM, SIGHUP, SIGQUIT] {
            signal_hook::flag::register_conditional_shutdown(
                number,
                i32::from(cli::EXIT_ERROR),
                Arc::clone(&armed),
            )?;
        }
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
            armed,
        })
    }

    /// Waits for one of them.
    pub(super) async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
            _ = self.quit.recv() => {}
        }
    }

    /// Has the next one end the program at once.
    pub(super) fn leave_on_next(&self) {
        self.armed.store(true, Ordering::SeqCst);
    }
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
