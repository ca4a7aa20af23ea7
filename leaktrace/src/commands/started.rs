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
use crate::session::Traced;

/// How often the end of the command is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How long a process that has ended may take until its status can be had.
const REAPING: Duration = Duration::from_secs(2);

/// Runs the command. leaktrace stays as long as it does, so that nobody else has to look after it.
pub(super) async fn run(
    command: &[OsString],
    options: &TraceOptions,
    output: Output,
) -> anyhow::Result<u8> {
    // What would be missed at attaching is rather missed before anything runs.
    Kernel::check()?;
    let mut signals = Signals::listen()?;
    let mut command = Command::start(command)?;
    let code = match trace(&mut command, options, output, &mut signals).await {
        Ok(code) => code,
        // It has not run yet, and never will.
        Err(error) if !command.is_on_its_own() => return Err(error),
        Err(error) => {
            super::complain(&error);
            cli::EXIT_ERROR
        }
    };
    tokio::select! {
        () = ended(&mut command) => {}
        () = signals.own() => {}
    }
    Ok(code)
}

async fn trace(
    command: &mut Command,
    options: &TraceOptions,
    output: Output,
    signals: &mut Signals,
) -> anyhow::Result<u8> {
    let met = tokio::select! {
        met = command.until_main() => met?,
        () = signals.any() => anyhow::bail!("stopped by a signal before the tracing began"),
    };
    if met == Met::Running {
        signals.hand_on_to(command.heir());
    }
    let session = trace::start(command.pid(), options, signals).await?;
    trace::announce(&session);
    command.let_run()?;
    signals.hand_on_to(command.heir());
    let mut traced = trace::until_end(session, options, signals).await?;
    if met == Met::Running {
        traced.warnings.push(
            "the command never came to a main module, as programs do that have an interpreter inside: what it \
             allocated before the tracing began is not seen"
                .to_owned(),
        );
    }
    let status = exit_status(command, &traced).await;
    let mut report = findings::report(&traced, options.report.cmdline);
    report.session.exit_status = status.map(|status| match status {
        ExitStatus::Code(code) => report::ExitStatus { code: Some(code), signal: None },
        ExitStatus::Signal(signal) => report::ExitStatus { code: None, signal: Some(signal) },
    });
    trace::deliver(&report, &options.report, output)
}

/// How the command has ended, if that is why the tracing did.
async fn exit_status(command: &mut Command, traced: &Traced) -> Option<ExitStatus> {
    let deadline = Instant::now() + REAPING;
    while traced.end == End::TargetExited && Instant::now() < deadline {
        if let Some(status) = command.exit_status() {
            return Some(status);
        }
        sleep(LOOK_EVERY).await;
    }
    command.exit_status()
}

async fn ended(command: &mut Command) {
    while command.exit_status().is_none() {
        sleep(LOOK_EVERY).await;
    }
}
