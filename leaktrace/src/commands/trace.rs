//! `leaktrace trace`: attach to a process, watch it, report.

use std::io::{self, IsTerminal as _, Write as _};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep, sleep_until};

use super::output::{Output, Written};
use super::progress::ProgressLine;
use super::{choose, findings};
use crate::cli::{self, FailOn, Format, ReportOptions, TraceOptions};
use crate::report::{self, End, Report, TextOptions};
use crate::session::{Options, Session, Traced};

/// How often records are taken from the kernel side. Its ring buffer bridges seconds.
const DRAIN_EVERY: Duration = Duration::from_millis(10);

/// How often the session looks after everything else.
const TICK_EVERY: Duration = Duration::from_millis(100);

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
    Ok(match written {
        Written::ToStdoutInstead => cli::EXIT_ERROR,
        Written::AsWanted if matches(&report, options.report.fail_on) => cli::EXIT_MATCHED,
        Written::AsWanted => cli::EXIT_DONE,
    })
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
            },
        ) => session?,
        () = signals.any() => anyhow::bail!("stopped by a signal before the tracing began"),
    };
    announce(&session);
    let deadline = options.duration.map(|duration| Instant::now() + duration);
    let end = watch(&mut session, deadline, &mut signals).await;
    session.close();
    // With the gate closed, a second signal may end the program at once.
    signals.leave_on_next();
    Ok(session.finish(end?)?)
}

async fn watch(
    session: &mut Session,
    deadline: Option<Instant>,
    signals: &mut Signals,
) -> anyhow::Result<End> {
    let mut progress = ProgressLine::new(io::stderr().is_terminal());
    let end = watch_until_end(session, deadline, signals, &mut progress).await;
    progress.finish();
    end
}

async fn watch_until_end(
    session: &mut Session,
    deadline: Option<Instant>,
    signals: &mut Signals,
    progress: &mut ProgressLine,
) -> anyhow::Result<End> {
    let mut next_tick = Instant::now();
    loop {
        session.drain();
        let now = Instant::now();
        if now >= next_tick {
            if let Some(end) = session.tick()? {
                return Ok(end);
            }
            progress.tick(session);
            next_tick = now + TICK_EVERY;
        }
        tokio::select! {
            biased;
            () = signals.any() => return Ok(End::Signal),
            () = at(deadline) => return Ok(End::Duration),
            () = sleep(DRAIN_EVERY) => {}
        }
    }
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
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
    quit: Signal,
    armed: Arc<AtomicBool>,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
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

    async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
            _ = self.quit.recv() => {}
        }
    }

    fn leave_on_next(&self) {
        self.armed.store(true, Ordering::SeqCst);
    }
}

/// The report in the form that was asked for.
pub(super) fn render(report: &Report, options: &ReportOptions) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match options.format {
        Format::Json => report::json(report, &mut bytes)?,
        Format::Text => {
            let terminal = options.output.is_none() && io::stdout().is_terminal();
            let columns = terminal_size::terminal_size()
                .filter(|_| terminal)
                .map(|(width, _)| usize::from(width.0));
            let colour = terminal && std::env::var_os("NO_COLOR").is_none();
            let width = columns.unwrap_or(DEFAULT_WIDTH);
            report::text(report, TextOptions { width, colour, top: options.top }, &mut bytes)?;
        }
    }
    Ok(bytes)
}

fn matches(report: &Report, fail_on: Option<FailOn>) -> bool {
    let has = |verdict: &str| report.sites.iter().any(|site| site.verdict == verdict);
    match fail_on {
        None => false,
        Some(FailOn::Leaking) => has("leaking"),
        Some(FailOn::Growing) => has("leaking") || has("growing"),
    }
}
