//! `leaktrace --follow`: traces a process with all its descendants, and reports on all together.

mod candidates;
mod member;
mod purse;
mod shares;

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Write as _};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::time::sleep_until;

use super::choose;
use super::output::Output;
use super::signals::Signals;
use super::started::Started;
use super::trace::{announce, exit_code, text_options};
use crate::cli::{Format, Subject, TraceOptions};
use crate::report::{self, End, FollowReport};
use crate::session::{Followed, Forked, Options, SessionError};

use candidates::Candidates;
use member::{Member, Process, Told};
use purse::Purse;
use shares::Shares;

/// Bytes of the ring buffer of each process but the first: at 400,000 events of 48 bytes a second it bridges four
/// tenths of a second without a reader.
const RING_BYTES: u32 = 8 << 20;

/// How often candidates are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How often a line says how it is getting on.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// Reports that are kept; beyond them that of the shortest trace is dropped, and counted.
const MOST_REPORTS: usize = 512;

/// Processes that could not be traced and are named.
const MOST_NAMED: usize = 10;

/// Runs the command.
pub(super) fn run(options: &TraceOptions) -> anyhow::Result<u8> {
    super::start_logging(options.bpf_log);
    let output = Output::open(options.report.output.as_deref())?;
    super::block_on(async {
        let mut signals = Signals::listen()?;
        match &options.target {
            Subject::Running(wanted) => {
                let pid = choose::pid(wanted, true)?;
                let (report, threads) = follow(pid.get(), None, options, &mut signals).await?;
                deliver(&report, threads, options, output)
            }
            Subject::Started(command) => {
                let mut started = Started::start(command, &mut signals).await?;
                let traced = trace_started(&mut started, options, &mut signals).await;
                let code =
                    traced.and_then(|(report, threads)| deliver(&report, threads, options, output));
                started.stay(code, &mut signals).await
            }
        }
    })
}

async fn trace_started(
    started: &mut Started,
    options: &TraceOptions,
    signals: &mut Signals,
) -> anyhow::Result<(FollowReport, Vec<JoinHandle<()>>)> {
    let (mut report, threads) = follow(started.pid(), Some(started), options, signals).await?;
    report.warnings.extend(started.warning());
    let its_last = report.processes.iter_mut().rfind(|process| process.target.pid == started.pid());
    if let Some(process) = its_last {
        let has_ended = process.session.end == "target_exited";
        process.session.exit_status = started.exit_status(has_ended).await;
    }
    Ok((report, threads))
}

/// Writes the report; returns the exit code that it comes to.
fn deliver(
    report: &FollowReport,
    threads: Vec<JoinHandle<()>>,
    options: &TraceOptions,
    output: Output,
) -> anyhow::Result<u8> {
    let mut bytes = Vec::new();
    match options.report.format {
        Format::Json => report::follow_json(report, &mut bytes)?,
        Format::Text => report::follow_text(report, text_options(&options.report), &mut bytes)?,
    }
    let written = output.write(&bytes)?;
    for thread in threads {
        // They take their probes off. One that panicked has said so.
        let _ = thread.join();
    }
    let sites = report.merged.sites.iter().map(|site| &site.site);
    let own = report.processes.iter().flat_map(|process| &process.sites);
    let verdicts = sites.chain(own).map(|site| site.verdict);
    Ok(exit_code(written, verdicts, options.report.fail_on))
}

/// Traces until the time is over, a signal comes, or none of the family lives any more. Lets `started` run, if there is
/// such a one, when its probes are in place.
async fn follow(
    pid: u32,
    started: Option<&mut Started>,
    options: &TraceOptions,
    signals: &mut Signals,
) -> anyhow::Result<(FollowReport, Vec<JoinHandle<()>>)> {
    let (tell, mut told) = mpsc::unbounded_channel();
    let mut family = Family::new(options, tell);
    let traced = until_end(&mut family, &mut told, pid, started, signals).await;
    // Whatever went wrong, nobody is left with an open gate.
    family.stop(End::Signal);
    while family.may_be_open() {
        let Some(told) = told.recv().await else { break };
        // Why the first one could not be traced is in `traced`.
        let _ = family.hear(told);
    }
    // With all gates closed, one more signal may end the program at once.
    signals.leave_on_next();
    traced?;
    while family.lives_still() {
        let Some(told) = told.recv().await else { break };
        family.hear(told)?;
    }
    Ok(family.report())
}

