//! What the user typed, checked: flags become options that cannot contradict each other.

#[cfg(test)]
mod tests;
mod units;

use std::ffi::OsString;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use regex_lite::Regex;

use crate::host::Selector;
use crate::report::Cmdline as CmdlineMode;

/// Exit code: the report is printed.
pub const EXIT_DONE: u8 = 0;
/// Exit code: something went wrong, in one line on stderr.
pub const EXIT_ERROR: u8 = 1;
/// Exit code: the command line makes no sense.
pub const EXIT_USAGE: u8 = 2;
/// Exit code: `--fail-on` matched.
pub const EXIT_MATCHED: u8 = 10;

/// The command by which leaktrace starts another program; not for people.
pub const STARTER: &str = "__start";

/// The command by which leaktrace starts the guard of a gate; not for people.
pub const GUARD: &str = "__guard";

/// Percent of its time that tracing costs a running process, unless the user says otherwise.
pub const DEFAULT_BUDGET_PCT: f64 = 1.0;

const EXIT_CODES: &str = "\
Without --duration the trace runs until Ctrl-C or the target's end. It costs a running process one percent of its time \
at most (--budget): what allocates little is seen in full, of the rest samples, and the numbers are estimates. With \
--exact every call is seen, and a service that allocates without pause runs at a fraction of its speed; a command that \
leaktrace starts is traced so, unless --budget says otherwise.

Exit codes: 0 done (also when the target ended, or a signal ended the tracing), 1 error, 2 usage, 10 --fail-on matched.";

const TRACE_USAGE: &str = "\
leaktrace trace [OPTIONS] <--pid <PID>|--unit <UNIT>|--container <ID>|--name <REGEX>>
       leaktrace trace [OPTIONS] -- <CMD>...";

/// Finds memory leaks in running CPython services from outside.
#[derive(Debug, Parser)]
#[command(
    name = "leaktrace",
    version,
    about,
    after_help = EXIT_CODES,
    override_usage = "leaktrace --pid <PID> [OPTIONS]\n       leaktrace [OPTIONS] -- <CMD>...\n       leaktrace <COMMAND>",
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
struct Typed {
    #[command(subcommand)]
    command: Option<TypedCommand>,
    #[command(flatten)]
    trace: TraceFlags,
}

#[derive(Debug, Subcommand)]
enum TypedCommand {
    /// Trace a running Python process, and report which lines hold memory that grows
    #[command(after_help = EXIT_CODES, override_usage = TRACE_USAGE)]
    Trace(TraceFlags),
    /// List the CPythons that run here, and which can be traced
    Ps(PsFlags),
    /// Start a small leaking service and trace every call of it: what to run first
    Demo(DemoFlags),
    /// Find what a killed leaktrace left behind in a process and its children, and put it right
    Doctor(DoctorFlags),
    #[command(name = STARTER, hide = true)]
    Start(StartFlags),
    #[command(name = GUARD, hide = true)]
    Guard(GuardFlags),
}

#[derive(Args, Debug)]
struct TraceFlags {
    #[command(flatten)]
    target: TargetFlags,
    /// Start this command and trace it before its main module runs, as the user who called sudo
    #[arg(last = true, value_name = "CMD", group = "TargetFlags")]
    command: Vec<OsString>,
    /// How long to trace: 30s, 10m, 12h; without it until Ctrl-C or the target's end
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    duration: Option<Duration>,
    /// Trace every allocation and free, whatever that costs the target [default for a CMD]
    #[arg(long)]
    exact: bool,
    /// Cost a process no more than this share of its time: trace in short windows, and estimate the rest [default: 1%]
    #[arg(long, value_name = "PERCENT", value_parser = units::percent)]
    budget: Option<f64>,
    /// With --follow, cost all processes together no more than this: each gets an equal part of it, up to --budget
    #[arg(long, value_name = "PERCENT", value_parser = units::percent, requires = "follow")]
    budget_total: Option<f64>,
    /// Trace the children as well, those that are there and those still to come, and report on all together
    #[arg(long)]
    follow: bool,
    /// With --follow, how many processes are traced at the same time; more are counted
    #[arg(long, value_name = "N", default_value = "64", requires = "follow")]
    max_processes: NonZeroU32,
    /// Write nothing into the target: see only what calls the allocator's own functions
    #[arg(long)]
    no_gate: bool,
    #[command(flatten)]
    report: ReportFlags,
    /// Memory for what is known of live blocks; what does not fit is counted
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = units::size)]
    max_memory: u64,
    /// Let the BPF programs log what they do, to stderr
    #[arg(long)]
    bpf_log: bool,
}

/// Exactly one of these.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct TargetFlags {
    /// The process
    #[arg(long, value_name = "PID")]
    pid: Option<NonZeroU32>,
    /// The Python of this systemd unit
    #[arg(long, value_name = "UNIT")]
    unit: Option<String>,
    /// The Python in the container whose id begins like this
    #[arg(long, value_name = "ID", value_parser = container_id)]
    container: Option<String>,
    /// The Python whose command line or process name contains this pattern
    #[arg(long, value_name = "REGEX", value_parser = pattern)]
    name: Option<Regex>,
}

