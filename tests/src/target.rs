//! A workload that runs in a real interpreter.

use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::Python;
use crate::limit::{LONGEST, Limit};

/// A workload, waiting to be told to go on. It is ended when it is dropped.
#[derive(Debug)]
pub struct Target {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    /// Its pid.
    pub pid: u32,
}

impl Target {
    /// Starts `workloads/NAME` and waits until it is ready.
    ///
    /// # Panics
    /// It does not start.
    #[must_use]
    pub fn start(python: &Python, name: &str, arguments: &[&str]) -> Self {
        Self::start_with(python, name, arguments, &[])
    }

    /// As [`Self::start`], with variables in its environment.
    ///
    /// # Panics
    /// It does not start.
    #[must_use]
    pub fn start_with(
        python: &Python,
        name: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        note(python);
        let mut command = python.command();
        command.arg(workload(name)).args(arguments).envs(environment.iter().copied());
        Self::start_command(command)
    }

    /// Starts a workload however it is called, and waits until it is ready.
    ///
    /// # Panics
    /// It does not start.
    #[must_use]
    pub fn start_command(mut command: Command) -> Self {
        let mut child = command
            .env("PYTHONHASHSEED", "0")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a workload starts");
        let stdin = child.stdin.take().expect("it is piped");
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let pid = child.id();
        let mut target = Self { child, stdin, stdout, pid };
        let line = target.line();
        assert!(line.starts_with("ready"), "{command:?} said {line:?}");
        target
    }

    /// Lets it do its work; returns what it says of it.
    ///
    /// # Panics
    /// It dies or says no JSON.
    pub fn work(&mut self) -> serde_json::Value {
        self.ask("go")
    }

    /// Gives it a command; returns its answer.
    ///
    /// # Panics
    /// It dies or says no JSON.
    pub fn ask(&mut self, command: &str) -> serde_json::Value {
        self.tell(command);
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
    }

    /// Sends it a line.
    ///
    /// # Panics
    /// It is dead.
    pub fn tell(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").expect("the workload reads");
    }

    /// Waits for a line of its.
    ///
    /// # Panics
    /// Its output cannot be read.
    pub fn line(&mut self) -> String {
        let _limit = Limit::on(&self.child, LONGEST);
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("the workload writes");
        line
    }

    /// Lets it end; returns its exit status.
    ///
    /// # Panics
    /// It cannot be waited for.
    #[must_use]
    pub fn finish(mut self) -> std::process::ExitStatus {
        self.tell("quit");
        self.wait()
    }

    /// Waits for its end, of which it was told already; returns its exit status.
    ///
    /// # Panics
    /// It cannot be waited for.
    #[must_use]
    pub fn wait(mut self) -> std::process::ExitStatus {
        let _limit = Limit::on(&self.child, LONGEST);
        self.child.wait().expect("it can be waited for")
    }

    /// Whether it still runs.
    ///
    /// # Panics
    /// It cannot be waited for.
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("it can be waited for").is_none()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The path of a workload.
#[must_use]
pub fn workload(name: &str) -> PathBuf {
    workloads().join(name)
}

/// `file:line` of the line of a workload that leaks, which ends with `# LEAK`.
///
/// # Panics
/// None is marked.
#[must_use]
pub fn leaking_line(name: &str) -> String {
    marked_line(name, "# LEAK")
}

/// `file:line` of the line of a workload that ends with `mark`.
///
/// # Panics
/// None does.
#[must_use]
pub fn marked_line(name: &str, mark: &str) -> String {
    let path = workload(name);
    let text = std::fs::read_to_string(&path).expect("it can be read");
    let index = text.lines().position(|line| line.ends_with(mark)).expect("one is marked");
    format!("{}:{}", path.display(), index + 1)
}

/// The folder of the workloads.
pub(crate) fn workloads() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("workloads")
}

/// Notes that a test ran on this interpreter, in the file that `LEAKTRACE_RAN` names: who asked for the tests compares
/// that with the interpreters that there are.
fn note(python: &Python) {
    let Some(file) = std::env::var_os("LEAKTRACE_RAN") else { return };
    let mut file =
        OpenOptions::new().create(true).append(true).open(file).expect("the list can be written");
    writeln!(file, "{} {}", python.version, python.path.display()).expect("as above");
}