async fn until_end(
    family: &mut Family<'_>,
    told: &mut mpsc::UnboundedReceiver<Told>,
    pid: u32,
    started: Option<&mut Started>,
    signals: &mut Signals,
) -> anyhow::Result<()> {
    family.trace(pid)?;
    while !family.started {
        anyhow::ensure!(!family.running.is_empty(), "the tracing of process {pid} broke off");
        tokio::select! {
            Some(told) = told.recv() => family.hear(told)?,
            () = signals.any() => anyhow::bail!("stopped by a signal before the tracing began"),
        }
    }
    let deadline = family.options.duration.map(|duration| Instant::now() + duration);
    if let Some(started) = started {
        started.let_run(signals)?;
    }
    let mut next_line = Instant::now() + PROGRESS_EVERY;
    while family.lives() && !family.stopped {
        tokio::select! {
            biased;
            () = signals.any() => family.stop(End::Signal),
            () = at(deadline) => family.stop(End::Duration),
            Some(told) = told.recv() => family.hear(told)?,
            () = tokio::time::sleep(LOOK_EVERY) => family.look(),
        }
        if Instant::now() >= next_line {
            next_line += PROGRESS_EVERY;
            family.progress();
        }
    }
    Ok(())
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// The processes that are traced together.
struct Family<'a> {
    options: &'a TraceOptions,
    tell: mpsc::UnboundedSender<Told>,
    stop: watch::Sender<Option<End>>,
    followed: Followed,
    shares: Shares,
    /// What they may be made to pay; `None` where every call is traced.
    purse: Option<Purse>,
    candidates: Candidates,
    running: BTreeMap<u32, Running>,
    threads: Vec<JoinHandle<()>>,
    processes: Vec<Process>,
    began: Instant,
    /// Whether the first one is traced.
    started: bool,
    stopped: bool,
    /// Processes that could not be traced, by why not.
    untraced: Untraced,
}

/// One that is traced, or about to be, or whose probes are being taken off.
struct Running {
    thread: JoinHandle<()>,
    phase: Phase,
    end: Option<End>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Its gate may be open or not.
    Attaching,
    /// Its gate is open.
    Tracing,
    /// Its gate is closed, its report is still to come.
    Closed,
    /// There is nothing to come but the end of its thread.
    Done,
}

#[derive(Default)]
struct Untraced {
    not_python: u64,
    too_many: u64,
    failed: Vec<String>,
    failed_more: u64,
    reports_dropped: u64,
}

impl<'a> Family<'a> {
    fn new(options: &'a TraceOptions, tell: mpsc::UnboundedSender<Told>) -> Self {
        Self {
            options,
            tell,
            stop: watch::Sender::new(None),
            followed: Followed::default(),
            shares: Shares::new(options.max_memory, options.max_processes),
            purse: options.budget_pct.map(|each| Purse::new(each, options.budget_total_pct)),
            candidates: Candidates::default(),
            running: BTreeMap::new(),
            threads: Vec::new(),
            processes: Vec::new(),
            began: Instant::now(),
            started: false,
            stopped: false,
            untraced: Untraced::default(),
        }
    }

    /// Begins to trace a process.
    fn trace(&mut self, pid: u32) -> io::Result<()> {
        self.followed.add(pid);
        self.purse.iter_mut().for_each(|purse| purse.join(pid));
        let member = Member {
            pid,
            options: Options {
                gate: self.options.gate,
                budget_pct: self.options.budget_pct,
                max_memory: self.shares.give(pid),
                bpf_log: self.options.bpf_log,
                followed: Some(self.followed.clone()),
                ..if self.started {
                    Options { ring_bytes: RING_BYTES, ..Options::default() }
                } else {
                    Options::default()
                }
            },
            cmdline: self.options.report.cmdline,
            tell: self.tell.clone(),
            stop: self.stop.subscribe(),
            share_pct: self.purse.as_ref().map(Purse::share_pct),
        };
        let thread = match member.start() {
            Ok(thread) => thread,
            Err(cause) => {
                self.followed.remove(pid);
                self.shares.take_back(pid);
                self.pays_no_more(pid);
                return Err(cause);
            }
        };
        self.running.insert(pid, Running { thread, phase: Phase::Attaching, end: None });
        Ok(())
    }

    fn hear(&mut self, told: Told) -> anyhow::Result<()> {
        match told {
            Told::Tracing { pid, version } => {
                self.started = true;
                self.enter(pid, Phase::Tracing);
                announce(pid, &version, self.options.budget_pct);
            }
            Told::Forked(forked) => self.consider(forked),
            Told::Closed { pid } => {
                self.enter(pid, Phase::Closed);
                self.pays_no_more(pid);
            }
            Told::Ended { pid, outcome } => self.ended(pid, outcome)?,
            Told::Gone { pid } => self.gone(pid),
        }
        Ok(())
    }

    fn consider(&mut self, forked: Forked) {
        if !self.stopped && !self.running.contains_key(&forked.pid) {
            self.candidates.add(forked, Instant::now());
        }
    }

    fn ended(
        &mut self,
        pid: u32,
        outcome: Result<Option<Box<Process>>, SessionError>,
    ) -> anyhow::Result<()> {
        self.pays_no_more(pid);
        let mut end = None;
        match outcome {
            Ok(Some(process)) => {
                end = Some(process.end);
                self.keep(*process);
            }
            Ok(None) => {}
            Err(error) if !self.started => return Err(error.into()),
            Err(SessionError::Process(_)) => self.candidates.short_lived += 1,
            Err(SessionError::Module(_)) => self.untraced.not_python += 1,
            Err(error) => self.untraced.name(pid, &error),
        }
        if let Some(running) = self.running.get_mut(&pid) {
            (running.end, running.phase) = (end, Phase::Done);
        }
        Ok(())
    }

