//! A program that was started to be measured, or to measure: what it says, what it uses, and its end, all within bounds.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use procfs::process::Process;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use crate::shell;

/// How long a program may take to end after it was asked to.
const PATIENCE: Duration = Duration::from_secs(3);

/// How often is looked whether it has ended.
const POLL: Duration = Duration::from_millis(5);

/// Lines of what a program said that are told of it, from the beginning and from the end: the cause often stands first,
/// and what came of it last.
const LINES_TOLD: (usize, usize) = (2, 1);

/// A program. It is killed when it is dropped.
pub(super) struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    said: Vec<String>,
    usage: Usage,
}

/// What a program has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Usage {
    /// Seconds of processor time, with those of children that it waited for.
    pub(super) cpu_s: f64,
    /// The most that it had resident.
    pub(super) peak_rss_bytes: u64,
}

impl Running {
    /// Starts it.
    ///
    /// # Errors
    /// It does not start.
    pub(super) fn start(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let started = command.spawn();
        let mut child =
            started.with_context(|| format!("cannot start {}", shell::shown(&command)))?;
        let (sender, lines) = channel();
        forward(child.stdout.take().context("stdout is piped")?, sender.clone());
        forward(child.stderr.take().context("stderr is piped")?, sender);
        let stdin = child.stdin.take();
        Ok(Self { child, stdin, lines, said: Vec::new(), usage: Usage::default() })
    }

    /// Waits for a line, on stdout or stderr, of which `pick` makes something.
    ///
    /// # Errors
    /// It does not come in time, or the program ends before.
    pub(super) fn wait_for<T>(
        &mut self,
        patience: Duration,
        pick: impl Fn(&str) -> Option<T>,
    ) -> Result<T> {
        let end = Instant::now() + patience;
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if let Some(picked) = pick(&line) {
                        return Ok(picked);
                    }
                    self.said.push(line);
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!("it was not ready within {} s: {}", patience.as_secs(), self.complaint());
                }
                Err(RecvTimeoutError::Disconnected) => bail!("it ended: {}", self.complaint()),
            }
        }
    }

    /// Gives it a line.
    ///
    /// # Errors
    /// It is gone.
    pub(super) fn tell(&mut self, line: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("it was told that nothing more comes")?;
        writeln!(stdin, "{line}").context("it does not read")
    }

    /// Whether it still runs. Notes what it has used so far.
    pub(super) fn is_alive(&mut self) -> bool {
        match usage(self.child.id()) {
            Some((usage, is_alive)) => {
                // Memory is not told any more of what has ended.
                let peak = self.usage.peak_rss_bytes.max(usage.peak_rss_bytes);
                self.usage = Usage { peak_rss_bytes: peak, ..usage };
                is_alive
            }
            None => false,
        }
    }

    /// What it had used when that was looked at last.
    pub(super) fn used(&self) -> Usage {
        self.usage
    }

    /// The exit code of what has ended.
    pub(super) fn exit_code(&mut self) -> Option<i32> {
        self.wait_end(PATIENCE)?;
        self.child.wait().ok()?.code()
    }

    /// Waits until it has ended by itself; what it has used. `None` where it does not end in time.
    pub(super) fn wait_end(&mut self, patience: Duration) -> Option<Usage> {
        let end = Instant::now() + patience;
        while self.is_alive() {
            if Instant::now() > end {
                return None;
            }
            thread::sleep(POLL);
        }
        // Only now: before it is waited for, the system still knows what it has used.
        let _ = self.child.wait();
        Some(self.usage)
    }

    /// Asks it to end, and kills it where it does not.
    pub(super) fn end(mut self, signal: Signal) {
        // It may have ended meanwhile. It was not waited for: its pid cannot be another's.
        let _ = kill_process(Pid::from_child(&self.child), signal);
        let _ = self.wait_end(PATIENCE);
    }

    /// What it said, on one line.
    pub(super) fn complaint(&mut self) -> String {
        self.said.extend(self.lines.try_iter());
        let lines = self.said.iter().map(|line| line.trim()).filter(|line| !line.is_empty());
        let mut told: Vec<&str> = lines.collect();
        let (first, last) = LINES_TOLD;
        if told.is_empty() {
            return "it said nothing".to_owned();
        } else if told.len() > first + last {
            told.splice(first..told.len() - last, ["..."]);
        }
        told.join(" / ")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself, and may have been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a process has used so far, and whether it still runs; `None` where there is none.
pub(super) fn usage(pid: u32) -> Option<(Usage, bool)> {
    let process = Process::new(pid.cast_signed()).ok()?;
    let stat = process.stat().ok()?;
    let children = (stat.cutime + stat.cstime).max(0).cast_unsigned();
    let ticks = stat.utime + stat.stime + children;
    let peak = process.status().ok().and_then(|status| status.vmhwm).unwrap_or(0) << 10;
    let cpu_s = ticks as f64 / procfs::ticks_per_second() as f64;
    Some((Usage { cpu_s, peak_rss_bytes: peak }, stat.state != 'Z'))
}

/// Hands on the lines of a stream, in a thread that ends with it.
fn forward(stream: impl Read + Send + 'static, lines: Sender<String>) {
    thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n') {
            let Ok(line) = line else { return };
            if lines.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Running {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Running::start(command).unwrap()
    }

    #[test]
    fn a_line_is_waited_for_and_what_never_comes_is_not_waited_for_without_end() {
        let mut running = shell("echo noise; echo ready 7; read line; echo got $line >&2; sleep 9");
        let number =
            running.wait_for(PATIENCE, |line| line.strip_prefix("ready ")?.parse::<u32>().ok());
        assert_eq!(number.unwrap(), 7);
        running.tell("it").unwrap();
        running.wait_for(PATIENCE, |line| (line == "got it").then_some(())).unwrap();
        let nothing = running.wait_for(Duration::from_millis(20), |_| None::<()>);
        assert!(nothing.unwrap_err().to_string().contains("noise"));
        assert!(running.is_alive());
        running.end(Signal::TERM);
    }

    #[test]
    fn what_ended_by_itself_has_used_something() {
        let mut running = shell("exit 0");
        assert!(running.wait_end(PATIENCE).is_some());
        assert!(running.wait_for(PATIENCE, |_| None::<()>).is_err());
        assert!(!running.is_alive());
    }

    #[test]
    fn of_much_that_was_said_the_beginning_and_the_end_are_told() {
        let mut running = shell("for i in 1 2 3 4 5; do echo $i; done");
        running.wait_for(PATIENCE, |_| None::<()>).unwrap_err();
        assert_eq!(running.complaint(), "1 / 2 / ... / 5");
    }

    #[test]
    fn what_does_not_want_to_end_is_killed() {
        let mut running = shell("trap '' TERM; echo ready; while :; do sleep 0.05; done");
        running.wait_for(PATIENCE, |line| (line == "ready").then_some(())).unwrap();
        let pid = running.child.id();
        running.end(Signal::TERM);
        assert_eq!(usage(pid), None);
    }
}