#[derive(Args, Debug)]
struct StartFlags {
    word: i32,
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

#[derive(Args, Debug)]
struct GuardFlags {
    pid: u32,
    parent: u32,
    slots: Vec<String>,
}

#[derive(Args, Debug)]
struct PsFlags {
    /// Form of the list
    #[arg(long, value_enum, default_value_t = ListFormat::Text)]
    format: ListFormat,
    /// How command lines are shown
    #[arg(long, value_name = "MODE", value_enum, default_value_t = Cmdline::Redacted)]
    cmdline: Cmdline,
}

#[derive(Args, Debug)]
struct ReportFlags {
    /// Form of the report
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// File for the report instead of stdout
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Lines of Python that the text report lists
    #[arg(long, value_name = "N", default_value_t = 20)]
    top: usize,
    /// Exit with code 10 if any site has this verdict; growing includes leaking
    #[arg(long, value_name = "VERDICT", value_enum)]
    fail_on: Option<FailOn>,
    /// How the target's command line is shown
    #[arg(long, value_name = "MODE", value_enum, default_value_t = Cmdline::Redacted)]
    cmdline: Cmdline,
}

#[derive(Args, Debug)]
struct DemoFlags {
    /// Python to run the service with
    #[arg(long, value_name = "PATH", default_value = "python3")]
    python: OsString,
    /// How long to trace the service
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = units::duration)]
    duration: Duration,
    /// Form of the report
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Seed of the service's random requests
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

#[derive(Args, Debug)]
struct DoctorFlags {
    #[command(flatten)]
    target: TargetFlags,
}

/// Forms of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For programs: `leaktrace.report/1`.
    Json,
}

/// Forms of a list of processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ListFormat {
    /// For people.
    Text,
    /// For programs: `leaktrace.ps/1`.
    Json,
}

/// What makes the program exit with [`EXIT_MATCHED`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FailOn {
    /// A site that is leaking.
    Leaking,
    /// A site that is leaking or growing.
    Growing,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Cmdline {
    Full,
    Redacted,
    None,
}

/// What to do.
#[derive(Clone, Debug)]
pub enum Command {
    /// Trace a process.
    Trace(TraceOptions),
    /// List the CPythons of this host.
    Ps(PsOptions),
    /// Trace the demo service.
    Demo(DemoOptions),
    /// Look for what was left behind.
    Doctor {
        /// Process to look at.
        target: Wanted,
    },
    /// Become another program.
    Start(StartOptions),
    /// Guard the gate of a process.
    Guard(GuardOptions),
}

/// How to guard a gate.
#[derive(Clone, Debug)]
pub struct GuardOptions {
    /// The process.
    pub pid: u32,
    /// The leaktrace that opens its gate.
    pub parent: u32,
    /// The slots of the gate.
    pub slots: Vec<String>,
}

/// How to become another program.
#[derive(Clone, Debug)]
pub struct StartOptions {
    /// The descriptor to wait on.
    pub word: i32,
    /// The program and its arguments.
    pub command: Vec<OsString>,
}

/// What to trace.
#[derive(Clone, Debug)]
pub enum Subject {
    /// A process that runs.
    Running(Wanted),
    /// A command that is yet to be started.
    Started(Vec<OsString>),
}

/// The process that is meant.
#[derive(Clone, Debug)]
pub enum Wanted {
    /// By its pid.
    Pid(NonZeroU32),
    /// By what is known of it.
    Selected(Selector),
}

/// How to list processes.
#[derive(Clone, Copy, Debug)]
pub struct PsOptions {
    /// Form of the list.
    pub format: ListFormat,
    /// How command lines are shown.
    pub cmdline: CmdlineMode,
}

/// How to trace a process.
#[derive(Clone, Debug)]
pub struct TraceOptions {
    /// What to trace.
    pub target: Subject,
    /// How long; `None` until a signal or the target's end.
    pub duration: Option<Duration>,
    /// Whether the gate may be opened.
    pub gate: bool,
    /// Percent of a process's time that tracing may cost; `None` to trace every call at any cost.
    pub budget_pct: Option<f64>,
    /// What it may cost all processes together then, added up; `None` where each has its budget for itself.
    pub budget_total_pct: Option<f64>,
    /// Whether its descendants are traced as well.
    pub follow: bool,
    /// How many processes are traced at the same time then.
    pub max_processes: usize,
    /// How to report.
    pub report: ReportOptions,
    /// Bytes for the table of live blocks.
    pub max_memory: u64,
    /// Whether the BPF programs log.
    pub bpf_log: bool,
}