    fn enter(&mut self, pid: u32, phase: Phase) {
        if let Some(running) = self.running.get_mut(&pid) {
            running.phase = phase;
        }
    }

    /// Its gate is closed for good: the others may have its part of the budget.
    fn pays_no_more(&mut self, pid: u32) {
        self.purse.iter_mut().for_each(|purse| purse.leave(pid));
    }

    fn keep(&mut self, process: Process) {
        self.processes.push(process);
        if self.processes.len() > MOST_REPORTS {
            let duration = |process: &Process| process.report.session.duration_s;
            let shortest = (0..self.processes.len()).min_by(|&a, &b| {
                duration(&self.processes[a]).total_cmp(&duration(&self.processes[b]))
            });
            self.processes.remove(shortest.unwrap_or(0));
            self.untraced.reports_dropped += 1;
        }
    }

    /// The process may be traced again: what became another program may be a CPython once more.
    fn gone(&mut self, pid: u32) {
        self.followed.remove(pid);
        self.shares.take_back(pid);
        self.pays_no_more(pid);
        let Some(running) = self.running.remove(&pid) else { return };
        if running.phase != Phase::Done {
            self.untraced.name(pid, &"its tracing broke off, which is a fault in leaktrace");
        }
        self.threads.push(running.thread);
        self.threads.retain(|thread| !thread.is_finished());
        if running.end == Some(End::TargetExec) {
            self.consider(Forked { pid, shares_memory: false });
        }
    }

    /// Traces the candidates that are ready.
    fn look(&mut self) {
        for pid in self.candidates.ready(Instant::now()) {
            if self.running.len() >= self.options.max_processes {
                self.untraced.too_many += 1;
            } else if let Err(cause) = self.trace(pid) {
                self.untraced.name(pid, &format!("there can be no thread for it: {cause}"));
            }
        }
    }

    /// Ends all traces, if none of them was told to end before.
    fn stop(&mut self, end: End) {
        if !std::mem::replace(&mut self.stopped, true) {
            self.stop.send_replace(Some(end));
        }
    }

    /// Whether there is anything to wait for.
    fn lives(&self) -> bool {
        !self.candidates.is_empty() || !self.running.is_empty()
    }

    /// Whether a gate may be open.
    fn may_be_open(&self) -> bool {
        let may_be = |phase| matches!(phase, Phase::Attaching | Phase::Tracing);
        self.running.values().any(|running| may_be(running.phase))
    }

    /// Whether reports are still to come.
    fn lives_still(&self) -> bool {
        self.running.values().any(|running| running.phase != Phase::Done)
    }

    fn progress(&self) {
        let elapsed = self.began.elapsed().as_secs();
        let traced =
            self.running.values().filter(|running| running.phase == Phase::Tracing).count();
        let ended = self.processes.len();
        let line = format!("{elapsed} s, {traced} processes are traced, {ended} have ended");
        // Whoever closed stderr does not want to know.
        let _ = if io::stderr().is_terminal() {
            write!(io::stderr(), "\r\x1b[K{line}")
        } else {
            writeln!(io::stderr(), "{line}")
        };
    }

    fn report(mut self) -> (FollowReport, Vec<JoinHandle<()>>) {
        if io::stderr().is_terminal() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
        let warnings = self.untraced.warnings(&self.candidates, self.options.max_processes);
        self.processes.sort_by_key(|process| process.started_at);
        let followed = self.processes.into_iter().map(|process| report::FollowedProcess {
            lived_on: !matches!(process.end, End::TargetExited | End::TargetExec | End::Lost),
            started_at: process.started_at,
            report: process.report,
        });
        let budget_total_pct = self.options.budget_total_pct;
        let report = report::build_follow(followed.collect(), budget_total_pct, warnings);
        let running = self.running.into_values().map(|running| running.thread);
        (report, self.threads.into_iter().chain(running).collect())
    }
}

impl Untraced {
    fn name(&mut self, pid: u32, error: &impl std::fmt::Display) {
        if self.failed.len() < MOST_NAMED {
            self.failed.push(format!("child process {pid} is not traced: {error}"));
        } else {
            self.failed_more += 1;
        }
    }

    fn warnings(self, candidates: &Candidates, max_processes: usize) -> Vec<String> {
        let counted = [
            (
                candidates.short_lived,
                "child processes ended before they could be traced".to_owned(),
            ),
            (self.not_python, "child processes run no CPython and were left alone".to_owned()),
            (
                self.too_many + candidates.dropped,
                format!(
                    "child processes are not traced, their gates are closed: more than --max-processes {max_processes}"
                ),
            ),
            (self.failed_more, "more child processes are not traced".to_owned()),
            (
                self.reports_dropped,
                format!(
                    "processes ended whose reports were dropped: the {MOST_REPORTS} longest traces are kept"
                ),
            ),
        ];
        let counted = counted.into_iter().filter(|(count, _)| *count > 0);
        let counted = counted.map(|(count, text)| format!("{count} {text}"));
        self.failed.into_iter().chain(counted).collect()
    }
}
