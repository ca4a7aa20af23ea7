//! The real program, run as a user runs it.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::PATIENCE;
use crate::limit::{LONGEST, Limit};

/// A leaktrace that traces. It is killed when it is dropped.
#[derive(Debug)]
pub struct Tracer {
    child: Child,
    stderr: BufReader<ChildStderr>,
    said: String,
}

/// What a leaktrace left when it ended.
#[derive(Debug)]
pub struct Ended {
    /// How it ended.
    pub status: ExitStatus,
    /// Its stdout.
    pub printed: String,
    /// How long its first line was waited for.
    pub printed_after: Duration,
    /// Its stderr.
    pub said: String,
}

/// A report, read back.
#[derive(Clone, Debug)]
pub struct Report(pub Value);

/// One site of a report.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a>(pub &'a Value);

/// The program, freshly built, with these arguments.
#[must_use]
pub fn leaktrace(arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(arguments);
    command
}

impl Tracer {
    /// Starts tracing `pid` with a JSON report, and waits for the line that says that it does. Every call is traced
    /// (`--exact`), as most tests compare what was seen with what there was, unless `arguments` name a budget.
    ///
    /// # Panics
    /// It does not come to that.
    #[must_use]
    pub fn start(pid: u32, arguments: &[&str]) -> Self {
        let mut tracer = Self::spawn(pid, arguments);
        tracer.wait_until_tracing();
        tracer
    }

    /// As [`Self::start`], the way a user does it who says nothing of what it may cost.
    ///
    /// # Panics
    /// It does not come to that.
    #[must_use]
    pub fn start_by_default(pid: u32, arguments: &[&str]) -> Self {
        let mut tracer = Self::spawn_by_default(pid, arguments);
        tracer.wait_until_tracing();
        tracer
    }

    /// As [`Self::start`], but waits for nothing.
    ///
    /// # Panics
    /// It does not start.
    #[must_use]
    pub fn spawn(pid: u32, arguments: &[&str]) -> Self {
        let names_a_budget = arguments.iter().any(|argument| argument.starts_with("--budget"));
        let exact: &[&str] = if names_a_budget { &[] } else { &["--exact"] };
        Self::spawn_by_default(pid, &[arguments, exact].concat())
    }

    fn spawn_by_default(pid: u32, arguments: &[&str]) -> Self {
        let pid = pid.to_string();
        let mut command = leaktrace(&["--pid", &pid, "--format", "json"]);
        command.args(arguments);
        Self::spawn_command(command)
    }

    /// As [`Self::spawn`], however it is called.
    ///
    /// # Panics
    /// It does not start.
    #[must_use]
    pub fn spawn_command(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("leaktrace starts");
        let stderr = BufReader::new(child.stderr.take().expect("it is piped"));
        Self { child, stderr, said: String::new() }
    }

    /// Waits for the line that says that probes and gates are in place.
    ///
    /// # Panics
    /// It does not come.
    pub fn wait_until_tracing(&mut self) {
        self.wait_until_tracing_all(1);
    }

    /// Waits until so many processes are traced in all, by `--follow`.
    ///
    /// # Panics
    /// It does not come to that.
    pub fn wait_until_tracing_all(&mut self, processes: usize) {
        let _limit = Limit::on(&self.child, PATIENCE * u32::try_from(processes).unwrap_or(1));
        while self.said.lines().filter(|line| line.starts_with("tracing ")).count() < processes {
            let read = self.stderr.read_line(&mut self.said).expect("its stderr can be read");
            assert!(read > 0, "leaktrace gave up: {}", self.said);
        }
    }

    /// Its own pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Seconds of processor time that it used so far, and the most bytes that it had resident.
    ///
    /// # Panics
    /// It is gone.
    #[must_use]
    pub fn usage(&self) -> (f64, u64) {
        let pid = self.child.id().cast_signed();
        let process = procfs::process::Process::new(pid).expect("it is there");
        let stat = process.stat().expect("it is there");
        let ticks = (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64;
        let peak = process.status().expect("it is there").vmhwm.unwrap_or(0) << 10;
        (ticks, peak)
    }

    /// Stops it as Ctrl-C does; returns its report.
    ///
    /// # Panics
    /// It fails, or prints no report.
    #[must_use]
    pub fn stop(self) -> Report {
        self.signal(Signal::INT);
        self.report()
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// It is gone.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("pids are positive");
        kill_process(pid, signal).expect("leaktrace is there");
    }

    /// Waits for its end; returns its report.
    ///
    /// # Panics
    /// It fails, or prints no report.
    #[must_use]
    pub fn report(self) -> Report {
        let ended = self.ended();
        assert!(ended.status.success(), "leaktrace ended with {}: {}", ended.status, ended.said);
        ended.report()
    }

    /// Waits for its end, whatever that is.
    ///
    /// # Panics
    /// It cannot be waited for.
    #[must_use]
    pub fn ended(mut self) -> Ended {
        let start = Instant::now();
        let _limit = Limit::on(&self.child, LONGEST);
        let mut printed = String::new();
        let mut stdout = BufReader::new(self.child.stdout.take().expect("it is piped"));
        // A report in JSON is one line. The probes are taken off behind it.
        stdout.read_line(&mut printed).expect("its stdout can be read");
        let printed_after = start.elapsed();
        stdout.read_to_string(&mut printed).expect("its stdout can be read");
        let mut said = std::mem::take(&mut self.said);
        self.stderr.read_to_string(&mut said).expect("its stderr can be read");
        let status = self.child.wait().expect("it can be waited for");
        Ended { status, printed, printed_after, said }
    }

    /// Kills it as the OOM killer would.
    ///
    /// # Panics
    /// It is gone.
    #[must_use]
    pub fn kill(mut self) -> Ended {
        self.child.kill().expect("leaktrace is there");
        self.ended()
    }
}

impl Ended {
    /// Whether it came to tracing.
    #[must_use]
    pub fn traced(&self) -> bool {
        self.said.lines().any(|line| line.starts_with("tracing "))
    }

