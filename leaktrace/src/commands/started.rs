//! `leaktrace trace -- CMD`: starts a command and traces it from the first line of its main module on.

use std::ffi::OsString;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::output::Output;
use super::signals::Signals;
use super::{findings, trace};
use crate::cli::{self, TraceOptions};
use crate::kernel::features::Kernel;
use crate::launch::{Command, ExitStatus, Met};
use crate::report::{self, End};

/// How often the end of the command is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How long a process that has ended may take until its status can be had.
const REAPING: Duration = Duration::from_secs(2);

/// Runs the command.
pub(super) async fn run(
    command: &[OsString],
    options: &TraceOptions,
    output: Output,
) -> anyhow::Result<u8> {
    let mut signals = Signals::listen()?;
    let mut started = Started::start(command, &mut signals).await?;
    let code = trace(&mut started, options, output, &mut signals).await;
    started.stay(code, &mut signals).await
}

async fn trace(
    started: &mut Started,
    options: &TraceOptions,
    output: Output,
    signals: &mut Signals,
) -> anyhow::Result<u8> {
    let session = trace::start(started.pid(), options, signals).await?;
    trace::announce_session(&session, options);
    started.let_run(signals)?;
    let mut traced = trace::until_end(session, options, signals).await?;
    traced.warnings.extend(started.warning());
    let status = started.exit_status(traced.end == End::TargetExited).await;
    let mut report = findings::report(&traced, options.report.cmdline);
    report.session.exit_status = status;
    trace::deliver(&report, &options.report, output)
}

/// A command that leaktrace has started.
pub(super) struct Started {
    command: Command,
    met: Met,
}

impl Started {
    /// Starts it and brings it to where its main module is about to run.
    ///
    /// # Errors
    /// The kernel lacks what is needed, a signal came, or as [`Command::until_main`]; nothing of its Python has run then.
    pub(super) async fn start(words: &[OsString], signals: &mut Signals) -> anyhow::Result<Self> {
        // What would be missed at attaching is rather missed before anything runs.
        Kernel::check()?;
        let mut command = Command::start(words)?;
        let met = tokio::select! {
            met = command.until_main() => met?,
            () = signals.any() => anyhow::bail!("stopped by a signal before the tracing began"),
        };
        if met == Met::Running {
            signals.hand_on_to(command.heir());
        }
        Ok(Self { command, met })
    }

    pub(super) fn pid(&self) -> u32 {
        self.command.pid()
    }

    /// The probes are in place: lets it run, with the signals that leaktrace gets.
    pub(super) fn let_run(&mut self, signals: &mut Signals) -> anyhow::Result<()> {
        self.command.let_run()?;
        signals.hand_on_to(self.command.heir());
        Ok(())
    }

    /// What the reader of its report should know.
    pub(super) fn warning(&self) -> Option<String> {
        (self.met == Met::Running).then(|| {
            "the command never came to a main module, as programs do that have an interpreter inside: what it \
             allocated before the tracing began is not seen"
                .to_owned()
        })
    }

    /// How it has ended; where it `has` certainly, this waits until the kernel says how.
    pub(super) async fn exit_status(&mut self, has: bool) -> Option<report::ExitStatus> {
        let deadline = Instant::now() + REAPING;
        let mut status = self.command.exit_status();
        while has && status.is_none() && Instant::now() < deadline {
            sleep(LOOK_EVERY).await;
            status = self.command.exit_status();
        }
        status.map(|status| match status {
            ExitStatus::Code(code) => report::ExitStatus { code: Some(code), signal: None },
            ExitStatus::Signal(signal) => report::ExitStatus { code: None, signal: Some(signal) },
        })
    }

    /// Stays as long as it does, so that nobody else has to look after it. `code` is what its tracing has come to.
    ///
    /// # Errors
    /// That of the tracing, if the command has not run yet: it never will.
    pub(super) async fn stay(
        mut self,
        code: anyhow::Result<u8>,
        signals: &mut Signals,
    ) -> anyhow::Result<u8> {
        let code = match code {
            Ok(code) => code,
            Err(error) if !self.command.is_on_its_own() => return Err(error),
            Err(error) => {
                super::complain(&error);
                cli::EXIT_ERROR
            }
        };
        let ended = async {
            while self.command.exit_status().is_none() {
                sleep(LOOK_EVERY).await;
            }
        };
        tokio::select! {
            () = ended => {}
            () = signals.own() => {}
        }
        Ok(code)
    }
}