/// How to report.
#[derive(Clone, Debug)]
pub struct ReportOptions {
    /// Its form.
    pub format: Format,
    /// Where to; `None` is stdout.
    pub output: Option<PathBuf>,
    /// Sites that a report for people lists.
    pub top: usize,
    /// What is a failure.
    pub fail_on: Option<FailOn>,
    /// How the target's command line is shown.
    pub cmdline: CmdlineMode,
}

/// How to run the demo.
#[derive(Clone, Debug)]
pub struct DemoOptions {
    /// Python to run the service with.
    pub python: OsString,
    /// How long to trace it.
    pub duration: Duration,
    /// Form of the report.
    pub format: Format,
    /// Seed of the service's random requests.
    pub seed: u64,
}

/// Reads the command line.
///
/// # Errors
/// What clap says of it: also `--help` and `--version`, whose text goes to stdout with exit code 0.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, clap::Error> {
    let typed = Typed::try_parse_from(arguments)?;
    match typed.command {
        None => check_trace(typed.trace),
        Some(TypedCommand::Trace(flags)) => check_trace(flags),
        Some(TypedCommand::Demo(flags)) => Ok(Command::Demo(DemoOptions {
            python: flags.python,
            duration: flags.duration,
            format: flags.format,
            seed: flags.seed,
        })),
        Some(TypedCommand::Ps(flags)) => {
            Ok(Command::Ps(PsOptions { format: flags.format, cmdline: flags.cmdline.into() }))
        }
        Some(TypedCommand::Start(flags)) => {
            Ok(Command::Start(StartOptions { word: flags.word, command: flags.command }))
        }
        Some(TypedCommand::Guard(GuardFlags { pid, parent, slots })) => {
            Ok(Command::Guard(GuardOptions { pid, parent, slots }))
        }
        Some(TypedCommand::Doctor(flags)) => Ok(Command::Doctor { target: wanted(flags.target)? }),
    }
}

fn check_trace(flags: TraceFlags) -> Result<Command, clap::Error> {
    let budget_pct = budget(&flags)?;
    Ok(Command::Trace(TraceOptions {
        target: match flags.command.is_empty() {
            true => Subject::Running(wanted(flags.target)?),
            false => Subject::Started(flags.command),
        },
        duration: flags.duration,
        gate: !flags.no_gate,
        budget_pct,
        budget_total_pct: flags.budget_total,
        follow: flags.follow,
        max_processes: flags.max_processes.get() as usize,
        report: ReportOptions {
            format: flags.report.format,
            output: flags.report.output,
            top: flags.report.top,
            fail_on: flags.report.fail_on,
            cmdline: flags.report.cmdline.into(),
        },
        max_memory: flags.max_memory,
        bpf_log: flags.bpf_log,
    }))
}

/// What a process may be made to pay. A command that leaktrace starts is nobody's service yet, and whoever has it traced
/// from its first line on wants all of it: it pays whatever that takes, unless a budget is asked for.
fn budget(flags: &TraceFlags) -> Result<Option<f64>, clap::Error> {
    let asked = flags.budget.or(flags.budget_total.map(|_| DEFAULT_BUDGET_PCT));
    match (asked, flags.exact) {
        (Some(_), true) if flags.budget.is_some() => {
            Err(usage("--budget and --exact exclude each other"))
        }
        (Some(_), true) => Err(usage("--budget-total and --exact exclude each other")),
        (None, true) => Ok(None),
        (asked, false) => {
            Ok(asked.or_else(|| flags.command.is_empty().then_some(DEFAULT_BUDGET_PCT)))
        }
    }
}

fn wanted(flags: TargetFlags) -> Result<Wanted, clap::Error> {
    let selected = flags
        .unit
        .map(Selector::Unit)
        .or(flags.container.map(Selector::Container))
        .or(flags.name.map(Selector::Name));
    flags
        .pid
        .map(Wanted::Pid)
        .or(selected.map(Wanted::Selected))
        .ok_or_else(|| usage("--pid is missing"))
}

/// Digits of a container's id that must be given: fewer are rather a slip than a choice.
const MIN_ID_DIGITS: usize = 4;

fn container_id(text: &str) -> Result<String, String> {
    let is_id = (MIN_ID_DIGITS..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_id {
        return Ok(text.to_ascii_lowercase());
    }
    Err(format!(
        "an id begins with at least {MIN_ID_DIGITS} hex digits; names are the runtime's own"
    ))
}

fn pattern(text: &str) -> Result<Regex, String> {
    if text.is_empty() {
        return Err("an empty pattern matches everything".to_owned());
    }
    Regex::new(text).map_err(|error| format!("not a regular expression: {error}"))
}

impl From<Cmdline> for CmdlineMode {
    fn from(typed: Cmdline) -> Self {
        match typed {
            Cmdline::Full => Self::Full,
            Cmdline::Redacted => Self::Redacted,
            Cmdline::None => Self::None,
        }
    }
}

/// A usage error on one line.
fn usage(text: &str) -> clap::Error {
    clap::Error::raw(clap::error::ErrorKind::ArgumentConflict, format!("{text}\n"))
}