    /// The report that it printed.
    ///
    /// # Panics
    /// It printed none.
    #[must_use]
    pub fn report(&self) -> Report {
        let text = &self.printed;
        Report(serde_json::from_str(text).unwrap_or_else(|error| panic!("{text:?}: {error}")))
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Report {
    /// All sites.
    ///
    /// # Panics
    /// The report has none.
    pub fn sites(&self) -> impl Iterator<Item = Site<'_>> {
        self.0["sites"].as_array().expect("sites are an array").iter().map(Site)
    }

    /// The number at a path such as `/session/events_lost`; 0 where it is null.
    #[must_use]
    pub fn number(&self, path: &str) -> f64 {
        self.0.pointer(path).and_then(Value::as_f64).unwrap_or(0.0)
    }

    /// The count of a counter of the kernel side; 0 where it is not in the report.
    #[must_use]
    pub fn counter(&self, name: &str) -> f64 {
        let counters = self.0["counters"].as_array();
        counters
            .and_then(|counters| counters.iter().find(|counter| counter["name"] == name))
            .and_then(|counter| counter["count"].as_f64())
            .unwrap_or(0.0)
    }

    /// Its warnings, one a line.
    ///
    /// # Panics
    /// The report has none, not even an empty list.
    #[must_use]
    pub fn warnings(&self) -> String {
        let warnings = self.0["warnings"].as_array().expect("warnings are an array");
        let texts = warnings.iter().filter_map(Value::as_str);
        texts.fold(String::new(), |all, warning| all + warning + "\n")
    }

    /// A sum over the sites that `wanted` picks.
    pub fn sum(&self, key: &str, wanted: impl Fn(Site<'_>) -> bool) -> f64 {
        self.sites().filter(|&site| wanted(site)).map(|site| site.number(key)).sum()
    }
}

impl<'a> Site<'a> {
    /// A number of the site; 0 where it is null.
    #[must_use]
    pub fn number(self, key: &str) -> f64 {
        self.0[key].as_f64().unwrap_or(0.0)
    }

    /// `file:line` of the innermost frame; empty where there is none.
    #[must_use]
    pub fn line(self) -> String {
        let frame = &self.0["stack"][0];
        match frame["file"].as_str() {
            Some(file) => format!("{file}:{}", frame["line"].as_u64().unwrap_or(0)),
            None => String::new(),
        }
    }

    /// Whether its blocks are pymalloc's, which alone the interpreter counts.
    #[must_use]
    pub fn is_small(self) -> bool {
        self.0["domain"] == "obj" || self.0["domain"] == "mem"
    }

    /// Its verdict.
    #[must_use]
    pub fn verdict(self) -> &'a str {
        self.0["verdict"].as_str().unwrap_or("")
    }

    /// Whether a function of this name is on its stack.
    #[must_use]
    pub fn has_function(self, name: &str) -> bool {
        self.0["stack"].as_array().is_some_and(|frames| {
            frames.iter().any(|frame| {
                frame["function"].as_str().is_some_and(|function| {
                    function == name || function.ends_with(&format!(".{name}"))
                })
            })
        })
    }
}

/// Builds the program once, so that a test never runs an old one.
fn program() -> &'static PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        if let Some(program) = std::env::var_os("LEAKTRACE_BIN") {
            return PathBuf::from(program);
        }
        let test = std::env::current_exe().expect("a test knows its own path");
        let profile = test.ancestors().nth(2).expect("tests lie in target/PROFILE/deps");
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--package", "leaktrace"]);
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        let status = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().expect("cargo runs");
        assert!(status.success(), "leaktrace does not build");
        profile.join("leaktrace")
    })
}

/// Asserts that leaktrace does not trace `pid` within a budget, and says on one line what does.
///
/// # Panics
/// It traces it, or says something else.
pub fn assert_refused_within_a_budget(pid: u32) {
    let output = leaktrace(&["--pid", &pid.to_string()]).output().expect("leaktrace runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.lines().count() == 1 && said.contains("--exact"), "{said}");
}
