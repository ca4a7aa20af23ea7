//! The program's commands: options in, exit code out.

mod choose;
mod demo;
mod doctor;
mod findings;
mod follow;
mod output;
mod progress;
mod ps;
mod signals;
mod started;
mod trace;
mod watch;

use std::ffi::OsString;
use std::io::{self, Write as _};

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::cli::{self, Command, GuardOptions};
use crate::{guard, launch};

/// Runs the program; returns its exit code.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let command = match cli::parse(arguments) {
        Ok(command) => command,
        Err(error) => {
            // There is nobody to tell if this fails.
            let _ = if error.use_stderr() {
                writeln!(io::stderr(), "leaktrace: {}", usage_error(&error.to_string()))
            } else {
                error.print()
            };
            return u8::try_from(error.exit_code()).unwrap_or(cli::EXIT_USAGE);
        }
    };
    let done = match command {
        Command::Trace(options) if options.follow => follow::run(&options),
        Command::Trace(options) => trace::run(&options),
        Command::Demo(options) => demo::run(&options),
        Command::Start(options) => return launch::become_command(options.word, &options.command),
        Command::Guard(GuardOptions { pid, parent, slots }) => {
            guard::run(pid, parent, &slots).map(|()| cli::EXIT_DONE).map_err(anyhow::Error::from)
        }
        Command::Ps(options) => ps::run(options),
        Command::Doctor { target } => doctor::run(&target),
    };
    done.unwrap_or_else(|error| {
        complain(&error);
        cli::EXIT_ERROR
    })
}

/// Says what went wrong.
fn complain(error: &anyhow::Error) {
    // There is nobody to tell if this fails.
    let _ = writeln!(io::stderr(), "leaktrace: {}", one_line(&format!("{error:#}")));
}

/// Errors are one line, whatever they quote.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What is wrong with the command line, without the usage that clap adds to it.
fn usage_error(text: &str) -> String {
    let (what, _usage) = text.split_once("\n\nUsage:").unwrap_or((text, ""));
    let (what, _help) = what.split_once("\n\nFor more information").unwrap_or((what, ""));
    let what = one_line(what.trim_start_matches("error: "));
    format!("{what}; see `leaktrace --help`")
}

/// Logs of libraries and of the BPF programs, on stderr.
fn start_logging(bpf_log: bool) {
    let mut wanted = Targets::new().with_default(LevelFilter::WARN);
    if bpf_log {
        wanted = wanted.with_target("leaktrace_ebpf", LevelFilter::TRACE);
    }
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_filter(wanted);
    // It fails where a logger is there already: then that one is used.
    let _ = tracing_subscriber::registry().with(lines).try_init();
}

/// Runs a future on this thread, with timers and signals.
fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}
